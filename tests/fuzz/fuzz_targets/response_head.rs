//! One response head: the same however it is cut, never past its input, and what is forwarded of it is strictly valid.

#![no_main]

use kit::strict;
use libfuzzer_sys::fuzz_target;
use rondo::http::{
    Body, ClientConnection, HeadLimits, ResponseForwarding, ResponseHead, write_interim,
    write_response,
};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 600,
    fields_max: 12,
};

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (cut, to_head, bytes) = input;
    let mut whole = ResponseHead::default();
    let result = whole.take(bytes, &LIMITS);

    let cut = usize::from(cut) % (bytes.len() + 1);
    let mut parts = ResponseHead::default();
    let second = match parts.take(&bytes[..cut], &LIMITS) {
        Ok(None) => parts.take(bytes, &LIMITS),
        early => early,
    };
    assert_eq!(second, result, "cut at {cut}");

    let mut dribbled = ResponseHead::default();
    let last = (0..=bytes.len())
        .map(|end| dribbled.take(&bytes[..end], &LIMITS))
        .find(|taken| *taken != Ok(None));
    assert_eq!(last.unwrap_or(Ok(None)), result, "byte by byte");

    let Ok(Some(used)) = result else { return };
    assert!(used <= bytes.len() && bytes[..used].ends_with(b"\r\n\r\n"));
    assert!((100..=999).contains(&whole.status()));
    let mut out = Vec::new();
    if whole.is_interim() {
        write_interim(&whole, &mut out);
    } else if whole.status() == 101 {
        return;
    } else {
        let body = whole.body(to_head);
        let how = ResponseForwarding {
            body: if body == Body::UntilClose {
                Body::Chunked
            } else {
                body
            },
            keep_length_field: to_head || whole.status() == 304,
            connection: ClientConnection::KeepAlive,
            set_cookie: None,
            date: None,
            trailers: false,
        };
        write_response(&whole, &how, &mut out);
    }
    let seen = strict::response(&out, to_head, false).unwrap_or_else(|e| panic!("{e}"));
    let message = match seen {
        strict::Seen::Whole(message) | strict::Seen::Part(Some(message)) => message,
        strict::Seen::Part(None) => panic!("the head that was written does not end"),
    };
    assert_eq!(
        (message.head_bytes, message.status()),
        (out.len(), whole.status())
    );
});
