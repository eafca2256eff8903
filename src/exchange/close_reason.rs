//! Why a client's connection ended.

use std::io;

use crate::exchange::relay::RelayError;
use crate::net::errno::is_our_shortage;

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
