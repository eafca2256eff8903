//! Behind a proxy or a TLS terminator: which address and scheme count, and for what.

use crate::support::proxy::Plan;
use crate::support::{Addressed, Client, Origin, Proxy, Request};
use serde_json::json;
use std::collections::BTreeSet;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A PROXY protocol header of version 2 from 203.0.113.9 that says whether its client came over TLS.
fn header(tls: bool) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, 0x11, 0, 20]);
    header.extend([203, 0, 113, 9, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb]);
    header.extend([0x20, 0, 5, u8::from(tls), 0, 0, 0, 0]);
    header
}

const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n";

fn seen(plan: Plan, origin: &Origin, header: &[u8], lines: &str) -> Request {
    let proxy = plan.start();
    let mut client = proxy.client();
    client.send(header);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    assert_eq!(client.read_response().status, 200);
    origin.seen().pop().unwrap()
}

#[test]
fn the_scheme_is_what_is_known_best() {
    let origin = Origin::start("one");
    let (https, http) = (header(true), header(false));
    let trusted = "X-Forwarded-Proto: http\r\n";
    // The setting, whether the peer is trusted, the PROXY protocol header, the request's own fields.
    for (setting, trust, header, lines, expected) in [
        (None, false, &b""[..], "", "http"),
        (Some("https"), false, b"", "", "https"),
        (Some("http"), false, b"", "", "http"),
        (Some("https"), false, LINE, "", "https"),
        (None, false, LINE, "", "http"),
        (None, false, &https, "", "https"),
        (Some("http"), false, &https, "", "https"),
        (Some("https"), false, &http, "", "http"),
        // A field counts only from trusted peers.
        (None, false, &https, trusted, "https"),
        (Some("https"), true, b"", trusted, "http"),
        (None, true, &https, trusted, "http"),
        (None, true, &https, "", "https"),
        (None, true, b"", "X-Forwarded-Proto: https\r\n", "https"),
        (
            None,
            true,
            b"",
            "Forwarded: for=1.2.3.4;proto=https\r\n",
            "https",
        ),
        (
            None,
            false,
            b"",
            "Forwarded: for=1.2.3.4;proto=https\r\n",
            "http",
        ),
    ] {
        let mut plan = Proxy::over(&[&origin])
            .set("proxy.accept_proxy_protocol", !header.is_empty())
            .set("proxy.trust_forwarded", trust);
        if let Some(setting) = setting {
            plan = plan.set("proxy.forwarded_proto", setting);
        }
        let request = seen(plan, &origin, header, lines);
        assert_eq!(
            request.fields.all("x-forwarded-proto"),
            [expected],
            "{setting:?} {trust} {header:?} {lines:?}"
        );
    }
}

#[test]
fn the_persistence_cookie_of_a_client_that_came_by_https_is_secure() {
    let origin = Origin::start("one");
    for (setting, secure) in [("https", true), ("http", false)] {
        let proxy = Proxy::over(&[&origin])
            .set("proxy.forwarded_proto", setting)
            .set("proxy.trust_forwarded", true)
            .set("balance.persistence", json!({ "kind": "cookie" }))
            .start();
        let cookie = |lines: &str| {
            let mut client = proxy.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
            let response = client.read_response();
            response.fields.one("set-cookie").unwrap().to_owned()
        };
        assert_eq!(cookie("").ends_with("; SameSite=Lax; Secure"), secure);
        assert!(cookie("X-Forwarded-Proto: https\r\n").ends_with("; Secure"));
        assert!(!cookie("X-Forwarded-Proto: http\r\n").contains("Secure"));
    }
}

/// As a request of `client`, forwarded by a proxy on this machine.
fn get_for(client: &str) -> String {
    format!("GET /for-{client} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n")
}

