//! The section `timeouts`: how long anything may take.

use std::time::Duration;

use crate::config::document::{ConfigError, Object, duration_text};
use crate::config::key::{Fallback, Key, Takes};

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "client_head",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""10s""#),
        meaning: "from the first byte of a request to the end of its head, in total",
    },
    Key {
        name: "client_idle",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""60s""#),
        meaning: "a client connection on which no request has begun, new or kept alive",
    },
    Key {
        name: "client_body",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""30s""#),
        meaning: "without progress from the client while its body is awaited",
    },
    Key {
        name: "client_write",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""30s""#),
        meaning: "without progress to the client while a response is sent",
    },
    Key {
        name: "connect",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""5s""#),
        meaning: "to connect to one backend, all its addresses together",
    },
    Key {
        name: "response_head",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""60s""#),
        meaning: "from the request sent to the head of the response",
    },
    Key {
        name: "response_body",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""60s""#),
        meaning: "without progress from, or to, the backend while it is awaited",
    },
    Key {
        name: "backend_idle",
        takes: Takes::DURATION,
        // Below the 5 s after which Node closes an unused connection.
        default: Fallback::Value(r#""4s""#),
        meaning: "an unused backend connection is kept this long",
    },
    Key {
        name: "tunnel_idle",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""1h""#),
        meaning: "an upgraded connection, or one in TCP mode, without a byte in either direction",
    },
    Key {
        name: "tunnel_half_closed",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""30s""#),
        meaning: "the same once one side has closed its direction",
    },
    Key {
        name: "drain",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""30s""#),
        meaning: "what is in flight at a graceful stop may take this long",
    },
    Key {
        name: "drain_delay",
        takes: Takes::DURATION_OR_ZERO,
        default: Fallback::Value(r#""0s""#),
        meaning: "from the signal to the closing of the listener",
    },
];

/// The section `timeouts`; each field is the key of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the rows above say it
pub struct Timeouts {
    pub client_head: Duration,
    pub client_idle: Duration,
    pub client_body: Duration,
    pub client_write: Duration,
    pub connect: Duration,
    pub response_head: Duration,
    pub response_body: Duration,
    pub backend_idle: Duration,
    pub tunnel_idle: Duration,
    pub tunnel_half_closed: Duration,
    pub drain: Duration,
    pub drain_delay: Duration,
}

impl Timeouts {
    pub(super) fn read(top: &Object<'_>) -> Result<Timeouts, ConfigError> {
        let section = top.section("timeouts")?;
        Ok(Timeouts {
            client_head: section.duration("client_head")?,
            client_idle: section.duration("client_idle")?,
            client_body: section.duration("client_body")?,
            client_write: section.duration("client_write")?,
            connect: section.duration("connect")?,
            response_head: section.duration("response_head")?,
            response_body: section.duration("response_body")?,
            backend_idle: section.duration("backend_idle")?,
            tunnel_idle: section.duration("tunnel_idle")?,
            tunnel_half_closed: section.duration("tunnel_half_closed")?,
            drain: section.duration("drain")?,
            drain_delay: section.duration("drain_delay")?,
        })
    }

    /// The lines of `--check`.
    pub(super) fn summary(&self) -> Vec<String> {
        let listed = |list: &[(&str, Duration)]| {
            list.iter()
                .map(|(name, timeout)| format!("{name} {}", duration_text(*timeout)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        vec![
            listed(&[
                ("client_head", self.client_head),
                ("client_idle", self.client_idle),
                ("client_body", self.client_body),
                ("client_write", self.client_write),
            ]),
            listed(&[
                ("connect", self.connect),
                ("response_head", self.response_head),
                ("response_body", self.response_body),
                ("backend_idle", self.backend_idle),
            ]),
            listed(&[
                ("tunnel_idle", self.tunnel_idle),
                ("tunnel_half_closed", self.tunnel_half_closed),
                ("drain", self.drain),
                ("drain_delay", self.drain_delay),
            ]),
        ]
    }
}
