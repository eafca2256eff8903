//! Connecting: which backend, and over which connection.
//!
//! Retry is a loop through this stage: `fail` (exchange/ending.rs) looks a failure up, the backend is
//! marked as tried, and `connect` is entered again until a request has gone out or no backend is
//! left. The set of those tried only grows, so the loop ends.
//!
//! Read next: pool/mod.rs, how a backend is chosen; then sending.rs.

use std::net::SocketAddr;

use rustix::io::Errno;

use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::ending::UNAVAILABLE;
use crate::exchange::ending::{fail, give_up};
use crate::exchange::failure::{Age, Failure};
use crate::exchange::record::log_failure;
use crate::exchange::reply::reply;
use crate::exchange::sending::send_request;
use crate::exchange::state::ClientSide;
use crate::exchange::state::{Exchange, Route, Stage, Step, Wait, WaitFor};
use crate::net::clock::{Clock, Millis};
use crate::pool::backend::InFlight;
use crate::pool::{Choice, Event, Wish};

/// Chooses a backend, connects if need be, and sends the head.
pub(super) fn connect(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    if client.connection.is_broken() {
        return Step::Close(CloseReason::ClientGone);
    }
    if exchange.route.connection.is_some() {
        return match exchange.route.finish_connect() {
            None => Step::Wait,
            Some(Ok(())) => {
                exchange.route.connected(cx);
                send_request(client, exchange, cx)
            }
            Some(Err(failure)) => address_failed(client, exchange, failure, cx),
        };
    }
    if exchange.route.backend.is_none() {
        let persistence_cookie = cx.snapshot.pool.cookie_name();
        let wish = Wish {
            client: exchange.client(client.address.ip()),
            cookie: persistence_cookie.and_then(|name| exchange.request.cookie(name.as_bytes())),
            tries_left: exchange.route.tries < exchange.settings.config.balance.tries,
        };
        let (tried, decision) = (&mut exchange.route.tried, &mut exchange.decision);
        match cx.snapshot.pool.choose(&wish, tried, Some(decision)) {
            Choice::Backend {
                in_flight,
                set_cookie,
            } => {
                exchange.moments.chosen = cx.clock.now_us();
                let timeout = exchange.settings.config.timeouts.connect;
                let connect_until = Clock::after(cx.clock.now(), timeout);
                exchange.route.enter(in_flight, set_cookie, connect_until);
            }
            Choice::Unavailable => {
                log_failure(client, exchange, Some(503), &UNAVAILABLE, cx);
                return reply(client, exchange, 503, Some(UNAVAILABLE), cx);
            }
            Choice::Exhausted => return give_up(client, exchange, cx),
        }
    }
    let now = cx.clock.now();
    let may_reuse = !exchange.route.needs_fresh && !cx.is_tcp();
    if let (Some(backend), true) = (&exchange.route.backend, may_reuse) {
        while let Some(mut lent) = cx.backends.take_idle(backend, client.key, now) {
            // What cannot be sent twice is not risked on a connection that has just been closed.
            if exchange.may_repeat() || lent.connection.is_silent() {
                exchange.route.connection = Some(lent);
                return send_request(client, exchange, cx);
            }
            cx.backends.close(lent);
        }
    }
    try_next_address(client, exchange, None, cx)
}

/// Begins to connect to the backend's next address. After the last one it is `failure` that
/// counts, unless it only says that an address could not be tried and another one failed.
fn try_next_address(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    mut failure: Option<Failure>,
    cx: &mut Context,
) -> Step {
    let route = &mut exchange.route;
    while let Some((address, until)) = route.next_address(cx.clock.now()) {
        let error = match cx.backends.open(address, client.key, &cx.poller) {
            Ok(lent) => {
                route.connection = Some(lent);
                exchange.request_wait = Wait {
                    what: WaitFor::Connect,
                    until,
                };
                return Step::Wait;
            }
            Err(error) => error,
        };
        match Failure::of_connect(address, &error) {
            Failure::NoPort(_) if failure.is_some() => {}
            lack @ Failure::NoDescriptor(_) => return fail(client, exchange, lack, cx),
            next => failure = Some(next),
        }
    }
    fail(client, exchange, failure.unwrap_or(Failure::NoAddress), cx)
}

