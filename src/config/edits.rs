//! What the admin interface adds, changes and removes of the entries, until a reload reads them again.
//!
//! An edit is by name: it holds whatever list the entry comes from, and when discovery brings another list.

use std::fmt;

use crate::config::{Config, ConfigError, Discovery, backends};
use crate::pool::settings::BackendSettings;

/// Entries that differ from those that were read; so many changes belong into a file.
const EDITS_MAX: usize = 1000;

/// Why an entry cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EditError {
    /// There is none of this name.
    Unknown,
    /// The body is wrong.
    Entry(ConfigError),
    /// It cannot be, for this reason.
    Refused(String),
}

impl Config {
    /// The same configuration with this entry, a JSON text, in the place of the one of that name or behind the others; and
    /// what that does.
    pub(crate) fn with_entry(
        &self,
        name: &str,
        entry: Vec<u8>,
    ) -> Result<(Config, &'static str), EditError> {
        self.refuse_member(name)?;
        let entry = backends::read_entry(name, entry, self.proxy.mode).map_err(EditError::Entry)?;
        let what = match self.entry(name) {
            Some(known) if *known == entry => "none",
            Some(_) => "change",
            None => "add",
        };
        let mut config = self.clone();
        let discovery = &mut config.discovery;
        let read = discovery.written.iter().chain(&discovery.listed);
        let is_as_read = read.clone().any(|read| *read == entry);
        discovery.removed.retain(|removed| removed.name != name);
        let known = discovery.edited.iter().position(|edit| edit.name == name);
        match known {
            Some(place) if is_as_read => drop(discovery.edited.remove(place)),
            Some(place) => discovery.edited[place] = entry,
            None if is_as_read => {}
            None => discovery.edited.push(entry),
        }
        Ok((config.edited()?, what))
    }

    /// The same configuration without the entry of this name.
    pub(crate) fn without_entry(&self, name: &str) -> Result<Config, EditError> {
        self.refuse_member(name)?;
        self.entry(name).ok_or(EditError::Unknown)?;
        let mut config = self.clone();
        let discovery = &mut config.discovery;
        discovery.edited.retain(|edit| edit.name != name);
        let mut read = discovery.written.iter().chain(&discovery.listed);
        let read = read.find(|read| read.name == name).cloned();
        discovery.removed.extend(read);
        config.edited()
    }

    /// The names of what was added, changed or removed, and is otherwise in `new`, which has no such changes.
    pub(crate) fn edits_undone_by(&self, new: &Config) -> Vec<String> {
        let Discovery {
            edited, removed, ..
        } = &self.discovery;
        if edited.is_empty() && removed.is_empty() {
            return Vec::new();
        }
        let entries = new.discovery.entries();
        let named = |name: &str| entries.iter().find(|(entry, _)| entry.name == name);
        let changed = edited
            .iter()
            .filter(|edit| named(&edit.name).is_none_or(|(entry, _)| entry != edit));
        let gone = removed.iter().filter(|edit| named(&edit.name).is_some());
        let undone = changed.chain(gone);
        undone.map(|edit| edit.name.clone()).collect()
    }

    fn entry(&self, name: &str) -> Option<&BackendSettings> {
        let mut entries = self.discovery.entries().into_iter();
        let found = entries.find(|(entry, _)| entry.name == name);
        found.map(|(entry, _)| entry)
    }

    /// An address of a name comes and goes with its entry.
    fn refuse_member(&self, name: &str) -> Result<(), EditError> {
        match name.split_once('/') {
            Some((entry, _)) if self.backends.iter().any(|backend| backend.name == name) => {
                Err(EditError::Refused(format!(
                    "name is {name:?}, an address of {entry:?}; change or remove {entry:?}, or drain or disable this address"
                )))
            }
            _ => Ok(()),
        }
    }

