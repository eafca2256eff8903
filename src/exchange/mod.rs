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
//! Read next, in the order of a request: `request_head`, `connecting`, `forwarding`, then `reply`,
//! `tunnel`, `closing` and `record`. `accepted` comes before all of them, on the connections that need it.
//! What all of them use: `context` (what a worker lends), `backends` (its connections to backends).

mod accepted;
pub(crate) mod backend_connections;
mod closing;
mod connecting;
pub(crate) mod context;
pub(crate) mod failure;
mod forwarding;
mod record;
pub(crate) mod relay;
mod reply;
mod request_head;
mod tunnel;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::backend_connections::{BackendConnection, BackendConnections};
use crate::exchange::context::{Context, REQUEST_ID_LEN};
use crate::exchange::failure::Failure;
use crate::exchange::record::Moments;
use crate::exchange::relay::Relay;
use crate::http::Body;
use crate::http::{RequestHead, ResponseHead, Scheme};
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::connection::Connection;
use crate::net::idle_list::Kind;
use crate::net::pipes::Pipes;
use crate::net::poller::Readiness;
use crate::net::slab::Key;
use crate::pool::Tried;
use crate::pool::backend::{Backend, InFlight};
use crate::pool::trace::Decision;

pub(crate) use closing::CloseReason;

/// The memory for held bodies that an exchange keeps for the next request.
const HELD_BYTES_KEPT: usize = 4096;

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

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing has been read, and something else than a request comes first.
    Accepted,
    /// No request has begun.
    Idle,
    /// A request's head is arriving.
    RequestHead,
    /// A backend is being chosen or connected to.
    Connecting,
    /// Request and response are passing through.
    Forwarding,
    /// An answer of our own is going out.
    Reply,
    /// Bytes pass in both directions until both have ended.
    Tunnel,
    /// Our side is closed; what still arrives is thrown away, so that the answer is not (RFC 9112 9.6).
    LingeringClose {
        /// When to give up.
        until: Millis,
        /// Bytes that may still be thrown away.
        left: u32,
    },
}

/// What a stage's step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// On to another stage.
    Go(Stage),
    /// A peer has to do something first.
    Wait,
    /// There is more to do; the others' turn comes first.
    Yield,
    /// The connection is over.
    Close(CloseReason),
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

/// One request and its response. Kept and used again: its buffers grow to what requests need and
/// stay.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    request: RequestHead,
    /// Whether what the peer says about the client is believed.
    is_trusted: bool,
    /// The client's address, where a trusted peer says it.
    client: Option<IpAddr>,
    /// How the client speaks, maybe to a proxy before us.
    scheme: Scheme,
    request_id: [u8; REQUEST_ID_LEN],
    /// When the request's first byte came.
    started: Millis,
    /// When what happened, for the log and the record of decisions.
    moments: Moments,
    decision: Decision,
    /// What the client's connection had sent before this exchange.
    sent_before: u64,
    /// What was received of the client's, but for what `request_relay` has taken.
    received: u64,
    /// Body bytes that arrived with the head, in case the request must be sent again.
    held: Vec<u8>,
    request_side: RequestSide,
    request_relay: Relay,
    request_wait: Wait,
    route: Route,
    response: ResponseHead,
    response_side: ResponseSide,
    response_relay: Relay,
    response_wait: Wait,
    /// The status that the client got.
    status: Option<u16>,
    /// Why it is an answer of our own; for the log.
    reason: Option<&'static str>,
    /// The client's connection ends with this exchange.
    close_client: bool,
    /// A broken response must not look complete: it has no end of its own but that of the connection.
    ends_with_connection: bool,
    /// A 100 (Continue) has been passed on or made.
    continued: bool,
    /// The backend has sent an interim response.
    interim_came: bool,
    /// A 101 has come before the request's body was sent, and waits for that in `response`.
    holds_switch: bool,
    /// The relays carry a tunnel.
    tunnels: bool,
    /// There is no request: tcp mode.
    is_tcp: bool,
}

