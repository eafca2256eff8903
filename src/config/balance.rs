//! The section `balance`, whose settings belong to `pool/balance.rs`.

use crate::config::document::{ConfigError, Node, Object};
use crate::config::proxy::Mode;
use crate::pool::settings::{BalanceSettings, Method, Persistence};

pub(super) fn read(top: &Object<'_>, mode: Mode) -> Result<BalanceSettings, ConfigError> {
    let section = top.section("balance", &["method", "persistence", "tries"])?;
    Ok(BalanceSettings {
        method: section.or("method", Method::RoundRobin, method)?,
        persistence: section.or("persistence", Persistence::None, |node| {
            persistence(node, mode)
        })?,
        tries: section.or("tries", 3, |node| node.integer(1..=10))?,
    })
}

fn method(node: &Node<'_>) -> Result<Method, ConfigError> {
    node.one_of(&[
        ("round_robin", Method::RoundRobin),
        ("least_connections", Method::LeastConnections),
        ("random_two", Method::RandomTwo),
        ("source_hash", Method::SourceHash),
    ])
}

fn persistence(node: &Node<'_>, mode: Mode) -> Result<Persistence, ConfigError> {
    let section = node.object(&["kind", "name"])?;
    let kind = section.need("kind", r#""source_address" or "cookie""#)?;
    let by_cookie = kind.one_of(&[("source_address", false), ("cookie", true)])?;
    if by_cookie {
        if mode == Mode::Tcp {
            let hint = r#"use "source_address", or leave proxy.mode at "http""#;
            return Err(kind.error("is \"cookie\", which mode \"tcp\" never reads", hint));
        }
        let name = section.or("name", "rondo".to_owned(), cookie_name)?;
        return Ok(Persistence::Cookie { name });
    }
    match section.get("name") {
        Some(name) => Err(name.error(
            "is given without a cookie",
            r#"leave it out, or use kind "cookie""#,
        )),
        None => Ok(Persistence::SourceAddress),
    }
}

/// A token of RFC 9110 5.6.2, which is what RFC 6265 4.1.1 wants of a cookie's name.
fn cookie_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let hint = "a cookie name of 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~";
    let name = node.text(hint)?;
    let is_token = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token || name.is_empty() || name.len() > 64 {
        return Err(node.not(hint));
    }
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("__host-") || lower.starts_with("__secure-") {
        let what = format!("is {}, which browsers take over TLS only", node.found());
        return Err(node.error(what, "choose a name without that prefix"));
    }
    Ok(name.into_owned())
}
