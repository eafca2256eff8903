//! Who the client is, according to the proxies before us: X-Forwarded-For, X-Forwarded-Proto and
//! Forwarded (RFC 7239).
//!
//! Read only if the peer is trusted. The walk begins at the peer and goes back towards the client:
//! what a client wrote itself does not count once a trusted proxy has added something, and a
//! malformed element ends the walk. Nothing is allocated.
//!
//! Read next: `http/forward.rs`.

use crate::http::fields::{Field, Known, members, trim};
use crate::http::head::Head;
use crate::http::{RequestHead, Scheme};
use std::net::{IpAddr, SocketAddr};

/// What the fields say about the client. `None`: nothing, or nothing that can be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) client: Option<IpAddr>,
    pub(crate) scheme: Option<Scheme>,
}

/// What the fields of a trusted peer say. The client is the nearest address for which `is_proxy`
/// does not hold, or the farthest one if it holds for all.
pub(crate) fn forwarded(head: &RequestHead, is_proxy: impl Fn(IpAddr) -> bool) -> Forwarded {
    let hop = |address| Forwarded {
        client: address,
        scheme: None,
    };
    let mut addresses = members_from_the_end(head, Known::XForwardedFor).peekable();
    let mut found = if addresses.peek().is_some() {
        walk(addresses.map(address).map(hop), is_proxy)
    } else {
        let elements = members_from_the_end(head, Known::Forwarded);
        walk(elements.map(element), is_proxy)
    };
    // A list begins with the client's scheme.
    let mut schemes = head.values(Known::XForwardedProto).flat_map(members);
    if let Some(scheme) = schemes.find(|scheme| !scheme.is_empty()) {
        found.scheme = Some(Scheme::of(scheme));
    }
    found
}

/// Walks back over the hops, the last one first.
fn walk(hops: impl Iterator<Item = Forwarded>, is_proxy: impl Fn(IpAddr) -> bool) -> Forwarded {
    let mut found = Forwarded::default();
    for hop in hops {
        let Some(address) = hop.client else {
            break;
        };
        found.client = hop.client;
        found.scheme = hop.scheme.or(found.scheme);
        if !is_proxy(address) {
            break;
        }
    }
    found
}

