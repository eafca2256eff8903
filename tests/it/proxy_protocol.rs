//! The PROXY protocol on both sides: which address counts, and which bytes are no header.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Client, Origin, Proxy, Wire, eventually};
use std::net::SocketAddr;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header, as the specification's section 2.2 has it.
fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([0x20 | command, family]);
    header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend(rest);
    header
}

fn from_v4() -> Vec<u8> {
    version_2(
        1,
        0x11,
        &[203, 0, 113, 9, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb],
    )
}

fn from_v6() -> Vec<u8> {
    let mut rest = [0; 36];
    (rest[0], rest[1], rest[15]) = (0x20, 0x01, 7);
    rest[31] = 1;
    rest[33] = 80;
    version_2(1, 0x21, &rest)
}

fn accepting(backend: &dyn Addressed) -> crate::support::proxy::Plan {
    Proxy::over(&[backend]).set("proxy.accept_proxy_protocol", true)
}

#[test]
fn the_header_says_who_the_client_is_to_the_backend_and_in_the_log() {
    let mut with_extension = version_2(
        1,
        0x11,
        &[203, 0, 113, 9, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb],
    );
    with_extension[15] += 6;
    with_extension.extend([0x04, 0, 3, 1, 2, 3]);
    for (header, client) in [
        (
            b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n".to_vec(),
            "203.0.113.9",
        ),
        (b"PROXY TCP6 2001::7 ::1 40000 443\r\n".to_vec(), "2001::7"),
        (
            b"PROXY TCP6 ::ffff:203.0.113.9 ::1 40000 443\r\n".to_vec(),
            "203.0.113.9",
        ),
        (from_v4(), "203.0.113.9"),
        (with_extension, "203.0.113.9"),
        (from_v6(), "2001::7"),
        // Speaks for itself, or does not know: the connection's own address holds.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ff:: ff:: 1 2\r\n".to_vec(), "127.0.0.1"),
        (version_2(0, 0, &[]), "127.0.0.1"),
        (version_2(0, 0x11, &[9; 12]), "127.0.0.1"),
        (version_2(1, 0, &[]), "127.0.0.1"),
    ] {
        let origin = Origin::start("one");
        let proxy = accepting(&origin).start();
        let mut connection = proxy.client();
        connection.send(&header);
        // For every request of the connection.
        for number in 0..2 {
            assert_eq!(connection.get(&format!("/{number}")).text(), "one");
        }
        for request in origin.seen() {
            assert_eq!(
                request.fields.one("x-forwarded-for"),
                Some(client),
                "{header:?}"
            );
        }
        for number in 0..2 {
            let line = proxy.wait_for_access(&format!("\"GET /{number} "));
            assert_eq!(line.split(' ').nth(1), Some(client), "{line}");
        }
    }
}

#[test]
fn trust_goes_by_the_address_in_the_header() {
    let origin = Origin::start("one");
    let proxy = accepting(&origin)
        .set(
            "proxy.trust_forwarded",
            serde_json::json!(["203.0.113.0/24"]),
        )
        .start();
    for (address, expected) in [
        ("203.0.113.9", "10.1.1.1, 203.0.113.9"),
        ("198.51.100.1", "198.51.100.1"),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "PROXY TCP4 {address} 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n"
        ));
        client.read_response();
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.fields.one("x-forwarded-for"), Some(expected));
    }
}

#[test]
fn a_header_is_read_however_it_is_cut() {
    let origin = Origin::start("one");
    let proxy = accepting(&origin).start();
    let line = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n".to_vec();
    for header in [line, from_v4(), from_v6()] {
        let mut bytes = header.clone();
        bytes.extend_from_slice(get("/").as_bytes());
        for at in 1..=header.len() + 1 {
            let mut client = proxy.client();
            client.send_split(&bytes, at);
            assert_eq!(client.read_response().text(), "one", "cut at {at}");
        }
        // And byte by byte.
        let mut client = proxy.client();
        for byte in bytes {
            client.send([byte]);
        }
        assert_eq!(client.read_response().text(), "one");
    }
    assert!(
        origin
            .seen()
            .iter()
            .all(|request| request.fields.one("x-forwarded-for") != Some("127.0.0.1"))
    );
}

