//! All metrics in the text format of Prometheus (exposition format 0.0.4): one row for each metric.
//!
//! A row has the name, the type, the help, and what writes the values. Units are seconds and bytes,
//! a name that ends in `_total` only grows. The series of a backend end with it; the sums over all
//! requests go on.

use crate::exchange::CloseReason;
use crate::live::{Live, Snapshot};
use crate::pool::backend::Backend;
use crate::pool::state::Operator;
use crate::text::format::write_decimal;
use crate::traffic::histogram::{Durations, bound_us};
use crate::traffic::{
    BACKEND_FAILURES, CONNECTION_STATES, FAILURE_KINDS, ProcessTotals, STATUS_CLASSES, Totals,
};

/// The type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of the buckets of a histogram, those that end a whole octave from 512 microseconds to 34 seconds
/// have an `le`.
const FIRST_LE: usize = 12;
const LE_STEP: usize = 4;
const LES: usize = 17;

/// Lines for each backend, and the most that one takes beside the backend's name.
const LINES_EACH: usize = 2 + BACKEND_FAILURES + STATUS_CLASSES.len() + LES + 3 + 10;
const LINE_BYTES_MAX: usize = 96;
/// The lines that are not for each backend.
const OTHER_BYTES: usize = 16 * 1024;

/// One metric.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&Scrape<'_>, &mut Lines<'_>),
}

