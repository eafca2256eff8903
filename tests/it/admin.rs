//! The admin interface: who may ask for what, and that nothing keeps it from answering.
//!
//! What its documents say is in `admin_documents.rs`, what it changes in `admin_changes.rs`.

use crate::support::admin::{DEADLINE, TOKEN, address, address_of, ask, ask_raw, json};
use crate::support::client::get as proxied;
use crate::support::proxy::Plan;
use crate::support::{
    Addressed, Client, EDGE_LENGTHS, Holding, Origin, Proxy, Refusing, Response, Wire, chunked,
    eventually,
};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Clients that the interface serves at once.
const CONNECTIONS_MAX: usize = 32;

fn plan(backends: &[&dyn Addressed]) -> Plan {
    Proxy::over(backends).set("admin.address", "127.0.0.1:0")
}

fn with_token(backends: &[&dyn Addressed]) -> Plan {
    plan(backends).set("admin.token", TOKEN)
}

/// A request with these further field lines.
fn request(method: &str, target: &str, fields: &[&str]) -> String {
    let fields: Vec<String> = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\n{}\r\n", fields.concat())
}

/// The status of such a request.
#[track_caller]
fn status(admin: SocketAddr, method: &str, target: &str, fields: &[&str]) -> u16 {
    ask_raw(admin, request(method, target, fields)).status
}

#[track_caller]
fn expect_error(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    let document = json(response);
    assert!(document["error"].is_string(), "{document}");
    for place in ["file", "line", "column"] {
        assert!(document.get(place).is_some(), "{document}");
    }
    assert_eq!(
        response.fields.one("Content-Type"),
        Some("application/json")
    );
}

#[test]
fn probers_are_told_whether_it_lives_and_is_ready() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    for target in ["/live", "/healthz", "/ready", "/readyz"] {
        let response = ask(admin, "GET", target, "");
        assert_eq!(response.status, 200);
        let head = ask(admin, "HEAD", target, "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(
            head.fields.one("Content-Length"),
            Some(&*response.body.len().to_string())
        );
        for (name, value) in [
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Connection", "close"),
        ] {
            assert_eq!(response.fields.one(name), Some(value));
        }
        assert!(response.fields.has("Date"));
    }
}

#[test]
fn without_a_healthy_backend_it_lives_and_is_not_ready() {
    let dead = Refusing::start();
    let proxy = plan(&[&dead]).start();
    let admin = address(&proxy);
    assert_eq!(ask(admin, "GET", "/ready", "").status, 200);
    proxy.client().get("/");
    expect_error(&ask(admin, "GET", "/ready", ""), 503);
    assert_eq!(ask(admin, "GET", "/live", "").status, 200);
}

#[test]
fn a_stop_makes_it_unready_at_once_and_it_answers_until_the_end() {
    let origin = Holding::start("one");
    let proxy = plan(&[&origin])
        .set("timeouts.drain_delay", "500ms")
        .set("timeouts.drain", "60s")
        .start();
    let admin = address(&proxy);
    let mut client = proxy.hold(|| origin.held());
    proxy.terminate();
    eventually("it is not ready", || {
        ask(admin, "GET", "/ready", "").status == 503
    });
    // The listener closes after the delay only.
    assert_eq!(proxy.client().get("/").status, 200);
    proxy.wait_until_closed();
    assert_eq!(ask(admin, "GET", "/ready", "").status, 503);
    assert_eq!(ask(admin, "GET", "/live", "").status, 200);
    origin.release();
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn a_host_that_is_no_address_nor_known_gets_421() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin])
        .set("admin.hosts", vec!["lb.example"])
        .start();
    let admin = address(&proxy);
    for host in [
        "127.0.0.1",
        "10.1.2.3:9090",
        "[::1]:9090",
        "[2001:db8::1]",
        "localhost:1",
        "LOCALHOST",
        "lb.example",
        "LB.Example:443",
    ] {
        let host = format!("Host: {host}");
        assert_eq!(status(admin, "GET", "/live", &[&host]), 200, "{host}");
    }
    for host in [
        // A name that its owner has pointed at this machine.
        "rebound.test",
        "rebound.test:9090",
        "lb.example.rebound.test",
        "127.0.0.1.rebound.test",
        "localhost.rebound.test",
        "lb.example.",
        "127.0.0.1.",
        "2130706433",
        "0x7f.0.0.1",
    ] {
        let fields = format!("Host: {host}");
        let authorization = format!("Authorization: Bearer {TOKEN}");
        for (method, target) in [("GET", "/live"), ("GET", "/status"), ("POST", "/reload")] {
            let request = request(method, target, &[&fields, &authorization]);
            expect_error(&ask_raw(admin, request), 421);
        }
    }
    // The authority of the target counts before the field (RFC 9112 3.2.2).
    let request = request("GET", "http://rebound.test/live", &["Host: 127.0.0.1"]);
    expect_error(&ask_raw(admin, request), 421);
    assert_eq!(ask_raw(admin, "GET /live HTTP/1.0\r\n\r\n").status, 421);
}

