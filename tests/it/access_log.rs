//! The access line: what stands in it, that nobody can forge one, and that none is lost at a clean stop.

use crate::support::client::get;
use crate::support::{Backend, Origin, Proxy, Refusing, Wire};

fn position(line: &str, part: &str) -> usize {
    line.find(part)
        .unwrap_or_else(|| panic!("no {part:?} in {line:?}"))
}

#[test]
fn a_line_has_everything_in_its_order() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("backends.0.name", "left")
        .start();
    let mut client = proxy.client();
    client.send("POST /echo?q=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: the-request-id\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.read_response().status, 200);
    let line = proxy.wait_for_access("/echo?q=1");
    let parts = [
        "127.0.0.1",
        "POST /echo?q=1 HTTP/1.1",
        " 200 ",
        " left ",
        "the-request-id",
    ];
    let places: Vec<usize> = parts.iter().map(|part| position(&line, part)).collect();
    assert!(places.is_sorted(), "{line:?}");
    assert!(
        line.starts_with("20") && line.contains('T'),
        "no time at the front of {line:?}"
    );
}

#[test]
fn bytes_sent_and_tries_are_counted() {
    let (dying, origin) = (Backend::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&dying, &origin])
        .set("backends.1.name", "right")
        .start();
    let mut client = proxy.client();
    client.send(get("/counted"));
    dying.accept().expect_request();
    let response = client.read_response();
    let line = proxy.wait_for_access("/counted");
    assert!(line.contains(" right 2 "), "backend and tries in {line:?}");
    // The bytes of the body or of all that went to the client; the number stands after the status.
    let after = &line[position(&line, " 200 ") + 5..];
    let bytes: usize = after.split(' ').next().unwrap().parse().unwrap();
    assert!(
        bytes == response.body.len() || bytes == client.received().len(),
        "{line:?}"
    );
}

#[test]
fn answers_of_our_own_have_a_line_too() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    assert_eq!(proxy.client().get("/nowhere").status, 502);
    assert!(proxy.wait_for_access("/nowhere").contains(" 502 "));
    let mut client = proxy.client();
    client.send("GET /bad HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    assert!(proxy.wait_for_access("/bad").contains(" 400 "));
}

#[test]
fn a_client_cannot_forge_a_line() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    for bytes in [
        &b"GET /\x1b[31m\x07 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /back\\slash HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe2\x80\xa8line HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x\n127.0.0.1 forged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x\rforged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\x0bb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"quoted\\\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        client.read_response();
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines = proxy.access_lines();
    assert_eq!(lines.len(), 9, "one line for each: {lines:#?}");
    for line in &lines {
        assert!(
            line.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "{line:?}"
        );
        assert!(line.starts_with("20"), "{line:?}");
        assert!(!line.contains("a\"b"), "a quote ends no field: {line:?}");
    }
}

#[test]
fn no_line_is_lost_at_a_clean_stop() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for number in 0..500 {
        assert_eq!(client.get(&format!("/{number}")).status, 200);
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines = proxy.access_lines();
    assert_eq!(lines.len(), 500);
    for (number, line) in lines.iter().enumerate() {
        assert!(
            line.contains(&format!("GET /{number} HTTP/1.1")),
            "{number}: {line:?}"
        );
    }
}

#[test]
fn a_line_appears_without_another_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    assert_eq!(proxy.client().get("/alone").status, 200);
    proxy.wait_for_access("/alone");
}

#[test]
fn it_can_be_switched_off() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.access_log", false)
        .start();
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    assert_eq!(proxy.access_lines(), Vec::<String>::new());
}

#[test]
fn as_json_each_line_is_an_object() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.access_log", "json")
        .start();
    for bytes in [
        &b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /\xff\"\\\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        client.read_response();
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines: Vec<serde_json::Value> = proxy
        .access_lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[1]["status"], 400);
}

#[test]
fn an_upgrade_has_its_line_when_the_tunnel_ends() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut wire: Wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status, 101);
    client.close();
    wire.expect_gone();
    wire.close();
    assert!(proxy.wait_for_access("/tunnel").contains(" 101 "));
}

#[test]
fn a_client_that_left_has_its_line() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.name", "left")
        .start();
    let mut client = proxy.client();
    client.send(get("/left-alone"));
    let mut wire = backend.accept();
    wire.expect_request();
    client.reset();
    wire.expect_gone();
    assert!(proxy.wait_for_access("/left-alone").contains("left"));
}
