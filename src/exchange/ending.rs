//! The endings of an exchange: how it fails, is refused or abandoned, finishes, and what becomes of the connections.
//!
//! Read next: record.rs, what is written down of it.

use std::time::Duration;

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::failure::{Failure, Next};
use crate::exchange::state::{Exchange, LastFailure, RequestSide, ResponseSide, Stage, Step};
use crate::exchange::{Client, Turn};
use crate::net::clock::Clock;
use crate::pool::Event;
use crate::pool::trace::Rule;

/// What the log says of a request for which no backend may be asked.
pub(super) const UNAVAILABLE: &str = "no backend may take it";

/// How long, and for how many bytes, what a client still sends is thrown away.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES_MAX: u32 = 1024 * 1024;

impl Client {
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
    pub(super) fn give_up(&mut self, cx: &mut Context) -> Step {
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

    /// The client left without a (whole) request: there is nobody to answer and nothing to log.
    pub(super) fn abandon(&mut self, reason: CloseReason, cx: &mut Context) -> Step {
        if let Some(exchange) = self.exchange.take() {
            cx.put_back(exchange);
        }
        Step::Close(reason)
    }

    /// A request that cannot be understood, or not be taken: after the answer the connection ends,
    /// since where its next request would begin is not known.
    pub(super) fn refuse(&mut self, status: u16, reason: &'static str, cx: &mut Context) -> Step {
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.close_client = true;
        }
        self.reply(status, Some(reason), cx)
    }

    /// Both sides are done: the backend's connection is kept for the next exchange if it may be,
    /// and the client's goes on to its next request.
    pub(super) fn finish(&mut self, cx: &mut Context) -> Step {
        let Some(mut exchange) = self.exchange.take() else {
            return Step::Go(Stage::Idle);
        };
        self.record(&mut exchange, None, cx);
        exchange.keep_backend_connection(cx);
        let request_is_whole = exchange.request_relay.has_read_all();
        let close = exchange.close_client || !request_is_whole;
        cx.put_back(exchange);
        if !close {
            self.idle_since = cx.clock.now();
            return Step::Go(Stage::Idle);
        }
        // Closing with input unread sends a reset, which may overtake the answer (RFC 9112 9.6).
        if request_is_whole
            && self.connection.buffered().is_empty()
            && !self.connection.is_readable()
        {
            return Step::Close(CloseReason::Finished);
        }
        self.begin_linger(cx)
    }

    /// The end of the connection, whatever the stage: logs what was under way and gives back
    /// everything borrowed.
    pub(crate) fn close(&mut self, reason: CloseReason, cx: &mut Context) -> Turn {
        if let Some(mut exchange) = self.exchange.take() {
            if exchange.ends_with_connection && exchange.response_side == ResponseSide::Body {
                self.connection.reset_on_close();
            }
            // Before a request there is nothing to record.
            if self.stage != Stage::Accepted {
                self.record(&mut exchange, Some(reason), cx);
            }
            cx.put_back(exchange);
        }
        log::debug!("{}: {}", self.address, reason.text());
        Turn::Closed(reason)
    }

    /// Closes our side and waits for the client's, so that what it still sends does not make the
    /// kernel answer with a reset that destroys our answer.
    pub(super) fn begin_linger(&mut self, cx: &Context) -> Step {
        self.connection.shutdown_write();
        let buffered = self.connection.buffered().len();
        self.connection.consume_buffered(buffered);
        Step::Go(Stage::LingeringClose {
            until: Clock::after(cx.clock.now(), LINGER),
            left: LINGER_BYTES_MAX,
        })
    }
}

impl Exchange {
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

    /// Keeps the backend's connection after an exchange that ended exactly; closes any other.
    fn keep_backend_connection(&mut self, cx: &mut Context) {
        let Some(mut lent) = self.route.connection.take() else {
            return;
        };
        let Some(backend) = &self.route.backend else {
            return cx.backends.close(lent);
        };
        let limits = &cx.runtime.config.limits;
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
            let expires = Clock::after(cx.clock.now(), cx.runtime.config.timeouts.backend_idle);
            cx.backends
                .park(lent, backend, limits.idle_backend_connections, expires);
        } else {
            cx.backends.close(lent);
        }
    }
}
