//! Tunnel: bytes in both directions, unread, until both sides have ended.
//!
//! The end of one side is passed on as the end of that direction only, and the other goes on (RFC
//! 9110 9.3.6 asks for no less of a CONNECT, and a `WebSocket` needs the same), but not in silence
//! for long: many programs never look whether their peer has ended.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::relay::{Flow, Relay, RelayError};
use crate::exchange::state::{BackendSide, Busy, ClientSide, End, Exchange, RequestSide};
use crate::exchange::state::{ResponseSide, Stage, Step, Wait, WaitFor};
use crate::http::body::BodyTranslator;
use crate::net::errno::is_our_shortage;

/// Carries both directions as far as they can go.
pub(super) fn tunnel(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let place = &mut backend.chosen.place;
    let (client, backend) = (&mut client.connection, &mut backend.lent.connection);
    let before = exchange.request_relay.taken()
        + exchange.response_relay.taken()
        + client.sent()
        + backend.sent();
    let mut yields = false;
    if exchange.request_side == RequestSide::Sending {
        match exchange
            .request_relay
            .advance(client, backend, &mut cx.buffers)
        {
            Ok(Flow::Done) => {
                exchange.request_side = RequestSide::Sent;
                // Behind the other direction the close does it.
                if exchange.response_side == ResponseSide::Body {
                    backend.shutdown_write();
                }
            }
            Ok(flow) => yields |= flow == Flow::Yield,
            // The backend takes no more, but may have sent the reason.
            Err(RelayError::Sink(error)) if !is_our_shortage(&error) => {
                exchange.request_side = RequestSide::Refused;
                backend.mark_readable();
            }
            Err(error) => return Step::Close(CloseReason::of_tunnel(&error)),
        }
    }
    if exchange.response_side == ResponseSide::Body {
        match exchange
            .response_relay
            .advance(backend, client, &mut cx.buffers)
        {
            Ok(Flow::Done) => {
                exchange.response_side = ResponseSide::Done;
                if exchange.request_side == RequestSide::Sending {
                    client.shutdown_write();
                }
            }
            Ok(flow) => yields |= flow == Flow::Yield,
            // Everything that it sent has been read.
            Err(RelayError::Source(_)) if exchange.request_side == RequestSide::Refused => {
                exchange.response_side = ResponseSide::Done;
            }
            Err(error) => return Step::Close(CloseReason::of_tunnel(&error)),
        }
    }
    let request_ended = exchange.request_side != RequestSide::Sending;
    let response_ended = exchange.response_side == ResponseSide::Done;
    // A backend that is gone in both directions is done, even if the client has not yet taken all
    // that it sent.
    if backend.is_broken() || exchange.request_side == RequestSide::Refused {
        place.give_back();
    }
    match (request_ended, response_ended) {
        (true, true) if client.has_ended() => return Step::Close(CloseReason::Finished),
        // The client of a backend that took no more may still be sending.
        (true, true) => return Step::Over(End::Forwarded),
        // That side is not read any more, so no read would show that the client is gone.
        (true, false) if client.is_broken() => return Step::Close(CloseReason::TunnelBroke),
        (false, true) if backend.is_broken() => return Step::Close(CloseReason::TunnelBroke),
        _ => {}
    }
    let after = exchange.request_relay.taken()
        + exchange.response_relay.taken()
        + client.sent()
        + backend.sent();
    let timeouts = &exchange.settings.config.timeouts;
    let (what, timeout) = if client.has_ended() || backend.has_ended() {
        let timeout = timeouts.tunnel_half_closed.min(timeouts.tunnel_idle);
        (WaitFor::HalfTunnel, timeout)
    } else {
        (WaitFor::Tunnel, timeouts.tunnel_idle)
    };
    let progress = before != after;
    exchange
        .response_wait
        .set(what, cx.clock.now(), timeout, progress);
    if yields { Step::Yield } else { Step::Wait }
}

impl Busy {
    /// From here on the relays carry a tunnel.
    pub(super) fn begin_tunnel(&mut self) {
        if let Some(backend) = self.stage.take_backend() {
            self.stage = Stage::Tunnel(backend);
        }
        let exchange = &mut self.exchange;
        exchange.request_wait = Wait::default();
        exchange.received += exchange.request_relay.taken();
        exchange.request_relay = Relay::new(BodyTranslator::tunnel());
        exchange.response_relay = Relay::new(BodyTranslator::tunnel());
        exchange.request_side = RequestSide::Sending;
        exchange.response_side = ResponseSide::Body;
    }
}