/// A connect ended without a connection.
fn address_failed(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    failure: Failure,
    cx: &mut Context,
) -> Step {
    exchange.route.close_connection(&mut cx.backends);
    match failure {
        Failure::NoDescriptor(_) => fail(client, exchange, failure, cx),
        _ => try_next_address(client, exchange, Some(failure), cx),
    }
}

/// The time for one address is over.
pub(super) fn connect_timed_out(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    exchange.request_wait = Wait::default();
    // The time may have run out in the moment in which the connection opened.
    let lent = exchange.route.connection.as_ref();
    if lent.is_some_and(|lent| lent.connection.is_writable()) {
        return Step::Go(Stage::Connecting);
    }
    match exchange.route.address {
        Some(address) => address_failed(client, exchange, Failure::ConnectTimeout(address), cx),
        None => Step::Go(Stage::Connecting),
    }
}

impl Route {
    /// Turns to the backend that was chosen.
    fn enter(&mut self, backend: InFlight, set_cookie: bool, connect_until: Millis) {
        self.attempts += 1;
        self.set_cookie = set_cookie;
        self.needs_fresh = false;
        self.next_address = 0;
        self.addresses = None;
        self.address = None;
        self.connect_until = connect_until;
        self.backend = Some(backend);
    }

    /// Turns away from the backend for the rest of this exchange.
    pub(super) fn leave(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.tried.insert(&backend);
        }
        self.addresses = None;
    }

    /// The backend's next address, and until when it may take to answer: an equal share of the time
    /// that is left for all of them.
    fn next_address(&mut self, now: Millis) -> Option<(SocketAddr, Millis)> {
        let backend = self.backend.as_ref()?;
        if self.addresses.is_none() {
            self.next_address = 0;
        }
        let addresses = self.addresses.get_or_insert_with(|| backend.addresses());
        let address = *addresses.get(self.next_address)?;
        self.address = Some(address);
        let left_count = (addresses.len() - self.next_address) as u64;
        self.next_address += 1;
        let left_ms = self.connect_until.saturating_sub(now);
        Some((address, now + left_ms.div_ceil(left_count)))
    }

    /// Whether the connect under way has ended, and how.
    fn finish_connect(&self) -> Option<Result<(), Failure>> {
        let (lent, address) = (self.connection.as_ref()?, self.address?);
        if !lent.connection.is_writable() {
            return None;
        }
        Some(match lent.connection.take_error() {
            // TCP meets itself where the kernel picks the port of a backend that does not listen for
            // our end of the connection.
            Ok(None) if lent.connection.is_connected_to_itself(address) => {
                Err(Failure::ConnectRefused(address, Errno::CONNREFUSED))
            }
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(Failure::of_connect(address, &error)),
        })
    }

    /// The connection is open.
    fn connected(&mut self, cx: &Context) {
        if let (Some(backend), Some(address)) = (&self.backend, self.address) {
            if self.next_address > 1 {
                backend.address_worked(address);
            }
            let reason = &"a client's exchange connected";
            cx.snapshot.pool.report(backend, Event::Connected, reason);
        }
    }

    /// Whether the connection at hand has carried other exchanges before.
    pub(super) fn age(&self) -> Age {
        match &self.connection {
            Some(lent) if lent.reused => Age::Reused,
            _ => Age::Fresh,
        }
    }

    pub(super) fn close_connection(&mut self, backends: &mut BackendConnections) {
        if let Some(lent) = self.connection.take() {
            backends.close(lent);
        }
    }
}
