//! The section `limits`: how large anything may be.

use crate::config::document::{ConfigError, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::http::HeadLimits;
use crate::text::words::counted;

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "head_bytes",
        takes: Takes::Integer(1024, 1_048_576),
        default: Fallback::Value("16384"),
        meaning: "bytes of one request or response head",
    },
    Key {
        name: "fields",
        takes: Takes::Integer(8, 1000),
        default: Fallback::Value("100"),
        meaning: "header fields in one head",
    },
    Key {
        name: "body_bytes",
        takes: Takes::Integer(0, u64::MAX),
        default: Fallback::Nothing("none"),
        meaning: "bytes of a request body; 0 allows no body at all",
    },
    Key {
        name: "idle_backend_connections",
        takes: Takes::Integer(0, 1_000_000),
        default: Fallback::Value("64"),
        meaning: "unused connections kept open for each backend, over all workers, last in first out",
    },
];

/// The section `limits`; each field is the key of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the rows above say it
pub struct Limits {
    pub head_bytes: usize,
    pub fields: usize,
    pub body_bytes: Option<u64>,
    pub idle_backend_connections: usize,
}

impl Limits {
    /// The bounds of a head, in the form in which `http` takes them.
    pub(crate) fn heads(&self) -> HeadLimits {
        HeadLimits {
            head_bytes_max: self.head_bytes,
            fields_max: self.fields,
        }
    }

    pub(super) fn read(top: &Object<'_>) -> Result<Limits, ConfigError> {
        let section = top.section("limits")?;
        Ok(Limits {
            head_bytes: section.integer("head_bytes")?,
            fields: section.integer("fields")?,
            body_bytes: section.optional_integer("body_bytes")?,
            idle_backend_connections: section.integer("idle_backend_connections")?,
        })
    }

    /// The line of `--check`.
    pub(super) fn summary(&self) -> String {
        let body = match self.body_bytes {
            Some(bytes) => format!("{bytes} bytes"),
            None => "any length".to_owned(),
        };
        format!(
            "heads of {} bytes and {} fields, request bodies of {body}, {} for each backend",
            self.head_bytes,
            self.fields,
            counted(self.idle_backend_connections, "idle connection")
        )
    }
}
