//! What is valid but cannot work, or not as intended: reported by `--check` and at the start, never
//! an error.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::config::{Config, Mode, Proxy};
use crate::pool::settings::{
    BackendSettings, BalanceSettings, Choices, HashSettings, Host, Method, Persistence,
};
use crate::text::words::listed;

/// How many URLs that occur twice are named.
const REPEATED_URLS_MAX: usize = 5;

/// One line for each thing that is valid but cannot work.
pub fn warnings(config: &Config) -> Vec<String> {
    let backends = &config.backends;
    let mut warnings: Vec<String> = without_traffic(config).into_iter().collect();
    warnings.extend(
        backends
            .iter()
            .find_map(|each| own_listener(&config.proxy, each)),
    );
    warnings.extend(repeated_urls(backends));
    warnings.extend(useless_hash(&config.balance));
    warnings.extend(idle_slow_start(&config.balance));
    warnings.extend(useless_queue(config));
    warnings
}

/// Why what `balance.hash` says has no effect.
fn useless_hash(balance: &BalanceSettings) -> Option<String> {
    if balance.hash == HashSettings::default() {
        return None;
    }
    if balance.persistence == Persistence::SourceAddress {
        let what = "balance.hash has no effect beside persistence by source_address, which leaves \
                    no choice to the method; leave one of them out";
        return Some(what.to_owned());
    }
    (balance.method != Method::Hash).then(|| {
        format!(
            "balance.hash has no effect with balance.method {:?}; use \"hash\"",
            balance.method.name()
        )
    })
}

/// Why no backend takes requests, or none the role that it was given.
fn without_traffic(config: &Config) -> Option<String> {
    let backends = &config.backends;
    let refusal = match config.proxy.mode {
        Mode::Http => "every request is answered with 503",
        Mode::Tcp => "every connection is closed",
    };
    let takes_none = |backend: &BackendSettings| backend.weight == 0 || backend.disabled;
    if backends.iter().all(|backend| backend.weight == 0) {
        return Some(format!(
            "all backends have weight 0, so {refusal}; give one of them a weight of at least 1"
        ));
    }
    if backends.iter().all(takes_none) {
        return Some(format!(
            "all backends are disabled by IsDead or weight 0, so {refusal}; enable one of them"
        ));
    }
    let all_are_backups = backends
        .iter()
        .all(|backend| backend.backup || takes_none(backend));
    all_are_backups.then(|| {
        "all backends that take requests are backups, so they are used all the time; leave \
         \"backup\" out for those that should be used first"
            .to_owned()
    })
}

/// Whether the time to grow is given for what never grows.
fn idle_slow_start(balance: &BalanceSettings) -> Option<String> {
    let by_hash = match (balance.method, &balance.persistence) {
        (_, Persistence::SourceAddress) => "persistence by source_address",
        (Method::Hash, _) => "method \"hash\"",
        (Method::SourceHash, _) => "method \"source_hash\"",
        _ => return None,
    };
    (balance.slow_start > Duration::ZERO).then(|| {
        format!("balance.slow_start has no effect with {by_hash}; leave it out, or choose another")
    })
}

/// A queue in which no request can ever wait.
fn useless_queue(config: &Config) -> Option<String> {
    let unlimited = |backend: &BackendSettings| backend.max_connections.is_none();
    let is_useless = config.balance.queue.is_some() && config.backends.iter().all(unlimited);
    is_useless.then(|| {
        "balance.queue is never used, since no backend can be full; give the backends \
         max_connections"
            .to_owned()
    })
}

/// Whether a backend is the address that clients connect to.
fn own_listener(proxy: &Proxy, backend: &BackendSettings) -> Option<String> {
    let url = &backend.url;
    let addresses = url.host.fixed_addresses(url.port)?;
    let is_own = url.port == proxy.port
        && addresses
            .iter()
            .any(|address| listens_on(proxy.address, address.ip()));
    is_own.then(|| {
        format!(
            "backend {:?} is the address that rondo itself listens on, so requests go round in a \
             circle; change proxy.port or the backend's url",
            backend.name
        )
    })
}

/// Whether a connection to `target` reaches a listener on `listening`.
fn listens_on(listening: Option<IpAddr>, target: IpAddr) -> bool {
    // A connection to the unspecified address goes to this machine's loopback address.
    let target = match target.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        target => target,
    };
    match listening.map(|address| address.to_canonical()) {
        None | Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => is_of_this_machine(target),
        Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => target.is_ipv4() && is_of_this_machine(target),
        Some(address) => address == target,
    }
}

