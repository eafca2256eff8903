//! What an exchange holds, and the types for where it stands.
//!
//! [`Stage`] owns what belongs to one stage, including the backend and its connection, so that a
//! stage without what it needs cannot be written. [`Exchange`] is what lasts from the first byte to
//! the access line.
//!
//! Read next: `exchange/request_head.rs`, the first stage.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::backend_connections::{BackendConnection, BackendConnections};
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::OwnCount;
use crate::exchange::failure::{Age, Failure};
use crate::exchange::record::Timestamps;
use crate::exchange::relay::{Relay, RelayError};
use crate::exchange::request_id::REQUEST_ID_LEN;
use crate::http::Body;
use crate::http::{RequestHead, ResponseHead, Scheme};
use crate::live::Snapshot;
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::connection::Connection;
use crate::net::pipes::Pipes;
use crate::net::slab::Key;
use crate::pool::Tried;
use crate::pool::backend::InFlight;
use crate::pool::queue::Waiting;
use crate::pool::trace::{Decision, Outcome};

/// The client's side of all exchanges on one connection.
#[derive(Debug)]
pub(crate) struct ClientSide {
    /// The socket.
    pub(crate) connection: Connection,
    pub(super) key: Key,
    /// The peer's address, or the one in its PROXY protocol header.
    pub(super) address: SocketAddr,
    /// Whether the client came over TLS, where that header says so.
    pub(super) scheme: Option<Scheme>,
}

/// An exchange and its stage.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    pub(super) stage: Stage,
    pub(super) exchange: Exchange,
}

/// The stage of an exchange, with what it has borrowed there.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// A request's head is arriving.
    #[default]
    RequestHead,
    /// A backend is about to be chosen.
    Choosing,
    /// All backends are full: a place at one of them is waited for.
    Queued(Waiting),
    /// The same backend is asked again, over a new connection: the reused one failed.
    Again(Chosen),
    /// A connection to the backend is opening.
    Opening(Opening),
    /// Request and response are being forwarded.
    Forwarding(BackendSide),
    /// An answer of our own is being sent.
    Reply,
    /// Bytes pass in both directions until both have ended.
    Tunnel(BackendSide),
}

/// The backend that has the request.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) place: InFlight,
    /// The response must set the client's cookie to this backend.
    pub(super) set_cookie: bool,
}

/// A connection that is opening.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) chosen: Chosen,
    pub(super) lent: BackendConnection,
    pub(super) address: SocketAddr,
    /// When to give up on this address.
    pub(super) until: Millis,
    pub(super) walk: Walk,
}

/// The backend's addresses, tried one after the other until a connection opens.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) addresses: Arc<[SocketAddr]>,
    pub(super) next: usize,
    /// When to give up on all of them.
    pub(super) until: Millis,
}

/// The backend's side of an exchange.
#[derive(Debug)]
pub(super) struct BackendSide {
    pub(super) chosen: Chosen,
    pub(super) lent: BackendConnection,
    /// Bytes sent on the connection before this exchange.
    pub(super) sent_before: u64,
    /// The connection may carry another exchange after this one.
    pub(super) reusable: bool,
}

/// The result of one step of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on at once, in the stage that is now set.
    Again,
    /// On to another stage.
    Go(To),
    /// A peer has to do something first.
    Wait,
    /// There is more to do, but other connections have a turn first.
    Yield,
    /// The exchange is over.
    Over(End),
    /// The connection ends, in the midst of the exchange.
    Close(CloseReason),
}

/// The stages that need nothing beyond what is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// A backend is to be chosen.
    Backend,
    /// An answer of our own has begun.
    Reply,
    /// The backend's side goes on as a tunnel.
    Tunnel,
}

/// Why forwarding cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The backend failed before its response head was passed on.
    Failed(Failure),
    /// The client's request is refused: with this status, and this reason for the log.
    Refused(u16, &'static str),
    /// The backend's response broke off after its head had been forwarded.
    Broke(RelayError),
    /// The connection ends, in the midst of the exchange.
    Close(CloseReason),
}

