//! The section `admin`: the interface that shows and changes the backends' state.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::document::{ConfigError, Node, Object};

/// The section `admin`, which is there only with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// `Host` names it answers to besides addresses and localhost, in lower case.
    pub hosts: Vec<String>,
    /// What a POST must bring as `Authorization: Bearer`; always there when the address is not loopback.
    pub token: Option<String>,
}

impl Admin {
    pub(super) fn read(top: &Object<'_>) -> Result<Option<Admin>, ConfigError> {
        let section = top.section("admin", &["address", "hosts", "token"])?;
        let hosts = section.or("hosts", Vec::new(), hosts)?;
        let token = section.optional("token", token)?;
        let Some(address_node) = section.get("address") else {
            return match section.get("hosts").or(section.get("token")) {
                Some(node) => Err(node.error(
                    "is given without an address",
                    r#"add "address": "127.0.0.1:9090", or leave out the section"#,
                )),
                None => Ok(None),
            };
        };
        let address = address(address_node)?;
        if token.is_none() && !address.ip().to_canonical().is_loopback() {
            return Err(address_node.error(
                format!("is {}, which others can reach", address_node.found()),
                "add a \"token\" that POST needs, or use a loopback address",
            ));
        }
        Ok(Some(Admin {
            address,
            hosts,
            token,
        }))
    }
}

fn address(node: &Node<'_>) -> Result<SocketAddr, ConfigError> {
    let hint = r#"an IP address and a port such as "127.0.0.1:9090" or "[::1]:9090""#;
    let text = node.text(hint)?;
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| node.not(hint))?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| node.not(hint))
}

fn hosts(node: &Node<'_>) -> Result<Vec<String>, ConfigError> {
    node.list(r#"a list of host names such as ["lb.example"]"#)?
        .iter()
        .map(host)
        .collect()
}

fn host(node: &Node<'_>) -> Result<String, ConfigError> {
    let hint = r#"a host name such as "lb.example", without a port"#;
    let text = node.text(hint)?;
    let is_name = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !is_name || text.is_empty() || text.len() > 253 {
        return Err(node.not(hint));
    }
    Ok(text.to_ascii_lowercase())
}

/// What fits behind `Bearer` in a field without any escaping. Never shown: it is a secret.
fn token(node: &Node<'_>) -> Result<String, ConfigError> {
    let hint = "must be a text of 1 to 256 visible ASCII characters without spaces";
    let wrong = || node.error("is no token", hint);
    let text = node.text("").map_err(|_| wrong())?;
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_visible || text.is_empty() || text.len() > 256 {
        return Err(wrong());
    }
    Ok(text.into_owned())
}
