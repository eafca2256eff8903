//! The messages of each kind of check: what is sent, and how the response is judged. Bytes only;
//! the sockets are in `checks/probe.rs`.

use crate::checks::content::{Found, Search};
use crate::http::{Grammar, HeadLimits, ResponseHead};
use crate::net::room::make_room;
use crate::pool::settings::{Choices, HttpCheck};

/// The header of PROXY protocol v2 that says: this connection is the proxy's own (command LOCAL, no
/// addresses).
pub(crate) const PROXY_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// The request of an `http` check of a backend with this authority.
pub(crate) fn request(check: &HttpCheck, authority: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let HttpCheck { path, host, .. } = check;
    let (method, authority) = (check.method.name(), host.as_deref().unwrap_or(authority));
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: rondo/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The verdict over the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Status(u16),
    /// Its head would not be forwarded either, for this reason.
    Refused(&'static str),
    /// Its body is not as it should be, for this reason.
    Body(&'static str),
    Incomplete,
}

/// Reads the answer to an `http` check as that to a request is read.
#[derive(Debug)]
pub(crate) struct Reader {
    head: ResponseHead,
    /// The bytes of the present head.
    bytes: Vec<u8>,
    limits: HeadLimits,
    grammar: Grammar,
    /// In the body behind a good head.
    search: Option<Search>,
}

impl Reader {
    /// The most that one reader takes, with an incomplete head and `read_max` bytes more at hand.
    pub(crate) fn bytes_max(limits: &HeadLimits, read_max: usize) -> usize {
        size_of::<Self>()
            + limits.input_bytes_max()
            + read_max
            + limits.kept_bytes_max()
            + Search::bytes_max(read_max)
    }

    /// For a backend that is `lenient` or not.
    pub(crate) fn new(limits: &HeadLimits, lenient: bool) -> Reader {
        Reader {
            head: ResponseHead::default(),
            bytes: Vec::new(),
            limits: *limits,
            grammar: if lenient {
                Grammar::LenientResponse
            } else {
                Grammar::Response
            },
            search: None,
        }
    }

    /// The status of the head that was judged.
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    /// Takes new bytes, none at the end of the connection, and judges by the status of the first
    /// final head once that is complete, then by the body if it matters; interim heads are skipped.
    pub(crate) fn judge(&mut self, more: &[u8], check: &HttpCheck) -> Answer {
        make_room(&mut self.bytes, more.len(), self.limits.input_bytes_max());
        self.bytes.extend_from_slice(more);
        while self.search.is_none() {
            let taken = self.head.take_as(&self.bytes, &self.limits, self.grammar);
            match taken {
                Err(error) => return Answer::Refused(error.reason()),
                Ok(None) => return Answer::Incomplete,
                Ok(Some(used)) if self.head.is_interim() => {
                    self.bytes.drain(..used);
                    self.head.clear();
                }
                Ok(Some(_)) if !check.status.contains(self.head.status()) => {
                    return Answer::Status(self.head.status());
                }
                Ok(Some(_)) if check.body.is_none() => return Answer::Good,
                Ok(Some(used)) => {
                    self.bytes.drain(..used);
                    let body = self.head.body(false);
                    self.search = Some(Search::new(body, self.grammar, &self.limits));
                }
            }
        }
        let (Some(search), Some(text)) = (&mut self.search, &check.body) else {
            return Answer::Good;
        };
        let (used, found) = search.go_on(&self.bytes, more.is_empty(), text.as_bytes());
        self.bytes.drain(..used);
        match found {
            Found::Text => Answer::Good,
            Found::NotYet => Answer::Incomplete,
            Found::Nothing(reason) => Answer::Body(reason),
        }
    }
}

/// An echo request (RFC 792, RFC 4443 4.1). The kernel fills in the identifier and the checksum.
pub(crate) fn echo_request(v6: bool) -> [u8; 16] {
    *if v6 {
        b"\x80\0\0\0\0\0\0\x01rondo ??"
    } else {
        b"\x08\0\0\0\0\0\0\x01rondo ??"
    }
}

/// Whether the bytes are the reply to that request; the kernel has matched the identifier and the
/// host.
pub(crate) fn is_echo_reply(bytes: &[u8], v6: bool) -> bool {
    let kind = if v6 { 129 } else { 0 };
    bytes.len() >= 16 && bytes[..2] == [kind, 0] && bytes[6..16] == echo_request(v6)[6..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::settings::{CheckMethod, StatusRanges};

    fn check() -> HttpCheck {
        HttpCheck {
            path: "/health?x=1".to_owned(),
            status: StatusRanges(vec![200..=399, 404..=404]),
            ..HttpCheck::default()
        }
    }

    const LIMITS: HeadLimits = HeadLimits {
        head_bytes_max: 1024,
        fields_max: 8,
    };

    /// The last judgement of an answer that comes in these parts.
    fn judge(parts: &[&[u8]], lenient: bool) -> Answer {
        let mut reader = Reader::new(&LIMITS, lenient);
        let mut judged = Answer::Incomplete;
        for part in parts {
            assert_eq!(judged, Answer::Incomplete, "nothing more was to be read");
            judged = reader.judge(part, &check());
        }
        judged
    }

    #[test]
    fn an_answer_is_judged_by_its_status_once_its_head_is_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for cut in 0..answer.len() {
            let (first, second) = answer.split_at(cut);
            assert_eq!(judge(&[first], false), Answer::Incomplete, "{cut}");
            assert_eq!(judge(&[first, second], false), Answer::Good, "{cut}");
        }
        for (answer, expected) in [
            ("HTTP/1.0 404\r\n\r\nbody", Answer::Good),
            ("HTTP/1.1 503 Busy\r\n\r\n", Answer::Status(503)),
            ("HTTP/1.1 600 Far\r\n\r\n", Answer::Status(600)),
            // It is final: the connection speaks something else from there on.
            ("HTTP/1.1 101 Ready\r\n\r\n", Answer::Status(101)),
        ] {
            assert_eq!(judge(&[answer.as_bytes()], false), expected, "{answer}");
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        for cut in 0..answer.len() {
            let (first, second) = answer.split_at(cut);
            assert_eq!(judge(&[first], false), Answer::Incomplete, "{cut}");
            assert_eq!(judge(&[first, second], false), Answer::Good, "{cut}");
        }
        let bytes: Vec<&[u8]> = answer.chunks(1).collect();
        assert_eq!(judge(&bytes, false), Answer::Good);
    }

    #[test]
    fn what_would_not_be_forwarded_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(1024));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(9));
        for answer in [
            "SSH-2.0-x\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1  200 OK\r\n",
            "HTTP/1.1 2000\r\n",
            "HTTP/1.1 20x\r\n",
            "h",
            &long,
            &many,
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: \x1b\r\n\r\n",
        ] {
            for lenient in [false, true] {
                let judged = judge(&[answer.as_bytes()], lenient);
                assert!(
                    matches!(judged, Answer::Refused(_)),
                    "{answer:?}: {judged:?}"
                );
            }
        }
    }

    #[test]
    fn a_lenient_backend_is_checked_leniently() {
        for answer in [
            "HTTP/1.1 200 OK\n\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 103 Early\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(
                judge(&[answer.as_bytes()], true),
                Answer::Good,
                "{answer:?}"
            );
            let Answer::Refused(reason) = judge(&[answer.as_bytes()], false) else {
                panic!("{answer:?} is not refused");
            };
            assert!(reason.contains("backends[].lenient"), "{reason}");
        }
    }

    #[test]
    fn the_request_names_the_backend_and_closes() {
        let text = String::from_utf8(request(&check(), "localhost:8081")).unwrap();
        assert!(text.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: localhost:8081\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n") && text.ends_with("\r\n\r\n"));
        let other = HttpCheck {
            method: CheckMethod::Options,
            host: Some("app.example".to_owned()),
            ..check()
        };
        let text = String::from_utf8(request(&other, "localhost:8081")).unwrap();
        assert!(text.starts_with("OPTIONS /health?x=1 HTTP/1.1\r\nHost: app.example\r\n"));
    }

    #[test]
    fn an_answer_passes_when_its_body_contains_the_text() {
        let check = HttpCheck {
            body: Some("fine".to_owned()),
            ..check()
        };
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nall fine", Answer::Good),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfin",
                Answer::Body("its body does not contain the text"),
            ),
            (
                "HTTP/1.1 204 No Content\r\n\r\nfine",
                Answer::Body("its body does not contain the text"),
            ),
            ("HTTP/1.1 500 Fine\r\n\r\nfine", Answer::Status(500)),
            (
                "HTTP/1.1 200 fine\r\nfine: fine\r\n\r\nall",
                Answer::Incomplete,
            ),
        ] {
            let mut reader = Reader::new(&LIMITS, false);
            assert_eq!(
                reader.judge(answer.as_bytes(), &check),
                expected,
                "{answer}"
            );
            let mut reader = Reader::new(&LIMITS, false);
            let mut judged = answer
                .as_bytes()
                .chunks(1)
                .map(|byte| reader.judge(byte, &check));
            assert_eq!(
                judged
                    .find(|it| *it != Answer::Incomplete)
                    .unwrap_or(Answer::Incomplete),
                expected
            );
            if expected == Answer::Incomplete {
                let ended = Answer::Body("its body does not contain the text");
                assert_eq!(reader.judge(b"", &check), ended);
            }
        }
    }

    #[test]
    fn only_an_echo_reply_is_taken_for_one() {
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