/// How an exchange ends without being cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Request and response have been forwarded.
    Forwarded,
    /// An answer of our own has gone out.
    Replied,
    /// No byte of a request had come.
    NoRequest,
    /// The client left without a request that could be answered.
    Abandoned(CloseReason),
}

/// What becomes of the client's connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next request.
    NextRequest,
    /// It waits on, as if no exchange had begun.
    SameWait,
    /// Our side is closed; the client's close is waited for.
    Linger,
    /// It is closed.
    Close(CloseReason),
}

/// The snapshot of an exchange: the limits and time-outs of its beginning hold to its end.
#[derive(Debug, Default)]
pub(crate) struct Settings(Option<OwnCount>);

impl Settings {
    pub(super) fn of(snapshot: &OwnCount) -> Settings {
        Settings(Some(snapshot.clone()))
    }
}

impl Deref for Settings {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        let snapshot = self.0.as_ref();
        snapshot.expect("an exchange has its settings from its beginning to its end")
    }
}

/// One request and its response. Reused for the next one: its buffers keep their memory.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(super) settings: Settings,
    pub(super) request: RequestHead,
    /// Whether the peer is a trusted proxy.
    pub(super) is_trusted: bool,
    /// The client's address, as a trusted proxy gives it.
    pub(super) client: Option<IpAddr>,
    /// Whether the client came over TLS, perhaps to a proxy before us.
    pub(super) scheme: Scheme,
    pub(super) request_id: [u8; REQUEST_ID_LEN],
    /// Since when the connection had been idle.
    pub(super) idle_since: Millis,
    /// When the first byte of the request came.
    pub(super) started: Millis,
    /// For the log and the record of decisions.
    pub(super) timestamps: Timestamps,
    pub(super) decision: Decision,
    /// Bytes sent on the client's connection before this exchange.
    pub(super) sent_before: u64,
    /// Bytes received from the client, without those that `request_relay` has taken.
    pub(super) received: u64,
    /// Body bytes that arrived with the head, as long as the request may be sent again.
    pub(super) held: Vec<u8>,
    pub(super) request_side: RequestSide,
    pub(super) request_relay: Relay,
    pub(super) request_wait: Wait,
    /// Whether the request's relay is set up.
    pub(super) body_begun: bool,
    pub(super) tries: Tries,
    pub(super) response: ResponseHead,
    pub(super) response_side: ResponseSide,
    pub(super) response_relay: Relay,
    pub(super) response_wait: Wait,
    /// The status that the client receives.
    pub(super) status: Option<u16>,
    /// Why the answer is our own, for the log.
    pub(super) reason: Option<&'static str>,
    /// Whether the client's connection persists.
    pub(super) persistence: Persistence,
    /// Whether the client has been sent a 100 (Continue).
    pub(super) continued: bool,
    /// What the backend has sent before its final response.
    pub(super) heard: Heard,
}

/// What the tries of a request leave behind, whichever backend has it.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The backends that this request was sent to or that refused it.
    pub(super) tried: Tried,
    /// How many of `balance.tries` are used up.
    pub(super) used: u32,
    /// Whether the last one cost a try after the request had been sent.
    pub(super) repeats: bool,
    /// How many backends were chosen; for the log.
    pub(super) attempts: u32,
    /// A backend has been blamed for a death in this exchange: a request that kills each backend
    /// that serves it must not take the whole pool down.
    pub(super) has_blamed: bool,
    /// The backend that had the request last, for the log.
    pub(super) left: Option<InFlight>,
    /// What decides the status when no backend is left to try.
    pub(super) last_failure: Option<LastFailure>,
}

/// The failure of a try.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastFailure {
    pub(super) failure: Failure,
    pub(super) status: u16,
    pub(super) reason: &'static str,
    pub(super) outcome: Outcome,
}

/// How much of the request the backend has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestSide {
    /// No byte of it has been written.
    #[default]
    Unsent,
    /// Head or body are being sent.
    Sending,
    /// All of it has been sent.
    Sent,
    /// The backend takes no more of it. A response from it still counts (an early 413).
    Refused,
}

/// How much of the response the client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ResponseSide {
    /// The final head has not been sent.
    #[default]
    Head,
    /// The body is being sent.
    Body,
    /// All of it has been sent.
    Done,
}

