//! The figures of all methods side by side: as text for people, or as JSON.

use std::fmt::Write as _;

use crate::config::Config;
use crate::pool::moved::rounded;
use crate::pool::settings::{Choices as _, Method};
use crate::simulate::figures::Figures;
use crate::simulate::scenario::{Change, Load, Scenario};
use crate::text::json::Writer;
use crate::text::words::counted;

/// Characters that a name takes, of a method or of a backend: with eight columns of ten characters
/// or six shares of thirteen a line has less than a hundred.
const NAME_WIDTH: usize = 18;
/// Characters of the longest bar.
const BAR_WIDTH: u64 = 5;
/// Backends of which the shares are shown, and events of them.
const SHOWN_MAX: usize = 16;

/// What was played, and its figures by method.
pub(super) struct Report<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) config: &'a Config,
    pub(super) results: Vec<(Method, Figures)>,
}

/// A column: its name, its name in JSON, the value of a row, and what it counts.
type Column = (
    &'static str,
    &'static str,
    fn(&Figures) -> Option<u64>,
    Unit,
);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Microseconds,
    Number,
    /// Tenths of a per cent.
    Permille,
}

const COLUMNS: [Column; 8] = [
    (
        "p50",
        "p50_ms",
        |it| it.times.quantile(500),
        Unit::Microseconds,
    ),
    (
        "p90",
        "p90_ms",
        |it| it.times.quantile(900),
        Unit::Microseconds,
    ),
    (
        "p99",
        "p99_ms",
        |it| it.times.quantile(990),
        Unit::Microseconds,
    ),
    (
        "p99.9",
        "p99_9_ms",
        |it| it.times.quantile(999),
        Unit::Microseconds,
    ),
    ("failed", "failed", |it| Some(it.failed), Unit::Number),
    ("repeated", "repeated", |it| Some(it.repeated), Unit::Number),
    (
        "queue",
        "queue_max",
        |it| Some(it.queue_max as u64),
        Unit::Number,
    ),
    (
        "moved",
        "moved_percent",
        |it| Some(permille(it.moved, it.clients)),
        Unit::Permille,
    ),
];

