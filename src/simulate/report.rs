//! The figures of all methods side by side: as text for people, or as JSON.

use crate::config::Config;
use crate::pool::moved::rounded;
use crate::pool::settings::{Choices as _, Method};
use crate::simulate::agenda::sorted;
use crate::simulate::figures::Figures;
use crate::simulate::scenario::{Change, Load, Scenario, State};
use crate::text::json::{Json, Writer};
use crate::text::words::counted;

/// Characters that a name takes, of a method or of a backend: with eight columns of ten characters
/// or six shares of thirteen a line has less than a hundred.
const NAME_WIDTH: usize = 18;
/// Backends of which the shares are shown, and events of them.
const SHOWN_MAX: usize = 16;

/// What was played, and its figures by method.
pub(super) struct Report<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) config: &'a Config,
    pub(super) results: Vec<(Method, Figures)>,
}

/// A column: its name, its name in JSON, and what it counts.
type Column = (&'static str, &'static str, Unit);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Microseconds.
    Time,
    Number,
    /// Tenths of a per cent.
    Permille,
}

const COLUMNS: [Column; 8] = [
    ("p50", "p50_ms", Unit::Time),
    ("p90", "p90_ms", Unit::Time),
    ("p99", "p99_ms", Unit::Time),
    ("p99.9", "p99_9_ms", Unit::Time),
    ("failed", "failed", Unit::Number),
    ("repeated", "repeated", Unit::Number),
    ("queue", "queue_max", Unit::Number),
    ("moved", "moved_percent", Unit::Permille),
];

/// The values of all columns.
fn values(figures: &Figures) -> [Option<u64>; COLUMNS.len()] {
    let time = |thousandths| figures.times.quantile(thousandths);
    [
        time(500),
        time(900),
        time(990),
        time(999),
        Some(figures.failed),
        Some(figures.repeated),
        Some(figures.queue_max as u64),
        Some(permille(figures.moved, figures.clients)),
    ]
}

impl Report<'_> {
    /// For people.
    #[inline(never)]
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.write_load(&mut out);
        self.write_events(&mut out);
        self.write_table(&mut out);
        self.write_shares(&mut out);
        out
    }

    #[inline(never)]
    fn write_load(&self, out: &mut String) {
        let scenario = self.scenario;
        let left_out = match &scenario.load {
            Load::Rate { per_second, .. } => {
                add(out, &[&per_second.to_string(), " requests a second"]);
                0
            }
            Load::Clients { clients, think_us } => {
                let clients = counted(*clients as usize, "client");
                let think = time(*think_us);
                add(
                    out,
                    &[&clients, ", each thinking ", &think, " between requests,"],
                );
                0
            }
            Load::Log(log) => {
                add(out, &["the requests of the log"]);
                log.left_out
            }
        };
        let requests = self.results.first().map_or(0, |(_, it)| it.requests);
        let backends = counted(self.config.backends.len(), "backend");
        let seed = scenario.seed.to_string();
        let requests = counted(usize::try_from(requests).unwrap_or(usize::MAX), "request");
        add(
            out,
            &[" for ", &time(scenario.duration_us), ", seed ", &seed, ": "],
        );
        add(out, &[&requests, " over ", &backends, "\n"]);
        if left_out > 0 {
            let left_out = left_out.to_string();
            add(
                out,
                &["  without ", &left_out, " that rondo answered itself\n"],
            );
        }
    }

    #[inline(never)]
    fn write_events(&self, out: &mut String) {
        let mut events: Vec<(&str, Change)> = Vec::new();
        for (server, backend) in self.scenario.servers.iter().zip(&self.config.backends) {
            events.extend(server.events.iter().map(|change| (&*backend.name, *change)));
        }
        let order = sorted(events.iter().zip(0..).map(|((_, it), at)| [it.at_us, at]));
        for at in order.iter().take(SHOWN_MAX) {
            let (name, change) = events[*at as usize];
            out.push_str("  at ");
            left(out, &time(change.at_us), 6);
            let value = thousandths(change.value);
            let [before, value, after] = match change.to {
                State::Slow if change.value == 1000 => [" takes its usual time again", "", ""],
                State::Slow => [" takes ", &value, " times as long"],
                State::Errors => [
                    " fails in ",
                    &percent(change.value / 1000),
                    " of its answers",
                ],
                State::Down => [" is down", "", ""],
                State::Up => [" is up", "", ""],
            };
            add(out, &[name, before, value, after, "\n"]);
        }
        if events.len() > SHOWN_MAX {
            let more = (events.len() - SHOWN_MAX).to_string();
            add(out, &["  and ", &more, " more events\n"]);
        }
    }

    #[inline(never)]
    fn write_table(&self, out: &mut String) {
        out.push('\n');
        left(out, "method", NAME_WIDTH);
        for (name, ..) in COLUMNS {
            right(out, name, 9);
            out.push(' ');
        }
        end_line(out);
        let mut rows = Vec::with_capacity(self.results.len());
        for (_, figures) in &self.results {
            rows.push(values(figures));
        }
        for ((method, _), row) in self.results.iter().zip(&rows) {
            left(out, method.name(), NAME_WIDTH);
            for (at, (_, _, unit)) in COLUMNS.iter().enumerate() {
                let text = match (row[at], unit) {
                    (None, _) => "-".to_owned(),
                    (Some(us), Unit::Time) => time(us),
                    (Some(number), Unit::Number) => number.to_string(),
                    (Some(permille), Unit::Permille) => percent(permille),
                };
                right(out, &text, 9);
                let is_worst = rows.iter().all(|other| other[at] <= row[at]);
                let is_alone = rows.iter().any(|other| other[at] < row[at]);
                out.push(if is_worst && is_alone { '*' } else { ' ' });
            }
            end_line(out);
        }
        out.push_str(
            "\n* the worst of its column. p50 to p99.9: the time to answer of requests that did not fail;\n\
             repeated: sent to another backend; queue: the most that waited; moved: clients that changed backend.\n",
        );
    }

    /// Backends downwards, methods across; each name of a method in two lines.
    #[inline(never)]
    fn write_shares(&self, out: &mut String) {
        out.push('\n');
        for title in ["share of requests", ""] {
            left(out, title, NAME_WIDTH);
            for (method, _) in &self.results {
                let name = method.name();
                let (first, rest) = name.split_once('_').unwrap_or(("", name));
                right(out, if title.is_empty() { rest } else { first }, 13);
            }
            end_line(out);
        }
        let backends = self.config.backends.iter().enumerate();
        for (place, backend) in backends.take(SHOWN_MAX) {
            // Names are ASCII.
            let name = backend.name.get(..NAME_WIDTH - 1).unwrap_or(&backend.name);
            left(out, name, NAME_WIDTH);
            for (_, figures) in &self.results {
                let most = figures.backends.iter().map(|it| it.requests).max();
                let requests = figures.backends[place].requests;
                let bar = rounded(5 * requests, most.unwrap_or(0).max(1));
                right(out, &"#####"[5 - usize::try_from(bar).unwrap_or(0)..], 6);
                right(out, &percent(permille(requests, figures.tries())), 7);
            }
            end_line(out);
        }
        if self.config.backends.len() > SHOWN_MAX {
            let more = (self.config.backends.len() - SHOWN_MAX).to_string();
            add(out, &["and ", &more, " more backends\n"]);
        }
    }

    /// For a program.
    #[inline(never)]
    pub(super) fn json(&self) -> String {
        let mut json = Writer::default();
        json.open("", '{');
        json.number("seed", self.scenario.seed);
        json.thousandths("duration_ms", self.scenario.duration_us);
        json.open("methods", '[');
        for (method, figures) in &self.results {
            json.open("", '{');
            json.text("method", method.name());
            json.number("requests", figures.requests);
            for ((_, name, unit), value) in COLUMNS.iter().zip(values(figures)) {
                let unit = match unit {
                    Unit::Number => 1000,
                    Unit::Time => 1,
                    Unit::Permille => 100,
                };
                json.thousandths_or_null(name, value.map(|value| value * unit));
            }
            json.open("backends", '[');
            for (backend, settings) in figures.backends.iter().zip(&self.config.backends) {
                json.open("", '{');
                json.text("name", &settings.name);
                json.number("requests", backend.requests);
                let percent = rounded(backend.requests * 100_000, figures.tries().max(1));
                json.thousandths("share_percent", percent);
                json.number("in_flight_max", backend.in_flight_max as u64);
                json.thousandths("gap_ms", backend.gap_us);
                json.open("requests_by_tenth", '[');
                for requests in backend.by_part {
                    json.number("", requests);
                }
                json.close(']');
                json.close('}');
            }
            json.close(']');
            json.close('}');
        }
        json.close(']');
        json.close('}');
        json.out.push('\n');
        json.out
    }
}

