//! A failed exchange leaves its backend and its cause: in its access line, and in an event line that traffic cannot repeat
//! at will.

use crate::support::backend::Running;
use crate::support::client::{get, post};
use crate::support::{Addressed, Backend, Origin, Proxy, Refusing, Unreachable, Wire};

/// The reason at the end of an access line.
fn reason(line: &str) -> &str {
    let behind = line.rsplit("HTTP/1.1\" ").next().unwrap();
    behind.splitn(7, ' ').nth(6).unwrap()
}

fn answering(answer: &'static str) -> Running {
    Backend::start().run(move |_, mut wire| {
        wire.expect_request_head();
        if answer == "silence" {
            wire.expect_gone();
        } else {
            wire.try_send(answer);
        }
    })
}

#[test]
fn each_failure_of_a_backend_leaves_its_status_its_backend_and_its_cause() {
    let (refusing, unreachable) = (Refusing::start(), Unreachable::start());
    let cases: [(&dyn Addressed, u16, &str, &str); 7] = [
        (&refusing, 502, "connect failed", "Connection refused"),
        (&unreachable, 504, "connect timed out", " timed out"),
        (
            &answering(""),
            502,
            "ended before it answered",
            "it closed the connection before a response head",
        ),
        (
            &answering("HTTP/1.1 200 OK\r\nConte"),
            502,
            "ended before it answered",
            "it closed the connection before a response head",
        ),
        (
            &answering("HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n"),
            502,
            "bare LF (backends[].lenient would accept it)",
            "its response head is refused: bare LF (backends[].lenient would accept it)",
        ),
        (
            &answering("220 mail.example ESMTP\r\n"),
            502,
            "its answer is not HTTP",
            "its answer is not HTTP",
        ),
        (
            &answering("silence"),
            504,
            "no response head in time",
            "no response head in time",
        ),
    ];
    for (backend, status, words, cause) in cases {
        for request in [get("/x"), String::from_utf8(post("/x", b"")).unwrap()] {
            let proxy = Proxy::over(&[backend])
                .set("timeouts.connect", "100ms")
                .set("timeouts.response_head", "100ms")
                .start();
            let mut client = proxy.client();
            client.send(&request);
            assert_eq!(client.read_response().status, status, "{words}");
            let line = proxy.wait_for_access(" /x ");
            assert_eq!(reason(&line), format!("\"{words}\""));
            assert!(line.contains(&format!(" {} 1 ", backend.name())), "{line}");
            let method = &request[..request.find(' ').unwrap()];
            let event = format!("backend {:?}: {status} for {method} /x: ", backend.name());
            proxy.wait_for_event(&["WARN", &event, cause]);
        }
    }
}

#[test]
fn with_no_backend_left_the_last_failure_is_the_cause() {
    let (dead, dying) = (Refusing::start(), answering(""));
    let proxy = Proxy::over(&[&dead, &dying]).start();
    assert_eq!(proxy.client().get("/x").status, 502);
    let line = proxy.wait_for_access("GET /x ");
    assert!(line.contains(&format!(" {} 2 ", dying.name())), "{line}");
    assert_eq!(reason(&line), "\"ended before it answered\"");
    proxy.wait_for_event(&[&dying.name(), "502 for GET /x: it closed"]);
    assert_eq!(proxy.events_with(&[&dead.name(), "502 for"]), 0);
}

#[test]
fn a_request_that_no_backend_may_take_leaves_its_reason_too() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).set("backends.0.weight", 0).start();
    assert_eq!(proxy.client().get("/x").status, 503);
    let line = proxy.wait_for_access("GET /x ");
    assert!(line.contains(" - 0 "), "{line}");
    assert_eq!(reason(&line), "\"no backend may take it\"");
    proxy.wait_for_event(&["503 for GET /x: no backend may take it"]);
}

