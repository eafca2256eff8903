//! One client connection and the exchange on it: the spine of the program.
//!
//! ```text
//! Idle -> RequestHead -> Connecting -> Forwarding -> Idle | LingeringClose
//!    Forwarding -> Connecting (another try)
//!    any of them -> Reply (an answer of our own) -> Idle | LingeringClose
//!    Forwarding (101) -> Tunnel
//! Accepted (PROXY protocol) -> Idle;  tcp mode: Accepted -> Connecting -> Tunnel
//! ```
//!
//! The stage is a value and `advance` is the one `match` on it. `Forwarding` is full duplex: the
//! request side and the response side each have a state of their own there, since a response may
//! begin, and end, while the request's body is still going out.
//!
//! Nothing here blocks. A step that needs a peer sets the exchange down with a deadline and
//! returns; the worker takes it up again at the next event.
//!
//! Read next, in the order of a request: `request_head`, `connecting`, `sending`, `forwarding`, then `reply`, `tunnel`,
//! `ending`, `lingering` and `record`. `accepted` comes before all of them, on the connections that need it.
//! What all of them use: `state` (what an exchange holds), `context` (what a worker lends), `backend_connections`,
//! `failure` (what follows from one), `close_reason` and `request_id`.

mod accepted;
pub(crate) mod backend_connections;
mod close_reason;
mod connecting;
pub(crate) mod context;
mod ending;
pub(crate) mod failure;
mod forwarding;
mod lingering;
mod record;
pub(crate) mod relay;
mod reply;
mod request_head;
mod request_id;
mod sending;
mod state;
mod tunnel;

use std::net::{SocketAddr, TcpStream};

use crate::exchange::context::Context;
use crate::exchange::failure::Failure;
use crate::exchange::state::{Exchange, Step, Wait, WaitFor};
use crate::http::Scheme;
use crate::net::clock::{Millis, NEVER};
use crate::net::connection::Connection;
use crate::net::poller::Readiness;
use crate::net::slab::Key;

pub(crate) use close_reason::CloseReason;
pub(crate) use state::Stage;

/// Steps that one connection may take before the others' turn comes.
const STEPS_MAX: usize = 64;

/// A client's connection, and what is going on on it.
#[derive(Debug)]
pub(crate) struct Client {
    /// The socket.
    pub connection: Connection,
    /// Since when no request is under way, if none is.
    idle_since: Millis,
    /// When the worker looks at `deadline` next (see `timers::Alarms`).
    pub alarm: Millis,
    /// Whether the worker has this connection on its list of those whose turn comes.
    pub is_queued: bool,
    key: Key,
    /// The peer's, or the one that its PROXY protocol header names.
    address: SocketAddr,
    /// How the client speaks, where that header says it.
    scheme: Option<Scheme>,
    stage: Stage,
    exchange: Option<Box<Exchange>>,
}

/// A client that has no request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub since: Millis,
    /// Whether it has had an answer on this connection.
    pub had_answer: bool,
}

/// What `advance` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more to do until an event or the deadline.
    Waiting,
    /// There is more to do at once.
    Again,
    /// The connection is over and may be dropped.
    Closed(CloseReason),
}

impl Client {
    /// A connection on which nothing has happened yet.
    pub(crate) fn new(
        stream: TcpStream,
        address: SocketAddr,
        key: Key,
        stage: Stage,
        now: Millis,
    ) -> Self {
        Self {
            connection: Connection::new(stream),
            idle_since: now,
            alarm: NEVER,
            is_queued: false,
            key,
            address,
            scheme: None,
            stage,
            exchange: None,
        }
    }

    /// Carries the connection as far as it goes.
    pub(crate) fn advance(&mut self, cx: &mut Context) -> Turn {
        for _ in 0..STEPS_MAX {
            let step = match self.stage {
                Stage::Accepted => self.accepted(cx),
                Stage::Idle => self.await_request(cx),
                Stage::RequestHead => self.read_request_head(cx),
                Stage::Connecting => self.connect(cx),
                Stage::Forwarding => self.forward(cx),
                Stage::Reply => self.send_reply(cx),
                Stage::Tunnel => self.tunnel(cx),
                Stage::LingeringClose { until, left } => self.linger(until, left, cx),
            };
            match step {
                Step::Go(stage) => self.stage = stage,
                Step::Wait => return Turn::Waiting,
                Step::Yield => return Turn::Again,
                Step::Close(reason) => return self.close(reason, cx),
            }
        }
        Turn::Again
    }

