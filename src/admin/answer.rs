//! An answer of the admin interface: a status, a type, and a body that is written as a whole.

use crate::ask::Reply;
use crate::http::reply::reason;
use crate::text::format::write_decimal;
use crate::text::timestamp::HttpDate;

/// What every answer says beside its own fields. No cache may keep it, no browser may take it for another type, and no
/// other site may read it. Each connection carries one request: a browser does not repeat a POST that meets a close.
const ALWAYS: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\nConnection: close\r\n";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    content_type: &'static str,
    /// Further field lines, each with its line end.
    fields: String,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            content_type,
            fields: String::new(),
            body: body.into(),
        }
    }

    /// A word for a prober.
    pub(crate) fn text(text: &str) -> Answer {
        Answer::new(200, "text/plain; charset=utf-8", format!("{text}\n"))
    }

    #[inline(never)]
    pub(crate) fn json(status: u16, mut document: String) -> Answer {
        if !document.ends_with('\n') {
            document.push('\n');
        }
        Answer::new(status, "application/json", document)
    }

    /// An error that has no place in a file or a body.
    #[inline(never)]
    pub(crate) fn error(status: u16, error: &str) -> Answer {
        Answer::json(status, Reply::error(status, error).body)
    }

    /// Adds field lines.
    #[inline(never)]
    pub(crate) fn with(mut self, fields: &str) -> Answer {
        self.fields.push_str(fields);
        self
    }

    /// Head and body; no body after HEAD, but its length.
    #[inline(never)]
    pub(crate) fn into_parts(self, head_only: bool) -> [Vec<u8>; 2] {
        let mut head = b"HTTP/1.1 ".to_vec();
        write_decimal(self.status.into(), &mut head);
        for part in [
            " ",
            reason(self.status),
            "\r\nContent-Type: ",
            self.content_type,
            "\r\n",
            ALWAYS,
            &self.fields,
            "Date: ",
        ] {
            head.extend_from_slice(part.as_bytes());
        }
        head.extend_from_slice(HttpDate::default().at(0));
        head.extend_from_slice(b"\r\nContent-Length: ");
        write_decimal(self.body.len() as u64, &mut head);
        head.extend_from_slice(b"\r\n\r\n");
        [head, if head_only { Vec::new() } else { self.body }]
    }
}