/// What is shown.
struct Scrape<'a> {
    live: &'a Live,
    snapshot: &'a Snapshot,
    totals: ProcessTotals,
    /// Of each backend, in their order.
    backends: Vec<Totals>,
    resident_bytes: Option<u64>,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "rondo_build_info",
        kind: "gauge",
        help: "The version that runs; the value is 1.",
        write: |_, out| out.number(&[("version", env!("CARGO_PKG_VERSION"))], 1),
    },
    Metric {
        name: "rondo_start_time_seconds",
        kind: "gauge",
        help: "When the process started, in seconds since 1970.",
        write: |scrape, out| out.millionths("", &[], scrape.live.unix_ms(0).saturating_mul(1000)),
    },
    Metric {
        name: "rondo_resident_memory_bytes",
        kind: "gauge",
        help: "Memory of the process that is resident.",
        write: |scrape, out| {
            if let Some(bytes) = scrape.resident_bytes {
                out.number(&[], bytes);
            }
        },
    },
    Metric {
        name: "rondo_client_connections",
        kind: "gauge",
        help: "Open client connections, by state.",
        write: |scrape, out| {
            out.each("state", &CONNECTION_STATES, &scrape.totals.connections, &[]);
        },
    },
    Metric {
        name: "rondo_client_connections_max",
        kind: "gauge",
        help: "How many client connections may be open at once.",
        write: |scrape, out| out.number(&[], scrape.snapshot.descriptors.clients as u64),
    },
    Metric {
        name: "rondo_client_connections_accepted_total",
        kind: "counter",
        help: "Client connections accepted.",
        write: |scrape, out| out.number(&[], scrape.totals.accepted),
    },
    Metric {
        name: "rondo_client_connections_closed_total",
        kind: "counter",
        help: "Client connections that have ended, by reason; error says whether something went wrong.",
        write: |scrape, out| {
            for (row, count) in CloseReason::ROWS.iter().zip(scrape.totals.closed) {
                let error = if row.is_error { "true" } else { "false" };
                out.number(&[("reason", row.metric), ("error", error)], count);
            }
        },
    },
    Metric {
        name: "rondo_client_received_bytes_total",
        kind: "counter",
        help: "Bytes received from clients, in requests that have ended.",
        write: |scrape, out| out.number(&[], scrape.totals.received_bytes),
    },
    Metric {
        name: "rondo_client_sent_bytes_total",
        kind: "counter",
        help: "Bytes sent to clients, in requests that have ended.",
        write: |scrape, out| out.number(&[], scrape.totals.sent_bytes),
    },
    Metric {
        name: "rondo_requests_total",
        kind: "counter",
        help: "Requests of clients; in tcp mode, connections.",
        write: |scrape, out| out.number(&[], scrape.totals.all.requests()),
    },
    Metric {
        name: "rondo_request_failures_total",
        kind: "counter",
        help: "Requests that rondo answered with 502, 503 or 504, or whose answer broke off, by kind.",
        write: |scrape, out| {
            out.each("kind", &FAILURE_KINDS, scrape.totals.all.failures(), &[]);
        },
    },
    Metric {
        name: "rondo_responses_total",
        kind: "counter",
        help: "Responses to clients, by class of the status.",
        write: |scrape, out| {
            out.each("code", &STATUS_CLASSES, scrape.totals.all.answers(), &[]);
        },
    },
    Metric {
        name: "rondo_retries_total",
        kind: "counter",
        help: "Tries that were not the first of their request.",
        write: |scrape, out| out.number(&[], scrape.totals.all.retries()),
    },
    Metric {
        name: "rondo_hash_sent_on_total",
        kind: "counter",
        help: "Choices by hash that went to the next backend because the first was at its bound.",
        write: |scrape, out| out.number(&[], scrape.snapshot.pool.sent_on()),
    },
    Metric {
        name: "rondo_retries_refused_total",
        kind: "counter",
        help: "Retries that balance.retry_percent did not allow.",
        write: |scrape, out| out.number(&[], scrape.snapshot.pool.retries_refused()),
    },
    Metric {
        name: "rondo_response_head_seconds",
        kind: "histogram",
        help: "Time from a request's first byte to the head of a backend's response.",
        write: |scrape, out| out.histogram(&[], &scrape.totals.all.head),
    },
    Metric {
        name: "rondo_request_duration_seconds",
        kind: "histogram",
        help: "Time from a request's first byte to the end of its response or tunnel.",
        write: |scrape, out| out.histogram(&[], &scrape.totals.duration),
    },
    Metric {
        name: "rondo_queue_length",
        kind: "gauge",
        help: "Requests that wait for a place at a backend.",
        write: |scrape, out| out.number(&[], scrape.snapshot.pool.waiting() as u64),
    },
    Metric {
        name: "rondo_queue_seconds",
        kind: "histogram",
        help: "Time that requests have waited for a place, however the wait ended.",
        write: |scrape, out| out.histogram(&[], &scrape.totals.queued),
    },
    Metric {
        name: "rondo_queue_refused_total",
        kind: "counter",
        help: "Requests for which the queue was full, or whose time in it ran out.",
        write: |scrape, out| {
            let refused = &scrape.totals.queue_refused;
            out.each("why", &["full", "timed_out"], refused, &[]);
        },
    },
    Metric {
        name: "rondo_backend_up",
        kind: "gauge",
        help: "Whether the backend is healthy.",
        write: |scrape, out| scrape.number_of_each(out, |backend, _| backend.is_healthy().into()),
    },
    Metric {
        name: "rondo_backend_enabled",
        kind: "gauge",
        help: "Whether the operator lets it take new clients: neither drained nor disabled.",
        write: |scrape, out| {
            scrape.number_of_each(out, |backend, _| {
                u64::from(backend.operator() == Operator::Enabled)
            });
        },
    },
    Metric {
        name: "rondo_backend_weight",
        kind: "gauge",
        help: "Its configured weight.",
        write: |scrape, out| {
            scrape.number_of_each(out, |backend, _| backend.settings.weight.into());
        },
    },
    Metric {
        name: "rondo_backend_trust_ratio",
        kind: "gauge",
        help: "The part of its weight that counts now: 1, or less during slow start.",
        write: |scrape, out| {
            let pool = &scrape.snapshot.pool;
            let tenths = pool.backends().iter().map(|backend| pool.trust(backend));
            let millionths = tenths.map(|tenths| 100_000 * u64::from(tenths));
            scrape.millionths_of_each(out, millionths.collect());
        },
    },
    Metric {
        name: "rondo_backend_ejected",
        kind: "gauge",
        help: "Whether it is ejected: out for a time because it answered badly.",
        write: |scrape, out| {
            scrape.number_of_each(out, |backend, _| backend.ejection.is_out().into());
        },
    },
    Metric {
        name: "rondo_backend_ejections_total",
        kind: "counter",
        help: "How often it was ejected.",
        write: |scrape, out| scrape.number_of_each(out, |backend, _| backend.ejection.count()),
    },
    Metric {
        name: "rondo_backend_share_wanted_ratio",
        kind: "gauge",
        help: "The part of the requests that it is meant to get now, by its weight and its trust.",
        write: |scrape, out| {
            let shares = scrape.snapshot.pool.shares();
            let millionths = shares.into_iter().map(|share| 10 * u64::from(share));
            scrape.millionths_of_each(out, millionths.collect());
        },
    },
    Metric {
        name: "rondo_backend_turns_off",
        kind: "gauge",
        help: "How many turns it is away from its due, by round robin.",
        write: |scrape, out| scrape.millionths_of_each(out, scrape.snapshot.pool.turns_off()),
    },
    Metric {
        name: "rondo_backend_in_flight",
        kind: "gauge",
        help: "Exchanges and tunnels that it has now.",
        write: |scrape, out| {
            scrape.number_of_each(out, |backend, _| backend.in_flight() as u64);
        },
    },
    Metric {
        name: "rondo_backend_idle_connections",
        kind: "gauge",
        help: "Connections open to it and unused.",
        write: |scrape, out| scrape.number_of_each(out, |backend, _| backend.idle() as u64),
    },
    Metric {
        name: "rondo_backend_requests_total",
        kind: "counter",
        help: "Tries: requests that were to be sent to it, each as often as that was tried.",
        write: |scrape, out| scrape.number_of_each(out, |_, totals| totals.requests()),
    },
    Metric {
        name: "rondo_backend_retries_total",
        kind: "counter",
        help: "Of its tries, those that were not the first of their request.",
        write: |scrape, out| scrape.number_of_each(out, |_, totals| totals.retries()),
    },
    Metric {
        name: "rondo_backend_failures_total",
        kind: "counter",
        help: "Of its tries, those that failed, by kind.",
        write: |scrape, out| {
            scrape.of_each(|name, _, totals| {
                let kinds = &FAILURE_KINDS[..BACKEND_FAILURES];
                out.each("kind", kinds, totals.failures(), &[("backend", name)]);
            });
        },
    },
    Metric {
        name: "rondo_backend_responses_total",
        kind: "counter",
        help: "Its responses, by class of the status.",
        write: |scrape, out| {
            scrape.of_each(|name, _, totals| {
                let classes = &STATUS_CLASSES;
                out.each("code", classes, totals.answers(), &[("backend", name)]);
            });
        },
    },
    Metric {
        name: "rondo_backend_response_head_seconds",
        kind: "histogram",
        help: "Time from its choice to the head of its response, connecting included.",
        write: |scrape, out| {
            scrape.of_each(|name, _, totals| {
                out.histogram(&[("backend", name)], &totals.head);
            });
        },
    },
];

