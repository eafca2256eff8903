//! The section `limits`: how large anything may be.

use crate::config::document::{ConfigError, Object};

/// The section `limits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request or response head, 1024 to 1048576.
    pub head_bytes: usize,
    /// Fields in one head, 8 to 1000.
    pub fields: usize,
    /// Bytes of a request body; none: no limit.
    pub body_bytes: Option<u64>,
    /// Unused connections kept open for each backend, over all workers.
    pub idle_backend_connections: usize,
}

impl Limits {
    pub(super) fn read(top: &Object<'_>) -> Result<Limits, ConfigError> {
        let section = top.section(
            "limits",
            &[
                "head_bytes",
                "fields",
                "body_bytes",
                "idle_backend_connections",
            ],
        )?;
        Ok(Limits {
            head_bytes: section.or("head_bytes", 16_384, |node| node.integer(1024..=1_048_576))?,
            fields: section.or("fields", 100, |node| node.integer(8..=1000))?,
            body_bytes: section.optional("body_bytes", |node| node.integer(0..=u64::MAX))?,
            idle_backend_connections: section.or("idle_backend_connections", 64, |node| {
                node.integer(0..=1_000_000)
            })?,
        })
    }
}
