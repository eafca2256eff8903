//! One request head: the same however it is cut, never past its input, and what is forwarded of it is strictly valid.

#![no_main]

use kit::strict;
use libfuzzer_sys::fuzz_target;
use rondo::http::{HeadLimits, RequestForwarding, RequestHead, Scheme, write_request};
use std::net::{IpAddr, Ipv6Addr};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 600,
    fields_max: 12,
};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let mut whole = RequestHead::default();
    let result = whole.take(bytes, &LIMITS);

    // In two parts.
    let cut = usize::from(cut) % (bytes.len() + 1);
    let mut parts = RequestHead::default();
    let first = parts.take(&bytes[..cut], &LIMITS);
    let second = match first {
        Ok(None) => parts.take(bytes, &LIMITS),
        early => early,
    };
    assert_eq!(second, result, "cut at {cut}");

    // Byte by byte.
    let mut dribbled = RequestHead::default();
    let last = (0..=bytes.len())
        .map(|end| dribbled.take(&bytes[..end], &LIMITS))
        .find(|taken| *taken != Ok(None));
    assert_eq!(last.unwrap_or(Ok(None)), result, "byte by byte");

    let Ok(Some(used)) = result else { return };
    assert!(used <= bytes.len() && bytes[..used].ends_with(b"\r\n\r\n"));
    // What follows the head has no influence on it.
    let mut alone = RequestHead::default();
    assert_eq!(alone.take(&bytes[..used], &LIMITS), Ok(Some(used)));

    for trusted in [false, true] {
        let how = RequestForwarding {
            peer: IpAddr::V6(Ipv6Addr::LOCALHOST),
            trusted,
            scheme: Scheme::Http,
            via: true,
            base_path: b"/base",
            authority: b"backend:80",
            request_id: whole.request_id().unwrap_or(b"id"),
        };
        let written: Vec<Vec<u8>> = [&whole, &parts, &dribbled, &alone]
            .iter()
            .map(|head| {
                let mut out = Vec::new();
                write_request(head, &how, &mut out);
                out
            })
            .collect();
        assert!(
            written.iter().all(|one| *one == written[0]),
            "the same head is written differently"
        );
        let seen = strict::request(&written[0]).unwrap_or_else(|e| panic!("{e}"));
        let message = match seen {
            strict::Seen::Whole(message) | strict::Seen::Part(Some(message)) => message,
            strict::Seen::Part(None) => panic!("the head that was written does not end"),
        };
        assert_eq!(message.head_bytes, written[0].len());
    }
});
