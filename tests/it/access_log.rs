//! The access line: what it contains, that no client can forge one, and that none is lost at a clean stop.

use crate::support::client::get;
use crate::support::{Backend, Origin, Proxy, Refusing, Wire};

fn position(line: &str, part: &str) -> usize {
    line.find(part)
        .unwrap_or_else(|| panic!("no {part:?} in {line:?}"))
}

#[test]
fn a_line_has_everything_in_its_order() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("backends.0.name", "left")
        .start();
    let mut client = proxy.client();
    client.send("POST /echo?q=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: the-request-id\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.read_response().status, 200);
    let line = proxy.wait_for_access("/echo?q=1");
    let parts = [
        "127.0.0.1",
        "POST /echo?q=1 HTTP/1.1",
        " 200 ",
        " left ",
        "the-request-id",
    ];
    let places: Vec<usize> = parts.iter().map(|part| position(&line, part)).collect();
    assert!(places.is_sorted(), "{line:?}");
    assert!(
        line.starts_with("20") && line.contains('T'),
        "no time at the front of {line:?}"
    );
}

#[test]
fn bytes_sent_and_tries_are_counted() {
    let (dying, origin) = (Backend::start(), Origin::start("one"));
    let proxy = Proxy::over(&[&dying, &origin])
        .set("backends.1.name", "right")
        .start();
    let mut client = proxy.client();
    client.send(get("/counted"));
    dying.accept().expect_request();
    let response = client.read_response();
    let line = proxy.wait_for_access("/counted");
    assert!(line.contains(" right 2 "), "backend and tries in {line:?}");
    // The bytes of the body or of all that went to the client; the number stands after the status.
    let after = &line[position(&line, " 200 ") + 5..];
    let bytes: usize = after.split(' ').next().unwrap().parse().unwrap();
    assert!(
        bytes == response.body.len() || bytes == client.received().len(),
        "{line:?}"
    );
}

#[test]
fn answers_of_our_own_have_a_line_too() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead]).start();
    assert_eq!(proxy.client().get("/nowhere").status, 502);
    assert!(proxy.wait_for_access("/nowhere").contains(" 502 "));
    let mut client = proxy.client();
    client.send("GET /bad HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    assert!(proxy.wait_for_access("/bad").contains(" 400 "));
}

#[test]
fn a_client_cannot_forge_a_line() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    for bytes in [
        &b"GET /\x1b[31m\x07 HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /back\\slash HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe2\x80\xa8line HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x\n127.0.0.1 forged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x\rforged HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\x0bb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"quoted\\\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        client.read_response();
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines = proxy.access_lines();
    assert_eq!(lines.len(), 9, "one line for each: {lines:#?}");
    for line in &lines {
        assert!(
            line.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "{line:?}"
        );
        assert!(line.starts_with("20"), "{line:?}");
        assert!(!line.contains("a\"b"), "a quote ends no field: {line:?}");
    }
}

#[test]
fn no_line_is_lost_at_a_clean_stop() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    for number in 0..500 {
        assert_eq!(client.get(&format!("/{number}")).status, 200);
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines = proxy.access_lines();
    assert_eq!(lines.len(), 500);
    for (number, line) in lines.iter().enumerate() {
        assert!(
            line.contains(&format!("GET /{number} HTTP/1.1")),
            "{number}: {line:?}"
        );
    }
}

#[test]
fn a_line_appears_without_another_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    assert_eq!(proxy.client().get("/alone").status, 200);
    proxy.wait_for_access("/alone");
}

#[test]
fn it_can_be_switched_off() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.access_log", false)
        .start();
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    assert_eq!(proxy.access_lines(), Vec::<String>::new());
}

#[test]
fn as_json_each_line_is_an_object() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.access_log", "json")
        .start();
    for bytes in [
        &b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET /\xff\"\\\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        client.read_response();
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let lines: Vec<serde_json::Value> = proxy
        .access_lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[1]["status"], 400);
}

#[test]
fn an_upgrade_has_its_line_when_the_tunnel_ends() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut wire: Wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status, 101);
    client.close();
    wire.expect_gone();
    wire.close();
    assert!(proxy.wait_for_access("/tunnel").contains(" 101 "));
}

