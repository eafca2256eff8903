//! The messages of the kinds of check: what is sent, and how what comes back is judged. Bytes only; the sockets are
//! those of `checks/probe.rs`.

use crate::pool::settings::StatusRanges;

/// What the head of an answer may take; a check needs its first line only.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The header of PROXY protocol v2 that says: this connection is the proxy's own (command LOCAL, no addresses).
pub(crate) const PROXY_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// The request of an `http` check.
pub(crate) fn request(path: &str, authority: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: rondo/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// What the bytes received so far say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Status(u16),
    NotHttp,
    Incomplete,
}

/// Judges by the status of the first final head, once that head is complete; interim ones are passed over.
pub(crate) fn judge(mut bytes: &[u8], good: &StatusRanges) -> Answer {
    let too_long = bytes.len() > HEAD_BYTES_MAX;
    loop {
        if !may_be_status_line(bytes) {
            return Answer::NotHttp;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if too_long {
                Answer::NotHttp
            } else {
                Answer::Incomplete
            };
        };
        match status(bytes) {
            // 101 is final: the connection speaks something else from there on.
            Some(100 | 102..200) => bytes = &bytes[end + 4..],
            Some(status) if good.contains(status) => return Answer::Good,
            Some(status) => return Answer::Status(status),
            None => return Answer::NotHttp,
        }
    }
}

/// Whether bytes are, or may become, a line that begins `HTTP/1.x nnn` (RFC 9112 4).
fn may_be_status_line(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .take(13)
        .enumerate()
        .all(|(place, byte)| match place {
            0..=6 => *byte == b"HTTP/1."[place],
            8 => *byte == b' ',
            12 => matches!(byte, b' ' | b'\r'),
            _ => byte.is_ascii_digit(),
        })
}

/// The status of a line that may be a status line and is long enough.
fn status(line: &[u8]) -> Option<u16> {
    let digits = line.get(9..12).filter(|_| line.len() > 12)?;
    Some(
        digits
            .iter()
            .fold(0, |status, digit| status * 10 + u16::from(digit - b'0')),
    )
}

/// An echo request (RFC 792, RFC 4443 4.1). The kernel puts in the identifier and the checksum.
pub(crate) fn echo_request(v6: bool) -> [u8; 16] {
    *if v6 {
        b"\x80\0\0\0\0\0\0\x01rondo ??"
    } else {
        b"\x08\0\0\0\0\0\0\x01rondo ??"
    }
}

/// Whether it is the reply to that request; the kernel has matched the identifier and the host.
pub(crate) fn is_echo_reply(bytes: &[u8], v6: bool) -> bool {
    let kind = if v6 { 129 } else { 0 };
    bytes.len() >= 16 && bytes[..2] == [kind, 0] && bytes[6..16] == echo_request(v6)[6..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> StatusRanges {
        StatusRanges(vec![200..=399, 404..=404])
    }

    #[test]
    fn an_answer_is_judged_by_its_status_once_its_head_is_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for cut in 0..answer.len() {
            assert_eq!(
                judge(&answer[..cut], &ranges()),
                Answer::Incomplete,
                "{cut}"
            );
        }
        assert_eq!(judge(answer, &ranges()), Answer::Good);
        assert_eq!(judge(b"HTTP/1.0 404\r\n\r\nbody", &ranges()), Answer::Good);
        assert_eq!(
            judge(b"HTTP/1.1 503 Busy\r\n\r\n", &ranges()),
            Answer::Status(503)
        );
        assert_eq!(
            judge(b"HTTP/1.1 101 Ready\r\n\r\n", &ranges()),
            Answer::Status(101)
        );
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        for cut in 0..answer.len() {
            assert_eq!(
                judge(&answer[..cut], &ranges()),
                Answer::Incomplete,
                "{cut}"
            );
        }
        assert_eq!(judge(answer, &ranges()), Answer::Good);
    }

    #[test]
    fn what_is_no_http_answer_is_told_at_once() {
        for answer in [
            "SSH-2.0-x\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1  200",
            "HTTP/1.1 2000",
            "HTTP/1.1 20x",
            "\r\n",
            "h",
        ] {
            assert_eq!(
                judge(answer.as_bytes(), &ranges()),
                Answer::NotHttp,
                "{answer}"
            );
        }
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        endless.resize(HEAD_BYTES_MAX, b'a');
        assert_eq!(judge(&endless, &ranges()), Answer::Incomplete);
        endless.push(b'a');
        assert_eq!(judge(&endless, &ranges()), Answer::NotHttp);
    }

    #[test]
    fn the_request_names_the_backend_and_closes() {
        let text = String::from_utf8(request("/health?x=1", "localhost:8081")).unwrap();
        assert!(text.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: localhost:8081\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n") && text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_echo_reply_is_told_from_anything_else() {
        for v6 in [false, true] {
            let mut reply = echo_request(v6);
            assert!(!is_echo_reply(&reply, v6), "our own request");
            reply[0] = if v6 { 129 } else { 0 };
            // Identifier and checksum are the kernel's.
            reply[2..6].copy_from_slice(&[1, 2, 3, 4]);
            assert!(is_echo_reply(&reply, v6));
            assert!(!is_echo_reply(&reply, !v6));
            assert!(!is_echo_reply(&reply[..15], v6) && !is_echo_reply(b"", v6));
            reply[7] = 2;
            assert!(!is_echo_reply(&reply, v6), "another sequence number");
        }
    }

    #[test]
    fn the_local_header_is_version_2_without_addresses() {
        assert_eq!(
            PROXY_LOCAL[..12],
            *b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A"
        );
        assert_eq!(PROXY_LOCAL[12..], [0x20, 0, 0, 0]);
    }
}
