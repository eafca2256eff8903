//! The balancing methods seen from outside: which backend gets the next exchange, and which are passed over.
//!
//! What `round_robin.rs` does not show already: unequal weights with a dead backend, the methods that look at what is in
//! flight, and the one that looks at the client.

use crate::support::admin::{address, ask};
use crate::support::backend::Running;
use crate::support::client::get;
use crate::support::{Addressed, Backend, Client, Holding, Origin, Proxy, Response, eventually};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn all<T: Addressed, const N: usize>(backends: &[T; N]) -> [&dyn Addressed; N] {
    backends.each_ref().map(|backend| backend as &dyn Addressed)
}

fn name_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.fields.one("x-origin").unwrap().to_owned()
}

fn counts<'a>(names: impl IntoIterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_insert(0) += 1;
    }
    counts
}

/// Sends a request that stays in flight, and waits until a backend has it.
fn hold(proxy: &Proxy, backends: &[Holding]) -> Client {
    proxy.hold(|| backends.iter().map(Holding::held).sum())
}

#[test]
fn every_period_is_exact_for_weights_that_have_something_in_common() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("backends.0.weight", 300)
        .set("backends.1.weight", 200)
        .set("backends.2.weight", 100)
        .start();
    let names: Vec<String> = (0..60).map(|_| name_of(&proxy.client().get("/"))).collect();
    for window in names.windows(6) {
        assert_eq!(
            counts(window),
            BTreeMap::from([("origin-0", 3), ("origin-1", 2), ("origin-2", 1)]),
            "{names:?}"
        );
    }
    assert!(
        names
            .windows(3)
            .all(|three| three[0] != three[1] || three[1] != three[2]),
        "interleaved: {names:?}"
    );
}

#[test]
fn the_share_of_a_dead_backend_spreads_over_the_others_by_weight() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("backends.0.weight", 4)
        .set("backends.1.weight", 3)
        .set("backends.2.weight", 2)
        .start();
    origins[0].kill();
    let mut client = proxy.client();
    // Finds out that it is dead.
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    let names: Vec<String> = (0..60).map(|_| name_of(&client.get("/"))).collect();
    for window in names.windows(6) {
        assert_eq!(
            counts(window),
            BTreeMap::from([("origin-1", 3), ("origin-2", 2), ("origin-3", 1)]),
            "{names:?}"
        );
    }
}

#[test]
fn weights_are_exact_over_all_workers_and_clients_at_once() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("proxy.workers", 4)
        .set("backends.0.weight", 5)
        .set("backends.1.weight", 3)
        .start();
    std::thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..20 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    let requests = origins.each_ref().map(Origin::requests);
    assert_eq!(requests, [100, 60, 20]);
}

#[test]
fn least_connections_fills_the_emptiest_first() {
    let backends: [Holding; 3] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("balance.method", "least_connections")
        .start();
    let mut clients: Vec<Client> = (0..9).map(|_| hold(&proxy, &backends)).collect();
    assert_eq!(backends.each_ref().map(Holding::held), [3, 3, 3]);
    backends[1].release();
    eventually("three have their answer", || {
        clients.iter().filter(|client| client.has_input()).count() == 3
    });
    // The emptiest takes all that comes, as long as it stays the emptiest.
    for _ in 0..20 {
        assert_eq!(name_of(&proxy.client().get("/")), "origin-1");
    }
    backends[0].release();
    backends[2].release();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn least_connections_is_in_proportion_to_weight() {
    let backends: [Holding; 2] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("balance.method", "least_connections")
        .set("backends.0.weight", 3)
        .start();
    let clients: Vec<Client> = (0..12).map(|_| hold(&proxy, &backends)).collect();
    assert_eq!(backends.each_ref().map(Holding::held), [9, 3]);
    backends.iter().for_each(Holding::release);
    drop(clients);
}

#[test]
fn least_connections_of_an_idle_pool_goes_in_turns() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("balance.method", "least_connections")
        .start();
    let mut client = proxy.client();
    for _ in 0..30 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origins.each_ref().map(Origin::requests), [10, 10, 10]);
}

#[test]
fn random_two_prefers_the_less_busy() {
    let backends: [Holding; 3] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("balance.method", "random_two")
        .start();
    let mut clients = vec![hold(&proxy, &backends)];
    let busiest = backends
        .iter()
        .position(|backend| backend.held() == 1)
        .unwrap();
    // The busy one loses against each of the others, and one of them is always drawn.
    for _ in 0..100 {
        assert_ne!(
            name_of(&proxy.client().get("/")),
            format!("origin-{busiest}")
        );
    }
    // To get a fifth of nine, another one must have had four before.
    clients.extend((0..8).map(|_| hold(&proxy, &backends)));
    let held = backends.each_ref().map(Holding::held);
    assert!(
        held.iter().all(|&held| held <= 5),
        "no backend gets ahead of the others: {held:?}"
    );
    backends.iter().for_each(Holding::release);
    drop(clients);
}