/// The members of a list that may be cut into several fields, the last one first.
///
/// A comma inside a quoted string counts as a separator. Read from the end, only what a trusted
/// proxy has written can be cut wrongly by this, while an open quotation mark from a client must
/// not swallow what was added behind it.
fn members_from_the_end(head: &RequestHead, known: Known) -> impl Iterator<Item = &[u8]> {
    let Head { bytes, fields, .. } = head.complete();
    fields
        .iter()
        .rev()
        .filter(move |field: &&Field| field.known == known)
        .flat_map(|field| field.value.of(bytes).rsplit(|byte| *byte == b','))
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// One element of Forwarded: `for=` and `proto=` (RFC 7239 4).
fn element(text: &[u8]) -> Forwarded {
    let mut told = Forwarded::default();
    for pair in text.split(|byte| *byte == b';').map(trim) {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let inside = value
            .strip_prefix(b"\"")
            .and_then(|inside| inside.strip_suffix(b"\""));
        let value = inside.unwrap_or(value);
        if name.eq_ignore_ascii_case(b"for") {
            told.client = address(value);
        } else if name.eq_ignore_ascii_case(b"proto") {
            told.scheme = Some(Scheme::of(value));
        }
    }
    told
}

/// `192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`, perhaps with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|inside| inside.contains(':'))
        .unwrap_or(text);
    let address = bare
        .parse()
        .or_else(|_| text.parse().map(|address: SocketAddr| address.ip()))
        .ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HeadLimits;

    fn told(lines: &str, is_proxy: impl Fn(IpAddr) -> bool) -> (Option<String>, Option<Scheme>) {
        let limits = HeadLimits {
            head_bytes_max: 4096,
            fields_max: 20,
        };
        let mut head = RequestHead::default();
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        head.take(bytes.as_bytes(), &limits).unwrap().unwrap();
        let Forwarded { client, scheme } = forwarded(&head, is_proxy);
        (client.map(|client| client.to_string()), scheme)
    }

    /// The client where 10.0.0.0/8 and `fd00::/8` are proxies.
    fn client(lines: &str) -> String {
        let is_proxy = |address| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        };
        told(lines, is_proxy).0.unwrap_or_default()
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxys() {
        for (lines, expected) in [
            ("", ""),
            ("X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4"),
            ("X-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n", "1.2.3.4"),
            (
                "X-Forwarded-For: 6.6.6.6, 1.2.3.4,10.0.0.1 ,\t10.0.0.2\r\n",
                "1.2.3.4",
            ),
            // Several fields are one list.
            (
                "X-Forwarded-For: 6.6.6.6\r\nA: b\r\nx-forwarded-for: 1.2.3.4\r\nX-Forwarded-For: 10.0.0.1\r\n",
                "1.2.3.4",
            ),
            // All are proxies: the farthest.
            (
                "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\nX-Forwarded-For: fd00::1\r\n",
                "10.0.0.3",
            ),
            // What is no address ends the walk.
            (
                "X-Forwarded-For: 1.2.3.4, unknown, 10.0.0.2, 10.0.0.1\r\n",
                "10.0.0.2",
            ),
            ("X-Forwarded-For: 1.2.3.4, unknown\r\n", ""),
            ("X-Forwarded-For: 1.2.3.4, 1.2.3\r\n", ""),
            (
                "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: \u{e4}\r\n",
                "",
            ),
            // Empty members are none (RFC 9110 5.6.1.2).
            (
                "X-Forwarded-For: , 1.2.3.4, ,\r\nX-Forwarded-For:\r\n",
                "1.2.3.4",
            ),
            // Forwarded counts only where X-Forwarded-For is not.
            (
                "Forwarded: for=5.6.7.8\r\nX-Forwarded-For: 1.2.3.4\r\n",
                "1.2.3.4",
            ),
            ("Forwarded: for=5.6.7.8\r\nX-Forwarded-For: x\r\n", ""),
            (
                "Forwarded: for=5.6.7.8\r\nX-Forwarded-For: ,\r\n",
                "5.6.7.8",
            ),
        ] {
            assert_eq!(client(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
        for (lines, expected) in [
            ("Forwarded: for=1.2.3.4\r\n", "1.2.3.4"),
            (
                "forwarded: By=10.0.0.9 ;FOR=1.2.3.4;proto=http, for=10.0.0.1\r\n",
                "1.2.3.4",
            ),
            ("Forwarded: for=\"[2001:db8::1]:4711\"\r\n", "2001:db8::1"),
            (
                "Forwarded: for=\"1.2.3.4:80\"\r\nForwarded: for=\"[fd00::1]\", for=10.0.0.1\r\n",
                "1.2.3.4",
            ),
            (
                "Forwarded: for=1.2.3.4, for=unknown, for=10.0.0.1\r\n",
                "10.0.0.1",
            ),
            ("Forwarded: for=1.2.3.4, for=_secret\r\n", ""),
            ("Forwarded: for=1.2.3.4, proto=https\r\n", ""),
            // A mark left open by a client swallows nothing that a proxy has added.
            ("Forwarded: for=\"6.6.6.6, for=1.2.3.4\r\n", "1.2.3.4"),
            (
                "Forwarded: for=\"6.6.6.6\r\nForwarded: for=1.2.3.4\r\n",
                "1.2.3.4",
            ),
        ] {
            assert_eq!(client(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_address_may_have_brackets_and_a_port() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:65535", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ] {
            let found = address(text.as_bytes()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "a",
            "1.2.3",
            "1.2.3.4.5",
            "01.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:x",
            "1.2.3.4:65536",
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[]",
            "localhost",
            "1.2.3.4 5.6.7.8",
            "-",
        ] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_scheme_is_the_clients() {
        let scheme = |lines: &str| told(lines, |_| false).1;
        assert_eq!(scheme(""), None);
        assert_eq!(scheme("X-Forwarded-Proto:\r\n"), None);
        for (value, expected) in [
            ("https", Scheme::Https),
            ("HTTPS", Scheme::Https),
            ("wss", Scheme::Https),
            ("http", Scheme::Http),
            ("ws", Scheme::Http),
            ("https, http", Scheme::Https),
            (", http,https", Scheme::Http),
        ] {
            let lines =
                format!("X-Forwarded-Proto: {value}\r\nForwarded: for=1.2.3.4;proto=gopher\r\n");
            assert_eq!(scheme(&lines), Some(expected), "{value}");
        }
        let lines = "Forwarded: for=1.2.3.4;proto=https\r\n";
        assert_eq!(scheme(lines), Some(Scheme::Https));
        assert_eq!(
            scheme(&format!("X-Forwarded-Proto: http\r\n{lines}")),
            Some(Scheme::Http)
        );
        // The scheme belongs to the client that is believed, and else to the hop behind it.
        let is_proxy = |address: IpAddr| address == IpAddr::from([10, 0, 0, 1]);
        for (elements, expected) in [
            (
                "for=6.6.6.6;proto=http, for=1.2.3.4;proto=https, for=10.0.0.1;proto=http",
                Scheme::Https,
            ),
            ("for=1.2.3.4, for=10.0.0.1;proto=\"https\"", Scheme::Https),
        ] {
            let found = told(&format!("Forwarded: {elements}\r\n"), is_proxy);
            assert_eq!(
                found,
                (Some("1.2.3.4".to_owned()), Some(expected)),
                "{elements}"
            );
        }
    }
}
