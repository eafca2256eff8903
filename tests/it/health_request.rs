//! `--health URL`: one GET with an answer in time, or a line that says why not.

use crate::support::{
    Addressed, Backend, Finished, Holding, Origin, Proxy, Refusing, Unreachable, admin, run,
};
use std::time::{Duration, Instant};

fn health(url: &str) -> Finished {
    run(&["--health", url])
}

#[track_caller]
fn expect_failure(url: &str, code: i32, part: &str) {
    let finished = health(url);
    assert_eq!((finished.code, finished.stdout.as_str()), (code, ""));
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(finished.stderr.contains(part), "{finished:?}");
    assert!(finished.stderr.contains("--health"), "{finished:?}");
}

/// A backend that sends these bytes as its answer to each request, and keeps the connection open.
fn answering(bytes: &'static str) -> impl Addressed {
    Backend::start().run(move |_, mut wire| {
        wire.expect_request();
        wire.try_send(bytes);
        wire.expect_gone();
    })
}

#[test]
fn a_good_answer_is_exit_status_0_without_a_word() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    for url in [
        origin.url(),
        format!("http://{}/ready?deep=1", proxy.address()),
    ] {
        let finished = health(&url);
        assert_eq!(finished.code, 0, "{finished:?}");
        assert_eq!(finished.stdout + &finished.stderr, "");
    }
    let seen = origin.seen();
    assert_eq!(seen[0].method, "GET");
    assert_eq!(
        seen[0].fields.one("host"),
        Some(origin.address().to_string().as_str())
    );
    assert_eq!(seen[1].target, "/ready?deep=1");
}

#[test]
fn the_status_decides_and_the_end_of_the_body_is_not_waited_for() {
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 0),
        ("HTTP/1.0 204 No Content\r\n\r\n", 0),
        ("HTTP/1.1 399 Odd\r\n\r\n", 0),
        (
            "HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            0,
        ),
        ("HTTP/1.1 400 Bad\r\n\r\n", 1),
        ("HTTP/1.1 503 Busy\r\n\r\n", 1),
        ("HTTP/1.1 101 Switching\r\n\r\n", 1),
        ("HTTP/1.1 20 OK\r\n\r\n", 1),
        ("SSH-2.0-x\r\n", 1),
    ] {
        let backend = answering(answer);
        let finished = health(&backend.url());
        assert_eq!(finished.code, code, "{answer:?} {finished:?}");
        assert_eq!(finished.stderr.lines().count(), usize::from(code > 0));
    }
    let backend = answering("HTTP/1.1 503 Busy\r\n\r\n");
    expect_failure(&backend.url(), 1, "answered 503");
}

#[test]
fn without_an_answer_it_fails_within_two_seconds() {
    expect_failure(&Refusing::start().url(), 1, "refused");
    let (unreachable, silent) = (Unreachable::start(), Holding::start("one"));
    let hold = format!("http://{}/hold", silent.address());
    // A byte now and then does not make the wait longer.
    let trickling = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        while wire.try_send("H") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for url in [unreachable.url(), hold, trickling.url()] {
            scope.spawn(move || expect_failure(&url, 1, "no answer within 2 s"));
        }
    });
    assert!(begin.elapsed() >= Duration::from_secs(2));
    silent.release();
}

#[test]
fn an_answer_that_breaks_off_is_none() {
    let backend = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        wire.try_send("HTTP/1.1 2");
    });
    expect_failure(&backend.url(), 1, "closed before");
}

#[test]
fn a_url_that_cannot_be_asked_is_a_wrong_command_line() {
    for (url, part) in [
        ("https://127.0.0.1/", "TLS"),
        ("127.0.0.1:80", "no scheme"),
        ("http://", "host"),
        ("http://a:99999/", "port"),
        ("http://user@a/", "user"),
        ("http://a/\r\nX: y", "path"),
        ("", "no scheme"),
    ] {
        expect_failure(url, 2, part);
    }
}

#[test]
fn the_request_is_as_any_client_would_send_it() {
    let backend = Backend::start();
    let url = format!("http://localhost:{}?x#y", backend.address().port());
    let asking = std::thread::spawn(move || health(&url));
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.target, "/?x");
    let host = format!("localhost:{}", backend.address().port());
    assert_eq!(request.fields.one("host"), Some(host.as_str()));
    assert_eq!(request.fields.one("connection"), Some("close"));
    wire.answer("well");
    assert_eq!(asking.join().unwrap().code, 0);
}

#[test]
fn it_tells_a_container_whether_the_process_lives_and_is_ready() {
    let origin = Holding::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("admin.address", "127.0.0.1:0")
        .set("timeouts.drain_delay", "60s")
        .start();
    let admin = admin::address(&proxy);
    let [live, ready] = ["live", "ready"].map(|path| format!("http://{admin}/{path}"));
    for url in [&live, &ready] {
        assert_eq!(health(url).code, 0);
    }
    let _client = proxy.hold(|| origin.held());
    proxy.terminate();
    proxy.wait_for_event(&["stopping"]);
    assert_eq!(health(&live).code, 0);
    expect_failure(&ready, 1, "answered 503");
}
