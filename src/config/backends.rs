//! The list `backends`, whose settings belong to `pool/backend.rs`: URLs taken apart, and a name for each.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::document::{ConfigError, Node, Object};
use crate::config::proxy::Mode;
use crate::pool::settings::{BackendSettings, BackendUrl, Host};

const URL: &str = r#""http://host[:port][/base/path]", such as "http://127.0.0.1:8081""#;
const NAME_BYTES_MAX: usize = 64;

pub(super) fn read(top: &Object<'_>, mode: Mode) -> Result<Vec<BackendSettings>, ConfigError> {
    let hint = r#"a list of at least one backend such as [{"url":"http://127.0.0.1:8081"}]"#;
    let list = top.need("backends", hint)?;
    let nodes = list.list(hint)?;
    if nodes.is_empty() {
        return Err(list.error("is empty", format!("must be {hint}")));
    }
    let mut written = Vec::with_capacity(nodes.len());
    for node in nodes {
        written.push(Written::read(&node, mode)?);
    }
    name(written)
}

/// A backend whose name may still be missing.
struct Written<'a> {
    url_node: Node<'a>,
    name_node: Option<Node<'a>>,
    settings: BackendSettings,
}

impl<'a> Written<'a> {
    fn read(node: &Node<'a>, mode: Mode) -> Result<Written<'a>, ConfigError> {
        let section = node.object(&[
            "url",
            "name",
            "weight",
            "backup",
            "max_connections",
            "check",
            "lenient",
            "send_proxy_protocol",
            "IsDead",
        ])?;
        let url_node = section.need("url", URL)?;
        let settings = BackendSettings {
            url: url(url_node)?,
            name: section.or("name", String::new(), backend_name)?,
            weight: section.or("weight", 1, |node| node.integer(0..=1000))?,
            backup: section.or("backup", false, Node::boolean)?,
            max_connections: section
                .optional("max_connections", |node| node.integer(1..=1_000_000))?,
            check: section.or("check", true, Node::boolean)?,
            lenient: section.or("lenient", false, Node::boolean)?,
            send_proxy_protocol: section.or("send_proxy_protocol", false, Node::boolean)?,
            // The article's struct has it.
            disabled: section.or("IsDead", false, Node::boolean)?,
        };
        if mode == Mode::Tcp && !settings.url.base_path.is_empty() {
            return Err(url_node.error(
                format!(
                    "is {}, and mode \"tcp\" has no use for a path",
                    url_node.found()
                ),
                "leave the path out",
            ));
        }
        Ok(Written {
            url_node: url_node.clone(),
            name_node: section.get("name").cloned(),
            settings,
        })
    }
}

/// Gives a name to each backend that has none, unlike all others.
fn name(mut written: Vec<Written<'_>>) -> Result<Vec<BackendSettings>, ConfigError> {
    // Name to the number its next repeat gets. Names that were written come first: they cannot give way.
    let mut taken: HashMap<String, usize> = HashMap::new();
    for backend in &written {
        let Some(node) = &backend.name_node else {
            continue;
        };
        if taken.insert(backend.settings.name.clone(), 2).is_some() {
            let what = format!("is {}, as another backend's is", node.found());
            return Err(node.error(what, "choose a name of its own for each"));
        }
    }
    for backend in &mut written {
        if backend.name_node.is_some() {
            continue;
        }
        let url = &backend.settings.url;
        let plain = format!("{}:{}", url.host, url.port);
        let mut number = taken.get(&plain).copied().unwrap_or(1);
        let mut name = plain.clone();
        while taken.contains_key(&name) {
            name = format!("{plain}#{number}");
            number += 1;
        }
        if name.len() > NAME_BYTES_MAX {
            let what = format!("makes no name of at most {NAME_BYTES_MAX} bytes");
            return Err(backend.url_node.error(what, "give the backend a \"name\""));
        }
        taken.insert(plain, number.max(2));
        taken.entry(name.clone()).or_insert(2);
        backend.settings.name = name;
    }
    Ok(written
        .into_iter()
        .map(|backend| backend.settings)
        .collect())
}

fn backend_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let hint = "1 to 64 letters, digits or any of . _ : # [ ] -";
    let name = node.text(hint)?;
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._:#[]-".contains(&byte));
    if !is_name || name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(node.not(hint));
    }
    Ok(name.into_owned())
}