    /// Acts on a deadline that has passed, if one has.
    pub(crate) fn expire(&mut self, cx: &mut Context) -> Turn {
        let now = cx.clock.settled();
        if self.deadline() > now {
            return Turn::Waiting;
        }
        if self.try_late_writes(now) {
            let turn = self.advance(cx);
            if turn != Turn::Waiting || self.deadline() > now {
                return turn;
            }
        }
        let step = match self.stage {
            Stage::LingeringClose { .. } => Step::Close(CloseReason::LingerTimeout),
            _ => self.time_out(now, cx),
        };
        match step {
            Step::Go(stage) => {
                self.stage = stage;
                self.advance(cx)
            }
            Step::Wait | Step::Yield => Turn::Again,
            Step::Close(reason) => self.close(reason, cx),
        }
    }

    /// By when something must have happened on this connection. An idle one has no deadline here:
    /// the worker keeps the idle ones in order of their age.
    pub(crate) fn deadline(&self) -> Millis {
        match (self.stage, &self.exchange) {
            (Stage::LingeringClose { until, .. }, _) => until,
            (_, Some(exchange)) => exchange
                .request_wait
                .until
                .min(exchange.response_wait.until),
            (_, None) => NEVER,
        }
    }

    /// Since when no request is under way, and whether one was before; `None` while one is.
    pub(crate) fn idle(&self) -> Option<Idle> {
        let is_idle = match self.stage {
            Stage::Idle => true,
            Stage::Accepted => self.connection.buffered().is_empty(),
            _ => false,
        };
        is_idle.then(|| Idle {
            since: self.idle_since,
            had_answer: self.connection.sent() > 0,
        })
    }

    /// Passes on what an event said about the backend's socket.
    pub(crate) fn note_backend(&mut self, readiness: Readiness) {
        let exchange = self.exchange.as_mut();
        if let Some(lent) = exchange.and_then(|exchange| exchange.route.connection.as_mut()) {
            lent.connection.note(readiness);
        }
    }

    /// Whether a peer has not taken its bytes in time, as far as events tell. They come only when a
    /// third of the kernel's buffer is free, which a slow but healthy peer may not manage: so one
    /// more write is tried, and what it takes is progress.
    fn try_late_writes(&mut self, now: Millis) -> bool {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return false;
        };
        let writes = |wait: Wait| {
            let write = matches!(
                wait.what,
                WaitFor::ClientWrite
                    | WaitFor::BackendWrite
                    | WaitFor::Tunnel
                    | WaitFor::HalfTunnel
            );
            write && wait.is_over(now)
        };
        if !writes(exchange.request_wait) && !writes(exchange.response_wait) {
            return false;
        }
        self.connection.try_output();
        if let Some(lent) = &mut exchange.route.connection {
            lent.connection.try_output();
        }
        true
    }

    /// Acts on the first wait that is over.
    fn time_out(&mut self, now: Millis, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Wait;
        };
        let wait = match (exchange.request_wait, exchange.response_wait) {
            (wait, _) if wait.is_over(now) => wait.what,
            (_, wait) => wait.what,
        };
        let has_begun = exchange.status.is_some();
        match wait {
            WaitFor::Nothing => Step::Wait,
            WaitFor::ProxyHeader => self.abandon(CloseReason::NoProxyHeader, cx),
            WaitFor::ClientHead => self.head_timed_out(cx),
            WaitFor::ClientBody if !has_begun => {
                self.refuse(408, CloseReason::ClientBodyTimeout.text(), cx)
            }
            WaitFor::ClientBody => Step::Close(CloseReason::ClientBodyTimeout),
            WaitFor::ClientBodyExpected => self.send_continue(cx),
            WaitFor::ClientWrite => Step::Close(CloseReason::ClientWriteTimeout),
            WaitFor::Connect => self.connect_timed_out(cx),
            WaitFor::BackendWrite | WaitFor::ResponseHead if !has_begun => {
                self.fail(Failure::HeadTimeout, cx)
            }
            WaitFor::BackendWrite | WaitFor::ResponseHead | WaitFor::ResponseBody => {
                let reason = CloseReason::BackendTimeout;
                self.log_failure(None, &reason.text(), cx);
                Step::Close(reason)
            }
            WaitFor::HalfClosed => Step::Close(CloseReason::ClientGone),
            WaitFor::Tunnel | WaitFor::HalfTunnel => Step::Close(CloseReason::TunnelTimeout),
        }
    }
}

#[cfg(test)]
mod tests;
