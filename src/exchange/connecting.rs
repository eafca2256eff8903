//! Connecting: which backend, and over which connection.
//!
//! A retry is a loop through these stages: `fail` (exchange/ending.rs) looks the failure up, the
//! backend is marked as tried, and `choose` runs again, until the request has been sent or no
//! backend is left. The set of tried backends only grows, so the loop ends. While all backends that
//! a request could go to are full, it may wait in the queue; its body is not read meanwhile.
//!
//! Read next: `pool/mod.rs`, how a backend is chosen.

use std::net::SocketAddr;

use rustix::io::Errno;

use crate::exchange::backend_connections::BackendConnection;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::ending::{QUEUE_FULL, QUEUE_TIMED_OUT, UNAVAILABLE, fail, give_up};
use crate::exchange::failure::{Age, Failure, Request};
use crate::exchange::record::{begin_try, log_failure};
use crate::exchange::reply::reply;
use crate::exchange::state::{BackendSide, Chosen, ClientSide, Exchange};
use crate::exchange::state::{HALF_CLOSED, Opening, Stage, Step, To, WaitFor, Walk};
use crate::net::clock::{Clock, Millis};
use crate::pool::queue::{Given, Waiter};
use crate::pool::trace::Verdict;
use crate::pool::{Choice, Event, Selection};

/// Chooses a backend and goes on with it, or waits in the queue for a place at one.
pub(super) fn choose(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    if client.connection.is_broken() {
        return Step::Close(CloseReason::ClientGone);
    }
    let pool = &cx.snapshot.pool;
    let persistence_cookie = pool.cookie_name();
    let selection = Selection {
        client: exchange.client(client.address.ip()),
        key: pool.hash_key(&exchange.request),
        cookie: persistence_cookie.and_then(|name| exchange.request.cookie(name.as_bytes())),
        tries_left: exchange.tries.used < exchange.settings.config.balance.tries,
        repeats: exchange.tries.repeats,
    };
    let queue = exchange.settings.config.balance.queue;
    let waiter = queue.map(|_| Waiter {
        worker: cx.traffic.worker,
        connection: client.key.into(),
    });
    let (tried, decision) = (&mut exchange.tries.tried, Some(&mut exchange.decision));
    match pool.choose_or_wait(&selection, tried, decision, waiter) {
        Choice::Backend {
            in_flight,
            set_cookie,
        } => {
            let chosen = Chosen {
                place: in_flight,
                set_cookie,
            };
            begin(client, stage, chosen, exchange, cx)
        }
        Choice::Waiting(waiting) => {
            *stage = Stage::Queued(waiting);
            exchange.begin_wait(cx);
            Step::Again
        }
        Choice::QueueFull => {
            cx.traffic.queue_full.add(1);
            refuse_place(client, exchange, QUEUE_FULL, cx)
        }
        Choice::Unavailable => {
            let backend = exchange.tries.left.as_deref();
            log_failure(client, exchange, backend, Some(503), &UNAVAILABLE, cx);
            exchange.tries.last_failure = None;
            reply(client, exchange, 503, Some(UNAVAILABLE), cx)
        }
        Choice::Exhausted => give_up(client, exchange, cx),
    }
}

/// Goes on with the backend at which the request was given a place, or waits on.
pub(super) fn await_place(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    if client.connection.is_broken() {
        return Step::Close(CloseReason::ClientGone);
    }
    let Stage::Queued(waiting) = stage else {
        return Step::Go(To::Backend);
    };
    if let Some(given) = waiting.take(&mut exchange.tries.tried) {
        let Given {
            in_flight,
            set_cookie,
            rule,
        } = given;
        exchange.end_wait(cx);
        exchange.decision.shows(in_flight.id, Verdict::Full);
        exchange.decision.chosen(in_flight.id, rule);
        let chosen = Chosen {
            place: in_flight,
            set_cookie,
        };
        return begin(client, stage, chosen, exchange, cx);
    }
    // It may be gone. If not, and its time in the queue ends sooner, it is answered.
    let now = cx.clock.now();
    let wait = &mut exchange.response_wait;
    if client.connection.has_ended() && Clock::after(now, HALF_CLOSED) < wait.until {
        wait.half_close(now);
    }
    Step::Wait
}

/// The time in the queue is over, or that of a client that has closed its sending side.
pub(super) fn wait_timed_out(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let waits_for = exchange.response_wait.what;
    // A place may have been given at the moment in which the time ran out.
    match await_place(client, stage, exchange, cx) {
        Step::Wait if waits_for == WaitFor::Place => {
            *stage = Stage::Choosing;
            exchange.end_wait(cx);
            cx.traffic.queue_timed_out.add(1);
            refuse_place(client, exchange, QUEUE_TIMED_OUT, cx)
        }
        Step::Wait => Step::Close(CloseReason::ClientGone),
        step => step,
    }
}

/// Answers a request for which all backends are full: with 503, or what its last try has come to.
fn refuse_place(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    why: &'static str,
    cx: &mut Context,
) -> Step {
    if exchange.tries.last_failure.is_some() {
        return give_up(client, exchange, cx);
    }
    log_failure(client, exchange, None, Some(503), &why, cx);
    reply(client, exchange, 503, Some(why), cx)
}