/// Takes a URL apart. A user, a query or a fragment would never be used: refused rather than ignored.
fn url(node: &Node<'_>) -> Result<BackendUrl, ConfigError> {
    let text = node.text(URL)?;
    let wrong = |what: &str, hint: &str| {
        let what = format!("is {}, {what}", node.found());
        Err(node.error(what, hint))
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("which has no scheme", &format!("must be {URL}"));
    };
    if scheme.eq_ignore_ascii_case("https") {
        return wrong(
            "and rondo does not speak TLS to backends",
            "use http, or a TLS tunnel beside rondo",
        );
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return wrong("whose scheme is not http", &format!("must be {URL}"));
    }
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if authority.contains('@') {
        return wrong("which has a user", "leave out what stands before the @");
    }
    if path.contains('?') {
        return wrong("which has a query", "leave out what begins with the ?");
    }
    if path.contains('#') {
        return wrong("which has a fragment", "leave out what begins with the #");
    }
    let (host_text, port_text) = split_authority(authority);
    let Some(host) = host(host_text) else {
        return wrong(
            "whose host is neither a name nor an address",
            "use such as localhost, 10.0.0.1 or [::1]",
        );
    };
    let Some(port) = port_text.map_or(Some(80), backend_port) else {
        return wrong("whose port is wrong", "must be a port from 1 to 65535");
    };
    if !is_path(path) {
        return wrong(
            "whose path has a character that a path cannot have",
            "write it percent-encoded",
        );
    }
    let authority = if port == 80 {
        host.to_string()
    } else {
        format!("{host}:{port}")
    };
    Ok(BackendUrl {
        host,
        port,
        base_path: path.strip_suffix('/').unwrap_or(path).to_owned(),
        authority,
    })
}

/// Host and port; the colons inside of brackets belong to the host.
fn split_authority(authority: &str) -> (&str, Option<&str>) {
    let host_end = if authority.starts_with('[') {
        authority.find(']').map_or(authority.len(), |end| end + 1)
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    match authority.split_at(host_end) {
        (host, "") => (host, None),
        // Without a colon what follows the bracket is no port, and `backend_port` refuses it.
        (host, rest) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
    }
}

fn host(text: &str) -> Option<Host> {
    if let Some(text) = text.strip_prefix('[') {
        let address: Ipv6Addr = text.strip_suffix(']')?.parse().ok()?;
        return Some(Host::Ip(IpAddr::V6(address).to_canonical()));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(Host::Ip(IpAddr::V4(address)));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_name = name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        });
    // No top-level domain is a number: this is an address with a typing error, and resolvers read it in strange ways.
    let last = name.rsplit('.').next()?.to_ascii_lowercase();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (is_name && !is_number).then(|| Host::Name(text.to_ascii_lowercase()))
}

fn backend_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port > 0)
}

/// Whether this is a path of RFC 3986 3.3, or nothing.
fn is_path(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => {
                let mut is_hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                is_hex() && is_hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names() {
        for (text, shown) in [
            ("127.0.0.1", Some("127.0.0.1")),
            ("[::1]", Some("[::1]")),
            ("[::ffff:10.0.0.1]", Some("10.0.0.1")),
            ("localhost", Some("localhost")),
            ("LocalHost", Some("localhost")),
            ("a_b-c.example.", Some("a_b-c.example.")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("1password.example", Some("1password.example")),
            ("", None),
            (".", None),
            ("a..b", None),
            (".a", None),
            ("1.2.3", None),
            ("127.0.0.256", None),
            ("127.0.0.1.", None),
            ("0x7f000001", None),
            ("2130706433", None),
            ("::1", None),
            ("[::1", None),
            ("[127.0.0.1]", None),
            ("[fe80::1%25eth0]", None),
            ("b\u{fc}cher.example", None),
            ("a b", None),
            ("a\\b", None),
            ("a%41", None),
        ] {
            let found = host(text).map(|host| host.to_string());
            assert_eq!(found.as_deref(), shown, "{text}");
        }
        assert!(host(&"a".repeat(63)).is_some());
        assert!(host(&"a".repeat(64)).is_none());
        assert!(host(&format!("{}a", "a.".repeat(126))).is_some());
        assert!(host(&format!("{}aa", "a.".repeat(126))).is_none());
    }

    #[test]
    fn the_port_is_what_follows_the_host() {
        for (authority, parts) in [
            ("a", ("a", None)),
            ("a:1", ("a", Some("1"))),
            ("a:", ("a", Some(""))),
            ("a:1:2", ("a", Some("1:2"))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some("80"))),
            ("[::1]x", ("[::1]", Some("x"))),
            ("[::1", ("[::1", None)),
        ] {
            assert_eq!(split_authority(authority), parts);
        }
        assert_eq!(backend_port("65535"), Some(65535));
        for text in ["", "0", "65536", "+1", "-1", "x", "1 "] {
            assert_eq!(backend_port(text), None, "{text}");
        }
    }
}