#[test]
fn random_two_uses_every_live_backend_and_no_dead_one() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("balance.method", "random_two")
        .start();
    origins[3].kill();
    let mut client = proxy.client();
    for _ in 0..300 {
        assert_ne!(name_of(&client.get("/")), "origin-3");
    }
    for origin in &origins[..3] {
        // 100 are due; five standard deviations are 41.
        assert!((50..=150).contains(&origin.requests()));
    }
}

/// The backend of each client, by the address that a PROXY protocol line gives it.
fn by_source(proxy: &Proxy, family: &str, prefix: &str) -> Vec<String> {
    (1..=150)
        .map(|last| {
            let mut client = proxy.client();
            let to = if family == "TCP4" { "192.0.2.1" } else { "::1" };
            client.send(format!("PROXY {family} {prefix}{last} {to} 40000 80\r\n"));
            name_of(&client.get("/"))
        })
        .collect()
}

/// What a backend does with each request, and how many it had.
struct Manner {
    wait_ms: AtomicU64,
    status: AtomicU64,
    requests: AtomicU64,
}

impl Manner {
    fn of(wait_ms: u64) -> Arc<Manner> {
        Arc::new(Manner {
            wait_ms: AtomicU64::new(wait_ms),
            status: AtomicU64::new(200),
            requests: AtomicU64::new(0),
        })
    }

    fn begin(&self, wait_ms: u64, status: u64) {
        self.wait_ms.store(wait_ms, Ordering::SeqCst);
        self.status.store(status, Ordering::SeqCst);
    }

    fn run(self: &Arc<Manner>) -> Running {
        let manner = Arc::clone(self);
        Backend::start().run(move |_, mut wire| {
            while wire.next_request().is_some() {
                manner.requests.fetch_add(1, Ordering::SeqCst);
                let wait_ms = manner.wait_ms.load(Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(wait_ms));
                let status = manner.status.load(Ordering::SeqCst);
                wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
            }
        })
    }
}

#[test]
fn fastest_leaves_what_is_slow_or_fails_and_comes_back_to_what_has_recovered() {
    let manners = [20, 20, 200].map(Manner::of);
    let backends = manners.each_ref().map(Manner::run);
    let proxy = Proxy::over(&all(&backends))
        .set("balance.method", "fastest")
        .start();
    let mut client = proxy.client();
    let mut ask = |count: usize| -> Vec<u64> {
        for manner in &manners {
            manner.requests.store(0, Ordering::SeqCst);
        }
        for _ in 0..count {
            client.get("/");
        }
        let requests = |manner: &Arc<Manner>| manner.requests.load(Ordering::SeqCst);
        manners.iter().map(requests).collect()
    };
    ask(20);
    let hits = ask(100);
    assert!(hits[2] <= 10, "the slow one: {hits:?}");

    // The favourite fails, and at once.
    let favourite = usize::from(hits[1] > hits[0]);
    manners[favourite].begin(0, 503);
    ask(20);
    let hits = ask(100);
    assert!(hits[favourite] <= 10, "the one that fails: {hits:?}");

    // The one that is left becomes slow. The others are tried once more within ten seconds.
    manners[1 - favourite].begin(200, 200);
    manners[favourite].begin(0, 200);
    manners[2].begin(0, 200);
    eventually("both are back", || {
        let hits = ask(10);
        hits[1 - favourite] <= 1
    });
}

#[test]
fn source_hash_stays_with_the_client_and_moves_only_those_of_a_lost_backend() {
    let origins: [Origin; 4] = Origin::several();
    // The hash goes by the names: with names of their own it is the same in every run.
    let plan = || {
        Proxy::over(&all(&origins))
            .set("backends.0.name", "a")
            .set("backends.1.name", "b")
            .set("backends.2.name", "c")
            .set("backends.3.name", "d")
            .set("balance.method", "source_hash")
            .set("proxy.accept_proxy_protocol", true)
            .checks(serde_json::json!({ "interval": "1h", "down_interval": "20ms" }))
    };
    let proxy = plan().start();
    let before = by_source(&proxy, "TCP4", "198.51.100.");
    assert_eq!(before, by_source(&proxy, "TCP4", "198.51.100."), "again");
    for (name, count) in counts(&before) {
        assert!((15..=70).contains(&count), "{name} has {count} of 150");
    }
    assert_eq!(
        before,
        by_source(&proxy, "TCP6", "::ffff:198.51.100."),
        "an IPv4 address written as IPv6 is the same client"
    );
    assert_eq!(
        before,
        by_source(&plan().start(), "TCP4", "198.51.100."),
        "another instance agrees"
    );

    origins[1].kill();
    let after = by_source(&proxy, "TCP4", "198.51.100.");
    let mut heirs: HashMap<&str, usize> = HashMap::new();
    for (before, after) in before.iter().zip(&after) {
        if before == "origin-1" {
            *heirs.entry(after).or_insert(0) += 1;
        } else {
            assert_eq!(before, after, "only the clients of the lost one move");
        }
    }
    assert!(
        heirs.len() == 3 && !heirs.contains_key("origin-1"),
        "they spread over all others: {heirs:?}"
    );

    origins[1].revive();
    proxy.wait_for_event(&["backend \"b\"", "is up"]);
    assert_eq!(before, by_source(&proxy, "TCP4", "198.51.100."), "and back");
}

