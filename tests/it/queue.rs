//! `balance.queue`: requests wait while all backends are full, the oldest first, and late ones are told so.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::admin::{address, ask, get as document};
use crate::support::client::{get, post};
use crate::support::proxy::Plan;
use crate::support::{Addressed, Backend, Client, Holding, Origin, Proxy, Wire, eventually};

/// Over backends that take one request at a time, with a queue of this length.
fn plan(backends: &[&dyn Addressed], length: usize, timeout: &str) -> Plan {
    let mut plan = Proxy::over(backends)
        .set("admin.address", "127.0.0.1:0")
        .set("proxy.access_log", "json")
        .set("health_check.kind", "none")
        .set("balance.queue.length", length)
        .set("balance.queue.timeout", timeout);
    for place in 0..backends.len() {
        plan = plan.set(&format!("backends.{place}.max_connections"), 1);
    }
    plan
}

fn queue_of(proxy: &Proxy) -> Value {
    document(address(proxy), "/status")["queue"].clone()
}

/// Waits until so many requests wait.
#[track_caller]
fn expect_waiting(proxy: &Proxy, count: usize) {
    eventually(&format!("{count} wait"), || {
        queue_of(proxy)["length"] == count
    });
}

/// A client whose request waits, as the last of so many.
#[track_caller]
fn waits(proxy: &Proxy, target: &str, count: usize) -> Client {
    let mut client = proxy.client();
    client.send(get(target));
    expect_waiting(proxy, count);
    client
}

/// A client whose request a backend has, and that backend's connection.
fn served(proxy: &Proxy, backend: &Backend) -> (Client, Wire) {
    let mut client = proxy.client();
    client.send(get("/served"));
    let mut wire = backend.accept();
    wire.expect_request();
    (client, wire)
}

fn line(proxy: &Proxy, target: &str) -> Value {
    serde_json::from_str(&proxy.wait_for_access(target)).unwrap()
}

/// A metric without labels, or with these.
fn metric(proxy: &Proxy, name: &str) -> String {
    let text = ask(address(proxy), "GET", "/metrics", "").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name}"))
        .trim()
        .to_owned()
}

#[test]
fn places_go_to_the_oldest_request_over_all_workers() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 10, "1h").set("proxy.workers", 2).start();
    let (mut first, mut wire) = served(&proxy, &backend);
    // The listener gives them to the workers in turn.
    let mut clients: Vec<Client> = (0..6)
        .map(|number| waits(&proxy, &format!("/{number}"), number + 1))
        .collect();
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    for (number, client) in clients.iter_mut().enumerate() {
        wire = backend.accept_or(Some(wire));
        assert_eq!(wire.expect_request().target, format!("/{number}"));
        wire.answer("done");
        assert_eq!(client.read_response().text(), "done");
    }
    let line = line(&proxy, "/5");
    assert!(line["queued_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert!(
        line["backend_ms"].as_f64() <= line["total_ms"].as_f64(),
        "{line}"
    );
    let queue = queue_of(&proxy);
    let [length, max, waited, full] = ["length", "max", "waited", "full"].map(|key| &queue[key]);
    assert_eq!((length, max), (&json!(0), &json!(10)));
    assert_eq!((waited, full), (&json!(6), &json!(0)));
    assert_eq!(metric(&proxy, "rondo_queue_seconds_count"), "6");
    assert_eq!(metric(&proxy, "rondo_queue_length"), "0");
    let decisions = document(address(&proxy), "/decisions?limit=1");
    assert!(decisions[0]["queued_ms"].is_f64(), "{decisions}");
    assert_eq!(
        decisions[0]["tries"][0]["rule"],
        "the first with a free place"
    );
    assert_eq!(decisions[0]["candidates"][0]["verdict"], "chosen");
}

