//! The section `health_check`, whose settings belong to `checks/probe.rs`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::document::{ConfigError, Node, Object};
use crate::config::timeouts::duration;
use crate::pool::settings::StatusRanges;
use crate::pool::settings::{HealthCheckSettings, Kind};

pub(super) fn read(top: &Object<'_>) -> Result<HealthCheckSettings, ConfigError> {
    let section = top.section(
        "health_check",
        &[
            "kind",
            "interval",
            "down_interval",
            "timeout",
            "rise",
            "fall",
            "path",
            "status",
        ],
    )?;
    Ok(HealthCheckSettings {
        kind: kind(&section)?,
        interval: section.or("interval", Duration::from_secs(60), duration)?,
        down_interval: section.or("down_interval", Duration::from_secs(2), duration)?,
        timeout: section.or("timeout", Duration::from_secs(5), duration)?,
        rise: section.or("rise", 1, |node| node.integer(1..=100))?,
        fall: section.or("fall", 1, |node| node.integer(1..=100))?,
    })
}

fn kind(section: &Object<'_>) -> Result<Kind, ConfigError> {
    // What a kind is configured with is read first, so that its own errors are named first.
    let path = section.or("path", "/".to_owned(), path)?;
    let status = section.or("status", StatusRanges(vec![200..=399]), status)?;
    let named = section.or("kind", "tcp", |node| {
        node.one_of(&["tcp", "http", "icmp", "none"].map(|name| (name, name)))
    })?;
    let kind = match named {
        "http" => return Ok(Kind::Http { path, status }),
        "icmp" => Kind::Icmp,
        "none" => Kind::None,
        _ => Kind::Tcp,
    };
    match section.get("path").or(section.get("status")) {
        Some(node) => Err(node.error(
            format!("means nothing to kind \"{named}\""),
            r#"leave it out, or use kind "http""#,
        )),
        None => Ok(kind),
    }
}

/// A request target in origin form (RFC 9112 3.2.1), with its query if it has one.
fn path(node: &Node<'_>) -> Result<String, ConfigError> {
    let hint = r##"a path such as "/health": "/" first, then visible ASCII without "#", at most 1024 bytes"##;
    let path = node.text(hint)?;
    let is_visible = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !path.starts_with('/') || !is_visible || path.len() > 1024 {
        return Err(node.not(hint));
    }
    Ok(path.into_owned())
}

fn status(node: &Node<'_>) -> Result<StatusRanges, ConfigError> {
    let hint = r#"statuses from 100 to 599 such as "200", "200-399" or "200-299,404""#;
    node.text(hint)?
        .split(',')
        .map(|range| status_range(range.trim_matches(' ')))
        .collect::<Option<_>>()
        .map(StatusRanges)
        .ok_or_else(|| node.not(hint))
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
