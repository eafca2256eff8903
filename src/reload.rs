//! From one configuration to the next: what changes, and what needs a restart.
//!
//! Read next: `server.rs`, `reload`; `pool/following.rs`, how a pool follows another.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::{Config, ConfigError};
use crate::pool::moved;
use crate::pool::settings::{BackendSettings, BalanceSettings, Method, Persistence};
use crate::text::words::listed;

/// How many names of each kind a line lists.
const NAMED_MAX: usize = 8;

/// Why a reload changed nothing.
#[derive(Debug)]
pub(crate) enum ReloadError {
    /// The configuration does not come from a file.
    NoFile,
    /// The process is stopping.
    Stopping,
    /// The file is wrong.
    Config(ConfigError),
    /// Only a restart changes these keys.
    NeedsRestart(Vec<&'static str>),
    /// The new port cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The new kind of health check cannot be made here.
    Checks(io::Error),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NoFile => f.write_str("the configuration did not come from a file"),
            ReloadError::Stopping => f.write_str("the process is stopping"),
            ReloadError::Config(error) => error.fmt(f),
            ReloadError::NeedsRestart(keys) => {
                write!(f, "{} cannot change without a restart", listed(keys, "and"))
            }
            ReloadError::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}")
            }
            ReloadError::Checks(error) => write!(f, "health checks: {error}"),
        }
    }
}

/// What differs between two configurations, as one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    /// Name and differing keys of each backend that is in both.
    changed: Vec<(String, Vec<&'static str>)>,
    kept: usize,
    /// The paths of all other keys that differ.
    keys: Vec<String>,
    /// Those among them that only a restart changes.
    pub(crate) needs_restart: Vec<&'static str>,
    /// The listener moves to another socket.
    pub(crate) moves_listener: bool,
}

impl Changes {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Config, new: &Config) -> Changes {
        let before: HashMap<&str, &BackendSettings> = by_name(old);
        let after = by_name(new);
        let names = |config: &Config, others: &HashMap<&str, &BackendSettings>| {
            let names = config.backends.iter().map(|backend| backend.name.clone());
            names.filter(|name| !others.contains_key(&**name)).collect()
        };
        let mut changes = Changes {
            added: names(new, &before),
            removed: names(old, &after),
            changed: Vec::new(),
            kept: 0,
            keys: Vec::new(),
            needs_restart: Vec::new(),
            moves_listener: old.proxy.port != new.proxy.port,
        };
        for backend in &new.backends {
            match before.get(&*backend.name) {
                Some(old) if *old == backend => changes.kept += 1,
                Some(old) => {
                    let keys = old.keys_that_differ(backend);
                    changes.changed.push((backend.name.clone(), keys));
                }
                None => {}
            }
        }
        let keys = old.keys_that_differ(new).into_iter();
        changes.keys = keys.map(str::to_owned).collect();
        changes.find_what_needs_a_restart(old, new);
        changes
    }

    fn find_what_needs_a_restart(&mut self, old: &Config, new: &Config) {
        let (old, new) = (&old.proxy, &new.proxy);
        let on_same_port = !self.moves_listener;
        for (key, differs) in [
            ("proxy.workers", old.workers != new.workers),
            ("proxy.mode", old.mode != new.mode),
            ("proxy.address", on_same_port && old.address != new.address),
        ] {
            if differs {
                self.needs_restart.push(key);
            }
        }
    }
}

fn by_name(config: &Config) -> HashMap<&str, &BackendSettings> {
    let backends = config.backends.iter();
    backends.map(|backend| (&*backend.name, backend)).collect()
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<String> = self
            .changed
            .iter()
            .map(|(name, keys)| format!("{name} ({})", keys.join(", ")))
            .collect();
        f.write_str("backends: ")?;
        for (what, names) in [
            ("added", &self.added),
            ("removed", &self.removed),
            ("changed", &changed),
        ] {
            if !names.is_empty() {
                write!(f, "{what} {}; ", some(names))?;
            }
        }
        write!(f, "{} kept", self.kept)?;
        if !self.keys.is_empty() {
            write!(f, "; changed keys: {}", some(&self.keys))?;
        }
        Ok(())
    }
}

/// What a reload from `old` to `new` would do, for `--check --against`.
pub fn preview(old: &Config, new: &Config) -> String {
    let changes = Changes::between(old, new);
    let mut lines = vec![("reload", changes.to_string())];
    if !changes.needs_restart.is_empty() {
        let refusal = ReloadError::NeedsRestart(changes.needs_restart);
        lines.push(("", format!("it would be refused: {refusal}")));
    }
    lines.extend(clients_that_move(old, new).map(|text| ("clients", text)));
    // In the layout of the summary above it.
    let lines = lines.into_iter();
    let lines: Vec<String> = lines
        .map(|(name, text)| format!("{name:<13} {text}\n"))
        .collect();
    lines.concat()
}