#[test]
fn one_more_than_the_length_is_refused_at_once_and_a_place_there_comes_free_again() {
    for workers in [1, 2] {
        let backend = Backend::start();
        let proxy = plan(&[&backend], 1, "1h")
            .set("proxy.workers", workers)
            .start();
        let (mut first, mut wire) = served(&proxy, &backend);
        let mut second = waits(&proxy, "/second", 1);
        for _ in 0..3 {
            let refused = proxy.client().get("/beyond");
            assert_eq!(refused.status, 503);
            assert!(refused.fields.has("retry-after"));
        }
        let why = "all backends are full, and so is the queue";
        assert_eq!(line(&proxy, "/beyond")["reason"], why);
        assert_eq!(line(&proxy, "/beyond")["queued_ms"], Value::Null);
        wire.answer("first");
        assert_eq!(first.read_response().text(), "first");
        wire = backend.accept_or(Some(wire));
        assert_eq!(wire.expect_request().target, "/second");
        let mut third = waits(&proxy, "/third", 1);
        wire.answer("second");
        assert_eq!(second.read_response().text(), "second");
        wire = backend.accept_or(Some(wire));
        assert_eq!(wire.serve("third").target, "/third");
        assert_eq!(third.read_response().text(), "third");
        assert_eq!(
            metric(&proxy, "rondo_queue_refused_total{why=\"full\"}"),
            "3"
        );
    }
}

#[test]
fn a_request_that_waits_for_too_long_is_refused_and_takes_no_place() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 10, "50ms")
        .set("proxy.workers", 2)
        .start();
    let (mut first, mut wire) = served(&proxy, &backend);
    let mut late: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    let begun = Instant::now();
    for client in &mut late {
        client.send(get("/late"));
    }
    for client in &mut late {
        let refused = client.read_response();
        assert_eq!(refused.status, 503);
        assert!(refused.fields.has("retry-after"));
        // A worker counts whole milliseconds.
        assert!(begun.elapsed() >= Duration::from_millis(49));
    }
    let line = line(&proxy, "/late");
    let why = "all backends were full for as long as it may wait";
    assert_eq!(line["reason"], why);
    assert!(line["queued_ms"].as_f64().unwrap() >= 49.0, "{line}");
    expect_waiting(&proxy, 0);
    assert_eq!(
        metric(&proxy, "rondo_queue_refused_total{why=\"timed_out\"}"),
        "4"
    );
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    // On the connections that were refused, too.
    late[0].send(get("/again"));
    backend.accept_or(Some(wire)).serve("again");
    assert_eq!(late[0].read_response().text(), "again");
}

#[test]
fn a_client_that_leaves_frees_its_place_and_one_that_has_only_ended_is_served() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 3, "1h").set("proxy.workers", 2).start();
    let (mut first, mut wire) = served(&proxy, &backend);
    let gone = waits(&proxy, "/gone", 1);
    let mut ended = waits(&proxy, "/ended", 2);
    let mut last = waits(&proxy, "/last", 3);
    gone.reset();
    expect_waiting(&proxy, 2);
    assert_eq!(line(&proxy, "/gone")["reason"], "the client went away");
    ended.half_close();
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    wire = backend.accept_or(Some(wire));
    assert_eq!(wire.serve("ended").target, "/ended");
    assert_eq!(ended.read_response().text(), "ended");
    wire = backend.accept_or(Some(wire));
    assert_eq!(wire.serve("last").target, "/last");
    assert_eq!(last.read_response().text(), "last");
}

#[test]
fn a_client_that_has_ended_is_given_up_after_two_seconds_in_the_queue() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 3, "1h").start();
    let (_first, _wire) = served(&proxy, &backend);
    let mut ended = waits(&proxy, "/ended", 1);
    let begun = Instant::now();
    ended.half_close();
    ended.expect_closed();
    assert!(begun.elapsed() >= Duration::from_millis(1999));
    expect_waiting(&proxy, 0);
}

#[test]
fn a_client_that_has_ended_is_told_when_its_time_in_the_queue_is_over_first() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 3, "100ms").start();
    let (_first, _wire) = served(&proxy, &backend);
    let mut ended = proxy.client();
    ended.send(get("/ended"));
    ended.half_close();
    assert_eq!(ended.read_response().status, 503);
}

