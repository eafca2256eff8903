//! Active checks: the first at once, each by itself, and what they decide.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Origin, Proxy, Refusing, Unreachable, eventually};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn the_first_check_is_made_at_the_start_without_any_request() {
    let (dead, origin) = (Refusing::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&dead, &origin]).checks(json!({})).start();
    proxy.wait_for_event(&[&dead.name(), "is down"]);
    eventually("the other is checked as well", || origin.connections() > 0);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_tcp_check_connects_and_sends_nothing() {
    let backend = Backend::start();
    let _proxy = Proxy::over(&[&backend]).checks(json!({})).start();
    backend.accept().expect_gone();
}

#[test]
fn a_check_that_hangs_delays_no_other() {
    let hanging: [Unreachable; 3] = std::array::from_fn(|_| Unreachable::start());
    let (dead, origin) = (Refusing::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&hanging[0], &hanging[1], &hanging[2], &dead, &origin])
        .checks(json!({ "timeout": "1h", "interval": "50ms", "down_interval": "50ms" }))
        .start();
    // With an hour for each that hangs, a checker that waits for them never gets here.
    proxy.wait_for_event(&[&dead.name(), "is down"]);
    origin.kill();
    proxy.wait_for_event(&[&origin.name(), "is down"]);
    origin.revive();
    proxy.wait_for_event(&[&origin.name(), "is up"]);
}

#[test]
fn a_check_that_hangs_ends_at_its_time_limit_as_a_failure() {
    let hanging = Unreachable::start();
    let proxy = Proxy::over(&[&hanging])
        .checks(json!({ "timeout": "100ms" }))
        .start();
    proxy.wait_for_event(&[&hanging.name(), "is down"]);
}

#[test]
fn a_backend_that_is_down_is_checked_every_down_interval_and_comes_back() {
    let origin = Origin::dead("one");
    let proxy = Proxy::over(&[&origin])
        .checks(json!({ "interval": "1h", "down_interval": "50ms" }))
        .start();
    proxy.wait_for_event(&[&origin.name(), "is down"]);
    let begin = Instant::now();
    origin.revive();
    proxy.wait_for_event(&[&origin.name(), "is up"]);
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "far from the hour of `interval`"
    );
}

#[test]
fn a_backend_that_is_up_is_checked_every_interval() {
    let origin = Origin::start("one");
    let _proxy = Proxy::over(&[&origin])
        .checks(json!({ "interval": "20ms", "down_interval": "1h" }))
        .start();
    eventually("ten checks were made", || origin.connections() >= 10);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_backend_that_is_up_is_left_alone_between_two_checks() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .checks(json!({ "interval": "1h" }))
        .start();
    eventually("the first check was made", || origin.connections() == 1);
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(origin.connections(), 2, "one check and one for the request");
}

#[test]
fn a_running_backend_that_dies_is_noticed_by_the_check_without_any_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .checks(json!({ "interval": "50ms" }))
        .start();
    eventually("the first check was made", || origin.connections() > 0);
    origin.kill();
    proxy.wait_for_event(&[&origin.name(), "is down"]);
}

#[test]
fn fall_and_rise_count_results_in_a_row() {
    // Fails twice, succeeds once, fails three times, then succeeds for ever.
    let answers = [false, false, true, false, false, false, true, true, true];
    let checks = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&checks);
    let backend = Backend::start().run(move |number, mut wire| {
        wire.expect_request_head();
        let good = answers.get(number).copied().unwrap_or(true);
        let status = if good {
            "204 No Content"
        } else {
            "500 Internal Server Error"
        };
        counter.fetch_add(1, Ordering::SeqCst);
        wire.try_send(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n"));
    });
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http", "interval": "30ms", "down_interval": "30ms", "fall": 3, "rise": 2 }))
        .start();
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert!(
        checks.load(Ordering::SeqCst) >= 6,
        "two failures do not count after a success"
    );
    proxy.wait_for_event(&[&backend.name(), "is up"]);
    assert!(checks.load(Ordering::SeqCst) >= 8, "one success is not two");
    assert_eq!(
        (
            proxy.events_with(&["is down"]),
            proxy.events_with(&["is up"])
        ),
        (1, 1),
        "{:?}",
        proxy.events()
    );
}

