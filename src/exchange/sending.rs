//! Sending: the request as it goes to the backend, with what there is of its body; and all of it undone for another try.
//!
//! Read next: forwarding.rs.

use crate::exchange::context::Context;
use crate::exchange::ending::{fail, refuse};
use crate::exchange::failure::{Failure, Request};
use crate::exchange::relay::Relay;
use crate::exchange::state::ClientSide;
use crate::exchange::state::{Exchange, Heard, RequestSide, Stage, Step, Wait};
use crate::http::Body;
use crate::http::body::{BodyTranslator, Writer};
use crate::http::forward::{RequestForwarding, write_request};
use crate::net::connection::Connection;
use crate::net::proxy_protocol;

/// Rewrites the request and sends it, with what there is of its body in the same write.
pub(super) fn send_request(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
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
    let config = &exchange.settings.config;
    let how = RequestForwarding {
        peer: client.address.ip(),
        trusted: exchange.is_trusted,
        scheme: exchange.scheme,
        via: config.proxy.via,
        base_path: backend.settings.url.base_path.as_bytes(),
        authority: backend.settings.url.authority.as_bytes(),
        request_id: request.request_id().unwrap_or(&exchange.request_id),
    };
    route.sent_before = lent.connection.sent();
    let is_tcp = cx.is_tcp();
    let out = &mut cx.tools.out;
    out.clear();
    if backend.settings.send_proxy_protocol {
        let local = client.connection.local_address().unwrap_or(client.address);
        proxy_protocol::write(client.address, local, out);
    }
    if is_tcp {
        return match lent.connection.send(out, &[]) {
            Ok(()) => {
                exchange.begin_tunnel();
                Step::Go(Stage::Tunnel)
            }
            Err(error) => fail(client, exchange, Failure::of_connection(&error), cx),
        };
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
    let result = match request_relay.translate(client.connection.buffered(), out) {
        Ok((used, plain)) => {
            let result = lent.connection.send(out, plain);
            let is_sent = lent.connection.sent() != route.sent_before;
            if is_sent && !request.is_idempotent() {
                // It is not sent again, whatever comes.
                client.connection.consume_buffered(used);
            } else {
                client.connection.move_buffered(used, held);
            }
            result
        }
        // No byte has gone out; the backend never hears of it.
        Err(error) => return refuse(client, exchange, error.status(), error.reason(), cx),
    };
    route.body_begun = true;
    exchange.request_side = RequestSide::Sending;
    exchange.request_wait = Wait::default();
    exchange.response_wait = Wait::default();
    match result {
        Ok(()) => Step::Go(Stage::Forwarding),
        Err(error) => fail(client, exchange, Failure::of_connection(&error), cx),
    }
}

impl Exchange {
    /// Whether the request may be sent again: doing it twice is the same as doing it once (RFC 9110
    /// 9.2.2), and what was sent of its body is still held.
    pub(super) fn may_repeat(&self) -> bool {
        self.request.is_idempotent() && self.holds_request()
    }

    /// Whether all of the request that was taken from the client is still at hand.
    fn holds_request(&self) -> bool {
        self.request_relay.taken() <= self.held.len() as u64
    }

    /// What may still be done with the request, as seen from the connection at hand.
    pub(super) fn request_state(&self) -> Request {
        let Some(lent) = &self.route.connection else {
            return Request::Unsent;
        };
        let backend = &lent.connection;
        if self.heard != Heard::Nothing || !backend.buffered().is_empty() {
            Request::Spent
        } else if backend.sent() == self.route.sent_before && self.holds_request() {
            Request::Unsent
        } else if self.may_repeat() {
            Request::Repeatable
        } else {
            Request::Spent
        }
    }

    /// Makes everything as it was before the request was sent.
    pub(super) fn rewind(&mut self, client: &mut Connection, cx: &mut Context) {
        client.unread(&self.held);
        self.held = Vec::new();
        self.request_relay.release_pipe(&mut cx.tools.pipes);
        self.request_relay = Relay::default();
        self.route.body_begun = false;
        self.response.clear();
        self.request_wait = Wait::default();
        self.response_wait = Wait::default();
    }
}
