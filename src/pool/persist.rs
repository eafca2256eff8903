//! What binds a client to its backend: keys made from addresses and names, and cookies.
//!
//! Everything here is a fixed function of the configuration, so two balancers with one
//! configuration agree, before and after a restart, and in whatever order they list their backends.
//! The rules for a bound backend that is down, full or drained are in `mod.rs`; the rendezvous
//! itself is in `chooser/rendezvous.rs`.

use std::net::IpAddr;

use crate::http::RequestHead;
use crate::pool::hash::{Key, hash_64, hash_128, mix};
use crate::pool::settings::HashKey;

// Never change a key: every client of every installation would move to another backend.
const NAME_KEY: Key = (0x726f_6e64_6f20_6e61, 0x6d65_206b_6579_2031);
const CLIENT_KEY: Key = (0x726f_6e64_6f20_636c, 0x6965_6e74_206b_2031);
const REQUEST_KEY: Key = (0x726f_6e64_6f20_7265, 0x7175_6573_7420_6b31);
const COOKIE_KEY: Key = (0x726f_6e64_6f20_636f, 0x6f6b_6965_206b_2031);

/// A backend's part in the rendezvous.
pub(crate) fn name_key(name: &str) -> u64 {
    hash_64(NAME_KEY, name.as_bytes())
}

/// A client's part in the rendezvous; an IPv4 address written as IPv6 is the same client.
pub(crate) fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash_64(CLIENT_KEY, &address.octets()),
        IpAddr::V6(address) => hash_64(CLIENT_KEY, &address.octets()),
    }
}

/// The part in the rendezvous of what a request says, be it a path, a field's value or a cookie's:
/// the same bytes are the same client.
pub(crate) fn request_key(bytes: &[u8]) -> u64 {
    hash_64(REQUEST_KEY, bytes)
}

impl HashKey {
    /// What a request says there. Nothing where it has no such field or cookie, or an empty one:
    /// the client's address decides then, or all such clients would have the same backend.
    pub(in crate::pool) fn in_request<'a>(&self, request: &'a RequestHead) -> Option<&'a [u8]> {
        let found = match self {
            HashKey::Source => None,
            HashKey::Path => Some(request.path()),
            HashKey::Header(name) => request.first_value(name.as_bytes()),
            HashKey::Cookie(name) => request.cookie(name.as_bytes()),
        };
        found.filter(|value| !value.is_empty())
    }
}

/// The cookie's value that binds a client to the backend of that name: opaque, it reveals neither
/// name nor address.
pub(crate) fn cookie_value(name: &str) -> [u8; 32] {
    let mut value = [0; 32];
    for (pair, byte) in value
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(hash_128(COOKIE_KEY, name.as_bytes()))
    {
        *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
    }
    value
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 15)]
}

/// The cookies of one pool.
#[derive(Debug)]
pub(crate) struct Cookies {
    name: String,
    /// By backend.
    values: Vec<[u8; 32]>,
    /// A hash table of backends by their values: twice as many places as backends, and on.
    table: Vec<u32>,
}

/// No backend.
const NONE: u32 = u32::MAX;

impl Cookies {
    /// For backends of these names.
    pub(crate) fn new<'a>(cookie: &str, backends: impl Iterator<Item = &'a str>) -> Cookies {
        let values: Vec<[u8; 32]> = backends.map(cookie_value).collect();
        let mut table = vec![NONE; (2 * values.len() + 1).next_power_of_two()];
        for (backend, value) in (0..).zip(&values) {
            let mut at = first_place(value, table.len());
            while table[at] != NONE {
                at = (at + 1) % table.len();
            }
            table[at] = backend;
        }
        Cookies {
            name: cookie.to_owned(),
            values,
            table,
        }
    }

    /// The cookie's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The backend that a cookie's value binds to.
    pub(crate) fn backend(&self, value: &[u8]) -> Option<usize> {
        let value: &[u8; 32] = value.try_into().ok()?;
        let mut at = first_place(value, self.table.len());
        // Half of the places are empty, so this ends.
        while self.table[at] != NONE {
            let backend = self.table[at] as usize;
            if self.values[backend] == *value {
                return Some(backend);
            }
            at = (at + 1) % self.table.len();
        }
        None
    }

    /// The value of the `Set-Cookie` field that binds a client to a backend.
    pub(crate) fn set_cookie(&self, backend: usize) -> SetCookie {
        let mut field = self.name.clone().into_bytes();
        field.push(b'=');
        field.extend_from_slice(&self.values[backend]);
        field.extend_from_slice(b"; Path=/; HttpOnly; SameSite=Lax");
        field.extend_from_slice(SECURE);
        SetCookie(field.into())
    }
}

