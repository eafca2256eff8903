//! The configuration as it is used: every value checked, every default filled in.
//!
//! A configuration as written ([`Document`]) becomes a [`Config`] here, once, at the edge; nothing behind it asks again
//! whether a value is good. One file for each part: `proxy.rs`, `backends.rs`, `balance.rs`, `health_check.rs`,
//! `timeouts.rs` (with the limits), `admin.rs`; each key stands there in one line with its default and its bounds.
//! `budget.rs` says what a configuration costs, `summary.rs` is what `--check` prints, `warnings.rs` what it warns of. Read `proxy.rs` next.

use std::path::Path;

use crate::config::document::{Document, Node};
use crate::pool::settings::BackendSettings;
use crate::pool::settings::BalanceSettings;
use crate::pool::settings::HealthCheckSettings;

pub use self::admin::Admin;
pub use self::budget::{MemoryBound, descriptor_budget, descriptor_limit, memory_bound};
pub use self::error::ConfigError;
pub use self::limits::Limits;
pub use self::proxy::{AccessLog, Mode, Network, Proxy, Trust};
pub use self::summary::summary;
pub use self::timeouts::Timeouts;
pub use self::warnings::warnings;

mod admin;
mod backends;
mod balance;
mod budget;
pub(crate) mod document;
mod error;
mod health_check;
mod limits;
mod proxy;
mod summary;
mod timeouts;
mod warnings;

/// Keys that are validated like all others, but refused by name because what they ask for is not built yet:
/// the key's path, and the value that asks for it (none: any).
const NOT_BUILT_YET: &[(&str, Option<&str>)] = &[("admin", None)];

/// A whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What clients meet.
    pub proxy: Proxy,
    /// How a backend is chosen.
    pub balance: BalanceSettings,
    /// At least one.
    pub backends: Vec<BackendSettings>,
    /// How backends are checked.
    pub health_check: HealthCheckSettings,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// How large anything may be.
    pub limits: Limits,
    /// None: there is no admin interface.
    pub admin: Option<Admin>,
}

impl Config {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        Config::from_document(&Document::read(path)?)
    }

    /// Reads a configuration that is in memory; `file` is its name in errors.
    pub fn from_text(file: &str, text: &str) -> Result<Config, ConfigError> {
        Config::from_document(&Document::from_bytes(file, text.as_bytes().to_vec())?)
    }

    /// The configuration of `--backends URL,URL --port N`: everything else has its default.
    pub fn from_flags(backends: &str, port: &str) -> Result<Config, ConfigError> {
        // Written as the file that says the same, so that defaults and checks have one home.
        let urls: Vec<_> = backends
            .split(',')
            .map(|url| serde_json::json!({ "url": url }))
            .collect();
        let text = serde_json::json!({ "proxy": { "port": port }, "backends": urls }).to_string();
        Config::from_text("", &text).map_err(|error| {
            let is_port = error.path == "proxy.port";
            let option = if is_port { "--port" } else { "--backends" };
            let path = match error.path.strip_suffix(".url") {
                Some(backend) => backend.to_owned(),
                None if is_port => "the port".to_owned(),
                None => error.path,
            };
            ConfigError {
                path,
                ..ConfigError::of_file(option, error.what, error.hint)
            }
        })
    }

    fn from_document(document: &Document) -> Result<Config, ConfigError> {
        let root = document.root()?;
        let top = root.object(&[
            // Names the schema for an editor.
            "$schema",
            "proxy",
            "balance",
            "backends",
            "health_check",
            "timeouts",
            "limits",
            "admin",
        ])?;
        let proxy = Proxy::read(&top)?;
        let config = Config {
            balance: balance::read(&top, proxy.mode)?,
            backends: backends::read(&top, proxy.mode)?,
            health_check: health_check::read(&top)?,
            timeouts: Timeouts::read(&top)?,
            limits: Limits::read(&top)?,
            admin: Admin::read(&top)?,
            proxy,
        };
        refuse_what_is_not_built(&root)?;
        Ok(config)
    }
}

fn refuse_what_is_not_built(root: &Node<'_>) -> Result<(), ConfigError> {
    for (path, asking) in NOT_BUILT_YET {
        for node in root.find(path) {
            match asking {
                None => return Err(node.error("is not built yet", "leave it out")),
                Some(asking) if node.is(asking) => {
                    let what = format!("is {}, which is not built yet", node.found());
                    return Err(node.error(what, "leave it out"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
