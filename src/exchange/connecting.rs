//! Connecting: which backend, over which connection, and what to do when it fails.
//!
//! Retry is a loop through this stage: a failure is looked up in exchange/failure.rs, the backend is
//! marked as tried, and `connect` is entered again until a request has gone out or no backend is
//! left. The set of those tried only grows, so the loop ends.
//!
//! Read next: pool/mod.rs, how a backend is chosen; exchange/failure.rs; then forwarding.rs.

use std::net::SocketAddr;

use rustix::io::Errno;

use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::context::Context;
use crate::exchange::failure::{Age, Failure, Next, Request};
use crate::exchange::relay::{Relay, Writer};
use crate::exchange::{
    Client, CloseReason, Exchange, LastFailure, RequestSide, Route, Stage, Step, Wait, WaitFor,
};
use crate::http::Body;
use crate::http::forward::{RequestForwarding, write_request};
use crate::net::clock::{Clock, Millis};
use crate::net::proxy_protocol;
use crate::pool::backend::InFlight;
use crate::pool::trace::Rule;
use crate::pool::{Choice, Event, Wish};

/// What the log says of a request for which no backend may be asked.
const UNAVAILABLE: &str = "no backend may take it";

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
            let error =
                match cx
                    .backends
                    .open(address, self.key, &cx.poller, cx.runtime.pool.backends())
                {
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

    /// Writes the request anew and sends it, with what there is of its body in the same write.
    fn send_request(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        exchange.record_sent(cx.clock.now_us());
        let Exchange {
            request,
            request_relay,
            route,
            held,
            ..
        } = exchange;
        let (Some(backend), Some(lent)) = (&route.backend, &mut route.connection) else {
            return Step::Go(Stage::Connecting);
        };
        let config = &cx.runtime.config;
        let how = RequestForwarding {
            peer: self.address.ip(),
            trusted: exchange.is_trusted,
            scheme: exchange.scheme,
            via: config.proxy.via,
            base_path: backend.settings.url.base_path.as_bytes(),
            authority: backend.settings.url.authority.as_bytes(),
            request_id: request.request_id().unwrap_or(&exchange.request_id),
        };
        route.sent_before = lent.connection.sent();
        let out = &mut cx.tools.out;
        out.clear();
        if backend.settings.send_proxy_protocol {
            let local = self.connection.local_address().unwrap_or(self.address);
            proxy_protocol::write(self.address, local, out);
        }
        if exchange.is_tcp {
            return match lent.connection.send(out, &[]) {
                Ok(()) => Step::Go(Stage::Tunnel),
                Err(error) => self.fail(Failure::of_connection(&error), cx),
            };
        }
        write_request(request, &how, out);
        let body = request.body();
        let writer = match body {
            Body::Chunked => Writer::Chunked { trailers: false },
            _ => Writer::Plain,
        };
        let data_max = config.limits.body_bytes.unwrap_or(u64::MAX);
        *request_relay = Relay::new(body, writer, data_max, &cx.runtime.head_limits);
        let result = match request_relay.translate(self.connection.buffered(), out) {
            Ok((used, plain)) => {
                let result = lent.connection.send(out, plain);
                self.connection.move_buffered(used, held);
                result
            }
            // No byte has gone out; the backend never hears of it.
            Err(error) => return self.refuse(error.status(), error.reason(), cx),
        };
        route.body_begun = true;
        exchange.request_side = RequestSide::Sending;
        exchange.request_wait = Wait::default();
        exchange.response_wait = Wait::default();
        match result {
            Ok(()) => Step::Go(Stage::Forwarding),
            Err(error) => self.fail(Failure::of_connection(&error), cx),
        }
    }

    /// Acts on a failure: another try, or an answer of our own.
    pub(super) fn fail(&mut self, failure: Failure, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let row = failure.row(exchange.route.age(), exchange.request_state());
        exchange.record_outcome(row.outcome, cx.clock.now_us());
        let route = &mut exchange.route;
        route.tries += u32::from(row.costs_try);
        if let Some(backend) = &route.backend {
            log::debug!(
                "{}: backend {:?}: {failure}",
                self.address,
                backend.settings.name
            );
            // One request may kill each backend that serves it: it is blamed on one of them.
            let is_first = !route.has_blamed;
            match row.event {
                Some(event @ (Event::Died | Event::NotHttp)) if is_first => {
                    route.has_blamed = true;
                    cx.runtime.pool.report(backend, event, &failure);
                }
                Some(event @ Event::ConnectFailed) => {
                    cx.runtime.pool.report(backend, event, &failure);
                }
                _ => {}
            }
            route.last_failure = Some(LastFailure {
                backend: backend.backend(),
                failure,
                status: row.status,
                reason: row.reason,
            });
        }
        route.close_connection(&mut cx.backends);
        match row.next {
            Next::Answer => return self.give_up(cx),
            Next::OtherBackend => route.leave(),
            Next::SameBackend => exchange.try_same_backend_again(cx),
        }
        exchange.rewind(&mut self.connection, cx);
        Step::Go(Stage::Connecting)
    }

    /// Answers with the status of the last failure.
    fn give_up(&mut self, cx: &mut Context) -> Step {
        let last = self
            .exchange
            .as_deref()
            .and_then(|exchange| exchange.route.last_failure.as_ref());
        let Some(&LastFailure {
            failure,
            status,
            reason,
            ..
        }) = last
        else {
            return self.reply(502, Some(UNAVAILABLE), cx);
        };
        self.log_failure(Some(status), &failure, cx);
        self.reply(status, Some(reason), cx)
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
    fn leave(&mut self) {
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
    fn age(&self) -> Age {
        match &self.connection {
            Some(lent) if lent.reused => Age::Reused,
            _ => Age::Fresh,
        }
    }

    fn close_connection(&mut self, backends: &mut BackendConnections) {
        if let Some(lent) = self.connection.take() {
            backends.close(lent);
        }
    }
}

impl Exchange {
    /// Whether the request may be sent again: doing it twice is the same as doing it once (RFC 9110
    /// 9.2.2), and what was sent of its body is still held.
    fn may_repeat(&self) -> bool {
        self.request.is_idempotent() && self.holds_request()
    }

    /// Whether all of the request that was taken from the client is still at hand.
    fn holds_request(&self) -> bool {
        self.request_relay.taken() <= self.held.len() as u64
    }

    /// What may still be done with the request, as seen from the connection at hand.
    fn request_state(&self) -> Request {
        let Some(lent) = &self.route.connection else {
            return Request::Unsent;
        };
        let backend = &lent.connection;
        if self.interim_came || self.holds_switch || !backend.buffered().is_empty() {
            Request::Spent
        } else if backend.sent() == self.route.sent_before && self.holds_request() {
            Request::Unsent
        } else if self.may_repeat() {
            Request::Repeatable
        } else {
            Request::Spent
        }
    }

    /// The next try goes to the same backend, over a fresh connection.
    fn try_same_backend_again(&mut self, cx: &Context) {
        self.route.needs_fresh = true;
        // The old connection may have kept the request longer than a connect may take.
        self.route.connect_until = Clock::after(cx.clock.now(), cx.runtime.config.timeouts.connect);
        if let Some(backend) = &self.route.backend {
            self.decision.chosen(backend.index, Rule::SameAgain);
            self.moments.chosen = cx.clock.now_us();
        }
    }

    /// Makes everything as it was before the request was sent.
    fn rewind(&mut self, client: &mut crate::net::connection::Connection, cx: &mut Context) {
        client.unread(&self.held);
        self.held.clear();
        self.request_relay.release_pipe(&mut cx.tools.pipes);
        self.request_relay = Relay::default();
        self.route.body_begun = false;
        self.response.clear();
        self.request_wait = Wait::default();
        self.response_wait = Wait::default();
    }
}
