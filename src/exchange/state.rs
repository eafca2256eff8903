//! What an exchange holds, and the words of the spine for where it stands.
//!
//! [`Stage`] owns what belongs to one stage, the backend and its connection among it, so that a stage without what it
//! needs cannot be written. [`Exchange`] is what lasts from the first byte to the access line.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::backend_connections::{BackendConnection, BackendConnections};
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::OwnCount;
use crate::exchange::failure::{Age, Failure};
use crate::exchange::record::Moments;
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
use crate::pool::trace::Decision;

/// The client's side of all exchanges on one connection.
#[derive(Debug)]
pub(crate) struct ClientSide {
    /// The socket.
    pub(crate) connection: Connection,
    pub(super) key: Key,
    /// The peer's, or the one that its PROXY protocol header names.
    pub(super) address: SocketAddr,
    /// How the client speaks, where that header says it.
    pub(super) scheme: Option<Scheme>,
}

/// An exchange and where it stands.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    pub(super) stage: Stage,
    pub(super) exchange: Exchange,
}

/// Where an exchange stands, with what it has borrowed there.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// A request's head is arriving.
    #[default]
    RequestHead,
    /// A backend is to be chosen.
    Choosing,
    /// The same backend is asked again, over a fresh connection: the used one has failed.
    Again(Chosen),
    /// A connection to the backend is opening.
    Opening(Opening),
    /// Request and response are passing through.
    Forwarding(BackendSide),
    /// An answer of our own is going out.
    Reply,
    /// Bytes pass in both directions until both have ended.
    Tunnel(BackendSide),
}

/// The backend that has the request.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) place: InFlight,
    /// The client's cookie must be set to this backend's.
    pub(super) set_cookie: bool,
}

/// A connection that is opening.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) chosen: Chosen,
    pub(super) lent: BackendConnection,
    pub(super) address: SocketAddr,
    /// By when this address must have answered.
    pub(super) until: Millis,
    pub(super) walk: Walk,
}

/// The way through a backend's addresses: one after the other, until a connection opens.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) addresses: Arc<[SocketAddr]>,
    pub(super) next: usize,
    /// By when one of them must have answered.
    pub(super) until: Millis,
}

/// The backend's side of an exchange.
#[derive(Debug)]
pub(super) struct BackendSide {
    pub(super) chosen: Chosen,
    pub(super) lent: BackendConnection,
    /// What the connection had sent before this exchange.
    pub(super) sent_before: u64,
    /// The connection may carry another exchange after this one.
    pub(super) reusable: bool,
}

/// What a stage's step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// On at once, in the stage that stands now.
    Again,
    /// On to another stage.
    Go(To),
    /// A peer has to do something first.
    Wait,
    /// There is more to do; the others' turn comes first.
    Yield,
    /// The exchange is over.
    Over(End),
    /// The connection ends, and cuts the exchange short.
    Close(CloseReason),
}

/// The stages that need nothing but what is there.
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
    /// The client's request cannot be taken: the status for it, and the reason for the log.
    Refused(u16, &'static str),
    /// The backend's response broke off after its head had been passed on.
    Broke(RelayError),
    /// The connection ends, and cuts the exchange short.
    Close(CloseReason),
}

/// How an exchange is over without being cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Request and response have passed.
    Forwarded,
    /// An answer of our own has gone out.
    Replied,
    /// No byte of a request had come.
    NoRequest,
    /// The client left without a request that could be answered.
    Abandoned(CloseReason),
}

/// What follows an exchange on the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The wait for the next request.
    NextRequest,
    /// The wait that it was in before.
    SameWait,
    /// Our side is closed, the client's is waited for.
    Linger,
    /// The end.
    Close(CloseReason),
}

/// The snapshot with which an exchange began: its limits and time-outs stay what they were then.
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

/// One request and its response. Kept and used again: its buffers grow to what requests need and
/// stay.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(super) settings: Settings,
    pub(super) request: RequestHead,
    /// Whether what the peer says about the client is believed.
    pub(super) is_trusted: bool,
    /// The client's address, where a trusted peer says it.
    pub(super) client: Option<IpAddr>,
    /// How the client speaks, maybe to a proxy before us.
    pub(super) scheme: Scheme,
    pub(super) request_id: [u8; REQUEST_ID_LEN],
    /// Since when the connection waited for the request.
    pub(super) idle_since: Millis,
    /// When the request's first byte came.
    pub(super) started: Millis,
    /// When what happened, for the log and the record of decisions.
    pub(super) moments: Moments,
    pub(super) decision: Decision,
    /// What the client's connection had sent before this exchange.
    pub(super) sent_before: u64,
    /// What was received of the client's, but for what `request_relay` has taken.
    pub(super) received: u64,
    /// Body bytes that arrived with the head, as long as the request may be sent again.
    pub(super) held: Vec<u8>,
    pub(super) request_side: RequestSide,
    pub(super) request_relay: Relay,
    pub(super) request_wait: Wait,
    /// The request's relay is set up.
    pub(super) body_begun: bool,
    pub(super) tries: Tries,
    pub(super) response: ResponseHead,
    pub(super) response_side: ResponseSide,
    pub(super) response_relay: Relay,
    pub(super) response_wait: Wait,
    /// The status that the client got.
    pub(super) status: Option<u16>,
    /// Why it is an answer of our own; for the log.
    pub(super) reason: Option<&'static str>,
    /// What becomes of the client's connection.
    pub(super) persistence: Persistence,
    /// A 100 (Continue) has been passed on or made.
    pub(super) continued: bool,
    /// What the backend has sent before its final response.
    pub(super) heard: Heard,
}