/// What share of the clients bound to a backend would move to another; none if no clients are
/// bound.
fn clients_that_move(old: &Config, new: &Config) -> Option<String> {
    let [before, after] = [old, new].map(|config| Binding::of(&config.balance));
    if before == Binding::None && after == Binding::None {
        return None;
    }
    let percent = match before {
        Binding::None => return Some("are bound to backends from then on".to_owned()),
        _ if before != after => return Some("are bound in another way: all may move".to_owned()),
        Binding::Cookie(_) => percent_of_cookies(&old.backends, &new.backends),
        Binding::Address => moved::percent(&old.backends, &new.backends, &new.health_check),
    };
    Some(format!(
        "{percent} % of those that are bound to a backend would move"
    ))
}

/// How a configuration binds clients to backends.
#[derive(PartialEq, Eq)]
enum Binding<'a> {
    None,
    Address,
    Cookie(&'a str),
}

impl Binding<'_> {
    fn of(balance: &BalanceSettings) -> Binding<'_> {
        match (&balance.persistence, balance.method) {
            (Persistence::Cookie { name }, _) => Binding::Cookie(name),
            (Persistence::SourceAddress, _) | (_, Method::SourceHash) => Binding::Address,
            (Persistence::None, _) => Binding::None,
        }
    }
}

/// A cookie depends on the backend's name, and backends have clients in proportion to their
/// weights.
fn percent_of_cookies(old: &[BackendSettings], new: &[BackendSettings]) -> u64 {
    let stays = |backend: &&BackendSettings| {
        let same = |other: &BackendSettings| other.name == backend.name && !other.disabled;
        new.iter().any(same)
    };
    let used = || {
        old.iter()
            .filter(|backend| !backend.disabled && !backend.backup)
    };
    let weight = |backend: &BackendSettings| u64::from(backend.weight);
    let all: u64 = used().map(weight).sum();
    let kept: u64 = used().filter(stays).map(weight).sum();
    moved::rounded(100 * (all - kept), all.max(1))
}

/// All names, or the first and how many more.
fn some(names: &[String]) -> String {
    match names.len().checked_sub(NAMED_MAX) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED_MAX].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `rest`: further keys, each with a comma before it.
    fn config(backends: &[&str], rest: &str) -> Config {
        let backends: Vec<String> = backends
            .iter()
            .map(|name| format!(r#"{{"url": "http://{name}", "name": "{name}"}}"#))
            .collect();
        let backends = backends.join(",");
        let text = format!(r#"{{"proxy": {{"port": 1}}, "backends": [{backends}]{rest}}}"#);
        Config::from_text("test", &text).unwrap()
    }

    fn changes(old: &Config, new: &Config) -> String {
        Changes::between(old, new).to_string()
    }

    #[test]
    fn backends_are_compared_by_name_and_keys_by_value() {
        let old = config(&["a", "b"], r#", "timeouts": {"connect": "60s"}"#);
        let same = config(
            &["b", "a"],
            r#", "timeouts": {"connect": "1m"}, "limits": {}"#,
        );
        assert_eq!(changes(&old, &same), "backends: 2 kept");
        let new = config(&["b", "c"], r#", "limits": {"body_bytes": 1}"#);
        assert_eq!(
            changes(&old, &new),
            "backends: added c; removed a; 1 kept; changed keys: timeouts.connect, limits.body_bytes"
        );
    }

    #[test]
    fn a_line_names_a_few_of_many() {
        let names: Vec<String> = (0..12).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            changes(&config(&["a"], ""), &config(&names, "")),
            "backends: added b0, b1, b2, b3, b4, b5, b6, b7 and 4 more; removed a; 0 kept"
        );
    }

    #[test]
    fn the_address_may_change_with_the_port_only() {
        let old = config(&["a"], "");
        let mut new = config(&["a"], "");
        new.proxy.address = Some([127, 0, 0, 1].into());
        assert_eq!(
            Changes::between(&old, &new).needs_restart,
            ["proxy.address"]
        );
        new.proxy.port = 2;
        let changes = Changes::between(&old, &new);
        assert!(changes.needs_restart.is_empty() && changes.moves_listener);
    }

    #[test]
    fn a_preview_says_who_would_move_and_what_would_be_refused() {
        let by_hash = r#", "balance": {"method": "source_hash"}"#;
        let by_cookie = r#", "balance": {"persistence": {"kind": "cookie"}}"#;
        let preview =
            |old: &[&str], new: &[&str], how| preview(&config(old, how), &config(new, how));
        let four = ["a", "b", "c", "d"];
        assert_eq!(
            preview(&four, &four[..2], ""),
            "reload        backends: removed c, d; 2 kept\n"
        );
        for how in [by_hash, by_cookie] {
            assert_eq!(
                preview(&four, &four[..2], how),
                "reload        backends: removed c, d; 2 kept\n\
                 clients       50 % of those that are bound to a backend would move\n"
            );
        }
        let mut workers = config(&["a"], "");
        workers.proxy.workers += 1;
        assert_eq!(
            super::preview(&config(&["a"], ""), &workers),
            "reload        backends: 1 kept\n              \
             it would be refused: proxy.workers cannot change without a restart\n"
        );
    }
}