impl Report<'_> {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        self.write_load(&mut out);
        self.write_events(&mut out);
        self.write_table(&mut out);
        self.write_shares(&mut out);
        out
    }

    fn write_load(&self, out: &mut String) {
        let scenario = self.scenario;
        let mut left_out = 0;
        let load = match &scenario.load {
            Load::Rate { per_second, .. } => format!("{per_second} requests a second"),
            Load::Clients { clients, think_us } => {
                let clients = counted(*clients as usize, "client");
                format!("{clients}, thinking time {}", time(*think_us))
            }
            Load::Log(log) => {
                left_out = log.left_out;
                "the requests of the log".to_owned()
            }
        };
        let requests = self.results.iter().map(|(_, it)| it.requests).max();
        let backends = counted(self.config.backends.len(), "backend");
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{load} for {}, seed {}: {} requests over {backends}",
            time(scenario.duration_us),
            scenario.seed,
            requests.unwrap_or(0),
        );
        if left_out > 0 {
            let _ = writeln!(out, "  without {left_out} that rondo answered itself");
        }
    }

    fn write_events(&self, out: &mut String) {
        let servers = self.scenario.servers.iter().zip(&self.config.backends);
        let mut events: Vec<(u64, &str, Change)> = servers
            .flat_map(|(server, backend)| {
                let events = server.events.iter();
                events.map(|(at_us, change)| (*at_us, &*backend.name, *change))
            })
            .collect();
        events.sort_by_key(|(at_us, ..)| *at_us);
        for (at_us, name, change) in events.iter().take(SHOWN_MAX) {
            let what = match change {
                Change::Slow(1000) => "takes as long as planned".to_owned(),
                Change::Slow(times) => format!("takes {} times as long", thousandths(*times)),
                Change::Errors(share) => format!("fails in {} %", thousandths(*share / 10)),
                Change::Down => "is down".to_owned(),
                Change::Up => "is up".to_owned(),
            };
            let _ = writeln!(out, "  at {:<5} {name} {what}", time(*at_us));
        }
        if events.len() > SHOWN_MAX {
            let _ = writeln!(out, "  and {} more events", events.len() - SHOWN_MAX);
        }
    }

    fn write_table(&self, out: &mut String) {
        let _ = write!(out, "\n{:<NAME_WIDTH$}", "method");
        for (name, ..) in COLUMNS {
            let _ = write!(out, "{name:>9} ");
        }
        end_line(out);
        let worst = COLUMNS.map(|(_, _, value, _)| {
            let values = || self.results.iter().filter_map(|(_, it)| value(it));
            values()
                .max()
                .filter(|worst| values().min() != Some(*worst))
        });
        for (method, figures) in &self.results {
            let _ = write!(out, "{:<NAME_WIDTH$}", method.name());
            for ((_, _, value, unit), worst) in COLUMNS.iter().zip(worst) {
                let value = value(figures);
                let text = match (value, unit) {
                    (None, _) => "-".to_owned(),
                    (Some(us), Unit::Microseconds) => time(us),
                    (Some(number), Unit::Number) => number.to_string(),
                    (Some(permille), Unit::Permille) => percent(permille),
                };
                let mark = if value.is_some() && value == worst {
                    '*'
                } else {
                    ' '
                };
                let _ = write!(out, "{text:>9}{mark}");
            }
            end_line(out);
        }
        out.push_str(
            "\n* the worst of its column. p50 to p99.9: the time to answer of requests that did not fail;\n\
             repeated: sent to another backend; queue: the longest; moved: clients that changed backend.\n",
        );
    }

    /// Backends downwards, methods across; each name of a method in two lines.
    fn write_shares(&self, out: &mut String) {
        for line in 0..2 {
            let title = ["", "\nshare of requests"][usize::from(line == 0)];
            let _ = write!(
                out,
                "{title}{:1$}",
                "",
                NAME_WIDTH - title.trim_start().len()
            );
            for (method, _) in &self.results {
                let name = method.name();
                let (first, rest) = name.split_once('_').unwrap_or(("", name));
                let _ = write!(out, "{:>13}", if line == 0 { first } else { rest });
            }
            end_line(out);
        }
        let backends = self.config.backends.iter().enumerate();
        for (place, backend) in backends.take(SHOWN_MAX) {
            let name: String = backend.name.chars().take(NAME_WIDTH - 1).collect();
            let _ = write!(out, "{name:<NAME_WIDTH$}");
            for (_, figures) in &self.results {
                let tries = figures.tries();
                let share = permille(figures.backends[place].requests, tries);
                let most = figures.backends.iter().map(|it| it.requests).max();
                let most = permille(most.unwrap_or(0), tries).max(1);
                let bar = usize::try_from(rounded(BAR_WIDTH * share, most)).unwrap_or(0);
                let _ = write!(out, "{:>6} {:>6}", &"#####"[..bar.min(5)], percent(share));
            }
            end_line(out);
        }
        let more = self.config.backends.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(out, "and {}", counted(more, "more backend"));
        }
    }

    /// For a program.
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
            for (_, name, value, unit) in COLUMNS {
                match (unit, value(figures)) {
                    (Unit::Number, number) => json.number_or_null(name, number),
                    (Unit::Microseconds, us) => json.thousandths_or_null(name, us),
                    (Unit::Permille, permille) => {
                        json.thousandths_or_null(name, permille.map(|it| it * 100));
                    }
                }
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

/// Without the spaces before it.
fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// `part` of `all` in tenths of a per cent.
fn permille(part: u64, all: u64) -> u64 {
    rounded(part * 1000, all.max(1))
}

fn percent(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// A number that is given in thousandths, as far as they count.
fn thousandths(number: u64) -> String {
    let text = format!("{}.{:03}", number / 1000, number % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A time in its first three digits.
fn time(us: u64) -> String {
    let (thousandths, unit) = match us {
        0..1_000_000 => (us, "ms"),
        _ => (us / 1000, "s"),
    };
    let digits = match thousandths {
        0..10_000 => thousandths / 10 * 10,
        10_000..100_000 => thousandths / 100 * 100,
        _ => thousandths / 1000 * 1000,
    };
    self::thousandths(digits) + unit
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
