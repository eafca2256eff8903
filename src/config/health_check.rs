//! The section `health_check`, whose settings belong to `checks/probe.rs`.

use std::ops::RangeInclusive;

use crate::config::document::{ConfigError, Node, Object, duration_text};
use crate::config::key::{Fallback, Key, Takes};
use crate::http::is_authority;
use crate::pool::settings::{
    CheckMethod, Choices, HealthCheckSettings, HttpCheck, Kind, StatusRanges,
};

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "kind",
        takes: Takes::word::<Kind>(),
        default: Fallback::Value(r#""tcp""#),
        meaning: "what a check does",
    },
    Key {
        name: "interval",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""1m""#),
        meaning: "between checks of a backend that is up; the first check is at the start",
    },
    Key {
        name: "down_interval",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""2s""#),
        meaning: "between checks of a backend that is down",
    },
    Key {
        name: "timeout",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""5s""#),
        meaning: "for one check",
    },
    Key {
        name: "rise",
        takes: Takes::Integer(1, 100),
        default: Fallback::Value("1"),
        meaning: "successes in a row to come up",
    },
    Key {
        name: "fall",
        takes: Takes::Integer(1, 100),
        default: Fallback::Value("1"),
        meaning: "failures in a row to go down",
    },
    Key {
        name: "path",
        takes: Takes::Other {
            wanted: r##"a path such as "/health": "/" first, then visible ASCII without "#", at most 1024 bytes"##,
            schema: r#"{"type": "string", "pattern": "^/[!-\"$-~]{0,1023}$"}"#,
        },
        default: Fallback::Value(r#""/""#),
        meaning: "what a check by `http` asks for; the base path of `url` is not put before it",
    },
    Key {
        name: "status",
        takes: Takes::Other {
            wanted: r#"statuses from 100 to 599 such as "200", "200-399" or "200-299,404""#,
            schema: r#"{"type": "string", "pattern": "^ *[1-5][0-9]{2}(-[1-5][0-9]{2})? *(, *[1-5][0-9]{2}(-[1-5][0-9]{2})? *)*$"}"#,
        },
        default: Fallback::Value(r#""200-399""#),
        meaning: "the answers to a check by `http` that are a success",
    },
    Key {
        name: "method",
        takes: Takes::word::<CheckMethod>(),
        default: Fallback::Value(r#""GET""#),
        meaning: "the method of a check by `http`",
    },
    Key {
        name: "host",
        takes: Takes::Other {
            wanted: r#"a host, with a port or without, such as "app.example""#,
            schema: r#"{"type": "string", "minLength": 1}"#,
        },
        default: Fallback::Nothing("host and port of `url`"),
        meaning: "the `Host` field of a check by `http`",
    },
    Key {
        name: "port",
        takes: Takes::Integer(1, 65535),
        default: Fallback::Nothing("the port of `url`"),
        meaning: "the port that checks by `tcp` and `http` connect to",
    },
    Key {
        name: "body",
        takes: Takes::Other {
            wanted: "a text of 1 to 1024 bytes",
            schema: r#"{"type": "string", "minLength": 1, "maxLength": 1024}"#,
        },
        default: Fallback::Nothing("none"),
        meaning: "what the first 64 KiB of the body of the answer to a check by `http` must contain",
    },
];

/// The keys that mean something to checks by [`Kind::Http`] only.
pub(super) const HTTP_ONLY: [&str; 5] = ["path", "status", "method", "host", "body"];

pub(super) fn read(top: &Object<'_>) -> Result<HealthCheckSettings, ConfigError> {
    let section = top.section("health_check")?;
    let settings = HealthCheckSettings {
        kind: section.word("kind")?,
        http: HttpCheck {
            method: section.word("method")?,
            path: section.parsed("path", path)?,
            host: section.optional_parsed("host", host)?,
            status: section.parsed("status", status)?,
            body: section.optional_parsed("body", body)?,
        },
        port: section.optional_integer("port")?,
        interval: section.duration("interval")?,
        down_interval: section.duration("down_interval")?,
        timeout: section.duration("timeout")?,
        rise: section.integer("rise")?,
        fall: section.integer("fall")?,
    };
    let has_no_effect = |node: &Node<'_>, remedy| {
        let kind = settings.kind.name();
        Err(node.error(format!("has no effect with kind \"{kind}\""), remedy))
    };
    let http_only = HTTP_ONLY.iter().find_map(|key| section.given(key));
    match (settings.kind, http_only, section.given("port")) {
        (Kind::Http, ..) => {}
        (_, Some(node), _) => return has_no_effect(node, r#"leave it out, or use kind "http""#),
        (Kind::Icmp | Kind::None, _, Some(node)) => {
            return has_no_effect(node, r#"leave it out, or use kind "tcp" or "http""#);
        }
        _ => {}
    }
    match section.given("body") {
        Some(node) if settings.http.method == CheckMethod::Head => Err(node.error(
            "is given, but the answer to HEAD has no body",
            r#"leave it out, or use method "GET""#,
        )),
        _ => Ok(settings),
    }
}

/// What a Host field may be (RFC 9110 7.2).
fn host(node: &Node<'_>) -> Option<String> {
    let host = node.text()?;
    is_authority(host.as_bytes()).then(|| host.into_owned())
}

fn body(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    (1..=HttpCheck::BODY_TEXT_MAX)
        .contains(&text.len())
        .then(|| text.into_owned())
}

/// A request target in origin form (RFC 9112 3.2.1), with its query if it has one.
fn path(node: &Node<'_>) -> Option<String> {
    let path = node.text()?;
    let is_visible = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let fits = path.starts_with('/') && is_visible && path.len() <= 1024;
    fits.then(|| path.into_owned())
}

pub(super) fn status(node: &Node<'_>) -> Option<StatusRanges> {
    node.text()?
        .split(',')
        .map(|range| status_range(range.trim_matches(' ')))
        .collect::<Option<_>>()
        .map(StatusRanges)
}

fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status_code(first)?, status_code(last)?);
    (first <= last).then_some(first..=last)
}

fn status_code(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|code| (100..=599).contains(code))
}

/// The line of `--check`.
pub(super) fn summary(check: &HealthCheckSettings) -> String {
    let down_interval = duration_text(check.down_interval);
    let kind = match check.kind {
        Kind::Tcp => "tcp connect".to_owned(),
        Kind::Http => {
            let HttpCheck {
                method,
                path,
                host,
                status,
                body,
            } = &check.http;
            let host = host.as_ref().map(|host| format!(" at host {host}"));
            let body = body
                .as_ref()
                .map(|text| format!(" with {text:?} in the body"));
            format!(
                "http request {} {path}{} (success: {status}{})",
                method.name(),
                host.unwrap_or_default(),
                body.unwrap_or_default()
            )
        }
        Kind::Icmp => "icmp echo".to_owned(),
        Kind::None => {
            return format!("none; a backend that is down is tried again after {down_interval}");
        }
    };
    let port = check.port.map(|port| format!(" to port {port}"));
    format!(
        "{kind}{} every {}, while down every {down_interval}, timeout {}, rise {}, fall {}",
        port.unwrap_or_default(),
        duration_text(check.interval),
        duration_text(check.timeout),
        check.rise,
        check.fall
    )
}
