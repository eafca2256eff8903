//! Connections that serve more than one request, on both sides.

use crate::support::client::{get, post};
use crate::support::{Addressed, Backend, Client, Origin, Proxy, Wire, eventually};

#[test]
fn many_requests_share_one_connection_on_both_sides() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for _ in 0..50 {
        let response = client.get("/");
        assert_eq!((response.status, response.says_close()), (200, false));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_backend_connection_serves_one_client_after_another() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).one_worker().start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&[&origins[0], &origins[1], &origins[2]]).start();
    let mut client = proxy.client();
    client.send(
        (0..60)
            .map(|number| get(&format!("/{number}")))
            .collect::<String>(),
    );
    for number in 0..60 {
        let response = client.read_response();
        assert_eq!(
            response.fields.one("x-origin"),
            Some(format!("origin-{}", number % 3).as_str())
        );
    }
    let targets: Vec<String> = origins[1]
        .seen()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(
        targets,
        (0..20)
            .map(|turn| format!("/{}", turn * 3 + 1))
            .collect::<Vec<_>>()
    );
}

#[test]
fn pipelined_requests_with_bodies_keep_their_bodies() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    let mut bytes = post("/echo", b"first");
    bytes.extend_from_slice(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3\r\nond\r\n0\r\n\r\n");
    bytes.extend_from_slice(get("/").as_bytes());
    bytes.extend_from_slice(&post("/echo", b""));
    bytes.extend_from_slice(&post("/echo", b"last"));
    client.send(bytes);
    let texts: Vec<String> = (0..5).map(|_| client.read_response().text()).collect();
    assert_eq!(texts, ["first", "second", "one", "", "last"]);
}

#[test]
fn a_pipelined_mistake_is_answered_after_what_came_before_it_and_ends_the_connection() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send(get("/") + &get("/") + "GET / HTTP/1.1\r\nHost : a\r\n\r\n" + &get("/never"));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(client.read_response().status, 200);
    let mistake = client.read_response();
    assert_eq!((mistake.status, mistake.says_close()), (400, true));
    client.expect_closed();
    assert_eq!(origin.requests(), 2);
}

#[test]
fn pipelined_requests_are_answered_in_order_when_one_in_the_middle_fails() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("timeouts.response_head", "300ms")
        .start();
    // What the backend does with the second request: an answer of no sense, none at all, none in time.
    for (what, status) in [("garbage", 502), ("end", 502), ("silence", 504)] {
        let mut client = proxy.client();
        let mut bytes = get("/first").into_bytes();
        bytes.extend_from_slice(&post("/second", b"its body"));
        bytes.extend_from_slice(&post("/third", b"another"));
        bytes.extend_from_slice(get("/fourth").as_bytes());
        client.send(bytes);
        let mut wire = backend.accept();
        wire.serve("1");
        assert_eq!(wire.expect_request().body, b"its body");
        // Kept until the client has its answer, where the backend only is silent.
        let held = match what {
            "garbage" => {
                wire.send("HTTP/9.9 what\r\n\r\n");
                Some(wire)
            }
            "end" => {
                wire.close();
                None
            }
            _ => Some(wire),
        };
        assert_eq!(client.read_response().text(), "1", "{what}");
        let response = client.read_response();
        assert_eq!(
            (response.status, response.says_close()),
            (status, false),
            "{what}: it was read to its end"
        );
        let mut wire = backend.accept();
        let request = wire.serve("3");
        assert_eq!(
            (request.target.as_str(), &request.body[..]),
            ("/third", &b"another"[..])
        );
        wire.serve("4");
        assert_eq!(client.read_response().text(), "3", "{what}");
        assert_eq!(client.read_response().text(), "4", "{what}");
        drop((held, wire));
        client.close();
    }
}

#[test]
fn a_request_is_read_however_it_is_cut() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    let bytes = post("/echo", b"body");
    for at in 1..bytes.len() {
        client.send_split(&bytes, at);
        assert_eq!(client.read_response().text(), "body", "cut at {at}");
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("\r\n\r\n");
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn close_from_the_client_is_honoured_and_said() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    for value in ["close", "Close", "keep-alive, close", "x-other,  CLOSE "] {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n{}",
            get("/never")
        ));
        let response = client.read_response();
        assert_eq!(
            (response.status, response.says_close()),
            (200, true),
            "{value}"
        );
        client.expect_closed();
    }
    assert!(origin.seen().iter().all(|request| request.target == "/"));
}

#[test]
fn only_the_whole_word_close_means_close() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for value in ["disclose", "close-not", "x-close"] {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n"
        ));
        let response = client.read_response();
        assert_eq!(
            (response.status, response.says_close()),
            (200, false),
            "{value}"
        );
    }
}

#[test]
fn a_backend_that_says_close_is_not_asked_again_on_that_connection() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    client.send(get("/1"));
    let mut first = backend.accept();
    first.expect_request();
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\none");
    let response = client.read_response();
    assert_eq!(
        (response.text().as_str(), response.says_close()),
        ("one", false),
        "its word is for one hop"
    );
    first.expect_gone();
    client.send(get("/2"));
    backend.accept().serve("two");
    assert_eq!(client.read_response().text(), "two");
}

