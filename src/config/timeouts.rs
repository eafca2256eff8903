//! The sections `timeouts` and `limits`: how long anything may take and how large anything may be.

use std::time::Duration;

use crate::document::{Mistake, Node, Object};

/// The bounds that hold for a duration unless its key says otherwise.
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The section `timeouts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head, in total.
    pub client_head: Duration,
    /// A connection on which no request has begun.
    pub client_idle: Duration,
    /// Without progress from the client while we wait for it.
    pub client_body: Duration,
    /// Without progress to the client while we wait for it.
    pub client_write: Duration,
    /// To open a connection to one backend, all its addresses together.
    pub connect: Duration,
    /// From the request sent to the response head.
    pub response_head: Duration,
    /// Without progress from, or to, the backend while we wait for it.
    pub response_body: Duration,
    /// An unused backend connection is kept this long.
    pub backend_idle: Duration,
    /// A tunnel without a byte in either direction.
    pub tunnel_idle: Duration,
    /// At a graceful stop.
    pub drain: Duration,
    /// Not ready this long before the listener closes; may be zero.
    pub drain_delay: Duration,
}

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

impl Timeouts {
    pub(super) fn read(top: &Object<'_>) -> Result<Timeouts, Mistake> {
        let section = top.section(
            "timeouts",
            &[
                "client_head",
                "client_idle",
                "client_body",
                "client_write",
                "connect",
                "response_head",
                "response_body",
                "backend_idle",
                "tunnel_idle",
                "drain",
                "drain_delay",
            ],
        )?;
        let seconds = Duration::from_secs;
        Ok(Timeouts {
            client_head: section.or("client_head", seconds(10), duration)?,
            client_idle: section.or("client_idle", seconds(60), duration)?,
            client_body: section.or("client_body", seconds(30), duration)?,
            client_write: section.or("client_write", seconds(30), duration)?,
            connect: section.or("connect", seconds(5), duration)?,
            response_head: section.or("response_head", seconds(60), duration)?,
            response_body: section.or("response_body", seconds(60), duration)?,
            // Below the 5 s after which Node closes an unused connection.
            backend_idle: section.or("backend_idle", seconds(4), duration)?,
            tunnel_idle: section.or("tunnel_idle", seconds(3600), duration)?,
            drain: section.or("drain", seconds(30), duration)?,
            drain_delay: section.or("drain_delay", Duration::ZERO, |node| {
                node.duration(Duration::ZERO..=DAY)
            })?,
        })
    }
}

/// A duration with the usual bounds.
pub(super) fn duration(node: &Node<'_>) -> Result<Duration, Mistake> {
    node.duration(MILLISECOND..=DAY)
}

impl Limits {
    pub(super) fn read(top: &Object<'_>) -> Result<Limits, Mistake> {
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
