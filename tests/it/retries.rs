//! The table of what is tried again, cell by cell, and what never is.

use crate::support::client::{get, post};
use crate::support::{
    Addressed, Backend, Client, Origin, Proxy, Refusing, Unreachable, Wire, eventually,
};
use rustix::process::Signal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A client whose last request went to `backend` over a connection that is now idle, with one worker.
fn with_reused_connection(others: &[&dyn Addressed]) -> (Backend, Proxy, Client, Wire) {
    let backend = Backend::start();
    let mut backends: Vec<&dyn Addressed> = vec![&backend];
    backends.extend_from_slice(others);
    let proxy = Proxy::over(&backends)
        .one_worker()
        .set("balance.tries", 2)
        .start();
    let mut client = proxy.client();
    client.send(get("/first"));
    let mut wire = backend.accept();
    wire.serve("first");
    assert_eq!(client.read_response().text(), "first");
    // The others take their turn, so that the next one is the backend's again.
    for _ in others {
        assert_eq!(client.get("/other").status, 200);
    }
    (backend, proxy, client, wire)
}

// Row 1: connect refused or unreachable; a reused connection found closed before a byte went out.

#[test]
fn a_refused_connect_costs_no_try_whatever_the_method() {
    for method in ["GET", "POST", "PATCH"] {
        let dead: [Refusing; 4] = std::array::from_fn(|_| Refusing::start());
        let origin = Origin::start("last");
        let proxy = Proxy::over(&[&dead[0], &dead[1], &dead[2], &dead[3], &origin])
            .set("balance.tries", 1)
            .start();
        let mut client = proxy.client();
        client.send(format!(
            "{method} /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
        ));
        assert_eq!(client.read_response().text(), "body", "{method}");
    }
}

#[test]
fn a_body_that_is_still_coming_goes_to_the_backend_that_takes_it() {
    let (dead, backend) = (Refusing::start(), Backend::start());
    let proxy = Proxy::over(&[&dead, &backend]).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    let mut wire = backend.accept();
    wire.expect_request_head();
    assert_eq!(wire.read_exact(5), b"12345");
    client.send("67890");
    assert_eq!(wire.read_exact(5), b"67890");
    wire.answer("whole");
    assert_eq!(client.read_response().text(), "whole");
}

#[test]
fn an_unreachable_address_costs_no_try_whatever_the_method() {
    // No TCP connection can be opened to a group of hosts: the kernel says unreachable at once, with any route.
    let group: std::net::SocketAddr = ([224, 0, 0, 1], 81).into();
    let origin = Origin::start("reached");
    for method in ["GET", "POST"] {
        let proxy = Proxy::over(&[&group, &origin])
            .set("balance.tries", 1)
            .start();
        let mut client = proxy.client();
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.read_response().text(), "reached", "{method}");
        proxy.wait_for_event(&["224.0.0.1:81", "is down"]);
    }
}

#[test]
fn refused_connects_are_bounded_by_the_number_of_backends() {
    for method in ["GET", "POST"] {
        let dead: [Refusing; 5] = std::array::from_fn(|_| Refusing::start());
        let proxy = Proxy::over(&dead.each_ref().map(|each| each as &dyn Addressed))
            .set("balance.tries", 1)
            .start();
        let mut client = proxy.client();
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.read_response().status, 502, "{method}");
        let line = proxy.wait_for_access(&format!("\"{method} / "));
        assert_eq!(tries(&line), "5", "{line}");
    }
}

/// How many backends a request was sent to, in its access line: status, bytes, time, backend, tries.
fn tries(line: &str) -> &str {
    let behind = line.rsplit("HTTP/1.1\" ").next().unwrap();
    behind.split(' ').nth(4).unwrap()
}

