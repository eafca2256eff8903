//! The section `discovery`, and the backends that a configuration comes to: its own entries, those of a list that other
//! programs write, and each address of a name as a backend of its own.
//!
//! Reading a list stands here, because the start and `--check` read it too; the thread that looks at it again is
//! `src/discovery.rs`, and names are looked up in `src/resolver.rs`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::backends::{self, Taken};
use crate::config::document::{ConfigError, Document, Form, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::config::{Config, Mode};
use crate::pool::settings::{BackendSettings, Host};
use crate::text::names::places;
use crate::text::words::counted;

pub(super) const KEYS: &[Key] = &[Key {
    name: "file",
    takes: Takes::Other {
        wanted: "the path of a JSON file with a list as in \"backends\"",
        schema: r#"{"type": "string", "minLength": 1}"#,
    },
    default: Fallback::Nothing("none"),
    meaning: "a file with more backends, a list as `backends` is, that is looked at every second; a relative path begins where the configuration file is. At most 4 MiB and 10000 entries, and not empty",
}];

/// What a list is.
const LIST: Form = Form {
    is_configuration: true,
    noun: "the list",
    least: r#"[{"url":"http://127.0.0.1:8081"}]"#,
    bytes_max: 4 * 1024 * 1024,
    missing: "discovery.file names it; write the list before rondo starts",
};
/// Entries of a list.
const ENTRIES_MAX: usize = 10_000;
/// Backends that are each an address of a name.
const ADDRESSES_MAX: usize = 10_000;
/// How long news wait for others that come with them.
const BURST: Duration = Duration::from_millis(200);
/// What a list takes while it is read: its text, the same without comments, and its entries.
pub(crate) const LIST_BYTES_MAX: usize = 2 * LIST.bytes_max + ENTRIES_MAX * 1024;

/// Where the backends come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovery {
    /// The entries of `backends`.
    pub(super) written: Vec<BackendSettings>,
    /// The list.
    file: Option<PathBuf>,
    /// Its entries, as they were last read.
    pub(super) listed: Vec<BackendSettings>,
    /// Entries that the admin interface added, or put in the place of one of those; and those that it removed. A name is in
    /// one of both at most.
    pub(super) edited: Vec<BackendSettings>,
    pub(super) removed: Vec<BackendSettings>,
    /// The names of which each address is a backend, as far as they were looked up, each with its addresses, sorted.
    found: Vec<(String, Vec<IpAddr>)>,
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntrySource {
    /// `backends`.
    File,
    /// The list of `discovery.file`.
    Discovery,
    /// The admin interface added or changed it.
    Admin,
}

impl EntrySource {
    /// As the admin interface says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EntrySource::File => "file",
            EntrySource::Discovery => "discovery",
            EntrySource::Admin => "admin",
        }
    }
}

/// What was discovered, to be taken in place of what was known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// The entries of this list.
    List(PathBuf, Vec<BackendSettings>),
    /// The addresses of this name, sorted.
    Addresses(String, Vec<IpAddr>),
}

/// News that wait for more of the same burst: the latest of each kind.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    news: Vec<News>,
    due: Option<Instant>,
}

impl Pending {
    /// Adds one that came `now`.
    pub(crate) fn add(&mut self, news: News, now: Instant) {
        self.news.retain(|earlier| match (earlier, &news) {
            (News::List(..), News::List(..)) => false,
            (News::Addresses(one, _), News::Addresses(other, _)) => one != other,
            _ => true,
        });
        self.news.push(news);
        // From the first on: a burst that does not end is published all the same.
        self.due.get_or_insert(now + BURST);
    }

    /// When they are to be taken; none where there are none.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All of them.
    pub(crate) fn take(&mut self) -> Vec<News> {
        self.due = None;
        std::mem::take(&mut self.news)
    }
}

