//! Parses the URL of a backend.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pool::settings::{BackendUrl, Host};

/// What a URL must be.
pub(super) const WANTED: &str =
    r#""http://host[:port][/base/path]", such as "http://127.0.0.1:8081""#;

/// What is wrong with a URL, to follow the URL, and a hint.
#[derive(Debug)]
pub(crate) struct UrlError {
    pub what: &'static str,
    pub hint: String,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

/// Parses a URL. A user, a query or a fragment would never be used, so it is refused rather than
/// ignored.
pub(crate) fn parse(text: &str) -> Result<BackendUrl, UrlError> {
    let wrong = |what, hint: &str| {
        let hint = hint.to_owned();
        Err(UrlError { what, hint })
    };
    let no_url = |what| wrong(what, &format!("must be {WANTED}"));
    let Some((scheme, rest)) = text.split_once("://") else {
        return no_url("which has no scheme");
    };
    if scheme.eq_ignore_ascii_case("https") {
        return wrong(
            "and rondo does not speak TLS to backends",
            "use http, or a TLS tunnel beside rondo",
        );
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return no_url("whose scheme is not http");
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
    // No top-level domain is a number: this is a mistyped address, which resolvers read in strange
    // ways.
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
