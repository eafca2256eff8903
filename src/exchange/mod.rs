//! One client connection and the exchange on it: the spine of the program.
//!
//! ```text
//! Idle -> RequestHead -> Choosing -> Opening -> Forwarding -> Idle | Lingering
//!    Choosing -> Forwarding (over an idle connection), Queued (all are full) -> Opening, Forwarding
//!    Opening, Forwarding -> Choosing (another backend), Again (the same one) -> Opening
//!    any of them -> Reply (an answer of our own) -> Idle | Lingering
//!    Forwarding (101) -> Tunnel
//! Accepted (PROXY protocol) -> Idle;  tcp mode: Accepted -> Choosing -> Opening -> Forwarding -> Tunnel
//! ```
//!
//! The state of a connection is a value that owns what it needs, and so is the stage of an
//! exchange: `advance` is the one `match` on each. A stage is a function of the client's side, the
//! backend's side where it has one, the exchange and what the worker lends; `ending` acts on what
//! it cannot go on from. `Forwarding` is full duplex: the request side and the response side each
//! have a state of their own there, since a response may begin, and end, while the request's body
//! is still going out.
//!
//! Nothing here blocks. A step that needs a peer leaves the exchange with a deadline and returns;
//! the worker resumes it at the next event.
//!
//! Read next: `exchange/state.rs` (what an exchange holds), then `request_head`, `connecting`,
//! `sending` and `forwarding`, in the order of a request; `ending` and `record` close it. Beside
//! them: `accepted` (what comes before the first request), `reply`, `tunnel`, `lingering`,
//! `context` (what a worker lends), `backend_connections`, `failure` (what follows from one),
//! `close_reason` and `request_id`.

mod accepted;
pub(crate) mod backend_connections;
mod close_reason;
mod connecting;
pub(crate) mod context;
mod ending;
pub(crate) mod failure;
mod forwarding;
mod lingering;
pub(crate) mod memory;
mod record;
pub(crate) mod relay;
mod reply;
mod request_head;
mod request_id;
mod sending;
mod state;
mod tunnel;

use std::net::{SocketAddr, TcpStream};

use crate::exchange::accepted::{Accepted, Next};
use crate::exchange::context::Context;
use crate::exchange::ending::{cut, finish, finish_reply};
use crate::exchange::failure::Failure;
use crate::exchange::lingering::Lingering;
use crate::exchange::state::{After, Busy, ClientSide, End, Stage, Step, To};
use crate::exchange::state::{Trouble, Wait, WaitFor};
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::connection::Connection;
use crate::net::idle_list::Kind;
use crate::net::poller::Readiness;
use crate::net::slab::Key;
use crate::traffic::Apart;

pub(crate) use close_reason::CloseReason;

/// Steps that one connection may take before the other connections have a turn.
const STEPS_MAX: usize = 64;

/// A client's connection and the exchange on it.
#[derive(Debug)]
pub(crate) struct Client {
    pub side: ClientSide,
    /// When the worker looks at `deadline` next (see `timers::Timers`).
    pub timer: Millis,
    /// Whether the connection is in the worker's queue.
    pub is_queued: bool,
    /// As what it is counted.
    pub counted: Option<Apart>,
    state: State,
}

/// The state of a connection, with what it needs there.
#[derive(Debug)]
enum State {
    /// A new connection on which something comes before the first request.
    Accepted(Accepted),
    /// No request has begun.
    Idle { since: Millis },
    /// A request is under way.
    Busy(Box<Busy>),
    /// Our side is closed; what still arrives is discarded.
    Lingering(Lingering),
}

/// What a new connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// A request.
    Request,
    /// A PROXY protocol header, or in tcp mode the exchange itself.
    Preface,
}

