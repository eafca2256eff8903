//! The section `timeouts`: how long anything may take.

use std::time::Duration;

use crate::config::document::{ConfigError, Node, Object};

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
    /// The same once one side has closed its direction.
    pub tunnel_half_closed: Duration,
    /// At a graceful stop.
    pub drain: Duration,
    /// Not ready this long before the listener closes; may be zero.
    pub drain_delay: Duration,
}

impl Timeouts {
    pub(super) fn read(top: &Object<'_>) -> Result<Timeouts, ConfigError> {
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
                "tunnel_half_closed",
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
            tunnel_half_closed: section.or("tunnel_half_closed", seconds(30), duration)?,
            drain: section.or("drain", seconds(30), duration)?,
            drain_delay: section.or("drain_delay", Duration::ZERO, |node| {
                node.duration(Duration::ZERO..=DAY)
            })?,
        })
    }
}

/// A duration with the usual bounds.
pub(super) fn duration(node: &Node<'_>) -> Result<Duration, ConfigError> {
    node.duration(MILLISECOND..=DAY)
}
