//! Every deadline: that it ends what it is for, how it counts, and that it spares everything else.
//!
//! Lower bounds are checked exactly, upper ones only by the general patience: a slow machine is never at fault.
//! Where something must *not* time out, the pauses are far shorter than the limit and their sum is longer.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Origin, PATIENCE, Proxy, Unreachable, pattern};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// An hour for everything but the one key that a test is about.
fn only(backends: &[&dyn Addressed], key: &str, value: &str) -> Proxy {
    only_these(backends, &[(key, value)])
}

fn only_these(backends: &[&dyn Addressed], keys: &[(&str, &str)]) -> Proxy {
    let mut plan = Proxy::over(backends).one_worker();
    for each in [
        "client_head",
        "client_idle",
        "client_body",
        "client_write",
        "connect",
        "response_head",
        "response_body",
        "backend_idle",
        "tunnel_idle",
    ] {
        plan = plan.set(&format!("timeouts.{each}"), "1h");
    }
    for (key, value) in keys {
        plan = plan.set(&format!("timeouts.{key}"), *value);
    }
    plan.start()
}

/// Where something must not time out: a limit, a pause far shorter than it, and how many pauses are longer than it.
const STEADY: (&str, Duration, usize) = ("6s", Duration::from_millis(200), 32);

/// Timers may be coarse; early by more than this is wrong.
const SLACK: Duration = Duration::from_millis(20);

#[track_caller]
fn expect_at_least(begin: Instant, limit_ms: u64) {
    let elapsed = begin.elapsed();
    assert!(
        elapsed + SLACK >= Duration::from_millis(limit_ms),
        "too early: {elapsed:?}"
    );
}

#[test]
fn a_head_that_stops_gets_408_at_client_head() {
    let origin = Origin::start("one");
    let proxy = only(&[&origin], "client_head", "300ms");
    for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = proxy.client();
        let begin = Instant::now();
        client.send(part);
        let response = client.read_response();
        assert_eq!(
            (response.status, response.says_close()),
            (408, true),
            "{part:?}"
        );
        expect_at_least(begin, 300);
        client.half_close();
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_dribbled_head_gets_408_at_client_head_in_total() {
    let origin = Origin::start("one");
    let proxy = only(&[&origin], "client_head", "400ms");
    let mut client = proxy.client();
    let begin = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Endless: ");
    while !client.has_input() {
        assert!(begin.elapsed() < PATIENCE, "each byte gives it new time");
        client.try_send("a");
        sleep(Duration::from_millis(10));
    }
    assert_eq!(client.read_response().status, 408);
    expect_at_least(begin, 400);
}

#[test]
fn the_time_for_a_head_begins_with_its_first_byte() {
    let origin = Origin::start("one");
    let proxy = only(&[&origin], "client_head", "500ms");
    let mut client = proxy.client();
    for _ in 0..2 {
        sleep(Duration::from_millis(700));
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_new_connection_without_a_request_is_closed_without_a_word_at_client_idle() {
    let origin = Origin::start("one");
    let proxy = only(&[&origin], "client_idle", "300ms");
    let begin = Instant::now();
    proxy.client().expect_closed();
    expect_at_least(begin, 300);
}

#[test]
fn a_kept_connection_is_closed_without_a_word_at_client_idle() {
    let origin = Origin::start("one");
    let proxy = only(&[&origin], "client_idle", "300ms");
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 200);
    }
    let begin = Instant::now();
    client.expect_closed();
    expect_at_least(begin, 250);
}

#[test]
fn a_body_that_stops_gets_408_at_client_body() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "client_body", "300ms");
    for (head, body) in [
        ("Content-Length: 10", "12345"),
        ("Transfer-Encoding: chunked", "5\r\n12345\r\n"),
    ] {
        let mut client = proxy.client();
        let begin = Instant::now();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}"
        ));
        let mut wire = backend.accept();
        wire.expect_request_head();
        let response = client.read_response();
        assert_eq!((response.status, response.says_close()), (408, true));
        expect_at_least(begin, 300);
        let (rest, _) = wire.read_until_gone();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "never complete");
    }
    proxy.expect_no_event(&[&backend.name(), "is down"]);
}