#[test]
fn a_change_from_another_origin_is_refused() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let name = format!("127.0.0.1:{}", origin.address().port());
    let target = format!("/backends/{name}/drain?dry_run=1");
    let host = format!("Host: {admin}");
    let token = format!("Authorization: Bearer {TOKEN}");
    let with_origin = |method: &str, target: &str, origin: &str| {
        let origin = format!("Origin: {origin}");
        ask_raw(admin, request(method, target, &[&host, &token, &origin]))
    };
    for own in [format!("http://{admin}"), format!("https://{admin}")] {
        let response = with_origin("POST", &target, &own);
        assert_eq!(response.status, 200, "{own}: {response:?}");
    }
    for other in [
        "null",
        "http://evil.test",
        &format!("http://{admin}.evil.test"),
        &format!("http://127.0.0.1:{}", admin.port() ^ 1),
        "http://127.0.0.1",
        &format!("HTTP/{admin}"),
        "",
    ] {
        for (method, target) in [
            ("POST", &*target),
            ("POST", "/reload"),
            ("PUT", "/backends/x"),
            ("DELETE", "/backends/x"),
            ("OPTIONS", "/status"),
        ] {
            expect_error(&with_origin(method, target, other), 403);
        }
        // Reading cannot be prevented by it, and no other site gets to see the answer.
        let response = with_origin("GET", "/live", other);
        assert_eq!(response.status, 200);
        assert!(!response.fields.has("Access-Control-Allow-Origin"));
    }
    let both = [
        &*host,
        &*token,
        &format!("Origin: http://{admin}"),
        "Origin: http://evil.test",
    ];
    assert_eq!(status(admin, "POST", &target, &both), 403);
}

#[test]
fn a_change_needs_the_token_where_one_is_set() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let name = format!("127.0.0.1:{}", origin.address().port());
    let target = format!("/backends/{name}/drain?dry_run=1");
    let host = format!("Host: {admin}");
    let ask = |authorization: &str| {
        let authorization = format!("Authorization: {authorization}");
        ask_raw(admin, request("POST", &target, &[&host, &authorization]))
    };
    // `anyone:open-sesame` and `:open-sesame`.
    for right in [
        "Bearer open-sesame",
        "bearer   open-sesame",
        "Basic YW55b25lOm9wZW4tc2VzYW1l",
        "basic Om9wZW4tc2VzYW1l",
    ] {
        assert_eq!(ask(right).status, 200, "{right}");
    }
    for wrong in [
        "Bearer open-sesam",
        "Bearer open-sesamf",
        "Bearer open-sesameopen-sesame",
        "Bearer OPEN-SESAME",
        "Bearer",
        "open-sesame",
        "Digest open-sesame",
        "Basic open-sesame",
        // The user is the token, and the password is none.
        "Basic b3Blbi1zZXNhbWU6",
        "Basic =",
        "",
    ] {
        let response = ask(wrong);
        expect_error(&response, 401);
        assert_eq!(response.fields.one("WWW-Authenticate"), Some("Bearer"));
    }
    assert_eq!(status(admin, "POST", &target, &[&host]), 401);
    assert_eq!(status(admin, "POST", "/reload", &[&host]), 401);
    assert_eq!(status(admin, "PUT", "/backends/x", &[&host]), 401);
    assert_eq!(status(admin, "DELETE", "/backends/x", &[&host]), 401);
    let twice = [
        &*host,
        "Authorization: Bearer x",
        "Authorization: Bearer open-sesame",
    ];
    assert_eq!(status(admin, "POST", &target, &twice), 401);
    // On loopback, who may look is who has the machine.
    assert_eq!(status(admin, "GET", "/live", &[&host]), 200);
}

#[test]
fn without_a_token_backends_are_neither_added_nor_removed() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    let name = format!("127.0.0.1:{}", origin.address().port());
    for method in ["PUT", "DELETE"] {
        expect_error(&ask(admin, method, &format!("/backends/{name}"), "{}"), 403);
    }
    let drain = format!("/backends/{name}/drain");
    assert_eq!(ask(admin, "POST", &drain, "").status, 200);
}

