//! What the admin interface changes: backends drained, disabled, enabled, added, changed and removed, and a reload that is
//! answered.

use crate::support::admin::{address, ask, json as document, with_letters};
use crate::support::load::under_load;
use crate::support::{Addressed as _, Client, Holding, Origin, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The document of an answer with this status.
#[track_caller]
fn expect(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(
        response.fields.one("Content-Type"),
        Some("application/json")
    );
    document(response)
}

#[track_caller]
fn post(admin: SocketAddr, target: &str) -> Value {
    expect(&ask(admin, "POST", target, ""), 200)
}

#[track_caller]
fn put(admin: SocketAddr, name: &str, entry: &Value) -> Response {
    let target = format!("/backends/{name}");
    ask(admin, "PUT", &target, &entry.to_string())
}

#[track_caller]
fn delete(admin: SocketAddr, name: &str) -> Response {
    ask(admin, "DELETE", &format!("/backends/{name}"), "")
}

/// The names that answer the next requests, sorted and each once.
fn who_answers(client: &mut Client, requests: usize) -> String {
    let mut names: Vec<String> = (0..requests).map(|_| client.get("/").text()).collect();
    names.sort();
    names.dedup();
    names.join(" ")
}

#[test]
fn a_drained_backend_finishes_what_it_has_and_it_is_said_once() {
    let (held, other) = (Holding::start("held"), Origin::start("other"));
    let proxy = with_letters(&[&held, &other]).one_worker().start();
    let admin = address(&proxy);
    let mut client = proxy.hold(|| held.held());
    let would = post(admin, "/backends/a/drain?dry_run=1");
    let did = post(admin, "/backends/a/drain");
    for (document, dry_run) in [(&would, true), (&did, false)] {
        let expected = json!({
            "dry_run": dry_run, "name": "a", "change": "drain", "in_flight": 1, "eligible": 1, "warnings": [],
            "shares": [{"name": "a", "before_percent": 50, "after_percent": 0}, {"name": "b", "before_percent": 50, "after_percent": 100}],
        });
        assert_eq!(*document, expected);
    }
    let line = proxy.wait_for_event(&["takes no new clients"]);
    let said = r#"backend "a" takes no new clients: admin interface; 1 in flight"#;
    assert!(line.ends_with(said), "{line}");
    assert_eq!(who_answers(&mut proxy.client(), 10), "other");
    assert_eq!(proxy.events_with(&["has nothing in flight"]), 0);
    held.release();
    assert_eq!(client.read_response().text(), "held");
    proxy.wait_for_event(&[r#"backend "a" has nothing in flight"#]);
    assert_eq!(post(admin, "/backends/a/drain")["change"], "none");
    assert_eq!(post(admin, "/backends/a/enable")["change"], "enable");
    assert_eq!(who_answers(&mut proxy.client(), 10), "held other");
    proxy.wait_for_event(&[r#"backend "a" is enabled: admin interface"#]);
    assert_eq!(proxy.events_with(&["takes no new clients"]), 1);
    assert_eq!(proxy.events_with(&["has nothing in flight"]), 1);
}

#[test]
fn a_drained_backend_keeps_its_bound_clients_and_a_disabled_one_does_not() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let proxy = with_letters(&[&a, &b])
        .set("balance.persistence", json!({ "kind": "cookie" }))
        .start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    let first = client.get("/");
    let (bound, cookie) = (first.text(), first.fields.one("set-cookie").unwrap());
    let (cookie, _) = cookie.split_once(';').unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
    let mut bound_answer = || {
        client.send(&request);
        client.read_response().text()
    };
    post(admin, &format!("/backends/{bound}/drain"));
    for _ in 0..5 {
        assert_eq!(bound_answer(), bound);
        assert_ne!(proxy.client().get("/").text(), bound);
    }
    post(admin, &format!("/backends/{bound}/disable"));
    assert_ne!(bound_answer(), bound);
}

#[test]
fn with_every_backend_disabled_clients_get_503_and_the_answer_has_said_so() {
    let origin = Origin::start("one");
    let proxy = with_letters(&[&origin]).start();
    let admin = address(&proxy);
    assert_eq!(post(admin, "/backends/a/disable?dry_run=1")["eligible"], 0);
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(post(admin, "/backends/a/disable")["eligible"], 0);
    assert_eq!(proxy.client().get("/").status, 503);
    assert_eq!(ask(admin, "GET", "/ready", "").status, 503);
    assert_eq!(post(admin, "/backends/a/enable")["eligible"], 1);
    assert_eq!(proxy.client().get("/").status, 200);
}

#[test]
fn an_operators_decision_outlives_a_reload_until_is_dead_changes() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let mut proxy = with_letters(&[&a, &b]).start();
    let admin = address(&proxy);
    post(admin, "/backends/a/disable");
    proxy.reload(|config| config["backends"][0]["weight"] = json!(5));
    assert_eq!(who_answers(&mut proxy.client(), 10), "b");
    proxy.reload(|config| config["backends"][1]["IsDead"] = json!(true));
    assert_eq!(proxy.client().get("/").status, 503);
    post(admin, "/backends/b/enable");
    proxy.reload(|config| config["timeouts"] = json!({"connect": "1s"}));
    assert_eq!(who_answers(&mut proxy.client(), 10), "b");
}

#[test]
fn a_backend_is_added_changed_and_removed_until_the_next_reload() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let mut proxy = with_letters(&[&a, &b]).one_worker().start();
    let admin = address(&proxy);
    let mut client = proxy.client();
    let entry = json!({"url": c.url(), "weight": 2});
    let target = "/backends/c?dry_run=1";
    let would = expect(&ask(admin, "PUT", target, &entry.to_string()), 201);
    assert_eq!(who_answers(&mut client, 12), "a b");
    let did = expect(&put(admin, "c", &entry), 201);
    assert_eq!(would["shares"], did["shares"]);
    assert_eq!(
        (&did["change"], &did["eligible"]),
        (&json!("add"), &json!(3))
    );
    c.forget();
    assert_eq!(who_answers(&mut client, 12), "a b c");
    assert_eq!(c.requests(), 6);
    let did = expect(&put(admin, "c", &json!({"url": c.url(), "name": "c"})), 200);
    assert_eq!(did["change"], "change");
    c.forget();
    assert_eq!(who_answers(&mut client, 12), "a b c");
    assert_eq!(c.requests(), 4);
    assert_eq!(expect(&delete(admin, "a"), 200)["change"], "remove");
    assert_eq!(who_answers(&mut client, 12), "b c");
    expect(&delete(admin, "a"), 404);
    let outcome = proxy.reload(|_| {});
    assert!(
        outcome.ends_with(
            "reloaded: backends: added a; removed c; 1 kept; undone, of the admin interface: c, a"
        ),
        "{outcome}"
    );
    assert_eq!(who_answers(&mut client, 12), "a b");
    for said in [
        "admin interface: backends: added c; 2 kept",
        "admin interface: backends: changed c (weight); 2 kept",
        "admin interface: backends: removed a; 2 kept",
        r#"backend "a" has nothing in flight"#,
    ] {
        proxy.wait_for_event(&[said]);
        assert_eq!(proxy.events_with(&[said]), 1, "{said}");
    }
}

#[test]
fn what_is_in_flight_with_a_removed_backend_is_finished() {
    let (held, other) = (Holding::start("held"), Origin::start("other"));
    let proxy = with_letters(&[&held, &other]).one_worker().start();
    let admin = address(&proxy);
    let mut client = proxy.hold(|| held.held());
    assert_eq!(expect(&delete(admin, "a"), 200)["in_flight"], 1);
    assert_eq!(who_answers(&mut proxy.client(), 6), "other");
    held.release();
    assert_eq!(client.read_response().text(), "held");
    proxy.wait_for_event(&[r#"backend "a" has nothing in flight"#]);
}

#[test]
fn what_cannot_be_is_refused_with_its_reason_and_changes_nothing() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let proxy = with_letters(&[&a, &b]).start();
    let admin = address(&proxy);
    for (name, body, error, place) in [
        (
            "c",
            r#"{"url": "http://127.0.0.1:1", "weight": 5000}"#,
            "weight is 5000; must be an integer from 0 to 1000",
            (json!(1), json!(41)),
        ),
        (
            "c",
            "{\n  \"url\": \"https://h\"}",
            r#"url is "https://h", "#,
            (json!(2), json!(10)),
        ),
        (
            "c",
            r#"{"url": "http://127.0.0.1:1", "name": "d"}"#,
            r#"name is "d", and the path says "c""#,
            (json!(1), json!(39)),
        ),
        (
            "c%20c",
            r#"{"url": "http://127.0.0.1:1"}"#,
            r#"name is "c c"; must be"#,
            (json!(1), json!(1)),
        ),
        ("c", "[", "the body: not valid JSON", (json!(1), json!(2))),
    ] {
        let response = ask(admin, "PUT", &format!("/backends/{name}"), body);
        let said = expect(&response, 422);
        assert!(said["error"].as_str().unwrap().starts_with(error), "{said}");
        assert_eq!(said["file"], Value::Null);
        assert_eq!(
            (said["line"].clone(), said["column"].clone()),
            place,
            "{said}"
        );
    }
    expect(&delete(admin, "a"), 200);
    let said = expect(&delete(admin, "b"), 422);
    assert!(said["error"].as_str().unwrap().contains("the last backend"));
    assert_eq!(who_answers(&mut proxy.client(), 4), "b");
    let unknown = expect(&ask(admin, "POST", "/backends/x/drain", ""), 404);
    assert_eq!(unknown["error"], r#"there is no backend "x""#);
}

#[test]
fn a_reload_answers_what_it_changed_and_a_dry_run_what_it_would() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let proxy = with_letters(&[&a, &b]).start();
    let admin = address(&proxy);
    let file = proxy.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["backends"] = json!([{"url": a.url(), "name": "a", "weight": 3}, {"url": "http://127.0.0.1:1", "name": "c"}]);
    config["limits"] = json!({"body_bytes": 5});
    std::fs::write(&file, config.to_string()).unwrap();
    let expected = |dry_run: bool| {
        json!({
            "dry_run": dry_run, "file": &file, "added": ["c"], "removed": ["b"],
            "changed": [{"name": "a", "keys": [{"key": "weight", "from": 1, "to": 3}]}], "kept": 0,
            "settings": [{"key": "limits.body_bytes", "from": null, "to": 5}], "restart": [], "clears": [],
            "moved_percent": null, "warnings": [],
        })
    };
    assert_eq!(post(admin, "/reload?dry_run=1"), expected(true));
    assert_eq!(proxy.client().post("/", "123456").status, 200);
    assert_eq!(proxy.events_with(&["reloaded"]), 0);
    assert_eq!(post(admin, "/reload"), expected(false));
    assert_eq!(proxy.client().post("/", "123456").status, 413);
    proxy.wait_for_event(&["reloaded: backends: added c; removed b; changed a (weight); 0 kept; changed keys: limits.body_bytes"]);
    std::fs::write(&file, "{\n\"proxy\": 1}").unwrap();
    for target in ["/reload?dry_run=1", "/reload"] {
        let said = expect(&ask(admin, "POST", target, ""), 422);
        assert_eq!(
            said,
            json!({"error": "proxy is 1; must be an object", "file": &file, "line": 2, "column": 10})
        );
    }
    let refusal = ["not reloaded, nothing has changed"];
    proxy.wait_for_event(&refusal);
    assert_eq!(proxy.events_with(&refusal), 1);
    config["proxy"]["workers"] = json!(7);
    std::fs::write(&file, config.to_string()).unwrap();
    let would = post(admin, "/reload?dry_run=1");
    assert_eq!(
        would["restart"],
        json!([{"key": "proxy.workers", "from": 2, "to": 7}])
    );
    let said = expect(&ask(admin, "POST", "/reload", ""), 409);
    assert_eq!(
        said["error"],
        "proxy.workers cannot change without a restart"
    );
}

#[test]
fn a_dry_run_of_a_reload_to_another_port_leaves_nothing_open() {
    let origin = Origin::start("one");
    let proxy = with_letters(&[&origin]).start();
    let admin = address(&proxy);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap();
    let file = proxy.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["proxy"]["port"] = json!(port.port());
    std::fs::write(&file, config.to_string()).unwrap();
    for target in ["/reload?dry_run=1", "/reload"] {
        let said = expect(&ask(admin, "POST", target, ""), 422);
        assert!(
            said["error"]
                .as_str()
                .unwrap()
                .starts_with("cannot listen on"),
            "{said}"
        );
    }
    drop(free);
    let would = post(admin, "/reload?dry_run=1");
    assert_eq!(would["settings"][0]["key"], "proxy.port");
    assert!(std::net::TcpStream::connect(port).is_err());
    assert_eq!(proxy.client().get("/").status, 200);
}

#[test]
fn while_it_stops_nothing_is_changed() {
    let origin = Holding::start("one");
    let proxy = with_letters(&[&origin])
        .set("timeouts.drain", "60s")
        .set("timeouts.drain_delay", "60s")
        .start();
    let admin = address(&proxy);
    let _client = proxy.hold(|| origin.held());
    proxy.terminate();
    proxy.wait_for_event(&["stopping"]);
    let entry = json!({"url": origin.url()});
    for response in [
        ask(admin, "POST", "/backends/a/drain", ""),
        ask(admin, "POST", "/backends/a/drain?dry_run=1", ""),
        ask(admin, "POST", "/reload", ""),
        put(admin, "b", &entry),
        delete(admin, "a"),
    ] {
        let said = expect(&response, 503);
        assert_eq!(said["error"], "the process is stopping");
    }
}

#[test]
fn hundreds_of_changes_in_a_row_under_load_lose_no_request() {
    let origins: [Origin; 4] = Origin::several();
    let [a, b, c, d] = &origins;
    let proxy = with_letters(&[a, b, c]).start();
    let admin = address(&proxy);
    let clients = (0..6).map(|_| proxy.client()).collect();
    under_load(clients, |load| {
        for round in 0..40 {
            let weighed = json!({"url": d.url(), "weight": 1 + round % 3});
            expect(&put(admin, "d", &weighed), 201);
            post(admin, "/backends/b/drain");
            expect(&put(admin, "d", &json!({"url": d.url(), "weight": 9})), 200);
            post(admin, "/backends/c/disable");
            post(admin, "/backends/b/enable");
            expect(&delete(admin, "a"), 200);
            post(admin, "/backends/c/enable");
            expect(&put(admin, "a", &json!({"url": a.url()})), 201);
            expect(&delete(admin, "d"), 200);
            load.goes_on(1);
        }
    });
    // As at the start, so there is nothing that a reload would undo.
    assert_eq!(post(admin, "/reload?dry_run=1")["clears"], json!([]));
    origins.iter().for_each(Origin::forget);
    let mut client = proxy.client();
    (0..30).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(origins.each_ref().map(Origin::requests), [10, 10, 10, 0]);
}