#[test]
fn anything_else_is_refused_without_a_word() {
    let origin = Origin::start("one");
    let proxy = accepting(&origin).start();
    let mut too_long = b"PROXY UNKNOWN ".to_vec();
    too_long.resize(200, b'x');
    too_long.extend_from_slice(b"\r\n");
    let mut version_3 = from_v4();
    version_3[12] = 0x31;
    let mut bad_command = from_v4();
    bad_command[12] = 0x22;
    let mut short = version_2(1, 0x11, &[1; 11]);
    short.extend_from_slice(get("/").as_bytes());
    for bytes in [
        get("/").into_bytes(),
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 192.0.2.1 40000\r\n".to_vec(),
        b"PROXY TCP4 2001::7 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 192.0.2.1 99999 2\r\n".to_vec(),
        b"PROXY UDP4 203.0.113.9 192.0.2.1 1 2\r\n".to_vec(),
        b"proxy TCP4 203.0.113.9 192.0.2.1 1 2\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"\0".to_vec(),
        too_long,
        version_3,
        bad_command,
        short,
    ] {
        let mut client = proxy.client();
        client.send(&bytes);
        client.half_close();
        client.expect_gone();
    }
    assert_eq!(origin.requests(), 0);
    // A header that its sender did not finish.
    let mut client = proxy.client();
    client.send("PROXY TCP4 203.0");
    client.half_close();
    client.expect_gone();
    // The next client with a valid header is served.
    let mut client = proxy.client();
    client.send(from_v4());
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn without_a_header_in_time_the_connection_ends_without_a_word() {
    let origin = Origin::start("one");
    for mode in ["http", "tcp"] {
        let proxy = accepting(&origin)
            .set("proxy.mode", mode)
            .set("timeouts.client_head", "500ms")
            .start();
        let mut silent = proxy.client();
        let mut slow = proxy.client();
        slow.send(&from_v4()[..20]);
        silent.expect_gone();
        slow.expect_gone();
        // The time is for the header alone.
        let mut client = proxy.client();
        client.send(from_v4());
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert_eq!(client.get("/").text(), "one", "{mode}");
    }
}

#[test]
fn where_it_is_not_configured_a_header_is_no_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send("PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn in_tcp_mode_what_follows_the_header_is_the_backends() {
    let backend = Backend::start();
    let proxy = accepting(&backend).set("proxy.mode", "tcp").start();
    let mut client = proxy.client();
    let mut bytes = from_v4();
    bytes.extend_from_slice(b"\r\nPROXY once more\r\n");
    client.send(&bytes);
    let mut wire = backend.accept();
    assert_eq!(wire.read_line(), "");
    assert_eq!(wire.read_line(), "PROXY once more");
    client.close();
    wire.expect_closed();
    wire.close();
    proxy.wait_for_access(" 203.0.113.9 ");
}

fn sending(backend: &dyn Addressed) -> crate::support::proxy::Plan {
    Proxy::over(&[backend]).set("backends.0.send_proxy_protocol", true)
}

/// The header for `client` on its way to the proxy at `proxy`, both IPv4.
fn header_for(client: SocketAddr, proxy: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets(),
        SocketAddr::V6(_) => panic!("the tests' addresses are IPv4"),
    };
    let mut rest = Vec::new();
    rest.extend(octets(client));
    rest.extend(octets(proxy));
    rest.extend(client.port().to_be_bytes());
    rest.extend(proxy.port().to_be_bytes());
    version_2(1, 0x11, &rest)
}

#[track_caller]
fn expect_header(wire: &mut Wire, client: &Client, proxy: &Proxy) {
    let header = header_for(client.stream().local_addr().unwrap(), proxy.address());
    assert_eq!(wire.read_exact(header.len()), header);
}

#[test]
fn a_backend_receives_the_proxy_header_before_anything_else() {
    for mode in ["http", "tcp"] {
        let backend = Backend::start();
        let proxy = sending(&backend).set("proxy.mode", mode).start();
        let mut client = Client::connect_as(&proxy, 33);
        client.send(get("/"));
        let mut wire = backend.accept();
        expect_header(&mut wire, &client, &proxy);
        wire.serve("told");
        assert_eq!(client.read_response().text(), "told", "{mode}");
    }
}

