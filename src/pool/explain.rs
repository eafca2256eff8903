//! `--check --explain N`: the next choices under a configuration, to show what a method does.
//!
//! A real [`Pool`] makes the choices, with every backend healthy, and each is shown from the record
//! that every exchange keeps (`pool/trace/mod.rs`); nothing here knows a method.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::pool::settings::{
    BackendSettings, BalanceSettings, HashKey, HealthCheckSettings, Persistence,
};
use crate::pool::trace::Decision;
use crate::pool::{Choice, Pool, Selection, Tried};

/// The next `n` choices, one line each, with the reason; then how many each backend received. Each
/// exchange ends before the next begins, and each comes from another client: one of 254 in
/// 192.0.2.0/24, without a cookie. By hash, each has one of as many keys.
pub fn explain(
    backends: &[BackendSettings],
    balance: &BalanceSettings,
    health: &HealthCheckSettings,
    n: usize,
) -> Vec<String> {
    let pool = Pool::new(backends.to_vec(), balance, health);
    let by_address = balance.persistence == Persistence::SourceAddress
        || balance.method.is_by_hash() && pool.hash.key == HashKey::Source;
    let by_key = pool.hash.key != HashKey::Source;
    let mut counts = vec![0usize; backends.len()];
    let mut lines = Vec::new();
    let width = n.to_string().len();
    let mut last = 0u8;
    for number in 1..=n {
        last = last % 254 + 1;
        let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let key = if pool.hash.key == HashKey::Path {
            format!("/{last}")
        } else {
            last.to_string()
        };
        let selection = Selection {
            client,
            key: by_key.then_some(key.as_bytes()),
            cookie: None,
            tries_left: true,
            repeats: false,
        };
        let mut decision = Decision::default();
        let choice = pool.choose(&selection, &mut Tried::default(), Some(&mut decision));
        let mut line = format!("{number:width$}  ");
        if by_address {
            // Writing to a String cannot fail.
            let _ = write!(line, "client {client} -> ");
        }
        if by_key {
            let _ = write!(line, "{} {key} -> ", pool.hash.key);
        }
        line.push_str(&decision.choice_text(|backend| pool.name(backend).unwrap_or_default()));
        if let Choice::Backend {
            in_flight,
            set_cookie,
        } = choice
        {
            counts[in_flight.index] += 1;
            if set_cookie {
                line.push_str("; a cookie binds the client to it");
            }
        }
        lines.push(line);
    }
    if n > 0 {
        let count = |(backend, count): (&BackendSettings, _)| format!("{} {count}", backend.name);
        let counts: Vec<String> = backends.iter().zip(counts).map(count).collect();
        lines.push(format!("in all: {}", counts.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::backend::tests::settings;
    use crate::pool::settings::{HashSettings, Kind, Method};
    use crate::pool::tests::{balance, health};

    #[test]
    fn each_choice_is_a_line_with_its_reason_and_the_sum_comes_last() {
        let mut backends = vec![settings("a"), settings("b"), settings("c")];
        backends[0].weight = 2;
        backends[2].backup = true;
        let lines = explain(
            &backends,
            &balance(Method::RoundRobin),
            &health(Kind::Tcp),
            3,
        );
        assert_eq!(
            lines,
            [
                "1  a: its turn; passed over: c (backup)",
                "2  b: its turn; passed over: c (backup)",
                "3  a: its turn; passed over: c (backup)",
                "in all: a 2, b 1, c 0",
            ]
        );
    }

    #[test]
    fn a_hash_names_the_client_and_gives_the_same_lines_every_time() {
        let backends = vec![settings("a"), settings("b"), settings("c")];
        let again = || {
            explain(
                &backends,
                &balance(Method::SourceHash),
                &health(Kind::Tcp),
                600,
            )
        };
        let lines = again();
        assert_eq!(lines, again());
        assert!(
            lines[0].starts_with("  1  client 192.0.2.1 -> ")
                && lines[0].ends_with(": the client's address")
        );
        assert!(
            lines[254].contains("client 192.0.2.1 -> "),
            "clients come again"
        );
        assert_eq!(
            lines[254].split("client").nth(1),
            lines[0].split("client").nth(1)
        );
    }

    #[test]
    fn a_hash_of_something_else_names_that() {
        let backends = vec![settings("a"), settings("b"), settings("c")];
        for (key, begin) in [
            (HashKey::Path, "1  path /1 -> "),
            (
                HashKey::Header("X-User".to_owned()),
                "1  header:X-User 1 -> ",
            ),
            (HashKey::Cookie("id".to_owned()), "1  cookie:id 1 -> "),
        ] {
            let hash = HashSettings {
                key,
                load_percent_max: None,
            };
            let by_hash = BalanceSettings {
                hash,
                ..balance(Method::Hash)
            };
            let lines = explain(&backends, &by_hash, &health(Kind::Tcp), 9);
            assert!(lines[0].starts_with(begin), "{lines:?}");
            assert!(lines[0].ends_with(": the hash of its key"), "{lines:?}");
            let mut heirs: Vec<_> = lines[..9].iter().map(|line| &line[begin.len()..]).collect();
            heirs.sort_unstable();
            heirs.dedup();
            assert!(heirs.len() > 1, "each has another key: {lines:?}");
        }
    }

    #[test]
    fn of_many_backends_the_others_are_counted_by_how_they_stand() {
        let mut backends: Vec<_> = (0..40).map(|n| settings(&format!("b{n}"))).collect();
        backends[2].weight = 0;
        backends[39].backup = true;
        let lines = explain(
            &backends,
            &balance(Method::RoundRobin),
            &health(Kind::Tcp),
            3,
        );
        assert_eq!(
            lines[0],
            "1  b0: its turn; others: 37 eligible, 1 backup, 1 weight 0"
        );
        assert!(lines[2].starts_with("3  b3: "), "{}", lines[2]);
    }

    #[test]
    fn a_pool_that_takes_nothing_says_so() {
        let mut backends = vec![settings("a")];
        backends[0].disabled = true;
        let lines = explain(
            &backends,
            &balance(Method::RoundRobin),
            &health(Kind::Tcp),
            1,
        );
        assert_eq!(lines[0], "1  no backend; passed over: a (disabled)");
        assert!(
            explain(
                &backends,
                &balance(Method::RoundRobin),
                &health(Kind::Tcp),
                0
            )
            .is_empty()
        );
    }
}
