//! The tools of the tests: the strict reader refuses what no sender may generate, and says so to
//! the test.

use crate::support::{Backend, Client, Origin, chunked, pattern};
use kit::strict::{self, Chunk};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn a_request_that_no_proxy_may_forward_is_refused() {
    for (rule, request) in [
        ("bare LF", "GET / HTTP/1.1\nHost: a\n\n"),
        ("bare CR", "GET / HTTP/1.1\r\rHost: a\r\n\r\n"),
        ("NUL", "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
        ("an empty line", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("without two spaces", "GET /\r\nHost: a\r\n\r\n"),
        ("HTTP/1.1", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("method", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("target", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("fragment", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("one Host", "GET / HTTP/1.1\r\n\r\n"),
        ("one Host", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("field name", "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"),
        ("colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        (
            "control byte",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \x07\r\n\r\n",
        ),
        (
            "Keep-Alive",
            "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: 1\r\n\r\n",
        ),
        (
            "Connection names x",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n\r\n",
        ),
        (
            "Upgrade without",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n",
        ),
        (
            "more than one framing field",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "1*DIGIT",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        ),
        (
            "exactly chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "1*HEXDIG",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        ),
        (
            "CRLF",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        ),
        (
            "trailer section",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        ),
    ] {
        let said = strict::request(request.as_bytes()).err();
        assert!(
            said.as_ref().is_some_and(|said| said.contains(rule)),
            "{request:?}: {said:?}"
        );
    }
}

#[test]
fn a_response_that_no_proxy_may_forward_is_refused() {
    for (rule, response) in [
        ("HTTP/1.1", "HTTP/1.0 200 OK\r\n\r\n"),
        ("without two spaces", "HTTP/1.1 200\r\n\r\n"),
        ("status", "HTTP/1.1 20 OK\r\n\r\n"),
        ("204 with", "HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n"),
        (
            "101 with",
            "HTTP/1.1 101 \r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "TE in a response",
            "HTTP/1.1 200 \r\nTE: x\r\nConnection: te\r\n\r\n",
        ),
    ] {
        let said = strict::response(response.as_bytes(), false, false).err();
        assert!(
            said.as_ref().is_some_and(|said| said.contains(rule)),
            "{response:?}: {said:?}"
        );
    }
}

#[test]
fn a_chunk_is_read_to_where_it_ends_however_it_is_cut() {
    let data = pattern(300);
    let coded = chunked(&data, 300);
    let end = coded.len() - b"0\r\n\r\n".len();
    for cut in 0..=coded.len() {
        let whole = Chunk::Whole {
            data: &data,
            bytes: end,
        };
        match strict::chunk(&coded[..cut]).unwrap() {
            Chunk::Part(seen) => assert!(cut < end && data.starts_with(seen), "{cut}"),
            seen @ Chunk::Whole { .. } => assert!(cut >= end && seen == whole, "{cut}"),
        }
        let (found, content, _) = strict::chunks(&coded[..cut]).unwrap();
        assert_eq!(found, (cut == coded.len()).then_some(cut));
        assert!(data.starts_with(&content));
    }
}

#[test]
fn an_invalid_response_fails_the_test_that_reads_it() {
    let backend = Backend::start();
    let mut client = Client::connect(&backend);
    let mut wire = backend.accept();
    wire.send("HTTP/1.1 200 OK\nContent-Length: 0\n\n");
    let read = catch_unwind(AssertUnwindSafe(|| client.read_response()));
    let said = *read.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("bare LF"), "{said}");
}

#[test]
fn an_invalid_request_fails_the_test_whose_origin_gets_it() {
    let origin = Origin::start("one");
    let mut client = Client::connect(&origin);
    assert_eq!(client.get("/").text(), "one");
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.expect_closed();
    assert_eq!(origin.requests(), 1);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(origin)));
    let said = *dropped.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("not exactly one Host"), "{said}");
}
