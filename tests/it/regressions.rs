//! What other balancers of this kind get wrong, each by its name: never here.
//!
//! `godon_` is the article's own program, `simplelb_` and `anabranch_` are its relatives.

use crate::support::client::{get, post};
use crate::support::proxy::run_with_config;
use crate::support::{
    Addressed, Backend, Origin, PATIENCE, Proxy, Refusing, Unreachable, eventually,
};
use serde_json::json;
use std::time::Instant;

/// Backends were copied out of the list, so that the copy was marked dead and the next request tried it again.
#[test]
fn godon_dead_flag_sticks() {
    let dead = Backend::start().run(|_, mut wire| {
        wire.expect_request();
        wire.close();
    });
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&dead, &origin])
        .checks(json!({ "kind": "none", "down_interval": "1h" }))
        .start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").text(), "other");
    }
    assert_eq!(
        dead.connections(),
        3,
        "marked at its third death, then left alone"
    );
}

/// After one dead backend the next one was taken unseen.
#[test]
fn godon_skips_two_dead_neighbours() {
    let (one, two, three) = (Refusing::start(), Refusing::start(), Refusing::start());
    let origin = Origin::start("last");
    let proxy = Proxy::over(&[&one, &two, &three, &origin]).start();
    for _ in 0..8 {
        assert_eq!(proxy.client().get("/").text(), "last");
    }
}

/// With all of them dead it retried without end.
#[test]
fn godon_all_dead_ends_in_502_quickly() {
    let dead: [Refusing; 4] = std::array::from_fn(|_| Refusing::start());
    let proxy = Proxy::over(&dead.each_ref().map(|each| each as &dyn Addressed)).start();
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(proxy.client().get("/").status, 502);
    }
    assert!(begin.elapsed() < PATIENCE / 4, "{:?}", begin.elapsed());
}

/// A client that left in the middle of its request marked the backend dead, and the next, until none was left.
#[test]
fn godon_client_abort_leaves_backends_up() {
    let backends: [Backend; 3] = std::array::from_fn(|_| Backend::start());
    let proxy = Proxy::over(&backends.each_ref().map(|each| each as &dyn Addressed)).start();
    for round in 0..6 {
        let mut client = proxy.client();
        client.send(post("/", b"body"));
        let mut wire = backends[round % 3].accept();
        wire.expect_request();
        client.reset();
        wire.expect_gone();
    }
    for backend in &backends {
        let mut client = proxy.client();
        client.send(get("/"));
        backend.accept().serve("up");
        assert_eq!(client.read_response().text(), "up");
    }
    proxy.expect_no_event(&["is down"]);
}

/// One impatient client marked every backend dead, by leaving while its request was tried on one after the other.
#[test]
fn simplelb_one_impatient_client_does_not_take_the_pool_down() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed)).start();
    for _ in 0..100 {
        let mut client = proxy.client();
        client.send(get("/"));
        client.reset();
    }
    for _ in 0..9 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    proxy.expect_no_event(&["is down"]);
}

/// The body of a POST was read for the dead backend and gone for the next one.
#[test]
fn godon_post_to_a_dead_backend_arrives_once_and_whole_at_the_next() {
    let body = crate::support::pattern(200_000);
    let dead = Refusing::start();
    let origin = Origin::start("next");
    let proxy = Proxy::over(&[&dead, &origin]).start();
    let response = proxy.client().post("/echo", &body);
    assert!(response.status == 200 && response.body == body);
    assert_eq!(origin.requests(), 1);
}

/// Each retry appended the client's address once more.
#[test]
fn godon_no_repeated_x_forwarded_for_on_retry() {
    let (dead, dying, backend) = (Refusing::start(), Backend::start(), Backend::start());
    let proxy = Proxy::over(&[&dead, &dying, &backend])
        .set("proxy.trust_forwarded", true)
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 first\r\n\r\n");
    dying.accept().expect_request();
    let request = backend.accept().serve("ok");
    assert_eq!(
        request.fields.all("x-forwarded-for").join(", "),
        "1.2.3.4, 127.0.0.1"
    );
    assert_eq!(request.fields.all("via").join(", "), "1.1 first, 1.1 rondo");
    assert_eq!(request.fields.all("x-request-id").len(), 1);
    assert_eq!(client.read_response().text(), "ok");
}

/// It panicked under its lock.
#[test]
fn godon_empty_backend_list_is_a_configuration_error() {
    let finished = run_with_config(
        &["config.json"],
        r#"{ "proxy": { "port": 0 }, "backends": [] }"#,
    );
    assert_eq!(
        (finished.code, finished.stderr.lines().count()),
        (2, 1),
        "{finished:?}"
    );
    assert!(finished.stderr.contains("backends"), "{finished:?}");
}