fn is_of_this_machine(address: IpAddr) -> bool {
    // The kernel binds a socket to its own addresses only.
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

fn repeated_urls(backends: &[BackendSettings]) -> Vec<String> {
    // Two addresses of one name have the same URL and are not the same.
    let mut by_url: HashMap<(String, &Host), Vec<&str>> = HashMap::new();
    for backend in backends {
        let url = (backend.url.to_string(), &backend.url.host);
        let names = by_url.entry(url).or_default();
        names.push(&backend.name);
    }
    let mut warnings = Vec::new();
    for backend in backends {
        let url = backend.url.to_string();
        let names = by_url.remove(&(url.clone(), &backend.url.host));
        let Some(names) = names.filter(|names| names.len() > 1) else {
            continue;
        };
        if warnings.len() == REPEATED_URLS_MAX {
            warnings.push("further URLs are given more than once".to_owned());
            break;
        }
        let shown = match names.as_slice() {
            [first, second, _, ..] => {
                format!("{first:?}, {second:?} and {} more", names.len() - 2)
            }
            names => listed(
                &names
                    .iter()
                    .map(|name| format!("{name:?}"))
                    .collect::<Vec<_>>(),
                "and",
            ),
        };
        warnings.push(format!(
            "backends {shown} have the same url {url}; name it once, with a larger weight if it \
             should get more"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings_of(proxy: &str, backends: &str) -> Vec<String> {
        let text = format!("{{\"proxy\":{{{proxy}}},\"backends\":[{backends}]}}");
        warnings(&Config::from_text("c.json", &text).unwrap())
    }

    #[track_caller]
    fn assert_warns(proxy: &str, backends: &str, begin: &str) {
        let found = warnings_of(proxy, backends);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(begin), "{found:?}");
    }

    const PORT: &str = r#""port":8080"#;

    #[test]
    fn a_configuration_that_works_warns_of_nothing() {
        for backends in [
            r#"{"url":"http://a"}"#,
            r#"{"url":"http://a"},{"url":"http://b","weight":0},{"url":"http://c","backup":true}"#,
            r#"{"url":"http://a"},{"url":"http://a/x"},{"url":"http://a:81"}"#,
            r#"{"url":"http://localhost:8081"},{"url":"http://a:8080"},{"url":"http://192.0.2.1:8080"}"#,
        ] {
            assert_eq!(warnings_of(PORT, backends), [""; 0], "{backends}");
        }
    }

    #[test]
    fn backends_that_take_no_requests_are_warned_of() {
        assert_warns(
            PORT,
            r#"{"url":"http://a","weight":0},{"url":"http://b","weight":0}"#,
            "all backends have weight 0, so every request is answered with 503",
        );
        assert_warns(
            r#""port":1,"mode":"tcp""#,
            r#"{"url":"http://a","weight":0}"#,
            "all backends have weight 0, so every connection is closed",
        );
        assert_warns(
            PORT,
            r#"{"url":"http://a","weight":0},{"url":"http://b","IsDead":true}"#,
            "all backends are disabled by IsDead or weight 0",
        );
        assert_warns(
            PORT,
            r#"{"url":"http://a","backup":true},{"url":"http://b","weight":0}"#,
            "all backends that take requests are backups",
        );
    }

    #[test]
    fn a_backend_that_is_the_listener_is_warned_of() {
        for (proxy, url, is_own) in [
            (PORT, "http://localhost:8080", true),
            (PORT, "http://127.0.0.1:8080", true),
            (PORT, "http://127.9.9.9:8080/x", true),
            (PORT, "http://0.0.0.0:8080", true),
            (PORT, "http://[::1]:8080", true),
            (PORT, "http://127.0.0.1:8081", false),
            (PORT, "http://192.0.2.1:8080", false),
            (
                r#""port":8080,"address":"127.0.0.1""#,
                "http://localhost:8080",
                true,
            ),
            (
                r#""port":8080,"address":"127.0.0.1""#,
                "http://127.0.0.2:8080",
                false,
            ),
            (
                r#""port":8080,"address":"0.0.0.0""#,
                "http://127.0.0.2:8080",
                true,
            ),
            (
                r#""port":8080,"address":"0.0.0.0""#,
                "http://[::1]:8080",
                false,
            ),
            (
                r#""port":8080,"address":"::""#,
                "http://127.0.0.1:8080",
                true,
            ),
            (
                r#""port":80,"address":"192.0.2.1""#,
                "http://192.0.2.1",
                true,
            ),
            (r#""port":0"#, "http://127.0.0.1:8080", false),
        ] {
            let found = warnings_of(proxy, &format!("{{\"url\":\"{url}\",\"name\":\"x\"}}"));
            let expected = "backend \"x\" is the address that rondo itself listens on";
            assert_eq!(found.len(), usize::from(is_own), "{proxy} {url} {found:?}");
            assert!(
                found.iter().all(|line| line.starts_with(expected)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_time_to_grow_is_warned_of_where_a_hash_decides() {
        let warnings_of = |balance: &str| {
            let text = format!(
                r#"{{"proxy":{{"port":8080}},"balance":{{{balance}}},"backends":[{{"url":"http://a"}}]}}"#
            );
            warnings(&Config::from_text("c.json", &text).unwrap())
        };
        for by_hash in [
            r#""method":"source_hash""#,
            r#""method":"hash""#,
            r#""persistence":{"kind":"source_address"}"#,
        ] {
            let found = warnings_of(&format!(r#"{by_hash},"slow_start":"1s""#));
            assert!(found[0].starts_with("balance.slow_start has no effect with "));
            assert!(warnings_of(by_hash).is_empty());
        }
        assert!(warnings_of(r#""slow_start":"1s""#).is_empty());
    }

    #[test]
    fn a_queue_for_backends_that_are_never_full_is_warned_of() {
        let warned = |max: &str| {
            let text = format!(
                r#"{{"proxy":{{"port":1}},"backends":[{{"url":"http://a"{max}}}],"balance":{{"queue":{{}}}}}}"#
            );
            warnings(&Config::from_text("c.json", &text).unwrap())
        };
        assert!(warned("")[0].starts_with("balance.queue is never used, "));
        assert_eq!(warned(r#","max_connections":5"#), [""; 0]);
    }

    #[test]
    fn a_hash_that_no_choice_goes_by_is_warned_of() {
        let warnings_of = |balance: &str| {
            let text = format!(
                r#"{{"proxy":{{"port":8080}},"backends":[{{"url":"http://a"}}],"balance":{{{balance}}}}}"#
            );
            warnings(&Config::from_text("c.json", &text).unwrap())
        };
        let path = r#""hash":{"key":"path"}"#;
        for (balance, begin) in [
            (r#""hash":{"key":"source"}"#.to_owned(), None),
            (format!(r#"{path},"method":"hash""#), None),
            (
                path.to_owned(),
                Some("with balance.method \"round_robin\"; use \"hash\""),
            ),
            (
                r#""method":"source_hash","hash":{"load_percent_max":125}"#.to_owned(),
                Some("with balance.method \"source_hash\"; use \"hash\""),
            ),
            (
                format!(r#"{path},"method":"hash","persistence":{{"kind":"source_address"}}"#),
                Some("beside persistence by source_address, "),
            ),
        ] {
            let found = warnings_of(&balance);
            let expected = begin.map(|begin| format!("balance.hash has no effect {begin}"));
            assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
            let begins = found
                .iter()
                .zip(expected)
                .all(|(line, begin)| line.starts_with(&begin));
            assert!(begins, "{found:?}");
        }
    }

    #[test]
    fn a_url_that_is_given_twice_is_warned_of_once() {
        assert_warns(
            PORT,
            r#"{"url":"http://a/x/"},{"url":"http://b"},{"url":"http://A:80/x"}"#,
            "backends \"a:80\" and \"a:80#2\" have the same url http://a/x; ",
        );
        let many = vec![r#"{"url":"http://a"}"#; 1000].join(",");
        assert_warns(
            PORT,
            &many,
            "backends \"a:80\", \"a:80#2\" and 998 more have the same url",
        );
        let many: Vec<String> = (1..1000)
            .map(|port| format!("{{\"url\":\"http://a:{port}\"}}"))
            .collect();
        let many = many.join(",");
        let found = warnings_of(PORT, &format!("{many},{many}"));
        assert_eq!(found.len(), REPEATED_URLS_MAX + 1, "{found:?}");
    }
}
