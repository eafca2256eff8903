//! Connection options and upgrade protocols (RFC 9110 7.6.1, 7.8): what a head says about its own
//! connection.
//!
//! Read next: `http/request.rs`.

use crate::http::fields::{Field, Known, is_token, members};
use crate::http::head::{Head, HeadError};
use crate::http::{HeadLimits, Version};

/// What the Connection fields of a head say (RFC 9110 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    pub(crate) upgrade: bool,
    /// Whether there are options that are not handled here and may be names of fields to remove.
    pub(crate) names_fields: bool,
    count: usize,
}

impl ConnectionOptions {
    /// Options are counted, since looking for each among the fields takes time in proportion to
    /// both.
    pub(crate) fn add(&mut self, value: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        for option in members(value).filter(|option| !option.is_empty()) {
            self.count += 1;
            if self.count > limits.fields_max {
                return Err(HeadError::TooManyFields);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.names_fields = true;
            }
        }
        Ok(())
    }

    /// In the order of RFC 9112 9.3.
    pub(crate) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// Marks the fields that Connection names; `forward` decides which of them stay all the same.
pub(crate) fn mark_named(head: &mut Head) {
    for at in 0..head.fields.len() {
        let Field {
            known: Known::Connection,
            value,
            ..
        } = head.fields[at]
        else {
            continue;
        };
        for option in members(value.of(&head.bytes)).filter(|option| !option.is_empty()) {
            for field in &mut head.fields {
                field.named_by_connection |=
                    field.name.of(&head.bytes).eq_ignore_ascii_case(option);
            }
        }
    }
}

/// `name` or `name/version`, and not h2c, which would let a client talk past us (RFC 9113 removed
/// it).
pub(crate) fn is_protocol(member: &[u8]) -> bool {
    let mut parts = member.splitn(2, |byte| *byte == b'/');
    let name = parts.next().unwrap_or_default();
    is_token(name) && parts.next().is_none_or(is_token) && !name.eq_ignore_ascii_case(b"h2c")
}
