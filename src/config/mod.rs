//! The configuration as it is used: every value checked, every default filled in.
//!
//! A configuration as written ([`Document`]) becomes a [`Config`] here, once; no later code checks
//! a value again. One file for each section: `proxy.rs`, `backends.rs`, `balance.rs`,
//! `health_check.rs`, `timeouts.rs`, `limits.rs`, `admin.rs`. Each setting is a row there
//! (`key.rs`); to add one, add its row, its field, the line that reads it, its words in `--check`,
//! and its line of README, which a test asks for. `budget.rs` is what a configuration costs,
//! `summary.rs` what `--check` prints, `warnings.rs` what it warns of.
//!
//! Read next: `config/proxy.rs`.

use std::path::Path;

use crate::config::document::{CONFIGURATION, Document};
use crate::config::key::{Fallback, Key, Takes};
use crate::pool::settings::{BackendSettings, BalanceSettings, HealthCheckSettings};
use crate::text::json::Json;

pub use self::admin::Admin;
pub(crate) use self::backends::by_name;
pub use self::budget::{DescriptorBudget, descriptor_budget, descriptor_limit};
pub(crate) use self::discovery::{
    Discovery, EntrySource, LIST_BYTES_MAX, News, Pending, list_bytes,
};
pub(crate) use self::edits::{EditError, stands_for};
pub(crate) use self::effective::Setting;
pub use self::error::ConfigError;
pub use self::limits::Limits;
pub use self::proxy::{AccessLog, Mode, Network, Proxy, Trust};
pub use self::schema::schema;
pub use self::source::Source;
pub use self::summary::summary;
pub use self::timeouts::Timeouts;
pub use self::warnings::warnings;

mod admin;
mod backends;
mod balance;
mod budget;
mod discovery;
pub(crate) mod document;
mod edits;
mod effective;
mod ejection;
mod error;
mod health_check;
mod hints;
pub(crate) mod key;
mod limits;
mod proxy;
mod schema;
mod source;
mod summary;
mod timeouts;
pub(crate) mod url;
mod warnings;

/// The sections.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "$schema",
        takes: Takes::Other {
            wanted: "the address of a JSON Schema",
            schema: "{}",
        },
        default: Fallback::Nothing("none"),
        meaning: "for editors; ignored",
    },
    Key {
        name: "proxy",
        takes: Takes::Object(proxy::KEYS),
        default: Fallback::Required,
        meaning: "the listener, and what is done with each request",
    },
    Key {
        name: "balance",
        takes: Takes::Object(balance::KEYS),
        default: Fallback::Value("{}"),
        meaning: "how a backend is chosen",
    },
    Key {
        name: "backends",
        takes: Takes::Objects {
            keys: backends::KEYS,
            wanted: backends::LIST,
        },
        default: Fallback::Nothing("required, unless `discovery.file` is given"),
        meaning: "the servers that requests go to, at least one",
    },
    Key {
        name: "discovery",
        takes: Takes::Object(discovery::KEYS),
        default: Fallback::Nothing("none"),
        meaning: "where more backends come from",
    },
    Key {
        name: "health_check",
        takes: Takes::Object(health_check::KEYS),
        default: Fallback::Value("{}"),
        meaning: "how backends are checked",
    },
    Key {
        name: "ejection",
        takes: Takes::Object(ejection::KEYS),
        default: Fallback::Nothing("off"),
        meaning: "take a backend out that answers badly; `{}` switches it on",
    },
    Key {
        name: "timeouts",
        takes: Takes::Object(timeouts::KEYS),
        default: Fallback::Value("{}"),
        meaning: "how long anything may take",
    },
    Key {
        name: "limits",
        takes: Takes::Object(limits::KEYS),
        default: Fallback::Value("{}"),
        meaning: "how large anything may be",
    },
    Key {
        name: "admin",
        takes: Takes::Object(admin::KEYS),
        default: Fallback::Nothing("none"),
        meaning: "the interface that shows and changes the backends",
    },
];

/// A whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The listening side.
    pub proxy: Proxy,
    /// How a backend is chosen.
    pub balance: BalanceSettings,
    /// At least one: those of the configuration, and those that were discovered.
    pub backends: Vec<BackendSettings>,
    /// Where each of them comes from, in the same order.
    pub(crate) sources: Vec<EntrySource>,
    /// What they are made from.
    pub(crate) discovery: Discovery,
    /// How backends are checked.
    pub health_check: HealthCheckSettings,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// How large anything may be.
    pub limits: Limits,
    /// None: no admin interface.
    pub admin: Option<Admin>,
    /// The value of each key by its path, but for those of `backends`.
    values: Vec<(String, String)>,
}

impl Config {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        Config::from_document(&Document::read(path, &CONFIGURATION)?, path, None)
    }

    /// Reads it while `last` is in force, of which what was discovered stays as far as it is still asked for.
    pub(crate) fn read_again(path: &Path, last: &Config) -> Result<Config, ConfigError> {
        let document = Document::read(path, &CONFIGURATION)?;
        Config::from_document(&document, path, Some(&last.discovery))
    }

    /// Reads a configuration that is in memory; `file` is its name in errors.
    pub fn from_text(file: &str, text: &str) -> Result<Config, ConfigError> {
        let document = Document::from_bytes(file, text.as_bytes().to_vec(), &CONFIGURATION)?;
        Config::from_document(&document, Path::new(file), None)
    }

    /// The configuration of `--backends URL,URL --port N`: everything else has its default.
    pub fn from_flags(backends: &str, port: &str) -> Result<Config, ConfigError> {
        // Written as the equivalent file, so that defaults and checks are in one place.
        let urls: Vec<_> = backends
            .split(',')
            .map(|url| Json::object([("url", Json::text(url))]))
            .collect();
        let text = Json::object([
            ("proxy", Json::object([("port", Json::text(port))])),
            ("backends", Json::List(urls)),
        ])
        .to_string();
        Config::from_text("", &text).map_err(|error| {
            let is_port = error.path == "proxy.port";
            let option = if is_port { "--port" } else { "--backends" };
            let path = match error.path.strip_suffix(".url") {
                Some(backend) => backend,
                None if is_port => "the port",
                None => &error.path,
            };
            let mut shown = ConfigError::of_file(option, &*error.what, &*error.hint);
            path.clone_into(&mut shown.path);
            shown
        })
    }

    fn from_document(
        document: &Document,
        path: &Path,
        last: Option<&Discovery>,
    ) -> Result<Config, ConfigError> {
        let top = document.root()?.object(KEYS)?;
        let proxy = Proxy::read(&top)?;
        let balance = balance::read(&top, proxy.mode)?;
        let directory = path.parent().unwrap_or(path);
        let discovery = Discovery::read(&top, directory, proxy.mode, last)?;
        let (backends, sources) = discovery.backends();
        let mut config = Config {
            balance,
            backends,
            sources,
            discovery,
            health_check: health_check::read(&top)?,
            timeouts: Timeouts::read(&top)?,
            limits: Limits::read(&top)?,
            admin: Admin::read(&top)?,
            // Without `$schema`, which is ignored.
            values: effective::values(&top, &KEYS[1..])?,
            proxy,
        };
        config.settle_values();
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