/// Takes an idle connection to the chosen backend, or opens a new one.
fn begin(
    client: &mut ClientSide,
    stage: &mut Stage,
    chosen: Chosen,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    exchange.tries.attempts += 1;
    begin_try(exchange, &chosen, exchange.tries.attempts > 1, cx);
    let now = cx.clock.now();
    if !cx.is_tcp() {
        while let Some(mut lent) = cx.backends.take_idle(&chosen.place, client.key, now) {
            // A request that cannot be sent twice goes only over a connection that a peek shows to
            // be open.
            if exchange.may_repeat() || lent.connection.is_open_and_empty() {
                *stage = Stage::Forwarding(BackendSide::new(chosen, lent));
                return Step::Again;
            }
            cx.backends.close(lent);
        }
    }
    open(client, stage, chosen, exchange, cx)
}

/// Goes on with the chosen backend, over a new connection.
pub(super) fn connect(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    if client.connection.is_broken() {
        return Step::Close(CloseReason::ClientGone);
    }
    if matches!(stage, Stage::Opening(opening) if !opening.lent.connection.is_writable()) {
        return Step::Wait;
    }
    match std::mem::take(stage) {
        Stage::Again(chosen) => open(client, stage, chosen, exchange, cx),
        Stage::Opening(opening) => finish_connect(client, stage, opening, exchange, cx),
        _ => Step::Go(To::Backend),
    }
}

/// Begins to connect to the backend.
fn open(
    client: &mut ClientSide,
    stage: &mut Stage,
    chosen: Chosen,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let walk = Walk {
        addresses: chosen.place.addresses(),
        next: 0,
        until: Clock::after(cx.clock.now(), exchange.settings.config.timeouts.connect),
    };
    try_next_address(client, stage, (chosen, walk), exchange, None, cx)
}

/// Begins to connect to the backend's next address. When none is left, `failure` is the result,
/// unless it only says that an address could not be tried and another address has failed.
fn try_next_address(
    client: &mut ClientSide,
    stage: &mut Stage,
    (chosen, mut walk): (Chosen, Walk),
    exchange: &mut Exchange,
    mut failure: Option<Failure>,
    cx: &mut Context,
) -> Step {
    while let Some((address, until)) = walk.next_address(cx.clock.now()) {
        let error = match cx.backends.open(address, client.key, &cx.poller) {
            Ok(lent) => {
                *stage = Stage::Opening(Opening {
                    chosen,
                    lent,
                    address,
                    until,
                    walk,
                });
                return Step::Wait;
            }
            Err(error) => error,
        };
        match Failure::of_connect(address, &error) {
            Failure::NoPort(_) if failure.is_some() => {}
            lack @ Failure::NoDescriptor(_) => {
                return connect_failed(client, stage, chosen, exchange, lack, cx);
            }
            next => failure = Some(next),
        }
    }
    let failure = failure.unwrap_or(Failure::NoAddress);
    connect_failed(client, stage, chosen, exchange, failure, cx)
}

/// The connect has ended: sends the request, or tries the next address.
fn finish_connect(
    client: &mut ClientSide,
    stage: &mut Stage,
    opening: Opening,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    if let Err(failure) = opening.lent.result(opening.address) {
        return address_failed(client, stage, opening, exchange, failure, cx);
    }
    let backend = &opening.chosen.place;
    if opening.walk.next > 1 {
        backend.address_worked(opening.address);
    }
    let reason = &"a client's exchange connected";
    cx.snapshot.pool.report(backend, Event::Connected, reason);
    *stage = Stage::Forwarding(BackendSide::new(opening.chosen, opening.lent));
    Step::Again
}

/// A connect has failed.
fn address_failed(
    client: &mut ClientSide,
    stage: &mut Stage,
    opening: Opening,
    exchange: &mut Exchange,
    failure: Failure,
    cx: &mut Context,
) -> Step {
    let Opening {
        chosen, lent, walk, ..
    } = opening;
    cx.backends.close(lent);
    match failure {
        Failure::NoDescriptor(_) => connect_failed(client, stage, chosen, exchange, failure, cx),
        _ => try_next_address(client, stage, (chosen, walk), exchange, Some(failure), cx),
    }
}

/// The time for one address is over.
pub(super) fn connect_timed_out(
    client: &mut ClientSide,
    stage: &mut Stage,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    match std::mem::take(stage) {
        Stage::Opening(opening) if !opening.lent.connection.is_writable() => {
            let failure = Failure::ConnectTimeout(opening.address);
            address_failed(client, stage, opening, exchange, failure, cx)
        }
        // The connection may have opened at the moment in which the time ran out.
        opened => {
            *stage = opened;
            Step::Again
        }
    }
}

/// None of the backend's addresses could be connected to.
fn connect_failed(
    client: &mut ClientSide,
    stage: &mut Stage,
    chosen: Chosen,
    exchange: &mut Exchange,
    failure: Failure,
    cx: &mut Context,
) -> Step {
    let row = failure.row(Age::Fresh, Request::Unsent);
    fail(client, stage, exchange, (chosen, failure, row), cx)
}

impl Walk {
    /// The next address, and the deadline for it: an equal share of the time left for all.
    fn next_address(&mut self, now: Millis) -> Option<(SocketAddr, Millis)> {
        let address = *self.addresses.get(self.next)?;
        let left_count = (self.addresses.len() - self.next) as u64;
        self.next += 1;
        let left_ms = self.until.saturating_sub(now);
        Some((address, now + left_ms.div_ceil(left_count)))
    }
}

impl BackendConnection {
    /// The result of a connect to `address`.
    fn result(&self, address: SocketAddr) -> Result<(), Failure> {
        match self.connection.take_error() {
            // TCP self-connect: towards a local port on which nothing listens, the kernel may pick
            // that very port as our source port.
            Ok(None) if self.connection.is_connected_to_itself(address) => {
                Err(Failure::ConnectRefused(address, Errno::CONNREFUSED))
            }
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(Failure::of_connect(address, &error)),
        }
    }
}
