//! The kinds of check, each over real sockets: what it sends, which answer passes, and what blames no backend.
//!
//! `health.rs` shows when checks are made; here is what one of them does.

use crate::support::client::get;
use crate::support::proxy::run_with_config;
use crate::support::{Addressed, Backend, Origin, Proxy, Unreachable, Wire, eventually};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The header of PROXY protocol v2 that speaks for the sender itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A backend that answers its first check with `answer` and all later ones well.
fn answering(answer: &'static [u8]) -> crate::support::backend::Running {
    Backend::start().run(move |number, mut wire| {
        wire.expect_request();
        if number == 0 {
            wire.try_send(answer);
        } else {
            wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

#[test]
fn an_http_check_takes_exactly_the_statuses_it_was_given() {
    for (ranges, status, good) in [
        (None, "200", true),
        (None, "204", true),
        (None, "399", true),
        (None, "400", false),
        (None, "503", false),
        (Some("200-299,404"), "299", true),
        (Some("200-299,404"), "300", false),
        (Some("200-299,404"), "403", false),
        (Some("200-299,404"), "404", true),
        (Some("503"), "503", true),
        (Some("503"), "200", false),
    ] {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let backend = Backend::start().run(move |_, mut wire| {
            wire.expect_request();
            counter.fetch_add(1, Ordering::SeqCst);
            wire.try_send(format!(
                "HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n"
            ));
        });
        let mut section = json!({ "kind": "http", "interval": "10ms", "down_interval": "10ms" });
        if let Some(ranges) = ranges {
            section["status"] = json!(ranges);
        }
        let proxy = Proxy::over(&[&backend]).checks(section).start();
        // When the third check is made, the first has been judged.
        eventually("three checks", || told.load(Ordering::SeqCst) >= 3);
        if good {
            assert_eq!(proxy.events_with(&["is down"]), 0, "{ranges:?} {status}");
        } else {
            let event = proxy.wait_for_event(&["is down"]);
            assert!(event.contains(status), "{event}");
        }
    }
}

#[test]
fn an_http_check_passes_over_interim_answers_and_takes_nothing_else_for_an_answer() {
    for (answer, good) in [
        (
            &b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"[..],
            true,
        ),
        (b"HTTP/1.0 200 OK\r\n\r\n", true),
        (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 500 No\r\n\r\n", false),
        (b"HTTP/1.1 103 Early\r\n\r\n", false),
        (b"HTTP/1.1 200", false),
        (b"HTTP/2 200 OK\r\n\r\n", false),
        (b"SSH-2.0-OpenSSH_9\r\n", false),
        (b"", false),
    ] {
        let backend = answering(answer);
        let proxy = Proxy::over(&[&backend])
            .checks(json!({ "kind": "http", "interval": "20ms", "down_interval": "20ms" }))
            .start();
        if good {
            eventually("three checks", || backend.connections() >= 3);
            assert_eq!(proxy.events_with(&["is down"]), 0, "{answer:?}");
        } else {
            proxy.wait_for_event(&[&backend.name(), "is down"]);
            proxy.wait_for_event(&[&backend.name(), "is up"]);
        }
    }
}

#[test]
fn an_http_check_fails_where_the_answer_would_not_be_forwarded() {
    let bare_lf = b"HTTP/1.1 200 OK\nContent-Length: 0\n\n";
    let both = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n";
    let checked = |answer: &'static [u8], lenient: bool| {
        let backend = Backend::start().run(move |_, mut wire| {
            wire.expect_request();
            wire.try_send(answer);
        });
        let proxy = Proxy::over(&[&backend])
            .set("backends.0.lenient", lenient)
            .checks(json!({ "kind": "http", "interval": "20ms", "down_interval": "20ms" }))
            .start();
        (backend, proxy)
    };
    let (_backend, proxy) = checked(bare_lf, false);
    proxy.wait_for_event(&["is down", "bare LF (backends[].lenient would accept it)"]);
    let (backend, proxy) = checked(bare_lf, true);
    eventually("three checks", || backend.connections() >= 3);
    assert_eq!(proxy.events_with(&["is down"]), 0);
    let (_backend, proxy) = checked(both, true);
    proxy.wait_for_event(&["is down", "Content-Length with Transfer-Encoding"]);
}

#[test]
fn a_check_may_ask_another_port_with_another_method_and_host() {
    let (backend, health) = (Backend::start(), Backend::start());
    let _proxy = Proxy::over(&[&backend])
        .checks(json!({
            "kind": "http", "path": "/up", "method": "HEAD", "host": "app.example",
            "port": health.address().port(),
        }))
        .start();
    let request = health.accept().expect_request();
    let asked = (
        &*request.method,
        &*request.target,
        request.fields.one("host"),
    );
    assert_eq!(asked, ("HEAD", "/up", Some("app.example")));
    backend.expect_no_connection();
    // By tcp, too; that of traffic hangs, which no check finds out.
    let closed = Unreachable::start();
    let proxy = Proxy::over(&[&closed])
        .checks(json!({ "port": health.address().port(), "interval": "10ms" }))
        .start();
    for _ in 0..3 {
        health.accept().expect_gone();
    }
    assert_eq!(proxy.events_with(&["is down"]), 0);
}

#[test]
fn an_http_check_wants_its_text_in_the_body_and_reads_no_more_than_it_must() {
    let long = |before: usize, framing: &str| {
        format!(
            "HTTP/1.1 200 OK\r\n{framing}\r\n{}all is fine",
            "-".repeat(before)
        )
    };
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nall is\r\n5\r\n fine\r\n";
    for (answer, reason) in [
        (long(0, "Content-Length: 11\r\n"), None),
        (chunked.to_owned(), None),
        // Found before the end, which never comes.
        (long(0, "Content-Length: 100000000\r\n"), None),
        (long(65_536 - 11, ""), None),
        (
            long(65_536 - 10, ""),
            Some("the first 64 KiB of its body do not contain the text"),
        ),
        (
            long(0, "Content-Length: 10\r\n"),
            Some("its body does not contain the text"),
        ),
        (
            long(0, "X: all is fine\r\nContent-Length: 3\r\n"),
            Some("its body does not contain the text"),
        ),
    ] {
        let wanted = answer.clone();
        let backend = Backend::start().run(move |_, mut wire| {
            wire.expect_request();
            wire.try_send(&wanted);
            wire.expect_gone();
        });
        let proxy = Proxy::over(&[&backend])
            .checks(json!({
                "kind": "http", "body": "all is fine", "interval": "10ms", "down_interval": "10ms",
            }))
            .start();
        match reason {
            None => {
                eventually("three checks", || backend.connections() >= 3);
                assert_eq!(proxy.events_with(&["is down"]), 0, "{}", &answer[..60]);
            }
            Some(reason) => drop(proxy.wait_for_event(&["is down", reason])),
        }
    }
}

#[test]
fn an_http_check_names_the_backend_in_host_and_asks_for_the_path_alone() {
    let backend = Backend::start();
    let port = backend.address().port();
    let _proxy = Proxy::over(&[&backend])
        .set("backends.0.url", format!("http://LocalHost:{port}/base"))
        .checks(json!({ "kind": "http", "path": "/up?all=1" }))
        .start();
    let request = backend.accept().expect_request();
    let host = request.fields.one("host").unwrap().to_ascii_lowercase();
    assert_eq!(host, format!("localhost:{port}"));
    assert!(request.target.ends_with("/up?all=1"), "{request:?}");
    assert_eq!(request.fields.one("connection"), Some("close"));
    assert!(
        !request.fields.has("x-forwarded-for"),
        "a check is for no client"
    );
}

#[test]
fn an_http_check_ends_its_connection_in_order() {
    let backend = Backend::start();
    let _proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http" }))
        .start();
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n");
    wire.send(vec![b'x'; 30_000]);
    wire.half_close();
    // No reset, although the check did not want the body.
    wire.expect_closed();
}

#[test]
fn without_checks_one_exchange_in_each_down_interval_finds_out() {
    let origins: [Origin; 2] = Origin::several();
    origins[1].kill();
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(json!({ "kind": "none", "down_interval": "1h" }))
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.wait_for_event(&[&origins[1].name(), "is down"]);
    origins[1].revive();
    for _ in 0..50 {
        assert_eq!(client.get("/").fields.one("x-origin"), Some("origin-0"));
    }
    assert_eq!(origins[1].connections(), 0, "its hour is not over");
}

#[test]
fn without_checks_a_trial_that_fails_costs_its_client_nothing() {
    let origins: [Origin; 2] = Origin::several();
    origins[1].kill();
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(json!({ "kind": "none", "down_interval": "1ms" }))
        .start();
    let mut client = proxy.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").fields.one("x-origin"), Some("origin-0"));
    }
    assert_eq!(
        proxy.events_with(&["is down"]),
        1,
        "still down is no news: {:?}",
        proxy.events()
    );
    origins[1].revive();
    eventually("it is back", || {
        assert_eq!(client.get("/").status, 200);
        origins[1].requests() > 0
    });
    proxy.wait_for_event(&[&origins[1].name(), "is up"]);
}

/// Whether this process, and so the proxy that it starts, may send echoes.
fn may_send_echoes() -> bool {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).is_ok()
}

#[test]
fn an_icmp_check_reaches_the_host_or_is_refused_at_the_start_naming_the_remedy() {
    let origin = Origin::start("one");
    let refused = json!({
        "proxy": { "port": 0, "address": "127.0.0.1" },
        "backends": [{ "url": origin.url() }],
        "health_check": { "kind": "icmp" },
    });
    if !may_send_echoes() {
        let finished = run_with_config(&[], refused.to_string());
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(
            finished.stderr.contains("net.ipv4.ping_group_range"),
            "{finished:?}"
        );
        assert!(!finished.stderr.contains("is down"), "{finished:?}");
        return;
    }
    // A host that answers is up, whether or not a server listens on the port.
    let dead = Origin::dead("two");
    let proxy = Proxy::over(&[&origin, &dead])
        .checks(json!({ "kind": "icmp", "interval": "20ms", "down_interval": "20ms" }))
        .start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/").text(), "one");
    }
    assert_eq!(proxy.events_with(&[&origin.name(), "is down"]), 0);
    // Only a connect refutes a failed connect: an echo does not bring the backend up.
    proxy.wait_for_event(&[&dead.name(), "is down"]);
    dead.revive();
    eventually("it is used again", || {
        proxy.client().get("/").text() == "two"
    });
}

#[test]
fn a_check_of_a_backend_with_the_proxy_protocol_says_that_it_speaks_for_itself() {
    for kind in ["tcp", "http"] {
        let backend = Backend::start();
        let proxy = Proxy::over(&[&backend])
            .set("backends.0.send_proxy_protocol", true)
            .checks(json!({ "kind": kind, "interval": "20ms" }))
            .start();
        for _ in 0..2 {
            let mut wire = backend.accept();
            assert_eq!(wire.read_exact(LOCAL.len()), LOCAL, "{kind}");
            if kind == "http" {
                wire.expect_request();
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            wire.expect_gone();
        }
        assert_eq!(proxy.events_with(&["is down"]), 0, "{kind}");
    }
}

#[test]
fn a_check_tries_every_address_of_a_name() {
    let Ok(listener) = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        // A machine without IPv6.
        return;
    };
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::over(&[&address])
        .set(
            "backends.0.url",
            format!("http://localhost:{}/", address.port()),
        )
        .checks(json!({ "interval": "10ms" }))
        .start();
    for _ in 0..3 {
        let (stream, _) = listener.accept().unwrap();
        Wire::new(stream).expect_gone();
    }
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn a_shortage_of_descriptors_is_no_failed_check() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .argument("--log")
        .argument("debug")
        .checks(json!({ "interval": "20ms", "down_interval": "20ms" }))
        .start();
    eventually("it is checked", || origin.connections() >= 2);
    let before = proxy.limit_descriptors(Some(3));
    proxy.wait_for_event(&["a check", "could not be made"]);
    proxy.limit_descriptors(before);
    let count = origin.connections();
    eventually("it is checked again", || origin.connections() > count + 2);
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn the_last_backend_is_still_tried_when_all_are_down() {
    let backend = Backend::start().run(|_, mut wire| {
        let request = wire.expect_request();
        if request.target == "/health" {
            wire.try_send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        } else {
            wire.answer("still here");
        }
    });
    let proxy = Proxy::over(&[&backend])
        .checks(json!({ "kind": "http", "path": "/health" }))
        .start();
    proxy.wait_for_event(&[&backend.name(), "is down"]);
    let mut client = proxy.client();
    client.send(get("/"));
    assert_eq!(client.read_response().text(), "still here");
}
