//! From one configuration to the next: what changes, and what needs a restart.
//!
//! Read next: `server.rs`, `reload`; `pool/following.rs`, how a pool follows another.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::ask::Reply;
use crate::config::{Config, ConfigError, Setting, by_name};
use crate::pool::moved;
use crate::pool::settings::{BackendSettings, BalanceSettings, HashKey, Method, Persistence};
use crate::text::json::Json;
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

impl ReloadError {
    /// As the admin interface answers it.
    pub(crate) fn reply(&self) -> Reply {
        let status = match self {
            ReloadError::Config(error) => {
                let place = (Some(&*error.file), error.line, error.column);
                return Reply::error_at(422, &error.sentence(), place);
            }
            ReloadError::NoFile | ReloadError::NeedsRestart(_) => 409,
            ReloadError::Stopping => 503,
            ReloadError::Listen(..) | ReloadError::Checks(_) => 422,
        };
        Reply::error(status, &self.to_string())
    }
}

/// What differs between two configurations, as one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    /// Name and differing keys of each backend that is in both.
    changed: Vec<(String, Vec<Setting>)>,
    kept: usize,
    /// All other keys that differ.
    settings: Vec<Setting>,
    /// Backends that the admin interface changed, added or removed, which is undone.
    undone: Vec<String>,
    /// Those among them that only a restart changes.
    pub(crate) needs_restart: Vec<&'static str>,
    /// The listener moves to another socket.
    pub(crate) moves_listener: bool,
}