fn add(out: &mut String, parts: &[&str]) {
    for part in parts {
        out.push_str(part);
    }
}

#[inline(never)]
fn left(out: &mut String, text: &str, width: usize) {
    out.push_str(text);
    for _ in text.len()..width {
        out.push(' ');
    }
}

#[inline(never)]
fn right(out: &mut String, text: &str, width: usize) {
    for _ in text.len()..width {
        out.push(' ');
    }
    out.push_str(text);
}

/// Without the spaces before it.
fn end_line(out: &mut String) {
    out.truncate(out.trim_ascii_end().len());
    out.push('\n');
}

/// `part` of `all` in tenths of a per cent.
fn permille(part: u64, all: u64) -> u64 {
    rounded(part * 1000, all.max(1))
}

#[inline(never)]
fn percent(permille: u64) -> String {
    let mut text = (permille / 10).to_string();
    add(&mut text, &[".", &(permille % 10).to_string(), "%"]);
    text
}

/// A number that is given in thousandths, as far as they count.
#[inline(never)]
fn thousandths(number: u64) -> String {
    Json::thousandths(number).to_string()
}

/// A time in its first three digits.
#[inline(never)]
fn time(us: u64) -> String {
    let (number, unit) = match us {
        0..1_000_000 => (us, "ms"),
        _ => (us / 1000, "s"),
    };
    let unit_of_digit = match number {
        0..10_000 => 10,
        10_000..100_000 => 100,
        _ => 1000,
    };
    thousandths(number / unit_of_digit * unit_of_digit) + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_three_digits() {
        for (us, text) in [
            (0, "0ms"),
            (70, "0.07ms"),
            (999, "0.99ms"),
            (9_876, "9.87ms"),
            (12_345, "12.3ms"),
            (999_999, "999ms"),
            (1_000_000, "1s"),
            (20_000_000, "20s"),
            (61_234_567, "61.2s"),
            (3_600_000_000, "3600s"),
        ] {
            assert_eq!(time(us), text);
        }
    }
}