impl Scrape<'_> {
    fn of_each(&self, mut write: impl FnMut(&str, &Backend, &Totals)) {
        let backends = self.snapshot.pool.backends();
        for (backend, totals) in backends.iter().zip(&self.backends) {
            write(&backend.name, backend, totals);
        }
    }

    fn millionths_of_each(&self, out: &mut Lines<'_>, millionths: Vec<u64>) {
        for (backend, value) in self.snapshot.pool.backends().iter().zip(millionths) {
            out.millionths("", &[("backend", &backend.name)], value);
        }
    }

    fn number_of_each(&self, out: &mut Lines<'_>, number: fn(&Backend, &Totals) -> u64) {
        self.of_each(|name, backend, totals| {
            out.number(&[("backend", name)], number(backend, totals));
        });
    }
}

/// Names and values of labels.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The lines of one metric.
struct Lines<'a> {
    out: &'a mut Vec<u8>,
    name: &'static str,
}

impl Lines<'_> {
    /// Everything of a line but its value.
    fn begin(&mut self, suffix: &str, labels: Labels<'_>, last: Option<(&str, &str)>) {
        self.out.extend_from_slice(self.name.as_bytes());
        self.out.extend_from_slice(suffix.as_bytes());
        let mut before = b'{';
        for (name, value) in labels.iter().chain(&last) {
            self.out.push(before);
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"=\"");
            write_escaped(value, self.out);
            self.out.push(b'"');
            before = b',';
        }
        if before == b',' {
            self.out.push(b'}');
        }
        self.out.push(b' ');
    }

    #[inline(never)]
    fn line(&mut self, suffix: &str, labels: Labels<'_>, last: Option<(&str, &str)>, value: u64) {
        self.begin(suffix, labels, last);
        write_decimal(value, self.out);
        self.out.push(b'\n');
    }

    fn number(&mut self, labels: Labels<'_>, value: u64) {
        self.line("", labels, None, value);
    }

    /// One line for each of these values of a last label.
    fn each(&mut self, label: &str, values: &[&str], numbers: &[u64], labels: Labels<'_>) {
        for (value, number) in values.iter().zip(numbers) {
            self.line("", labels, Some((label, value)), *number);
        }
    }

    fn millionths(&mut self, suffix: &str, labels: Labels<'_>, value: u64) {
        self.begin(suffix, labels, None);
        write_millionths(value, self.out);
        self.out.push(b'\n');
    }

    #[inline(never)]
    fn histogram(&mut self, labels: Labels<'_>, durations: &Durations) {
        let mut below = 0;
        let mut le = Vec::with_capacity(32);
        for (place, count) in durations.buckets.iter().enumerate() {
            below += count;
            let is_shown = place >= FIRST_LE && (place - FIRST_LE).is_multiple_of(LE_STEP);
            if is_shown
                && (place - FIRST_LE) / LE_STEP < LES
                && let Some(bound) = bound_us(place)
            {
                le.clear();
                write_millionths(bound, &mut le);
                let le = str::from_utf8(&le).unwrap_or_default();
                self.line("_bucket", labels, Some(("le", le)), below);
            }
        }
        self.line("_bucket", labels, Some(("le", "+Inf")), below);
        self.millionths("_sum", labels, durations.sum_us);
        self.line("_count", labels, None, below);
    }
}