/// Where the search for a value begins.
fn first_place(value: &[u8; 32], places: usize) -> usize {
    let (words, _) = value.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(0, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    usize::try_from(hash % places as u64).unwrap_or(0)
}

/// Keeps the cookie from being sent in the clear: right for a client that came by https, useless
/// for any other, which would not return it at all.
const SECURE: &[u8] = b"; Secure";

/// A `Set-Cookie` field value for each scheme.
#[derive(Debug)]
pub(crate) struct SetCookie(Box<[u8]>);

impl SetCookie {
    /// For a client that came by https, or not.
    pub(crate) fn value(&self, https: bool) -> &[u8] {
        let end = if https {
            self.0.len()
        } else {
            self.0.len() - SECURE.len()
        };
        &self.0[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HeadLimits;

    // These values are a promise: a release that changes one moves clients. Do not adapt the test.
    #[test]
    fn keys_and_cookies_are_the_same_in_every_release() {
        assert_eq!(
            &cookie_value("localhost:8081"),
            b"a247cb953fe69d6945037fe7fda7484c"
        );
        assert_eq!(
            &cookie_value("localhost:8082"),
            b"80ad55cebcb8619b17dc48c9faa1428c"
        );
        assert_eq!(name_key("localhost:8081"), 0xaa16_772c_4477_e2ec);
        assert_eq!(
            client_key("192.0.2.1".parse().unwrap()),
            0xb71e_84dd_4674_b97b
        );
        assert_eq!(
            client_key("2001:db8::1".parse().unwrap()),
            0xe444_ed91_6faa_a008
        );
        assert_eq!(request_key(b"/index.html"), 0xd8b3_228f_479f_8b3f);
        assert_eq!(request_key(b"*"), 0x8f21_2140_274f_abfb);
    }

    #[test]
    fn an_ipv4_address_written_as_ipv6_is_the_same_client() {
        let key = |text: &str| client_key(text.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("::192.0.2.1"));
    }

    #[test]
    fn a_key_is_what_the_request_says_there_and_nothing_where_that_is_empty() {
        let request = |text: &str| {
            let mut head = RequestHead::default();
            let limits = HeadLimits {
                head_bytes_max: 1024,
                fields_max: 10,
            };
            head.take(text.as_bytes(), &limits).unwrap().unwrap();
            head
        };
        let head = request(
            "GET /a%2Fb//./?q=/x HTTP/1.1\r\nHost: h.example\r\nX-User:  one \r\nx-user: two\r\n\
             X-None:\r\nCookie: id=; user=u?1; user=2\r\n\r\n",
        );
        let header = |name: &str| HashKey::Header(name.to_owned());
        let cookie = |name: &str| HashKey::Cookie(name.to_owned());
        for (key, expected) in [
            (HashKey::Source, None),
            (HashKey::Path, Some("/a%2Fb//./")),
            (header("X-USER"), Some("one")),
            (header("host"), Some("h.example")),
            (header("X-None"), None),
            (header("X-Use"), None),
            (cookie("user"), Some("u?1")),
            (cookie("User"), None),
            (cookie("id"), None),
        ] {
            let found = key.in_request(&head);
            assert_eq!(found, expected.map(str::as_bytes), "{key}");
        }
        for (target, path, host) in [
            (
                "http://one.example/p/?q HTTP/1.1\r\nHost: two",
                Some("/p/"),
                Some("one.example"),
            ),
            (
                "http://one.example?q HTTP/1.1\r\nHost: two",
                Some("/"),
                Some("one.example"),
            ),
            ("/? HTTP/1.0", Some("/"), None),
        ] {
            let head = request(&format!("GET {target}\r\n\r\n"));
            let found = [HashKey::Path, header("Host")]
                .map(|key| key.in_request(&head).map(<[u8]>::to_vec));
            let bytes = |text: &str| text.as_bytes().to_vec();
            assert_eq!(found, [path.map(bytes), host.map(bytes)], "{target}");
        }
        let head = request("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(HashKey::Path.in_request(&head), Some(&b"*"[..]));
    }

    #[test]
    fn a_cookie_finds_its_backend_and_nothing_else_does() {
        let cookies = Cookies::new("rondo", ["a", "b"].into_iter());
        assert_eq!(cookies.backend(&cookie_value("b")), Some(1));
        let [upper, cut] = [
            cookie_value("b").to_ascii_uppercase(),
            cookie_value("b")[..31].to_vec(),
        ];
        for stranger in [&b""[..], b"b", &upper, &cut, &cookie_value("c")] {
            assert_eq!(cookies.backend(stranger), None);
        }
    }

    #[test]
    fn each_of_many_cookies_finds_its_own_backend() {
        for count in [0, 1, 2, 1000] {
            let names: Vec<String> = (0..count).map(|n| format!("10.0.0.1:{n}")).collect();
            let cookies = Cookies::new("rondo", names.iter().map(String::as_str));
            for (place, name) in names.iter().enumerate() {
                assert_eq!(cookies.backend(&cookie_value(name)), Some(place));
            }
            assert_eq!(cookies.backend(&cookie_value("another")), None);
        }
    }

    #[test]
    fn the_field_is_opaque_and_has_its_attributes() {
        let cookies = Cookies::new("rondo", ["10.1.2.3:8081"].into_iter());
        let set_cookie = cookies.set_cookie(0);
        let field = String::from_utf8(set_cookie.value(false).into()).unwrap();
        let value = String::from_utf8(cookie_value("10.1.2.3:8081").to_vec()).unwrap();
        assert_eq!(
            field,
            format!("rondo={value}; Path=/; HttpOnly; SameSite=Lax")
        );
        let secure = String::from_utf8(set_cookie.value(true).into()).unwrap();
        assert_eq!(secure, format!("{field}; Secure"));
        assert!(!field.contains("10.1") && !field.contains("8081"));
    }

    #[test]
    fn two_instances_agree_whatever_the_order_of_their_backends() {
        let (one, two) = (
            Cookies::new("n", ["a", "b"].into_iter()),
            Cookies::new("n", ["b", "a"].into_iter()),
        );
        let (one_0, one_1) = (one.set_cookie(0), one.set_cookie(1));
        assert_eq!(one_0.value(true), two.set_cookie(1).value(true));
        assert_eq!(one_1.value(true), two.set_cookie(0).value(true));
    }
}