#[test]
fn beyond_loopback_all_but_the_probers_answers_needs_the_token() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin])
        .set("admin.address", "0.0.0.0:0")
        .start();
    let admin = SocketAddr::from(([127, 0, 0, 1], address(&proxy).port()));
    let host = format!("Host: {admin}");
    for target in ["/live", "/ready", "/healthz", "/readyz"] {
        assert_eq!(status(admin, "GET", target, &[&host]), 200);
        assert_eq!(status(admin, "HEAD", target, &[&host]), 200);
        assert_eq!(status(admin, "POST", target, &[&host]), 401);
    }
    for target in [
        "/",
        "/status",
        "/decisions",
        "/config",
        "/metrics",
        "/nothing",
    ] {
        let response = ask_raw(admin, request("GET", target, &[&host]));
        expect_error(&response, 401);
        // At the page alone a browser asks by itself.
        let challenge = response.fields.one("WWW-Authenticate").unwrap();
        assert_eq!(
            challenge.starts_with("Basic "),
            target == "/",
            "{challenge}"
        );
    }
    expect_error(&ask(admin, "GET", "/nothing", ""), 404);
}

#[test]
fn what_is_not_there_is_named_so() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    for target in [
        "/nothing",
        "/live/",
        "/Live",
        "//live",
        "/backends",
        "/backends/a/b/c",
        "/backends/a/pause",
        "/%6cive",
    ] {
        expect_error(&ask(admin, "GET", target, ""), 404);
        expect_error(&ask(admin, "POST", target, ""), 404);
    }
    for (method, target, allow) in [
        ("POST", "/live", "GET, HEAD"),
        ("OPTIONS", "/live", "GET, HEAD"),
        ("GET", "/reload", "POST"),
        ("GET", "/backends/x", "PUT, DELETE"),
        ("HEAD", "/backends/x/drain", "POST"),
        ("PROPFIND", "/backends/x/drain", "POST"),
        ("get", "/live", "GET, HEAD"),
    ] {
        let response = ask(admin, method, target, "");
        assert_eq!(response.status, 405, "{method} {target}");
        assert_eq!(response.fields.one("Allow"), Some(allow));
    }
    expect_error(&ask(admin, "POST", "/backends/nobody/drain", ""), 404);
    for (method, target) in [
        ("GET", "/live?x"),
        ("POST", "/reload?dryrun=1"),
        ("POST", "/reload?dry_run=0"),
        ("POST", "/reload?dry_run=1&dry_run=1"),
        ("POST", "/backends/a/drain?dry_run"),
        ("POST", "/backends/%/drain"),
        ("POST", "/backends/%4/drain"),
        ("POST", "/backends/%ff/drain"),
        ("POST", "/backends//drain"),
    ] {
        expect_error(&ask(admin, method, target, ""), 400);
    }
    assert_eq!(
        ask_raw(admin, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status,
        501
    );
    assert_eq!(
        ask_raw(admin, "GET /live HTTP/2.0\r\nHost: a\r\n\r\n").status,
        505
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET /live HTTP/1.1\nHost: 127.0.0.1\n\n",
        b"GET /live HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /reload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let response = ask_raw(admin, bytes);
        expect_error(&response, 400);
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000));
    assert_eq!(ask_raw(admin, long).status, 414);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(20_000));
    assert_eq!(ask_raw(admin, long).status, 431);
    let fields = "X: y\r\n".repeat(101);
    assert_eq!(
        ask_raw(admin, format!("GET / HTTP/1.1\r\n{fields}\r\n")).status,
        431
    );
}

#[test]
fn a_body_may_have_64_kib_in_any_framing_and_no_more() {
    const MAX: usize = 64 * 1024;
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let put = |framing: &str, body: &[u8]| {
        let head = format!(
            "PUT /backends/x HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\n{framing}\r\n\r\n"
        );
        ask_raw(admin, [head.as_bytes(), body].concat()).status
    };
    let lengths = EDGE_LENGTHS.iter().copied().filter(|length| *length < MAX);
    for length in lengths.chain([MAX - 1, MAX]) {
        let body = vec![b' '; length];
        let length = format!("Content-Length: {length}");
        assert_ne!(put(&length, &body), 413, "{length}");
        let chunks = chunked(&body, 1000);
        assert_ne!(put("Transfer-Encoding: chunked", &chunks), 413, "{length}");
    }
    let body = vec![b' '; MAX + 1];
    assert_eq!(put(&format!("Content-Length: {}", MAX + 1), &body), 413);
    assert_eq!(
        put("Transfer-Encoding: chunked", &chunked(&body, 1000)),
        413
    );
    // Nothing is waited for that would be refused, and no number is too large.
    assert_eq!(put("Content-Length: 18446744073709551615", b""), 413);
    // What is refused is answered, however much comes after it.
    assert_eq!(
        put(
            &format!("Content-Length: {}", 900_000),
            &vec![b' '; 900_000]
        ),
        413
    );
}

