//! Answers of our own: short plain text with the status and the request id.

use crate::http::forward::write_field;
use crate::text::format::write_decimal;

/// The interim response that lets a client send its body (RFC 9110 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// 200, which has no body, or 400 or higher.
    pub status: u16,
    /// The value of the Date field (RFC 9110 6.6.1).
    pub date: &'a [u8],
    /// The id under which the logs know the request; empty: not shown. Visible ASCII only.
    pub request_id: &'a [u8],
    /// Whether the connection is closed after it.
    pub close: bool,
    /// The request was HEAD: no body, but its length.
    pub head_only: bool,
    /// Retry-After, in seconds.
    pub retry_after_s: Option<u32>,
}

/// Appends `reply` to `out`.
pub fn write_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let reason = reason(reply.status).as_bytes();
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(reply.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    write_field(b"Date", reply.date, out);
    if matches!(reply.status, 200 | 405) {
        write_field(b"Allow", METHODS, out);
    }
    if reply.status != 200 {
        // The id may be the client's: it is text, and no browser may guess another type.
        write_field(b"Content-Type", b"text/plain; charset=utf-8", out);
        write_field(b"X-Content-Type-Options", b"nosniff", out);
    }
    write_field(b"Cache-Control", b"no-store", out);
    if let Some(seconds) = reply.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        write_decimal(seconds.into(), out);
        out.extend_from_slice(b"\r\n");
    }
    let connection: &[u8] = if reply.close { b"close" } else { b"keep-alive" };
    write_field(b"Connection", connection, out);

    if reply.status == 200 {
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        return;
    }
    let id_line_len = if reply.request_id.is_empty() {
        0
    } else {
        ID_LABEL.len() + reply.request_id.len() + "\n".len()
    };
    let body_len = "400 ".len() + reason.len() + "\n".len() + id_line_len;
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(body_len as u64, out);
    out.extend_from_slice(b"\r\n\r\n");
    if reply.head_only {
        return;
    }
    write_decimal(reply.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.push(b'\n');
    if id_line_len > 0 {
        out.extend_from_slice(ID_LABEL);
        out.extend_from_slice(reply.request_id);
        out.push(b'\n');
    }
}

/// The methods that we name where a request ends here (RFC 9110 7.6.2, 9.3.7, 15.5.6): all that we
/// would forward, without TRACE.
const METHODS: &[u8] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

const ID_LABEL: &[u8] = b"Request id: ";

/// The reason phrases of the statuses that we answer with (RFC 9110 15, RFC 6585).
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use crate::http::reply::*;
    use crate::http::{Body, HeadLimits, ResponseHead};

    const REPLY: Reply<'static> = Reply {
        status: 502,
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        request_id: b"abc",
        close: true,
        head_only: false,
        retry_after_s: None,
    };

    fn write(reply: &Reply<'_>) -> String {
        let mut out = Vec::new();
        write_reply(reply, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_is_short_plain_text_with_status_and_request_id() {
        let expected = "HTTP/1.1 502 Bad Gateway\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            X-Content-Type-Options: nosniff\r\n\
            Cache-Control: no-store\r\n\
            Connection: close\r\n\
            Content-Length: 32\r\n\r\n\
            502 Bad Gateway\nRequest id: abc\n";
        assert_eq!(write(&REPLY), expected);
    }

    #[test]
    fn every_status_has_its_reason_and_the_exact_length() {
        for status in [400, 405, 408, 413, 414, 431, 500, 501, 502, 503, 504, 505] {
            for request_id in [&b""[..], b"x"] {
                let text = write(&Reply {
                    status,
                    request_id,
                    ..REPLY
                });
                assert!(!text.contains(" Error\r\n") || text.contains(" 500 Internal Server "));
                let limits = HeadLimits {
                    head_bytes_max: 1024,
                    fields_max: 10,
                };
                let mut head = ResponseHead::default();
                let used = head.take(text.as_bytes(), &limits).unwrap().unwrap();
                assert_eq!(head.status(), status);
                assert_eq!(head.body(false), Body::Length((text.len() - used) as u64));
                assert_eq!(text.contains("Request id"), !request_id.is_empty());
            }
        }
    }

    #[test]
    fn a_reply_to_head_has_the_length_but_no_body() {
        let with_body = write(&REPLY);
        let without = write(&Reply {
            head_only: true,
            ..REPLY
        });
        assert!(without.ends_with("\r\n\r\n") && with_body.starts_with(&without));
    }

    #[test]
    fn an_answer_in_the_backends_place_says_what_is_taken() {
        let ok = write(&Reply {
            status: 200,
            close: false,
            ..REPLY
        });
        let expected = "HTTP/1.1 200 OK\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n\
            Cache-Control: no-store\r\n\
            Connection: keep-alive\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(ok, expected);
        let refused = write(&Reply {
            status: 405,
            ..REPLY
        });
        assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(refused.contains("\r\nAllow: GET, ") && !refused.contains("TRACE"));
    }

    #[test]
    fn it_says_whether_the_connection_stays_and_when_to_come_back() {
        let text = write(&Reply {
            close: false,
            retry_after_s: Some(10),
            ..REPLY
        });
        assert!(text.contains("\r\nConnection: keep-alive\r\n"));
        assert!(text.contains("\r\nRetry-After: 10\r\n"));
        assert!(!write(&REPLY).contains("Retry-After"));
    }
}
