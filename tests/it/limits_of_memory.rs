//! What a slow or idle peer costs: bytes, bounded, and never a thread.
//!
//! Sizes are moderate, so that the suite stays quick; `scripts/acceptance` does the same with thousands.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Client, Origin, Proxy, Wire, eventually, pattern};
use std::time::{Duration, Instant};

/// More than the sockets on the way hold.
const LENGTH: usize = 4 << 20;

/// Room for the test's own sockets, of which there are more than a shell allows by default.
fn raise_own_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn idle_connections_cost_little_and_no_thread() {
    raise_own_descriptor_limit();
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    let (threads, before_kib) = (proxy.threads(), proxy.rss_kib());
    let mut clients: Vec<Client> = (0..1000)
        .map(|_| {
            let mut client = proxy.client();
            assert_eq!(client.get("/").status, 200);
            client
        })
        .collect();
    let each = (proxy.rss_kib().saturating_sub(before_kib)) * 1024 / clients.len();
    assert!(each < 1500, "{each} bytes for an idle connection");
    assert_eq!(proxy.threads(), threads);
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200, "still served");
    }
}

#[test]
fn slow_heads_cost_what_was_received_and_hold_up_nobody() {
    raise_own_descriptor_limit();
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("timeouts.client_head", "1h")
        .start();
    assert_eq!(proxy.client().get("/").status, 200);
    let (threads, before_kib) = (proxy.threads(), proxy.rss_kib());
    let mut slow: Vec<Client> = (0..500).map(|_| proxy.client()).collect();
    for part in ["GET / HT", "TP/1.1\r\nHo", "st: a", "\r\nX-Slow: "] {
        for client in &mut slow {
            client.send(part);
        }
        assert_eq!(proxy.client().get("/").status, 200, "at once");
    }
    let each = (proxy.rss_kib().saturating_sub(before_kib)) * 1024 / slow.len();
    assert!(each < 3000, "{each} bytes for a slow head");
    assert_eq!(proxy.threads(), threads);
    for client in &mut slow {
        client.send("done\r\n\r\n");
    }
    for client in &mut slow {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn slow_downloads_are_not_held_in_memory() {
    raise_own_descriptor_limit();
    let server = Backend::start().run(|_, mut wire| {
        while let Some(request) = wire.next_request() {
            if request.target == "/quick" {
                wire.answer("quick");
                continue;
            }
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ));
            if !wire.try_send(vec![b'x'; LENGTH]) {
                return;
            }
        }
    });
    let proxy = Proxy::over(&[&server]).one_worker().start();
    let mut quick = proxy.client();
    assert_eq!(quick.get("/quick").text(), "quick");
    let (threads, before_kib) = (proxy.threads(), proxy.rss_kib());
    let mut slow: Vec<Client> = (0..60).map(|_| proxy.client()).collect();
    for client in &mut slow {
        client.send(get("/slow"));
    }
    for client in &mut slow {
        client.read_response_head();
        client.read_exact(1000);
        assert_eq!(quick.get("/quick").text(), "quick", "at once");
    }
    let growth_kib = proxy.rss_kib().saturating_sub(before_kib);
    assert!(
        growth_kib < 60 * 64 + 4096,
        "{growth_kib} KiB for 60 slow downloads of 4 MiB"
    );
    assert_eq!(proxy.threads(), threads);
}

#[test]
fn slow_uploads_are_not_held_in_memory_and_hold_up_nobody() {
    raise_own_descriptor_limit();
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let mut quick = proxy.client();
    quick.send(get("/quick"));
    let mut quick_wire = backend.accept();
    quick_wire.serve("quick");
    assert_eq!(quick.read_response().text(), "quick");
    let before_kib = proxy.rss_kib();
    let mut slow = Vec::new();
    for _ in 0..40 {
        quick.send(get("/quick"));
        quick_wire.expect_request();
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
        ));
        let mut wire = backend.accept();
        wire.expect_request_head();
        // As much as the way takes while the backend does not read.
        client.fill_up();
        quick_wire.answer("quick");
        assert_eq!(quick.read_response().text(), "quick");
        slow.push((client, wire));
    }
    let growth_kib = proxy.rss_kib().saturating_sub(before_kib);
    assert!(
        growth_kib < 40 * 64 + 4096,
        "{growth_kib} KiB for 40 uploads that nobody reads"
    );
}

