//! What keeps a client with its backend, and what happens when it cannot stay.

use crate::support::client::get;
use crate::support::{Addressed, Backend, Client, Holding, Origin, Proxy, Response, eventually};
use serde_json::json;

fn all<T: Addressed, const N: usize>(backends: &[T; N]) -> [&dyn Addressed; N] {
    backends.each_ref().map(|backend| backend as &dyn Addressed)
}

fn name_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.fields.one("x-origin").unwrap().to_owned()
}

/// The value of the cookie that the answer sets; None when it sets none.
fn set_cookie(response: &Response) -> Option<String> {
    let field = response.fields.one("set-cookie")?;
    let (name, rest) = field.split_once('=').unwrap();
    assert_eq!(name, "rondo", "{field:?}");
    let (value, attributes) = rest.split_once(';').unwrap();
    let mut attributes: Vec<&str> = attributes.split(';').map(str::trim).collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax"]);
    Some(value.to_owned())
}

fn get_with(cookies: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\n\r\n")
}

fn ask(client: &mut Client, value: &str) -> Response {
    client.send(get_with(&format!("rondo={value}")));
    client.read_response()
}

#[test]
fn source_address_keeps_a_client_with_its_backend_on_top_of_any_method() {
    for method in ["round_robin", "least_connections", "random_two"] {
        let origins: [Origin; 3] = Origin::several();
        let proxy = Proxy::over(&all(&origins))
            .set("balance.method", method)
            .set("balance.persistence", json!({ "kind": "source_address" }))
            .start();
        let of = |last| name_of(&Client::connect_as(&proxy, last).get("/"));
        let first: Vec<String> = (1..=20).map(of).collect();
        for _ in 0..3 {
            assert_eq!(first, (1..=20).map(of).collect::<Vec<_>>(), "{method}");
        }
        assert!(first.iter().any(|name| name != &first[0]), "{first:?}");
        // A lost backend moves its own clients, and no others.
        origins[0].kill();
        for (last, before) in (1..=20).zip(&first) {
            let now = of(last);
            if before == "origin-0" {
                assert_ne!(&now, "origin-0", "{method}");
            } else {
                assert_eq!(&now, before, "{method}");
            }
        }
    }
}

fn by_cookie(backends: &[&dyn Addressed]) -> Proxy {
    Proxy::over(backends)
        .set("balance.persistence", json!({ "kind": "cookie" }))
        .start()
}

#[test]
fn a_client_without_the_cookie_gets_one_and_stays_where_it_leads() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = by_cookie(&all(&origins));
    let mut values = Vec::new();
    for number in 0..6 {
        let mut client = proxy.client();
        let response = client.get("/");
        let name = name_of(&response);
        assert_eq!(name, format!("origin-{}", number % 3), "new ones in turn");
        let value = set_cookie(&response).unwrap();
        for _ in 0..5 {
            let again = ask(&mut client, &value);
            assert_eq!(name_of(&again), name);
            assert_eq!(set_cookie(&again), None, "a valid one is not set again");
        }
        // The cookie and not the connection binds.
        assert_eq!(name_of(&ask(&mut proxy.client(), &value)), name);
        values.push(value);
    }
    assert_eq!(values[..3], values[3..], "one value for each backend");
    for (value, origin) in values.iter().zip(&origins) {
        let port = origin.address().port().to_string();
        assert!(
            !value.contains(&port) && !value.contains("127001"),
            "{value}"
        );
        assert!(value.len() >= 16 && value.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}

#[test]
fn a_cookie_that_is_no_longer_valid_is_replaced() {
    let origins: [Origin; 2] = Origin::several();
    let proxy = by_cookie(&all(&origins));
    let mut client = proxy.client();
    for cookies in [
        "rondo=",
        "rondo=nonsense",
        "rondo=00000000000000000000000000000000",
        "other=1",
        "Rondo=1; xrondo=2",
        "a=\"rondo=1\"",
        "=;;;==",
    ] {
        client.send(get_with(cookies));
        let response = client.read_response();
        let value = set_cookie(&response).unwrap_or_else(|| panic!("none for {cookies:?}"));
        assert_eq!(
            name_of(&ask(&mut client, &value)),
            name_of(&response),
            "{cookies:?}"
        );
    }
}

#[test]
fn the_clients_cookies_pass_untouched_and_the_backends_set_cookies_are_kept() {
    let backend = Backend::start();
    let proxy = by_cookie(&[&backend]);
    let mut client = proxy.client();
    let cookies = "a=1; rondo=old;b=\"2\" ;  c==";
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\ncookie: d=4\r\n\r\n"
    ));
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.fields.all("cookie"), [cookies, "d=4"]);
    wire.send(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/x\r\nContent-Length: 0\r\nset-cookie: rondo=theirs; Secure\r\n\r\n",
    );
    let response = client.read_response();
    let fields = response.fields.all("set-cookie");
    assert_eq!(fields[..2], ["a=1; Path=/x", "rondo=theirs; Secure"]);
    assert_eq!(fields.len(), 3, "{fields:?}");
    let ours = fields[2];
    assert!(ours.starts_with("rondo=") && ours.ends_with("; Path=/; HttpOnly; SameSite=Lax"));
}

