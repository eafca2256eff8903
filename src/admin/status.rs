//! `/status`: how everything stands, for programs and for the page. `documents.md` says what each key means.
//!
//! It is written piece by piece: a tree of 10,000 backends would take many times its text.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::live::{Live, Snapshot, Told};
use crate::metrics::sampler::{Recent, Sampler, Series};
use crate::net::lock::lock;
use crate::pool::backend::Backend;
use crate::pool::reasons::{Checked, Since};
use crate::pool::settings::Choices as _;
use crate::pool::state::Operator;
use crate::text::json::Writer;
use crate::text::words::counted;
use crate::traffic::{CONNECTION_STATES, FAILURE_KINDS, ProcessTotals, STATUS_CLASSES, Totals};

/// The states of a backend, those in trouble first: the order of the page's rows.
pub(crate) const STATES: [&str; 5] = ["down", "ejected", "draining", "disabled", "up"];
const DOWN: usize = 0;
const EJECTED: usize = 1;
const UP: usize = 4;

/// What one backend takes in the document.
pub(crate) const BYTES_EACH: usize = 4096;

/// All that a document about the present is made of.
pub(crate) struct Overview<'a> {
    live: &'a Live,
    snapshot: &'a Snapshot,
    sampler: &'a Sampler,
    totals: ProcessTotals,
    recent: Recent,
    shares: Vec<u32>,
    /// What was sent to backends in the last minute.
    sent: u64,
    /// Backends by state.
    counts: [usize; STATES.len()],
    told: Told,
}

/// How one backend stands.
pub(crate) struct Standing<'a> {
    pub backend: &'a Backend,
    /// In [`STATES`].
    pub state: usize,
    pub since: Since,
    pub totals: Totals,
    pub recent: Recent,
    /// In thousandths of a per cent.
    pub share_wanted: u32,
    pub share_got: Option<u64>,
    pub trust_percent: u32,
    pub check: Option<Checked>,
    series: Option<&'a Series>,
}

