//! The section `admin`: the interface that shows and changes the backends' state.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::document::{ConfigError, Node, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::text::words::listed;

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "address",
        takes: Takes::Other {
            wanted: r#"an IP address and a port such as "127.0.0.1:9090" or "[::1]:9090""#,
            schema: r#"{"type": "string", "pattern": ":[0-9]+$"}"#,
        },
        default: Fallback::Nothing("off"),
        meaning: "address and port of the admin interface",
    },
    Key {
        name: "hosts",
        takes: Takes::Other {
            wanted: r#"a list of host names such as ["lb.example"]"#,
            schema: r#"{"type": "array", "items": {"type": "string"}}"#,
        },
        default: Fallback::Value("[]"),
        meaning: "further `Host` names that it answers to",
    },
    Key {
        name: "token",
        takes: Takes::Other {
            wanted: "a text of 1 to 256 visible ASCII characters without spaces",
            schema: r#"{"type": "string", "pattern": "^[!-~]{1,256}$"}"#,
        },
        default: Fallback::Nothing("none"),
        meaning: "what changes need as `Authorization: Bearer`, and beyond loopback everything but `/live` and `/ready`; `PUT` and `DELETE` are refused without one; required when the address is not loopback",
    },
];

/// The section `admin`, which is there only with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// `Host` names it answers to besides addresses and localhost, in lower case.
    pub hosts: Vec<String>,
    /// What changes need, and beyond loopback nearly everything; always there when the address is not loopback.
    pub token: Option<String>,
}

impl Admin {
    pub(super) fn read(top: &Object<'_>) -> Result<Option<Admin>, ConfigError> {
        let section = top.section("admin")?;
        let hosts = section.parsed("hosts", Node::list)?;
        let hosts = hosts.iter().map(host).collect::<Result<_, _>>()?;
        let token = token(&section)?;
        let Some(address) = section.optional_parsed("address", address)? else {
            return match section.given("hosts").or(section.given("token")) {
                Some(node) => Err(node.error(
                    "is given without an address",
                    r#"add "address": "127.0.0.1:9090", or leave out the section"#,
                )),
                None => Ok(None),
            };
        };
        let address_node = section.value("address")?;
        if cfg!(not(feature = "admin")) {
            return Err(address_node.error(
                "is given, but this build has no admin interface",
                "leave out the section, or build rondo with the feature \"admin\"",
            ));
        }
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(address_node.error(
                format!("is {}, which others can reach", address_node.found()),
                "add a \"token\" that others must know, or use a loopback address",
            ));
        }
        Ok(Some(Admin {
            address,
            hosts,
            token,
        }))
    }
}

/// The lines of `--check`. The token is a secret.
pub(super) fn summary(admin: Option<&Admin>) -> Vec<String> {
    let line = |admin: &Admin| {
        let mut line = format!("http://{}/", admin.address);
        if !admin.hosts.is_empty() {
            line = format!("{line}, also as {}", listed(&admin.hosts, "and"));
        }
        line + if admin.token.is_some() {
            ", with a token"
        } else {
            ", without a token"
        }
    };
    admin.map(line).into_iter().collect()
}

fn address(node: &Node<'_>) -> Option<SocketAddr> {
    let text = node.text()?;
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            port.parse().ok()?,
        )),
        None => text.parse().ok(),
    }
}

fn host(node: &Node<'_>) -> Result<String, ConfigError> {
    let text = node.text().filter(|text| {
        let is_name = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        is_name && (1..=253).contains(&text.len())
    });
    match text {
        Some(text) => Ok(text.to_ascii_lowercase()),
        None => Err(node.not(r#"a host name such as "lb.example", without a port"#)),
    }
}

/// What fits behind `Bearer` in a field without any escaping. Never shown: it is a secret.
fn token(section: &Object<'_>) -> Result<Option<String>, ConfigError> {
    let Some(node) = section.given("token") else {
        return Ok(None);
    };
    let text = node.text().filter(|text| {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        is_visible && (1..=256).contains(&text.len())
    });
    match text {
        Some(text) => Ok(Some(text.into_owned())),
        None => Err(node.error(
            "is not a valid token",
            format!("must be {}", section.wanted("token")),
        )),
    }
}
