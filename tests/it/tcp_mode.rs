//! `proxy.mode` `"tcp"`: connections are balanced, and their bytes are not read.

use crate::support::{
    Addressed, Backend, Client, Origin, Proxy, Refusing, Unreachable, Wire, eventually, pattern,
};
use serde_json::json;
use std::io::Write;

fn all<T: Addressed, const N: usize>(backends: &[T; N]) -> [&dyn Addressed; N] {
    backends.each_ref().map(|backend| backend as &dyn Addressed)
}

fn over(backends: &[&dyn Addressed]) -> crate::support::proxy::Plan {
    Proxy::over(backends).set("proxy.mode", "tcp")
}

fn scripted() -> (Backend, Proxy) {
    let backend = Backend::start();
    let proxy = over(&[&backend]).start();
    (backend, proxy)
}

fn connected(proxy: &Proxy, backend: &Backend) -> (Client, Wire) {
    let client = proxy.client();
    let wire = backend.accept();
    (client, wire)
}

/// A backend that sends its name to each client, and then returns what it receives.
fn greeting(name: &'static str) -> crate::support::backend::Running {
    Backend::start().run(move |_, mut wire| {
        wire.try_send(format!("{name}\r\n"));
        let (bytes, _) = wire.read_until_gone();
        wire.try_send(bytes);
    })
}

#[test]
fn bytes_pass_both_ways_as_they_are() {
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = connected(&proxy, &backend);
    // Nothing that a reader of HTTP would let through.
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    client.send(&noise);
    assert_eq!(wire.read_exact(noise.len()), noise);
    wire.send(b"\0\r\r\n\n");
    assert_eq!(client.read_exact(5), b"\0\r\r\n\n");
    for byte in 0..100 {
        client.send([byte]);
        assert_eq!(wire.read_exact(1), [byte]);
        wire.send([byte, byte]);
        assert_eq!(client.read_exact(2), [byte, byte]);
    }
    client.close();
    wire.expect_closed();
}

#[test]
fn a_server_that_sends_first_reaches_the_client() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = backend.accept();
    wire.send("220 ready\r\n");
    assert_eq!(client.read_line(), "220 ready");
    client.send("HELO\r\n");
    assert_eq!(wire.read_line(), "HELO");
}

#[test]
fn bytes_that_came_before_the_backend_was_there_are_not_lost() {
    let (dead, backend) = (Refusing::start(), Backend::start());
    let proxy = over(&[&dead, &backend]).start();
    let mut client = proxy.client();
    client.send("early ");
    client.half_close();
    let mut wire = backend.accept();
    assert_eq!(wire.read_to_end(), b"early ");
    wire.send("late");
    wire.close();
    assert_eq!(client.read_to_end(), b"late");
}

#[test]
fn the_end_of_one_side_is_the_end_of_one_direction() {
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = connected(&proxy, &backend);
    client.send("question");
    client.half_close();
    assert_eq!(wire.read_to_end(), b"question");
    for part in ["slow ", "answer"] {
        wire.send(part);
        assert_eq!(client.read_exact(part.len()), part.as_bytes());
    }
    wire.close();
    client.expect_closed();

    let (mut client, mut wire) = connected(&proxy, &backend);
    wire.send("that is all");
    wire.half_close();
    assert_eq!(client.read_to_end(), b"that is all");
    for part in ["not ", "yet"] {
        client.send(part);
        assert_eq!(wire.read_exact(part.len()), part.as_bytes());
    }
    client.close();
    wire.expect_closed();
}

#[test]
fn a_reset_of_one_side_ends_the_other() {
    let (backend, proxy) = scripted();
    let (client, mut wire) = connected(&proxy, &backend);
    client.reset();
    wire.expect_gone();
    let (mut client, wire) = connected(&proxy, &backend);
    wire.reset();
    client.expect_gone();
}

#[test]
fn what_a_backend_says_before_it_hangs_up_on_an_upload_arrives() {
    let (backend, proxy) = scripted();
    for _ in 0..20 {
        let (mut client, mut wire) = connected(&proxy, &backend);
        client.fill_up();
        wire.read_exact(1);
        wire.send("no more");
        // With bytes unread this is a reset.
        wire.close();
        assert_eq!(client.read_exact(7), b"no more");
    }
}