/// Whether the kernel on the other side has taken the end that was sent: the connection is in `FIN_WAIT2`.
fn end_has_arrived(wire: &Wire) -> bool {
    let port = |address: std::io::Result<std::net::SocketAddr>| {
        format!(":{:04X}", address.unwrap().port())
    };
    let ends = [
        port(wire.stream().local_addr()),
        port(wire.stream().peer_addr()),
    ];
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        words.len() == 4
            && words[1].ends_with(&ends[0])
            && words[2].ends_with(&ends[1])
            && words[3] == "05"
    })
}

#[test]
fn a_connection_found_closed_costs_no_try_whatever_the_method() {
    for method in ["GET", "POST"] {
        let (backend, proxy, mut client, mut wire) = with_reused_connection(&[]);
        for round in 0..10 {
            // While it stands still, the request comes first and the end of the idle connection after it.
            proxy.signal(Signal::STOP);
            eventually("it stands still", || proxy.is_stopped());
            client.send(format!(
                "{method} /{round} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ));
            wire.half_close();
            eventually("the end is there", || end_has_arrived(&wire));
            proxy.signal(Signal::CONT);
            let mut fresh = backend.accept();
            wire.expect_gone();
            fresh.serve("fresh");
            assert_eq!(client.read_response().text(), "fresh", "{method} {round}");
            wire = fresh;
        }
        proxy.wait_for_access(&format!("\"{method} /9 "));
        for line in proxy.access_lines() {
            assert_eq!(tries(&line), "1", "{line}");
        }
        assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
    }
}

/// A backend that answers one request on each connection and then closes it, without saying so, after a moment that is
/// different each time; and how often it received each request.
fn closing_at_once() -> (
    crate::support::backend::Running,
    Arc<Mutex<HashMap<String, usize>>>,
) {
    let received = Arc::new(Mutex::new(HashMap::new()));
    let record = Arc::clone(&received);
    let backend = Backend::start().run(move |number, mut wire| {
        let count = |target: String| *record.lock().unwrap().entry(target).or_insert(0) += 1;
        let Some(request) = wire.next_request() else {
            return;
        };
        count(request.target);
        wire.answer("ok");
        let until = Instant::now() + Duration::from_micros(number as u64 % 40 * 5);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        // What has arrived by now was received, though it is never answered.
        wire.half_close();
        while let Some(request) = wire.next_request() {
            count(request.target);
        }
    });
    (backend, received)
}

#[test]
fn a_reused_connection_closed_at_that_very_moment_costs_no_try_and_no_error() {
    let (backend, _received) = closing_at_once();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("balance.tries", 1)
        .start();
    let mut client = proxy.client();
    for number in 0..1500 {
        let response = client.get(&format!("/{number}"));
        assert_eq!(response.status, 200, "request {number}");
    }
    eventually("every access line is there", || {
        proxy.access_lines().len() == 1500
    });
    for line in proxy.access_lines() {
        assert_eq!(tries(&line), "1", "{line}");
    }
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn a_post_on_a_connection_closed_at_that_very_moment_is_never_received_twice() {
    let (backend, received) = closing_at_once();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut client = proxy.client();
    let mut answered = 0;
    for number in 0..500 {
        let response = client.post(&format!("/{number}"), b"once");
        assert!(
            [200, 502].contains(&response.status),
            "request {number}: {response:?}"
        );
        answered += usize::from(response.status == 200);
    }
    let received = received.lock().unwrap();
    assert!(received.values().all(|&count| count == 1), "{received:?}");
    assert!(answered <= received.len());
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

// Row 2: connect timed out.

#[test]
fn a_connect_that_times_out_costs_one_try_whatever_the_method() {
    let (hanging, origin) = (Unreachable::start(), Origin::start("other"));
    for (tries, status) in [(1, 504), (2, 200)] {
        for method in ["GET", "POST"] {
            let proxy = Proxy::over(&[&hanging, &origin])
                .set("balance.tries", tries)
                .set("timeouts.connect", "100ms")
                .start();
            let mut client = proxy.client();
            client.send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ));
            assert_eq!(
                client.read_response().status,
                status,
                "{method} with {tries}"
            );
        }
    }
}

// Row 3: a reused connection ended after bytes went out, no response byte.

#[test]
fn a_reused_connection_that_ends_is_replaced_by_a_fresh_one_to_the_same_backend() {
    for reset in [false, true] {
        let other = Origin::start("other");
        let (backend, proxy, mut client, mut wire) = with_reused_connection(&[&other]);
        client.send(get("/again"));
        let first = wire.expect_request();
        if reset {
            wire.reset();
        } else {
            wire.close();
        }
        let mut fresh = backend.accept();
        let second = fresh.serve("fresh");
        assert_eq!(client.read_response().text(), "fresh");
        assert_eq!(
            first.fields.one("x-request-id"),
            second.fields.one("x-request-id"),
            "still the same request"
        );
        assert_eq!(first.target, second.target);
        assert_eq!(
            proxy.events_with(&["is down"]),
            0,
            "no backend is blamed: {:?}",
            proxy.events()
        );
    }
}

#[test]
fn a_reused_connection_that_ends_under_a_post_is_502_and_the_post_is_sent_once() {
    for reset in [false, true] {
        let (backend, proxy, mut client, mut wire) = with_reused_connection(&[]);
        client.send(post("/once", b"body"));
        wire.expect_request();
        if reset {
            wire.reset();
        } else {
            wire.close();
        }
        let response = client.read_response();
        assert_eq!((response.status, response.says_close()), (502, false));
        backend.expect_no_connection();
        assert_eq!(
            proxy.events_with(&["is down"]),
            0,
            "no backend is blamed: {:?}",
            proxy.events()
        );
    }
}

#[test]
fn a_fresh_connection_after_a_slow_end_has_the_whole_time_to_connect() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("timeouts.connect", "1s")
        .start();
    let mut client = proxy.client();
    client.send(get("/first"));
    let mut wire = backend.accept();
    wire.serve("first");
    assert_eq!(client.read_response().text(), "first");
    client.send(get("/again"));
    wire.expect_request();
    // Longer than a connect may take.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    wire.close();
    backend.accept().serve("fresh");
    assert_eq!(client.read_response().text(), "fresh");
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn the_fresh_connection_after_a_reused_one_is_judged_as_any_fresh_one() {
    let other = Origin::start("other");
    let (backend, proxy, mut client, mut wire) = with_reused_connection(&[&other]);
    client.send(get("/again"));
    wire.expect_request();
    wire.close();
    let mut fresh = backend.accept();
    fresh.expect_request();
    fresh.close();
    assert_eq!(client.read_response().text(), "other");
    let line = proxy.wait_for_access("\"GET /again ");
    assert_eq!(
        tries(&line),
        "2",
        "this backend twice, and the other: {line}"
    );
}

#[test]
fn methods_are_idempotent_by_the_standard_not_by_taste() {
    for (method, again) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("PROPFIND", false),
        ("get", false),
    ] {
        let (backend, _proxy, mut client, mut wire) = with_reused_connection(&[]);
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        wire.expect_request();
        wire.close();
        if again {
            let mut fresh = backend.accept();
            assert_eq!(fresh.expect_request().method, method);
            fresh.send("HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(client.read_response_to(method).status, 204, "{method}");
        } else {
            assert_eq!(client.read_response().status, 502, "{method}");
            backend.expect_no_connection();
        }
    }
}

#[test]
fn a_put_whose_body_came_with_its_head_is_sent_again_whole() {
    let (backend, _proxy, mut client, mut wire) = with_reused_connection(&[]);
    client.send("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    wire.expect_request();
    wire.close();
    let mut fresh = backend.accept();
    assert_eq!(fresh.serve("stored").body, b"body");
    assert_eq!(client.read_response().text(), "stored");
}

#[test]
fn a_put_whose_body_is_gone_is_502() {
    let (backend, _proxy, mut client, mut wire) = with_reused_connection(&[]);
    client.send("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    wire.expect_request_head();
    for _ in 0..10 {
        client.send(vec![b'x'; 50_000]);
        wire.read_exact(50_000);
    }
    wire.close();
    let response = client.read_response();
    assert_eq!((response.status, response.says_close()), (502, true));
    backend.expect_no_connection();
}

// Row 4: a fresh connection ended, no response byte.

#[test]
fn a_fresh_connection_that_ends_sends_an_idempotent_request_to_the_next_backend() {
    for reset in [false, true] {
        let (backend, origin) = (Backend::start(), Origin::start("next"));
        let proxy = Proxy::over(&[&backend, &origin]).start();
        let mut client = proxy.client();
        client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        let mut wire = backend.accept();
        wire.expect_request();
        if reset {
            wire.reset();
        } else {
            wire.close();
        }
        assert_eq!(client.read_response().text(), "body");
        let line = proxy.wait_for_access("\"PUT /echo ");
        assert_eq!(tries(&line), "2", "{line}");
    }
}

#[test]
fn a_fresh_connection_that_ends_under_a_post_is_502_and_no_other_backend_sees_it() {
    let (backend, origin) = (Backend::start(), Origin::start("next"));
    let proxy = Proxy::over(&[&backend, &origin]).start();
    let mut client = proxy.client();
    client.send(post("/once", b"body"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.close();
    assert_eq!(client.read_response().status, 502);
    assert_eq!(origin.requests(), 0);
    let line = proxy.wait_for_access("\"POST /once ");
    assert_eq!(tries(&line), "1", "{line}");
}

#[test]
fn tries_bounds_how_many_backends_see_a_request() {
    let dying = |_| {
        Backend::start().run(|_, mut wire| {
            wire.expect_request();
            wire.close();
        })
    };
    for tries in [1, 2, 3] {
        let backends = [0, 1, 2, 3].map(dying);
        let proxy = Proxy::over(&backends.each_ref().map(|backend| backend as &dyn Addressed))
            .set("balance.tries", tries)
            .start();
        assert_eq!(proxy.client().get("/").status, 502);
        let seen: usize = backends
            .iter()
            .map(super::support::backend::Running::connections)
            .sum();
        assert_eq!(seen, tries);
        assert!(
            backends.iter().all(|backend| backend.connections() < 2),
            "no backend sees it twice"
        );
    }
}

// Row 5: response head not in time.

#[test]
fn a_timeout_is_never_tried_again() {
    let (backend, origin) = (Backend::start(), Origin::start("other"));
    let proxy = Proxy::over(&[&backend, &origin])
        .set("timeouts.response_head", "200ms")
        .start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    assert_eq!(client.read_response().status, 504);
    assert_eq!(origin.requests(), 0);
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn a_timeout_is_504_whatever_the_method_and_the_connection() {
    for method in ["GET", "POST"] {
        for reused in [false, true] {
            let (backend, origin) = (Backend::start(), Origin::start("other"));
            let proxy = Proxy::over(&[&backend, &origin])
                .one_worker()
                .set("timeouts.response_head", "200ms")
                .start();
            let mut client = proxy.client();
            let mut held = None;
            if reused {
                client.send(get("/first"));
                let mut wire = backend.accept();
                wire.serve("first");
                client.read_response();
                client.get("/other");
                held = Some(wire);
            }
            let before = origin.requests();
            client.send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ));
            let mut wire = backend.accept_or(held);
            wire.expect_request();
            assert_eq!(client.read_response().status, 504, "{method} {reused}");
            wire.expect_gone();
            backend.expect_no_connection();
            assert_eq!(origin.requests(), before, "{method} {reused}");
            assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
        }
    }
}

// Row 6: any response byte came.

#[test]
fn after_the_first_byte_nothing_is_tried_again_on_a_reused_connection_either() {
    for method in ["GET", "POST"] {
        let other = Origin::start("other");
        let (backend, proxy, mut client, mut wire) = with_reused_connection(&[&other]);
        let before = other.requests();
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        wire.expect_request();
        wire.send("HTTP/1.1 20");
        wire.close();
        assert_eq!(client.read_response().status, 502, "{method}");
        backend.expect_no_connection();
        assert_eq!(other.requests(), before, "{method}");
        assert_eq!(
            proxy.events_with(&["is down"]),
            0,
            "not on a connection that was reused: {:?}",
            proxy.events()
        );
    }
}

#[test]
fn a_post_whose_answer_breaks_off_is_502_before_the_head_and_cut_after_it() {
    let (backend, origin) = (Backend::start(), Origin::start("other"));
    let proxy = Proxy::over(&[&backend, &origin]).start();
    let mut client = proxy.client();
    client.send(post("/", b"body"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.read_response_head().status, 200);
    wire.close();
    assert_eq!(client.read_until_gone().0, b"12345");
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "other");
    client.send(post("/", b"body"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-");
    wire.close();
    assert_eq!(client.read_response().status, 502);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn after_the_first_byte_of_an_answer_nothing_is_tried_again() {
    for answer in [
        "H",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "nonsense",
        "HTTP/1.1 200 OK\r\n\0",
    ] {
        let (backend, origin) = (Backend::start(), Origin::start("other"));
        let proxy = Proxy::over(&[&backend, &origin]).start();
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(answer);
        wire.close();
        let mut response = client.read_response();
        if response.status == 100 {
            response = client.read_response();
        }
        assert_eq!(response.status, 502, "{answer:?}");
        assert_eq!(origin.requests(), 0, "{answer:?}");
    }
}

#[test]
fn after_the_head_was_passed_on_the_client_is_cut() {
    let (backend, origin) = (Backend::start(), Origin::start("other"));
    let proxy = Proxy::over(&[&backend, &origin]).start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    wire.close();
    assert_eq!(client.read_response_head().status, 200);
    assert_eq!(client.read_until_gone().0, b"12345");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_failure_counts_once_for_one_exchange() {
    // With `fall` 2 it takes two failures, which are the third death and the fourth.
    let backend = Backend::start().run(|number, mut wire| {
        wire.expect_request();
        if number >= 4 {
            wire.answer("ok");
        }
    });
    let proxy = Proxy::over(&[&backend])
        .checks(serde_json::json!({ "kind": "none", "fall": 2 }))
        .start();
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").status, 502);
        assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
    }
    assert_eq!(proxy.client().get("/").status, 502);
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert_eq!(proxy.client().get("/").text(), "ok", "fail open");
}

/// A GET that kills whichever backend serves it must not take the pool from the other clients.
#[test]
fn a_poison_request_takes_no_backend_down() {
    let backends: [_; 4] = std::array::from_fn(|_| {
        Backend::start().run(|_, mut wire| {
            while let Some(request) = wire.next_request() {
                if request.target == "/poison" {
                    return wire.reset();
                }
                wire.answer("fine");
            }
        })
    });
    let proxy = Proxy::over(&backends.each_ref().map(|each| each as &dyn Addressed))
        .set("balance.tries", 10)
        .checks(serde_json::json!({ "interval": "24h", "down_interval": "24h" }))
        .start();
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/poison").status, 502);
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "fine");
        }
    }
    proxy.expect_no_event(&["is down"]);
}

// Not in the table: a shortage on our side.

#[test]
fn a_shortage_of_descriptors_is_503_and_blames_no_backend() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|each| each as &dyn Addressed)).start();
    let open = proxy.open_fds();
    let mut clients = [proxy.client(), proxy.client()];
    eventually("both are accepted", || proxy.open_fds() == open + 2);
    let before = proxy.limit_descriptors(Some(3));
    for client in &mut clients {
        let response = client.get("/");
        assert_eq!(response.status, 503);
        assert!(response.fields.has("retry-after"), "{response:?}");
    }
    proxy.limit_descriptors(before);
    assert_eq!(origins.each_ref().map(Origin::connections), [0, 0, 0]);
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
    for client in &mut clients {
        assert_eq!(
            client.get("/").status,
            200,
            "as soon as there are some again"
        );
    }
}
