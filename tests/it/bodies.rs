//! Content in both directions: whole, in order and at once. Read next: `broken_bodies.rs`.

use crate::support::client::{get, post};
use crate::support::{Backend, EDGE_LENGTHS, Origin, Proxy, Wire, chunked, pattern};

pub(crate) fn scripted() -> (Backend, Proxy) {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).one_worker().start();
    (backend, proxy)
}

pub(crate) const UPLOAD: &str =
    "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Sends from a thread, so that a full socket buffer never stops the test's own script.
fn sending<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, wire: &Wire, bytes: Vec<u8>) {
    use std::io::Write;
    let mut stream = wire.stream().try_clone().unwrap();
    scope.spawn(move || stream.write_all(&bytes).unwrap());
}

#[test]
fn uploads_of_known_length_arrive_whole_at_every_edge() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = None;
    for length in EDGE_LENGTHS {
        let body = pattern(length);
        std::thread::scope(|scope| {
            sending(scope, &client, post("/up", &body));
            let wire = wire.get_or_insert_with(|| backend.accept());
            let request = wire.serve("ok");
            assert_eq!(
                request.fields.one("content-length"),
                Some(length.to_string().as_str())
            );
            assert!(request.body == body, "{length} bytes arrive changed");
            assert_eq!(client.read_response().text(), "ok", "{length}");
        });
    }
}

#[test]
fn chunked_uploads_arrive_whole_at_every_edge() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = None;
    for length in EDGE_LENGTHS {
        for size in [7, 1000, 65_536] {
            if length / size > 5000 {
                continue;
            }
            let body = pattern(length);
            let bytes = [UPLOAD.as_bytes(), &chunked(&body, size)].concat();
            std::thread::scope(|scope| {
                sending(scope, &client, bytes);
                let wire = wire.get_or_insert_with(|| backend.accept());
                let request = wire.serve("ok");
                assert_eq!(request.fields.one("transfer-encoding"), Some("chunked"));
                assert!(
                    request.body == body,
                    "{length} bytes in chunks of {size} arrive changed"
                );
                assert_eq!(client.read_response().text(), "ok", "{length}");
            });
        }
    }
}

#[test]
fn downloads_of_known_length_arrive_whole_at_every_edge() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = None;
    for length in EDGE_LENGTHS {
        let body = pattern(length);
        client.send(get("/down"));
        let wire = wire.get_or_insert_with(|| backend.accept());
        wire.expect_request();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        std::thread::scope(|scope| {
            sending(scope, wire, [head.as_bytes(), &body].concat());
            let response = client.read_response();
            assert_eq!(
                response.fields.one("content-length"),
                Some(length.to_string().as_str())
            );
            assert!(response.body == body, "{length} bytes arrive changed");
        });
    }
}

#[test]
fn chunked_downloads_arrive_whole_at_every_edge() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = None;
    for length in EDGE_LENGTHS {
        let body = pattern(length);
        client.send(get("/down"));
        let wire = wire.get_or_insert_with(|| backend.accept());
        wire.expect_request();
        let bytes = [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            &chunked(&body, 5000),
        ]
        .concat();
        std::thread::scope(|scope| {
            sending(scope, wire, bytes);
            let response = client.read_response();
            assert_eq!(response.fields.one("transfer-encoding"), Some("chunked"));
            assert!(response.body == body, "{length} bytes arrive changed");
        });
    }
}

#[test]
fn downloads_that_end_with_the_connection_arrive_whole_at_every_edge() {
    let (backend, proxy) = scripted();
    for length in EDGE_LENGTHS {
        let body = pattern(length);
        let mut client = proxy.client();
        client.send(get("/down"));
        let mut wire = backend.accept();
        wire.expect_request();
        std::thread::scope(|scope| {
            let bytes = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
            scope.spawn(move || {
                wire.send(bytes);
                wire.close();
            });
            let response = client.read_response();
            assert!(response.body == body, "{length} bytes arrive changed");
        });
    }
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    const LENGTH: usize = 12 << 20;
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let body = pattern(LENGTH);
    std::thread::scope(|scope| {
        sending(scope, &client, post("/echo", &body));
        let mut wire = backend.accept();
        let request = wire.expect_request_head();
        assert_eq!(
            request.fields.one("content-length"),
            Some(LENGTH.to_string().as_str())
        );
        scope.spawn(move || {
            wire.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ));
            // What comes in goes out at once: both directions are under way all the time.
            for _ in 0..LENGTH / 65_536 {
                let part = wire.read_exact(65_536);
                wire.send(part);
            }
        });
        assert!(client.read_response().body == body);
    });
}

