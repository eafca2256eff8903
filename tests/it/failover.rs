//! A backend that dies is left out at once, its work goes on elsewhere, and it is used again when it is back.

use crate::support::{Addressed, Backend, Origin, PATIENCE, Proxy, Refusing, eventually};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_backend_that_refuses_costs_no_request() {
    let (dead, [one, two]) = (Refusing::start(), Origin::several());
    let proxy = Proxy::over(&[&one, &dead, &two]).start();
    let mut client = proxy.client();
    for _ in 0..30 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(
        (one.requests(), two.requests()),
        (15, 15),
        "the share of the dead one is spread evenly"
    );
}

#[test]
fn a_change_of_state_is_logged_once_with_the_backends_name_and_the_reason() {
    let (dead, origin) = (Refusing::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&dead, &origin])
        .set("backends.0.name", "left")
        .start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    let line = proxy.wait_for_event(&["left", "is down"]);
    assert!(
        line.to_lowercase().contains("refused"),
        "no reason in {line:?}"
    );
    assert_eq!(
        proxy.events_with(&["left", "is down"]),
        1,
        "{:?}",
        proxy.events()
    );
}

#[test]
fn a_backend_killed_between_two_requests_costs_no_request() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&[&origins[0], &origins[1], &origins[2]]).start();
    let mut client = proxy.client();
    for _ in 0..9 {
        assert_eq!(client.get("/").status, 200);
    }
    origins[1].kill();
    for _ in 0..9 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origins[1].requests(), 3);
    assert_eq!((origins[0].requests() + origins[2].requests()), 15);
}

#[test]
fn a_backend_killed_under_load_fails_no_get_before_during_and_after_its_return() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .checks(serde_json::json!({ "down_interval": "100ms" }))
        .start();
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // However this ends, the clients end with it.
        let _stopping = StopAtEnd(&stop);
        for number in 0..8 {
            let (stop, answered, proxy) = (&stop, &answered, &proxy);
            scope.spawn(move || {
                let mut client = proxy.client();
                while !stop.load(Ordering::SeqCst) {
                    let response = client.get("/");
                    if response.status != 200 {
                        stop.store(true, Ordering::SeqCst);
                        panic!("client {number}: {response:?}");
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let more = |count: usize| {
            let goal = answered.load(Ordering::SeqCst) + count;
            eventually("requests go on", || {
                answered.load(Ordering::SeqCst) >= goal || stop.load(Ordering::SeqCst)
            });
        };
        for _ in 0..3 {
            more(200);
            origins[2].kill();
            more(200);
            origins[2].revive();
            origins[2].forget();
            eventually("it is used again", || {
                origins[2].requests() > 10 || stop.load(Ordering::SeqCst)
            });
        }
    });
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_backend_that_comes_back_gets_its_turns_again_after_a_check() {
    let origins: [Origin; 2] = Origin::several();
    origins[1].kill();
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(serde_json::json!({ "down_interval": "50ms" }))
        .start();
    proxy.wait_for_event(&[&origins[1].name(), "is down"]);
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").fields.one("x-origin"), Some("origin-0"));
    }
    origins[1].revive();
    proxy.wait_for_event(&[&origins[1].name(), "is up"]);
    origins[0].forget();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((origins[0].requests(), origins[1].requests()), (5, 5));
}

#[test]
fn a_connection_that_ends_without_an_answer_sends_a_get_to_the_next_backend() {
    let backend = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        wire.close();
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&backend, &origin]).start();
    for _ in 0..12 {
        assert_eq!(proxy.client().get("/").text(), "other");
    }
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert_eq!(
        backend.connections(),
        3,
        "down at the third death in a row, and left alone then"
    );
}

#[test]
fn a_reset_without_an_answer_counts_as_well() {
    let backend = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        wire.reset();
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&backend, &origin]).start();
    for _ in 0..12 {
        assert_eq!(proxy.client().get("/").text(), "other");
    }
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert_eq!(backend.connections(), 3);
}

#[test]
fn an_answer_begins_the_count_of_deaths_again() {
    let backend = Backend::start().run(|number, mut wire| {
        wire.expect_request();
        if number % 3 == 2 {
            wire.try_send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&backend, &origin]).one_worker().start();
    let answers = (0..24)
        .filter(|_| proxy.client().get("/").status == 204)
        .count();
    assert_eq!((backend.connections(), answers), (12, 4));
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn a_backend_that_dies_under_a_request_is_checked_at_once() {
    let (dying, other) = (Origin::start("dying"), Origin::start("other"));
    let proxy = Proxy::over(&[&dying, &other])
        .checks(serde_json::json!({ "interval": "24h", "down_interval": "24h" }))
        .start();
    eventually("both were checked", || {
        dying.connections() > 0 && other.connections() > 0
    });
    // The request's connection is closed without an answer, and then the port is, too.
    dying.die_under_requests();
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "other");
    }
    let line = proxy.wait_for_event(&[&dying.name(), "is down"]);
    assert!(line.to_lowercase().contains("refused"), "{line}");
    assert_eq!(dying.requests(), 1, "no second request found out");
}

