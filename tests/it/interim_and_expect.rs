//! 1xx answers and `Expect: 100-continue`, which must never make two sides wait for each other.

use crate::support::client::get;
use crate::support::{Backend, Proxy};

fn scripted() -> (Backend, Proxy) {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    (backend, proxy)
}

const EXPECTING: &str =
    "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn interim_answers_pass_in_order() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.css>\r\n\r\n");
    let hints = client.read_response();
    assert_eq!(
        (hints.status, hints.fields.all("link").len()),
        (103, 2),
        "it passes before the final one exists"
    );
    wire.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let statuses: Vec<u16> = (0..3).map(|_| client.read_response().status).collect();
    assert_eq!(statuses, [102, 199, 200]);
    client.send(get("/next"));
    wire.serve("in step");
    assert_eq!(client.read_response().text(), "in step");
}

#[test]
fn interim_answers_lose_their_hop_by_hop_fields() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 103 Early Hints\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nLink: <a>\r\n\r\n");
    let hints = client.read_response();
    assert!(
        !hints.fields.has("connection")
            && !hints.fields.has("x-gone")
            && !hints.fields.has("keep-alive")
    );
    assert!(hints.fields.has("link"));
    wire.answer("ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn interim_answers_never_reach_a_http_1_0_client() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.read_response().status, 200);
    client.expect_closed();
}

#[test]
fn an_endless_train_of_interim_answers_ends() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.response_head", "400ms")
        .start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    // The time for the head is for the final one: no interim answer renews it.
    let begin = std::time::Instant::now();
    while wire.try_send("HTTP/1.1 103 Early Hints\r\n\r\n") && !client.drain_input() {
        assert!(begin.elapsed() < crate::support::PATIENCE, "it has no end");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    wire.close();
    let mut client = proxy.client();
    client.send(get("/"));
    backend.accept().serve("still serving");
    assert_eq!(client.read_response().text(), "still serving");
}

#[test]
fn a_flood_of_interim_answers_delays_no_other_client() {
    let (backend, proxy) = scripted();
    let mut flooded = proxy.client();
    // To a client of HTTP/1.0 none of them is passed on: it does not slow them down.
    flooded.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2000);
    let flooding = std::thread::spawn(move || while wire.try_send(&flood) {});
    for number in 0..3 {
        let mut client = proxy.client();
        client.send(get("/"));
        backend.accept().serve(&format!("{number}"));
        assert_eq!(client.read_response().text(), format!("{number}"));
    }
    flooded.close();
    flooding.join().unwrap();
}

#[test]
fn no_100_of_ours_comes_once_the_answer_has_begun() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(EXPECTING);
    let mut wire = backend.accept();
    wire.expect_request_head();
    wire.send("HTTP/1.1 413 Too Long\r\nContent-Length: 4\r\n\r\nno");
    // Longer than a client waits for a 100 before we make one.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    wire.send("no");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (413, "nono"));
    assert!(response.says_close(), "the body may come or not");
    client.expect_closed();
}

#[test]
fn a_backends_own_100_is_not_followed_by_one_of_ours() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(EXPECTING);
    let mut wire = backend.accept();
    wire.expect_request_head();
    wire.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    client.send("hello");
    assert_eq!(wire.read_exact(5), b"hello");
    wire.answer("ok");
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn a_client_that_waits_for_100_gets_it_and_its_answer() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(EXPECTING);
        let mut wire = backend.accept_or(None);
        let request = wire.expect_request_head();
        if request.fields.has("expect") {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        assert_eq!(client.read_response().status, 100);
        client.send("hello");
        assert_eq!(wire.read_exact(5), b"hello");
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "ok"),
            "exactly one 100 before it"
        );
    }
}

#[test]
fn a_backend_that_never_says_100_does_not_lock_up_a_client_that_waits_for_it() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(EXPECTING);
    let mut wire = backend.accept();
    wire.expect_request_head();
    // The backend waits for the body, the client for a 100: one of the two must go on.
    assert_eq!(client.read_response().status, 100);
    client.send("hello");
    assert_eq!(wire.read_exact(5), b"hello");
    wire.answer("ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn a_client_that_does_not_wait_for_100_is_served() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!("{EXPECTING}hello"));
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.body, b"hello");
    wire.answer("ok");
    let mut response = client.read_response();
    if response.status == 100 {
        response = client.read_response();
    }
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    client.send(get("/next"));
    wire.serve("in step");
    assert_eq!(client.read_response().text(), "in step");
}

#[test]
fn a_final_answer_instead_of_100_reaches_the_client() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(EXPECTING);
    let mut wire = backend.accept();
    wire.expect_request_head();
    wire.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno");
    let mut response = client.read_response();
    if response.status == 100 {
        // Sent by the proxy before the answer was there.
        response = client.read_response();
    }
    assert_eq!((response.status, response.text().as_str()), (417, "no"));
    // The body may come after all: whatever the client does now, what it sends is a body or a request, never both.
    if response.says_close() {
        client.half_close();
        client.expect_closed();
    } else {
        client.send(format!("hello{}", get("/next")));
        let mut wire = backend.accept_or(Some(wire));
        assert_eq!(wire.serve("in step").target, "/next");
        assert_eq!(client.read_response().text(), "in step");
    }
}

#[test]
fn expect_from_a_http_1_0_client_is_ignored() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(
        "POST /up HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    );
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.body, b"hello");
    wire.answer("ok");
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn the_next_backend_may_be_asked_while_the_client_still_waits_for_100() {
    let dead = crate::support::Refusing::start();
    let backend = Backend::start();
    let proxy = Proxy::over(&[&dead, &backend]).start();
    let mut client = proxy.client();
    client.send(EXPECTING);
    let mut wire = backend.accept();
    if wire.expect_request_head().fields.has("expect") {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    assert_eq!(client.read_response().status, 100);
    client.send("hello");
    assert_eq!(wire.read_exact(5), b"hello");
    wire.answer("ok");
    assert_eq!(client.read_response().text(), "ok");
}
