//! `LingeringClose`, and the reasons for which a connection ends.
//!
//! Read next: `record`, for what is written down at the end of an exchange.

use crate::exchange::context::Context;
use crate::exchange::relay::RelayError;
use crate::exchange::{Client, Stage, Step};
use crate::net::clock::Clock;
use crate::net::connection::Received;
use crate::net::errno::is_our_shortage;

use std::io;
use std::time::Duration;

/// How long, and for how many bytes, what a client still sends is thrown away.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: u32 = 1024 * 1024;

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The last answer has been given.
    Finished,
    /// The client closed its side between requests.
    ClientDone,
    /// The client went away, or does not take what is sent.
    ClientGone,
    /// No request came in time.
    IdleTimeout,
    /// The connection did not begin with a PROXY protocol header (in time).
    NoProxyHeader,
    /// No backend took the connection (tcp mode).
    NoBackend,
    /// Closed while idle, to make room for another.
    MadeRoom,
    /// The request's body did not come in time, after its response had begun.
    ClientBodyTimeout,
    /// The client did not take its response in time.
    ClientWriteTimeout,
    /// The request's body was malformed or too long, after its response had begun.
    BadRequestBody,
    /// The backend's response broke off.
    BackendBrokeOff,
    /// The backend's response did not go on in time.
    BackendTimeout,
    /// Nothing passed through the tunnel in time.
    TunnelTimeout,
    /// One side of the tunnel broke.
    TunnelBroke,
    /// The client went on sending after the last answer.
    LingerTimeout,
    /// The kernel had no memory for us to go on.
    OurShortage,
    /// The process stops.
    Stopping,
    /// A mistake in this program, caught.
    Panic,
}

impl CloseReason {
    /// The reason in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            CloseReason::Finished => "closed after the last answer",
            CloseReason::ClientDone => "closed by the client between requests",
            CloseReason::ClientGone => "the client went away",
            CloseReason::IdleTimeout => "no request in time",
            CloseReason::NoProxyHeader => "no PROXY protocol header",
            CloseReason::NoBackend => "no backend took it",
            CloseReason::MadeRoom => "closed while idle, to make room",
            CloseReason::ClientBodyTimeout => "the request's body did not come in time",
            CloseReason::ClientWriteTimeout => "the client did not take the response in time",
            CloseReason::BadRequestBody => {
                "the request's body was bad after its response had begun"
            }
            CloseReason::BackendBrokeOff => "the backend's response broke off",
            CloseReason::BackendTimeout => "the backend's response did not go on in time",
            CloseReason::TunnelTimeout => "nothing passed through the tunnel in time",
            CloseReason::TunnelBroke => "one side of the tunnel broke",
            CloseReason::LingerTimeout => "the client went on sending after the last answer",
            CloseReason::OurShortage => "we were short of memory",
            CloseReason::Stopping => "the process is stopping",
            CloseReason::Panic => "an internal error",
        }
    }
}

impl CloseReason {
    /// Why a connection ends on whose client's side reading or writing failed.
    pub(super) fn of_client(error: &io::Error) -> Self {
        if is_our_shortage(error) {
            CloseReason::OurShortage
        } else {
            CloseReason::ClientGone
        }
    }

    /// Why a tunnel ends in which reading or writing failed.
    pub(super) fn of_tunnel(error: &RelayError) -> Self {
        match error {
            RelayError::Source(error) | RelayError::Sink(error) if is_our_shortage(error) => {
                CloseReason::OurShortage
            }
            _ => CloseReason::TunnelBroke,
        }
    }

    /// What it says of an exchange that was under way: why it failed or was cut.
    pub(super) fn of_exchange(self) -> Option<&'static str> {
        (self != CloseReason::Finished).then(|| self.text())
    }
}

impl Client {
    /// Closes our side and waits for the client's, so that what it still sends does not make the
    /// kernel answer with a reset that destroys our answer.
    pub(super) fn begin_linger(&mut self, cx: &Context) -> Step {
        self.connection.shutdown_write();
        let buffered = self.connection.buffered().len();
        self.connection.consume_buffered(buffered);
        Step::Go(Stage::LingeringClose {
            until: Clock::after(cx.clock.now(), LINGER),
            left: LINGER_BYTES_MAX,
        })
    }

    /// Throws away what the client sends.
    pub(super) fn linger(&mut self, until: u64, mut left: u32, cx: &mut Context) -> Step {
        loop {
            match self.connection.receive(&mut cx.tools.scratch) {
                Ok(Received::Bytes(bytes)) => {
                    let count = bytes.len();
                    self.connection.consume(count, &cx.tools.scratch);
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    if count >= left {
                        return Step::Close(CloseReason::LingerTimeout);
                    }
                    left -= count;
                }
                Ok(Received::Wait) => {
                    self.stage = Stage::LingeringClose { until, left };
                    return Step::Wait;
                }
                Ok(Received::End) | Err(_) => return Step::Close(CloseReason::Finished),
            }
        }
    }
}
