//! What is logged and counted of an exchange: its access line, its record of decisions, its part in
//! the metrics, and an event line if a backend or a shortage on our side made it fail.
//!
//! All are cheap: event lines are limited for each backend, and the times are those of the worker's
//! batches of events, so none is asked of the kernel.
//!
//! Read next: `log/line.rs`, the access line; `pool/trace/mod.rs`, the record of decisions.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::failure::{Next, Row};
use crate::exchange::state::{Busy, Chosen, ClientSide, Exchange, Stage, Wait, WaitFor};
use crate::log::access::{AccessLine, Details, Format};
use crate::log::limit::HeldBack;
use crate::net::room::FIRST_BYTES;
use crate::pool::Served;
use crate::pool::backend::Backend;
use crate::pool::trace::{self, Outcome};
use crate::text::escape::escape_text;
use crate::traffic::FailureKind;

/// How much of a method and a target stands in an event line, before escaping.
const TARGET_BYTES_MAX: usize = 256;

/// The timestamps of an exchange, in microseconds on the worker's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timestamps {
    /// The request's first byte came.
    pub(super) began: u64,
    /// Its head was complete.
    pub(super) understood: u64,
    /// It last began to wait in the queue, and how long it has waited in all.
    pub(super) queued: u64,
    pub(super) waited: u64,
    /// The present backend was chosen.
    pub(super) chosen: u64,
    /// The request was sent to it.
    pub(super) sent: u64,
    /// Its response head came.
    pub(super) answered: u64,
}

fn between(from_us: u64, to_us: u64) -> Duration {
    Duration::from_micros(to_us.saturating_sub(from_us))
}

impl Exchange {
    /// The request's head is complete.
    pub(super) fn record_request(&mut self, peer: IpAddr, cx: &Context) {
        let now = cx.clock.now_us();
        cx.traffic.all.request();
        self.timestamps.understood = now;
        let at_unix_ms = cx.live.unix_ms(cx.clock.now());
        let client = self.client(peer);
        let request_id = self.request.request_id().unwrap_or(&self.request_id);
        self.decision
            .begin(at_unix_ms, client, request_id, self.request.request_line());
        self.decision.stage(
            trace::Stage::RequestHead,
            between(self.timestamps.began, now),
        );
    }

    /// The request has been sent.
    pub(super) fn record_sent(&mut self, now_us: u64) {
        self.timestamps.sent = now_us;
        self.decision.stage(
            trace::Stage::Connecting,
            between(self.timestamps.understood + self.timestamps.waited, now_us),
        );
    }

    /// A place in the queue is taken: what is left of the time for that begins.
    pub(super) fn begin_wait(&mut self, cx: &Context) {
        let queue = self.settings.config.balance.queue;
        let timeout = queue.map_or(Duration::ZERO, |queue| queue.timeout);
        let left = timeout.saturating_sub(Duration::from_micros(self.timestamps.waited));
        self.timestamps.queued = cx.clock.now_us();
        self.response_wait
            .set(WaitFor::Place, cx.clock.now(), left, true);
    }

    /// The wait in the queue has ended.
    #[inline(never)]
    pub(super) fn end_wait(&mut self, cx: &Context) {
        let took_us = cx.clock.now_us().saturating_sub(self.timestamps.queued);
        self.timestamps.waited += took_us;
        cx.traffic.queued.add(took_us);
        let waited = Duration::from_micros(self.timestamps.waited);
        self.decision.stage(trace::Stage::Queued, waited);
        if self.response_wait.what == WaitFor::Place {
            self.response_wait = Wait::default();
        }
    }

    /// The final response head has come.
    pub(super) fn record_answer(&mut self, status: u16, backend: &Backend, cx: &Context) {
        let now_us = cx.clock.now_us();
        let (all, own) = (&cx.traffic.all, backend.traffic_of(cx.traffic.worker));
        let took = [self.timestamps.began, self.timestamps.chosen];
        all.answer_of(own, status, took.map(|from| now_us.saturating_sub(from)));
        self.timestamps.answered = now_us;
        self.decision.stage(
            trace::Stage::ResponseHead,
            between(self.timestamps.sent, now_us),
        );
        self.record_outcome(Outcome::Answered(status), now_us);
        let took = between(self.timestamps.chosen, now_us);
        cx.snapshot
            .pool
            .served(backend, Served::Answered { status, took });
    }

