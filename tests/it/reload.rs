//! SIGHUP: the configuration changes while the process runs, all of it or nothing.

use crate::support::client::get;
use crate::support::load::under_load;
use crate::support::{Addressed, Backend, Client, Holding, Origin, Proxy, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// An entry of `backends`.
fn entry(backend: &dyn Addressed, name: &str) -> Value {
    json!({ "url": backend.url(), "name": name })
}

/// The names of the origins that answer the next requests, one after the other.
fn answers(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| client.get("/").text()).collect()
}

#[test]
fn backends_come_and_go_and_the_log_names_them() {
    let [a, b, c] = ["a", "b", "c"].map(Origin::start);
    let mut proxy = Proxy::over(&[&a, &b])
        .set("backends", json!([entry(&a, "a"), entry(&b, "b")]))
        .one_worker()
        .start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 4), ["a", "b", "a", "b"]);
    let outcome = proxy.reload(|config| {
        let mut changed = entry(&b, "b");
        changed["weight"] = json!(2);
        config["backends"] = json!([changed, entry(&c, "c")]);
        config["timeouts"] = json!({ "connect": "1s" });
    });
    assert!(outcome.contains("INFO"), "{outcome}");
    assert!(
        outcome.contains(
            "reloaded: backends: added c; removed a; changed b (weight); 0 kept; \
             changed keys: timeouts.connect"
        ),
        "{outcome}"
    );
    a.forget();
    let mut seen = answers(&mut client, 6);
    seen.sort();
    assert_eq!(seen, ["b", "b", "b", "b", "c", "c"]);
    assert_eq!(a.requests(), 0);
}

#[test]
fn another_order_of_the_same_backends_changes_no_turn() {
    let origins = ["a", "b", "c"].map(Origin::start);
    let [a, b, c] = &origins;
    let mut proxy = Proxy::over(&[a, b, c])
        .set(
            "backends",
            json!([entry(a, "a"), entry(b, "b"), entry(c, "c")]),
        )
        .one_worker()
        .start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 1), ["a"]);
    for _ in 0..3 {
        proxy.reload(|config| config["backends"].as_array_mut().unwrap().rotate_left(1));
    }
    let mut seen = answers(&mut client, 2);
    seen.sort();
    assert_eq!(seen, ["b", "c"], "each has its turn in the period");
}

#[test]
fn a_backends_state_is_kept_by_its_name_and_another_address_starts_fresh() {
    let dead = Origin::dead("dead");
    let [good, fresh] = ["good", "fresh"].map(Origin::start);
    let mut proxy = Proxy::over(&[&dead, &good])
        .set("backends", json!([entry(&dead, "x"), entry(&good, "good")]))
        .set("health_check.down_interval", "1h")
        .start();
    let mut client = proxy.client();
    assert_eq!(answers(&mut client, 2), ["good", "good"]);
    proxy.wait_for_event(&["backend \"x\" is down"]);
    dead.revive();
    proxy.reload(|config| config["backends"].as_array_mut().unwrap().reverse());
    assert_eq!(answers(&mut client, 4), ["good"; 4], "x is still down");
    proxy.reload(|config| config["backends"][1] = entry(&fresh, "x"));
    let mut seen = answers(&mut client, 4);
    seen.sort();
    assert_eq!(seen, ["fresh", "fresh", "good", "good"]);
}

#[test]
fn a_backend_that_is_removed_finishes_what_it_has_and_gets_nothing_new() {
    let [old, new] = [Backend::start(), Backend::start()];
    let mut proxy = Proxy::over(&[&old]).start();
    let mut slow = proxy.client();
    slow.send(get("/slow"));
    let mut slow_wire = old.accept();
    slow_wire.expect_request();
    slow_wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    slow.read_response_head();

    let mut tunnel = proxy.client();
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut tunnel_wire = old.accept();
    tunnel_wire.expect_request_head();
    tunnel_wire
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.read_response_head().status, 101);

    proxy.reload(|config| config["backends"] = json!([{ "url": new.url() }]));
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = new.accept();
    wire.serve("new");
    assert_eq!(client.read_response().text(), "new");

    slow_wire.send("67890");
    assert_eq!(slow.read_exact(10), b"1234567890");
    tunnel.send("ping");
    assert_eq!(tunnel_wire.read_exact(4), b"ping");
    tunnel_wire.send("pong");
    assert_eq!(tunnel.read_exact(4), b"pong");
    old.expect_no_connection();
}

#[test]
fn idle_connections_to_a_backend_that_is_gone_are_closed() {
    let [old, new] = [Backend::start(), Backend::start()];
    let mut proxy = Proxy::over(&[&old])
        .set("timeouts.backend_idle", "1h")
        .start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = old.accept();
    wire.serve("old");
    client.read_response();
    proxy.reload(|config| config["backends"] = json!([{ "url": new.url() }]));
    wire.expect_closed();
}