#[test]
fn source_hash_goes_by_the_address_of_the_connection() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("balance.method", "source_hash")
        .start();
    let once = || -> Vec<String> {
        (1..=40)
            .map(|last| name_of(&Client::connect_as(&proxy, last).get("/")))
            .collect()
    };
    let first = once();
    assert_eq!(first, once());
    assert_eq!(counts(&first).len(), 3, "{first:?}");
}

/// The backends of 40 values, asked for by the client at 127.0.0.`last` in this way.
fn by_value(proxy: &Proxy, last: u8, request: &str) -> Vec<String> {
    let mut client = Client::connect_as(proxy, last);
    (0..40)
        .map(|value| {
            let fields = request
                .replace("VALUE", &value.to_string())
                .replace("LAST", &last.to_string());
            client.send(format!("GET {fields}\r\n\r\n"));
            name_of(&client.read_response())
        })
        .collect()
}

#[test]
fn hash_goes_by_the_path_a_field_or_a_cookie_whoever_the_client_is() {
    let origins: [Origin; 4] = Origin::several();
    let start = |key: &str| {
        Proxy::over(&all(&origins))
            .set("backends.0.name", "a")
            .set("backends.1.name", "b")
            .set("backends.2.name", "c")
            .set("backends.3.name", "d")
            .set("balance.method", "hash")
            .set("balance.hash.key", key)
            .start()
    };
    // A promise for every release: what has the bytes of these paths for its key goes there.
    let promised: Vec<String> = "0213101231302002301133013202032230020302"
        .chars()
        .map(|place| format!("origin-{place}"))
        .collect();
    for (key, request) in [
        ("path", "/VALUE?LAST HTTP/1.1\r\nHost: h"),
        ("path", "http://LAST.example/VALUE HTTP/1.1\r\nHost: h"),
        (
            "header:X-Key",
            "/?VALUE HTTP/1.1\r\nHost: h\r\nx-key: /VALUE\r\nX-Key: /LAST",
        ),
        (
            "cookie:key",
            "/?VALUE HTTP/1.1\r\nHost: h\r\nCookie: id=LAST; key=/VALUE; key=LAST",
        ),
    ] {
        let proxy = start(key);
        for last in [1, 2] {
            assert_eq!(
                by_value(&proxy, last, request),
                promised,
                "{key}, client {last}"
            );
        }
    }

    // Without the field, or with an empty one, the client's address decides.
    let by_source = start("source");
    for (key, request) in [
        ("header:X-Key", "/VALUE HTTP/1.1\r\nHost: h"),
        (
            "header:X-Key",
            "/VALUE HTTP/1.1\r\nHost: h\r\nX-Key:\r\nX-Key: VALUE",
        ),
        (
            "cookie:key",
            "/VALUE HTTP/1.1\r\nHost: h\r\nCookie: key=; id=VALUE",
        ),
    ] {
        let proxy = start(key);
        for last in 1..=6 {
            let home = name_of(&Client::connect_as(&by_source, last).get("/"));
            let names = by_value(&proxy, last, request);
            assert!(
                names.iter().all(|name| *name == home),
                "{key}, client {last}: {names:?}"
            );
        }
    }
}