/// The result of `advance`.
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
    /// A new connection.
    pub(crate) fn new(
        stream: TcpStream,
        address: SocketAddr,
        key: Key,
        first: First,
        clock: &Clock,
    ) -> Self {
        Self {
            side: ClientSide {
                connection: Connection::new(stream),
                key,
                address,
                scheme: None,
            },
            timer: NEVER,
            is_queued: false,
            counted: None,
            state: match first {
                First::Request => State::Idle { since: clock.now() },
                First::Preface => State::Accepted(Accepted::new(clock)),
            },
        }
    }

    /// Carries the connection on until it must wait or is closed.
    pub(crate) fn advance(&mut self, cx: &mut Context) -> Turn {
        for _ in 0..STEPS_MAX {
            match &mut self.state {
                State::Idle { since } => {
                    let Some(busy) = request_head::await_request(&self.side, *since, cx) else {
                        return Turn::Waiting;
                    };
                    self.state = State::Busy(busy);
                }
                State::Busy(busy) => match busy.advance(&mut self.side, cx) {
                    Step::Go(to) => {
                        busy.go(to);
                        if to == To::Tunnel {
                            self.count_as(Apart::Tunnel, cx);
                        }
                    }
                    Step::Again => {}
                    Step::Wait => return Turn::Waiting,
                    Step::Yield => return Turn::Again,
                    Step::Close(reason) => return self.close(reason, cx),
                    Step::Over(end) => {
                        if let Some(turn) = self.end_exchange(end, cx) {
                            return turn;
                        }
                    }
                },
                State::Accepted(accepted) => {
                    self.state = match accepted.advance(&mut self.side, cx) {
                        Next::Wait => return Turn::Waiting,
                        Next::Idle => State::Idle {
                            since: cx.clock.now(),
                        },
                        Next::Connect(busy) => State::Busy(busy),
                        Next::Close(reason) => return self.close(reason, cx),
                    };
                }
                State::Lingering(lingering) => {
                    return match lingering.advance(&mut self.side.connection, cx) {
                        Some(reason) => self.close(reason, cx),
                        None => Turn::Waiting,
                    };
                }
            }
        }
        Turn::Again
    }

    /// Ends the exchange under way. `Some`: nothing is left to do on the connection now.
    fn end_exchange(&mut self, end: End, cx: &mut Context) -> Option<Turn> {
        // Taken out first: a panic from here on cannot meet the exchange a second time.
        let mut busy = self.take_exchange(cx.clock.now())?;
        let (client, idle_since) = (&mut self.side, busy.exchange.idle_since);
        let after = match end {
            End::Forwarded => finish(client, &mut busy, cx),
            End::Replied => finish_reply(client, &mut busy, cx),
            End::NoRequest => After::SameWait,
            End::Abandoned(reason) => After::Close(reason),
        };
        cx.put_back(busy);
        match after {
            After::NextRequest => None,
            After::SameWait => {
                self.state = State::Idle { since: idle_since };
                Some(Turn::Waiting)
            }
            After::Linger => {
                let lingering = Lingering::begin(&mut self.side.connection, cx.clock.now());
                self.state = State::Lingering(lingering);
                self.count_as(Apart::Closing, cx);
                None
            }
            After::Close(reason) => Some(self.close(reason, cx)),
        }
    }

    /// Takes the exchange under way, if there is one, off the connection, which is then idle.
    fn take_exchange(&mut self, now: Millis) -> Option<Box<Busy>> {
        match std::mem::replace(&mut self.state, State::Idle { since: now }) {
            State::Busy(busy) => Some(busy),
            State::Accepted(_) | State::Idle { .. } | State::Lingering(_) => None,
        }
    }

    /// Ends the connection in whatever state: logs the exchange under way and gives back what it
    /// had borrowed.
    pub(crate) fn close(&mut self, reason: CloseReason, cx: &mut Context) -> Turn {
        if let Some(mut busy) = self.take_exchange(cx.clock.now()) {
            cut(&mut self.side, &mut busy, reason, cx);
            cx.put_back(busy);
        }
        log::debug!("{}: {}", self.side.address, reason.text());
        Turn::Closed(reason)
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
        match &mut self.state {
            State::Idle { .. } => Turn::Waiting,
            State::Accepted(_) => self.close(CloseReason::NoProxyHeader, cx),
            State::Lingering(_) => self.close(CloseReason::LingerTimeout, cx),
            State::Busy(busy) => match busy.time_out(&mut self.side, now, cx) {
                Step::Go(to) => {
                    busy.go(to);
                    self.advance(cx)
                }
                Step::Again => self.advance(cx),
                Step::Wait | Step::Yield => Turn::Again,
                Step::Close(reason) => self.close(reason, cx),
                Step::Over(end) => self.end_exchange(end, cx).unwrap_or(Turn::Again),
            },
        }
    }

    /// The deadline of this connection. Idle connections have none here: the worker keeps them in
    /// the order of their age.
    pub(crate) fn deadline(&self) -> Millis {
        match &self.state {
            State::Accepted(accepted) => accepted.until,
            State::Idle { .. } => NEVER,
            State::Busy(busy) => busy.deadline(),
            State::Lingering(lingering) => lingering.until,
        }
    }

    /// Moves every deadline by this time.
    pub(crate) fn postpone(&mut self, by: Millis) {
        let later = |until: &mut Millis| *until = until.saturating_add(by);
        match &mut self.state {
            State::Idle { .. } => {}
            State::Accepted(accepted) => later(&mut accepted.until),
            State::Busy(busy) => busy.postpone(by),
            State::Lingering(lingering) => later(&mut lingering.until),
        }
    }

    /// Since when the connection is idle, and whether it has had an answer; `None` during an
    /// exchange.
    pub(crate) fn idle(&self) -> Option<(Kind, Millis)> {
        let since = match &self.state {
            State::Idle { since } => *since,
            State::Accepted(accepted) if self.side.connection.buffered().is_empty() => {
                accepted.since
            }
            _ => return None,
        };
        let kind = if self.side.connection.sent() > 0 {
            Kind::Answered
        } else {
            Kind::Silent
        };
        Some((kind, since))
    }

    fn count_as(&mut self, state: Apart, cx: &Context) {
        cx.traffic.moved(self.counted, Some(state));
        self.counted = Some(state);
    }

    /// Notes what an event said about the backend's socket.
    pub(crate) fn note_backend(&mut self, readiness: Readiness) {
        if let State::Busy(busy) = &mut self.state
            && let Some(connection) = busy.stage.connection()
        {
            connection.note(readiness);
        }
    }

    /// Whether events say that a peer has not taken its bytes in time. The kernel reports room only
    /// when a third of its buffer is free, which a slow but healthy peer may not manage; so one
    /// more write is tried, and whatever it takes counts as progress.
    fn try_late_writes(&mut self, now: Millis) -> bool {
        let State::Busy(busy) = &mut self.state else {
            return false;
        };
        let Busy { stage, exchange } = &mut **busy;
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
        self.side.connection.mark_writable();
        if let Some(connection) = stage.connection() {
            connection.mark_writable();
        }
        true
    }
}