#[test]
fn a_wrong_file_changes_nothing_and_its_error_is_logged_with_its_place() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let whole = fs::read_to_string(proxy.config_file()).unwrap();
    for (text, said) in [
        (&whole[..whole.len() / 2], "not valid JSON"),
        ("", "is empty"),
        (r#"{"proxy": {"port": 0}, "backends": []}"#, "backends"),
        (
            r#"{"proxy": {"port": 0}, "backends": [{"url": "http://127.0.0.1:1", "wieght": 2}]}"#,
            "backends[0].wieght",
        ),
    ] {
        let outcome = proxy.reload_text(text);
        assert!(
            outcome.contains("ERROR") && outcome.contains("not reloaded, nothing has changed: "),
            "{outcome}"
        );
        assert!(
            outcome.contains("config.json:") && outcome.contains(said),
            "{outcome}"
        );
        assert_eq!(proxy.client().get("/").text(), "one");
    }
    let outcome = proxy.reload_text(&whole);
    assert!(outcome.contains("reloaded: backends: 1 kept"), "{outcome}");
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    fs::remove_file(proxy.config_file()).unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_event(&["not reloaded, nothing has changed", "config.json"]);
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn keys_that_need_a_restart_refuse_the_whole_reload() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let mut proxy = Proxy::over(&[&one]).start();
    for (changes, named) in [
        (json!({ "workers": 3 }), "proxy.workers"),
        (json!({ "mode": "tcp" }), "proxy.mode"),
        (json!({ "address": "127.0.0.2" }), "proxy.address"),
        (
            json!({ "workers": 1, "mode": "tcp" }),
            "proxy.workers and proxy.mode",
        ),
    ] {
        let outcome = proxy.reload(|config| {
            for (key, value) in changes.as_object().unwrap() {
                config["proxy"][key] = value.clone();
            }
            config["backends"] = json!([{ "url": two.url() }]);
        });
        assert!(
            outcome.contains(&format!(
                "not reloaded, nothing has changed: {named} cannot change"
            )),
            "{outcome}"
        );
        assert_eq!(proxy.client().get("/").text(), "one");
    }
    assert_eq!(two.requests(), 0);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_changed_port_is_listened_on_and_connections_of_the_old_one_go_on() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let mut old = proxy.client();
    assert_eq!(old.get("/").text(), "one");
    let port = free_port();
    let outcome = proxy.reload(|config| config["proxy"]["port"] = json!(port));
    assert!(outcome.contains("changed keys: proxy.port"), "{outcome}");
    let mut new = Client::connect_to(([127, 0, 0, 1], port).into());
    assert_eq!(new.get("/").text(), "one");
    proxy.wait_until_closed();
    assert_eq!(old.get("/").text(), "one");
}

#[test]
fn what_waits_on_the_old_port_is_served() {
    const CLIENTS: usize = 20;
    // Whether a place is free when the last one is accepted differs from time to time.
    for _ in 0..10 {
        let holding = Holding::start("held");
        let mut proxy = Proxy::over(&[&holding])
            .set("proxy.max_connections", 1)
            .start();
        let mut first = proxy.hold(|| holding.held());
        let mut waiting: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
        for client in &mut waiting {
            client.send("GET /hold HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        }
        let port = free_port();
        proxy.reload(|config| config["proxy"]["port"] = json!(port));
        holding.release();
        assert_eq!(first.read_response().text(), "held");
        drop(first);
        for client in &mut waiting {
            assert_eq!(client.read_response().text(), "held");
        }
        // Not by connecting: that would be one more client that waits there.
        eventually("the old port is closed", || {
            TcpListener::bind(proxy.address()).is_ok()
        });
    }
}

#[test]
fn a_port_that_is_taken_refuses_the_whole_reload() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut proxy = Proxy::over(&[&one]).start();
    let outcome = proxy.reload(|config| {
        config["proxy"]["port"] = json!(address.port());
        config["backends"] = json!([{ "url": two.url() }]);
    });
    assert!(
        outcome.contains("not reloaded")
            && outcome.contains(&format!("cannot listen on {address}")),
        "{outcome}"
    );
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn an_exchange_keeps_its_time_outs_and_the_next_one_has_the_new_ones() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend]).start();
    let mut before = proxy.client();
    before.send(get("/before"));
    let mut before_wire = backend.accept();
    before_wire.expect_request();
    proxy.reload(|config| config["timeouts"] = json!({ "response_head": "200ms" }));
    let mut after = proxy.client();
    after.send(get("/after"));
    let mut after_wire = backend.accept();
    after_wire.expect_request();
    assert_eq!(after.read_response().status, 504);
    before_wire.answer("late");
    assert_eq!(before.read_response().text(), "late");
}