#[test]
fn large_bodies_pass_in_little_memory() {
    const LENGTH: usize = 64 << 20;
    let part = pattern(1 << 20);
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    let mut wire = backend.accept();
    wire.expect_request_head();
    let mut upload = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..LENGTH / part.len())
                .for_each(|_| std::io::Write::write_all(&mut upload, &part).unwrap());
        });
        for _ in 0..LENGTH / part.len() {
            assert!(wire.read_exact(part.len()) == part);
            wire.forget();
        }
    });
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
    ));
    client.read_response_head();
    let mut download = wire.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..LENGTH / part.len())
                .for_each(|_| std::io::Write::write_all(&mut download, &part).unwrap());
        });
        for _ in 0..LENGTH / part.len() {
            assert!(client.read_exact(part.len()) == part);
            client.forget();
        }
    });
    assert!(proxy.rss_kib() < 16 << 10, "{} KiB", proxy.rss_kib());
}

#[test]
fn descriptors_are_given_back() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&origins.each_ref().map(|origin| origin as &dyn Addressed))
        .set("timeouts.backend_idle", "20ms")
        .start();
    let begin = proxy.open_fds();
    for round in 0..20 {
        let mut clients: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.send(if round % 2 == 0 {
                get("/")
            } else {
                "bad\r\n\r\n".to_owned()
            });
        }
        for client in clients.iter_mut().take(5) {
            client.read_response();
        }
    }
    eventually("all descriptors are given back", || {
        proxy.open_fds() <= begin
    });
}

#[test]
fn slow_backends_hold_up_nobody() {
    let slow = Backend::start();
    let proxy = Proxy::over(&[&slow]).one_worker().start();
    let mut waiting: Vec<(Client, crate::support::Wire)> = (0..100)
        .map(|_| {
            let mut client = proxy.client();
            client.send(get("/slow"));
            let mut wire = slow.accept();
            wire.expect_request();
            (client, wire)
        })
        .collect();
    let mut quick = proxy.client();
    quick.send(get("/quick"));
    slow.accept().serve("quick");
    assert_eq!(quick.read_response().text(), "quick");
    for (client, wire) in &mut waiting {
        wire.answer("late");
        assert_eq!(client.read_response().text(), "late");
    }
}

#[test]
fn whoever_waits_costs_no_processor_time() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let accept = |client: &mut Client, bytes: &str| {
        client.send(bytes);
        let mut wire = backend.accept();
        wire.expect_request_head();
        wire
    };
    let mut open: Vec<(Client, Option<Wire>)> = Vec::new();
    // New, idle, and in the middle of a head.
    open.push((proxy.client(), None));
    let mut client = proxy.client();
    let mut wire = accept(&mut client, &get("/idle"));
    // Closed, so that none of the others takes it over.
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    client.read_response();
    open.push((client, Some(wire)));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    open.push((client, None));
    // Waiting for a backend, with and without more requests behind it.
    let mut client = proxy.client();
    let wire = accept(&mut client, &get("/slow"));
    open.push((client, Some(wire)));
    let mut client = proxy.client();
    let wire = accept(&mut client, &get("/slow").repeat(100));
    open.push((client, Some(wire)));
    // A body that stopped, on either side.
    let mut client = proxy.client();
    let wire = accept(
        &mut client,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234",
    );
    open.push((client, Some(wire)));
    let mut client = proxy.client();
    let mut wire = accept(&mut client, &get("/"));
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234");
    client.read_response_head();
    open.push((client, Some(wire)));
    // A client that does not read, and a backend that does not.
    for length in [
        "Content-Length: 100000000\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut client = proxy.client();
        let mut wire = accept(&mut client, &get("/"));
        wire.send(format!("HTTP/1.1 200 OK\r\n{length}\r\n5f5e100\r\n"));
        wire.fill_up();
        // What it sent is all it will send.
        wire.half_close();
        open.push((client, Some(wire)));
        let mut client = proxy.client();
        let wire = accept(
            &mut client,
            &format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n"),
        );
        client.send("5f5e100\r\n");
        client.fill_up();
        open.push((client, Some(wire)));
    }
    // A tunnel that one side has left.
    let mut client = proxy.client();
    let mut wire = accept(
        &mut client,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    );
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status, 101);
    client.half_close();
    assert_eq!(wire.read_to_end(), b"");
    open.push((client, Some(wire)));

    // All of them have settled when a request has been through since.
    assert_eq!(served(&proxy, &backend), "ok");
    let (ticks, begin) = (proxy.cpu_ticks(), Instant::now());
    std::thread::sleep(Duration::from_millis(600));
    let used_ms = u128::from(proxy.cpu_ticks() - ticks) * 10;
    assert!(
        used_ms < begin.elapsed().as_millis() / 5,
        "{used_ms} ms of processor time for nothing"
    );
    drop(open);
}

fn served(proxy: &Proxy, backend: &Backend) -> String {
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    backend.accept().serve("ok");
    client.read_response().text()
}