#[test]
fn a_backend_takes_by_hash_no_more_than_its_bound_and_the_next_takes_the_rest() {
    let backends: [Holding; 2] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("proxy.workers", 2)
        .set("balance.method", "hash")
        .set("balance.hash.key", "path")
        .set("balance.hash.load_percent_max", 150)
        .set("admin.address", "127.0.0.1:0")
        .start();
    let admin = address(&proxy);
    let metric = || {
        let text = ask(admin, "GET", "/metrics", "").text();
        let line = text
            .lines()
            .find(|line| line.starts_with("rondo_hash_sent_on_total "));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let held = || backends.each_ref().map(Holding::held);
    let mut clients = Vec::new();
    let mut most = 0;
    // Of each two the first may have 1.5 of a half, rounded up.
    for (all, bound) in (1..=8).zip([1, 2, 3, 3, 4, 5, 6, 6]) {
        clients.push(hold(&proxy, &backends));
        most = held().into_iter().max().unwrap();
        assert_eq!(most, bound, "of {all}: {:?}", held());
    }
    assert_eq!(metric(), "2");
    let first = held().iter().position(|&count| count == most).unwrap();
    backends[1 - first].release();
    eventually("the other one has ended what it had", || {
        clients.iter().filter(|client| client.has_input()).count() == 2
    });
    for _ in 0..2 {
        // Of 7 the first may have six, of which it has all.
        assert_eq!(
            name_of(&proxy.client().get("/hold")),
            format!("origin-{}", 1 - first)
        );
    }
    backends.iter().for_each(Holding::release);
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    eventually("what was in flight has ended", || {
        name_of(&proxy.client().get("/hold")) == format!("origin-{first}")
    });
    let decisions = ask(admin, "GET", "/decisions", "").text();
    for text in ["the hash of its key", "the next by hash", "at its bound"] {
        assert!(decisions.contains(text), "{text}: {decisions}");
    }
}

#[test]
fn backups_share_the_work_only_while_no_other_is_healthy() {
    let origins: [Origin; 4] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("backends.2.backup", true)
        .set("backends.3.backup", true)
        .checks(serde_json::json!({ "interval": "1h", "down_interval": "20ms" }))
        .start();
    let mut client = proxy.client();
    let mut ten = || -> Vec<String> { (0..10).map(|_| name_of(&client.get("/"))).collect() };
    assert_eq!(
        counts(&ten()),
        BTreeMap::from([("origin-0", 5), ("origin-1", 5)])
    );
    origins[0].kill();
    ten();
    assert_eq!(counts(&ten()), BTreeMap::from([("origin-1", 10)]));
    origins[1].kill();
    ten();
    assert_eq!(
        counts(&ten()),
        BTreeMap::from([("origin-2", 5), ("origin-3", 5)])
    );
    origins[1].revive();
    proxy.wait_for_event(&[&origins[1].name(), "is up"]);
    assert_eq!(counts(&ten()), BTreeMap::from([("origin-1", 10)]));
}

#[test]
fn max_connections_of_a_backend_holds_over_all_workers() {
    let backends: [Holding; 2] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("proxy.workers", 4)
        .set("backends.0.max_connections", 2)
        .set("backends.1.max_connections", 3)
        .start();
    let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get("/hold"));
    }
    // Five have a place; the others get a 503 at once, and none waits.
    eventually("25 are refused", || {
        clients.iter().filter(|client| client.has_input()).count() == 25
    });
    eventually("five are held", || {
        backends[0].held() + backends[1].held() == 5
    });
    for client in clients.iter_mut().filter(|client| client.has_input()) {
        let response = client.read_response();
        assert_eq!(response.status, 503);
        assert!(response.fields.has("retry-after"), "{response:?}");
    }
    assert_eq!(backends.each_ref().map(Holding::held_most), [2, 3]);
    backends.iter().for_each(Holding::release);
    eventually("the five have their answers", || {
        clients.iter().filter(|client| client.has_input()).count() == 5
    });
    assert_eq!(proxy.client().get("/").status, 200, "places are free again");
}

#[test]
fn a_full_backend_is_passed_over_by_every_method() {
    for method in [
        "round_robin",
        "least_connections",
        "random_two",
        "fastest",
        "hash",
        "source_hash",
    ] {
        let backends: [Holding; 2] = Holding::several();
        let proxy = Proxy::over(&all(&backends))
            .set("balance.method", method)
            .set("backends.0.max_connections", 1)
            .set("backends.1.max_connections", 1)
            .start();
        let _first = hold(&proxy, &backends);
        let full = backends.iter().position(|each| each.held() == 1).unwrap();
        for _ in 0..5 {
            assert_eq!(
                name_of(&proxy.client().get("/")),
                format!("origin-{}", 1 - full),
                "{method}"
            );
        }
        backends.iter().for_each(Holding::release);
    }
}

#[test]
fn weight_0_gets_nothing_from_any_method_even_when_all_others_are_dead() {
    for method in [
        "round_robin",
        "least_connections",
        "random_two",
        "fastest",
        "hash",
        "source_hash",
    ] {
        let origins: [Origin; 3] = Origin::several();
        let proxy = Proxy::over(&all(&origins))
            .set("balance.method", method)
            .set("backends.1.weight", 0)
            .start();
        for last in 1..=20 {
            assert_eq!(
                Client::connect_as(&proxy, last).get("/").status,
                200,
                "{method}"
            );
        }
        origins[0].kill();
        origins[2].kill();
        assert_eq!(proxy.client().get("/").status, 502, "{method}");
        assert_eq!(origins[1].requests(), 0, "{method}");
    }
}
