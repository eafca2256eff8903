//! Answers of rondo's own: which status, in which form, and that they arrive.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Client, Origin, Proxy, Refusing, Response};

fn with_origin() -> (Origin, Proxy) {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    (origin, proxy)
}

/// Sends `bytes`, expects `status` and the end of the connection.
#[track_caller]
fn expect_refused(proxy: &Proxy, bytes: impl AsRef<[u8]>, status: u16) -> Response {
    let mut client = proxy.client();
    client.send(&bytes);
    let response = client.read_response();
    let text = String::from_utf8_lossy(bytes.as_ref())
        .chars()
        .take(200)
        .collect::<String>();
    assert_eq!(response.status, status, "{text:?}");
    assert!(response.says_close(), "{text:?}: {response:?}");
    client.half_close();
    client.expect_closed();
    response
}

#[test]
fn what_is_malformed_gets_400_and_reaches_no_backend() {
    let (origin, proxy) = with_origin();
    for bytes in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / \r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1x\r\nHost: a\r\n\r\n",
        "GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "G\u{e4}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ] {
        let response = expect_refused(&proxy, bytes, 400);
        assert_eq!(
            response
                .fields
                .one("content-type")
                .map(|value| value.starts_with("text/plain")),
            Some(true)
        );
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn what_is_not_supported_gets_501_or_505() {
    let (origin, proxy) = with_origin();
    expect_refused(
        &proxy,
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
        501,
    );
    expect_refused(
        &proxy,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    );
    expect_refused(&proxy, "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
    expect_refused(&proxy, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn what_is_too_long_gets_413_414_or_431() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("limits.head_bytes", 2048)
        .set("limits.fields", 10)
        .set("limits.body_bytes", 1000)
        .start();
    let long = "x".repeat(3000);
    expect_refused(
        &proxy,
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        414,
    );
    expect_refused(&proxy, format!("GET /{long}"), 414);
    expect_refused(&proxy, format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n"), 414);
    expect_refused(
        &proxy,
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        431,
    );
    expect_refused(
        &proxy,
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
        431,
    );
    expect_refused(
        &proxy,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10)),
        431,
    );
    expect_refused(
        &proxy,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n",
        413,
    );
    let nearly = "x".repeat(1000);
    assert_eq!(proxy.client().post("/echo", &nearly).text(), nearly);
    let chunks = format!(
        "{}{}",
        "64\r\n".to_owned() + &"x".repeat(100) + "\r\n",
        "0\r\n\r\n"
    );
    let mut client = proxy.client();
    client.send(format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    ));
    assert_eq!(client.read_response().status, 200);
    expect_refused(
        &proxy,
        format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunks.trim_end_matches("0\r\n\r\n").repeat(11)
        ),
        413,
    );
    let fields = "X: y\r\n".repeat(9);
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(client.read_response().status, 200, "exactly at the limit");
}

#[test]
fn an_answer_of_our_own_names_the_status_and_the_request_id() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: the-id-of-the-client\r\n\r\n");
    let response = client.read_response();
    assert_eq!(
        (response.status, response.reason.as_str()),
        (502, "Bad Gateway")
    );
    assert!(
        response.text().contains("502") && response.text().contains("the-id-of-the-client"),
        "{}",
        response.text()
    );
    assert!(response.body.len() < 300);
    assert!(
        response
            .fields
            .one("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(response.fields.has("content-length"));
}

#[test]
fn after_an_answer_of_our_own_to_a_whole_request_the_connection_goes_on() {
    let origin = Origin::dead("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.status, response.says_close()), (502, false));
    }
    let response = client.post("/", "body");
    assert_eq!(
        (response.status, response.says_close()),
        (502, false),
        "its body had come whole"
    );
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.status, response.says_close()), (502, true));
    client.expect_closed();
    origin.revive();
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn an_answer_of_our_own_to_head_has_no_body() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response_to("HEAD").status, 502);
    }
    assert_eq!(client.get("/").status, 502, "in step");
}

#[test]
fn an_answer_of_our_own_to_http_1_0_ends_the_connection() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.read_response().status, 502);
    client.expect_closed();
}

/// Sends on and on as a client that does not look, then reads.
#[track_caller]
fn send_on(client: &mut Client, bytes_max: usize) {
    for _ in 0..bytes_max / 16_384 {
        if !client.try_send(vec![b'x'; 16_384]) {
            return;
        }
    }
}