#[test]
fn a_client_that_waits_to_send_its_body_is_told_to_go_on() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let head = |token: &str| {
        format!(
            "PUT /backends/x HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
    };
    let mut client = Client::connect_to(admin);
    client.send(head(TOKEN));
    assert_eq!(client.read_line(), "HTTP/1.1 100 Continue");
    assert_eq!(client.read_line(), "");
    client.send("{}");
    client.read_response();
    let mut client = Client::connect_to(admin);
    client.send(head("wrong"));
    assert_eq!(client.read_response().status, 401);
}

#[test]
fn a_slow_client_is_cut_and_keeps_no_other_waiting() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let parts = [
        "GET /live HTTP/1.1\r\nHost:".to_owned(),
        String::new(),
        format!(
            "PUT /backends/x HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5\r\n\r\n{{}}"
        ),
    ];
    for part in parts {
        // On a slow machine it may be cut before the other has asked: then it proves nothing, and the next one may.
        eventually("another is answered while it waits", || {
            let begin = Instant::now();
            let mut slow = Client::connect_to(admin);
            slow.send(&part);
            assert_eq!(ask(admin, "GET", "/live", "").status, 200);
            let waits = !slow.has_ended();
            slow.expect_gone();
            let took = begin.elapsed();
            assert!(took >= DEADLINE, "cut after {took:?}");
            waits
        });
    }
    // One byte at a time is no way around it.
    let mut slow = Client::connect_to(admin);
    let mut bytes = b"GET /live HTTP/1.1\r\nX: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    eventually("it is cut", || {
        std::thread::sleep(Duration::from_millis(50));
        !slow.try_send([*bytes.next().unwrap()]) || slow.has_ended()
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_and_keeps_no_prober_waiting() {
    let origin = Origin::start("one");
    let backend = |number: usize| json_of(&origin, number);
    let proxy = with_token(&[&origin])
        .set("backends", (0..2000).map(backend).collect::<Vec<_>>())
        .start();
    let admin = address(&proxy);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // So that the kernel takes little of the answer.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&admin.into()).unwrap();
    let mut slow = Wire::new(TcpStream::from(socket));
    let begin = Instant::now();
    slow.send(request("GET", "/status", &["Host: localhost"]));
    eventually("its answer has begun", || slow.has_input());
    // A short answer at once, a long one when the slow client is gone.
    assert_eq!(ask(admin, "GET", "/ready", "").status, 200);
    assert_eq!(ask(admin, "GET", "/status", "").status, 200);
    assert!(begin.elapsed() >= DEADLINE, "{:?}", begin.elapsed());
    let (bytes, _) = slow.read_until_gone();
    assert!(bytes.len() < 900_000, "{}", bytes.len());
}

fn json_of(origin: &Origin, number: usize) -> serde_json::Value {
    serde_json::json!({ "url": origin.url(), "name": format!("backend-{number}") })
}

#[test]
fn a_reload_that_ends_the_interface_is_answered_by_it() {
    let origin = Origin::start("one");
    let proxy = with_token(&[&origin]).start();
    let admin = address(&proxy);
    let config = format!(
        r#"{{"proxy": {{"port": 0, "address": "127.0.0.1", "workers": 2}}, "backends": [{{"url": "{}"}}], "health_check": {{"kind": "none"}}}}"#,
        origin.url()
    );
    proxy.replace_file("config.json", &config);
    let response = ask(admin, "POST", "/reload", "");
    assert_eq!(response.status, 200, "{response:?}");
    eventually("it is closed", || TcpStream::connect(admin).is_err());
}

#[test]
fn the_33rd_client_waits_until_one_of_32_is_done() {
    let origin = Origin::start("one");
    let proxy = plan(&[&origin]).start();
    let admin = address(&proxy);
    let begin = Instant::now();
    let held: Vec<Client> = (0..CONNECTIONS_MAX)
        .map(|_| Client::connect_to(admin))
        .collect();
    eventually("all are accepted", || {
        proxy.open_sockets() >= CONNECTIONS_MAX + 2
    });
    let mut client = Client::connect_to(admin);
    client.send(request("GET", "/live", &["Host: localhost"]));
    assert_eq!(client.read_response().status, 200);
    assert!(begin.elapsed() >= DEADLINE, "{:?}", begin.elapsed());
    drop(held);
    // Done earlier, it makes room at once.
    assert_eq!(ask(admin, "GET", "/live", "").status, 200);
}