#[test]
fn what_a_client_can_make_a_backend_send_takes_no_backend_away() {
    let many = "X: y\r\n".repeat(101);
    let long = format!("X: {}\r\n", "x".repeat(17_000));
    for (fields, reason) in [
        (many.as_str(), "too many fields"),
        (long.as_str(), "head too long"),
        ("X: a\u{1}b\r\n", "control character"),
        ("X: a\nY: b\r\n", "bare LF"),
        (
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length",
        ),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let backends: [_; 2] = std::array::from_fn(|_| {
            let answer = answer.clone();
            Backend::start().run(move |_, mut wire| {
                while let Some(request) = wire.next_request() {
                    if request.target == "/bad" {
                        wire.try_send(&answer);
                    } else {
                        wire.answer("fine");
                    }
                }
            })
        });
        let proxy = Proxy::over(&[&backends[0], &backends[1]]).start();
        for _ in 0..6 {
            assert_eq!(proxy.client().get("/bad").status, 502, "{reason}");
            assert_eq!(proxy.client().get("/").text(), "fine");
        }
        let line = proxy.wait_for_access("GET /bad ");
        assert!(line.contains(reason), "{line}");
        proxy.wait_for_event(&[" 502 for GET /bad: its response head is refused: ", reason]);
        proxy.expect_no_event(&["is down"]);
    }
}

#[test]
fn bytes_that_are_no_http_take_a_backend_away_at_once() {
    let backend = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        wire.try_send("SSH-2.0-OpenSSH_9.2\r\n");
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&backend, &origin]).start();
    let statuses: Vec<u16> = (0..6).map(|_| proxy.client().get("/").status).collect();
    assert_eq!(statuses.iter().filter(|&&status| status == 502).count(), 1);
    let line = proxy.wait_for_event(&[&backend.name(), "is down"]);
    assert!(line.contains("not HTTP"), "{line}");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn whatever_status_a_backend_sends_it_stays_up() {
    let failing = Backend::start().run(|_, mut wire| {
        while wire.next_request().is_some() {
            wire.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&failing, &origin]).start();
    let mut client = proxy.client();
    let statuses: Vec<u16> = (0..20).map(|_| client.get("/").status).collect();
    assert_eq!(
        statuses.iter().filter(|&&status| status == 500).count(),
        10,
        "{statuses:?}"
    );
    proxy.expect_no_event(&["is down"]);
}

#[test]
fn a_malformed_body_is_no_sign_of_a_dead_backend() {
    // What counts is what happens before the head; after it the backend is alive, if mistaken.
    for whole in [true, false] {
        let backend = Backend::start();
        let proxy = Proxy::over(&[&backend]).start();
        let mut client = proxy.client();
        client.send(crate::support::client::get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        let (head, body) = (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "nonsense\r\n",
        );
        if whole {
            wire.send(format!("{head}{body}"));
        } else {
            wire.send(head);
            client.read_response_head();
            wire.send(body);
        }
        wire.read_until_gone();
        let mut client = proxy.client();
        client.send(crate::support::client::get("/"));
        backend.accept().serve("up");
        assert_eq!(client.read_response().text(), "up");
        proxy.expect_no_event(&["is down"]);
    }
}

#[test]
fn with_all_down_every_one_is_tried_before_502_whatever_tries_says() {
    let dead: [Refusing; 5] = std::array::from_fn(|_| Refusing::start());
    let last = Origin::dead("last");
    let mut backends: Vec<&dyn Addressed> =
        dead.iter().map(|each| each as &dyn Addressed).collect();
    backends.push(&last);
    let proxy = Proxy::over(&backends).set("balance.tries", 1).start();
    let mut client = proxy.client();
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 502);
    }
    assert!(begin.elapsed() < PATIENCE / 2);
    // Fail open: it serves from the moment it is back, without waiting for any check.
    last.revive();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "last");
    }
}

#[test]
fn without_checks_a_backend_is_tried_again_after_down_interval() {
    let origins: [Origin; 2] = Origin::several();
    origins[1].kill();
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(serde_json::json!({ "kind": "none", "down_interval": "200ms" }))
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    origins[1].revive();
    eventually("it is tried again", || {
        assert_eq!(client.get("/").status, 200);
        origins[1].requests() > 3
    });
}

#[test]
fn a_name_that_does_not_resolve_costs_no_request() {
    let origin = Origin::start("one");
    let unknown: std::net::SocketAddr = ([127, 0, 0, 1], 1).into();
    let proxy = Proxy::over(&[&unknown, &origin])
        .set("backends.0.url", "http://does-not-exist.invalid:81/")
        .start();
    for _ in 0..6 {
        assert_eq!(proxy.client().get("/").text(), "one");
    }
}

#[test]
fn localhost_is_tried_at_both_its_addresses() {
    let origin = Origin::start("four");
    let url = format!("http://localhost:{}/", origin.address().port());
    let proxy = Proxy::over(&[&origin]).set("backends.0.url", url).start();
    assert_eq!(proxy.client().get("/").text(), "four");

    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    if std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
        // Another process has the same port on the other address; this run shows nothing.
        return;
    }
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        crate::support::Wire::new(stream).serve("six");
    });
    let proxy = Proxy::over(&[&address])
        .set("backends.0.url", format!("http://localhost:{port}/"))
        .start();
    assert_eq!(proxy.client().get("/").text(), "six");
    server.join().unwrap();
}