/// Whether the client's connection persists after the exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It does.
    #[default]
    Kept,
    /// It is closed after the response.
    Closed,
    /// Its close ends the response's body, so a broken response must be cut with a reset, or it
    /// would look complete.
    EndsBody,
}

impl Persistence {
    pub(super) fn is_kept(self) -> bool {
        self == Persistence::Kept
    }

    /// Closes the connection after the exchange if it `must` be closed; it stays so.
    pub(super) fn close_if(&mut self, must: bool) {
        if must && self.is_kept() {
            *self = Persistence::Closed;
        }
    }
}

/// What the backend has sent before the head of the final response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    Nothing,
    /// An interim response.
    Interim,
    /// A 101, which waits in `response` until the request's body has been sent.
    Switch,
}

/// How long a response may take for a client that has closed its sending side.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What one side waits for, and how long it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) what: WaitFor,
    pub(super) until: Millis,
}

/// Everything that an exchange can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    Nothing,
    ClientHead,
    ClientBody,
    /// The client's body, none of which has come: it expects a 100 (Continue) first.
    ClientBodyExpected,
    ClientWrite,
    BackendWrite,
    ResponseHead,
    ResponseBody,
    /// A place at a backend, in the queue.
    Place,
    /// The backend, for a client that has closed its sending side and may be gone.
    HalfClosed,
    Tunnel,
    /// A tunnel that one side has ended.
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
    /// Waits for `what`. The time starts again if something else was waited for before, or if there
    /// was `progress` since.
    pub(super) fn set(&mut self, what: WaitFor, now: Millis, timeout: Duration, progress: bool) {
        if progress || self.what != what {
            *self = Wait {
                what,
                until: Clock::after(now, timeout),
            };
        }
    }

    /// Waits no longer than for a client that has closed its sending side and may be gone. The time
    /// runs from the moment in which that was seen.
    pub(super) fn half_close(&mut self, now: Millis) {
        if self.what != WaitFor::HalfClosed {
            *self = Wait {
                what: WaitFor::HalfClosed,
                until: Clock::after(now, HALF_CLOSED).min(self.until),
            };
        }
    }

    pub(super) fn is_over(self, now: Millis) -> bool {
        self.until <= now
    }
}

impl Stage {
    /// The backend that has the request.
    pub(super) fn chosen(&mut self) -> Option<&mut Chosen> {
        match self {
            Stage::Again(chosen) => Some(chosen),
            Stage::Opening(opening) => Some(&mut opening.chosen),
            Stage::Forwarding(backend) | Stage::Tunnel(backend) => Some(&mut backend.chosen),
            Stage::RequestHead | Stage::Choosing | Stage::Queued(_) | Stage::Reply => None,
        }
    }

    /// The connection to it.
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        match self {
            Stage::Opening(opening) => Some(&mut opening.lent.connection),
            Stage::Forwarding(backend) | Stage::Tunnel(backend) => {
                Some(&mut backend.lent.connection)
            }
            _ => None,
        }
    }

    /// Ends the stage. Returns the backend's side if it was open.
    pub(super) fn take_backend(&mut self) -> Option<BackendSide> {
        match std::mem::take(self) {
            Stage::Forwarding(backend) | Stage::Tunnel(backend) => Some(backend),
            stage => {
                *self = stage;
                None
            }
        }
    }

    /// Ends the stage and gives up the backend and its connection.
    fn clear(&mut self, backends: &mut BackendConnections) {
        let Some(chosen) = self.chosen() else {
            *self = Stage::RequestHead;
            return;
        };
        // Give the in-flight place back before the connection closes: a peer that sees the
        // connection closed must find the place free.
        chosen.place.give_back();
        match std::mem::take(self) {
            Stage::Opening(opening) => backends.close(opening.lent),
            Stage::Forwarding(backend) | Stage::Tunnel(backend) => backends.close(backend.lent),
            Stage::RequestHead
            | Stage::Choosing
            | Stage::Queued(_)
            | Stage::Again(_)
            | Stage::Reply => {}
        }
    }
}