#[test]
fn an_answer_arrives_although_the_client_is_still_sending() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("limits.body_bytes", 1000)
        .start();
    for (head, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n",
            413,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 900000\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/3.0\r\nHost: a\r\nContent-Length: 900000\r\n\r\n",
            505,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n",
            413,
        ),
    ] {
        for _ in 0..3 {
            let mut client = proxy.client();
            client.send(head);
            // Less than the mebibyte that is drained, so that no reset can overtake the answer.
            send_on(&mut client, 800_000);
            let response = client.read_response();
            assert_eq!((response.status, response.says_close()), (status, true));
            client.half_close();
            client.expect_closed();
        }
    }
}

#[test]
fn a_client_that_never_stops_sending_is_cut_in_the_end() {
    let (_origin, proxy) = with_origin();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    // A mebibyte is drained at most; what the kernel's buffers hold on the way comes on top of it.
    let mut sent: usize = 0;
    while client.try_send(vec![b'x'; 65_536]) {
        sent += 65_536;
        assert!(sent < 200 << 20, "drained without end");
    }
}

#[test]
fn no_connection_to_any_backend_is_502() {
    let dead: [Refusing; 2] = [Refusing::start(), Refusing::start()];
    let proxy = Proxy::over(&[&dead[0], &dead[1]]).start();
    assert_eq!(proxy.client().get("/").status, 502);
}

#[test]
fn an_answer_that_cannot_be_forwarded_is_502() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(20_000)
    );
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n",
        "X: y\r\n".repeat(101)
    );
    for answer in [
        "nonsense\r\n\r\n",
        "SSH-2.0-OpenSSH_9.0\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        &long,
        &many,
    ] {
        let backend = Backend::start();
        let proxy = Proxy::over(&[&backend]).start();
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.try_send(answer);
        wire.half_close();
        let response = client.read_response();
        let shown: String = answer.chars().take(80).collect();
        assert_eq!(
            (response.status, response.says_close()),
            (502, false),
            "{shown:?}"
        );
        wire.read_until_gone();
    }
}

#[test]
fn a_mistake_costs_only_its_own_connection() {
    let (origin, proxy) = with_origin();
    let mut good = proxy.client();
    assert_eq!(good.get("/").status, 200);
    for _ in 0..50 {
        expect_refused(&proxy, "nonsense\r\n\r\n", 400);
    }
    assert_eq!(good.get("/").status, 200);
    proxy.expect_no_event(&[&origin.name(), "is down"]);
}

#[test]
fn answers_of_our_own_have_a_date() {
    let (_origin, proxy) = with_origin();
    let response = expect_refused(&proxy, "GET / HTTP/1.1\r\n\r\n", 400);
    let date = response.fields.one("date").unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    assert!(proxy.client().get("/").fields.has("date"));
}

#[test]
fn what_may_go_no_further_is_answered_here() {
    let (origin, proxy) = with_origin();
    let mut client = proxy.client();
    for target in ["*", "/x"] {
        client.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"
        ));
        let response = client.read_response();
        assert_eq!((response.status, response.body.len()), (200, 0));
        assert_eq!(response.fields.one("content-length"), Some("0"));
        assert!(response.fields.has("allow") && response.fields.has("date"));
        assert!(!response.says_close(), "the request was read to its end");
    }
    client.send("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nCookie: secret\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 405);
    assert!(!response.text().contains("secret"));
    let allowed = response.fields.one("allow").unwrap();
    assert!(
        allowed.contains("GET") && !allowed.contains("TRACE"),
        "{allowed}"
    );
    // With a body that has come, and with one that has not.
    client.send("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.requests(), 0);
    assert_eq!(client.get("/").text(), "one");
    client.send("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 2\r\n\r\n");
    let response = client.read_response();
    assert!(
        response.status == 200 && response.says_close(),
        "{response:?}"
    );
    assert_eq!(origin.requests(), 1);
    expect_refused(
        &proxy,
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n",
        400,
    );
    let line = proxy.wait_for_access("TRACE / HTTP/1.1");
    assert!(line.contains(" 405 ") && line.contains(" - 0 "), "{line}");
}
