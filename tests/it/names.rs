//! Backends by name: which names are looked up, which never are, and what becomes of one without an address.

use crate::support::{Addressed, Backend, Origin, Proxy, Refusing, eventually};
use serde_json::json;
use std::time::{Duration, Instant};

/// A name that no resolver knows (RFC 6761 6.4).
const NOWHERE: &str = "http://no-such-host.invalid:81/";

#[test]
fn localhost_works_as_in_the_articles_file() {
    let origins: [Origin; 2] = Origin::several();
    let url = |origin: &Origin| format!("http://localhost:{}/", origin.address().port());
    let proxy = Proxy::over(&[&origins[0], &origins[1]])
        .set("backends.0.url", url(&origins[0]))
        .set("backends.1.url", url(&origins[1]))
        .checks(json!({ "interval": "20ms" }))
        .start();
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((origins[0].requests(), origins[1].requests()), (5, 5));
    let port = origins[0].address().port();
    proxy.wait_for_access(&format!(" localhost:{port} "));
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn a_name_that_does_not_resolve_is_a_backend_that_is_down_and_no_refusal_to_start() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin, &origin])
        .set("backends.0.url", NOWHERE)
        .checks(json!({ "timeout": "200ms", "interval": "1h", "down_interval": "20ms" }))
        .start();
    let event = proxy.wait_for_event(&["no-such-host.invalid:81", "is down"]);
    assert!(event.contains("no-such-host.invalid"), "{event}");
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "one");
    }
    assert_eq!(
        proxy.events_with(&["no-such-host.invalid:81", "is down"]),
        1,
        "said once: {:?}",
        proxy.events()
    );
}

#[test]
fn with_nothing_but_a_name_that_does_not_resolve_the_client_gets_502_at_once() {
    let unknown: std::net::SocketAddr = ([127, 0, 0, 1], 1).into();
    for mode in ["http", "tcp"] {
        let proxy = Proxy::over(&[&unknown])
            .set("proxy.mode", mode)
            .set("backends.0.url", NOWHERE)
            .start();
        let begin = Instant::now();
        let mut client = proxy.client();
        if mode == "http" {
            assert_eq!(client.get("/").status, 502);
        } else {
            client.expect_gone();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "no worker waits for a lookup"
        );
    }
}

#[test]
fn the_second_address_of_a_name_is_tried_in_the_same_exchange_whatever_the_method() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        // A machine without IPv6.
        return;
    }
    // The same port of the first address refuses, and is held so that no other test listens there.
    let (_refusing, listener) = std::iter::repeat_with(Refusing::start)
        .find_map(|refusing| {
            let listener = std::net::TcpListener::bind(("::1", refusing.address().port())).ok()?;
            Some((refusing, listener))
        })
        .expect("a port that is free in both families turns up");
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut wire = crate::support::Wire::new(stream);
            while wire.next_request().is_some() {
                wire.answer("six");
            }
        }
    });
    let proxy = Proxy::over(&[&address])
        .set(
            "backends.0.url",
            format!("http://localhost:{}/", address.port()),
        )
        .set("balance.tries", 1)
        .start();
    assert_eq!(proxy.client().post("/", b"once").text(), "six");
    assert_eq!(proxy.client().get("/").text(), "six");
    assert_eq!(proxy.events_with(&["is down"]), 0, "{:?}", proxy.events());
}

#[test]
fn host_names_the_backend_for_a_client_without_host() {
    let backend = Backend::start();
    let port = backend.address().port();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.url", format!("http://localhost:{port}/"))
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(
        request.fields.one("host"),
        Some(format!("localhost:{port}").as_str())
    );
    wire.answer("");
    eventually("it is answered", || client.has_input());
}