    /// The additional fields of a JSON line. `waiting`: bytes that the client's connection holds.
    fn details(&self, waiting: u64, now_us: u64) -> Details<'_> {
        let field = |wanted: &[u8]| {
            let mut fields = self.request.fields();
            let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map_or(&b""[..], |(_, value)| value)
        };
        let timestamps = &self.timestamps;
        let is_understood = timestamps.understood != 0;
        Details {
            host: self.request.host().unwrap_or_default(),
            user_agent: field(b"user-agent"),
            referer: field(b"referer"),
            // Behind a complete head these bytes may be the next request; before that they are this
            // one.
            bytes_received: if is_understood {
                self.received + self.request_relay.taken()
            } else {
                waiting
            },
            head_us: (timestamps.answered != 0)
                .then(|| timestamps.answered.saturating_sub(timestamps.began)),
            queued_us: (timestamps.queued != 0).then_some(timestamps.waited),
            backend_us: (timestamps.chosen != 0).then(|| now_us.saturating_sub(timestamps.chosen)),
        }
    }

    /// A try has ended.
    pub(super) fn record_outcome(&mut self, outcome: Outcome, now_us: u64) {
        self.decision
            .outcome(outcome, between(self.timestamps.chosen, now_us));
    }
}

/// A try begins.
pub(super) fn begin_try(exchange: &mut Exchange, chosen: &Chosen, is_retry: bool, cx: &Context) {
    let now = cx.clock.now_us();
    exchange.timestamps.chosen = now;
    let after = between(exchange.timestamps.began, now);
    exchange.decision.began(after);
    let own = chosen.place.traffic_of(cx.traffic.worker);
    own.request();
    if is_retry {
        own.retry();
        cx.traffic.all.retry();
    }
}

/// Counts a try that has failed. A connection that was closed while it was idle, or a shortage on
/// our side, is no failure of the backend.
pub(super) fn count_failure(backend: &Backend, row: &Row, cx: &Context) {
    let goes_on = row.outcome == Outcome::ReusedEnded && row.next != Next::Answer;
    match kind(row.outcome) {
        FailureKind::Shortage => {}
        kind if goes_on => debug_assert_eq!(kind, FailureKind::Died),
        kind => backend.traffic_of(cx.traffic.worker).failure(kind),
    }
}

/// A backend has taken the connection of `tcp` mode.
pub(super) fn tell_connected(exchange: &Exchange, backend: &Backend, cx: &Context) {
    let took = between(exchange.timestamps.chosen, cx.clock.now_us());
    cx.snapshot.pool.served(backend, Served::Connected { took });
}

/// Tells the pool of a try that has failed, if that says something about the backend.
pub(super) fn tell_failure(exchange: &Exchange, backend: &Backend, row: &Row, cx: &Context) {
    if row.concerns_backend() {
        let took = between(exchange.timestamps.chosen, cx.clock.now_us());
        let outcome = row.outcome;
        let failed = Served::Failed { outcome, took };
        cx.snapshot.pool.served(backend, failed);
    }
}

/// Tells the pool of an exchange that has ended with the whole answer.
#[cold]
pub(super) fn tell_whole(busy: &mut Busy, cx: &Context) {
    if let (Some(status), Some(chosen)) = (busy.exchange.status, busy.stage.chosen()) {
        cx.snapshot
            .pool
            .served(&chosen.place, Served::Whole { status });
    }
}

/// How an exchange with this outcome has failed.
fn kind(outcome: Outcome) -> FailureKind {
    match outcome {
        Outcome::ConnectFailed => FailureKind::ConnectFailed,
        Outcome::ConnectTimedOut => FailureKind::ConnectTimedOut,
        Outcome::Died | Outcome::ReusedEnded => FailureKind::Died,
        Outcome::HeadTimedOut => FailureKind::HeadTimedOut,
        Outcome::RefusedHead | Outcome::NotHttp => FailureKind::BadAnswer,
        Outcome::BrokeOff => FailureKind::BrokeOff,
        Outcome::OurShortage => FailureKind::Shortage,
        Outcome::Pending | Outcome::Answered(_) | Outcome::ClientGone => FailureKind::NoBackend,
    }
}