#[test]
fn the_answer_may_begin_before_the_request_has_ended() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(UPLOAD);
    let mut wire = backend.accept();
    wire.expect_request_head();
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.read_response_head().status, 200);
    for number in 0..100 {
        let line = format!("line {number}");
        client.send(chunk(&line));
        assert_eq!(wire.read_chunks(line.len()), line.as_bytes());
        let answer = format!("answer {number}");
        wire.send(chunk(&answer));
        assert_eq!(client.read_chunks(answer.len()), answer.as_bytes());
    }
    client.send("0\r\n\r\n");
    wire.expect_last_chunk();
    wire.send("0\r\n\r\n");
    client.expect_last_chunk();
    client.send(get("/next"));
    wire.serve("next");
    assert_eq!(client.read_response().text(), "next");
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[test]
fn half_a_chunk_passes_at_once_in_both_directions() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!("{UPLOAD}a\r\n01234"));
    let mut wire = backend.accept();
    wire.expect_request_head();
    assert_eq!(wire.read_chunks(5), b"01234");
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabcde");
    assert_eq!(client.read_response_head().status, 200);
    assert_eq!(client.read_chunks(5), b"abcde");
    client.send("56789\r\n0\r\n\r\n");
    assert_eq!(wire.read_chunks(5), b"56789");
    wire.expect_last_chunk();
    wire.send("fghij\r\n0\r\n\r\n");
    assert_eq!(client.read_chunks(5), b"fghij");
    client.expect_last_chunk();
}

#[test]
fn part_of_a_body_of_known_length_passes_at_once() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    // Long enough for the fast path of large bodies.
    let body = pattern(1 << 20);
    let bytes = post("/up", &body);
    let head = bytes.len() - body.len();
    client.send(&bytes[..=head]);
    let mut wire = backend.accept();
    wire.expect_request_head();
    assert_eq!(wire.read_exact(1), body[..1]);
    client.send(&bytes[head + 1..head + 3]);
    assert_eq!(wire.read_exact(2), body[1..3]);
    std::thread::scope(|scope| {
        sending(scope, &client, bytes[head + 3..].to_vec());
        assert!(wire.read_exact(body.len() - 3) == body[3..]);
    });
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.read_response_head();
    for part in [0..1, 1..3, 3..1000] {
        wire.send(&body[part.clone()]);
        assert!(client.read_exact(part.len()) == body[part]);
    }
    std::thread::scope(|scope| {
        sending(scope, &wire, body[1000..].to_vec());
        assert!(client.read_exact(body.len() - 1000) == body[1000..]);
    });
}

#[test]
fn an_event_of_a_stream_passes_at_once() {
    let (backend, proxy) = scripted();
    for framing in ["Transfer-Encoding: chunked\r\n", ""] {
        let mut client = proxy.client();
        client.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n"
        ));
        let response = client.read_response_head();
        assert_eq!(
            response.fields.one("content-type"),
            Some("text/event-stream")
        );
        for number in 0..20 {
            let event = format!("data: {number}\n\n");
            wire.send(if framing.is_empty() {
                event.clone()
            } else {
                chunk(&event)
            });
            let got = if response.fields.has("transfer-encoding") {
                client.read_chunks(event.len())
            } else {
                client.read_exact(event.len())
            };
            assert_eq!(got, event.as_bytes());
        }
        // The client leaves; the backend learns of it.
        client.reset();
        wire.expect_gone();
    }
}

#[test]
fn a_response_head_passes_before_its_body() {
    let (backend, proxy) = scripted();
    for framing in ["Content-Length: 2", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut wire = backend.accept();
        wire.expect_request();
        wire.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        assert_eq!(client.read_response_head().status, 200);
        wire.close();
        client.read_until_gone();
    }
}

#[test]
fn chunks_are_decoded_and_encoded_again() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send(format!(
        "{UPLOAD}0005;name=value;q=\"a;b\"\r\nhello\r\n000;x\r\nX-Trailer: no\r\n\r\n"
    ));
    let mut wire = backend.accept();
    let request = wire.expect_request();
    assert_eq!(request.body, b"hello");
    let raw = String::from_utf8_lossy(wire.received()).into_owned();
    assert!(!raw.contains("name=value"), "{raw:?}");
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00A;secret\r\n0123456789\r\n0\r\n\r\n");
    assert_eq!(client.read_response().text(), "0123456789");
    let raw = String::from_utf8_lossy(client.received()).into_owned();
    assert!(!raw.contains("secret"), "{raw:?}");
}