/// The way to the backend.
#[derive(Debug, Default)]
struct Route {
    backend: Option<InFlight>,
    connection: Option<BackendConnection>,
    /// The backends that this request was sent to or that refused it.
    tried: Tried,
    /// How many of `balance.tries` are used up.
    tries: u32,
    /// How many backends were chosen; for the log.
    attempts: u32,
    /// The addresses of the backend, and which of them comes next.
    addresses: Option<Arc<[SocketAddr]>>,
    next_address: usize,
    /// The address that was tried last.
    address: Option<SocketAddr>,
    /// By when one of the addresses must have answered.
    connect_until: Millis,
    /// An idle connection has failed this request already.
    needs_fresh: bool,
    /// A backend has been blamed for a death in this exchange: a request that kills whoever serves
    /// it must not take the whole pool down.
    has_blamed: bool,
    /// The request's relay is set up.
    body_begun: bool,
    /// The backend's connection may carry another exchange after this one.
    reusable: bool,
    /// What the backend's connection had sent before this exchange.
    sent_before: u64,
    /// The client's cookie must be set to this backend's.
    set_cookie: bool,
    /// What the client gets when no backend is left to try.
    last_failure: Option<LastFailure>,
}

/// A failed try.
#[derive(Debug)]
struct LastFailure {
    backend: Arc<Backend>,
    failure: Failure,
    status: u16,
    reason: &'static str,
}

/// How far the request has come on its way to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RequestSide {
    /// Head or body are going out.
    #[default]
    Sending,
    /// All of it has gone out.
    Sent,
    /// The backend takes no more of it. What it answered still counts (an early 413).
    Refused,
}

/// How far the response has come on its way to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResponseSide {
    /// The final head has not been passed on.
    #[default]
    Head,
    /// The body is passing.
    Body,
    /// All of it has gone out.
    Done,
}

/// What one side waits for, and how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    what: WaitFor,
    until: Millis,
}

/// Everything that an exchange can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitFor {
    Nothing,
    ProxyHeader,
    ClientHead,
    ClientBody,
    /// The client's body, of which it has sent nothing because it expects a 100 (Continue) first.
    ClientBodyExpected,
    ClientWrite,
    Connect,
    BackendWrite,
    ResponseHead,
    ResponseBody,
    /// The backend, for a client that has closed its sending side and may be gone altogether.
    HalfClosed,
    Tunnel,
    /// A tunnel of which one side has ended.
    HalfTunnel,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            what: WaitFor::Nothing,
            until: NEVER,
        }
    }
}

impl Wait {
    /// Waits for `what`. The time counts anew when something else was waited for before, or when
    /// there was `progress` since.
    fn set(&mut self, what: WaitFor, now: Millis, timeout: Duration, progress: bool) {
        if progress || self.what != what {
            *self = Wait {
                what,
                until: Clock::after(now, timeout),
            };
        }
    }

    fn is_over(self, now: Millis) -> bool {
        self.until <= now
    }
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

    /// Moves every deadline away by this time.
    pub(crate) fn postpone(&mut self, by: Millis) {
        if let Stage::LingeringClose { until, .. } = &mut self.stage {
            *until = until.saturating_add(by);
        }
        if let Some(exchange) = self.exchange.as_deref_mut() {
            for wait in [&mut exchange.request_wait, &mut exchange.response_wait] {
                wait.until = wait.until.saturating_add(by);
            }
            let connect_until = &mut exchange.route.connect_until;
            *connect_until = connect_until.saturating_add(by);
        }
    }

    /// Since when no request is under way, and whether one was before; `None` while one is.
    pub(crate) fn idle(&self) -> Option<(Kind, Millis)> {
        let is_idle = match self.stage {
            Stage::Idle => true,
            Stage::Accepted => self.connection.buffered().is_empty(),
            _ => false,
        };
        let kind = if self.connection.sent() > 0 {
            Kind::Answered
        } else {
            Kind::Silent
        };
        is_idle.then_some((kind, self.idle_since))
    }