#[test]
fn a_request_that_failed_goes_before_those_that_were_sent_nowhere_yet() {
    let backends = [Backend::start(), Backend::start()];
    let proxy = plan(&[&backends[0], &backends[1]], 10, "1h")
        .set("proxy.workers", 2)
        .start();
    let (mut failing, wire) = served(&proxy, &backends[0]);
    let (_held, mut held_wire) = served(&proxy, &backends[1]);
    let mut waiting = waits(&proxy, "/waiting", 1);
    let mut last = waits(&proxy, "/last", 2);
    // It closes without an answer: the request goes to the other backend, which is full.
    wire.close();
    let mut wire = backends[0].accept();
    assert_eq!(wire.expect_request().target, "/waiting");
    expect_waiting(&proxy, 2);
    held_wire.answer("held");
    held_wire = backends[1].accept_or(Some(held_wire));
    assert_eq!(held_wire.serve("again").target, "/served");
    assert_eq!(failing.read_response().text(), "again");
    held_wire = backends[1].accept_or(Some(held_wire));
    assert_eq!(held_wire.serve("last").target, "/last");
    assert_eq!(last.read_response().text(), "last");
    wire.answer("waiting");
    assert_eq!(waiting.read_response().text(), "waiting");
}

#[test]
fn a_body_is_not_read_while_its_request_waits_and_arrives_whole() {
    let backend = Backend::start();
    let proxy = plan(&[&backend], 3, "1h").start();
    let (mut first, mut wire) = served(&proxy, &backend);
    let body = vec![b'x'; 300_000];
    let mut client = proxy.client();
    let mut sender = client.stream().try_clone().unwrap();
    let request = post("/body", &body);
    let sent = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &request));
    expect_waiting(&proxy, 1);
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    wire = backend.accept_or(Some(wire));
    assert_eq!(wire.expect_request().body, body);
    wire.answer("whole");
    assert_eq!(client.read_response().text(), "whole");
    sent.join().unwrap().unwrap();
    let line = line(&proxy, "/body");
    assert!(line["bytes_received"].as_u64().unwrap() > 300_000, "{line}");
}

#[test]
fn a_reload_gives_new_places_at_once_and_leaves_those_that_wait_where_the_queue_is_gone() {
    let (backend, origin) = (Backend::start(), Origin::start("new"));
    let mut proxy = plan(&[&backend], 4, "1h").set("proxy.workers", 2).start();
    let (mut first, mut wire) = served(&proxy, &backend);
    let mut clients: Vec<Client> = (0..4)
        .map(|number| waits(&proxy, &format!("/{number}"), number + 1))
        .collect();
    // Shorter than those that wait are many, and then gone.
    proxy.reload(|config| config["balance"]["queue"]["length"] = json!(1));
    assert_eq!(proxy.client().get("/").status, 503);
    proxy.reload(|config| config["balance"] = json!({}));
    assert_eq!(queue_of(&proxy), Value::Null);
    assert_eq!(proxy.client().get("/").status, 503);
    assert_eq!(metric(&proxy, "rondo_queue_length"), "4");
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    wire = backend.accept_or(Some(wire));
    assert_eq!(wire.expect_request().target, "/0");
    // A backend that a reload brings has places for all others.
    let url = origin.url();
    proxy.reload(|config| {
        let added = json!({ "url": url });
        config["backends"].as_array_mut().unwrap().push(added);
    });
    for client in &mut clients[1..] {
        assert_eq!(client.read_response().text(), "new");
    }
    wire.answer("old");
    assert_eq!(clients[0].read_response().text(), "old");
}

#[test]
fn a_backend_that_is_enabled_takes_those_that_wait() {
    let (backend, origin) = (Backend::start(), Origin::start("enabled"));
    let proxy = plan(&[&backend, &origin], 4, "1h")
        .set("backends.1.name", "two")
        .set("backends.1.IsDead", true)
        .set("proxy.workers", 2)
        .start();
    let (_first, _wire) = served(&proxy, &backend);
    let mut clients = [1, 2, 3].map(|count| waits(&proxy, "/", count));
    assert_eq!(
        ask(address(&proxy), "POST", "/backends/two/enable", "").status,
        200
    );
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "enabled");
    }
}