#[test]
fn bytes_beyond_a_response_never_reach_a_client() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    client.send(get("/1"));
    let mut first = backend.accept();
    first.expect_request();
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    assert_eq!(client.read_response().text(), "one");
    client.send(get("/2"));
    let mut second = backend.accept();
    second.serve("two");
    assert_eq!(client.read_response().text(), "two");
    first.expect_gone();
}

#[test]
fn bytes_on_an_idle_backend_connection_discard_it() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    client.send(get("/1"));
    let mut first = backend.accept();
    first.serve("one");
    assert_eq!(client.read_response().text(), "one");
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    first.expect_gone();
    client.send(get("/2"));
    backend.accept().serve("two");
    assert_eq!(client.read_response().text(), "two");
}

#[test]
fn an_idle_backend_connection_that_ended_costs_nothing_not_even_a_post() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    for round in 0..20 {
        client.send(post("/", b"body"));
        let mut wire = backend.accept();
        assert_eq!(wire.serve("ok").body, b"body", "round {round}");
        assert_eq!(client.read_response().status, 200, "round {round}");
        wire.half_close();
        // The proxy closes its side as soon as it sees the end; only then the next request is sent.
        wire.expect_gone();
    }
}

#[test]
fn an_unused_backend_connection_is_closed_after_backend_idle() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.backend_idle", "150ms")
        .start();
    let mut client = proxy.client();
    client.send(get("/1"));
    let mut first = backend.accept();
    first.serve("one");
    assert_eq!(client.read_response().text(), "one");
    first.expect_closed();
    client.send(get("/2"));
    backend.accept().serve("two");
    assert_eq!(client.read_response().text(), "two");
}

#[test]
fn no_more_idle_backend_connections_are_kept_than_allowed_and_the_last_is_used_first() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("limits.idle_backend_connections", 2)
        .set("timeouts.backend_idle", "1h")
        .start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    let mut wires = Vec::new();
    for client in &mut clients {
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wires.push(wire);
    }
    for (client, wire) in clients.iter_mut().zip(&mut wires) {
        wire.answer("ok");
        assert_eq!(client.read_response().text(), "ok");
    }
    // The third finds no place.
    wires.pop().unwrap().expect_closed();
    clients[0].send(get("/"));
    wires[1].serve("last in");
    assert_eq!(clients[0].read_response().text(), "last in");
}

#[test]
fn a_response_without_length_does_not_end_a_http_1_1_client_connection_unmarked() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/1"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    wire.close();
    let response = client.read_response();
    assert_eq!(response.text(), "until the end");
    if response.fields.has("transfer-encoding") {
        client.send(get("/2"));
        backend.accept().serve("two");
        assert_eq!(client.read_response().text(), "two");
    } else {
        assert!(response.says_close(), "{response:?}");
        client.expect_closed();
    }
}

#[test]
fn head_and_answers_without_body_leave_the_connection_in_step() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    client.send("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    assert_eq!(wire.expect_request().method, "HEAD");
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: x\r\n\r\n");
    let response = client.read_response_to("HEAD");
    assert_eq!(response.fields.one("content-length"), Some("1000"));
    client.send(get("/2"));
    wire.expect_request();
    wire.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n");
    let response = client.read_response();
    assert_eq!(
        (response.status, response.fields.one("content-length")),
        (304, Some("1000"))
    );
    client.send(get("/3"));
    wire.expect_request();
    wire.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.read_response().status, 204);
    client.send("HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.read_response_to("HEAD").status, 200);
    client.send(get("/5"));
    wire.serve("still in step");
    assert_eq!(client.read_response().text(), "still in step");
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_its_backend() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.max_connections", 1)
        .start();
    for leave in [Client::reset, Client::close] {
        let (client, mut wire) = occupy(&proxy, &backend);
        leave(client);
        // The connection is given up (a half-closed client gets 2 s more), and so is the only place.
        wire.expect_gone();
    }
    let (mut client, mut wire) = occupy(&proxy, &backend);
    wire.answer("free");
    assert_eq!(client.read_response().text(), "free");
    proxy.expect_no_event(&[&backend.name(), "is down"]);
}

/// Sends a request as soon as there is a place for it, and takes it in at the backend.
fn occupy(proxy: &Proxy, backend: &Backend) -> (Client, Wire) {
    let mut client = proxy.client();
    loop {
        client.send(get("/"));
        eventually("an answer or a request", || {
            client.has_input() || backend.has_connection()
        });
        if !client.has_input() {
            break;
        }
        // The end of the last connection was seen before its place was given back.
        assert_eq!(client.read_response().status, 503);
    }
    let mut wire = backend.accept();
    wire.expect_request();
    (client, wire)
}

#[test]
fn a_client_that_closes_its_sending_side_still_gets_its_answer() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/"));
    client.half_close();
    let mut wire = backend.accept();
    wire.serve("in time");
    assert_eq!(client.read_response().text(), "in time");
    client.expect_closed();
}

#[test]
fn pipelined_requests_before_a_half_close_are_all_answered() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send(get("/1").repeat(5));
    client.half_close();
    for _ in 0..5 {
        assert_eq!(client.read_response().status, 200);
    }
    client.expect_closed();
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_head_reaches_no_backend() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    client.half_close();
    let (bytes, _) = client.read_until_gone();
    // A word about it or none; an answer as if it had been a request never.
    assert!(
        bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400"),
        "{:?}",
        String::from_utf8_lossy(&bytes)
    );
    assert_eq!(origin.connections(), 0);
}