#[test]
fn a_client_that_is_gone_behind_its_half_close_is_noticed() {
    let (backend, proxy) = scripted();
    let (client, mut wire) = connected(&proxy, &backend);
    // For the proxy this is the end of one direction, until it sends something.
    client.close();
    wire.expect_closed();
    wire.send("is a server there?");
    proxy.wait_for_access("127.0.0.1");
}

#[test]
fn twenty_megabytes_pass_both_ways_at_once_intact() {
    const LENGTH: usize = 20 << 20;
    let (backend, proxy) = scripted();
    let (mut client, mut wire) = connected(&proxy, &backend);
    let body = pattern(LENGTH);
    let (mut to_proxy, mut to_client) = (
        client.stream().try_clone().unwrap(),
        wire.stream().try_clone().unwrap(),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            to_proxy.write_all(&body).unwrap();
            to_proxy.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            to_client.write_all(&body).unwrap();
            to_client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(|| assert!(wire.read_to_end() == body));
        assert!(client.read_to_end() == body);
    });
}

#[test]
fn a_side_that_does_not_read_stops_the_other_and_loses_nothing() {
    const LENGTH: usize = 8 << 20;
    let (backend, proxy) = scripted();
    let (client, mut wire) = connected(&proxy, &backend);
    let body = pattern(LENGTH);
    let rss_before = proxy.rss_kib();
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            sender.write_all(&body).unwrap();
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        });
        // Half of it first, then a byte more at a time: a proxy that held the rest in memory would show it.
        assert!(wire.read_exact(LENGTH / 2) == body[..LENGTH / 2]);
        assert!(
            proxy.rss_kib() < rss_before + 4096,
            "{rss_before} KiB became {}",
            proxy.rss_kib()
        );
        assert!(wire.read_to_end() == body[LENGTH / 2..]);
        sending.join().unwrap();
    });
}

#[test]
fn a_dead_backend_is_passed_over_while_connecting() {
    let (refusing, hanging) = (Refusing::start(), Unreachable::start());
    let alive = greeting("alive");
    let proxy = over(&[&refusing, &hanging, &alive])
        .set("timeouts.connect", "100ms")
        .start();
    for _ in 0..6 {
        assert_eq!(proxy.client().read_line(), "alive");
    }
    proxy.wait_for_event(&[&refusing.name(), "is down"]);
    proxy.wait_for_event(&[&hanging.name(), "is down"]);
    assert_eq!(proxy.events_with(&["is down"]), 2, "{:?}", proxy.events());
}

#[test]
fn with_all_backends_dead_the_client_is_closed_and_served_again_once_one_is_back() {
    let dead: [Refusing; 3] = std::array::from_fn(|_| Refusing::start());
    let last = Origin::dead("last");
    let proxy = over(&[&dead[0], &dead[1], &dead[2], &last])
        .set("balance.tries", 1)
        .start();
    for _ in 0..3 {
        proxy.client().expect_gone();
    }
    last.revive();
    assert_eq!(proxy.client().get("/").text(), "last", "fail open");
}