#[test]
fn what_the_client_did_is_in_the_access_line_and_makes_no_event() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("limits.body_bytes", 3)
        .set("timeouts.client_head", "100ms")
        .start();
    for (request, words) in [
        (&b"GET /a HTTP/1.1\r\n\r\n"[..], "missing Host"),
        (
            b"GET /b HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "control character",
        ),
        (
            b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n",
            "the request's body is too long",
        ),
        (
            b"GET /d HTTP/1.1\r\nHost: a\r\n",
            "the request's head did not come in time",
        ),
    ] {
        let mut client = proxy.client();
        client.send(request);
        assert!((400..500).contains(&client.read_response().status));
        eventually_logged(&proxy, words);
    }
    let mut client = proxy.client();
    client.send(get("/gone"));
    let mut wire = backend.accept();
    wire.expect_request();
    client.reset();
    wire.expect_gone();
    let line = proxy.wait_for_access("GET /gone ");
    assert_eq!(reason(&line), "\"the client went away\"");
    proxy.expect_no_event(&["WARN"]);
}

fn eventually_logged(proxy: &Proxy, words: &str) {
    let line = proxy.wait_for_access(&format!("\"{words}\""));
    assert!(line.contains(" - 0 "), "no backend in {line}");
}

#[test]
fn an_answer_that_was_cut_is_not_logged_as_one_that_went_well() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n";
    let broke = "the backend's response broke off";
    let late = "the backend's response did not go on in time";
    for (start, rest, words, cause) in [
        (HEAD, Some(""), broke, "it ended before its body did"),
        (CHUNKS, Some(""), broke, "it ended before its body did"),
        (CHUNKS, Some("nonsense"), broke, "malformed body"),
        (HEAD, None, late, late),
    ] {
        for format in ["json", "text"] {
            let backend = Backend::start();
            let mut plan = Proxy::over(&[&backend]).set("timeouts.response_body", "100ms");
            if format == "json" {
                plan = plan.set("proxy.access_log", "json");
            }
            let proxy = plan.start();
            let mut client = proxy.client();
            client.send(get("/x"));
            let mut wire = backend.accept();
            wire.expect_request();
            wire.send(start);
            assert_eq!(client.read_response_head().status, 200);
            let _held: Option<Wire> = match rest {
                Some(rest) => {
                    wire.send(rest);
                    wire.close();
                    None
                }
                None => Some(wire),
            };
            client.read_until_gone();
            let line = proxy.wait_for_access("GET /x ");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(
                    (&line["status"], &line["reason"]),
                    (&200.into(), &words.into())
                );
            } else {
                assert!(line.contains("\" 200 "), "{line}");
                assert_eq!(reason(&line), format!("\"{words}\""));
            }
            let event = format!("backend {:?}: cut the answer to GET /x: ", backend.name());
            proxy.wait_for_event(&["WARN", &event, cause]);
            proxy.expect_no_event(&["is down"]);
        }
    }
}

#[test]
fn where_all_is_well_there_is_no_reason() {
    let origin = Origin::start("one");
    for (format, end) in [("text", " -\n"), ("json", "\"reason\":null,")] {
        let mut plan = Proxy::over(&[&origin]);
        if format == "json" {
            plan = plan.set("proxy.access_log", "json");
        }
        let proxy = plan.start();
        assert_eq!(proxy.client().get("/x").status, 200);
        let line = proxy.wait_for_access("GET /x ");
        assert!(format!("{line}\n").contains(end), "{line}");
        proxy.expect_no_event(&["WARN"]);
    }
}

#[test]
fn a_request_that_another_backend_answered_went_well() {
    let (dying, origin) = (answering(""), Origin::start("one"));
    let proxy = Proxy::over(&[&dying, &origin]).start();
    assert_eq!(proxy.client().get("/x").text(), "one");
    let line = proxy.wait_for_access("GET /x ");
    assert_eq!(reason(&line), "-");
    proxy.expect_no_event(&["WARN"]);
}

#[test]
fn many_failures_of_one_backend_are_one_event_line_and_each_has_its_access_line() {
    let (one, two) = (Refusing::start(), Refusing::start());
    let proxy = Proxy::over(&[&one, &two]).start();
    let mut client = proxy.client();
    for number in 0..50 {
        assert_eq!(client.get(&format!("/{number}")).status, 502);
    }
    crate::support::eventually("every access line is there", || {
        proxy.access_lines().len() == 50
    });
    let lines = proxy.access_lines();
    assert!(
        lines
            .iter()
            .all(|line| reason(line) == "\"connect failed\"")
    );
    for backend in [&one, &two] {
        // Ten seconds may pass on a slow machine, hardly twenty.
        let events = proxy.events_with(&[&backend.name(), "502 for GET /"]);
        assert!((1..=2).contains(&events), "{:?}", proxy.events());
    }
}
