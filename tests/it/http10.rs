//! HTTP/1.0 on either side.

use crate::support::{Addressed, Backend, Origin, Proxy, Wire};

fn scripted() -> (Backend, Proxy) {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    (backend, proxy)
}

#[test]
fn a_request_without_host_gets_the_backends_authority() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET /path HTTP/1.0\r\n\r\n");
    let request = backend.accept().serve("ok");
    assert_eq!(
        request.fields.one("host"),
        Some(backend.address().to_string().as_str())
    );
    assert_eq!(
        (request.version.as_str(), request.target.as_str()),
        ("HTTP/1.1", "/path")
    );
    let response = client.read_response();
    assert_eq!(
        (response.version.as_str(), response.text().as_str()),
        ("HTTP/1.1", "ok")
    );
    client.expect_closed();
}

#[test]
fn a_host_that_is_there_is_kept() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: mine.test\r\n\r\n");
    assert_eq!(
        backend.accept().serve("ok").fields.one("host"),
        Some("mine.test")
    );
    client.read_response();
}

#[test]
fn keep_alive_is_granted_and_said() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let response = client.read_response();
        let connection = response.fields.one("connection").map(str::to_lowercase);
        assert_eq!(
            (response.status, connection.as_deref()),
            (200, Some("keep-alive"))
        );
    }
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    client.expect_closed();
}

#[test]
fn chunks_are_taken_off_and_the_end_is_the_connections() {
    let (backend, proxy) = scripted();
    for keep_alive in ["", "Connection: keep-alive\r\n"] {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.0\r\nHost: a\r\n{keep_alive}\r\n"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
        );
        let response = client.read_response();
        assert!(!response.fields.has("transfer-encoding"), "{response:?}");
        assert_eq!(response.text(), "hello world");
        let connection = response
            .fields
            .one("connection")
            .unwrap_or("close")
            .to_lowercase();
        assert_eq!(connection, "close", "nothing else ends this body");
    }
}

#[test]
fn a_backends_http_1_0_answer_without_length_ends_with_its_connection() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold but good");
    wire.close();
    assert_eq!(client.read_response().text(), "old but good");
}

#[test]
fn a_backends_http_1_0_connection_is_reused_only_if_it_says_so() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut exchange = |wire: Option<Wire>, connection: &str| {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut wire = wire.unwrap_or_else(|| backend.accept());
        wire.expect_request();
        wire.send(format!(
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n{connection}\r\nok"
        ));
        assert_eq!(client.read_response().text(), "ok");
        wire
    };
    let mut wire = exchange(None, "");
    wire.expect_gone();
    let kept = exchange(None, "Connection: keep-alive\r\n");
    exchange(Some(kept), "");
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    client.expect_closed();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn transfer_encoding_in_a_http_1_0_answer_is_502() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status, 502);
    wire.expect_gone();
}

#[test]
fn a_body_of_known_length_passes() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.read_response().text(), "hello");
    client.expect_closed();
}

#[test]
fn the_received_version_stands_in_via() {
    let (backend, proxy) = scripted();
    let mut wire = None;
    for version in ["1.0", "1.1"] {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        let wire = wire.get_or_insert_with(|| backend.accept());
        let request = wire.serve("ok");
        assert!(
            request
                .fields
                .one("via")
                .unwrap()
                .starts_with(&format!("{version} ")),
            "{request:?}"
        );
        client.read_response();
    }
}
