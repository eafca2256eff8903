//! How an exchange ends: it fails, is refused or abandoned, or finishes; and what becomes of its
//! connections.
//!
//! Read next: `exchange/record.rs`, what is logged. An answer of our own is in `exchange/reply.rs`.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::failure::{Failure, Next, Row};
use crate::exchange::record::{
    begin_try, count_failure, log_failure, record, tell_failure, tell_whole,
};
use crate::exchange::relay::RelayError;
use crate::exchange::reply::reply;
use crate::exchange::state::{After, BackendSide, Busy, Chosen, ClientSide, End};
use crate::exchange::state::{
    Exchange, LastFailure, Persistence, RequestSide, ResponseSide, Stage, Step, Trouble,
};
use crate::net::clock::Clock;
use crate::net::errno::is_our_shortage;
use crate::pool::trace::Rule;

/// The log's reason when no backend may take a request.
pub(super) const UNAVAILABLE: &str = "no backend may take it";
/// The same while all backends are full: at once, or after a wait.
pub(super) const QUEUE_FULL: &str = "all backends are full, and so is the queue";
pub(super) const QUEUE_TIMED_OUT: &str = "all backends were full for as long as it may wait";

/// Acts on the trouble that ended forwarding.
pub(super) fn leave(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    trouble: Trouble,
    cx: &mut Context,
) -> Step {
    match trouble {
        Trouble::Close(reason) => Step::Close(reason),
        Trouble::Refused(status, reason) => {
            if let Some(backend) = stage.take_backend() {
                cx.backends.close(backend.lent);
                exchange.tries.left = Some(backend.chosen.place);
            }
            refuse(client, exchange, status, reason, cx)
        }
        // What the client received must not look complete: its connection is cut.
        Trouble::Broke(error) => {
            let backend = stage.chosen().map(|chosen| &*chosen.place);
            log_failure(client, exchange, backend, None, &error, cx);
            match error {
                RelayError::Source(error) if is_our_shortage(&error) => {
                    Step::Close(CloseReason::OurShortage)
                }
                _ => Step::Close(CloseReason::BackendBrokeOff),
            }
        }
        Trouble::Failed(failure) => {
            let Some(backend) = stage.take_backend() else {
                return give_up(client, exchange, cx);
            };
            let row = failure.row(backend.age(), exchange.request_state(&backend));
            cx.backends.close(backend.lent);
            fail(client, stage, exchange, (backend.chosen, failure, row), cx)
        }
    }
}

/// Acts on a failure: another try, or an answer of our own.
pub(super) fn fail(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    (chosen, failure, row): (Chosen, Failure, Row),
    cx: &mut Context,
) -> Step {
    exchange.record_outcome(row.outcome, cx.clock.now_us());
    let backend = &chosen.place;
    count_failure(backend, &row, cx);
    tell_failure(exchange, backend, &row, cx);
    log::debug!(
        "{}: backend {:?}: {failure}",
        client.address,
        backend.settings.name
    );
    let tries = &mut exchange.tries;
    tries.used += u32::from(row.costs_try);
    tries.repeats = row.is_repeated();
    if let Some(event) = row.blame(&mut tries.has_blamed) {
        cx.snapshot.pool.report(backend, event, &failure);
    }
    tries.last_failure = Some(LastFailure {
        failure,
        status: row.status,
        reason: row.reason,
        outcome: row.outcome,
    });
    *stage = match row.next {
        Next::Answer => {
            tries.left = Some(chosen.place);
            return give_up(client, exchange, cx);
        }
        Next::OtherBackend => {
            tries.leave(chosen.place);
            Stage::Choosing
        }
        Next::SameBackend => {
            exchange.decision.chosen(backend.id, Rule::SameAgain);
            begin_try(exchange, &chosen, true, cx);
            Stage::Again(chosen)
        }
    };
    exchange.rewind(&mut client.connection, cx);
    Step::Again
}

/// Answers with the status of the last failure.
pub(super) fn give_up(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    let Some(LastFailure {
        failure,
        status,
        reason,
        ..
    }) = exchange.tries.last_failure
    else {
        return reply(client, exchange, 502, Some(UNAVAILABLE), cx);
    };
    let backend = exchange.tries.left.as_deref();
    log_failure(client, exchange, backend, Some(status), &failure, cx);
    reply(client, exchange, status, Some(reason), cx)
}

/// The client left without a complete request: nothing to answer and nothing to log.
pub(super) fn abandon(reason: CloseReason) -> Step {
    Step::Over(End::Abandoned(reason))
}

/// Refuses a request that cannot be understood or taken. The connection ends after the answer,
/// since the beginning of a next request is unknown.
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

/// Both sides are done: keeps the backend's connection for another exchange if it may be kept, and
/// the client's for its next request.
pub(super) fn finish(client: &mut ClientSide, busy: &mut Busy, cx: &mut Context) -> After {
    record(client, busy, None, cx);
    if cx.snapshot.pool.learns() {
        tell_whole(busy, cx);
    }
    let exchange = &busy.exchange;
    if let Some(backend) = busy.stage.take_backend() {
        keep_connection(backend, exchange, cx);
    }
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

/// Keeps the backend's connection after an exchange that ended cleanly; closes it otherwise.
fn keep_connection(mut backend: BackendSide, exchange: &Exchange, cx: &mut Context) {
    let limits = &exchange.settings.config.limits;
    let place = &backend.chosen.place;
    let connection = &mut backend.lent.connection;
    let ended_exactly = backend.reusable
        // Such a connection carries this client's address in its PROXY header.
        && !place.settings.send_proxy_protocol
        && exchange.request_side == RequestSide::Sent
        && connection.buffered().is_empty()
        && !connection.has_ended()
        // A read that filled its buffer, or a splice, has not shown that nothing follows.
        && (!connection.is_readable() || connection.is_open_and_empty());
    if ended_exactly {
        let expires = Clock::after(
            cx.clock.now(),
            exchange.settings.config.timeouts.backend_idle,
        );
        cx.backends.park(
            backend.lent,
            place,
            limits.idle_backend_connections,
            expires,
        );
    } else {
        cx.backends.close(backend.lent);
    }
}

/// An answer of our own has gone out.
pub(super) fn finish_reply(client: &ClientSide, busy: &mut Busy, cx: &mut Context) -> After {
    record(client, busy, None, cx);
    if busy.exchange.persistence.is_kept() {
        After::NextRequest
    } else {
        After::Linger
    }
}

/// Logs an exchange that is cut short with its connection.
pub(super) fn cut(client: &mut ClientSide, busy: &mut Busy, reason: CloseReason, cx: &mut Context) {
    let Exchange {
        persistence,
        response_side,
        ..
    } = &busy.exchange;
    if *persistence == Persistence::EndsBody && *response_side == ResponseSide::Body {
        client.connection.reset_on_close();
    }
    record(client, busy, Some(reason), cx);
}
