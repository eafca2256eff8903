//! `/status`: how everything stands, for programs and for the page. `documents.md` says what each key means.
//!
//! A document is written backend by backend: a tree of 10,000 backends would take many times its text.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::live::Live;
use crate::live::{Snapshot, Told};
use crate::metrics::sampler::{Recent, Sampler, Series};
use crate::net::lock::lock;
use crate::pool::backend::Backend;
use crate::pool::reasons::{Checked, Since};
use crate::pool::settings::Choices as _;
use crate::pool::state::Operator;
use crate::text::json::Json;
use crate::text::words::counted;
use crate::traffic::{CONNECTION_STATES, FAILURE_KINDS, ProcessTotals, STATUS_CLASSES, Totals};

/// The states of a backend, those in trouble first: the order of the page's rows.
pub(crate) const STATES: [&str; 5] = ["down", "ejected", "draining", "disabled", "up"];
const DOWN: usize = 0;
const DRAINING: usize = 2;
const DISABLED: usize = 3;
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
    pub check: Option<Checked>,
    series: Option<&'a Series>,
}

impl<'a> Overview<'a> {
    pub(crate) fn new(
        live: &'a Live,
        snapshot: &'a Snapshot,
        sampler: &'a Sampler,
    ) -> Overview<'a> {
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
        format!("{text}; {rate} requests/s; {failed} failed in the last minute")
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
        let is_impaired = self.counts[DOWN] > 0 || !warnings.is_empty() || self.live.is_stopping();
        if self.recent.failed > 0 || !self.snapshot.pool.has_healthy() {
            "trouble"
        } else if is_impaired {
            "warning"
        } else {
            "ok"
        }
    }

    /// The document. `memory`: where the kernel tells of this process.
    pub(crate) fn document(
        &self,
        with_history: bool,
        now_unix_ms: u64,
        memory: Option<&File>,
    ) -> String {
        let config = &self.snapshot.config;
        let warnings = self.warnings();
        let mut connections = vec![
            entry("max", Json::raw(self.snapshot.descriptors.clients)),
            entry(
                "open",
                Json::raw(self.totals.connections.iter().sum::<u64>()),
            ),
        ];
        connections.extend(named(&CONNECTION_STATES, &self.totals.connections));
        let listener = self.told.listener.map(|address| address.to_string());
        let is_stopping = self.live.is_stopping();
        let head = Json::object([
            ("version", Json::text(env!("CARGO_PKG_VERSION"))),
            (
                "state",
                Json::text(if is_stopping { "stopping" } else { "running" }),
            ),
            ("level", Json::text(self.level(&warnings))),
            ("summary", Json::text(&self.summary())),
            ("warnings", Json::texts(warnings.iter().map(String::as_str))),
            ("now_unix_ms", Json::raw(now_unix_ms)),
            ("started_unix_ms", Json::raw(self.live.unix_ms(0))),
            (
                "config_file",
                optional(self.told.file.as_deref().map(Json::text)),
            ),
            ("listeners", Json::texts(listener.as_deref())),
            ("mode", Json::text(config.proxy.mode.name())),
            ("method", Json::text(config.balance.method.name())),
            ("workers", Json::raw(config.proxy.workers)),
            (
                "token_set",
                Json::raw(
                    config
                        .admin
                        .as_ref()
                        .is_some_and(|admin| admin.token.is_some()),
                ),
            ),
            (
                "traffic",
                traffic(
                    &self.totals.all,
                    &self.recent,
                    with_history.then_some(self.sampler.all()),
                ),
            ),
            ("connections", Json::Object(connections)),
            (
                "memory",
                Json::object([
                    (
                        "resident_bytes",
                        Json::raw(memory.map_or(0, resident_bytes)),
                    ),
                    ("bound_bytes", Json::raw(self.told.memory_bytes_max)),
                ]),
            ),
        ]);
        let mut out = head.to_string();
        // Goes on where it ends.
        out.truncate(out.len() - "\n}".len());
        out.push_str(",\n  \"backends\": [");
        for (place, source) in config.sources.iter().enumerate() {
            out.push_str(if place == 0 { "\n" } else { ",\n" });
            let document = self.standing(place).document(source.name(), with_history);
            out.push_str(&document.to_string());
        }
        out.push_str("]\n}\n");
        out
    }
}