impl BackendSide {
    pub(super) fn new(chosen: Chosen, lent: BackendConnection) -> Self {
        Self {
            sent_before: lent.connection.sent(),
            reusable: false,
            chosen,
            lent,
        }
    }

    /// Whether the connection has carried other exchanges before.
    pub(super) fn age(&self) -> Age {
        if self.lent.reused {
            Age::Reused
        } else {
            Age::Fresh
        }
    }
}

impl Busy {
    /// Gives back what was borrowed and resets the rest, keeping buffers.
    pub(crate) fn clear(&mut self, backends: &mut BackendConnections, pipes: &mut Pipes) {
        self.stage.clear(backends);
        self.exchange.clear(pipes);
    }

    /// The nearest deadline.
    pub(super) fn deadline(&self) -> Millis {
        let Self { stage, exchange } = self;
        match stage {
            Stage::Opening(opening) => opening.until,
            _ => exchange
                .request_wait
                .until
                .min(exchange.response_wait.until),
        }
    }

    /// Moves each deadline by this time.
    pub(super) fn postpone(&mut self, by: Millis) {
        let later = |until: &mut Millis| *until = until.saturating_add(by);
        if let Stage::Opening(opening) = &mut self.stage {
            later(&mut opening.until);
            later(&mut opening.walk.until);
        }
        later(&mut self.exchange.request_wait.until);
        later(&mut self.exchange.response_wait.until);
    }
}

impl Tries {
    /// Gives up the backend: it is not asked again.
    pub(super) fn leave(&mut self, mut place: InFlight) {
        self.tried.insert(&place);
        place.give_back();
        self.left = Some(place);
    }

    fn clear(&mut self) {
        let Self {
            tried,
            used,
            repeats,
            attempts,
            has_blamed,
            left,
            last_failure,
        } = self;
        tried.clear();
        (*used, *repeats, *attempts, *has_blamed) = (0, false, 0, false);
        *left = None;
        *last_failure = None;
    }
}

impl Exchange {
    fn clear(&mut self, pipes: &mut Pipes) {
        // Each field by name, so that none can be forgotten, and in place, since this is done for
        // every request: building a new value and moving it in cost 900 instructions more.
        let Self {
            settings,
            request,
            is_trusted,
            client,
            scheme,
            request_id: _,
            idle_since: _,
            started: _,
            timestamps,
            decision,
            sent_before: _,
            received,
            held,
            request_side,
            request_relay,
            request_wait,
            body_begun,
            tries,
            response,
            response_side,
            response_relay,
            response_wait,
            status,
            reason,
            persistence,
            continued,
            heard,
        } = self;
        // This may be the last holder of the snapshot.
        *settings = Settings::default();
        tries.clear();
        for relay in [request_relay, response_relay] {
            relay.release_pipe(pipes);
            *relay = Relay::default();
        }
        request.clear();
        response.clear();
        *held = Vec::new();
        decision.clear();
        *timestamps = Timestamps::default();
        (*request_side, *response_side) = Default::default();
        (*request_wait, *response_wait) = Default::default();
        *client = None;
        *received = 0;
        *scheme = Scheme::default();
        *status = None;
        *reason = None;
        *persistence = Persistence::default();
        *heard = Heard::default();
        (*is_trusted, *continued, *body_begun) = (false, false, false);
    }

    /// The first byte has come (in tcp mode the connection). `sent`: bytes sent so far on the
    /// client's connection.
    pub(super) fn begin_at(&mut self, now: Millis, now_us: u64, sent: u64) {
        self.started = now;
        self.timestamps.began = now_us;
        self.sent_before = sent;
    }

    /// Whether the request's body, if any, has been read to its end.
    pub(super) fn has_read_request(&self) -> bool {
        self.request.body() == Body::None || (self.body_begun && self.request_relay.has_read_all())
    }

    /// The client's address: the peer's, unless a trusted proxy gave another.
    pub(super) fn client(&self, peer: IpAddr) -> IpAddr {
        self.client.unwrap_or(peer)
    }

    /// The id under which the request is logged and forwarded: the client's own if it is valid.
    pub(super) fn request_id(&self) -> &[u8] {
        self.request.request_id().unwrap_or(&self.request_id)
    }
}
