//! Content that ends before its end: never mistaken for complete, and never for a message of its own.

use crate::bodies::{UPLOAD, scripted};
use crate::support::client::get;
use crate::support::{Backend, Client, End, Origin, Proxy, Response, chunked};
use std::sync::{Arc, Mutex};

#[track_caller]
fn expect_broken(client: &mut Client, received: &str) {
    let (bytes, _) = client.read_until_gone();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains(received) || received.is_empty(), "{text:?}");
    assert!(!text.ends_with("0\r\n\r\n"), "looks complete: {text:?}");
}

#[test]
fn a_response_that_breaks_off_is_seen_as_broken() {
    let (backend, proxy) = scripted();
    for (head, body) in [
        ("Content-Length: 10\r\n", "12345"),
        ("Transfer-Encoding: chunked\r\n", "a\r\n12345"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n0\r\n"),
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\n12345\r\nnonsense\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\n12345678\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
        assert_eq!(client.read_response_head().status, 200);
        wire.send(body);
        wire.close();
        // What came before a mistake in the same breath may be lost, what came before an end not.
        let truncated = !body.contains("nonsense") && !body.contains("678");
        expect_broken(&mut client, if truncated { "12345" } else { "" });
    }
}

#[test]
fn a_response_without_length_that_ends_in_a_reset_is_seen_as_broken() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\n\r\n12345");
    let response = client.read_response_head();
    if response.fields.has("transfer-encoding") {
        assert_eq!(client.read_chunks(5), b"12345");
        wire.reset();
        expect_broken(&mut client, "");
    } else {
        assert_eq!(client.read_exact(5), b"12345");
        wire.reset();
        assert_eq!(client.read_until_gone().1, End::Reset);
    }
}

#[test]
fn a_http_1_0_client_sees_a_broken_response_as_broken() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n");
    client.read_response_head();
    assert_eq!(client.read_exact(5), b"12345");
    wire.close();
    // Its body ends with the connection: nothing but a reset tells it that this end is not the right one.
    assert_eq!(client.read_until_gone().1, End::Reset);
}

#[test]
fn an_upload_that_breaks_off_never_looks_complete_to_the_backend() {
    let (backend, proxy) = scripted();
    for (head, body) in [
        ("Content-Length: 10", "12345"),
        ("Transfer-Encoding: chunked", "5\r\n12345\r\n"),
    ] {
        for reset in [false, true] {
            let mut client = proxy.client();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}"
            ));
            let mut wire = backend.accept();
            wire.expect_request_head();
            if head.starts_with('C') {
                wire.read_exact(5);
            } else {
                wire.read_chunks(5);
            }
            if reset {
                client.reset();
            } else {
                client.close();
            }
            let (rest, _) = wire.read_until_gone();
            assert_eq!(String::from_utf8_lossy(&rest), "", "{head}");
        }
    }
    let mut client = proxy.client();
    client.send(get("/after"));
    backend.accept().serve("still serving");
    assert_eq!(client.read_response().text(), "still serving");
}

#[test]
fn a_bad_chunk_from_the_client_cuts_the_backend_and_gets_400() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!("{UPLOAD}5\r\nhello\r\n"));
    let mut wire = backend.accept();
    wire.expect_request_head();
    assert_eq!(wire.read_chunks(5), b"hello");
    client.send("5\r\nhello7\r\n");
    let response = client.read_response();
    assert_eq!((response.status, response.says_close()), (400, true));
    let (rest, _) = wire.read_until_gone();
    assert!(
        !String::from_utf8_lossy(&rest).contains("0\r\n\r\n"),
        "never complete"
    );
}

/// Sends `part` without end until the proxy answers or hangs up; gives what it answered.
#[track_caller]
fn send_endlessly(client: &mut Client, begin: &str, part: &str) -> Response {
    let many = part.repeat(1000);
    client.send(begin);
    let mut sent = 0;
    while !client.has_input() && client.try_send(&many) {
        sent += many.len();
        assert!(sent < 64 << 20, "{part:?} has no end");
    }
    client.read_response()
}