#[test]
fn a_client_that_left_has_its_line() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("backends.0.name", "left")
        .start();
    let mut client = proxy.client();
    client.send(get("/left-alone"));
    let mut wire = backend.accept();
    wire.expect_request();
    client.reset();
    wire.expect_gone();
    assert!(proxy.wait_for_access("/left-alone").contains("left"));
}

/// The JSON line of the request for `target`.
fn json_line(proxy: &Proxy, target: &str) -> serde_json::Value {
    serde_json::from_str(&proxy.wait_for_access(target)).unwrap()
}

#[test]
fn a_json_line_says_more_about_the_request_and_its_times() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("proxy.access_log", "json")
        .one_worker()
        .start();
    let mut client = proxy.client();
    let request = "POST /one HTTP/1.1\r\nHost: shop.example:80\r\nUSER-AGENT: curl/8 \"\u{e9}\"\r\n\
                   Referer: http://shop.example/\r\nContent-Length: 5\r\n\r\nhello";
    // The next request's bytes, which came at once with it, are not this one's.
    client.send(format!("{request}{}", get("/two")));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.answer("first");
    client.read_response();
    let mut wire = backend.accept_or(Some(wire));
    wire.serve("second");
    client.read_response();
    let line = json_line(&proxy, "/one");
    assert_eq!(line["host"], "shop.example:80");
    assert_eq!(
        line["user_agent"], "curl/8 \"\u{c3}\u{a9}\"",
        "byte by byte"
    );
    assert_eq!(line["referer"], "http://shop.example/");
    assert_eq!(line["bytes_received"], request.len());
    assert_eq!(line["reason"], serde_json::Value::Null);
    let ms = |key: &str| line[key].as_f64().unwrap();
    assert!(
        ms("head_ms") <= ms("total_ms") && ms("backend_ms") <= ms("total_ms"),
        "{line}"
    );
    assert!(ms("backend_ms") > 0.0, "{line}");
    let line = json_line(&proxy, "/two");
    assert_eq!(line["bytes_received"], get("/two").len());
    assert_eq!(line["host"], "example.test");
    for key in ["user_agent", "referer", "reason"] {
        assert_eq!(line[key], serde_json::Value::Null, "{key}");
    }
}

#[test]
fn a_json_line_has_nothing_where_there_was_nothing() {
    let dead = Refusing::start();
    let proxy = Proxy::over(&[&dead])
        .set("proxy.access_log", "json")
        .start();
    assert_eq!(proxy.client().get("/refused").status, 502);
    let line = json_line(&proxy, "/refused");
    assert_eq!(line["head_ms"], serde_json::Value::Null, "no head came");
    assert!(line["backend_ms"].is_f64(), "one was tried: {line}");
    let request = "GET /malformed HTTP/1.1\r\nHost: a b\r\nUser-Agent: x\r\n\r\n";
    let mut client = proxy.client();
    client.send(request);
    assert_eq!(client.read_response().status, 400);
    let line = json_line(&proxy, "/malformed");
    assert_eq!(line["bytes_received"], request.len());
    for key in ["host", "user_agent", "referer", "head_ms", "backend_ms"] {
        assert_eq!(line[key], serde_json::Value::Null, "{key}");
    }
}

#[test]
fn what_passed_a_tunnel_is_counted_in_both_directions() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("proxy.access_log", "json")
        .start();
    let mut client = proxy.client();
    let request = "POST /tunnel HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nbody";
    client.send(request);
    let mut wire: Wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status, 101);
    client.send("ping");
    assert_eq!(wire.read_exact(4), b"ping");
    wire.close();
    client.expect_closed();
    client.close();
    let line = json_line(&proxy, "/tunnel");
    assert_eq!(line["bytes_received"], request.len() + 4);
    assert!(line["head_ms"].is_f64(), "{line}");
}

#[test]
fn a_line_ends_with_why_an_exchange_was_cut() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/whole"));
    let mut wire = backend.accept();
    wire.serve("all of it");
    client.read_response();
    let line = proxy.wait_for_access("/whole");
    assert!(line.ends_with(" -"), "{line}");
    client.send(get("/cut"));
    let mut wire = backend.accept_or(Some(wire));
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    wire.close();
    client.read_until_gone();
    let line = proxy.wait_for_access("/cut");
    assert!(
        line.ends_with(" \"the backend's response broke off\""),
        "{line}"
    );
}
