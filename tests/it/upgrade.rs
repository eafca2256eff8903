//! `Upgrade`: a request that becomes a tunnel, and everything that only looks like it.

use crate::support::client::get;
use crate::support::{Backend, Client, Origin, Proxy, Wire, pattern};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn scripted() -> (Backend, Proxy) {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    (backend, proxy)
}

fn tunnel(proxy: &Proxy, backend: &Backend) -> (Client, Wire) {
    let mut client = proxy.client();
    client.send(UPGRADE);
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 101);
    (client, wire)
}

#[test]
fn an_upgrade_passes_with_its_fields_and_becomes_a_tunnel() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(UPGRADE);
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.fields.one("upgrade"), Some("websocket"));
    assert_eq!(
        request
            .fields
            .one("connection")
            .map(str::to_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(request.fields.one("sec-websocket-version"), Some("13"));
    wire.send(SWITCH);
    let response = client.read_response();
    assert_eq!(
        (response.status, response.fields.one("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(
        response
            .fields
            .one("connection")
            .map(str::to_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(
        response.fields.one("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for number in 0..10 {
        client.send(format!("ping {number}"));
        assert_eq!(wire.read_exact(6), format!("ping {number}").as_bytes());
        wire.send(format!("pong {number}"));
        assert_eq!(client.read_exact(6), format!("pong {number}").as_bytes());
    }
}

#[test]
fn bytes_that_come_together_with_the_heads_are_not_lost() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}early from the client"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(format!("{SWITCH}early from the backend"));
    assert_eq!(client.read_response().status, 101);
    assert_eq!(client.read_exact(22), b"early from the backend");
    assert_eq!(wire.read_exact(21), b"early from the client");
    client.send("later");
    assert_eq!(wire.read_exact(5), b"later");
}

#[test]
fn early_bytes_are_not_shown_to_a_backend_that_did_not_switch() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    // What follows the head is a second request if the answer is not 101.
    client.send(format!("{UPGRADE}{}", get("/second")));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.expect_nothing_yet();
    wire.answer("no thanks");
    assert_eq!(client.read_response().text(), "no thanks");
    let mut wire = backend.accept_or(Some(wire));
    assert_eq!(wire.serve("second").target, "/second");
    assert_eq!(client.read_response().text(), "second");
}

#[test]
fn a_half_close_passes_from_the_client() {
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = tunnel(&proxy, &backend);
    client.send("last words");
    client.half_close();
    assert_eq!(wire.read_to_end(), b"last words");
    wire.send("still talking");
    assert_eq!(client.read_exact(13), b"still talking");
    wire.close();
    client.expect_closed();
}

#[test]
fn a_half_close_passes_from_the_backend() {
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = tunnel(&proxy, &backend);
    wire.send("last words");
    wire.half_close();
    assert_eq!(client.read_to_end(), b"last words");
    client.send("still talking");
    assert_eq!(wire.read_exact(13), b"still talking");
    client.close();
    wire.expect_closed();
}

#[test]
fn a_reset_of_one_side_ends_the_other() {
    let (backend, proxy) = scripted();
    let (client, mut wire) = tunnel(&proxy, &backend);
    client.reset();
    wire.expect_gone();
    let (mut client, wire) = tunnel(&proxy, &backend);
    wire.reset();
    client.expect_gone();
}

#[test]
fn megabytes_pass_a_tunnel_both_ways_at_once() {
    const LENGTH: usize = 3 << 20;
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = tunnel(&proxy, &backend);
    let body = pattern(LENGTH);
    let (mut to_proxy, mut to_client) = (
        client.stream().try_clone().unwrap(),
        wire.stream().try_clone().unwrap(),
    );
    std::thread::scope(|scope| {
        use std::io::Write;
        scope.spawn(|| to_proxy.write_all(&body).unwrap());
        scope.spawn(|| to_client.write_all(&body).unwrap());
        scope.spawn(|| assert!(wire.read_exact(LENGTH) == body));
        assert!(client.read_exact(LENGTH) == body);
    });
}

#[test]
fn silent_tunnels_delay_no_other_client() {
    let (backend, proxy) = scripted();
    let tunnels: Vec<_> = (0..50).map(|_| tunnel(&proxy, &backend)).collect();
    let mut client = proxy.client();
    client.send(get("/"));
    backend.accept().serve("at once");
    assert_eq!(client.read_response().text(), "at once");
    for (mut client, mut wire) in tunnels {
        client.send("awake");
        assert_eq!(wire.read_exact(5), b"awake");
    }
}

#[test]
fn a_101_that_was_not_asked_for_is_502() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(SWITCH);
    let response = client.read_response();
    assert_eq!(response.status, 502);
    wire.expect_gone();
}

#[test]
fn a_101_to_something_that_was_not_offered_is_502() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(UPGRADE);
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(client.read_response().status, 502);
    wire.expect_gone();
}

#[test]
fn an_upgrade_that_is_declined_leaves_a_plain_connection() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(UPGRADE);
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\nUpgrade: other/2\r\nConnection: Upgrade\r\n\r\nno");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (426, "no"));
    assert_eq!(response.fields.one("upgrade"), Some("other/2"));
    client.send(get("/next"));
    let mut wire = backend.accept_or(Some(wire));
    wire.serve("plain");
    assert_eq!(client.read_response().text(), "plain");
}

#[test]
fn an_upgrade_from_a_http_1_0_client_is_ignored() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(UPGRADE.replace("HTTP/1.1", "HTTP/1.0"));
    let request = backend.accept().serve("plain");
    assert!(!request.fields.has("upgrade"), "{request:?}");
    let connection = request
        .fields
        .one("connection")
        .unwrap_or_default()
        .to_lowercase();
    assert!(!connection.contains("upgrade"), "{request:?}");
    assert_eq!(client.read_response().text(), "plain");
}