#[test]
fn it_answers_at_the_limit_of_connections_with_every_worker_busy() {
    const CLIENTS: usize = 8;
    let origin = Holding::start("one");
    let proxy = plan(&[&origin])
        .set("proxy.max_connections", CLIENTS)
        .one_worker()
        .start();
    let admin = address(&proxy);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(proxied("/hold"));
    }
    eventually("all are held", || origin.held() == CLIENTS);
    let _waiting: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for _ in 0..100 {
        assert_eq!(ask(admin, "GET", "/ready", "").status, 200);
    }
    origin.release();
}

#[test]
fn it_answers_when_traffic_has_taken_every_descriptor() {
    let origin = Holding::start("one");
    let proxy = with_token(&[&origin])
        .set("timeouts.client_idle", "1h")
        .set("timeouts.client_head", "1h")
        .set("timeouts.response_head", "1h")
        .start();
    let admin = address(&proxy);
    // From here on it gets no new number for a descriptor, and clients take those that are left.
    let highest = proxy.descriptors().into_iter().max().unwrap();
    let before = proxy.limit_descriptors(Some(highest + 1));
    let mut clients = Vec::new();
    eventually("all are taken", || {
        let mut client = proxy.client();
        client.try_send(proxied("/hold"));
        clients.push(client);
        proxy.events_with(&["accepting pauses"]) > 0
    });
    for _ in 0..5 {
        // More at once than there are descriptors held: the rest waits.
        let mut asking: Vec<Client> = (0..20).map(|_| Client::connect_to(admin)).collect();
        for client in &mut asking {
            client.send(request("GET", "/live", &["Host: localhost"]));
        }
        for client in &mut asking {
            assert_eq!(client.read_response().status, 200);
        }
    }
    proxy.limit_descriptors(before);
    origin.release();
}

#[test]
fn a_reload_switches_it_on_and_its_hosts_and_token_hold_at_once() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let listening = |proxy: &Proxy| proxy.events_with(&["admin interface on"]);
    assert_eq!(listening(&proxy), 0);
    let line = |proxy: &Proxy, number: usize| {
        let mut lines = proxy.events();
        lines.retain(|line| line.contains("admin interface on"));
        address_of(&lines[number])
    };

    proxy.reload(|config| config["admin"]["address"] = "127.0.0.1:0".into());
    let first = line(&proxy, 0);
    assert_eq!(ask(first, "GET", "/live", "").status, 200);

    // Hosts and token hold at once, on the same socket.
    let named = request("GET", "/live", &["Host: lb.example"]);
    assert_eq!(ask_raw(first, &named).status, 421);
    proxy.reload(|config| {
        config["admin"]["hosts"] = vec!["lb.example"].into();
        config["admin"]["token"] = TOKEN.into();
    });
    assert_eq!(ask_raw(first, &named).status, 200);
    assert_eq!(status(first, "POST", "/reload", &["Host: localhost"]), 401);
    assert_eq!(listening(&proxy), 1);
}

#[test]
fn a_reload_to_a_taken_address_is_refused_and_without_one_it_ends() {
    let origin = Origin::start("one");
    let mut proxy = plan(&[&origin]).start();
    let first = address(&proxy);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap().to_string();
    let outcome = proxy.reload(|config| config["admin"]["address"] = wanted.clone().into());
    assert!(
        outcome.contains("not reloaded") && outcome.contains(&wanted),
        "{outcome}"
    );
    assert_eq!(ask(first, "GET", "/live", "").status, 200);

    // Another one than before, and none that other tests may take.
    proxy.reload(|config| config["admin"]["address"] = "127.0.0.2:0".into());
    let second = address_of(&proxy.wait_for_event(&["admin interface on http://127.0.0.2:"]));
    assert_eq!(ask(second, "GET", "/live", "").status, 200);
    eventually("the old one is closed", || {
        TcpStream::connect(first).is_err()
    });

    proxy.reload(|config| {
        config.as_object_mut().unwrap().remove("admin");
    });
    eventually("it is closed", || TcpStream::connect(second).is_err());
    eventually("its thread has ended", || {
        !proxy.thread_names().contains(&"admin".to_owned())
    });
    assert_eq!(proxy.client().get("/").status, 200);
}
