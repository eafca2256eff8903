//! Peers that never come to an end, never read, or never go on: what ends them, and that others are served meanwhile.

use crate::support::client::{get, post};
use crate::support::{Backend, Client, Origin, PATIENCE, Proxy, Wire, pattern};
use std::thread::sleep;
use std::time::{Duration, Instant};

const UPLOAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn with_timeout(backend: &Backend, key: &str, value: &str) -> Proxy {
    Proxy::over(&[backend])
        .one_worker()
        .set(&format!("timeouts.{key}"), value)
        .start()
}

/// Parts of a chunked body that go on for ever, each with what a client gets for it.
const ENDLESS: [(&str, &str, u16); 6] = [
    ("5;x=", "y", 400),
    ("5", ";x", 400),
    ("5;x=\"", "y", 400),
    ("5 ", " ", 400),
    ("0\r\nX: ", "y", 431),
    ("0\r\n", "X: y\r\n", 431),
];

#[test]
fn endless_chunk_extensions_and_trailers_of_a_client_end() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    for (begin, part, status) in ENDLESS {
        let mut client = proxy.client();
        client.send(format!("{UPLOAD}5\r\nhello\r\n{begin}"));
        let mut wire = backend.accept();
        wire.expect_request_head();
        assert_eq!(wire.read_chunks(5), b"hello");
        // Many small pieces: no single read is over a limit.
        let mut sent = 0;
        while !client.has_input() && client.try_send(part.repeat(100)) {
            sent += part.len() * 100;
            assert!(sent < 4 << 20, "{begin:?}: taken without end");
        }
        let response = client.read_response();
        assert_eq!(
            (response.status, response.says_close()),
            (status, true),
            "{begin:?}"
        );
        let (rest, _) = wire.read_until_gone();
        assert!(rest.is_empty(), "{begin:?}: neither passed on nor ended");
    }
}

#[test]
fn endless_chunk_extensions_and_trailers_of_a_backend_end() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    for (begin, part, _) in ENDLESS {
        let mut client = proxy.client();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        // Before that, a bad answer is 502.
        client.read_response_head();
        assert_eq!(client.read_chunks(5), b"hello");
        wire.send(begin);
        let mut sent = 0;
        while wire.try_send(part.repeat(100)) {
            sent += part.len() * 100;
            assert!(sent < 64 << 20, "{begin:?}: taken without end");
        }
        let (rest, _) = client.read_until_gone();
        assert!(rest.is_empty(), "{begin:?}: neither passed on nor ended");
    }
}

#[test]
fn a_client_that_pipelines_and_reads_nothing_is_cut_at_client_write() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .one_worker()
        .set("timeouts.client_write", "400ms")
        .start();
    let mut client = proxy.client();
    socket2::SockRef::from(client.stream())
        .set_recv_buffer_size(16_384)
        .unwrap();
    let begin = Instant::now();
    let requests = post("/echo", &pattern(50_000));
    while client.try_send(&requests) {
        assert!(
            begin.elapsed() < PATIENCE,
            "answers are made for ever, or the connection is never ended"
        );
    }
    assert!(begin.elapsed() >= Duration::from_millis(350));
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn a_client_that_stops_reading_is_cut_however_the_response_is_framed() {
    let backend = Backend::start();
    let proxy = with_timeout(&backend, "client_write", "400ms");
    let chunk = [b"10000\r\n", vec![b'x'; 65_536].as_slice(), b"\r\n"].concat();
    for (version, head, part) in [
        ("1.1", "Transfer-Encoding: chunked\r\n", &chunk[..]),
        ("1.0", "Transfer-Encoding: chunked\r\n", &chunk[..]),
        ("1.1", "", &chunk[7..65_543]),
        ("1.0", "", &chunk[7..65_543]),
    ] {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        let mut wire = backend.accept();
        wire.expect_request();
        let begin = Instant::now();
        wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
        while wire.try_send(part) {}
        assert!(begin.elapsed() >= Duration::from_millis(350));
        client.read_response_head();
        let (bytes, _) = client.read_until_gone();
        assert!(!bytes.ends_with(b"0\r\n\r\n"), "looks complete");
    }
}

#[test]
fn a_body_that_stops_after_its_answer_has_begun_ends_at_client_body() {
    let backend = Backend::start();
    let proxy = with_timeout(&backend, "client_body", "400ms");
    // The answer is under way, or has been given in whole.
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf",
    ] {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        let begin = Instant::now();
        let mut wire = backend.accept();
        wire.expect_request_head();
        assert_eq!(wire.read_exact(5), b"hello");
        wire.send(answer);
        client.read_response_head();
        assert_eq!(client.read_exact(4), b"half");
        client.expect_gone();
        wire.expect_gone();
        assert!(begin.elapsed() >= Duration::from_millis(350));
    }
}

/// A request whose answer was given before its body was read, by whom the test is about.
fn refused_upload(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    client
}