#[test]
fn a_slow_body_that_makes_progress_is_served() {
    let backend = Backend::start();
    let (limit, pause, pauses) = STEADY;
    let proxy = only(&[&backend], "client_body", limit);
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {pauses}\r\n\r\n"
    ));
    let mut wire = backend.accept();
    wire.expect_request_head();
    for _ in 0..pauses {
        client.send("x");
        assert_eq!(wire.read_exact(1), b"x");
        sleep(pause);
    }
    wire.answer("patient");
    assert_eq!(client.read_response().text(), "patient");
}

/// A response that no socket buffer takes whole.
const LARGE: usize = 24 << 20;

#[test]
fn a_client_that_stops_reading_is_cut_at_client_write() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "client_write", "400ms");
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    let begin = Instant::now();
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    // Ends when the proxy closes the connection to the backend: the rest is not wanted.
    while wire.try_send(vec![b'x'; 65_536]) {}
    expect_at_least(begin, 400);
    let response = client.read_response_head();
    assert_eq!(response.status, 200);
    let (bytes, _) = client.read_until_gone();
    assert!(bytes.len() < LARGE);
    proxy.expect_no_event(&[&backend.name(), "is down"]);
}

#[test]
fn a_slow_but_steady_reader_is_never_cut() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "client_write", "1500ms");
    let mut client = proxy.client();
    socket2::SockRef::from(client.stream())
        .set_recv_buffer_size(16_384)
        .unwrap();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    let sender = std::thread::spawn(move || {
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
        ));
        wire.send(vec![b'x'; LARGE]);
        wire
    });
    client.read_response_head();
    // About 100 KB a second for three times the limit: progress all the time, though a large send buffer hides it.
    let begin = Instant::now();
    let mut got = 0;
    while begin.elapsed() < Duration::from_millis(4500) {
        got += client.read_exact(4096).len();
        sleep(Duration::from_millis(40));
    }
    client.read_exact(LARGE - got);
    drop(sender.join().unwrap());
}

#[test]
fn a_connect_that_hangs_is_504_at_connect() {
    let hanging = Unreachable::start();
    let proxy = only(&[&hanging], "connect", "300ms");
    let begin = Instant::now();
    assert_eq!(proxy.client().get("/").status, 504);
    expect_at_least(begin, 300);
}

#[test]
fn a_connect_that_hangs_leads_to_the_next_backend() {
    let (hanging, origin) = (Unreachable::start(), Origin::start("other"));
    let proxy = only(&[&hanging, &origin], "connect", "200ms");
    let mut client = proxy.client();
    assert_eq!(
        client.post("/echo", "body").text(),
        "body",
        "whatever the method: nothing was sent"
    );
    proxy.wait_for_event(&[&hanging.name(), "is down"]);
    assert_eq!(client.get("/").text(), "other");
}

#[test]
fn a_backend_that_does_not_answer_is_504_at_response_head_and_stays_up() {
    let backend = Backend::start();
    let origin = Origin::start("other");
    let proxy = only(&[&backend, &origin], "response_head", "300ms");
    let mut client = proxy.client();
    let begin = Instant::now();
    client.send(get("/slow"));
    let mut wire = backend.accept();
    wire.expect_request();
    let response = client.read_response();
    assert_eq!(
        (response.status, response.says_close()),
        (504, false),
        "the request was read to its end"
    );
    expect_at_least(begin, 300);
    wire.expect_gone();
    assert_eq!(origin.requests(), 0, "never asked a second time");
    assert_eq!(client.get("/").text(), "other");
    // Still up: it gets its next turn.
    client.send(get("/"));
    backend.accept().serve("quick");
    assert_eq!(client.read_response().text(), "quick");
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn a_dribbled_response_head_is_504_at_response_head_in_total() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "response_head", "400ms");
    let mut client = proxy.client();
    let begin = Instant::now();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nX-Endless: ");
    while !client.has_input() {
        assert!(begin.elapsed() < PATIENCE, "each byte gives it new time");
        wire.try_send("a");
        sleep(Duration::from_millis(10));
    }
    assert_eq!(client.read_response().status, 504);
    expect_at_least(begin, 400);
}