/// Counts an exchange that has ended.
fn count_end(
    client: &ClientSide,
    stage: &mut Stage,
    exchange: &Exchange,
    close: Option<CloseReason>,
    cx: &Context,
) {
    let traffic = &*cx.traffic;
    let timestamps = &exchange.timestamps;
    let is_understood = timestamps.understood != 0;
    if !is_understood {
        traffic.all.request();
    }
    let total_us = cx.clock.now_us().saturating_sub(timestamps.began);
    traffic.duration.add(total_us);
    traffic
        .sent_bytes
        .add(client.connection.sent() - exchange.sent_before);
    traffic
        .received_bytes
        .add(exchange.received + exchange.request_relay.taken());
    let of_last_try = || {
        let last = exchange.tries.last_failure;
        last.map_or(FailureKind::NoBackend, |last| kind(last.outcome))
    };
    let failure = match close {
        Some(CloseReason::BackendBrokeOff | CloseReason::BackendTimeout) => {
            if let Some(chosen) = stage.chosen() {
                let own = chosen.place.traffic_of(traffic.worker);
                own.failure(FailureKind::BrokeOff);
                cx.snapshot.pool.served(&chosen.place, Served::BrokeOff);
            }
            FailureKind::BrokeOff
        }
        Some(CloseReason::OurShortage) => FailureKind::Shortage,
        // In tcp mode there is no answer.
        Some(CloseReason::NoBackend) => of_last_try(),
        // An answer of our own.
        _ if timestamps.answered == 0 && matches!(exchange.status, Some(502..=504)) => {
            of_last_try()
        }
        _ => return,
    };
    traffic.all.failure(failure);
}

/// Writes an event line about an exchange that failed through no fault of the client, at a limited
/// rate for each `backend`. `status`: what the client receives; none if a response is cut.
pub(super) fn log_failure(
    client: &ClientSide,
    exchange: &Exchange,
    backend: Option<&Backend>,
    status: Option<u16>,
    cause: &dyn fmt::Display,
    cx: &mut Context,
) {
    let pool = &cx.snapshot.pool;
    let limit = backend.map_or(pool.unavailable_lines(), |backend| &backend.failure_lines);
    let Some(held_back) = limit.pass(cx.clock.now()) else {
        return;
    };
    let line = FailureLine {
        backend: backend.map(|backend| &*backend.settings.name),
        status,
        client: exchange.client(client.address.ip()),
        request_line: exchange.request.request_line(),
        cause,
        held_back,
    };
    log::warn!("{line}");
}

/// Logs an exchange that has ended, however it did. `close`: why the connection ended with it, if
/// it did.
pub(super) fn record(
    client: &ClientSide,
    Busy { stage, exchange }: &mut Busy,
    close: Option<CloseReason>,
    cx: &mut Context,
) {
    let now = cx.clock.now_us();
    if let Stage::Queued(_) = stage {
        exchange.end_wait(cx);
    }
    count_end(client, stage, exchange, close, cx);
    match close {
        Some(CloseReason::BackendBrokeOff | CloseReason::BackendTimeout) => {
            exchange.record_outcome(Outcome::BrokeOff, now);
        }
        Some(CloseReason::ClientGone) if exchange.status.is_none() => {
            exchange.record_outcome(Outcome::ClientGone, now);
        }
        _ => {}
    }
    // The first reason has caused the rest: a client may leave because it was refused.
    let reason = exchange
        .reason
        .or_else(|| close.and_then(CloseReason::of_exchange));
    let timestamps = exchange.timestamps;
    if timestamps.answered != 0 {
        exchange.decision.stage(
            trace::Stage::ResponseBody,
            between(timestamps.answered, now),
        );
    }
    exchange
        .decision
        .stage(trace::Stage::Total, between(timestamps.began, now));
    exchange.decision.status = exchange.status;
    exchange.decision.reason = reason;
    // Without a complete head there was nothing to decide.
    if timestamps.understood != 0 {
        cx.decisions.push(&exchange.decision);
    }
    let Some(format) = exchange.settings.config.proxy.access_log.format() else {
        return;
    };
    // The present backend, or else the last one that failed.
    let at_hand = stage.chosen().map(|chosen| &chosen.place);
    let backend = at_hand
        .map(|place| &**place)
        .or(exchange.tries.left.as_deref());
    let details = match format {
        Format::Json => exchange.details(client.connection.buffered().len() as u64, now),
        Format::Text => Details::NONE,
    };
    let line = AccessLine {
        client: exchange.client(client.address.ip()),
        request_line: exchange.request.request_line(),
        status: exchange.status.unwrap_or(0),
        bytes_sent: client.connection.sent() - exchange.sent_before,
        total_us: now.saturating_sub(timestamps.began),
        backend: backend.map_or("", |backend| &backend.settings.name),
        tries: exchange.tries.attempts,
        request_id: exchange.request_id(),
        reason,
        details,
    };
    cx.access_log.write(format, &line);
}