#[test]
fn an_http_check_asks_for_its_path_and_judges_the_status() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.url", format!("http://{}/base/", backend.address()))
        .checks(json!({ "kind": "http", "path": "/health?deep=1", "status": "200,300-399", "interval": "50ms", "down_interval": "50ms" }))
        .start();
    let mut check = backend.accept();
    let request = check.expect_request();
    assert_eq!(request.method, "GET");
    assert!(request.target.ends_with("/health?deep=1"), "{request:?}");
    assert_eq!(
        request.fields.one("host"),
        Some(backend.address().to_string().as_str())
    );
    check.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let down = proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert!(down.contains("404"), "no reason in {down:?}");
    let mut check = backend.accept();
    check.expect_request();
    check.send("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n");
    proxy.wait_for_event(&[&backend.name(), "is up"]);
}

#[test]
fn an_http_check_that_gets_no_answer_in_time_is_a_failure() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http", "timeout": "100ms", "fall": 1 }))
        .start();
    let mut check = backend.accept();
    check.expect_request();
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    check.expect_gone();
}

#[test]
fn with_http_checks_only_a_check_brings_a_backend_up() {
    // It serves requests but its health page says no: fail open uses it, and it stays down.
    let backend = Backend::start().run(|_, mut wire| {
        let request = wire.expect_request();
        if request.target == "/" {
            wire.try_send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        } else {
            wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http", "interval": "30ms", "down_interval": "30ms" }))
        .start();
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    for _ in 0..5 {
        assert_eq!(proxy.client().get("/work").text(), "ok");
    }
    proxy.expect_no_event(&[&backend.name(), "is up"]);
}

#[test]
fn with_all_down_requests_are_still_sent() {
    // The port answers requests while every check fails: a check's limit of one millisecond against an answer that takes longer.
    let backend = Backend::start().run(|_, mut wire| {
        let request = wire.expect_request();
        if request.target == "/health" {
            wire.expect_gone();
        } else {
            wire.answer("open");
        }
    });
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http", "path": "/health", "timeout": "50ms" }))
        .start();
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert_eq!(proxy.client().get("/").text(), "open");
}

#[test]
fn without_checks_no_connection_is_made_but_for_requests() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "none", "interval": "1ms", "down_interval": "1ms" }))
        .start();
    let mut client = proxy.client();
    client.send(get("/"));
    // The first connection that comes at all carries the request.
    backend.accept().serve("one");
    assert_eq!(client.read_response().text(), "one");
    backend.expect_no_connection();
}

#[test]
fn a_backend_without_checks_is_left_alone_beside_one_that_is_checked() {
    // A page that says sorry, on a server that counts each connection.
    let (sorry, origin) = (Backend::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&sorry, &origin])
        .checks(json!({ "interval": "20ms", "down_interval": "20ms" }))
        .set("backends.0.check", false)
        .set("backends.0.backup", true)
        .start();
    eventually("the other was checked", || origin.connections() >= 5);
    sorry.expect_no_connection();
    origin.kill();
    proxy.wait_for_event(&[&origin.name(), "is down"]);
    let mut client = proxy.client();
    client.send(get("/"));
    sorry.accept().serve("sorry");
    assert_eq!(client.read_response().text(), "sorry");
}

#[test]
fn a_backend_without_checks_that_is_down_is_found_by_a_request() {
    let (unchecked, origin) = (Origin::dead("sorry"), Origin::start("one"));
    let proxy = Proxy::over(&[&unchecked, &origin])
        .checks(json!({ "interval": "1h", "down_interval": "20ms" }))
        .set("backends.0.check", false)
        .start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "one");
    }
    proxy.wait_for_event(&[&unchecked.name(), "is down"]);
    unchecked.revive();
    eventually("a request finds it", || client.get("/").text() == "sorry");
    proxy.wait_for_event(&[&unchecked.name(), "is up"]);
}

#[test]
fn a_check_of_many_backends_holds_few_descriptors_and_one_thread() {
    let origins: [Origin; 40] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .checks(json!({ "interval": "10ms" }))
        .start();
    let threads = proxy.threads();
    eventually("each was checked three times", || {
        origins.iter().all(|origin| origin.connections() >= 3)
    });
    assert_eq!(proxy.threads(), threads);
}
