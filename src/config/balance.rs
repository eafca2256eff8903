//! The section `balance`, whose settings belong to `pool/chooser`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::config::document::{ConfigError, Node, Object, duration_text};
use crate::config::ejection;
use crate::config::key::{Fallback, Key, Takes};
use crate::config::proxy::Mode;
use crate::pool::settings::{BalanceSettings, Choice, Choices, HashKey, HashSettings};
use crate::pool::settings::{Method, Persistence, QueueSettings};
use crate::text::words::counted;

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "method",
        takes: Takes::word::<Method>(),
        default: Fallback::Value(r#""round_robin""#),
        meaning: "how a backend is chosen",
    },
    Key {
        name: "hash",
        takes: Takes::Object(HASH),
        default: Fallback::Value(r#"{"key": "source"}"#),
        meaning: "what `method` `hash` goes by, and how far",
    },
    Key {
        name: "slow_start",
        takes: Takes::DURATION_OR_ZERO,
        default: Fallback::Value(r#""0s""#),
        meaning: "how long a backend that came up, was added or was enabled takes to grow, in tenths, from a tenth of its weight to all of it; not for `hash`, not at the start of the process",
    },
    Key {
        name: "queue",
        takes: Takes::Object(QUEUE),
        default: Fallback::Nothing("none"),
        meaning: "where requests wait for a place while all backends that they could go to are full (`http` mode only); `{}` has these defaults",
    },
    Key {
        name: "retry_percent",
        takes: Takes::Integer(0, 100),
        default: Fallback::Value("20"),
        meaning: "requests that are sent again after their bytes went out, as a share of the requests of the last 10 s; ten in any 10 s are always allowed. Beyond, the failure is answered",
    },
    Key {
        name: "persistence",
        takes: Takes::Object(PERSISTENCE),
        default: Fallback::Nothing("none"),
        meaning: "what keeps a client with its backend",
    },
    Key {
        name: "tries",
        takes: Takes::Integer(1, 10),
        default: Fallback::Value("3"),
        meaning: "to how many backends one request may be sent; refused connections do not count",
    },
];

const HASH: &[Key] = &[
    Key {
        name: "key",
        takes: Takes::Other {
            wanted: r#""source", "path", "header:NAME" or "cookie:NAME", with a NAME of 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~"#,
            schema: r#"{"type": "string", "pattern": "^(source|path|(header|cookie):[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})$"}"#,
        },
        default: Fallback::Value(r#""source""#),
        meaning: "what is hashed: the client's address, the path without the query, or the first such field or cookie; where a request has none, or an empty one, the client's address",
    },
    Key {
        name: "load_percent_max",
        takes: Takes::Integer(101, 1000),
        default: Fallback::Nothing("no bound"),
        meaning: "how many exchanges a backend may have by hash, in per cent of its share of all; beyond, the next in the order of the hash takes the request",
    },
];

const QUEUE: &[Key] = &[
    Key {
        name: "length",
        takes: Takes::Integer(1, 100_000),
        default: Fallback::Value("100"),
        meaning: "how many requests may wait",
    },
    Key {
        name: "timeout",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""1s""#),
        meaning: "how long a request may wait",
    },
];

const PERSISTENCE: &[Key] = &[
    Key {
        name: "kind",
        takes: Takes::word::<PersistenceKind>(),
        default: Fallback::Required,
        meaning: "what binds the client",
    },
    Key {
        name: "name",
        takes: Takes::Other {
            wanted: "a cookie name of 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~",
            schema: r#"{"type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"}"#,
        },
        default: Fallback::Value(r#""rondo""#),
        meaning: "the name of the cookie",
    },
];

/// The kinds of [`Persistence`] by their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PersistenceKind {
    SourceAddress,
    Cookie,
}

impl Choices for PersistenceKind {
    const ALL: &'static [Choice<PersistenceKind>] = &[
        Choice {
            name: "source_address",
            value: PersistenceKind::SourceAddress,
            meaning: "its address",
            also: &["source", "ip", "ip_hash", "address"],
        },
        Choice {
            name: "cookie",
            value: PersistenceKind::Cookie,
            meaning: "a cookie (`http` mode only)",
            also: &["sticky", "session"],
        },
    ];
}

pub(super) fn read(top: &Object<'_>, mode: Mode) -> Result<BalanceSettings, ConfigError> {
    let section = top.section("balance")?;
    Ok(BalanceSettings {
        method: section.word("method")?,
        hash: hash(&section.section("hash")?, mode)?,
        persistence: match section.given("persistence") {
            Some(node) => persistence(&node.object(PERSISTENCE)?, mode)?,
            None => Persistence::None,
        },
        tries: section.integer("tries")?,
        slow_start: section.duration("slow_start")?,
        queue: match section.given("queue") {
            Some(node) => Some(queue(node, mode)?),
            None => None,
        },
        retry_percent: section.integer("retry_percent")?,
        ejection: ejection::read(top)?,
    })
}

fn queue(node: &Node<'_>, mode: Mode) -> Result<QueueSettings, ConfigError> {
    let section = node.object(QUEUE)?;
    if mode == Mode::Tcp {
        let hint = r#"leave it out, or leave proxy.mode at "http""#;
        return Err(node.error("is given in mode \"tcp\", where no connection waits", hint));
    }
    Ok(QueueSettings {
        length: section.integer("length")?,
        timeout: section.duration("timeout")?,
    })
}

fn hash(section: &Object<'_>, mode: Mode) -> Result<HashSettings, ConfigError> {
    let key = section.parsed("key", hash_key)?;
    if mode == Mode::Tcp && key != HashKey::Source {
        let node = section.value("key")?;
        let what = format!("is {}, which mode \"tcp\" never reads", node.found());
        return Err(node.error(what, r#"use "source", or leave proxy.mode at "http""#));
    }
    Ok(HashSettings {
        key,
        load_percent_max: section.optional_integer("load_percent_max")?,
    })
}

fn hash_key(node: &Node<'_>) -> Option<HashKey> {
    let text = node.text()?;
    match text.split_once(':') {
        None if text == "source" => Some(HashKey::Source),
        None if text == "path" => Some(HashKey::Path),
        Some(("header", name)) if is_name(name) => Some(HashKey::Header(name.to_owned())),
        Some(("cookie", name)) if is_name(name) => Some(HashKey::Cookie(name.to_owned())),
        _ => None,
    }
}

fn persistence(section: &Object<'_>, mode: Mode) -> Result<Persistence, ConfigError> {
    if section.word::<PersistenceKind>("kind")? == PersistenceKind::Cookie {
        if mode == Mode::Tcp {
            let hint = r#"use "source_address", or leave proxy.mode at "http""#;
            let what = "is \"cookie\", which mode \"tcp\" never reads";
            return Err(section.value("kind")?.error(what, hint));
        }
        let name = section.parsed("name", cookie_name)?;
        refuse_prefix(&section.value("name")?, &name)?;
        return Ok(Persistence::Cookie { name });
    }
    match section.given("name") {
        Some(name) => Err(name.error(
            "is given without a cookie",
            r#"leave it out, or use kind "cookie""#,
        )),
        None => Ok(Persistence::SourceAddress),
    }
}

fn cookie_name(node: &Node<'_>) -> Option<String> {
    let name = node.text()?;
    is_name(&name).then(|| name.into_owned())
}

/// A token of RFC 9110 5.6.2, which is what a field's name is, and what RFC 6265 4.1.1 wants of a
/// cookie's.
fn is_name(name: &str) -> bool {
    let is_token = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    is_token && (1..=64).contains(&name.len())
}

fn refuse_prefix(node: &Node<'_>, name: &str) -> Result<(), ConfigError> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("__host-") || lower.starts_with("__secure-") {
        let what = format!("is {}, which browsers accept over TLS only", node.found());
        return Err(node.error(what, "choose a name without that prefix"));
    }
    Ok(())
}

/// The line of `--check`.
pub(super) fn summary(balance: &BalanceSettings) -> String {
    let persistence = match &balance.persistence {
        Persistence::None => "no persistence".to_owned(),
        Persistence::SourceAddress => "persistence by source_address".to_owned(),
        Persistence::Cookie { name } => format!("persistence by cookie {name}"),
    };
    let retries = match balance.retry_percent {
        20 => String::new(),
        percent => format!(", retries up to {percent} % of requests"),
    };
    let slow_start = match balance.slow_start {
        Duration::ZERO => String::new(),
        time => format!(", slow start {}", duration_text(time)),
    };
    let queue = balance.queue.map_or(String::new(), |queue| {
        let (length, timeout) = (queue.length, duration_text(queue.timeout));
        format!(
            ", {} may wait {timeout} for a place",
            counted(length, "request")
        )
    });
    let mut method = balance.method.name().to_owned();
    if balance.method == Method::Hash {
        let HashSettings {
            key,
            load_percent_max,
        } = &balance.hash;
        // Writing to a String cannot fail.
        let _ = write!(method, " by {key}");
        if let Some(percent) = load_percent_max {
            let _ = write!(method, ", to at most {percent} % of a backend's share");
        }
    }
    format!(
        "{method}, {persistence}, a request is sent to at most {}{retries}{slow_start}{queue}",
        counted(balance.tries as usize, "backend")
    )
}