#[test]
fn trailers_of_a_response_go_to_a_client_that_asked_for_them() {
    let (backend, proxy) = scripted();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n\
                  X-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\nX-Also: 2\r\n\r\n";
    let mut wire = None;
    for (te, expected) in [
        (
            "TE: trailers\r\nConnection: TE\r\n",
            vec!["X-Sum: 1", "X-Also: 2"],
        ),
        (
            "TE: deflate;q=0.5, trailers\r\nConnection: TE\r\n",
            vec!["X-Sum: 1", "X-Also: 2"],
        ),
        ("", vec![]),
        ("TE: deflate\r\nConnection: TE\r\n", vec![]),
    ] {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n"));
        let wire = wire.get_or_insert_with(|| backend.accept());
        wire.expect_request();
        wire.send(answer);
        let response = client.read_response();
        assert_eq!(response.text(), "ok");
        let trailers: Vec<String> = response
            .trailers
            .0
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(trailers, expected, "{te:?}");
    }
}

#[test]
fn a_trailer_field_that_connection_names_ends_here() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send(
        "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: head\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nX-Hop: trailer\r\nX-Sum: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
    );
    let response = client.read_response();
    assert!(!response.fields.has("x-hop"), "{response:?}");
    assert_eq!(
        response.trailers.0,
        [("X-Sum".to_owned(), "1".to_owned())],
        "neither what Connection names nor a hop's own"
    );
}

#[test]
fn a_get_with_a_body_passes() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.send("GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.read_response().text(), "hello");
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn a_request_without_body_is_sent_without_framing_fields() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    client.get("/");
    client.send("DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_response();
    client.post("/", "");
    let seen = origin.seen();
    assert!(
        !seen[0].fields.has("content-length") && !seen[0].fields.has("transfer-encoding"),
        "{:?}",
        seen[0]
    );
    assert!(
        !seen[1].fields.has("content-length") && !seen[1].fields.has("transfer-encoding"),
        "{:?}",
        seen[1]
    );
    assert_eq!(
        seen[2].fields.one("content-length"),
        Some("0"),
        "an empty body was announced"
    );
}

#[test]
fn a_slow_reader_gets_everything() {
    let (backend, proxy) = scripted();
    let body = pattern(6 << 20);
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    std::thread::scope(|scope| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        sending(scope, &wire, [head.as_bytes(), &body].concat());
        client.read_response_head();
        let mut got = Vec::new();
        // Small reads first, so that every buffer on the way fills up and backs off many times.
        while got.len() < 200_000 {
            got.extend_from_slice(&client.read_exact(2000));
        }
        got.extend_from_slice(&client.read_exact(body.len() - got.len()));
        assert!(got == body);
    });
}

#[test]
fn a_response_is_read_however_it_is_cut() {
    let (backend, proxy) = scripted();
    let mut client = proxy.client();
    let mut wire = None;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        for at in 1..answer.len() {
            client.send(get("/"));
            let wire = wire.get_or_insert_with(|| backend.accept());
            wire.expect_request();
            wire.send_split(answer, at);
            let mut response = client.read_response();
            if response.status == 103 {
                response = client.read_response();
            }
            assert_eq!(response.text(), "hello", "{answer:?} cut at {at}");
        }
    }
}

#[test]
fn what_a_backend_sent_before_it_closed_reaches_a_slow_reader_whole() {
    let (backend, proxy) = scripted();
    let body = pattern(5 << 20);
    let length = format!("Content-Length: {}\r\n", body.len());
    for (fields, content) in [
        (length.as_str(), body.clone()),
        ("", body.clone()),
        ("Transfer-Encoding: chunked\r\n", chunked(&body, 10_000)),
    ] {
        let mut client = proxy.client();
        socket2::SockRef::from(client.stream())
            .set_recv_buffer_size(16_384)
            .unwrap();
        client.send(get("/"));
        let mut wire = backend.accept();
        wire.expect_request();
        std::thread::scope(|scope| {
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n");
            scope.spawn(move || {
                wire.send([head.as_bytes(), &content].concat());
                wire.close();
            });
            // By now the end of the backend's connection is not far behind what it sent.
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(client.read_response().body == body, "{fields:?}");
        });
    }
}