/// Sends a mebibyte without looking, as a client does that writes all of its request first.
#[track_caller]
fn send_a_mebibyte(client: &mut Client) {
    for _ in 0..64 {
        assert!(
            client.try_send(vec![b'x'; 16_384]),
            "reset before the answer could be read"
        );
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_early_answer_arrives_although_the_client_sends_a_mebibyte_more() {
    for chunked in [false, true] {
        let backend = Backend::start();
        let proxy = Proxy::over(&[&backend]).one_worker().start();
        let mut client = if chunked {
            let mut client = proxy.client();
            client.send(format!("{UPLOAD}10000000\r\n"));
            client
        } else {
            refused_upload(&proxy)
        };
        let mut wire = backend.accept();
        wire.expect_request_head();
        wire.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!",
        );
        wire.close();
        send_a_mebibyte(&mut client);
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str()), (413, "big!"));
        client.half_close();
        client.expect_gone();
    }
}

#[test]
fn an_answer_of_our_own_arrives_although_the_client_sends_a_mebibyte_more() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("limits.body_bytes", 1000)
        .start();
    let mut client = refused_upload(&proxy);
    send_a_mebibyte(&mut client);
    let response = client.read_response();
    assert_eq!((response.status, response.says_close()), (413, true));
    client.half_close();
    client.expect_gone();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_client_that_stays_after_the_last_answer_is_let_go_after_five_seconds() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).one_worker().start();
    let begin = Instant::now();
    let (mut silent, mut dribbling) = (proxy.client(), proxy.client());
    for client in [&mut silent, &mut dribbling] {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
        assert_eq!(client.read_response().status, 400);
    }
    let count = proxy.open_fds();
    // The end of our sending side came with the answer; whether the connection is still there shows in what it takes.
    while dribbling.try_send("x") {
        assert!(begin.elapsed() < PATIENCE, "each byte gives it new time");
        sleep(Duration::from_millis(50));
    }
    assert!(begin.elapsed() >= Duration::from_millis(4900));
    crate::support::eventually("both are let go", || proxy.open_fds() + 2 <= count);
    silent.expect_gone();
}

#[test]
fn a_half_closed_tunnel_ends_at_tunnel_idle() {
    let backend = Backend::start();
    let proxy = with_timeout(&backend, "tunnel_idle", "400ms");
    for client_ends in [true, false] {
        let (mut client, mut wire) = tunnel(&proxy, &backend);
        let begin = Instant::now();
        if client_ends {
            client.half_close();
            wire.read_to_end();
            client.expect_gone();
        } else {
            wire.half_close();
            client.read_to_end();
            wire.expect_gone();
        }
        assert!(begin.elapsed() >= Duration::from_millis(350));
    }
}

#[test]
fn a_side_that_ignores_the_end_of_the_other_has_tunnel_half_closed() {
    let backend = Backend::start();
    let proxy = with_timeout(&backend, "tunnel_half_closed", "400ms");
    for client_ends in [true, false] {
        let (mut client, mut wire) = tunnel(&proxy, &backend);
        let begin = Instant::now();
        let (ended, ignoring): (&mut Wire, &mut Wire) = if client_ends {
            (&mut client, &mut wire)
        } else {
            (&mut wire, &mut client)
        };
        ended.half_close();
        ignoring.read_to_end();
        // What it still sends is received, and each byte renews its time.
        for _ in 0..8 {
            sleep(Duration::from_millis(100));
            ignoring.send("x");
            assert_eq!(ended.read_exact(1), b"x");
        }
        assert!(begin.elapsed() >= Duration::from_millis(800));
        let silent_since = Instant::now();
        ended.expect_gone();
        ignoring.expect_gone();
        assert!(silent_since.elapsed() >= Duration::from_millis(300));
    }
    let line = proxy.wait_for_access("/chat");
    assert!(line.ends_with("\"nothing passed through the tunnel in time\""));
}

#[test]
fn a_megabyte_sent_with_the_heads_of_a_tunnel_arrives_whole() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    let body = pattern(1 << 20);
    let mut client = proxy.client();
    let mut to_proxy = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        use std::io::Write;
        scope.spawn(|| {
            to_proxy.write_all(UPGRADE.as_bytes()).unwrap();
            to_proxy.write_all(&body).unwrap();
        });
        let mut wire = backend.accept();
        wire.expect_request();
        wire.expect_nothing_yet();
        let mut to_client = wire.stream().try_clone().unwrap();
        let body = &body;
        scope.spawn(move || {
            to_client.write_all(SWITCH.as_bytes()).unwrap();
            to_client.write_all(body).unwrap();
        });
        scope.spawn(move || assert!(wire.read_exact(body.len()) == *body));
        assert_eq!(client.read_response().status, 101);
        assert!(client.read_exact(body.len()) == *body);
    });
}

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn tunnel(proxy: &Proxy, backend: &Backend) -> (Client, Wire) {
    let mut client = proxy.client();
    client.send(UPGRADE);
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(SWITCH);
    assert_eq!(client.read_response().status, 101);
    (client, wire)
}