impl<'a> Overview<'a> {
    #[inline(never)]
    pub(crate) fn new(
        live: &'a Live,
        snapshot: &'a Snapshot,
        sampler: &'a Sampler,
    ) -> Overview<'a> {
        snapshot.pool.look_at_due();
        let totals = live.traffic();
        let mut overview = Overview {
            live,
            snapshot,
            sampler,
            recent: sampler.all().recent(&totals.all),
            totals,
            shares: snapshot.pool.shares(),
            sent: 0,
            counts: [0; STATES.len()],
            told: lock(&live.told).clone(),
        };
        for backend in snapshot.pool.backends() {
            overview.counts[state(backend)] += 1;
            overview.sent += recent(sampler, backend, &backend.traffic()).requests;
        }
        overview
    }

    /// The places of the backends in this state, in the order of the configuration.
    pub(crate) fn places(&self, wanted: usize) -> impl Iterator<Item = usize> {
        let backends = self.snapshot.pool.backends().iter();
        let states = backends.map(|backend| state(backend));
        states
            .enumerate()
            .filter_map(move |(place, state)| (state == wanted).then_some(place))
    }

    /// How the backend at a place stands.
    pub(crate) fn standing(&self, place: usize) -> Standing<'_> {
        let backend = &self.snapshot.pool.backends()[place];
        let totals = backend.traffic();
        let recent = recent(self.sampler, backend, &totals);
        Standing {
            state: state(backend),
            since: backend.shown().since,
            share_wanted: self.shares[place],
            share_got: (recent.requests * 100_000).checked_div(self.sent),
            trust_percent: self.snapshot.pool.trust(backend) * 10,
            check: backend.last_check(),
            series: self.sampler.of(backend),
            backend,
            totals,
            recent,
        }
    }

    /// How it goes, in one line.
    pub(crate) fn summary(&self) -> String {
        let [.., up] = self.counts;
        let all: usize = self.counts.iter().sum();
        let mut text = format!("{up} of {} up", counted(all, "backend"));
        for (state, count) in STATES.iter().zip(&self.counts[..UP]) {
            if *count > 0 {
                text = format!("{text}, {count} {state}");
            }
        }
        let rate = self.recent.rate_tenths;
        let rate = match rate {
            1..100 => format!("{}.{}", rate / 10, rate % 10),
            _ => grouped(rate / 10),
        };
        let failed = grouped(self.recent.failed);
        let mut text = format!("{text}; {rate} requests/s; {failed} failed in the last minute");
        if self.snapshot.config.balance.queue.is_some() {
            let waiting = grouped(self.snapshot.pool.waiting() as u64);
            text = format!("{text}; {waiting} in the queue");
        }
        text
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(error) = &self.told.reload_error {
            warnings.push(format!("The last reload failed: {error}"));
        }
        if self.live.admission.newcomers_wait() {
            let max = grouped(self.snapshot.descriptors.clients as u64);
            warnings.push(format!("Clients wait: all {max} connections are open"));
        }
        warnings
    }

    fn level(&self, warnings: &[String]) -> &'static str {
        let is_out = self.counts[DOWN] + self.counts[EJECTED] > 0;
        let is_impaired = is_out || !warnings.is_empty() || self.live.is_stopping();
        if self.recent.failed > 0 || !self.snapshot.pool.has_healthy() {
            "trouble"
        } else if is_impaired {
            "warning"
        } else {
            "ok"
        }
    }

    /// The document. `memory`: where the kernel tells of this process.
    #[inline(never)]
    pub(crate) fn document(
        &self,
        with_history: bool,
        now_unix_ms: u64,
        memory: Option<&File>,
    ) -> String {
        let config = &self.snapshot.config;
        let clients = self.snapshot.descriptors.clients as u64;
        let warnings = self.warnings();
        let is_stopping = self.live.is_stopping();
        let has_token = config
            .admin
            .as_ref()
            .is_some_and(|admin| admin.token.is_some());
        let mut json = Writer::default();
        json.open("", '{');
        json.text("version", env!("CARGO_PKG_VERSION"));
        json.text("state", if is_stopping { "stopping" } else { "running" });
        json.text("level", self.level(&warnings));
        json.text("summary", &self.summary());
        json.open("warnings", '[');
        for warning in &warnings {
            json.text("", warning);
        }
        json.close(']');
        json.number("now_unix_ms", now_unix_ms);
        json.number("started_unix_ms", self.live.unix_ms(0));
        json.text_or_null("config_file", self.told.file.as_deref());
        json.open("listeners", '[');
        if let Some(address) = self.told.listener {
            json.text("", &address.to_string());
        }
        json.close(']');
        json.text("mode", config.proxy.mode.name());
        json.text("method", config.balance.method.name());
        json.number("workers", config.proxy.workers as u64);
        json.flag("token_set", has_token);
        let history = with_history.then(|| self.sampler.all());
        write_traffic(
            &self.totals.all,
            &self.recent,
            with_history,
            history,
            &mut json,
        );
        json.open("connections", '{');
        json.number("max", clients);
        json.number("open", self.totals.connections.iter().sum());
        write_all(&CONNECTION_STATES, &self.totals.connections, &mut json);
        json.close('}');
        if let Some(queue) = config.balance.queue {
            json.open("queue", '{');
            let [full, timed_out] = self.totals.queue_refused;
            json.number("length", self.snapshot.pool.waiting() as u64);
            json.number("max", queue.length as u64);
            json.number("waited", self.totals.queued.buckets.iter().sum());
            json.thousandths("waited_ms", self.totals.queued.sum_us);
            write_all(&["full", "timed_out"], &[full, timed_out], &mut json);
            json.close('}');
        } else {
            json.raw("queue", "null");
        }
        json.open("memory", '{');
        json.number("resident_bytes", memory.map_or(0, resident_bytes));
        json.number("bound_bytes", self.told.memory_bytes_max);
        json.close('}');
        json.open("backends", '[');
        for (place, source) in config.sources.iter().enumerate() {
            self.standing(place)
                .write(source.name(), with_history, &mut json);
        }
        json.close(']');
        json.close('}');
        json.out.push('\n');
        json.out
    }
}