    fn edited(mut self) -> Result<Config, EditError> {
        let refused = |reason: &dyn fmt::Display| Err(EditError::Refused(reason.to_string()));
        if self.discovery.edited.len() + self.discovery.removed.len() > EDITS_MAX {
            return refused(&format_args!(
                "more than {EDITS_MAX} backends would differ from the configuration; write them into it and reload"
            ));
        }
        if let Err(reason) = self.take_backends() {
            return refused(&reason);
        }
        if self.backends.is_empty() {
            return refused(&"it is the last backend; add another one first, or disable it");
        }
        Ok(self)
    }
}

/// Whether a name, as an operator says it, stands for this backend: its own, or that of the entry whose address it is.
pub(crate) fn stands_for(name: &str, backend: &str) -> bool {
    let rest = backend.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::News;

    /// `a`, `b` and one with addresses, `web`.
    fn config() -> Config {
        let text = r#"{"proxy": {"port": 1}, "backends": [{"url": "http://a", "name": "a"},
            {"url": "http://b", "name": "b", "weight": 2}, {"url": "http://web", "name": "web", "each_address": true}]}"#;
        Config::from_text("c.json", text).unwrap()
    }

    fn put(config: &Config, name: &str, entry: &str) -> (Config, &'static str) {
        config.with_entry(name, entry.into()).unwrap()
    }

    fn shown(config: &Config) -> String {
        let backends = config.backends.iter().zip(&config.sources);
        let shown = backends.map(|(backend, source)| {
            format!("{}={} {}", backend.name, backend.weight, source.name())
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    fn why(result: Result<Config, EditError>) -> String {
        match result.unwrap_err() {
            EditError::Unknown => "unknown".to_owned(),
            EditError::Entry(error) => error.sentence(),
            EditError::Refused(reason) => reason,
        }
    }

    #[test]
    fn an_entry_is_added_changed_and_removed_in_its_place() {
        let config = config();
        let (added, what) = put(&config, "n", r#"{"url": "http://n"}"#);
        assert_eq!(what, "add");
        assert_eq!(shown(&added), "a=1 file, b=2 file, web=1 file, n=1 admin");
        let (changed, what) = put(
            &added,
            "a",
            r#"{"url": "http://a", "weight": 7, "name": "a"}"#,
        );
        assert_eq!(what, "change");
        let removed = changed.without_entry("b").unwrap();
        assert_eq!(shown(&removed), "a=7 admin, web=1 file, n=1 admin");
        let (again, what) = put(&removed, "b", r#"{"url": "http://b"}"#);
        assert_eq!(what, "add");
        assert_eq!(shown(&again), "a=7 admin, b=1 admin, web=1 file, n=1 admin");
        let none = again.without_entry("n").unwrap();
        assert_eq!(none.edits_undone_by(&config), ["a", "b"]);
    }

    #[test]
    fn an_entry_as_it_was_read_is_no_edit() {
        let config = config();
        let same = r#"{"url": "http://b", "weight": 2}"#;
        let (unchanged, what) = put(&config, "b", same);
        assert_eq!((unchanged, what), (config.clone(), "none"));
        let removed = config.without_entry("b").unwrap();
        assert_eq!(put(&removed, "b", same), (config.clone(), "add"));
        let (changed, _) = put(&config, "b", r#"{"url": "http://b"}"#);
        assert_eq!(put(&changed, "b", same), (config.clone(), "change"));
        assert!(config.edits_undone_by(&config).is_empty());
    }

    #[test]
    fn a_wrong_entry_is_an_error_that_begins_with_its_key() {
        for (name, entry, error) in [
            (
                "a",
                r#"{"url": "http://a", "weight": 5000}"#,
                "weight is 5000; must be an integer from 0 to 1000",
            ),
            ("a", r#"{"url": "https://a"}"#, r#"url is "https://a", "#),
            ("a", "{}", "url is missing; must be "),
            (
                "a",
                r#"{"url": "http://a", "name": "b"}"#,
                r#"name is "b", and the path says "a"; leave it out, or change the path"#,
            ),
            (
                "a b",
                r#"{"url": "http://a"}"#,
                r#"name is "a b"; must be 1 to 64 letters, digits or any of"#,
            ),
            (
                "x/y",
                r#"{"url": "http://a"}"#,
                r#"name is "x/y"; must be 1 to 64 letters, digits or any of"#,
            ),
            (
                "a",
                r#"{"url": "http://a", "wieght": 1}"#,
                r#"wieght is not a known key; did you mean "weight"?"#,
            ),
            (
                "a",
                r#"{"url": "http://a", "port": 1}"#,
                r#"port is not a known key; write "url": "http://HOST:PORT""#,
            ),
            ("a", "", r#"the body: is empty; the least is {"url""#),
            ("a", "{", "the body: not valid JSON: "),
            (
                "a",
                "[]",
                "the body: the entry is a list; must be an object",
            ),
        ] {
            let found = why(config()
                .with_entry(name, entry.into())
                .map(|(config, _)| config));
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn an_error_in_an_entry_has_its_place() {
        let entry = "{\"url\": \"http://a\",\n \"weight\": 5000}";
        let Err(EditError::Entry(error)) = config().with_entry("a", entry.into()) else {
            panic!("it is wrong");
        };
        assert_eq!((error.line, error.column), (2, 12));
    }

    #[test]
    fn the_last_backend_stays_and_an_unknown_one_cannot_go() {
        let config = config();
        assert_eq!(why(config.without_entry("c")), "unknown");
        let config = config.without_entry("a").unwrap();
        let config = config.without_entry("web").unwrap();
        assert_eq!(why(config.without_entry("a")), "unknown");
        assert!(why(config.without_entry("b")).starts_with("it is the last backend"));
    }

    #[test]
    fn an_address_of_a_name_goes_with_its_entry_only() {
        let addresses = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let news = vec![News::Addresses("web".to_owned(), addresses)];
        let config = config().with_news(news).unwrap();
        assert_eq!(
            shown(&config),
            "a=1 file, b=2 file, web/10.0.0.1=1 file, web/10.0.0.2=1 file"
        );
        let entry = r#"{"url": "http://web"}"#;
        for refused in [
            config.without_entry("web/10.0.0.1"),
            config
                .with_entry("web/10.0.0.1", entry.into())
                .map(|(config, _)| config),
        ] {
            let reason = r#"name is "web/10.0.0.1", an address of "web"; "#;
            assert!(why(refused).starts_with(reason));
        }
        assert_eq!(why(config.without_entry("web/10.9.9.9")), "unknown");
        let weighed = r#"{"url": "http://web", "each_address": true, "weight": 3}"#;
        let (config, what) = put(&config, "web", weighed);
        assert_eq!(what, "change");
        assert_eq!(
            shown(&config),
            "a=1 file, b=2 file, web/10.0.0.1=3 admin, web/10.0.0.2=3 admin"
        );
        let config = config.without_entry("web").unwrap();
        assert_eq!(shown(&config), "a=1 file, b=2 file");
        for (backend, stands) in [("web", true), ("web/10.0.0.1", true), ("web2", false)] {
            assert_eq!(stands_for("web", backend), stands, "{backend}");
        }
    }

    #[test]
    fn edits_have_a_bound() {
        let mut config = config();
        // As many PUT would: each copies the configuration, so it is done at once here.
        let (edited, _) = put(&config, "n", r#"{"url": "http://n"}"#);
        let entry = &edited.discovery.edited[0];
        let entries = (0..EDITS_MAX).map(|number| BackendSettings {
            name: format!("n{number}"),
            ..entry.clone()
        });
        config.discovery.edited = entries.collect();
        let one_more = config.with_entry("n", r#"{"url": "http://n"}"#.into());
        let reason = why(one_more.map(|(config, _)| config));
        assert!(reason.starts_with("more than 1000 backends would differ"));
        assert!(config.without_entry("n7").is_ok());
    }
}