#[test]
fn the_time_for_an_answer_begins_when_the_request_is_sent() {
    let backend = Backend::start();
    let (limit, pause, pauses) = STEADY;
    let proxy = only(&[&backend], "response_head", limit);
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {pauses}\r\n\r\n"
    ));
    let mut wire = backend.accept();
    wire.expect_request_head();
    for _ in 0..pauses {
        client.send("x");
        wire.read_exact(1);
        sleep(pause);
    }
    wire.answer("ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn a_response_body_that_stops_is_cut_at_response_body() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "response_body", "300ms");
    for (head, body) in [
        ("Content-Length: 10\r\n", "12345"),
        ("Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n"),
        ("", "12345"),
    ] {
        let mut client = proxy.client();
        let begin = Instant::now();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
        client.read_response_head();
        let (bytes, _) = client.read_until_gone();
        assert!(!bytes.ends_with(b"0\r\n\r\n"), "looks complete: {head:?}");
        expect_at_least(begin, 300);
        wire.expect_gone();
    }
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn a_slow_response_body_that_makes_progress_is_served() {
    let backend = Backend::start();
    let (limit, pause, pauses) = STEADY;
    let proxy = only(&[&backend], "response_body", limit);
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {pauses}\r\n\r\n"
    ));
    client.read_response_head();
    for _ in 0..pauses {
        wire.send("x");
        assert_eq!(client.read_exact(1), b"x");
        sleep(pause);
    }
    assert!(!client.has_input());
}

#[test]
fn a_backend_that_takes_no_more_of_the_request_ends_at_response_body() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "response_body", "400ms");
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    let mut wire = backend.accept();
    wire.expect_request_head();
    let begin = Instant::now();
    while !client.has_input() && client.try_send(vec![b'x'; 65_536]) {}
    let response = client.read_response();
    assert!([502, 504].contains(&response.status), "{response:?}");
    expect_at_least(begin, 350);
    assert!(response.says_close());
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn no_deadline_of_the_client_runs_while_the_backend_is_waited_for() {
    let backend = Backend::start();
    let proxy = only_these(
        &[&backend],
        &[
            ("client_head", "150ms"),
            ("client_idle", "150ms"),
            ("client_body", "150ms"),
            ("client_write", "150ms"),
        ],
    );
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let mut wire = backend.accept();
    wire.expect_request();
    sleep(Duration::from_millis(600));
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    client.read_response_head();
    sleep(Duration::from_millis(600));
    wire.send("late");
    assert_eq!(client.read_exact(4), b"late");
}

#[test]
fn no_deadline_of_the_backend_runs_while_the_client_is_waited_for() {
    let backend = Backend::start();
    let proxy = only_these(
        &[&backend],
        &[("response_head", "400ms"), ("response_body", "400ms")],
    );
    // It sends its body late.
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request_head();
    sleep(Duration::from_millis(900));
    client.send("late");
    assert_eq!(wire.read_exact(4), b"late");
    wire.answer("ok");
    assert_eq!(client.read_response().text(), "ok");
    // It reads late.
    let body = pattern(LARGE);
    client.send(get("/"));
    wire.expect_request();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ));
            wire.send(&body);
        });
        sleep(Duration::from_millis(1200));
        assert!(client.read_response().body == body);
    });
}

#[test]
fn the_time_limits_of_one_connection_are_not_those_of_another() {
    let backend = Backend::start();
    let proxy = only(&[&backend], "response_head", "700ms");
    let mut slow: Vec<_> = (0..20)
        .map(|_| {
            let mut client = proxy.client();
            client.send(get("/slow"));
            let mut wire = backend.accept();
            wire.expect_request();
            (client, wire)
        })
        .collect();
    let mut quick = proxy.client();
    quick.send(get("/"));
    let mut wire = backend.accept();
    wire.serve("quick");
    assert_eq!(quick.read_response().text(), "quick");
    for (client, _) in &mut slow {
        assert_eq!(client.read_response().status, 504);
    }
    quick.send(get("/"));
    wire.serve("still here");
    assert_eq!(quick.read_response().text(), "still here");
}