    /// Passes on what an event said about the backend's socket.
    pub(crate) fn note_backend(&mut self, readiness: Readiness) {
        let exchange = self.exchange.as_mut();
        if let Some(lent) = exchange.and_then(|exchange| exchange.route.connection.as_mut()) {
            lent.connection.note(readiness);
        }
    }

    /// The end of the connection, whatever the stage: logs what was under way and gives back
    /// everything borrowed.
    pub(crate) fn close(&mut self, reason: CloseReason, cx: &mut Context) -> Turn {
        if let Some(mut exchange) = self.exchange.take() {
            if exchange.ends_with_connection && exchange.response_side == ResponseSide::Body {
                self.connection.reset_on_close();
            }
            // Before a request there is nothing to record.
            if self.stage != Stage::Accepted {
                self.record(&mut exchange, Some(reason), cx);
            }
            cx.put_back(exchange);
        }
        log::debug!("{}: {}", self.address, reason.text());
        Turn::Closed(reason)
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

impl Route {
    /// Lets go of the backend and forgets the way to it.
    fn clear(&mut self, backends: &mut BackendConnections) {
        // First the place, then the connection: whoever sees the one gone must find the other free.
        self.backend = None;
        if let Some(lent) = self.connection.take() {
            backends.close(lent);
        }
        self.tried.clear();
        *self = Self {
            tried: std::mem::take(&mut self.tried),
            ..Self::default()
        };
    }
}

impl Exchange {
    /// Gives back what was borrowed and forgets the rest, but for the memory.
    pub(crate) fn clear(&mut self, backends: &mut BackendConnections, pipes: &mut Pipes) {
        // Each field by name, so that none can be forgotten, and in place, since this is done for
        // every request: building a new value and moving it in cost 900 instructions more.
        let Self {
            request,
            is_trusted,
            client,
            scheme,
            request_id: _,
            started: _,
            moments,
            decision,
            sent_before: _,
            received,
            held,
            request_side,
            request_relay,
            request_wait,
            route,
            response,
            response_side,
            response_relay,
            response_wait,
            status,
            reason,
            close_client,
            ends_with_connection,
            continued,
            interim_came,
            holds_switch,
            tunnels,
            is_tcp,
        } = self;
        route.clear(backends);
        for relay in [request_relay, response_relay] {
            relay.release_pipe(pipes);
            *relay = Relay::default();
        }
        request.clear();
        response.clear();
        // What was held for one large request must not stay for ever.
        if held.capacity() > HELD_BYTES_KEPT {
            *held = Vec::new();
        }
        held.clear();
        decision.clear();
        *moments = Moments::default();
        (*request_side, *response_side) = Default::default();
        (*request_wait, *response_wait) = Default::default();
        *client = None;
        *received = 0;
        *scheme = Scheme::default();
        *status = None;
        *reason = None;
        for flag in [
            is_trusted,
            close_client,
            ends_with_connection,
            continued,
            interim_came,
            holds_switch,
            tunnels,
            is_tcp,
        ] {
            *flag = false;
        }
    }

    /// The first byte has come, or in tcp mode the connection. `sent`: what the client's connection
    /// has sent so far.
    fn begin_at(&mut self, clock: &Clock, sent: u64) {
        self.started = clock.now();
        self.moments.began = clock.now_us();
        self.sent_before = sent;
    }

    /// Whether the request's body, if it has one, has been read to its end.
    fn has_read_request(&self) -> bool {
        self.request.body() == Body::None
            || (self.route.body_begun && self.request_relay.has_read_all())
    }

    /// The client's address, which is the peer's where nothing else is told.
    fn client(&self, peer: IpAddr) -> IpAddr {
        self.client.unwrap_or(peer)
    }

    /// The id under which the request is logged and forwarded: the client's own if it is fit.
    fn request_id(&self) -> &[u8] {
        self.request.request_id().unwrap_or(&self.request_id)
    }
}

#[cfg(test)]
mod tests;
