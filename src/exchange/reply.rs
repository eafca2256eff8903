//! Reply: an answer of our own instead of a backend's response.
//!
//! Read next: `http/reply.rs`, how the answer is written.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::relay::Relay;
use crate::exchange::state::ClientSide;
use crate::exchange::state::{End, Exchange, Step, To, Wait, WaitFor};
use crate::http::Body;
use crate::http::body::{BodyTranslator, Writer};
use crate::http::reply::{Reply, write_reply};
use crate::net::connection::Connection;

/// The `Retry-After` of a 503, in seconds (RFC 9110 10.2.3).
const RETRY_AFTER_S: u32 = 1;

/// Begins to answer with `status`; `reason` is for the log, where something failed. No byte of a
/// response may have been sent before, and the backend's connection must be closed.
pub(super) fn reply(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    status: u16,
    reason: Option<&'static str>,
    cx: &mut Context,
) -> Step {
    exchange.reason = reason;
    if cx.is_tcp() {
        return Step::Close(CloseReason::NoBackend);
    }
    exchange.response_relay.release_pipe(&mut cx.buffers.pipes);
    exchange.request_relay.release_pipe(&mut cx.buffers.pipes);
    exchange.discard_body_at_hand(&mut client.connection, cx);
    // The rest of this request would be taken for the next one.
    let closes = !exchange.has_read_request() || cx.closes_after_answer();
    exchange.persistence.close_if(closes);
    exchange.status = Some(status);
    cx.traffic.all.answer(status);
    exchange.request_wait = Wait::default();
    exchange.response_wait = Wait::default();
    let reply = Reply {
        status,
        date: cx.date.at(cx.clock.now()),
        request_id: exchange.request_id(),
        close: !exchange.persistence.is_kept(),
        head_only: exchange.request.is_head(),
        retry_after_s: (status == 503).then_some(RETRY_AFTER_S),
    };
    let out = &mut cx.buffers.out;
    out.clear();
    write_reply(&reply, out);
    match client.connection.send(out, &[]) {
        Ok(()) => Step::Go(To::Reply),
        Err(error) => Step::Close(CloseReason::of_client(&error)),
    }
}

/// Sends the rest of the answer, and then ends the connection or goes on.
pub(super) fn send_reply(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let before = client.connection.sent();
    match client.connection.flush() {
        Ok(true) => {}
        Ok(false) => {
            let progress = before != client.connection.sent();
            let timeout = exchange.settings.config.timeouts.client_write;
            exchange
                .response_wait
                .set(WaitFor::ClientWrite, cx.clock.now(), timeout, progress);
            return Step::Wait;
        }
        Err(error) => return Step::Close(CloseReason::of_client(&error)),
    }
    Step::Over(End::Replied)
}

impl Exchange {
    /// Discards as much of the body as has come, for a request that was not sent anywhere.
    fn discard_body_at_hand(&mut self, client: &mut Connection, cx: &mut Context) {
        if self.body_begun || self.request.body() == Body::None {
            return;
        }
        self.request_relay = Relay::new(BodyTranslator::new(
            self.request.body(),
            Writer::Plain,
            u64::MAX,
            &self.settings.head_limits,
        ));
        cx.buffers.out.clear();
        if let Ok((used, _)) = self
            .request_relay
            .translate(client.buffered(), &mut cx.buffers.out)
        {
            client.consume_buffered(used);
            self.body_begun = true;
        }
    }
}
