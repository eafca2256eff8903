//! `Idle` and `RequestHead`: from the first byte of a request to its whole head.
//!
//! Read next: http/mod.rs, how a head is understood; connecting.rs, what follows.

use crate::exchange::Client;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::state::{Stage, Step, Wait, WaitFor};
use crate::http::Body;
use crate::http::forwarded::{Forwarded, forwarded};
use crate::net::connection::Received;

impl Client {
    /// Waits for the first byte of a request.
    pub(super) fn await_request(&mut self, cx: &mut Context) -> Step {
        if self.connection.buffered().is_empty() && !self.connection.is_readable() {
            return Step::Wait;
        }
        let mut exchange = cx.take_exchange();
        exchange.begin_at(&cx.clock, self.connection.sent());
        exchange.request_id = cx.request_ids.next_id();
        self.exchange = Some(exchange);
        Step::Go(Stage::RequestHead)
    }

    /// Reads until the head is whole.
    pub(super) fn read_request_head(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let limits = &cx.runtime.head_limits;
        // What a pipelining client sent behind its last request comes first.
        let buffered = self.connection.buffered();
        if !buffered.is_empty() {
            match exchange.request.take(buffered, limits) {
                Ok(Some(used)) => {
                    exchange.received = used as u64;
                    self.connection.consume_buffered(used);
                    return self.begin(cx);
                }
                Ok(None) => {}
                Err(error) => return self.refuse(error.status(), error.reason(), cx),
            }
        }
        loop {
            let bytes = match self.connection.receive(&mut cx.tools.scratch) {
                Ok(Received::Bytes(bytes)) => bytes,
                Ok(Received::Wait) => return self.await_rest_of_head(cx),
                Ok(Received::End) => return self.head_broke_off(cx),
                Err(_) => return self.abandon(CloseReason::ClientGone, cx),
            };
            match exchange.request.take(bytes, limits) {
                Ok(Some(used)) => {
                    exchange.received = used as u64;
                    self.connection.consume(used, &cx.tools.scratch);
                    return self.begin(cx);
                }
                Ok(None) => self.connection.consume(0, &cx.tools.scratch),
                Err(error) => {
                    // What follows is of no use; it must only not stay in the scratch buffer.
                    self.connection.consume(0, &cx.tools.scratch);
                    return self.refuse(error.status(), error.reason(), cx);
                }
            }
        }
    }

    /// The head is not whole: its time runs from its first byte, and no trickle stretches it.
    fn await_rest_of_head(&mut self, cx: &mut Context) -> Step {
        if self.connection.buffered().is_empty() {
            // The event was about something else than bytes.
            if let Some(exchange) = self.exchange.take() {
                cx.put_back(exchange);
            }
            self.stage = Stage::Idle;
            return Step::Wait;
        }
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        let timeout = cx.runtime.config.timeouts.client_head;
        exchange
            .request_wait
            .set(WaitFor::ClientHead, exchange.started, timeout, false);
        Step::Wait
    }

    /// The client ended its side. Half a request can be answered with an error only.
    fn head_broke_off(&mut self, cx: &mut Context) -> Step {
        if self.has_only_empty_lines() {
            return self.abandon(CloseReason::ClientDone, cx);
        }
        self.refuse(400, "the request's head broke off", cx)
    }

    /// The head did not come in time. An empty line is no request yet: an old client may have sent
    /// one behind its last request (RFC 9112 2.2), and is not answered twice.
    pub(super) fn head_timed_out(&mut self, cx: &mut Context) -> Step {
        if self.has_only_empty_lines() {
            return self.abandon(CloseReason::IdleTimeout, cx);
        }
        self.refuse(408, "the request's head did not come in time", cx)
    }

    fn has_only_empty_lines(&self) -> bool {
        self.connection
            .buffered()
            .chunks(2)
            .all(|line| line == b"\r\n")
    }

    /// The head is whole.
    fn begin(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        exchange.request_wait = Wait::default();
        exchange.close_client = !exchange.request.keep_alive() || cx.draining;
        let proxy = &cx.runtime.config.proxy;
        let mut told = Forwarded::default();
        exchange.is_trusted = proxy.trust_forwarded.trusts(self.address.ip());
        if exchange.is_trusted {
            let is_proxy = |address| proxy.trust_forwarded.is_proxy(address);
            told = forwarded(&exchange.request, is_proxy);
        }
        exchange.client = told.client;
        let scheme = told.scheme.or(self.scheme).or(proxy.forwarded_proto);
        exchange.scheme = scheme.unwrap_or_default();
        exchange.record_request(self.address.ip(), cx);
        match (exchange.request.body(), cx.runtime.config.limits.body_bytes) {
            (Body::Length(length), Some(max)) if length > max => {
                return self.refuse(413, "the request's body is too long", cx);
            }
            _ => {}
        }
        match exchange.request.max_forwards() {
            // RFC 9110 7.6.2: the request goes no further, so the answer is ours. A TRACE would show the client what the
            // proxies before us have added.
            Some(0) if exchange.request.method() == b"OPTIONS" => self.reply(200, None, cx),
            Some(0) => self.reply(405, Some("Max-Forwards does not let a TRACE pass"), cx),
            _ => Step::Go(Stage::Connecting),
        }
    }
}