/// What the tries of a request leave behind, whichever backend has it now.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The backends that this request was sent to or that refused it.
    pub(super) tried: Tried,
    /// How many of `balance.tries` are used up.
    pub(super) used: u32,
    /// How many backends were chosen; for the log.
    pub(super) attempts: u32,
    /// A backend has been blamed for a death in this exchange: a request that kills any backend that serves
    /// it must not take the whole pool down.
    pub(super) has_blamed: bool,
    /// The backend that had the request last. Its place is held until the client has an answer instead of it.
    pub(super) left: Option<InFlight>,
    /// What the client gets when no backend is left to try.
    pub(super) last_failure: Option<LastFailure>,
}

/// A failed try.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastFailure {
    pub(super) failure: Failure,
    pub(super) status: u16,
    pub(super) reason: &'static str,
}

/// How far the request has come on its way to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestSide {
    /// No byte of it has been written.
    #[default]
    Unsent,
    /// Head or body are going out.
    Sending,
    /// All of it has gone out.
    Sent,
    /// The backend takes no more of it. What it answered still counts (an early 413).
    Refused,
}

/// How far the response has come on its way to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ResponseSide {
    /// The final head has not been passed on.
    #[default]
    Head,
    /// The body is passing.
    Body,
    /// All of it has gone out.
    Done,
}

/// Whether the client's connection goes on after the exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Persistence {
    /// The next request may follow.
    #[default]
    Kept,
    /// It is closed after the response.
    Closed,
    /// Its close is the end of the response's body, so a broken response must be cut with a reset, not to look complete.
    EndsBody,
}

impl Persistence {
    pub(super) fn is_kept(self) -> bool {
        self == Persistence::Kept
    }

    /// Closes the connection if it `must` be closed; nothing lets it persist again.
    pub(super) fn close_if(&mut self, must: bool) {
        if must && self.is_kept() {
            *self = Persistence::Closed;
        }
    }
}

/// What has come from the backend before the head of the final response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    Nothing,
    /// An interim response.
    Interim,
    /// A 101 before the request's body was sent, for which it waits in `response`.
    Switch,
}

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
    /// The client's body, of which it has sent nothing because it expects a 100 (Continue) first.
    ClientBodyExpected,
    ClientWrite,
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
    /// Waits for `what`. The time starts again when something else was waited for before, or when
    /// there was `progress` since.
    pub(super) fn set(&mut self, what: WaitFor, now: Millis, timeout: Duration, progress: bool) {
        if progress || self.what != what {
            *self = Wait {
                what,
                until: Clock::after(now, timeout),
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
            Stage::RequestHead | Stage::Choosing | Stage::Reply => None,
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

    /// Ends the stage. Gives the backend's side, if it had one that was open.
    pub(super) fn take_backend(&mut self) -> Option<BackendSide> {
        match std::mem::take(self) {
            Stage::Forwarding(backend) | Stage::Tunnel(backend) => Some(backend),
            stage => {
                *self = stage;
                None
            }
        }
    }

    /// Ends the stage, and lets go of the backend and its connection.
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
            Stage::RequestHead | Stage::Choosing | Stage::Again(_) | Stage::Reply => {}
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
    /// Gives back what was borrowed and forgets the rest, but for the memory.
    pub(crate) fn clear(&mut self, backends: &mut BackendConnections, pipes: &mut Pipes) {
        self.stage.clear(backends);
        self.exchange.clear(pipes);
    }

    /// By when something must have happened.
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

    /// Moves each deadline away by this time.
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
    /// The backend that had the request is not asked again.
    pub(super) fn leave(&mut self, mut place: InFlight) {
        self.tried.insert(&place);
        place.give_back();
        self.left = Some(place);
    }

    fn clear(&mut self) {
        let Self {
            tried,
            used,
            attempts,
            has_blamed,
            left,
            last_failure,
        } = self;
        tried.clear();
        (*used, *attempts, *has_blamed) = (0, 0, false);
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
            moments,
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
        // It may be the last that holds it.
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
        *moments = Moments::default();
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

    /// The first byte has come, or in tcp mode the connection. `sent`: what the client's connection
    /// has sent so far.
    pub(super) fn begin_at(&mut self, now: Millis, now_us: u64, sent: u64) {
        self.started = now;
        self.moments.began = now_us;
        self.sent_before = sent;
    }

    /// Whether the request's body, if it has one, has been read to its end.
    pub(super) fn has_read_request(&self) -> bool {
        self.request.body() == Body::None || (self.body_begun && self.request_relay.has_read_all())
    }

    /// The client's address, which is the peer's where nothing else is told.
    pub(super) fn client(&self, peer: IpAddr) -> IpAddr {
        self.client.unwrap_or(peer)
    }

    /// The id under which the request is logged and forwarded: the client's own if it is fit.
    pub(super) fn request_id(&self) -> &[u8] {
        self.request.request_id().unwrap_or(&self.request_id)
    }
}