#[test]
fn the_cookie_is_found_wherever_it_stands() {
    let origins: [Origin; 2] = Origin::several();
    let proxy = by_cookie(&all(&origins));
    let mut client = proxy.client();
    client.get("/");
    let response = client.get("/");
    assert_eq!(name_of(&response), "origin-1");
    let value = set_cookie(&response).unwrap();
    for fields in [
        format!("Cookie: rondo={value}"),
        format!("cookie: a=1; rondo={value}; b=2"),
        format!("COOKIE: a=1\r\nCookie: rondo={value}"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(name_of(&response), "origin-1", "{fields:?}");
        assert_eq!(set_cookie(&response), None, "{fields:?}");
    }
}

#[test]
fn another_name_for_the_cookie_is_used() {
    let origins: [Origin; 2] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set(
            "balance.persistence",
            json!({ "kind": "cookie", "name": "stick" }),
        )
        .start();
    let response = proxy.client().get("/");
    let field = response.fields.one("set-cookie").unwrap();
    let pair = field.split(';').next().unwrap().to_owned();
    assert!(pair.starts_with("stick="), "{field:?}");
    for _ in 0..5 {
        let mut client = proxy.client();
        client.send(get_with(&pair));
        assert_eq!(name_of(&client.read_response()), name_of(&response));
    }
}

#[test]
fn a_dead_backends_client_gets_a_new_cookie_and_stays_with_its_new_backend() {
    let origins: [Origin; 3] = Origin::several();
    let proxy = Proxy::over(&all(&origins))
        .set("balance.persistence", json!({ "kind": "cookie" }))
        .checks(json!({ "interval": "1h", "down_interval": "20ms" }))
        .start();
    let mut client = proxy.client();
    let first = client.get("/");
    assert_eq!(name_of(&first), "origin-0");
    let old = set_cookie(&first).unwrap();
    origins[0].kill();
    // In the very exchange that finds it dead.
    let moved = ask(&mut client, &old);
    let new = set_cookie(&moved).expect("a new cookie");
    assert_ne!(new, old);
    for _ in 0..5 {
        assert_eq!(name_of(&ask(&mut client, &new)), name_of(&moved));
    }
    origins[0].revive();
    proxy.wait_for_event(&[&origins[0].name(), "is up"]);
    // The client does not move back; one that still has the old cookie does.
    assert_eq!(name_of(&ask(&mut client, &new)), name_of(&moved));
    assert_eq!(name_of(&ask(&mut client, &old)), "origin-0");
}

#[test]
fn a_disabled_backends_client_gets_a_new_cookie() {
    let origins: [Origin; 2] = Origin::several();
    let old = set_cookie(&by_cookie(&all(&origins)).client().get("/")).unwrap();
    let proxy = Proxy::over(&all(&origins))
        .set("balance.persistence", json!({ "kind": "cookie" }))
        .set("backends.0.IsDead", true)
        .start();
    let response = ask(&mut proxy.client(), &old);
    assert_eq!(name_of(&response), "origin-1");
    assert!(set_cookie(&response).is_some_and(|new| new != old));
}

#[test]
fn a_full_backends_client_is_served_elsewhere_and_keeps_its_cookie() {
    let backends: [Holding; 2] = Holding::several();
    let proxy = Proxy::over(&all(&backends))
        .set("balance.persistence", json!({ "kind": "cookie" }))
        .set("backends.0.max_connections", 1)
        .start();
    let response = proxy.client().get("/");
    assert_eq!(name_of(&response), "origin-0");
    let cookie = set_cookie(&response).unwrap();
    let mut holding = proxy.client();
    holding.send(format!(
        "GET /hold HTTP/1.1\r\nHost: a\r\nCookie: rondo={cookie}\r\n\r\n"
    ));
    eventually("it is full", || backends[0].held() == 1);
    let elsewhere = ask(&mut proxy.client(), &cookie);
    assert_eq!(name_of(&elsewhere), "origin-1");
    assert_eq!(set_cookie(&elsewhere), None, "it keeps the cookie it has");
    backends[0].release();
    assert_eq!(name_of(&holding.read_response()), "origin-0");
    assert_eq!(name_of(&ask(&mut proxy.client(), &cookie)), "origin-0");
}

#[test]
fn two_instances_with_one_configuration_agree_whatever_the_order() {
    let origins: [Origin; 3] = Origin::several();
    let one = by_cookie(&all(&origins));
    let other = by_cookie(&[&origins[2], &origins[0], &origins[1]]);
    for _ in 0..3 {
        let response = one.client().get("/");
        let value = set_cookie(&response).unwrap();
        let there = ask(&mut other.client(), &value);
        assert_eq!(name_of(&there), name_of(&response));
        assert_eq!(set_cookie(&there), None);
    }
}

#[test]
fn every_kind_of_answer_that_is_forwarded_binds_and_our_own_do_not() {
    let backend = Backend::start();
    let proxy = by_cookie(&[&backend]);
    let mut client = proxy.client();
    let mut held = None;
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"),
        ("GET", "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut wire = backend.accept_or(held);
        wire.expect_request();
        wire.send(answer);
        let mut response = client.read_response_to(method);
        if response.status == 103 {
            assert!(!response.fields.has("set-cookie"), "not in an interim one");
            response = client.read_response();
        }
        assert!(set_cookie(&response).is_some(), "{response:?}");
        held = Some(wire);
    }
    client.send(get("/"));
    let mut wire = backend.accept_or(held);
    wire.expect_request();
    wire.send("nonsense\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 502);
    assert!(!response.fields.has("set-cookie"), "{response:?}");
}
