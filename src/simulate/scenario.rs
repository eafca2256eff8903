//! The scenario: a load, how the backends serve it, and which methods are compared. It is read as
//! the configuration is: each mistake is named with its line and column.
//!
//! Read next: `simulate/engine/mod.rs`, which plays it.

use std::path::Path;

use crate::config::Config;
use crate::config::document::{ConfigError, Document, Form, Node, Object, parse_duration};
use crate::config::key::{Fallback, Key, Takes};
use crate::pool::settings::{BackendSettings, Choices as _, HashSettings, Method};
use crate::simulate::access_log::Log;
use crate::simulate::numbers::{LONGEST_US, Latency, MILLION, index, us};
use crate::text::json::Writer;
use crate::text::words::nearest;

/// What a scenario is.
const SCENARIO: Form = Form {
    noun: "the scenario",
    least: r#"{"load":{"rate":500}}"#,
    bytes_max: 1024 * 1024,
    missing: "name a scenario, or - for the default one",
    is_configuration: false,
};

/// Requests of one scenario.
pub(super) const REQUESTS_MAX: u64 = 100_000_000;

/// How long a log may go on, in microseconds: meanwhile the backends are checked.
const LOG_LONGEST_US: u64 = 31 * LONGEST_US;

/// Requests in a second that the default scenario has for each backend, and for all of them.
const DEFAULT_RATE: [u64; 2] = [100, 20_000];

/// The least that a row takes: its meaning is in README.
const fn key(name: &'static str, takes: Takes, default: &'static str) -> Key {
    Key {
        name,
        takes,
        default: match default.as_bytes() {
            b"" => Fallback::Nothing(""),
            _ => Fallback::Value(default),
        },
        meaning: "",
    }
}

const fn other(wanted: &'static str) -> Takes {
    Takes::Other { wanted, schema: "" }
}

const SHARE: &str = "a number from 0 to 1";
const TIMES: &str = "a number from 0.001 to 1000";
const CLIENTS: Takes = Takes::Integer(1, 1_000_000);