#[test]
fn endless_chunk_extensions_and_trailers_of_a_request_end() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    for (begin, part, statuses) in [
        ("5;", "a", [400, 400]),
        ("5;a=\"", "b", [400, 400]),
        // Each short by itself, and more overhead than content for ever.
        ("", "1;aaaaaaaaaaaaaaaa\r\nx\r\n", [400, 413]),
        ("0\r\n", "X-Trailer: y\r\n", [400, 431]),
        ("0\r\nX-Trailer: ", "y", [400, 431]),
        ("00000000", "0", [400, 400]),
    ] {
        let mut client = proxy.client();
        let response = send_endlessly(&mut client, &format!("{UPLOAD}{begin}"), part);
        assert!(
            statuses.contains(&response.status),
            "{begin:?} {part:?}: {response:?}"
        );
        assert!(response.says_close());
    }
    assert_eq!(origin.requests(), 0, "none of them was ever whole");
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn endless_chunk_extensions_and_trailers_of_a_response_end() {
    for (begin, part) in [
        ("5;", "a"),
        ("0\r\n", "X-Trailer: y\r\n"),
        ("0\r\nX-Trailer: ", "y"),
        ("0000", "0"),
    ] {
        let (backend, proxy) = scripted();
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        assert_eq!(client.read_response_head().status, 200);
        assert_eq!(client.read_chunks(2), b"ok");
        let many = part.repeat(1000);
        wire.send(begin);
        let mut sent = 0;
        while wire.try_send(&many) {
            sent += many.len();
            assert!(sent < 64 << 20, "{part:?} has no end");
        }
        expect_broken(&mut client, "");
    }
}

#[test]
fn an_early_answer_reaches_the_client_and_ends_the_upload() {
    let (backend, proxy) = scripted();
    for keep in [true, false] {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nbegin");
        let mut wire = backend.accept();
        wire.expect_request_head();
        wire.read_exact(5);
        wire.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!",
        );
        if !keep {
            wire.half_close();
        }
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str()), (413, "big!"));
    }
}

#[test]
fn an_early_answer_arrives_although_the_backend_resets_what_is_still_sent() {
    for _ in 0..5 {
        let (backend, proxy) = scripted();
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nbegin");
        let mut wire = backend.accept();
        wire.expect_request_head();
        wire.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!",
        );
        // Closed with unread input: the kernel sends a reset after the answer.
        wire.close();
        while client.try_send(vec![b'x'; 65_536]) && client.received().is_empty() {
            if client.has_input() {
                break;
            }
        }
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str()), (413, "big!"));
    }
}

#[test]
fn the_rest_of_an_upload_after_an_early_answer_is_never_a_request() {
    const BODY: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = format!("Content-Length: {}", BODY.len());
    for framing in [length.as_str(), "Transfer-Encoding: chunked"] {
        let targets = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&targets);
        let backend = Backend::start().run(move |_, mut wire| {
            while let Some(request) = wire.next_request_head() {
                seen.lock().unwrap().push(request.target.clone());
                wire.answer("answer");
                // Its body comes after the answer, or never.
                if !wire.pass_over_body(&request) {
                    return;
                }
            }
        });
        let proxy = Proxy::over(&[&backend]).one_worker().start();
        let mut client = proxy.client();
        client.send(format!(
            "POST /early HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"
        ));
        let early = client.read_response();
        assert_eq!(early.text(), "answer");
        // Now the body, which looks like a request, and a true request behind it.
        let body = match framing {
            "Transfer-Encoding: chunked" => chunked(BODY.as_bytes(), 20),
            _ => BODY.as_bytes().to_vec(),
        };
        client.try_send([&body, get("/true").as_bytes()].concat());
        if !early.says_close() {
            // The connection goes on, so the body was taken for what it is.
            assert_eq!(client.read_response().text(), "answer");
        }
        for _ in 0..3 {
            assert_eq!(proxy.client().get("/later").text(), "answer");
        }
        let mut targets = targets.lock().unwrap().clone();
        targets.retain(|target| target != "/true");
        assert_eq!(targets, ["/early", "/later", "/later", "/later"]);
    }
}
