//! Sending: the request is rewritten and sent to the backend, with the part of its body that has
//! come; and all of this undone for another try.
//!
//! Read next: `exchange/forwarding.rs`, which begins with this and carries the rest in both
//! directions.

use crate::exchange::context::Context;
use crate::exchange::failure::{Failure, Request};
use crate::exchange::relay::Relay;
use crate::exchange::state::{BackendSide, ClientSide};
use crate::exchange::state::{Exchange, Heard, RequestSide, Trouble, Wait, WaitFor};
use crate::http::Body;
use crate::http::body::{BodyTranslator, Writer};
use crate::http::forward::{RequestForwarding, write_request};
use crate::net::connection::Connection;
use crate::net::proxy_protocol;

/// Rewrites the request and sends it, in one write with the part of its body that has come.
pub(super) fn send_request(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<(), Trouble> {
    exchange.record_sent(cx.clock.now_us());
    let Exchange {
        request,
        request_relay,
        held,
        ..
    } = exchange;
    let settings = &backend.chosen.place.settings;
    let config = &exchange.settings.config;
    let how = RequestForwarding {
        peer: client.address.ip(),
        trusted: exchange.is_trusted,
        scheme: exchange.scheme,
        via: config.proxy.via,
        base_path: settings.url.base_path.as_bytes(),
        authority: settings.url.authority.as_bytes(),
        request_id: request.request_id().unwrap_or(&exchange.request_id),
    };
    let is_tcp = cx.is_tcp();
    let out = &mut cx.buffers.out;
    out.clear();
    if settings.send_proxy_protocol {
        let local = client.connection.local_address().unwrap_or(client.address);
        proxy_protocol::write(client.address, local, out);
    }
    let connection = &mut backend.lent.connection;
    let failed = |error| Trouble::Failed(Failure::of_connection(&error));
    if is_tcp {
        return connection.send(out, &[]).map_err(failed);
    }
    write_request(request, &how, out);
    let body = request.body();
    let writer = match body {
        Body::Chunked => Writer::Chunked { trailers: false },
        _ => Writer::Plain,
    };
    let data_max = config.limits.body_bytes.unwrap_or(u64::MAX);
    *request_relay = Relay::new(BodyTranslator::new(
        body,
        writer,
        data_max,
        &exchange.settings.head_limits,
    ));
    let (used, plain) = request_relay
        .translate(client.connection.buffered(), out)
        // No byte has been sent; the backend does not know of the request.
        .map_err(|error| Trouble::Refused(error.status(), error.reason()))?;
    let result = connection.send(out, plain);
    let is_sent = connection.sent() != backend.sent_before;
    if is_sent && !request.is_idempotent() {
        // It is never sent again.
        client.connection.consume_buffered(used);
    } else {
        client.connection.move_buffered(used, held);
    }
    exchange.body_begun = true;
    exchange.request_side = RequestSide::Sending;
    exchange.request_wait = Wait::default();
    // The time of a client that has closed its sending side may have begun in the queue.
    if exchange.response_wait.what != WaitFor::HalfClosed {
        exchange.response_wait = Wait::default();
    }
    result.map_err(failed)
}

impl Exchange {
    /// Whether the request may be sent again: it is idempotent (RFC 9110 9.2.2), and what was sent
    /// of its body is still held.
    pub(super) fn may_repeat(&self) -> bool {
        self.request.is_idempotent() && self.holds_request()
    }

    /// Whether every byte taken from the client for this request is still held.
    fn holds_request(&self) -> bool {
        self.request_relay.taken() <= self.held.len() as u64
    }

    /// What may still be done with the request when its connection has failed.
    pub(super) fn request_state(&self, backend: &BackendSide) -> Request {
        let connection = &backend.lent.connection;
        if self.heard != Heard::Nothing || !connection.buffered().is_empty() {
            Request::Spent
        } else if connection.sent() == backend.sent_before && self.holds_request() {
            Request::Unsent
        } else if self.may_repeat() {
            Request::Repeatable
        } else {
            Request::Spent
        }
    }

    /// Restores the state before the request was sent.
    pub(super) fn rewind(&mut self, client: &mut Connection, cx: &mut Context) {
        client.unread(&self.held);
        self.held = Vec::new();
        self.request_relay.release_pipe(&mut cx.buffers.pipes);
        self.request_relay = Relay::default();
        self.body_begun = false;
        self.request_side = RequestSide::Unsent;
        self.response.clear();
        self.request_wait = Wait::default();
        self.response_wait = Wait::default();
    }
}
