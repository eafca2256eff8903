//! Connecting: which backend, over which connection, and what to do when it fails.
//!
//! Retry is a loop through this stage: a failure is judged in exchange/failure.rs, the backend is marked as
//! tried, and `connect` is entered again until a request has gone out or nobody is left. The set of
//! those tried only grows, so the loop ends.
//!
//! Read next: pool/mod.rs, how a backend is chosen; exchange/failure.rs; then forwarding.rs.

use std::io;
use std::net::SocketAddr;

use crate::exchange::backend_connections::BackendConnection;
use crate::exchange::context::Context;
use crate::exchange::failure::{Failure, Next};
use crate::exchange::relay::{Relay, Writer};
use crate::exchange::{
    Client, CloseReason, Exchange, RequestSide, Route, Stage, Step, Wait, WaitFor,
};
use crate::http::Body;
use crate::http::forward::{RequestForwarding, write_request};
use crate::net::clock::{Clock, Millis};
use crate::net::proxy_protocol;
use crate::pool::backend::InFlight;
use crate::pool::trace::Rule;
use crate::pool::{Choice, Passive, Wish};

impl Client {
    /// Chooses a backend, connects if need be, and sends the head.
    pub(super) fn connect(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        if self.connection.is_broken() {
            return Step::Close(CloseReason::ClientGone);
        }
        let address = exchange.route.last_address();
        if let Some(lent) = &mut exchange.route.connection {
            return match finish_connect(lent, address) {
                None => Step::Wait,
                Some(Ok(())) => {
                    exchange.route.connected(cx);
                    self.send_request(cx)
                }
                Some(Err(error)) => self.address_failed(&error, cx),
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
            match cx
                .runtime
                .pool
                .choose(&wish, &exchange.route.tried, Some(&mut exchange.decision))
            {
                Choice::Backend {
                    in_flight,
                    set_cookie,
                } => {
                    exchange.moments.chosen = cx.clock.now_us();
                    exchange.route.enter(in_flight, set_cookie, cx);
                }
                Choice::Unavailable => return self.reply(503, cx),
                Choice::Exhausted => {
                    let status = exchange.route.last_failure.max(502);
                    return self.reply(status, cx);
                }
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

    /// Begins to connect to the backend's next address; after the last one, `error` is its failure.
    fn try_next_address(&mut self, mut error: Option<io::Error>, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let route = &mut exchange.route;
        while let Some((address, until)) = route.next_address(cx.clock.now()) {
            match cx.backends.open(address, self.key, &cx.poller) {
                Ok(lent) => {
                    route.connection = Some(lent);
                    exchange.request_wait = Wait {
                        what: WaitFor::Connect,
                        until,
                    };
                    return Step::Wait;
                }
                Err(failed) if Failure::of_connect(&failed) == Failure::Shortage => {
                    return self.fail(Failure::Shortage, &failed.to_string(), cx);
                }
                Err(failed) => error = Some(failed),
            }
        }
        let address = route.last_address();
        match error {
            Some(error) => self.fail(
                Failure::of_connect(&error),
                &format!("connect to {address}: {error}"),
                cx,
            ),
            None => self.fail(Failure::ConnectRefused, "its name has no address", cx),
        }
    }

    /// A connect ended without a connection.
    fn address_failed(&mut self, error: &io::Error, cx: &mut Context) -> Step {
        self.drop_backend_connection(cx);
        if Failure::of_connect(error) == Failure::Shortage {
            return self.fail(Failure::Shortage, &error.to_string(), cx);
        }
        self.try_next_address(Some(io::Error::new(error.kind(), error.to_string())), cx)
    }

    /// The time for one address is over.
    pub(super) fn connect_timed_out(&mut self, cx: &mut Context) -> Step {
        // The time may have run out in the moment in which the connection opened.
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.request_wait = Wait::default();
            if exchange
                .route
                .connection
                .as_ref()
                .is_some_and(|lent| lent.connection.is_writable())
            {
                return Step::Go(Stage::Connecting);
            }
        }
        self.address_failed(
            &io::Error::new(io::ErrorKind::TimedOut, "connect timed out"),
            cx,
        )
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
                Err(error) => self.fail(Failure::FreshEnded, &error.to_string(), cx),
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
            Err(error) => return self.refuse(error.status(), cx),
        };
        route.body_begun = true;
        exchange.request_side = RequestSide::Sending;
        exchange.request_wait = Wait::default();
        exchange.response_wait = Wait::default();
        match result {
            Ok(()) => Step::Go(Stage::Forwarding),
            Err(_) if exchange.reused() => self.fail(Failure::ReusedClosed, "", cx),
            Err(error) => self.fail(Failure::FreshEnded, &error.to_string(), cx),
        }
    }

    /// Acts on a failure: another try, or an answer of our own.
    pub(super) fn fail(&mut self, failure: Failure, why: &str, cx: &mut Context) -> Step {
        self.drop_backend_connection_after(failure, why, cx);
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let verdict = failure.judge(exchange.may_repeat());
        let route = &mut exchange.route;
        route.tries += u32::from(verdict.costs_try);
        route.last_failure = verdict.status;
        exchange.record_outcome(failure.outcome(), cx.clock.now_us());
        match verdict.next {
            Next::Answer => self.reply(verdict.status, cx),
            next => {
                if next == Next::OtherBackend {
                    exchange.route.leave();
                } else {
                    exchange.try_same_backend_again(cx);
                }
                exchange.rewind(&mut self.connection, cx);
                Step::Go(Stage::Connecting)
            }
        }
    }

    /// Closes the backend's connection after a failure and tells the pool who is to blame.
    fn drop_backend_connection_after(&mut self, failure: Failure, why: &str, cx: &mut Context) {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return;
        };
        let verdict = failure.judge(false);
        let connecting = matches!(failure, Failure::ConnectRefused | Failure::ConnectTimeout);
        let reused = exchange.reused();
        let route = &mut exchange.route;
        if let Some(backend) = &route.backend {
            if verdict.blames_backend && connecting {
                cx.runtime.pool.report(backend, Passive::ConnectFailed(why));
            } else if verdict.blames_backend && !reused && !route.has_blamed {
                route.has_blamed = true;
                cx.runtime.pool.report(backend, Passive::Died(why));
            }
        }
        self.drop_backend_connection(cx);
    }

    /// Closes the backend's connection.
    pub(super) fn drop_backend_connection(&mut self, cx: &mut Context) {
        if let Some(lent) = self
            .exchange
            .as_deref_mut()
            .and_then(|exchange| exchange.route.connection.take())
        {
            cx.backends.close(lent);
        }
    }
}

/// Whether a connect to `address` has ended, and how.
fn finish_connect(lent: &mut BackendConnection, address: SocketAddr) -> Option<io::Result<()>> {
    if !lent.connection.is_writable() {
        return None;
    }
    Some(match lent.connection.take_error() {
        // Where nobody listens, a port of the ephemeral range may be drawn for our own end.
        Ok(None) if lent.connection.is_connected_to_itself(address) => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(error),
    })
}

impl Route {
    /// Turns to the backend that was chosen.
    fn enter(&mut self, backend: InFlight, set_cookie: bool, cx: &Context) {
        self.attempts += 1;
        self.set_cookie = set_cookie;
        self.needs_fresh = false;
        self.next_address = 0;
        self.addresses = None;
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
        let left_count = (addresses.len() - self.next_address) as u64;
        self.next_address += 1;
        let left_ms = self.connect_until.saturating_sub(now);
        Some((address, now + left_ms.div_ceil(left_count)))
    }

    /// The address that was tried last, for a log line.
    fn last_address(&self) -> SocketAddr {
        let last = self.next_address.checked_sub(1);
        let address = self
            .addresses
            .as_ref()
            .zip(last)
            .and_then(|(all, last)| all.get(last).copied());
        address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The connection is open.
    fn connected(&mut self, cx: &Context) {
        if let (Some(backend), Some(addresses)) = (&self.backend, &self.addresses) {
            if self.next_address > 1 {
                backend.address_worked(addresses[self.next_address - 1]);
            }
            cx.runtime.pool.report(backend, Passive::Connected);
        }
    }
}

impl Exchange {
    /// Whether the request may be sent again: doing it twice is the same as doing it once (RFC 9110
    /// 9.2.2), and what was sent of its body is still held.
    pub(super) fn may_repeat(&self) -> bool {
        self.request.is_idempotent() && self.request_relay.taken() <= self.held.len() as u64
    }

    /// Whether the connection to the backend has carried other exchanges before.
    pub(super) fn reused(&self) -> bool {
        self.route
            .connection
            .as_ref()
            .is_some_and(|lent| lent.reused)
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