impl Standing<'_> {
    #[inline(never)]
    fn write(&self, source: &str, with_history: bool, json: &mut Writer) {
        let backend = self.backend;
        let settings = &backend.settings;
        let operator = match backend.operator() {
            Operator::Enabled => "enabled",
            Operator::Draining => "draining",
            Operator::Disabled => "disabled",
        };
        let health = if !backend.is_healthy() {
            "down"
        } else if backend.ejection.is_out() {
            "ejected"
        } else {
            "up"
        };
        let max_connections = settings.max_connections.map(|max| max as u64);
        json.open("", '{');
        json.text("name", &settings.name);
        json.text("url", &settings.url.to_string());
        json.text("source", source);
        json.text("state", STATES[self.state]);
        json.number("since_unix_ms", self.since.unix_ms);
        json.text("reason", self.since.reason.get());
        json.text("health", health);
        json.text("operator", operator);
        json.flag("backup", settings.backup);
        json.number("weight", settings.weight.into());
        json.number("trust_percent", self.trust_percent.into());
        json.number_or_null("max_connections", max_connections);
        json.number("in_flight", backend.in_flight() as u64);
        json.number("idle_connections", backend.idle() as u64);
        json.open("addresses", '[');
        for address in &*backend.addresses() {
            json.text("", &address.to_string());
        }
        json.close(']');
        json.thousandths("share_wanted_percent", self.share_wanted.into());
        json.thousandths_or_null("share_got_percent", self.share_got);
        if let Some(check) = &self.check {
            json.open("check", '{');
            json.text("kind", check.kind.name());
            json.number("at_unix_ms", check.at_unix_ms);
            let us = u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX);
            json.thousandths("took_ms", us);
            json.flag("passed", check.passed);
            json.text("reason", check.reason.get());
            json.close('}');
        } else {
            json.raw("check", "null");
        }
        write_traffic(&self.totals, &self.recent, with_history, self.series, json);
        json.close('}');
    }
}

/// A backend's place in [`STATES`].
fn state(backend: &Backend) -> usize {
    let shown = backend.shown().state;
    STATES
        .iter()
        .position(|state| *state == shown)
        .unwrap_or(UP)
}

/// What happened to a backend lately; nothing has, before the first sample of a new one.
fn recent(sampler: &Sampler, backend: &Backend, totals: &Totals) -> Recent {
    let series = sampler.of(backend);
    series
        .map(|series| series.recent(totals))
        .unwrap_or_default()
}

/// The traffic of all requests, or of those to a backend. One so new that no sample was taken of it has an empty history.
#[inline(never)]
fn write_traffic(
    totals: &Totals,
    recent: &Recent,
    with_history: bool,
    series: Option<&Series>,
    json: &mut Writer,
) {
    json.open("traffic", '{');
    json.number("requests", totals.requests());
    json.thousandths("requests_per_second", recent.rate_tenths * 100);
    json.number("failed", totals.failed());
    for (key, names, counts) in [
        ("failures", &FAILURE_KINDS[..], totals.failures()),
        ("answers", &STATUS_CLASSES, totals.answers()),
    ] {
        json.open(key, '{');
        for (name, count) in names.iter().zip(counts) {
            if *count > 0 {
                json.number(name, *count);
            }
        }
        json.close('}');
    }
    json.number("retries", totals.retries());
    json.open("last_minute", '{');
    write_all(
        &["requests", "failed", "retries", "answers_5xx"],
        &[
            recent.requests,
            recent.failed,
            recent.retries,
            recent.answers_5xx,
        ],
        json,
    );
    json.close('}');
    json.thousandths_or_null("head_p50_ms", recent.head_p50_us);
    json.thousandths_or_null("head_p99_ms", recent.head_p99_us);
    if with_history {
        json.open("history", '[');
        for count in series.into_iter().flat_map(Series::history) {
            json.number("", count.into());
        }
        json.close(']');
    }
    json.close('}');
}

#[inline(never)]
fn write_all(names: &[&str], counts: &[u64], json: &mut Writer) {
    for (name, count) in names.iter().zip(counts) {
        json.number(name, *count);
    }
}

/// A number with a comma after each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The resident memory of this process, from its open `/proc/self/status`; 0 where it cannot be read.
pub(crate) fn resident_bytes(status: &File) -> u64 {
    let mut text = [0; 4096];
    let length = status.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_have_commas() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345, "12,345"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
