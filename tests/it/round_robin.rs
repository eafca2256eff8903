//! Which backend gets the next request: exact turns, weights, and backends that are passed over.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Origin, Proxy, Response};
use std::collections::HashMap;

fn name_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.fields.one("x-origin").unwrap().to_owned()
}

#[test]
fn sequential_requests_land_on_each_in_turn() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed)).start();
    let mut client = proxy.client();
    let turn: Vec<String> = (0..4).map(|_| name_of(&client.get("/"))).collect();
    assert_eq!(turn, ["origin-0", "origin-1", "origin-2", "origin-3"]);
    for number in 4..400 {
        assert_eq!(
            name_of(&client.get("/")),
            turn[number % 4],
            "request {number}"
        );
    }
    for origin in &origins {
        assert_eq!(origin.requests(), 100);
    }
}

#[test]
fn the_turns_go_on_over_connections_and_workers() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed)).start();
    for round in 0..30 {
        for name in ["origin-0", "origin-1", "origin-2"] {
            assert_eq!(name_of(&proxy.client().get("/")), name, "round {round}");
        }
    }
}

#[test]
fn requests_at_the_same_time_are_shared_out_exactly() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed)).start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..50 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    for origin in &origins {
        assert_eq!(origin.requests(), 100);
    }
}

#[test]
fn weights_are_kept_smoothly() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .set("backends.0.weight", 5)
        .start();
    let mut client = proxy.client();
    let names: Vec<String> = (0..70).map(|_| name_of(&client.get("/"))).collect();
    // In every window of one full turn each has its weight, and the heavy one never takes its five in a row.
    for window in names.windows(7) {
        let mut counts = HashMap::new();
        for name in window {
            *counts.entry(name.as_str()).or_insert(0) += 1;
        }
        assert_eq!(
            counts,
            HashMap::from([("origin-0", 5), ("origin-1", 1), ("origin-2", 1)]),
            "{window:?}"
        );
    }
    assert!(
        !names
            .windows(5)
            .any(|window| window.iter().all(|name| name == "origin-0")),
        "{names:?}"
    );
}

#[test]
fn weight_0_and_disabled_backends_get_nothing() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .set("backends.0.weight", 0)
        .set("backends.1.IsDead", true)
        .start();
    for _ in 0..10 {
        assert_eq!(name_of(&proxy.client().get("/")), "origin-2");
    }
    assert_eq!((origins[0].requests(), origins[1].requests()), (0, 0));
}

#[test]
fn with_no_backend_to_take_it_the_client_gets_503_and_retry_after() {
    let origins: [Origin; 2] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .set("backends.0.weight", 0)
        .set("backends.1.IsDead", true)
        .start();
    let mut client = proxy.client();
    let response = client.get("/");
    assert_eq!(response.status, 503);
    assert!(
        response
            .fields
            .one("retry-after")
            .unwrap()
            .parse::<u32>()
            .is_ok()
    );
    assert!(
        !response.says_close(),
        "the request was read to its end: {response:?}"
    );
    assert_eq!(client.get("/").status, 503, "on the same connection");
}

#[test]
fn a_backup_serves_only_when_no_other_is_healthy() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .set("backends.1.backup", true)
        .start();
    let mut client = proxy.client();
    for _ in 0..10 {
        client.get("/");
    }
    assert_eq!(
        [
            origins[0].requests(),
            origins[1].requests(),
            origins[2].requests()
        ],
        [5, 0, 5]
    );
    origins[0].kill();
    origins[2].kill();
    for _ in 0..5 {
        assert_eq!(name_of(&client.get("/")), "origin-1");
    }
}

#[test]
fn a_full_backend_is_passed_over() {
    let scripted = Backend::start();
    let origin = Origin::start("other");
    let proxy = Proxy::over(&[&scripted, &origin])
        .set("backends.0.max_connections", 1)
        .one_worker()
        .start();
    let mut waiting = proxy.client();
    waiting.send(get("/slow"));
    let mut held = scripted.accept();
    held.expect_request();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(name_of(&client.get("/")), "other");
    }
    held.answer("done");
    assert_eq!(waiting.read_response().text(), "done");
    // Free again: of the next two, one is its.
    waiting.send(get("/again"));
    client.send(get("/again"));
    held.serve("again");
    let mut texts = [
        waiting.read_response().text(),
        client.read_response().text(),
    ];
    texts.sort();
    assert_eq!(texts, ["again", "other"]);
}

#[test]
fn when_all_are_full_the_client_gets_503_at_once() {
    let scripted = Backend::start();
    let proxy = Proxy::over(&[&scripted])
        .set("backends.0.max_connections", 1)
        .start();
    let mut waiting = proxy.client();
    waiting.send(get("/slow"));
    let mut held = scripted.accept();
    held.expect_request();
    let response = proxy.client().get("/");
    assert_eq!(response.status, 503);
    assert!(response.fields.has("retry-after"));
    held.answer("done");
    assert_eq!(waiting.read_response().text(), "done");
}

#[test]
fn every_backend_counts_by_itself_however_many_there_are() {
    // More than one machine word of them.
    let origins: [Origin; 70] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed)).start();
    let mut client = proxy.client();
    for round in 0..2 {
        for number in 0..origins.len() {
            assert_eq!(
                name_of(&client.get("/")),
                format!("origin-{number}"),
                "round {round}"
            );
        }
    }
}
