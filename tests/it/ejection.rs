//! Backends that answer badly are out for a time, those that come grow into their weight, and retries are bounded.

use crate::support::admin::{TOKEN, address, ask, get, with_letters};
use crate::support::backend::Running;
use crate::support::{Addressed, Backend, Origin, Proxy, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Answers `/bad` with 500, `/broken` with half of its body, and all else with its name.
fn moody(name: &'static str) -> Running {
    Backend::start().run(move |_, mut wire| {
        while let Some(request) = wire.next_request() {
            let length = name.len();
            match &*request.target {
                "/bad" => wire.send("HTTP/1.1 500 Bad\r\nContent-Length: 3\r\n\r\nbad"),
                "/broken" => {
                    wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbrok");
                    return;
                }
                _ => wire.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"
                )),
            }
        }
    })
}

fn over(backends: &[&dyn Addressed], ejection: Value) -> Proxy {
    with_letters(backends).set("ejection", ejection).start()
}

/// The value of a key of each backend in `/status`.
fn each(admin: SocketAddr, key: &str) -> Vec<Value> {
    let status = get(admin, "/status");
    let backends = status["backends"].as_array().unwrap();
    backends
        .iter()
        .map(|backend| backend[key].clone())
        .collect()
}

fn ejected(admin: SocketAddr) -> usize {
    let states = each(admin, "state");
    states.iter().filter(|state| **state == "ejected").count()
}

/// One user's errors must not take the backends from the others.
#[test]
fn a_client_that_asks_for_errors_only_does_not_take_the_backends_from_the_others() {
    let backends = [moody("a"), moody("b"), moody("c"), moody("d")];
    let all = backends.each_ref().map(|each| each as &dyn Addressed);
    let proxy = over(&all, json!({ "time": "1h" }));
    let admin = address(&proxy);
    let (mut rude, mut other) = (proxy.client(), proxy.client());
    for _ in 0..100 {
        assert_eq!(rude.get("/bad").status, 500);
        assert_eq!(other.get("/").status, 200);
    }
    // The other's good answers stand between the errors, or do not: half of them is the most.
    for _ in 0..100 {
        assert_eq!(rude.get("/bad").status, 500);
    }
    eventually("two are out", || ejected(admin) == 2);
    for _ in 0..20 {
        assert_eq!(other.get("/").status, 200);
    }
    assert_eq!(
        proxy.events_with(&[
            "is ejected for 3600s: 5 bad exchanges in a row, the last one: status 500"
        ]),
        2
    );
    let mut health = each(admin, "health");
    health.sort_by_key(Value::to_string);
    assert_eq!(health, ["ejected", "ejected", "up", "up"]);
}

#[test]
fn answers_that_break_off_eject_and_the_backend_is_back_after_its_time() {
    let backends = [moody("a"), moody("b")];
    let all = backends.each_ref().map(|each| each as &dyn Addressed);
    let proxy = over(&all, json!({ "errors": 2, "time": "300ms" }));
    eventually("one is ejected", || {
        let mut client = proxy.client();
        client.send(crate::support::client::get("/broken"));
        client.read_until_gone();
        proxy.events_with(&["is ejected for 300ms", "its answer broke off"]) > 0
    });
    let mut client = proxy.client();
    let admin = address(&proxy);
    eventually("all are up", || {
        client.get("/");
        each(admin, "state") == ["up"; 2]
    });
    proxy.wait_for_event(&["is back from its ejection"]);
    let names: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    assert!(names.contains(&"a".to_owned()) && names.contains(&"b".to_owned()));
}

#[test]
fn the_operator_ends_an_ejection_and_so_does_a_reload_without_the_section() {
    let backends = [moody("a"), moody("b")];
    let all = backends.each_ref().map(|each| each as &dyn Addressed);
    let mut proxy = over(&all, json!({ "errors": 1, "time": "1h" }));
    let admin = address(&proxy);
    let mut client = proxy.client();
    client.get("/bad");
    eventually("one is out", || ejected(admin) == 1);
    let states = each(admin, "state");
    let name = if states[0] == "ejected" { "a" } else { "b" };
    let why = json!("1 bad exchange in a row, the last one: status 500");
    assert!(each(admin, "reason").contains(&why));
    ask(admin, "POST", &format!("/backends/{name}/enable"), "");
    assert_eq!(ejected(admin), 0);
    client.get("/bad");
    eventually("one is out again", || ejected(admin) == 1);
    proxy.reload(|config| {
        config.as_object_mut().unwrap().remove("ejection");
    });
    client.get("/");
    assert_eq!(ejected(admin), 0);
}

#[test]
fn a_backend_that_is_enabled_again_grows_into_its_weight() {
    let origins = Origin::several::<2>();
    let entries = json!([
        { "url": origins[0].url(), "name": "a" },
        { "url": origins[1].url(), "name": "b" },
    ]);
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .set("backends", entries)
        .set("balance.slow_start", "1h")
        .set("admin.address", "127.0.0.1:0")
        .set("admin.token", TOKEN)
        .start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    client.get("/");
    assert_eq!(each(admin, "trust_percent"), [100, 100]);
    ask(admin, "POST", "/backends/a/disable", "");
    ask(admin, "POST", "/backends/a/enable", "");
    assert_eq!(each(admin, "trust_percent"), [10, 100]);
    assert_eq!(each(admin, "share_wanted_percent"), [9.091, 90.909]);
    origins[0].forget();
    for _ in 0..110 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origins[0].requests(), 10);
}

/// Two backends close each connection that was opened for a request, which goes on to the other one.
#[test]
fn ten_retries_are_always_allowed_and_the_next_one_gets_the_failures_own_status() {
    let dying = || Backend::start().run(|_, mut wire| drop(wire.next_request()));
    let (one, other) = (dying(), dying());
    let proxy = Proxy::over(&[&one, &other])
        .checks(json!({ "kind": "none", "fall": 100, "down_interval": "1ms" }))
        .set("balance.retry_percent", 0)
        .set("balance.tries", 2)
        .set("admin.address", "127.0.0.1:0")
        .start();
    for _ in 0..15 {
        let mut client = proxy.client();
        assert_eq!(client.get("/").status, 502);
    }
    eventually("the lines", || proxy.access_lines().len() >= 15);
    // Ten requests came to both, five to one only.
    assert_eq!(one.connections() + other.connections(), 25);
    let status = ask(address(&proxy), "GET", "/metrics", "");
    assert!(status.text().contains("rondo_retries_refused_total 5\n"));
}