/// What was wrong in the file was read as zero values.
#[test]
fn godon_errors_in_the_configuration_are_errors() {
    for config in [
        "",
        "{",
        r#"{ "proxy": { "port": "eighty" }, "backends": [ { "url": "http://a.test/" } ] }"#,
    ] {
        let finished = run_with_config(&["config.json"], config);
        assert_eq!(
            (finished.code, finished.stderr.lines().count()),
            (2, 1),
            "{finished:?}"
        );
    }
}

/// The first check came a minute after the start.
#[test]
fn godon_first_check_at_start() {
    let (dead, origin) = (Refusing::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&dead, &origin])
        .checks(json!({ "interval": "24h" }))
        .start();
    proxy.wait_for_event(&[&dead.name(), "is down"]);
    assert_eq!(origin.requests(), 0);
}

/// One backend was checked after the other.
#[test]
fn godon_hanging_check_does_not_delay_others() {
    let (hanging, dead) = (Unreachable::start(), Refusing::start());
    let proxy = Proxy::over(&[&hanging, &dead])
        .checks(json!({ "timeout": "24h" }))
        .start();
    proxy.wait_for_event(&[&dead.name(), "is down"]);
}

/// It had none: a silent peer held its goroutine and its descriptor for ever.
#[test]
fn godon_timeouts_exist() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("timeouts.client_head", "200ms")
        .set("timeouts.client_idle", "200ms")
        .set("timeouts.response_head", "200ms")
        .start();
    let (mut silent, mut half, mut waiting) = (proxy.client(), proxy.client(), proxy.client());
    half.send("GET / HT");
    waiting.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    silent.expect_closed();
    assert_eq!(half.read_response().status, 408);
    assert_eq!(waiting.read_response().status, 504);
    wire.expect_gone();
}

/// A dead backend's whole share went to its neighbour in the list.
#[test]
fn neighbour_of_a_dead_backend_gets_its_fair_share() {
    let dead = Refusing::start();
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&[&dead, &origins[0], &origins[1], &origins[2]]).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    origins.iter().for_each(Origin::forget);
    for _ in 0..90 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origins.each_ref().map(Origin::requests), [30, 30, 30]);
}

/// Backends were identified by their address: two with the same one were marked, counted and drained together.
#[test]
fn two_backends_with_one_address_are_two_backends() {
    let (origin, other) = (Origin::start("same"), Origin::start("other"));
    let proxy = Proxy::over(&[&origin, &origin, &other])
        .set("backends.1.IsDead", true)
        .start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    assert_eq!(
        (origin.requests(), other.requests()),
        (10, 10),
        "only one of the two is disabled"
    );
    let proxy = Proxy::over(&[&origin, &origin, &other]).start();
    origin.forget();
    other.forget();
    for _ in 0..30 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    assert_eq!((origin.requests(), other.requests()), (20, 10));
}

/// The counter of exchanges in flight was set back to zero while some were.
#[test]
fn anabranch_exchanges_in_flight_are_counted_to_the_end() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .one_worker()
        .set("backends.0.max_connections", 2)
        .start();
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = proxy.client();
            client.send(get("/"));
            let mut wire = backend.accept();
            wire.expect_request();
            (client, wire)
        })
        .collect();
    assert_eq!(proxy.client().get("/").status, 503);
    for (client, wire) in &mut held {
        wire.answer("done");
        assert_eq!(client.read_response().text(), "done");
    }
    // Both places are free again, neither more nor less than once.
    for (client, wire) in &mut held {
        client.send(get("/"));
        let _ = wire;
    }
    for (_, wire) in held.iter_mut().rev() {
        wire.expect_request();
    }
    assert_eq!(proxy.client().get("/").status, 503);
}

/// A backend that had been marked dead stayed so until the next start of the balancer.
#[test]
fn pound_a_backend_that_is_back_is_used_again() {
    let origins: [Origin; 2] = Origin::several();
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(json!({ "down_interval": "20ms" }))
        .start();
    for _ in 0..3 {
        origins[0].kill();
        let mut client = proxy.client();
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.get("/").status, 200);
        origins[0].revive();
        origins[0].forget();
        eventually("it is used again", || {
            assert_eq!(client.get("/").status, 200);
            origins[0].requests() > 0
        });
    }
}

/// One request that kills whichever backend serves it took the whole pool to 502 for the time of a penalty.
#[test]
fn nginx_a_request_that_kills_backends_does_not_take_the_pool_down() {
    let script = |_, mut wire: crate::support::Wire| {
        while let Some(request) = wire.next_request() {
            if request.target == "/killer" {
                return;
            }
            wire.answer("fine");
        }
    };
    let backends: [_; 3] = std::array::from_fn(|_| Backend::start().run(script));
    let proxy = Proxy::over(&backends.each_ref().map(|each| each as &dyn Addressed))
        .checks(json!({ "interval": "24h", "down_interval": "24h" }))
        .start();
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/killer").status, 502);
        assert_eq!(proxy.client().get("/").text(), "fine");
    }
    assert!(begin.elapsed() < PATIENCE / 2);
    proxy.expect_no_event(&["is down"]);
}
