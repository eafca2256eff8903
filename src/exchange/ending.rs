//! The endings of an exchange: how it fails, is refused or abandoned, finishes, and what becomes of the connections.
//!
//! Read next: record.rs, what is written down of it.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::failure::{Failure, Next};
use crate::exchange::record::{log_failure, record};
use crate::exchange::reply::reply;
use crate::exchange::state::ClientSide;
use crate::exchange::state::{
    After, End, Exchange, LastFailure, Persistence, RequestSide, ResponseSide, Stage, Step,
};
use crate::net::clock::Clock;
use crate::pool::Event;
use crate::pool::trace::Rule;

/// What the log says of a request for which no backend may be asked.
pub(super) const UNAVAILABLE: &str = "no backend may take it";

/// Acts on a failure: another try, or an answer of our own.
pub(super) fn fail(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    failure: Failure,
    cx: &mut Context,
) -> Step {
    let row = failure.row(exchange.route.age(), exchange.request_state());
    exchange.record_outcome(row.outcome, cx.clock.now_us());
    let route = &mut exchange.route;
    route.tries += u32::from(row.costs_try);
    if let Some(backend) = &route.backend {
        log::debug!(
            "{}: backend {:?}: {failure}",
            client.address,
            backend.settings.name
        );
        // One request may kill each backend that serves it: it is blamed on one of them.
        let is_first = !route.has_blamed;
        match row.event {
            Some(event @ (Event::Died | Event::NotHttp)) if is_first => {
                route.has_blamed = true;
                cx.snapshot.pool.report(backend, event, &failure);
            }
            Some(event @ Event::ConnectFailed) => {
                cx.snapshot.pool.report(backend, event, &failure);
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
        Next::Answer => return give_up(client, exchange, cx),
        Next::OtherBackend => route.leave(),
        Next::SameBackend => exchange.try_same_backend_again(cx),
    }
    exchange.rewind(&mut client.connection, cx);
    Step::Go(Stage::Connecting)
}

/// Answers with the status of the last failure.
pub(super) fn give_up(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    let Some(&LastFailure {
        failure,
        status,
        reason,
        ..
    }) = exchange.route.last_failure.as_ref()
    else {
        return reply(client, exchange, 502, Some(UNAVAILABLE), cx);
    };
    log_failure(client, exchange, Some(status), &failure, cx);
    reply(client, exchange, status, Some(reason), cx)
}

/// The client left without a (whole) request: there is no answer to give and nothing to log.
pub(super) fn abandon(reason: CloseReason) -> Step {
    Step::Over(End::Abandoned(reason))
}

/// A request that cannot be understood, or not be taken: after the answer the connection ends,
/// since where its next request would begin is not known.
pub(super) fn refuse(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    status: u16,
    reason: &'static str,
    cx: &mut Context,
) -> Step {
    exchange.persistence.close_if(true);
    reply(client, exchange, status, Some(reason), cx)
}

/// Both sides are done: the backend's connection is kept for the next exchange if it may be,
/// and the client's goes on to its next request.
pub(super) fn finish(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> After {
    record(client, exchange, None, cx);
    exchange.keep_backend_connection(cx);
    let request_is_whole = exchange.request_relay.has_read_all();
    if exchange.persistence.is_kept() && request_is_whole {
        After::NextRequest
    // Closing with input unread sends a reset, which may overtake the answer (RFC 9112 9.6).
    } else if request_is_whole
        && client.connection.buffered().is_empty()
        && !client.connection.is_readable()
    {
        After::Close(CloseReason::Finished)
    } else {
        After::Linger
    }
}

/// An answer of our own has gone out.
pub(super) fn finish_reply(
    client: &ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> After {
    record(client, exchange, None, cx);
    if exchange.persistence.is_kept() {
        After::NextRequest
    } else {
        After::Linger
    }
}

/// The exchange is cut short with its connection: what was under way is written down.
pub(super) fn cut(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    reason: CloseReason,
    cx: &mut Context,
) {
    if exchange.persistence == Persistence::EndsBody && exchange.response_side == ResponseSide::Body
    {
        client.connection.reset_on_close();
    }
    record(client, exchange, Some(reason), cx);
}

impl Exchange {
    /// The next try goes to the same backend, over a fresh connection.
    fn try_same_backend_again(&mut self, cx: &Context) {
        self.route.needs_fresh = true;
        // The old connection may have kept the request longer than a connect may take.
        self.route.connect_until =
            Clock::after(cx.clock.now(), self.settings.config.timeouts.connect);
        if let Some(backend) = &self.route.backend {
            self.decision.chosen(backend.id, Rule::SameAgain);
            self.moments.chosen = cx.clock.now_us();
        }
    }

    /// Keeps the backend's connection after an exchange that ended exactly; closes any other.
    fn keep_backend_connection(&mut self, cx: &mut Context) {
        let Some(mut lent) = self.route.connection.take() else {
            return;
        };
        let Some(backend) = &self.route.backend else {
            return cx.backends.close(lent);
        };
        let limits = &self.settings.config.limits;
        let connection = &mut lent.connection;
        let ended_exactly = self.route.reusable
            // That one has been told the address of this client.
            && !backend.settings.send_proxy_protocol
            && self.request_side == RequestSide::Sent
            && connection.buffered().is_empty()
            && !connection.has_ended()
            // A read that filled its buffer, or a splice, has not seen that nothing follows.
            && (!connection.is_readable() || connection.is_silent());
        if ended_exactly {
            let expires = Clock::after(cx.clock.now(), self.settings.config.timeouts.backend_idle);
            cx.backends
                .park(lent, backend, limits.idle_backend_connections, expires);
        } else {
            cx.backends.close(lent);
        }
    }
}
