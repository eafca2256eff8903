//! `backends[].lenient`: toy and old origins that end lines as they like, and how one without the setting learns of it.

use crate::support::client::get;
use crate::support::{Backend, Proxy};

const HINT: &str = "(backends[].lenient would accept it)";

#[test]
fn the_answers_of_a_lenient_backend_are_understood_and_rewritten() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.lenient", true)
        .start();
    let mut client = proxy.client();
    let mut wire = None;
    // Over one connection: what is sloppy still ends exactly. The client's reader is as strict as ever.
    for (answer, body) in [
        (
            "HTTP/1.1 200 OK\nContent-Length: 5\nX-A: b\n\nhello",
            "hello",
        ),
        (
            "\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
        ),
        (
            "HTTP/1.1 103 Early\n\n\nHTTP/1.1 200 OK\nX-A: b\nTransfer-Encoding: chunked\n\n5 \nhello\n1\t\r\n!\r\n0\n\n",
            "hello!",
        ),
    ] {
        client.send(get("/"));
        let wire = wire.get_or_insert_with(|| backend.accept());
        wire.expect_request();
        wire.send(answer);
        let mut response = client.read_response();
        if response.status == 103 {
            response = client.read_response();
        }
        assert_eq!((response.status, response.text().as_str()), (200, body));
        assert_eq!(response.fields.one("x-a"), Some("b"));
    }
    backend.expect_no_connection();
}

#[test]
fn where_the_setting_would_help_the_log_says_so() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.name", "old")
        .start();
    for (target, answer, reason) in [
        ("/lf", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare LF"),
        (
            "/empty",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "an empty line before the status line",
        ),
    ] {
        let mut client = proxy.client();
        client.send(get(target));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(answer);
        assert_eq!(client.read_response().status, 502);
        let line = proxy.wait_for_access(target);
        assert!(line.contains(&format!("{reason} {HINT}")), "{line}");
    }
    proxy.wait_for_event(&["old", "/lf", "bare LF", HINT]);
    assert_eq!(
        proxy.events_with(&["is down"]),
        0,
        "it is no failure of the backend"
    );
}

#[test]
fn where_the_setting_would_help_a_body_the_log_says_so() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/chunk"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n");
    let (bytes, _) = client.read_until_gone();
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "it must not look complete");
    proxy.wait_for_event(&["/chunk", "white space behind a chunk size", HINT]);
}

#[test]
fn a_lenient_backend_still_has_one_framing() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.lenient", true)
        .start();
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok!",
        "HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\nok",
    ] {
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(answer);
        assert_eq!(client.read_response().status, 502, "{answer:?}");
        wire.expect_gone();
    }
}