/// An event line about a failed exchange.
struct FailureLine<'a> {
    backend: Option<&'a str>,
    status: Option<u16>,
    client: IpAddr,
    request_line: &'a [u8],
    cause: &'a dyn fmt::Display,
    held_back: HeldBack,
}

impl fmt::Display for FailureLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.backend {
            write!(f, "backend {backend:?}: ")?;
        }
        let mut words = self.request_line.splitn(3, |byte| *byte == b' ');
        match (words.next(), words.next()) {
            (Some(method), Some(target)) => {
                match self.status {
                    Some(status) => write!(f, "{status} for ")?,
                    None => f.write_str("cut the answer to ")?,
                }
                write!(f, "{} {}", Escaped(method), Escaped(target))?;
            }
            _ => write!(f, "closed a connection of {}", self.client)?,
        }
        write!(f, ": {}", self.cause)?;
        if self.held_back.count > 0 {
            let HeldBack { count, since_ms } = self.held_back;
            write!(
                f,
                "; {count} more failed in the {} s before",
                since_ms / 1000
            )?;
        }
        Ok(())
    }
}

/// Bytes from the network, escaped and bounded.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(TARGET_BYTES_MAX)];
        // In one piece that never grows: see `net/room.rs`.
        let mut text = Vec::with_capacity(FIRST_BYTES);
        escape_text(shown, &mut text);
        f.write_str(&String::from_utf8_lossy(&text))?;
        if shown.len() < self.0.len() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_line_says_who_failed_what_for_and_why_and_cannot_be_forged() {
        let line = FailureLine {
            backend: Some("a"),
            status: Some(502),
            client: IpAddr::from([192, 0, 2, 1]),
            request_line: b"GET /x HTTP/1.1",
            cause: &"it closed the connection",
            held_back: HeldBack::default(),
        };
        assert_eq!(
            line.to_string(),
            "backend \"a\": 502 for GET /x: it closed the connection"
        );
        let held_back = HeldBack {
            count: 41,
            since_ms: 10_500,
        };
        let cut = FailureLine {
            status: None,
            held_back,
            ..line
        };
        assert_eq!(
            cut.to_string(),
            "backend \"a\": cut the answer to GET /x: it closed the connection; \
             41 more failed in the 10 s before"
        );
        let without_backend = FailureLine {
            backend: None,
            status: Some(503),
            request_line: b"GET /\r\n\x1b[2J\" HTTP/1.1",
            ..line
        };
        assert_eq!(
            without_backend.to_string(),
            "503 for GET /\\x0d\\x0a\\x1b[2J\\x22: it closed the connection"
        );
        let tcp = FailureLine {
            request_line: b"",
            ..line
        };
        assert_eq!(
            tcp.to_string(),
            "backend \"a\": closed a connection of 192.0.2.1: it closed the connection"
        );
        let target = vec![b'/'; 100_000];
        let long = FailureLine {
            request_line: &[b"GET ", &target[..]].concat(),
            ..line
        };
        assert!(long.to_string().len() < 400);
    }
}