#[test]
fn with_no_backend_to_take_it_the_client_is_closed() {
    let origin = Origin::start("one");
    let proxy = over(&[&origin]).set("backends.0.weight", 0).start();
    proxy.client().expect_gone();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_backend_that_ends_a_connection_is_not_to_blame() {
    // Only the two ends know what an end of one direction means.
    let backend = Backend::start().run(|_, wire| wire.close());
    let proxy = over(&[&backend]).start();
    for _ in 0..5 {
        proxy.client().expect_gone();
    }
    assert_eq!(backend.connections(), 5);
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn a_connection_without_a_byte_ends_at_tunnel_idle_and_one_with_bytes_does_not() {
    let backend = Backend::start();
    let proxy = over(&[&backend]).set("timeouts.tunnel_idle", "1s").start();
    let (mut silent, mut silent_wire) = connected(&proxy, &backend);
    let (mut busy, mut busy_wire) = connected(&proxy, &backend);
    // Longer than its limit in all, never a tenth of it in silence.
    for turn in 0..40 {
        std::thread::sleep(std::time::Duration::from_millis(40));
        if turn % 2 == 0 {
            busy.send("x");
            busy_wire.read_exact(1);
        } else {
            busy_wire.send("y");
            busy.read_exact(1);
        }
    }
    assert!(silent.has_ended() && silent_wire.has_ended());
    silent.expect_gone();
    silent_wire.expect_gone();
}

#[test]
fn a_side_that_ignores_the_end_of_the_other_has_tunnel_half_closed() {
    let backend = Backend::start();
    let proxy = over(&[&backend])
        .set("timeouts.tunnel_half_closed", "200ms")
        .start();
    for client_ends in [true, false] {
        let (mut client, mut wire) = connected(&proxy, &backend);
        if client_ends {
            client.half_close();
            wire.read_to_end();
        } else {
            wire.half_close();
            client.read_to_end();
        }
        client.expect_gone();
        wire.expect_gone();
    }
}

#[test]
fn a_backend_that_is_gone_frees_its_place_though_the_client_has_not_taken_what_it_said() {
    let backend = Backend::start();
    let proxy = over(&[&backend])
        .one_worker()
        .set("backends.0.max_connections", 1)
        .start();
    let (_client, mut wire) = connected(&proxy, &backend);
    wire.fill_up();
    proxy.client().expect_gone();
    backend.expect_no_connection();
    wire.reset();
    eventually("its place is free", || {
        let mut next = proxy.client();
        next.send("x");
        while !next.has_ended() {
            if backend.has_connection() {
                return true;
            }
        }
        false
    });
}

#[test]
fn no_other_time_limit_touches_a_connection() {
    let backend = Backend::start();
    let mut plan = over(&[&backend]);
    for key in [
        "client_head",
        "client_idle",
        "client_body",
        "client_write",
        "response_head",
        "response_body",
        "backend_idle",
    ] {
        plan = plan.set(&format!("timeouts.{key}"), "1ms");
    }
    let proxy = plan.start();
    let (mut client, mut wire) = connected(&proxy, &backend);
    std::thread::sleep(std::time::Duration::from_millis(50));
    client.send("still");
    assert_eq!(wire.read_exact(5), b"still");
    std::thread::sleep(std::time::Duration::from_millis(50));
    wire.send("here");
    assert_eq!(client.read_exact(4), b"here");
}

#[test]
fn connections_take_turns_by_weight() {
    let backends = [greeting("a"), greeting("b")];
    let proxy = over(&all(&backends)).set("backends.0.weight", 2).start();
    let names: Vec<String> = (0..12).map(|_| proxy.client().read_line()).collect();
    for window in names.windows(3) {
        assert_eq!(
            window.iter().filter(|name| *name == "a").count(),
            2,
            "{names:?}"
        );
    }
}

#[test]
fn every_other_method_applies_to_connections_too() {
    let backends = [greeting("a"), greeting("b"), greeting("c")];
    let proxy = over(&all(&backends))
        .set("balance.method", "least_connections")
        .start();
    let mut open: Vec<(String, Client)> = (0..9)
        .map(|_| {
            let mut client = proxy.client();
            (client.read_line(), client)
        })
        .collect();
    for name in ["a", "b", "c"] {
        let count = open.iter().filter(|(each, _)| each == name).count();
        assert_eq!(count, 3, "{name}");
    }
    // Two of one end: the next two are its.
    open.retain(|(name, _)| name != "b");
    eventually("the next is for the one with the fewest", || {
        let mut client = proxy.client();
        let name = client.read_line();
        name == "b"
    });

    for (key, value) in [
        ("balance.method", json!("source_hash")),
        ("balance.method", json!("hash")),
        ("balance.persistence", json!({ "kind": "source_address" })),
    ] {
        let proxy = over(&all(&backends)).set(key, value).start();
        let names = || -> Vec<String> {
            (1..=20)
                .map(|last| Client::connect_as(&proxy, last).read_line())
                .collect()
        };
        let first = names();
        assert_eq!(first, names(), "{key}");
        assert!(first.iter().any(|name| *name != first[0]), "{first:?}");
    }
}

#[test]
fn the_bound_of_a_hash_sends_the_connections_of_one_client_to_the_next() {
    let backends = [greeting("a"), greeting("b")];
    let proxy = over(&all(&backends))
        .set("balance.method", "hash")
        .set("balance.hash.load_percent_max", 150)
        .start();
    let mut open: Vec<(String, Client)> = (0..8)
        .map(|_| {
            let mut client = Client::connect_as(&proxy, 7);
            (client.read_line(), client)
        })
        .collect();
    let first = open[0].0.clone();
    // 1.5 of a half of 8.
    assert_eq!(open.iter().filter(|(name, _)| *name == first).count(), 6);
    open.clear();
    eventually("its place is free", || {
        Client::connect_as(&proxy, 7).read_line() == first
    });
}

#[test]
fn a_full_backend_is_passed_over_and_with_all_full_the_client_is_closed() {
    let backends = [greeting("a"), greeting("b")];
    let proxy = over(&all(&backends))
        .set("backends.0.max_connections", 1)
        .set("backends.1.max_connections", 1)
        .start();
    let mut first = proxy.client();
    assert_eq!(first.read_line(), "a");
    let mut second = proxy.client();
    assert_eq!(second.read_line(), "b");
    proxy.client().expect_gone();
    first.close();
    eventually("its place is free", || {
        proxy.client().try_read_line().as_deref() == Some("a")
    });
}

#[test]
fn each_connection_has_its_access_line() {
    let (backend, proxy) = scripted();
    let mut client = Client::connect_as(&proxy, 7);
    let mut wire = backend.accept();
    client.send("GET / HTTP/1.1\r\n");
    wire.read_line();
    wire.send("12345");
    assert_eq!(client.read_exact(5), b"12345");
    client.close();
    wire.expect_closed();
    wire.close();
    let line = proxy.wait_for_access(" 127.0.0.7 ");
    let words: Vec<&str> = line.split(' ').collect();
    // Time, client, no request line, no status, bytes sent to the client, milliseconds, backend,
    // tries, id, no reason.
    assert_eq!(words.len(), 10, "{line}");
    assert_eq!(words[9], "-", "{line}");
    assert_eq!(words[2..5], ["-", "-", "5"], "{line}");
    assert_eq!(words[6], backend.name(), "{line}");
    assert_eq!(words[7], "1", "{line}");
}

#[test]
fn a_connection_that_no_backend_took_has_its_access_line_too() {
    let dead = Refusing::start();
    let proxy = over(&[&dead]).start();
    Client::connect_as(&proxy, 9).expect_gone();
    let line = proxy.wait_for_access(" 127.0.0.9 ");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[2..5], ["-", "-", "0"], "{line}");
    assert_eq!(words[6], dead.name(), "{line}");
    assert!(line.ends_with(" \"connect failed\""), "{line}");
    proxy.wait_for_event(&[
        &dead.name(),
        "closed a connection of 127.0.0.9: connect to ",
    ]);
}

#[test]
fn checks_are_made_as_in_http_mode() {
    let origin = Origin::start("one");
    let other = greeting("other");
    let proxy = over(&[&origin, &other])
        .checks(json!({ "interval": "20ms", "down_interval": "20ms" }))
        .start();
    origin.kill();
    proxy.wait_for_event(&[&origin.name(), "is down"]);
    for _ in 0..4 {
        assert_eq!(proxy.client().read_line(), "other");
    }
    origin.revive();
    proxy.wait_for_event(&[&origin.name(), "is up"]);
}

#[test]
fn a_stop_lets_connections_go_on_until_drain() {
    let backend = Backend::start();
    let mut proxy = over(&[&backend]).set("timeouts.drain", "30s").start();
    let (mut client, mut wire) = connected(&proxy, &backend);
    proxy.terminate();
    proxy.wait_for_event(&["stopping"]);
    client.send("last");
    assert_eq!(wire.read_exact(4), b"last");
    wire.send("words");
    wire.close();
    assert_eq!(client.read_to_end(), b"words");
    client.close();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn cookies_are_refused_for_want_of_anything_to_carry_them() {
    let finished = crate::support::proxy::run_with_config(
        &["--check"],
        json!({
            "proxy": { "port": 0, "mode": "tcp" },
            "backends": [{ "url": "http://127.0.0.1:1/" }],
            "balance": { "persistence": { "kind": "cookie" } },
        })
        .to_string(),
    );
    assert_eq!(finished.code, 2, "{finished:?}");
    assert!(
        finished.stderr.contains("balance.persistence"),
        "{finished:?}"
    );
}