#[test]
fn in_tcp_mode_the_header_comes_without_waiting_for_the_client() {
    let backend = Backend::start();
    let proxy = sending(&backend).set("proxy.mode", "tcp").start();
    let mut client = proxy.client();
    let mut wire = backend.accept();
    expect_header(&mut wire, &client, &proxy);
    wire.send("hello\r\n");
    assert_eq!(client.read_line(), "hello");
}

#[test]
fn a_connection_with_a_proxy_header_never_serves_a_second_client() {
    let backend = Backend::start();
    let proxy = sending(&backend).one_worker().start();
    let mut first = proxy.client();
    first.send(get("/1"));
    let mut wire = backend.accept();
    expect_header(&mut wire, &first, &proxy);
    wire.serve("one");
    assert_eq!(first.read_response().text(), "one");

    let mut second = proxy.client();
    second.send(get("/2"));
    let mut other = backend.accept();
    expect_header(&mut other, &second, &proxy);
    other.serve("two");
    assert_eq!(second.read_response().text(), "two");

    // The first client again: on the connection that is its own, or on a new one with its own header.
    first.send(get("/3"));
    let mut again = backend.accept_or(Some(wire));
    if again.received().is_empty() {
        expect_header(&mut again, &first, &proxy);
    }
    assert_eq!(again.serve("three").target, "/3");
    assert_eq!(first.read_response().text(), "three");
    first.close();
    again.expect_gone();
    second.close();
    other.expect_gone();
}

#[test]
fn the_address_that_came_by_a_header_goes_on_by_a_header() {
    let backend = Backend::start();
    for (header, expected) in [
        (
            from_v4(),
            "203.0.113.9:40000".parse::<SocketAddr>().unwrap(),
        ),
        (
            b"PROXY TCP4 198.51.100.3 192.0.2.1 77 443\r\n".to_vec(),
            "198.51.100.3:77".parse().unwrap(),
        ),
    ] {
        let proxy = sending(&backend)
            .set("proxy.accept_proxy_protocol", true)
            .start();
        let mut client = proxy.client();
        client.send(header);
        client.send(get("/"));
        let mut wire = backend.accept();
        let header = header_for(expected, proxy.address());
        assert_eq!(wire.read_exact(header.len()), header);
        let request = wire.serve("ok");
        assert_eq!(
            request.fields.one("x-forwarded-for"),
            Some(expected.ip().to_string().as_str())
        );
        assert_eq!(client.read_response().text(), "ok");
    }
    // An IPv6 client is announced as such, whatever the family of the connection.
    let proxy = sending(&backend)
        .set("proxy.accept_proxy_protocol", true)
        .start();
    let mut client = proxy.client();
    client.send(from_v6());
    client.send(get("/"));
    let mut wire = backend.accept();
    let told = wire.read_exact(16 + 36);
    assert_eq!(told[..16], version_2(1, 0x21, &[0; 36])[..16]);
    assert_eq!(told[16..32], from_v6()[16..32]);
    wire.serve("ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn every_try_of_a_request_begins_with_the_header() {
    let (dying, backend) = (Backend::start(), Backend::start());
    let proxy = Proxy::over(&[&dying, &backend])
        .set("backends.0.send_proxy_protocol", true)
        .set("backends.1.send_proxy_protocol", true)
        .start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = dying.accept();
    expect_header(&mut wire, &client, &proxy);
    wire.expect_request();
    wire.close();
    let mut wire = backend.accept();
    expect_header(&mut wire, &client, &proxy);
    wire.serve("second");
    assert_eq!(client.read_response().text(), "second");
}

#[test]
fn a_header_of_many_clients_at_once_is_always_the_right_one() {
    let backend = Backend::start().run(|_, mut wire| {
        let header = wire.read_exact(28);
        let port = u16::from_be_bytes([header[24], header[25]]);
        while wire.next_request().is_some() {
            wire.answer(&port.to_string());
        }
    });
    let proxy = sending(&backend).start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut client = proxy.client();
                    let port = client.stream().local_addr().unwrap().port();
                    for _ in 0..3 {
                        assert_eq!(client.get("/").text(), port.to_string());
                    }
                }
            });
        }
    });
    eventually("all were served", || backend.connections() >= 160);
}
