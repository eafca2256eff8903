//! A whole exchange in memory: what a client sends, what a backend answers, both cut somewhere. Everything that goes
//! out is strictly valid, and the same however the bytes came. The input is both messages with a marker between.

#![no_main]

use kit::memory::{Asked, Outcome, Requests, Response, Settings};
use kit::strict;
use libfuzzer_sys::fuzz_target;
use rondo::http::{Grammar, HeadLimits};

/// Between the client's bytes and the backend's.
const MARKER: &[u8] = b"\xff---\xff";

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (request_cut, response_cut, bytes) = input;
    let at = bytes
        .windows(MARKER.len())
        .position(|window| window == MARKER);
    let (request, response) = match at {
        Some(at) => (&bytes[..at], &bytes[at + MARKER.len()..]),
        None => (bytes, &b""[..]),
    };
    let limits = HeadLimits {
        head_bytes_max: 600,
        fields_max: 12,
    };
    let settings = Settings {
        limits,
        trusted: request.len() % 2 == 1,
        via: true,
        grammar: if response.len() % 2 == 1 {
            Grammar::LenientResponse
        } else {
            Grammar::Response
        },
        base_path: "/base".to_owned(),
    };

    let mut whole = Requests::new(&settings);
    whole.push(request);
    let cut = usize::from(request_cut) % (request.len() + 1);
    let mut parts = Requests::new(&settings);
    parts.push(&request[..cut]);
    parts.push(&request[cut..]);
    assert_eq!(parts.refused, whole.refused);
    assert_eq!(parts.written.len(), whole.written.len());
    for (a, b) in parts.written.iter().zip(&whole.written) {
        assert_eq!(
            (&a.bytes[..a.head_bytes], &a.content, a.whole, &a.asked),
            (&b.bytes[..b.head_bytes], &b.content, b.whole, &b.asked)
        );
        for written in [a, b] {
            match strict::request(&written.bytes).unwrap_or_else(|e| panic!("{e}")) {
                strict::Seen::Whole(message) => {
                    assert!(written.whole);
                    assert_eq!(
                        message.total_bytes,
                        written.bytes.len(),
                        "a second request at the backend"
                    );
                    assert_eq!(message.content, written.content);
                }
                strict::Seen::Part(Some(message)) => {
                    assert!(!written.whole);
                    assert_eq!(message.content, written.content);
                }
                strict::Seen::Part(None) => panic!("the head that was written does not end"),
            }
        }
    }

    let asked = whole
        .written
        .first()
        .map_or_else(Asked::default, |written| written.asked.clone());
    answer(
        &settings,
        &asked,
        response,
        usize::from(response_cut) % (response.len() + 1),
    );
});

fn answer(settings: &Settings, asked: &Asked, bytes: &[u8], cut: usize) {
    let mut whole = Response::new(settings, asked);
    whole.push(bytes);
    whole.end();
    let mut parts = Response::new(settings, asked);
    parts.push(&bytes[..cut]);
    parts.push(&bytes[cut..]);
    parts.end();
    assert_eq!(
        (parts.outcome, parts.started, &parts.heads, &parts.content),
        (whole.outcome, whole.started, &whole.heads, &whole.content)
    );
    if whole.outcome == Some(Outcome::Tunnel) {
        return;
    }
    let mut rest = whole.written.as_slice();
    let complete = matches!(whole.outcome, Some(Outcome::Whole { .. }));
    while !rest.is_empty() {
        match strict::response(rest, asked.is_head, complete).unwrap_or_else(|e| panic!("{e}")) {
            strict::Seen::Whole(message) => {
                rest = &rest[message.total_bytes..];
                assert!(
                    rest.is_empty() || message.status() < 200,
                    "bytes after the final response"
                );
                assert!(
                    complete || message.status() < 200,
                    "a broken response looks whole"
                );
            }
            strict::Seen::Part(Some(_)) => {
                assert!(!complete, "a whole response looks broken");
                return;
            }
            strict::Seen::Part(None) => panic!("the head that was written does not end"),
        }
    }
}
