//! Connecting: which backend, and over which connection.
//!
//! Retry is a loop through this stage: `fail` (exchange/ending.rs) looks a failure up, the backend is
//! marked as tried, and `connect` is entered again until a request has gone out or no backend is
//! left. The set of those tried only grows, so the loop ends.
//!
//! Read next: pool/mod.rs, how a backend is chosen; then sending.rs.

use std::net::SocketAddr;

use rustix::io::Errno;

use crate::exchange::Client;
use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::ending::UNAVAILABLE;
use crate::exchange::failure::{Age, Failure};
use crate::exchange::state::{Route, Stage, Step, Wait, WaitFor};
use crate::net::clock::{Clock, Millis};
use crate::pool::backend::InFlight;
use crate::pool::{Choice, Event, Wish};

impl Client {
    /// Chooses a backend, connects if need be, and sends the head.
    pub(super) fn connect(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        if self.connection.is_broken() {
            return Step::Close(CloseReason::ClientGone);
        }
        if exchange.route.connection.is_some() {
            return match exchange.route.finish_connect() {
                None => Step::Wait,
                Some(Ok(())) => {
                    exchange.route.connected(cx);
                    self.send_request(cx)
                }
                Some(Err(failure)) => self.address_failed(failure, cx),
            };
        }
        if exchange.route.backend.is_none() {
            let persistence_cookie = cx.runtime.pool.cookie_name();
            let wish = Wish {
                client: exchange.client(self.address.ip()),
                cookie: persistence_cookie
                    .and_then(|name| exchange.request.cookie(name.as_bytes())),
                tries_left: exchange.route.tries < cx.runtime.config.balance.tries,
            };
            let (tried, decision) = (&mut exchange.route.tried, &mut exchange.decision);
            match cx.runtime.pool.choose(&wish, tried, Some(decision)) {
                Choice::Backend {
                    in_flight,
                    set_cookie,
                } => {
                    exchange.moments.chosen = cx.clock.now_us();
                    exchange.route.enter(in_flight, set_cookie, cx);
                }
                Choice::Unavailable => {
                    self.log_failure(Some(503), &UNAVAILABLE, cx);
                    return self.reply(503, Some(UNAVAILABLE), cx);
                }
                Choice::Exhausted => return self.give_up(cx),
            }
        }
        let now = cx.clock.now();
        let may_reuse = !exchange.route.needs_fresh && !exchange.is_tcp;
        if let (Some(backend), true) = (&exchange.route.backend, may_reuse) {
            while let Some(mut lent) = cx.backends.take_idle(backend, self.key, now) {
                // What cannot be sent twice is not risked on a connection that has just been closed.
                if exchange.may_repeat() || lent.connection.is_silent() {
                    exchange.route.connection = Some(lent);
                    return self.send_request(cx);
                }
                cx.backends.close(lent);
            }
        }
        self.try_next_address(None, cx)
    }

    /// Begins to connect to the backend's next address. After the last one it is `failure` that
    /// counts, unless it only says that an address could not be tried and another one failed.
    fn try_next_address(&mut self, mut failure: Option<Failure>, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let route = &mut exchange.route;
        while let Some((address, until)) = route.next_address(cx.clock.now()) {
            let error = match cx.backends.open(address, self.key, &cx.poller) {
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
                lack @ Failure::NoDescriptor(_) => return self.fail(lack, cx),
                next => failure = Some(next),
            }
        }
        self.fail(failure.unwrap_or(Failure::NoAddress), cx)
    }

    /// A connect ended without a connection.
    fn address_failed(&mut self, failure: Failure, cx: &mut Context) -> Step {
        self.drop_backend_connection(cx);
        match failure {
            Failure::NoDescriptor(_) => self.fail(failure, cx),
            _ => self.try_next_address(Some(failure), cx),
        }
    }

    /// The time for one address is over.
    pub(super) fn connect_timed_out(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        exchange.request_wait = Wait::default();
        // The time may have run out in the moment in which the connection opened.
        let lent = exchange.route.connection.as_ref();
        if lent.is_some_and(|lent| lent.connection.is_writable()) {
            return Step::Go(Stage::Connecting);
        }
        match exchange.route.address {
            Some(address) => self.address_failed(Failure::ConnectTimeout(address), cx),
            None => Step::Go(Stage::Connecting),
        }
    }

    /// Closes the backend's connection.
    pub(super) fn drop_backend_connection(&mut self, cx: &mut Context) {
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.route.close_connection(&mut cx.backends);
        }
    }
}

impl Route {
    /// Turns to the backend that was chosen.
    fn enter(&mut self, backend: InFlight, set_cookie: bool, cx: &Context) {
        self.attempts += 1;
        self.set_cookie = set_cookie;
        self.needs_fresh = false;
        self.next_address = 0;
        self.addresses = None;
        self.address = None;
        self.connect_until = Clock::after(cx.clock.now(), cx.runtime.config.timeouts.connect);
        self.backend = Some(backend);
    }

    /// Turns away from the backend for the rest of this exchange.
    pub(super) fn leave(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.tried.insert(backend.index);
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
            cx.runtime.pool.report(backend, Event::Connected, reason);
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