#[test]
fn at_a_stop_the_queue_goes_on() {
    let backend = Backend::start();
    let mut proxy = plan(&[&backend], 10, "1h").set("proxy.workers", 2).start();
    let (mut first, mut wire) = served(&proxy, &backend);
    let mut clients = [1, 2, 3].map(|count| waits(&proxy, "/waiting", count));
    proxy.terminate();
    proxy.wait_until_closed();
    wire.answer("first");
    assert_eq!(first.read_response().text(), "first");
    for client in &mut clients {
        wire = backend.accept_or(Some(wire));
        wire.serve("served");
        let response = client.read_response();
        assert!(response.says_close(), "{response:?}");
        assert_eq!(response.text(), "served");
    }
    drop(first);
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn what_still_waits_when_the_time_of_a_stop_is_over_is_cut() {
    let backend = Backend::start();
    let mut proxy = plan(&[&backend], 10, "1h")
        .set("timeouts.drain", "300ms")
        .start();
    let (_first, _wire) = served(&proxy, &backend);
    let mut client = waits(&proxy, "/waiting", 1);
    proxy.terminate();
    client.expect_gone();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn without_a_queue_full_backends_are_503_at_once() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.max_connections", 1)
        .start();
    let (_first, _wire) = served(&proxy, &backend);
    assert_eq!(proxy.client().get("/").status, 503);
}

#[test]
fn many_clients_share_few_places_and_none_is_refused_or_lost() {
    let origins: [Origin; 4] = Origin::several();
    let all = origins.each_ref().map(|origin| origin as &dyn Addressed);
    let proxy = plan(&all, 100, "1h").set("proxy.workers", 4).start();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..100 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    let requests: usize = origins.iter().map(Origin::requests).sum();
    assert_eq!(requests, 2400);
    expect_waiting(&proxy, 0);
}

#[test]
fn a_place_that_comes_free_is_never_more_than_a_backend_may_have() {
    let backends: [Holding; 2] = Holding::several();
    let all = backends.each_ref().map(|backend| backend as &dyn Addressed);
    let proxy = plan(&all, 100, "1h").set("proxy.workers", 4).start();
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get("/hold"));
    }
    expect_waiting(&proxy, 18);
    backends.iter().for_each(Holding::release);
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    assert_eq!(backends.each_ref().map(Holding::held_most), [1, 1]);
}

/// What clients see of four backends that take 20 ms for each request and one at a time, when requests come by chance at 95 %
/// of what those can do: how many of 400 failed, and the time that 99 of 100 answers took at most.
fn at_high_load(with_queue: bool) -> (usize, Duration) {
    let serve = |mut wire: Wire| {
        while wire.next_request().is_some() {
            std::thread::sleep(Duration::from_millis(20));
            if !wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") {
                return;
            }
        }
    };
    let backends = [(); 4].map(|()| Backend::start().run(move |_, wire| serve(wire)));
    let all = backends.each_ref().map(|backend| backend as &dyn Addressed);
    let mut plan = plan(&all, 1000, "1m").set("proxy.workers", 2);
    if !with_queue {
        plan = plan.set("balance", json!({}));
    }
    let proxy = plan.start();
    // Intervals of a Poisson process, the same in each run.
    let mut state = 1u64;
    let mut at = 0.0;
    let arrivals: Vec<f64> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        #[expect(clippy::cast_precision_loss, reason = "chance")]
        let chance = ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        at -= chance.ln() / (0.95 * 4.0 / 0.020);
        at
    })
    .take(400)
    .collect();
    let begun = Instant::now();
    let results: Vec<(u16, Duration)> = std::thread::scope(|scope| {
        let requests: Vec<_> = arrivals
            .iter()
            .map(|at| {
                let mut client = proxy.client();
                let due = begun + Duration::from_secs_f64(*at);
                scope.spawn(move || {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let sent = Instant::now();
                    (client.get("/").status, sent.elapsed())
                })
            })
            .collect();
        requests
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect()
    });
    let failed = results.iter().filter(|(status, _)| *status != 200).count();
    let mut times: Vec<Duration> = results
        .into_iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, took)| took)
        .collect();
    times.sort_unstable();
    (failed, times[times.len() * 99 / 100])
}

#[test]
fn backends_that_serve_one_request_at_a_time_fail_under_load_without_a_queue_and_not_with_one() {
    let (failed, p99) = at_high_load(false);
    eprintln!("without a queue: {failed} of 400 failed, p99 {p99:?}");
    assert!(failed > 20, "{failed}");
    let (failed, p99) = at_high_load(true);
    eprintln!("with a queue: {failed} of 400 failed, p99 {p99:?}");
    assert_eq!(failed, 0);
}
