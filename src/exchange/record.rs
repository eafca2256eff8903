//! What is written down of an exchange: its access line, and the decisions that were made in it.
//!
//! Both are cheap. Times are those of the worker's batches of events, so nothing here asks for one.

use std::net::IpAddr;
use std::time::Duration;

use crate::exchange::context::Context;
use crate::exchange::{Client, CloseReason, Exchange};
use crate::log::access::{AccessLine, Details, Format};
use crate::pool::trace::{Outcome, Stage};

/// The moments of an exchange, in microseconds on the worker's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    /// The request's first byte came.
    pub(super) began: u64,
    /// Its head was whole.
    pub(super) understood: u64,
    /// The backend at hand was chosen.
    pub(super) chosen: u64,
    /// The request went out to it.
    pub(super) sent: u64,
    /// Its response head came.
    pub(super) answered: u64,
}

fn between(from_us: u64, to_us: u64) -> Duration {
    Duration::from_micros(to_us.saturating_sub(from_us))
}

impl Exchange {
    /// The request's head is whole.
    pub(super) fn record_request(&mut self, peer: IpAddr, cx: &Context) {
        let now = cx.clock.now_us();
        self.moments.understood = now;
        let at_unix_ms = cx.runtime.unix_ms(cx.clock.now());
        let client = self.client(peer);
        let request_id = self.request.request_id().unwrap_or(&self.request_id);
        self.decision
            .begin(at_unix_ms, client, request_id, self.request.request_line());
        self.decision
            .stage(Stage::RequestHead, between(self.moments.began, now));
    }

    /// The request goes out.
    pub(super) fn record_sent(&mut self, now_us: u64) {
        self.moments.sent = now_us;
        self.decision
            .stage(Stage::Connecting, between(self.moments.understood, now_us));
    }

    /// The final response head has come.
    pub(super) fn record_answer(&mut self, now_us: u64) {
        self.moments.answered = now_us;
        self.decision
            .stage(Stage::ResponseHead, between(self.moments.sent, now_us));
        self.record_outcome(Outcome::Answered(self.status), now_us);
    }

    /// What a JSON line shows besides. `waiting`: bytes that the client's connection holds.
    fn details(&self, waiting: u64, now_us: u64) -> Details<'_> {
        let field = |wanted: &[u8]| {
            let mut fields = self.request.fields();
            let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map_or(&b""[..], |(_, value)| value)
        };
        let moments = &self.moments;
        let is_understood = moments.understood != 0;
        Details {
            host: self.request.host().unwrap_or_default(),
            user_agent: field(b"user-agent"),
            referer: field(b"referer"),
            // Behind a whole head there may be the next request; before it there is nothing but this one.
            bytes_received: if is_understood {
                self.received + self.request_relay.taken()
            } else {
                waiting
            },
            head_us: (moments.answered != 0)
                .then(|| moments.answered.saturating_sub(moments.began)),
            backend_us: (moments.chosen != 0).then(|| now_us.saturating_sub(moments.chosen)),
        }
    }

    /// A try has ended.
    pub(super) fn record_outcome(&mut self, outcome: Outcome, now_us: u64) {
        self.decision
            .outcome(outcome, between(self.moments.chosen, now_us));
    }
}

impl Client {
    /// Writes down an exchange that has ended, however it did. `reason`: why the connection ended
    /// with it, if it did.
    pub(super) fn record(
        &self,
        exchange: &mut Exchange,
        reason: Option<CloseReason>,
        cx: &mut Context,
    ) {
        let now = cx.clock.now_us();
        match reason {
            Some(CloseReason::BackendBrokeOff) => exchange.record_outcome(Outcome::BrokeOff, now),
            Some(CloseReason::ClientGone) if exchange.status == 0 => {
                exchange.record_outcome(Outcome::ClientGone, now);
            }
            _ => {}
        }
        let moments = exchange.moments;
        if moments.answered != 0 {
            exchange
                .decision
                .stage(Stage::ResponseBody, between(moments.answered, now));
        }
        exchange
            .decision
            .stage(Stage::Total, between(moments.began, now));
        exchange.decision.status = exchange.status;
        // Without a request that was understood there was nothing to decide.
        if moments.understood != 0 {
            cx.decisions.push(&exchange.decision);
        }
        let Some((writer, format)) = &mut cx.access_log else {
            return;
        };
        let backend = exchange.route.backend.as_ref();
        let details = match format {
            Format::Json => exchange.details(self.connection.buffered().len() as u64, now),
            Format::Text => Details::NONE,
        };
        let line = AccessLine {
            client: exchange.client(self.address.ip()),
            request_line: exchange.request.request_line(),
            status: exchange.status,
            bytes_sent: self.connection.sent() - exchange.sent_before,
            total_us: now.saturating_sub(moments.began),
            backend: backend.map_or("", |backend| &backend.settings.name),
            tries: exchange.route.attempts,
            request_id: exchange.request_id(),
            reason: reason
                .filter(|reason| *reason != CloseReason::Finished)
                .map(CloseReason::text),
            details,
        };
        writer.write(*format, &line);
    }
}