/// All metrics as they are now. `resident_bytes`: the memory of the process, where that is known.
pub(crate) fn text(live: &Live, resident_bytes: Option<u64>) -> Vec<u8> {
    let snapshot = live.current();
    snapshot.pool.look_at_due();
    let backends = snapshot.pool.backends();
    let names = backends.iter().map(|backend| backend.name.len());
    let mut out = Vec::with_capacity(bytes_max(names));
    let scrape = Scrape {
        live,
        totals: live.traffic(),
        backends: backends.iter().map(|backend| backend.traffic()).collect(),
        snapshot: &snapshot,
        resident_bytes,
    };
    for metric in METRICS {
        let Metric {
            name,
            kind,
            help,
            write,
        } = metric;
        for part in [
            "# HELP ",
            name,
            " ",
            help,
            "\n# TYPE ",
            name,
            " ",
            kind,
            "\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        let out = &mut out;
        write(&scrape, &mut Lines { out, name });
    }
    out
}

/// The most that the text takes while it is made, with backends whose names have these lengths.
pub(crate) fn bytes_max(names: impl Iterator<Item = usize>) -> usize {
    // Nothing in a name has to be escaped.
    let each = names.map(|length| size_of::<Totals>() + LINES_EACH * (LINE_BYTES_MAX + length));
    OTHER_BYTES + each.sum::<usize>()
}

/// The value of a label.
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => out.push(byte),
        }
    }
}