impl Busy {
    /// Takes one step of the current stage.
    fn advance(&mut self, client: &mut ClientSide, cx: &mut Context) -> Step {
        let Self { stage, exchange } = self;
        match stage {
            Stage::RequestHead => request_head::read_request_head(client, exchange, cx),
            Stage::Choosing => connecting::choose(client, stage, exchange, cx),
            Stage::Queued(_) => connecting::await_place(client, stage, exchange, cx),
            Stage::Again(_) | Stage::Opening(_) => connecting::connect(client, stage, exchange, cx),
            Stage::Forwarding(backend) => {
                match forwarding::forward(client, backend, exchange, cx) {
                    Ok(step) => step,
                    Err(trouble) => ending::leave(client, stage, exchange, trouble, cx),
                }
            }
            Stage::Reply => reply::send_reply(client, exchange, cx),
            Stage::Tunnel(backend) => tunnel::tunnel(client, backend, exchange, cx),
        }
    }

    /// Changes the stage.
    fn go(&mut self, to: To) {
        match to {
            To::Backend => self.stage = Stage::Choosing,
            To::Reply => self.stage = Stage::Reply,
            To::Tunnel => self.begin_tunnel(),
        }
    }

    /// Acts on the first wait whose deadline has passed.
    fn time_out(&mut self, client: &mut ClientSide, now: Millis, cx: &mut Context) -> Step {
        let Self { stage, exchange } = self;
        if let Stage::Opening(_) = stage {
            return connecting::connect_timed_out(client, stage, exchange, cx);
        }
        if let Stage::Queued(_) = stage {
            return connecting::wait_timed_out(client, stage, exchange, cx);
        }
        let wait = match (exchange.request_wait, exchange.response_wait) {
            (wait, _) if wait.is_over(now) => wait.what,
            (_, wait) => wait.what,
        };
        let has_begun = exchange.status.is_some();
        let trouble = match wait {
            WaitFor::Nothing => return Step::Wait,
            WaitFor::ClientHead => return request_head::head_timed_out(client, exchange, cx),
            WaitFor::ClientBodyExpected => return forwarding::send_continue(client, exchange, cx),
            WaitFor::ClientBody if !has_begun => {
                Trouble::Refused(408, CloseReason::ClientBodyTimeout.text())
            }
            WaitFor::ClientBody => Trouble::Close(CloseReason::ClientBodyTimeout),
            WaitFor::ClientWrite => Trouble::Close(CloseReason::ClientWriteTimeout),
            WaitFor::BackendWrite | WaitFor::ResponseHead if !has_begun => {
                Trouble::Failed(Failure::HeadTimeout)
            }
            WaitFor::BackendWrite | WaitFor::ResponseHead | WaitFor::ResponseBody => {
                let reason = CloseReason::BackendTimeout;
                let backend = stage.chosen().map(|chosen| &*chosen.place);
                record::log_failure(client, exchange, backend, None, &reason.text(), cx);
                Trouble::Close(reason)
            }
            WaitFor::HalfClosed | WaitFor::Place => Trouble::Close(CloseReason::ClientGone),
            WaitFor::Tunnel | WaitFor::HalfTunnel => Trouble::Close(CloseReason::TunnelTimeout),
        };
        ending::leave(client, stage, exchange, trouble, cx)
    }
}

#[cfg(test)]
mod tests;
