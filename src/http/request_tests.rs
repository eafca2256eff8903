use crate::http::request::*;
use crate::http::{RequestForwarding, write_request};

#[test]
fn smoke() {
    let mut head = RequestHead::default();
    let limits = HeadLimits {
        head_bytes_max: 16384,
        fields_max: 100,
    };
    let input = b"\r\nGET /a?b HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nX-Empty:\r\nConnection: close\r\n\r\nrest";
    for split in 0..input.len() - 4 {
        head.clear();
        assert_eq!(head.take(&input[..split], &limits), Ok(None), "{split}");
        assert_eq!(head.take(input, &limits), Ok(Some(input.len() - 4)));
        let mut out = vec![];
        write_request(
            &head,
            &RequestForwarding {
                client: "10.1.2.3".parse().unwrap(),
                trusted: false,
                via: true,
                base_path: b"/base",
                authority: b"b:1",
                request_id: b"id",
                drop_expect: false,
            },
            &mut out,
        );
        assert_eq!(
            str::from_utf8(&out).unwrap(),
            "GET /base/a?b HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nX-Empty: \r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.com\r\nVia: 1.1 rondo\r\nX-Request-Id: id\r\n\r\n"
        );
    }
}