#[test]
fn upgrade_without_connection_upgrade_is_not_one() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n");
    let request = backend.accept().serve("plain");
    assert!(!request.fields.has("upgrade"), "{request:?}");
    assert_eq!(client.read_response().text(), "plain");
}

#[test]
fn h2c_is_never_forwarded() {
    let (backend, proxy) = scripted();
    let mut wire = None;
    for upgrade in ["h2c", "H2C", "h2c, h2c"] {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        ));
        let wire = wire.get_or_insert_with(|| backend.accept());
        let request = wire.serve("plain");
        assert!(
            !request.fields.has("upgrade") && !request.fields.has("http2-settings"),
            "{request:?}"
        );
        assert_eq!(client.read_response().text(), "plain");
    }
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: x\r\n\r\n");
    let mut wire = wire.take().unwrap();
    let request = wire.serve("plain");
    assert_eq!(
        request.fields.one("upgrade"),
        Some("websocket"),
        "what else was offered stays"
    );
    assert!(!request.fields.has("http2-settings"), "{request:?}");
    client.read_response();
}

#[test]
fn a_tunnel_counts_as_in_flight_while_it_is_open() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("backends.0.max_connections", 1)
        .start();
    let (client, mut wire) = tunnel(&proxy, &backend);
    assert_eq!(proxy.client().get("/").status, 503);
    client.close();
    wire.expect_gone();
    wire.close();
    let mut client = proxy.client();
    client.send(get("/"));
    backend.accept().serve("free");
    assert_eq!(client.read_response().text(), "free");
}

#[test]
fn an_idle_tunnel_ends_at_tunnel_idle() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.tunnel_idle", "300ms")
        .start();
    let (mut client, mut wire) = tunnel(&proxy, &backend);
    let begin = std::time::Instant::now();
    client.expect_gone();
    wire.expect_gone();
    assert!(begin.elapsed() >= std::time::Duration::from_millis(250));
}

#[test]
fn an_upgrade_goes_to_the_next_backend_when_one_is_dead() {
    let dead = crate::support::Refusing::start();
    let backend = Backend::start();
    let proxy = Proxy::over(&[&dead, &backend]).start();
    let (mut client, mut wire) = tunnel(&proxy, &backend);
    client.send("hello");
    assert_eq!(wire.read_exact(5), b"hello");
}

#[test]
fn an_upgrade_without_an_answer_is_refused_when_no_backend_is_left() {
    let origin = Origin::dead("none");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.read_response().status, 502);
}

const UPGRADE_WITH_BODY: &str =
    "POST /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";

#[test]
fn a_switch_waits_until_the_requests_body_has_gone_out() {
    let (backend, proxy) = scripted();
    for (framing, first, rest, body) in [
        ("Content-Length: 10", "hello", "world", "helloworld"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n",
            "5\r\nworld\r\n0\r\n\r\n",
            "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = proxy.client();
        client.send(format!("{UPGRADE_WITH_BODY}{framing}\r\n\r\n{first}"));
        let mut wire = backend.accept();
        while !wire.read_line().is_empty() {}
        // A backend that answers before it has all of it.
        wire.send(format!("{SWITCH}early from the backend"));
        let seen = wire.read_exact(first.len());
        assert_eq!(seen, first.as_bytes());
        // Another exchange's answer shows that the one worker has read what was sent before.
        let mut other = proxy.client();
        other.send(get("/other"));
        backend.accept().serve("other");
        other.read_response();
        client.expect_nothing_yet();
        client.send(format!("{rest}early from the client"));
        assert_eq!(wire.read_exact(rest.len()), body.as_bytes()[first.len()..]);
        assert_eq!(client.read_response().status, 101);
        assert_eq!(client.read_exact(22), b"early from the backend");
        assert_eq!(wire.read_exact(21), b"early from the client");
        wire.send("later");
        assert_eq!(client.read_exact(5), b"later");
    }
}

#[test]
fn a_switch_after_the_whole_request_needs_no_wait() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let body = pattern(100_000);
    client.send(format!(
        "{UPGRADE_WITH_BODY}Content-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.fields.one("upgrade"), Some("websocket"));
    assert!(request.body == body);
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 101);
    client.send("ping");
    assert_eq!(wire.read_exact(4), b"ping");
}

#[test]
fn a_client_that_expects_100_gets_it_before_the_switch() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!(
        "{UPGRADE_WITH_BODY}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    ));
    let mut wire = backend.accept();
    while !wire.read_line().is_empty() {}
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 100);
    client.send("hello");
    assert_eq!(client.read_response().status, 101);
    assert_eq!(wire.read_exact(5), b"hello");
}

#[test]
fn a_switch_that_was_not_asked_for_is_refused_before_the_body_has_come() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    let mut wire = backend.accept();
    while !wire.read_line().is_empty() {}
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 502);
}

#[test]
fn a_body_that_does_not_come_ends_the_wait_for_the_switch() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.client_body", "300ms")
        .start();
    let mut client = proxy.client();
    client.send(format!(
        "{UPGRADE_WITH_BODY}Content-Length: 10\r\n\r\nhello"
    ));
    let mut wire = backend.accept();
    while !wire.read_line().is_empty() {}
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 408);
    assert_eq!(wire.read_until_gone().0, b"hello");
}

#[test]
fn a_426_names_the_protocols_that_it_asks_for() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 426);
    assert_eq!(response.fields.one("upgrade"), Some("websocket"));
    assert_eq!(response.fields.one("connection"), Some("Upgrade"));
    // The connection persists, and is still one of HTTP.
    client.send(get("/next"));
    wire.serve("plain");
    assert_eq!(client.read_response().text(), "plain");
}