const KEYS: &[Key] = &[
    key("seed", Takes::Integer(0, u64::MAX), "1"),
    key("duration", Takes::DURATION, r#""60s""#),
    key("load", Takes::Object(LOAD), ""),
    key("backends", Takes::Object(&[]), "{}"),
    key("methods", other("a list of methods, each once"), ""),
    // Bounds that tests read.
    key("expect", other(""), ""),
];

const LOAD: &[Key] = &[
    key("rate", Takes::Integer(1, 1_000_000), ""),
    key("clients", CLIENTS, ""),
    key("think", Takes::DURATION_OR_ZERO, r#""0s""#),
    key("log", other("the path of an access log"), ""),
    key("dear", Takes::Object(DEAR), ""),
    key("failing", Takes::Integer(0, 1_000_000), "0"),
];

const DEAR: &[Key] = &[
    key("share", other(SHARE), ""),
    key("times", other(TIMES), ""),
];

const BACKEND: &[Key] = &[
    key("latency", Takes::Object(LATENCY), "{}"),
    key("connect", Takes::DURATION_OR_ZERO, r#""0s""#),
    key("at_once", Takes::Integer(1, 1_000_000), "1000000"),
    key("errors", other(SHARE), "0"),
    key("error_latency", Takes::Object(LATENCY), ""),
    key("events", other("a list of events"), "[]"),
];

const LATENCY: &[Key] = &[
    key("p50", Takes::DURATION, r#""10ms""#),
    key("p99", Takes::DURATION, ""),
];

const EVENT: &[Key] = &[
    key("at", Takes::DURATION_OR_ZERO, ""),
    key("slow", other(TIMES), ""),
    key("down", Takes::Flag, ""),
    key("up", Takes::Flag, ""),
    key("errors", other(SHARE), ""),
];

/// A scenario, checked.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) duration_us: u64,
    pub(super) load: Load,
    /// How many of the clients get errors only.
    pub(super) failing: u64,
    /// So many requests, in millionths, take so many times as long, in thousandths.
    pub(super) dear: [u64; 2],
    /// In the order of the configuration's backends.
    pub(super) servers: Vec<ServerPlan>,
    pub(super) methods: Vec<Method>,
}

/// The requests.
#[derive(Debug)]
pub(super) enum Load {
    /// They come at random, from so many clients.
    Rate { per_second: u64, clients: u32 },
    /// So many clients ask, wait for their answers, and think.
    Clients { clients: u32, think_us: u64 },
    /// They come as they came before.
    Log(Log),
}

/// How a backend serves requests.
#[derive(Debug)]
pub(super) struct ServerPlan {
    /// None: as long as the log says.
    pub(super) latency: Option<Latency>,
    pub(super) error_latency: Option<Latency>,
    pub(super) connect_us: u64,
    pub(super) at_once: u64,
    /// In millionths.
    pub(super) errors: u64,
    pub(super) events: Vec<Change>,
}

/// What happens to a backend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) at_us: u64,
    pub(super) to: State,
    /// Of a slow one in thousandths, of errors in millionths.
    pub(super) value: u64,
}

/// What a backend becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It takes so many times as long.
    Slow,
    /// So many of its answers fail.
    Errors,
    Down,
    Up,
}

impl Load {
    /// How many clients there are.
    pub(super) fn clients(&self) -> u32 {
        match self {
            Load::Rate { clients, .. } | Load::Clients { clients, .. } => *clients,
            Load::Log(log) => u32::try_from(log.clients.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Scenario {
    /// Reads a scenario for the backends of a configuration; none: the default scenario.
    #[inline(never)]
    pub(super) fn read(path: Option<&Path>, config: &Config) -> Result<Scenario, ConfigError> {
        let document = match path {
            Some(path) => Document::read(path, &SCENARIO)?,
            None => Document::from_bytes("the default scenario", by_default(config), &SCENARIO)?,
        };
        let root = document.root()?;
        let top = root.object(KEYS)?;
        let mut duration_us = needed(&top, "duration")?;
        let section = top.value("load")?.object(LOAD)?;
        let load = load(&top.value("load")?, &section, path)?;
        if let Load::Log(log) = &load {
            // A log has its own end, and may be cut short.
            let end_us = log.calls.last().map_or(0, |call| call.at_us) + 1;
            if top.given("duration").is_none() || duration_us > end_us {
                duration_us = end_us;
            }
            if duration_us > LOG_LONGEST_US {
                return Err(section.value("log")?.error(
                    "goes on for more than 31 days",
                    "set \"duration\" to play its beginning",
                ));
            }
        }
        if let Load::Rate { per_second, .. } = load
            && per_second * (duration_us / 1000) / 1000 > REQUESTS_MAX
        {
            return Err(section.value("rate")?.error(
                "makes more than 100000000 requests in the whole duration",
                "lower the rate or the duration",
            ));
        }
        let is_log = matches!(load, Load::Log(_));
        let mut servers = Vec::with_capacity(config.backends.len());
        for _ in &config.backends {
            servers.push(server(&root.nothing(), duration_us, is_log)?);
        }
        for (name, key, value) in top.value("backends")?.entries()? {
            let mut names = config.backends.iter().map(|known| &*known.name);
            let Some(place) = names.position(|known| known == name) else {
                let names = config.backends.iter().map(|known| &*known.name);
                let hint = match (nearest(&name, names), config.backends.first()) {
                    (Some(name), _) => format!("did you mean {name:?}?"),
                    (None, Some(first)) => format!("the first of them is {:?}", first.name),
                    (None, None) => String::new(),
                };
                return Err(key.error("is no backend of the configuration", hint));
            };
            servers[place] = server(&value, duration_us, is_log)?;
        }
        let dear = match section.given("dear") {
            Some(node) => {
                let dear = node.object(DEAR)?;
                [needed(&dear, "share")?, needed(&dear, "times")?]
            }
            None => [0, 1000],
        };
        Ok(Scenario {
            seed: needed(&top, "seed")?,
            duration_us,
            failing: needed(&section, "failing")?,
            dear,
            load,
            servers,
            methods: methods(&top, config)?,
        })
    }
}

#[inline(never)]
fn load(
    node: &Node<'_>,
    section: &Object<'_>,
    scenario: Option<&Path>,
) -> Result<Load, ConfigError> {
    let [rate, clients] = [number(section, "rate")?, number(section, "clients")?];
    let others: &[&str] = match (section.given("log"), rate, clients) {
        (Some(_), ..) => &["rate", "clients", "dear", "failing", "think"],
        (None, None, Some(_)) => &[],
        _ => &["think"],
    };
    for key in others {
        if let Some(node) = section.given(key) {
            return Err(node.error("is of no use with this load", "leave it out"));
        }
    }
    if let Some(log) = section.given("log") {
        let Some(name) = log.text() else {
            return Err(log.not(&section.wanted("log")));
        };
        let directory = scenario.and_then(Path::parent).unwrap_or(Path::new(""));
        return Ok(Load::Log(Log::read(&directory.join(&*name), log)?));
    }
    Ok(match (rate, clients) {
        (Some(per_second), clients) => Load::Rate {
            per_second,
            clients: index(clients.unwrap_or(1000)),
        },
        (None, Some(clients)) => Load::Clients {
            clients: index(clients),
            think_us: needed(section, "think")?,
        },
        (None, None) => {
            let wanted = r#"must have one of "rate", "clients" and "log""#;
            return Err(node.error("is empty", wanted));
        }
    })
}

#[inline(never)]
fn server(node: &Node<'_>, duration_us: u64, is_log: bool) -> Result<ServerPlan, ConfigError> {
    let server = node.object(BACKEND)?;
    let latency = |key: &str| match server.optional(key) {
        Some(node) => latency(&node.object(LATENCY)?).map(Some),
        None => Ok(None),
    };
    let by_log = is_log && server.given("latency").is_none();
    let list = server.value("events")?;
    let Some(list) = list.list() else {
        return Err(list.not(&server.wanted("events")));
    };
    let mut events = Vec::new();
    for node in list {
        events.push(event(&node, duration_us)?);
    }
    Ok(ServerPlan {
        latency: latency("latency")?.filter(|_| !by_log),
        error_latency: latency("error_latency")?,
        connect_us: needed(&server, "connect")?,
        at_once: needed(&server, "at_once")?,
        errors: needed(&server, "errors")?,
        events,
    })
}

#[inline(never)]
fn latency(section: &Object<'_>) -> Result<Latency, ConfigError> {
    let p50_us = needed(section, "p50")?;
    let p99_us = number(section, "p99")?.unwrap_or(5 * p50_us);
    if p99_us < p50_us {
        return Err(section.value("p99")?.error("is shorter than p50", ""));
    }
    Ok(Latency::through(p50_us, p99_us))
}

#[inline(never)]
fn event(node: &Node<'_>, duration_us: u64) -> Result<Change, ConfigError> {
    let event = node.object(EVENT)?;
    let at_us = needed(&event, "at")?;
    if at_us > duration_us {
        let at = event.value("at")?;
        return Err(at.error("is after the end", "see \"duration\""));
    }
    let mut change = None;
    for (to, key) in [
        (State::Slow, "slow"),
        (State::Errors, "errors"),
        (State::Down, "down"),
        (State::Up, "up"),
    ] {
        let is_flag = matches!(to, State::Down | State::Up);
        match number(&event, key)? {
            Some(value) if change.is_none() && (value > 0 || !is_flag) => {
                change = Some(Change { at_us, to, value });
            }
            Some(_) => return Err(no_event(node)),
            None => {}
        }
    }
    change.ok_or_else(|| no_event(node))
}

fn no_event(node: &Node<'_>) -> ConfigError {
    let wanted = r#"must have "at" and one of "slow", "errors", "down" and "up""#;
    node.error("is no event", wanted)
}

#[inline(never)]
fn methods(top: &Object<'_>, config: &Config) -> Result<Vec<Method>, ConfigError> {
    let mut methods = Vec::new();
    let Some(node) = top.given("methods") else {
        let is_hash = config.balance.hash == HashSettings::default();
        for choice in Method::ALL {
            if !is_hash || choice.value != Method::SourceHash {
                methods.push(choice.value);
            }
        }
        return Ok(methods);
    };
    let Some(list) = node.list() else {
        return Err(node.not(&top.wanted("methods")));
    };
    let wanted = Takes::word::<Method>().wanted();
    for node in list {
        let method = node.word::<Method>(&wanted)?;
        if methods.contains(&method) {
            return Err(node.error("is given twice", "name each method once"));
        }
        methods.push(method);
    }
    if methods.is_empty() {
        return Err(node.error("is empty", "leave it out for all methods"));
    }
    Ok(methods)
}

/// The value of a key that has one or a default.
#[inline(never)]
fn needed(object: &Object<'_>, key: &str) -> Result<u64, ConfigError> {
    object.value(key)?;
    number(object, key).map(Option::unwrap_or_default)
}

/// The value of a key, or its default, as a number: microseconds, 0 or 1, millionths of a share,
/// thousandths of so many times.
#[inline(never)]
fn number(object: &Object<'_>, key: &str) -> Result<Option<u64>, ConfigError> {
    let Some(node) = object.optional(key) else {
        return Ok(None);
    };
    let (number, bounds) = match object.takes(key) {
        Takes::Integer(least, most) => (node.integer(), least..=most),
        Takes::Duration(least, most) => {
            let duration = node.text().and_then(|text| parse_duration(&text));
            (duration.map(us), us(least)..=us(most))
        }
        Takes::Other { wanted: SHARE, .. } => (decimal(node.json(), MILLION), 0..=MILLION),
        Takes::Other { .. } => (decimal(node.json(), 1000), 1..=MILLION),
        _ => (node.boolean().map(u64::from), 0..=1),
    };
    match number {
        Some(number) if bounds.contains(&number) => Ok(Some(number)),
        _ => Err(node.not(&object.wanted(key))),
    }
}

/// A number without sign and exponent, in units of which `scale`, a power of ten, make 1.
pub(super) fn decimal(text: &str, scale: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut number = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut unit = scale;
    for byte in part.bytes() {
        unit /= 10;
        if unit == 0 || !byte.is_ascii_digit() {
            return None;
        }
        number = number.checked_add(unit * u64::from(byte - b'0'))?;
    }
    Some(number)
}

/// The last of the backends becomes ten times slower for a third of the time. Each can serve as
/// many requests at once as its weight is worth, so that all together are busy to two fifths.
#[inline(never)]
fn by_default(config: &Config) -> Vec<u8> {
    let is_used = |backend: &&BackendSettings| backend.weight > 0 && !backend.disabled;
    let used: Vec<_> = config.backends.iter().filter(is_used).collect();
    let total: u64 = used.iter().map(|backend| u64::from(backend.weight)).sum();
    let number = used.len() as u64;
    let [each, most] = DEFAULT_RATE;
    let last = used.iter().rposition(|backend| !backend.backup);
    let mut json = Writer::default();
    json.open("", '{');
    json.open("load", '{');
    json.number("rate", (each * number).clamp(each, most));
    json.close('}');
    json.open("backends", '{');
    for (place, backend) in used.iter().enumerate() {
        json.open(&backend.name, '{');
        let at_once = 4 * number * u64::from(backend.weight) / total;
        json.number("at_once", at_once.max(1));
        if Some(place) == last {
            json.raw(
                "events",
                r#"[{"at":"20s","slow":10},{"at":"40s","slow":1}]"#,
            );
        }
        json.close('}');
    }
    json.close('}');
    json.close('}');
    json.out.into_bytes()
}