impl Standing<'_> {
    fn document(&self, source: &str, with_history: bool) -> Json {
        let backend = self.backend;
        let settings = &backend.settings;
        let addresses: Vec<String> = backend
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        let history = self.series.filter(|_| with_history);
        let health = if backend.is_healthy() { UP } else { DOWN };
        let operator = match backend.operator() {
            Operator::Enabled => "enabled",
            Operator::Draining => STATES[DRAINING],
            Operator::Disabled => STATES[DISABLED],
        };
        let mut traffic = traffic(&self.totals, &self.recent, history);
        if let Json::Object(entries) = &mut traffic
            && with_history
            && history.is_none()
        {
            // It is so new that no sample was taken of it.
            entries.push(entry("history", Json::raw("[]")));
        }
        Json::object([
            ("name", Json::text(&settings.name)),
            ("url", Json::text(&settings.url.to_string())),
            ("source", Json::text(source)),
            ("state", Json::text(STATES[self.state])),
            ("since_unix_ms", Json::raw(self.since.unix_ms)),
            ("reason", Json::text(self.since.reason.get())),
            ("health", Json::text(STATES[health])),
            ("operator", Json::text(operator)),
            ("backup", Json::raw(settings.backup)),
            ("weight", Json::raw(settings.weight)),
            ("trust_percent", Json::raw(100)),
            (
                "max_connections",
                optional(settings.max_connections.map(Json::raw)),
            ),
            ("in_flight", Json::raw(backend.in_flight())),
            ("idle_connections", Json::raw(backend.idle())),
            (
                "addresses",
                Json::texts(addresses.iter().map(String::as_str)),
            ),
            (
                "share_wanted_percent",
                Json::thousandths(self.share_wanted.into()),
            ),
            (
                "share_got_percent",
                optional(self.share_got.map(Json::thousandths)),
            ),
            ("check", optional(self.check.as_ref().map(check))),
            ("traffic", traffic),
        ])
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

fn check(check: &Checked) -> Json {
    Json::object([
        ("kind", Json::text(check.kind.name())),
        ("at_unix_ms", Json::raw(check.at_unix_ms)),
        (
            "took_ms",
            ms(u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX)),
        ),
        ("passed", Json::raw(check.passed)),
        ("reason", Json::text(check.reason.get())),
    ])
}

/// The traffic of all requests, or of those to a backend.
fn traffic(totals: &Totals, recent: &Recent, history: Option<&Series>) -> Json {
    let happened = |names: &[&str], counts: &[u64]| {
        let mut entries = named(names, counts);
        entries.retain(|(_, count)| !matches!(count, Json::Raw(text) if text == "0"));
        Json::Object(entries)
    };
    let mut entries = vec![
        entry("requests", Json::raw(totals.requests())),
        entry(
            "requests_per_second",
            Json::thousandths(recent.rate_tenths * 100),
        ),
        entry("failed", Json::raw(totals.failed())),
        entry("failures", happened(&FAILURE_KINDS, totals.failures())),
        entry("answers", happened(&STATUS_CLASSES, totals.answers())),
        entry("retries", Json::raw(totals.retries())),
        entry(
            "last_minute",
            Json::Object(named(
                &["requests", "failed", "retries", "answers_5xx"],
                &[
                    recent.requests,
                    recent.failed,
                    recent.retries,
                    recent.answers_5xx,
                ],
            )),
        ),
        entry("head_p50_ms", optional(recent.head_p50_us.map(ms))),
        entry("head_p99_ms", optional(recent.head_p99_us.map(ms))),
    ];
    if let Some(series) = history {
        let counts: Vec<String> = series.history().map(|count| count.to_string()).collect();
        // On one line, since there are up to sixty of them.
        entries.push(entry(
            "history",
            Json::Raw(format!("[{}]", counts.join(","))),
        ));
    }
    Json::Object(entries)
}

fn named(names: &[&str], counts: &[u64]) -> Vec<(String, Json)> {
    let pairs = names.iter().zip(counts);
    pairs
        .map(|(name, count)| entry(name, Json::raw(count)))
        .collect()
}

#[inline(never)]
fn entry(key: &str, value: Json) -> (String, Json) {
    (key.to_owned(), value)
}

#[inline(never)]
pub(crate) fn optional(value: Option<Json>) -> Json {
    value.unwrap_or_else(|| Json::raw("null"))
}

/// Microseconds as milliseconds.
pub(crate) fn ms(us: u64) -> Json {
    Json::thousandths(us)
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