impl Changes {
    /// From `old` to `new`.
    pub(crate) fn between(old: &Config, new: &Config) -> Changes {
        let [before, after] = [old, new].map(|config| by_name(&config.backends));
        let names = |config: &Config, others: &HashMap<&str, usize>| {
            let names = config.backends.iter().map(|backend| backend.name.clone());
            names.filter(|name| !others.contains_key(&**name)).collect()
        };
        let mut changes = Changes {
            added: names(new, &before),
            removed: names(old, &after),
            changed: Vec::new(),
            kept: 0,
            settings: old.settings_that_differ(new),
            undone: old.edits_undone_by(new),
            needs_restart: Vec::new(),
            moves_listener: old.proxy.port != new.proxy.port,
        };
        for backend in &new.backends {
            let before = before.get(&*backend.name);
            match before.map(|&place| &old.backends[place]) {
                Some(old) if old == backend => changes.kept += 1,
                Some(old) => {
                    let values = old.values().into_iter().zip(backend.values());
                    let differing = values.filter(|((_, from), (_, to))| from != to);
                    let settings = differing.map(|((key, from), (_, to))| Setting {
                        path: key.to_owned(),
                        from,
                        to,
                    });
                    let settings = settings.collect();
                    changes.changed.push((backend.name.clone(), settings));
                }
                None => {}
            }
        }
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

    /// As the admin interface shows it.
    pub(crate) fn document(
        &self,
        dry_run: bool,
        file: &str,
        moved: Moved,
        warnings: &[String],
    ) -> Json {
        let changed = self.changed.iter().map(|(name, settings)| {
            let keys = documents(settings, |_| true);
            Json::object([("name", Json::text(name)), ("keys", keys)])
        });
        let needs_restart = |path: &str| self.needs_restart.contains(&path);
        let settings = documents(&self.settings, |path| !needs_restart(path));
        let restart = documents(&self.settings, needs_restart);
        let moved = match moved {
            Moved::None | Moved::Bound => "null".to_owned(),
            Moved::All => "100".to_owned(),
            Moved::Percent(percent) => percent.to_string(),
        };
        Json::object([
            ("dry_run", Json::raw(dry_run)),
            ("file", Json::text(file)),
            ("added", texts(&self.added)),
            ("removed", texts(&self.removed)),
            ("changed", Json::List(changed.collect())),
            ("kept", Json::raw(self.kept)),
            ("settings", settings),
            ("restart", restart),
            ("clears", texts(&self.undone)),
            ("moved_percent", Json::raw(moved)),
            ("warnings", texts(warnings)),
        ])
    }
}

fn documents(settings: &[Setting], is_shown: impl Fn(&str) -> bool) -> Json {
    let shown = settings.iter().filter(|setting| is_shown(&setting.path));
    Json::List(shown.map(Setting::document).collect())
}

fn texts(list: &[String]) -> Json {
    Json::texts(list.iter().map(String::as_str))
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<String> = self
            .changed
            .iter()
            .map(|(name, settings)| format!("{name} ({})", paths(settings).join(", ")))
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
        if !self.settings.is_empty() {
            write!(f, "; changed keys: {}", some(&paths(&self.settings)))?;
        }
        if !self.undone.is_empty() {
            let undone = some(&self.undone);
            write!(f, "; undone, of the admin interface: {undone}")?;
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
    let moved = Moved::by(old, new).text();
    lines.extend(moved.map(|text| ("clients", text)));
    // In the layout of the summary above it.
    let lines = lines.into_iter();
    let lines: Vec<String> = lines
        .map(|(name, text)| format!("{name:<13} {text}\n"))
        .collect();
    lines.concat()
}

/// Clients bound to a backend that get another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// None are bound.
    None,
    /// They are bound from then on.
    Bound,
    /// They are bound in another way.
    All,
    /// A share of those that are bound.
    Percent(u64),
}

impl Moved {
    /// By a reload from `old` to `new`.
    pub(crate) fn by(old: &Config, new: &Config) -> Moved {
        let [before, after] = [old, new].map(|config| Binding::of(&config.balance));
        match before {
            Binding::None if after == Binding::None => Moved::None,
            Binding::None => Moved::Bound,
            _ if before != after => Moved::All,
            Binding::Cookie(_) => Moved::Percent(percent_of_cookies(&old.backends, &new.backends)),
            Binding::Hash(key) => {
                let (old, health) = (&old.backends, &new.health_check);
                Moved::Percent(moved::percent(key, old, &new.backends, health))
            }
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Moved::None => None,
            Moved::Bound => Some("are bound to backends from then on".to_owned()),
            Moved::All => Some("are bound in another way: all may move".to_owned()),
            Moved::Percent(percent) => Some(format!(
                "{percent} % of those that are bound to a backend would move"
            )),
        }
    }
}

/// How a configuration binds clients to backends.
#[derive(PartialEq, Eq)]
enum Binding<'a> {
    None,
    Hash(&'a HashKey),
    Cookie(&'a str),
}

impl Binding<'_> {
    fn of(balance: &BalanceSettings) -> Binding<'_> {
        match (&balance.persistence, balance.method) {
            (Persistence::Cookie { name }, _) => Binding::Cookie(name),
            (Persistence::SourceAddress, _) | (_, Method::SourceHash) => {
                Binding::Hash(&HashKey::Source)
            }
            (Persistence::None, Method::Hash) => Binding::Hash(&balance.hash.key),
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

fn paths(settings: &[Setting]) -> Vec<String> {
    let paths = settings.iter().map(|setting| setting.path.clone());
    paths.collect()
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
        let by_path = r#", "balance": {"method": "hash", "hash": {"key": "path"}}"#;
        let preview =
            |old: &[&str], new: &[&str], how| preview(&config(old, how), &config(new, how));
        let four = ["a", "b", "c", "d"];
        assert_eq!(
            preview(&four, &four[..2], ""),
            "reload        backends: removed c, d; 2 kept\n"
        );
        let binding = |how| Moved::by(&config(&four, by_hash), &config(&four, how));
        assert_eq!(binding(by_path), Moved::All);
        let with_bound = by_hash.replace(
            "source_hash\"",
            r#"hash", "hash": {"load_percent_max": 125}"#,
        );
        assert_eq!(binding(&with_bound), Moved::Percent(0));
        for how in [by_hash, by_cookie, by_path] {
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