#[test]
fn limits_of_heads_and_bodies_change() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(2000)
    );
    let statuses = |proxy: &Proxy| {
        let mut client = proxy.client();
        client.send(&long);
        let head = client.read_response().status;
        let mut client = proxy.client();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        (head, client.read_response().status)
    };
    assert_eq!(statuses(&proxy), (200, 200));
    proxy.reload(|config| config["limits"] = json!({ "head_bytes": 1024, "body_bytes": 3 }));
    assert_eq!(statuses(&proxy), (431, 413));
    proxy.reload(|config| config["limits"] = json!({}));
    assert_eq!(statuses(&proxy), (200, 200));
}

#[test]
fn the_method_and_persistence_change() {
    let origins: [Origin; 2] = Origin::several();
    let [a, b] = &origins;
    let mut proxy = Proxy::over(&[a, b]).one_worker().start();
    let mut client = proxy.client();
    assert!(!client.get("/").fields.has("Set-Cookie"));
    proxy.reload(|config| config["balance"] = json!({ "persistence": { "kind": "cookie" } }));
    let cookie = client.get("/").fields.one("Set-Cookie").unwrap().to_owned();
    assert!(cookie.starts_with("rondo="), "{cookie}");
    proxy.reload(|config| config["balance"] = json!({ "method": "source_hash" }));
    origins.iter().for_each(Origin::forget);
    for _ in 0..4 {
        client.get("/");
    }
    let counts = origins.each_ref().map(Origin::requests);
    assert!(counts == [4, 0] || counts == [0, 4], "{counts:?}");
}

#[test]
fn checks_begin_and_end() {
    let [one, dead] = [Origin::start("one"), Origin::dead("dead")];
    let mut proxy = Proxy::over(&[&one, &dead])
        .set(
            "backends",
            json!([entry(&one, "one"), entry(&dead, "dead")]),
        )
        .start();
    let checks = json!({ "kind": "tcp", "interval": "20ms", "down_interval": "20ms" });
    proxy.reload(|config| config["health_check"] = checks);
    proxy.wait_for_event(&["backend \"dead\" is down"]);
    dead.revive();
    proxy.wait_for_event(&["backend \"dead\" is up"]);
    proxy.reload(|config| config["health_check"] = json!({ "kind": "none" }));
    let connections = one.connections();
    // As long as five checks would take, and then some.
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(one.connections(), connections);
}

#[test]
fn a_backend_that_is_down_when_checks_end_is_tried_again() {
    let [one, dead] = [Origin::start("one"), Origin::dead("dead")];
    let mut proxy = Proxy::over(&[&one, &dead])
        .set(
            "backends",
            json!([entry(&one, "one"), entry(&dead, "dead")]),
        )
        .checks(json!({ "kind": "tcp", "interval": "20ms", "down_interval": "20ms" }))
        .start();
    proxy.wait_for_event(&["backend \"dead\" is down"]);
    proxy.reload(|config| {
        config["health_check"] = json!({ "kind": "none", "down_interval": "20ms" });
    });
    dead.revive();
    eventually("a request has tried it", || {
        proxy.client().get("/").text() == "dead"
    });
}

#[test]
fn the_access_log_is_switched_off_and_on_and_to_json() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.access_log", false)
        .start();
    let mut client = proxy.client();
    client.get("/off");
    proxy.reload(|config| config["proxy"]["access_log"] = json!("json"));
    client.get("/json");
    let line = proxy.wait_for_access("/json");
    assert!(line.starts_with('{'), "{line}");
    proxy.reload(|config| config["proxy"]["access_log"] = json!(true));
    client.get("/text");
    let line = proxy.wait_for_access("/text");
    assert!(!line.starts_with('{'), "{line}");
    assert!(
        !proxy
            .access_lines()
            .iter()
            .any(|line| line.contains("/off"))
    );
}

#[test]
fn a_lower_limit_of_connections_closes_nothing_and_a_higher_one_makes_room() {
    let holding = Holding::start("held");
    let mut proxy = Proxy::over(&[&holding]).start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get("/hold"));
    }
    eventually("all are under way", || holding.held() == 4);
    proxy.reload(|config| config["proxy"]["max_connections"] = json!(2));
    let mut waiting = proxy.client();
    waiting.send(get("/hold"));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(holding.held(), 4, "there is no room for one more");
    proxy.reload(|config| config["proxy"]["max_connections"] = json!(5));
    eventually("there is room", || holding.held() == 5);
    holding.release();
    for client in clients.iter_mut().chain([&mut waiting]) {
        assert_eq!(client.read_response().text(), "held");
    }
}