#[test]
fn the_log_names_the_client_and_not_the_proxy_before_us() {
    let origin = Origin::start("one");
    for (trust, lines, expected) in [
        (
            json!(true),
            "X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\n",
            "1.2.3.4",
        ),
        (
            json!(["127.0.0.0/8", "10.0.0.0/8"]),
            "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 10.0.0.1\r\n",
            "1.2.3.4",
        ),
        (
            json!(["127.0.0.0/8"]),
            "Forwarded: for=\"[2001:db8::1]:80\"\r\n",
            "2001:db8::1",
        ),
        (
            json!(["127.0.0.0/8"]),
            "X-Forwarded-For: 1.2.3.4, nonsense\r\n",
            "127.0.0.1",
        ),
        (
            json!(["10.0.0.0/8"]),
            "X-Forwarded-For: 1.2.3.4\r\n",
            "127.0.0.1",
        ),
        (json!(false), "X-Forwarded-For: 1.2.3.4\r\n", "127.0.0.1"),
    ] {
        let proxy = Proxy::over(&[&origin])
            .set("proxy.trust_forwarded", trust)
            .start();
        let mut client = proxy.client();
        client.send(format!("GET /who HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        assert_eq!(client.read_response().status, 200);
        let line = proxy.wait_for_access("/who");
        assert_eq!(line.split(' ').nth(1), Some(expected), "{line} {lines:?}");
        // What is appended is the peer.
        let request = origin.seen().pop().unwrap();
        let last = request.fields.all("x-forwarded-for").join(",");
        assert!(last.ends_with("127.0.0.1"), "{last}");
    }
}

#[test]
fn each_request_of_a_connection_has_its_own_client() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.trust_forwarded", true)
        .start();
    let mut client = proxy.client();
    client.send(get_for("1.2.3.4"));
    client.read_response();
    client.send("GET /no-field HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_response();
    client.send("GET /refused HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    for (part, expected) in [
        ("/for-1.2.3.4", "1.2.3.4"),
        ("/no-field", "127.0.0.1"),
        // A request that is refused says nothing about its client.
        ("/refused", "127.0.0.1"),
    ] {
        let line = proxy.wait_for_access(part);
        assert_eq!(line.split(' ').nth(1), Some(expected), "{line}");
    }
}

#[test]
fn clients_behind_one_proxy_are_spread_by_their_own_addresses() {
    let origins: [Origin; 4] = Origin::several();
    let all = origins.each_ref().map(|origin| origin as &dyn Addressed);
    for (key, value) in [
        ("balance.method", json!("source_hash")),
        ("balance.persistence", json!({ "kind": "source_address" })),
    ] {
        let proxy = Proxy::over(&all)
            .set("proxy.trust_forwarded", true)
            .set(key, value)
            .start();
        let mut client: Client = proxy.client();
        let mut served = |address: &str| {
            client.send(get_for(address));
            let response = client.read_response();
            response.fields.one("x-origin").unwrap().to_owned()
        };
        let addresses: Vec<String> = (1..=40).map(|last| format!("192.0.2.{last}")).collect();
        let first: Vec<String> = addresses.iter().map(|address| served(address)).collect();
        let distinct: BTreeSet<&String> = first.iter().collect();
        assert_eq!(distinct.len(), 4, "{first:?}");
        for (address, before) in addresses.iter().zip(&first) {
            assert_eq!(&served(address), before, "{address} keeps its backend");
        }
    }
}

#[test]
fn trust_in_a_proxy_is_by_the_address_of_the_proxy_protocol_header() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.accept_proxy_protocol", true)
        .set("proxy.trust_forwarded", json!(["203.0.113.0/24"]))
        .start();
    let mut client = proxy.client();
    client.send(LINE);
    client.send(get_for("1.2.3.4"));
    assert_eq!(client.read_response().status, 200);
    let line = proxy.wait_for_access("/for-1.2.3.4");
    assert_eq!(line.split(' ').nth(1), Some("1.2.3.4"), "{line}");
    let request = origin.seen().pop().unwrap();
    assert_eq!(
        request.fields.one("x-forwarded-for"),
        Some("1.2.3.4, 203.0.113.9")
    );
}