impl Discovery {
    /// Reads the entries of the configuration, and the list that it names. Of `last`, which was in force before, the list
    /// stays if it is the same file, and so do the addresses of names.
    pub(super) fn read(
        top: &Object<'_>,
        directory: &Path,
        mode: Mode,
        last: Option<&Discovery>,
    ) -> Result<Discovery, ConfigError> {
        let path = |text: &str| (!text.is_empty()).then(|| directory.join(text));
        let section = top.section("discovery")?;
        let file = section.optional_parsed("file", |node| path(&node.text()?))?;
        let kept = last.filter(|last| file.is_some() && last.file == file);
        let written = if file.is_none() || top.given("backends").is_some() {
            let taken = Taken {
                by: kept.map_or(&[][..], |last| &last.listed),
                whose: "a backend of the discovered list",
            };
            backends::read(top, mode, &taken)?
        } else {
            Vec::new()
        };
        let listed = match (&file, kept) {
            (None, _) => Vec::new(),
            (Some(_), Some(last)) => last.listed.clone(),
            (Some(file), None) => list(file, list_bytes(file)?, mode, &written)?,
        };
        let mut discovery = Discovery {
            written,
            file,
            listed,
            edited: Vec::new(),
            removed: Vec::new(),
            found: last.map(|last| last.found.clone()).unwrap_or_default(),
        };
        discovery.forget_names();
        Ok(discovery)
    }

    /// The list that is to be looked at.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads a list that is to stand beside the entries of the configuration.
    pub(crate) fn list(
        &self,
        file: &Path,
        bytes: Vec<u8>,
        mode: Mode,
    ) -> Result<Vec<BackendSettings>, ConfigError> {
        list(file, bytes, mode, &self.written)
    }

    /// What is known of a name of which each address is a backend.
    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        let found = self.found.iter().find(|(found, _)| found == name);
        found.map_or(&[], |(_, addresses)| addresses)
    }

    /// The backends, and where each comes from: those of the configuration, then those of the list, then those that the
    /// admin interface added, each in their order. A name whose addresses are not known yet is one backend, as if it had no
    /// `each_address`: requests that come meanwhile are not refused.
    pub(super) fn backends(&self) -> (Vec<BackendSettings>, Vec<EntrySource>) {
        let entries = self.entries();
        let mut backends = Vec::with_capacity(entries.len());
        let mut sources = Vec::with_capacity(entries.len());
        for (entry, source) in entries {
            if entry.each_address {
                self.add_members(entry, &mut backends);
            } else {
                backends.push(entry.clone());
            }
            sources.resize(backends.len(), source);
        }
        (backends, sources)
    }

    /// The entries in force.
    pub(super) fn entries(&self) -> Vec<(&BackendSettings, EntrySource)> {
        let written = self.written.iter().map(|entry| (entry, EntrySource::File));
        let listed = self.listed.iter();
        let listed = listed.map(|entry| (entry, EntrySource::Discovery));
        let mut entries: Vec<_> = written.chain(listed).collect();
        if self.edited.is_empty() && self.removed.is_empty() {
            return entries;
        }
        let removed = backends::by_name(&self.removed);
        entries.retain(|(entry, _)| !removed.contains_key(&*entry.name));
        let mut edited = backends::by_name(&self.edited);
        for (entry, source) in &mut entries {
            if let Some(place) = edited.remove(&*entry.name) {
                (*entry, *source) = (&self.edited[place], EntrySource::Admin);
            }
        }
        let added = self.edited.iter();
        let added = added.filter(|entry| edited.contains_key(&*entry.name));
        entries.extend(added.map(|entry| (entry, EntrySource::Admin)));
        entries
    }

    /// Adds a backend for each address of an entry.
    fn add_members(&self, entry: &BackendSettings, backends: &mut Vec<BackendSettings>) {
        let before = backends.len();
        let mut add = |address: IpAddr, host: Host| {
            let mut member = entry.clone();
            member.name = format!("{}/{address}", entry.name);
            member.url.host = host;
            backends.push(member);
        };
        if let Some(name) = looked_up(entry) {
            for &address in self.addresses(name) {
                let name = name.to_owned();
                add(address, Host::Member { name, address });
            }
        } else {
            // An address, or `localhost`.
            let known = entry.url.host.fixed_addresses(entry.url.port);
            for address in known.iter().flatten() {
                add(address.ip(), Host::Ip(address.ip()));
            }
        }
        if backends.len() == before {
            backends.push(entry.clone());
        }
    }

    /// Takes what was discovered, unless the configuration has changed so that it does not fit any more.
    fn take(&mut self, news: News) {
        match news {
            News::List(file, listed) => {
                let written = backends::by_name(&self.written);
                let is_free = |entry: &BackendSettings| !written.contains_key(&*entry.name);
                if self.file.as_ref() == Some(&file) && listed.iter().all(is_free) {
                    self.listed = listed;
                }
            }
            News::Addresses(name, addresses) => {
                self.found.retain(|(found, _)| *found != name);
                self.found.push((name, addresses));
            }
        }
    }

    /// Forgets the addresses of names that no entry has.
    fn forget_names(&mut self) {
        let mut found = std::mem::take(&mut self.found);
        let names = places(self.names().into_iter());
        found.retain(|(name, _)| names.contains_key(&**name));
        self.found = found;
    }

    /// The names of which each address is a backend, one for each entry.
    fn names(&self) -> Vec<&str> {
        let entries = self.entries().into_iter();
        entries.filter_map(|(entry, _)| looked_up(entry)).collect()
    }

    /// How many backends are addresses of names.
    fn count_members(&self) -> usize {
        let names = self.names().into_iter();
        names.map(|name| self.addresses(name).len()).sum()
    }

    /// The lines of `--check`.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(file) = &self.file {
            let backends = counted(self.listed.len(), "backend");
            let file = file.display();
            lines.push(format!(
                "{backends} of {file}, which is looked at every second"
            ));
        }
        let names = self.names().len();
        if names > 0 {
            let names = counted(names, "name");
            lines.push(format!(
                "each address of {names}: not looked up here, and counted as one backend each"
            ));
        }
        lines
    }
}

