//! `Idle` and `RequestHead`: from the first byte of a request to its whole head.
//!
//! Read next: `exchange/connecting.rs`, which finds a backend. How a head is understood is in
//! `http/mod.rs`.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::ending::{abandon, refuse};
use crate::exchange::reply::reply;
use crate::exchange::state::{Busy, ClientSide, End, Exchange, Step, To, Wait, WaitFor};
use crate::http::Body;
use crate::http::forwarded::{Forwarded, forwarded};
use crate::net::clock::Millis;
use crate::net::connection::Received;

/// The most that one read takes of a request, head and beginning of its body. These bytes may be
/// held twice, in case the request must be sent again, and may take no more than a body that is
/// under way: half of that, and a little more for a head before 16 KiB of body.
pub(crate) const REQUEST_READ_BYTES: usize = 20 * 1024;

/// Whether the first byte of a request has come; if so, begins its exchange.
pub(super) fn await_request(
    client: &ClientSide,
    idle_since: Millis,
    cx: &mut Context,
) -> Option<Box<Busy>> {
    if client.connection.buffered().is_empty() && !client.connection.is_readable() {
        return None;
    }
    let mut busy = cx.take_exchange();
    let exchange = &mut busy.exchange;
    exchange.begin_at(cx.clock.now(), cx.clock.now_us(), client.connection.sent());
    exchange.request_id = cx.request_ids.next_id();
    exchange.idle_since = idle_since;
    Some(busy)
}

/// Reads until the head is complete.
pub(super) fn read_request_head(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let limits = &exchange.settings.head_limits;
    // What a pipelining client sent behind its last request is read first.
    let buffered = client.connection.buffered();
    if !buffered.is_empty() {
        match exchange.request.take(buffered, limits) {
            Ok(Some(used)) => {
                exchange.received = used as u64;
                client.connection.consume_buffered(used);
                return begin(client, exchange, cx);
            }
            Ok(None) => {}
            Err(error) => return refuse(client, exchange, error.status(), error.reason(), cx),
        }
    }
    loop {
        let scratch = &mut cx.buffers.scratch[..REQUEST_READ_BYTES];
        let received = client.connection.receive(scratch, limits.input_bytes_max());
        let bytes = match received {
            Ok(Received::Bytes(bytes)) => bytes,
            Ok(Received::Wait) => return await_rest_of_head(client, exchange),
            Ok(Received::End) => return head_broke_off(client, exchange, cx),
            Err(_) => return abandon(CloseReason::ClientGone),
        };
        match exchange.request.take(bytes, limits) {
            Ok(Some(used)) => {
                exchange.received = used as u64;
                client.connection.consume(used, &cx.buffers.scratch);
                return begin(client, exchange, cx);
            }
            Ok(None) => client.connection.consume(0, &cx.buffers.scratch),
            Err(error) => {
                // The rest is discarded, but must leave the shared scratch buffer.
                client.connection.consume(0, &cx.buffers.scratch);
                return refuse(client, exchange, error.status(), error.reason(), cx);
            }
        }
    }
}

/// The head is incomplete: its time runs from its first byte, and a trickle does not extend it.
fn await_rest_of_head(client: &mut ClientSide, exchange: &mut Exchange) -> Step {
    if client.connection.buffered().is_empty() {
        // The event was about something else than new bytes.
        return Step::Over(End::NoRequest);
    }
    let timeout = exchange.settings.config.timeouts.client_head;
    exchange
        .request_wait
        .set(WaitFor::ClientHead, exchange.started, timeout, false);
    Step::Wait
}

/// The client closed its sending side. An incomplete request can only be answered with an error.
fn head_broke_off(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    if has_only_empty_lines(client) {
        return abandon(CloseReason::ClientDone);
    }
    refuse(client, exchange, 400, "the request's head broke off", cx)
}

/// The head did not come in time. An empty line alone is no request yet: an old client may send one
/// behind its last request (RFC 9112 2.2), which is not answered twice.
pub(super) fn head_timed_out(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    if has_only_empty_lines(client) {
        return abandon(CloseReason::IdleTimeout);
    }
    refuse(
        client,
        exchange,
        408,
        "the request's head did not come in time",
        cx,
    )
}

fn has_only_empty_lines(client: &ClientSide) -> bool {
    client
        .connection
        .buffered()
        .chunks(2)
        .all(|line| line == b"\r\n")
}

/// Acts on a complete head.
fn begin(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    exchange.request_wait = Wait::default();
    let closes = !exchange.request.keep_alive() || cx.is_draining();
    exchange.persistence.close_if(closes);
    let proxy = &exchange.settings.config.proxy;
    let mut told = Forwarded::default();
    exchange.is_trusted = proxy.trust_forwarded.trusts(client.address.ip());
    if exchange.is_trusted {
        let is_proxy = |address| proxy.trust_forwarded.is_proxy(address);
        told = forwarded(&exchange.request, is_proxy);
    }
    exchange.client = told.client;
    let scheme = told.scheme.or(client.scheme).or(proxy.forwarded_proto);
    exchange.scheme = scheme.unwrap_or_default();
    exchange.record_request(client.address.ip(), cx);
    match (
        exchange.request.body(),
        exchange.settings.config.limits.body_bytes,
    ) {
        (Body::Length(length), Some(max)) if length > max => {
            return refuse(client, exchange, 413, "the request's body is too long", cx);
        }
        _ => {}
    }
    match exchange.request.max_forwards() {
        // RFC 9110 7.6.2: the request goes no further, so we answer it. A TRACE would show the
        // client what the proxies before us have added.
        Some(0) if exchange.request.method() == b"OPTIONS" => {
            reply(client, exchange, 200, None, cx)
        }
        Some(0) => reply(
            client,
            exchange,
            405,
            Some("Max-Forwards does not let a TRACE pass"),
            cx,
        ),
        _ => Step::Go(To::Backend),
    }
}