/// A number of millionths as a decimal fraction.
fn write_millionths(number: u64, out: &mut Vec<u8>) {
    write_decimal(number / 1_000_000, out);
    let mut left = number % 1_000_000;
    if left > 0 {
        out.push(b'.');
    }
    let mut unit = 100_000;
    while left > 0 {
        write_decimal(left / unit, out);
        left %= unit;
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::live::tests::live_of;

    #[test]
    fn readme_has_a_row_for_each_metric_and_no_other() {
        let readme = include_str!("../../README.md");
        let rows: Vec<&str> = readme
            .lines()
            .filter(|line| line.starts_with("| `rondo_"))
            .collect();
        let missing: Vec<String> = METRICS
            .iter()
            .filter(|metric| {
                let (begin, end) = (
                    format!("| `{}` | {} | ", metric.name, metric.kind),
                    format!(" | {} |", metric.help),
                );
                let is_its = |row: &&str| row.starts_with(&begin) && row.ends_with(&end);
                !rows.iter().any(is_its)
            })
            .map(|metric| {
                format!(
                    "| `{}` | {} | | {} |",
                    metric.name, metric.kind, metric.help
                )
            })
            .collect();
        assert!(missing.is_empty(), "README lacks:\n{}", missing.join("\n"));
        assert_eq!(rows.len(), METRICS.len());
    }

    #[test]
    fn millionths_are_written_as_short_as_they_are() {
        for (number, text) in [
            (0, "0"),
            (1, "0.000001"),
            (512, "0.000512"),
            (1_000_000, "1"),
            (1_048_576, "1.048576"),
            (10_500_000, "10.5"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            let mut out = Vec::new();
            write_millionths(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn a_name_cannot_end_its_label_or_its_line() {
        let mut out = Vec::new();
        let mut lines = Lines {
            out: &mut out,
            name: "m",
        };
        lines.number(&[("backend", "a\"} 1\nb\\")], 2);
        lines.line("_x", &[], None, 3);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "m{backend=\"a\\\"} 1\\nb\\\\\"} 2\nm_x 3\n");
    }

    #[test]
    fn the_text_stays_below_its_bound() {
        let name = "x".repeat(61);
        let backends: Vec<String> = (100..200)
            .map(|n| format!(r#"{{"name": "{name}{n}", "url": "http://127.0.0.1:1"}}"#))
            .collect();
        let text = format!(
            r#"{{"proxy": {{"port": 0}}, "backends": [{}]}}"#,
            backends.join(",")
        );
        let live = live_of(Config::from_text("test", &text).unwrap());
        let worker = live.new_traffic();
        for backend in live.current().pool.backends() {
            let own = backend.traffic_of(0);
            for _ in 0..1000 {
                worker.all.answer_of(own, 200, [u64::MAX / 2000; 2]);
            }
        }
        let text = super::text(&live, Some(u64::MAX));
        let bound = bytes_max([64; 100].into_iter());
        assert!(text.len() < bound, "{} of {bound}", text.len());
        assert_eq!(text.capacity(), bound, "it has not grown");
        let text = String::from_utf8(text).unwrap();
        let of_one = text.lines().filter(|line| line.contains("x100"));
        assert_eq!(of_one.count(), LINES_EACH);
    }

    #[test]
    fn each_metric_has_the_form_that_its_type_wants() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for Metric {
            name, kind, help, ..
        } in METRICS
        {
            assert!(name.starts_with("rondo_") && help.ends_with('.'), "{name}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
            assert!(!help.contains(['\\', '\n']), "{name}");
        }
    }
}