/// The name of which each address is a backend, if it has to be looked up.
fn looked_up(entry: &BackendSettings) -> Option<&str> {
    entry.url.host.looked_up().filter(|_| entry.each_address)
}

impl Config {
    /// The same configuration with what was discovered; or why it cannot be.
    pub(crate) fn with_news(&self, news: Vec<News>) -> Result<Config, String> {
        let mut config = self.clone();
        for each in news {
            config.discovery.take(each);
        }
        config.take_backends()?;
        Ok(config)
    }

    /// Takes the backends that its entries have come to; or says why they cannot be.
    pub(super) fn take_backends(&mut self) -> Result<(), String> {
        self.discovery.forget_names();
        let members = self.discovery.count_members();
        if members > ADDRESSES_MAX {
            return Err(format!(
                "{members} addresses of names are more than {ADDRESSES_MAX}"
            ));
        }
        (self.backends, self.sources) = self.discovery.backends();
        Ok(())
    }
}

/// The bytes of a list.
pub(crate) fn list_bytes(file: &Path) -> Result<Vec<u8>, ConfigError> {
    Document::bytes(file, &LIST)
}

/// Reads a list; none of its names may be one of those that are `written` in the configuration.
fn list(
    file: &Path,
    bytes: Vec<u8>,
    mode: Mode,
    written: &[BackendSettings],
) -> Result<Vec<BackendSettings>, ConfigError> {
    let document = Document::from_bytes(&file.display().to_string(), bytes, &LIST)?;
    let root = document.root()?;
    if root.count().is_some_and(|count| count > ENTRIES_MAX) {
        let hint = format!("must have at most {ENTRIES_MAX}");
        return Err(root.error("has too many entries", hint));
    }
    let taken = Taken {
        by: written,
        whose: "a backend of the configuration",
    };
    backends::read_list(&root, mode, &taken)
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
