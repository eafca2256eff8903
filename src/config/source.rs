//! Where a configuration comes from: what the command line says of it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::text::escape::printable;

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File(PathBuf),
    /// `--backends` and `--port`, not checked yet.
    Flags {
        /// The URLs, separated by commas.
        backends: String,
        /// The port.
        port: String,
    },
}

impl Source {
    /// Reads and checks it.
    pub fn read(&self) -> Result<Config, ConfigError> {
        match self {
            Source::File(path) => Config::read(path),
            Source::Flags { backends, port } => Config::from_flags(backends, port),
        }
    }

    /// The file that a reload reads again, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Source::File(path) => Some(path),
            Source::Flags { .. } => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => f.write_str(&printable(&path.to_string_lossy())),
            Source::Flags { .. } => f.write_str("--backends"),
        }
    }
}
