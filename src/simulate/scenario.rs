//! The scenario: a load, how the backends serve it, and which methods are compared. It is read as
//! the configuration is: each mistake is named with its line and column.
//!
//! Read next: `simulate/engine.rs`, which plays it.

use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::config::document::{ConfigError, Document, Form, Node, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::pool::settings::{BackendSettings, Choices as _, HashSettings, Method};
use crate::simulate::access_log::Log;
use crate::simulate::numbers::{Latency, MILLION};
use crate::text::json::Writer;
use crate::text::words::{listed, nearest, quoted};

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

/// Requests in a second that the default scenario has for each backend, and for all of them.
const DEFAULT_RATE: [u64; 2] = [100, 20_000];

const FROM_0: Takes = Takes::Duration(Duration::ZERO, Duration::from_secs(24 * 3600));

const KEYS: &[Key] = &[
    key(
        "seed",
        Takes::Integer(0, u64::MAX),
        Fallback::Value("1"),
        "what is drawn at random follows from it",
    ),
    key(
        "duration",
        Takes::DURATION,
        Fallback::Value(r#""60s""#),
        "for so long requests come",
    ),
    key(
        "load",
        Takes::Object(LOAD),
        Fallback::Required,
        "the requests",
    ),
    key(
        "backends",
        Takes::Object(&[]),
        Fallback::Value("{}"),
        "how backends of the configuration, by their names, serve requests",
    ),
    key(
        "methods",
        Takes::Other {
            wanted: "a list of methods, each once",
            schema: "",
        },
        Fallback::Nothing("all"),
        "which are compared",
    ),
    key(
        "expect",
        Takes::Other {
            wanted: "anything",
            schema: "",
        },
        Fallback::Nothing("none"),
        "for tests; ignored",
    ),
];

const LOAD: &[Key] = &[
    key(
        "rate",
        Takes::Integer(1, 1_000_000),
        Fallback::Nothing("none"),
        "requests in a second, which come at random",
    ),
    key(
        "clients",
        Takes::Integer(1, 1_000_000),
        Fallback::Nothing("none"),
        "clients, each of which waits for its answer and thinks before it asks again",
    ),
    key(
        "think",
        FROM_0,
        Fallback::Value(r#""0s""#),
        "how long on average",
    ),
    key(
        "log",
        Takes::Other {
            wanted: "the path of an access log that rondo wrote with \"access_log\": \"json\"",
            schema: "",
        },
        Fallback::Nothing("none"),
        "a log that is played again",
    ),
    key(
        "dear",
        Takes::Object(DEAR),
        Fallback::Nothing("none"),
        "some requests take longer than others",
    ),
    key(
        "failing",
        Takes::Integer(0, 1_000_000),
        Fallback::Value("0"),
        "so many of the clients get errors only, whatever backend answers",
    ),
];

const DEAR: &[Key] = &[
    key("share", SHARE, Fallback::Required, "so many of them"),
    key(
        "times",
        TIMES,
        Fallback::Required,
        "take so many times as long",
    ),
];

const BACKEND: &[Key] = &[
    key(
        "latency",
        Takes::Object(LATENCY),
        Fallback::Value("{}"),
        "how long it works on a request",
    ),
    key(
        "connect",
        FROM_0,
        Fallback::Value(r#""0s""#),
        "how long a connection to it takes to open",
    ),
    key(
        "at_once",
        Takes::Integer(1, 1_000_000),
        Fallback::Nothing("no limit"),
        "requests that it works on at the same time; others wait in it",
    ),
    key(
        "errors",
        SHARE,
        Fallback::Value("0"),
        "the part of its answers that have the status 500",
    ),
    key(
        "error_latency",
        Takes::Object(LATENCY),
        Fallback::Nothing("`latency`"),
        "how long it works on those",
    ),
    key(
        "events",
        Takes::Objects {
            keys: EVENT,
            wanted: "a list of objects",
        },
        Fallback::Value("[]"),
        "what happens to it",
    ),
];

const LATENCY: &[Key] = &[
    key(
        "p50",
        Takes::DURATION,
        Fallback::Value(r#""10ms""#),
        "half of the times are below",
    ),
    key(
        "p99",
        Takes::DURATION,
        Fallback::Nothing("five times p50"),
        "99 of 100 are below",
    ),
];

const EVENT: &[Key] = &[
    key("at", FROM_0, Fallback::Required, "when"),
    key(
        "slow",
        TIMES,
        Fallback::Nothing("none"),
        "from then on it takes so many times as long",
    ),
    key(
        "down",
        Takes::Flag,
        Fallback::Nothing("none"),
        "true: it is gone",
    ),
    key(
        "up",
        Takes::Flag,
        Fallback::Nothing("none"),
        "true: it is back",
    ),
    key(
        "errors",
        SHARE,
        Fallback::Nothing("none"),
        "from then on so many of its answers fail",
    ),
];

const SHARE: Takes = Takes::Other {
    wanted: "a number from 0 to 1",
    schema: "",
};

const TIMES: Takes = Takes::Other {
    wanted: "a number from 0.001 to 1000",
    schema: "",
};

const fn key(name: &'static str, takes: Takes, default: Fallback, meaning: &'static str) -> Key {
    Key {
        name,
        takes,
        default,
        meaning,
    }
}

/// A scenario, checked.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) duration_us: u64,
    pub(super) load: Load,
    /// How many of the clients get errors only.
    pub(super) failing: u32,
    pub(super) dear: Option<Dear>,
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

/// Some requests take longer than others.
#[derive(Debug)]
pub(super) struct Dear {
    /// In millionths.
    pub(super) share: u64,
    /// In thousandths.
    pub(super) times: u64,
}

/// How a backend serves requests.
#[derive(Debug)]
pub(super) struct ServerPlan {
    /// None: as long as the log says.
    pub(super) latency: Option<Latency>,
    pub(super) error_latency: Option<Latency>,
    pub(super) connect_us: u64,
    pub(super) at_once: usize,
    /// In millionths.
    pub(super) errors: u64,
    pub(super) events: Vec<(u64, Change)>,
}

/// What happens to a backend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Times as long, in thousandths.
    Slow(u64),
    Down,
    Up,
    /// In millionths.
    Errors(u64),
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
    pub(super) fn read(path: Option<&Path>, config: &Config) -> Result<Scenario, ConfigError> {
        let directory = path.and_then(Path::parent).unwrap_or(Path::new(""));
        let document = match path {
            Some(path) => Document::read(path, &SCENARIO)?,
            None => Document::from_bytes("the default scenario", by_default(config), &SCENARIO)?,
        };
        let root = document.root()?;
        let top = root.object(KEYS)?;
        let mut duration_us = us(top.duration("duration")?);
        let section = top.section("load")?;
        let load = load(&top.value("load")?, &section, directory)?;
        if let Load::Log(log) = &load {
            // A log has its own end, and may be cut short.
            let end_us = log.calls.last().map_or(0, |call| call.at_us) + 1;
            duration_us = match top.given("duration") {
                Some(_) => duration_us.min(end_us),
                None => end_us,
            };
        }
        if let Load::Rate { per_second, .. } = load
            && per_second * (duration_us / 1000) / 1000 > REQUESTS_MAX
        {
            return Err(section.value("rate")?.error(
                format!("makes more than {REQUESTS_MAX} requests in the whole duration"),
                "lower the rate or the duration",
            ));
        }
        let is_log = matches!(load, Load::Log(_));
        let names: Vec<&str> = config.backends.iter().map(|it| &*it.name).collect();
        let no_keys = root.nothing();
        let mut servers = Vec::with_capacity(names.len());
        for _ in &names {
            servers.push(server(&no_keys, duration_us, is_log)?);
        }
        let entries = top.given("backends").map(Node::entries).transpose()?;
        for (name, key, value) in entries.unwrap_or_default() {
            let Some(place) = names.iter().position(|known| *known == name) else {
                return Err(key.error("is no backend of the configuration", meant(&name, &names)));
            };
            servers[place] = server(&value, duration_us, is_log)?;
        }
        Ok(Scenario {
            seed: top.integer("seed")?,
            duration_us,
            failing: section.integer("failing")?,
            dear: match section.given("dear") {
                Some(node) => {
                    let dear = node.object(DEAR)?;
                    Some(Dear {
                        share: dear.parsed("share", share)?,
                        times: dear.parsed("times", times)?,
                    })
                }
                None => None,
            },
            load,
            servers,
            methods: methods(&top, config)?,
        })
    }
}

fn meant(name: &str, names: &[&str]) -> String {
    if let Some(meant) = nearest(name, names.iter().copied()) {
        return format!("did you mean {meant:?}?");
    }
    let shown: Vec<String> = names.iter().take(8).map(|name| quoted(name)).collect();
    match names.len() {
        0..=8 => format!("the backends are {}", listed(&shown, "and")),
        count => format!(
            "the backends are {} and {} more",
            shown.join(", "),
            count - 8
        ),
    }
}

fn load(node: &Node<'_>, section: &Object<'_>, directory: &Path) -> Result<Load, ConfigError> {
    const WANTED: &str = r#"must have one of "rate", "clients" and "log""#;
    let given = |key: &'static str| section.given(key);
    let no_use = |key: &'static str, why: &str| match given(key) {
        Some(node) => Err(node.error(why, "leave it out")),
        None => Ok(()),
    };
    if given("clients").is_none() || given("rate").is_some() {
        no_use("think", r#"is of use beside "clients" alone"#)?;
    }
    if given("log").is_some() {
        for key in ["rate", "clients", "dear", "failing"] {
            no_use(key, "is of no use beside a log")?;
        }
        let log = section.value("log")?;
        let path = section.parsed("log", |node| {
            node.text()
                .filter(|path| !path.is_empty())
                .map(|path| directory.join(&*path))
        })?;
        return Ok(Load::Log(Log::read(&path, &log)?));
    }
    let clients = section.optional_integer::<u32>("clients")?;
    Ok(match (section.optional_integer("rate")?, clients) {
        (Some(per_second), clients) => Load::Rate {
            per_second,
            clients: clients.unwrap_or(1000),
        },
        (None, Some(clients)) => Load::Clients {
            clients,
            think_us: us(section.duration("think")?),
        },
        (None, None) => return Err(node.error("is empty", WANTED)),
    })
}

fn server(node: &Node<'_>, duration_us: u64, is_log: bool) -> Result<ServerPlan, ConfigError> {
    let server = node.object(BACKEND)?;
    let by_log = is_log && server.given("latency").is_none();
    let at_once: Option<usize> = server.optional_integer("at_once")?;
    let list = server.value("events")?;
    let list = list
        .list()
        .ok_or_else(|| list.not(&server.wanted("events")))?;
    Ok(ServerPlan {
        latency: if by_log {
            None
        } else {
            Some(latency(&server.section("latency")?)?)
        },
        error_latency: match server.given("error_latency") {
            Some(_) => Some(latency(&server.section("error_latency")?)?),
            None => None,
        },
        connect_us: us(server.duration("connect")?),
        at_once: at_once.unwrap_or(usize::MAX),
        errors: server.parsed("errors", share)?,
        events: list
            .iter()
            .map(|node| event(node, duration_us))
            .collect::<Result<_, _>>()?,
    })
}

fn latency(section: &Object<'_>) -> Result<Latency, ConfigError> {
    let p50 = section.duration("p50")?;
    let p99 = match section.given("p99") {
        Some(_) => section.duration("p99")?,
        None => 5 * p50,
    };
    if p99 < p50 {
        return Err(section.value("p99")?.error("is shorter than p50", ""));
    }
    Ok(Latency::through(us(p50), us(p99)))
}

fn event(node: &Node<'_>, duration_us: u64) -> Result<(u64, Change), ConfigError> {
    let event = node.object(EVENT)?;
    let at_us = us(event.duration("at")?);
    if at_us > duration_us {
        let at = event.value("at")?;
        return Err(at.error("is after the end", "see \"duration\""));
    }
    let mut changes = Vec::new();
    if event.given("slow").is_some() {
        changes.push(Change::Slow(event.parsed("slow", times)?));
    }
    if event.given("errors").is_some() {
        changes.push(Change::Errors(event.parsed("errors", share)?));
    }
    for (key, change) in [("down", Change::Down), ("up", Change::Up)] {
        if event.given(key).is_some() {
            if !event.flag(key)? {
                return Err(event.value(key)?.error("is false", "must be true"));
            }
            changes.push(change);
        }
    }
    match changes[..] {
        [change] => Ok((at_us, change)),
        _ => Err(node.error(
            "is no event",
            r#"must have "at" and one of "slow", "down", "up" and "errors""#,
        )),
    }
}

fn methods(top: &Object<'_>, config: &Config) -> Result<Vec<Method>, ConfigError> {
    let Some(node) = top.given("methods") else {
        let is_hash = config.balance.hash == HashSettings::default();
        let all = Method::ALL.iter().map(|choice| choice.value);
        return Ok(all
            .filter(|method| !is_hash || *method != Method::SourceHash)
            .collect());
    };
    let list = node.list().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| node.not(&top.wanted("methods")))?;
    let mut methods = Vec::new();
    for node in &list {
        let method = node.word::<Method>(&Takes::word::<Method>().wanted())?;
        if methods.contains(&method) {
            return Err(node.error("is given twice", "name each method once"));
        }
        methods.push(method);
    }
    Ok(methods)
}

/// A part of 1, in millionths.
fn share(node: &Node<'_>) -> Option<u64> {
    decimal(node.json(), MILLION).filter(|share| *share <= MILLION)
}

/// How many times as long, in thousandths.
fn times(node: &Node<'_>) -> Option<u64> {
    decimal(node.json(), 1000).filter(|times| (1..=1_000_000).contains(times))
}

/// A number without sign and exponent, in units of which `scale`, a power of ten, make 1.
pub(super) fn decimal(text: &str, scale: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut number = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut unit = scale;
    for byte in part.bytes() {
        unit /= 10;
        number = number.checked_add(unit * u64::from(byte.checked_sub(b'0')?))?;
        if unit == 0 || byte > b'9' {
            return None;
        }
    }
    Some(number)
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The last of the backends becomes ten times slower for a third of the time. Each can serve as
/// many requests at once as its weight is worth, so that all together are busy to two fifths.
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