#[test]
fn is_dead_applies_where_it_changes() {
    let [a, b] = ["a", "b"].map(Origin::start);
    let mut proxy = Proxy::over(&[&a, &b])
        .set("backends", json!([entry(&a, "a"), entry(&b, "b")]))
        .one_worker()
        .start();
    let mut client = proxy.client();
    proxy.reload(|config| config["backends"][0]["IsDead"] = json!(true));
    assert_eq!(answers(&mut client, 3), ["b"; 3]);
    proxy.reload(|config| config["backends"][0]["IsDead"] = json!(false));
    let mut seen = answers(&mut client, 4);
    seen.sort();
    assert_eq!(seen, ["a", "a", "b", "b"]);
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).without_a_file().start();
    proxy.signal(Signal::HUP);
    proxy.wait_for_event(&["not reloaded", "did not come from a file"]);
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn a_process_that_stops_reads_nothing_again() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    proxy.terminate();
    proxy.wait_until_closed();
    proxy.signal(Signal::HUP);
    proxy.wait_for_event(&["not reloaded", "the process is stopping"]);
    wire.answer("in the end");
    assert_eq!(client.read_response().text(), "in the end");
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn warnings_are_logged_again() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    proxy.reload(|config| config["backends"][0]["weight"] = json!(0));
    proxy.wait_for_event(&["WARN", "weight"]);
    assert_eq!(proxy.client().get("/").status, 503);
}

/// Requests from some clients while the configuration changes this often, with a tunnel and a download open meanwhile.
fn reload_under_load(proxy: &mut Proxy, origins: &[Origin], tunnel: &Backend, count: usize) {
    proxy.reload(|config| config["backends"] = json!([entry(&origins[0], "origin-0")]));
    let clients = (0..8).map(|_| proxy.client()).collect();
    under_load(clients, |load| {
        for round in 0..count {
            let outcome = proxy.reload(|config| {
                let mut list: Vec<Value> = origins
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| *place == 0 || (round + place) % 3 != 0)
                    .map(|(place, origin)| {
                        let mut backend = entry(origin, &format!("origin-{place}"));
                        backend["weight"] = json!(1 + (round + place) % 4);
                        backend
                    })
                    .collect();
                list.rotate_left(round % 2);
                config["backends"] = json!(list);
                config["timeouts"] = json!({ "connect": format!("{}s", 3 + round % 3) });
            });
            assert!(outcome.contains("reloaded: backends: "), "{outcome}");
            if round % 10 == 0 {
                let outcome = proxy.reload_text("{");
                assert!(outcome.contains("not reloaded"), "{outcome}");
            }
            load.goes_on(1);
        }
    });
    tunnel.expect_no_connection();
}

#[test]
fn many_reloads_under_load_lose_no_request_and_leave_nothing_behind() {
    let origins: [Origin; 5] = Origin::several();
    let tunnel_end = Backend::start();
    let mut proxy = Proxy::over(&[&tunnel_end]).start();
    let mut tunnel = proxy.client();
    tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut wire = tunnel_end.accept();
    wire.expect_request_head();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.read_response_head().status, 101);
    let mut download = proxy.client();
    download.send(get("/"));
    let mut download_wire = tunnel_end.accept();
    download_wire.expect_request();
    download_wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
    download.read_response_head();

    let figures = |proxy: &Proxy| (proxy.threads(), proxy.open_fds());
    reload_under_load(&mut proxy, &origins, &tunnel_end, 5);
    let before = (figures(&proxy), proxy.rss_kib());
    reload_under_load(&mut proxy, &origins, &tunnel_end, 50);
    let begin = Instant::now();
    eventually("threads and descriptors are as before", || {
        let (threads, descriptors) = figures(&proxy);
        // Idle connections to backends come and go.
        threads == before.0.0 && descriptors <= before.0.1 + 16
    });
    println!(
        "{before:?}, then {:?} {} KiB after {:?}",
        figures(&proxy),
        proxy.rss_kib(),
        begin.elapsed()
    );
    assert!(
        proxy.rss_kib() < before.1 + 1024,
        "{} KiB, {before:?}",
        proxy.rss_kib()
    );

    tunnel.send("ping");
    assert_eq!(wire.read_exact(4), b"ping");
    download_wire.send("cd");
    assert_eq!(download.read_exact(4), b"abcd");
    // Turns are exact again.
    proxy.reload(|config| {
        let list = origins.iter().enumerate();
        config["backends"] = list
            .map(|(place, origin)| entry(origin, &format!("{place}")))
            .collect();
    });
    origins.iter().for_each(Origin::forget);
    let mut client = proxy.client();
    answers(&mut client, 50);
    assert_eq!(origins.each_ref().map(Origin::requests), [10; 5]);
}
