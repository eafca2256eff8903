//! The head of a response: taken from a backend's bytes, as strictly as a client's.
//!
//! Read next: `http/forwarded.rs`.

use crate::http::fields::{Field, Known, Span, members};
use crate::http::framing::{Body, Framing, Message};
use crate::http::head::{
    FIELDS_AT_ONCE, Head, HeadError, HeadFacts, HeadReader, Lines, offset, parse_version,
};
use crate::http::options::{ConnectionOptions, is_protocol, mark_named};
use crate::http::{Grammar, HeadLimits, Version};
use std::mem::MaybeUninit;

/// One response head, with its own copy of the bytes. Use it again after [`ResponseHead::clear`];
/// its memory stays.
#[derive(Debug, Default)]
pub struct ResponseHead {
    reader: HeadReader<ResponseFacts>,
}

/// What a response head says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResponseFacts {
    line: StatusLine,
    framing: Framing,
    connection: ConnectionOptions,
    has_date: bool,
    /// The only Upgrade field, if its value is a list of protocols.
    upgrade: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default)]
struct StatusLine {
    version: Version,
    status: u16,
    reason: Span,
}

impl ResponseHead {
    /// Takes one head from the front of `input`, as
    /// [`RequestHead::take`](crate::http::RequestHead::take) does; but nothing may come before the
    /// status line. Nothing is known before the head is complete.
    pub fn take(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        self.take_as(input, limits, Grammar::Response)
    }

    /// The same, strictly or leniently; the way must not change before the value is cleared.
    pub fn take_as(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        grammar: Grammar,
    ) -> Result<Option<usize>, HeadError> {
        self.reader.take(input, limits, grammar)
    }

    /// Clears the head of a forwarded response, and gives its memory back if it was unusually
    /// large.
    pub(crate) fn give_back(&mut self) {
        if self.reader.head.is_large() {
            self.clear();
        }
    }

    /// Clears the head and keeps its memory, unless it was unusually large.
    pub fn clear(&mut self) {
        self.reader.clear();
    }

    /// 100 to 999. Classes above 599 are unknown and left to the client (RFC 9110 15).
    pub fn status(&self) -> u16 {
        self.reader.facts.line.status
    }

    /// The reason phrase as received; it may be empty or contain obs-text.
    pub fn reason(&self) -> &[u8] {
        self.reader.facts.line.reason.of(&self.reader.head.bytes)
    }

    /// The version the backend speaks.
    pub fn version(&self) -> Version {
        self.reader.facts.line.version
    }

    /// The field lines as received: name, and trimmed value.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.complete().fields()
    }

    /// How the body is delimited. After a 101 there is none; what follows belongs to the new
    /// protocol.
    pub fn body(&self, request_is_head: bool) -> Body {
        self.reader.facts.framing.body(Message::Response {
            status: self.reader.facts.line.status,
            request_is_head,
        })
    }

    /// The value of Content-Length, which describes a body even where there is none (HEAD, 304).
    pub fn content_length(&self) -> Option<u64> {
        self.reader.facts.framing.length
    }

    /// Whether the backend lets the connection persist (RFC 9112 9.3). A body that ends with the
    /// connection and a 101 end its use for HTTP all the same.
    pub fn keep_alive(&self) -> bool {
        self.reader
            .facts
            .connection
            .persists(self.reader.facts.line.version)
    }

    /// Whether another response follows: 1xx, except 101 (RFC 9110 15.2).
    pub fn is_interim(&self) -> bool {
        matches!(self.reader.facts.line.status, 100..=199) && self.reader.facts.line.status != 101
    }

    /// The protocols in the backend's only Upgrade field, with `Connection: upgrade` (RFC 9110 7.8:
    /// both are needed). A 101 without them is invalid; so is one that the request does not offer
    /// ([`RequestHead::offers`](crate::http::RequestHead::offers)).
    pub fn upgrade(&self) -> Option<&[u8]> {
        let place = self
            .reader
            .facts
            .upgrade
            .filter(|_| self.reader.facts.connection.upgrade)?;
        Some(place.of(&self.reader.head.bytes))
    }

    /// Whether it has a Date that is forwarded; if not, the time of its arrival is added (RFC 9110
    /// 6.6.1).
    pub fn has_date(&self) -> bool {
        self.reader.facts.has_date
    }

    /// The protocols in its Upgrade fields, without h2c.
    pub(crate) fn offered_protocols(&self) -> impl Iterator<Item = &[u8]> {
        let Head { bytes, fields, .. } = self.complete();
        fields
            .iter()
            .filter(|field| field.known == Known::Upgrade)
            .flat_map(|field| members(field.value.of(bytes)))
            .filter(|member| is_protocol(member))
    }

    /// The values of the Connection fields, if they name fields: trailer fields of these names are
    /// not forwarded ([`Decoder::leave_out`](crate::http::Decoder::leave_out)).
    pub fn connection_options(&self) -> impl Iterator<Item = &[u8]> {
        let Head { bytes, fields, .. } = self.complete();
        fields
            .iter()
            .filter(|field| {
                self.reader.facts.connection.names_fields && field.known == Known::Connection
            })
            .map(|field| field.value.of(bytes))
    }

    /// The head if it is complete; else an empty one, since its spans mean nothing yet.
    pub(crate) fn complete(&self) -> &Head {
        self.reader.complete()
    }
}

impl HeadFacts for ResponseFacts {
    const LINE_TOO_LONG: HeadError = HeadError::TooLong;
    const TOO_MANY_EMPTY_LINES: &'static str = "too many empty lines before the status line";
    const LINE_IS_LOGGED: bool = false;

    fn take_whole(&mut self, head: &mut Head, input: &[u8], limits: &HeadLimits) -> Option<usize> {
        // httparse skips empty lines and drops a reason phrase with obs-text: both are left to the
        // line-by-line parser.
        const REASON_START: usize = "HTTP/1.1 200 ".len();
        if !input.starts_with(b"HTTP/1.") {
            return None;
        }
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_AT_ONCE];
        let mut parsed = httparse::Response::new(&mut []);
        let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            input,
            &mut slots,
        );
        let Ok(httparse::Status::Complete(used)) = status else {
            return None;
        };
        let bytes = &input[..used];
        let reason = match parsed.reason? {
            "" if bytes[REASON_START - 1] == b'\r' || bytes[REASON_START] == b'\r' => {
                Span::default()
            }
            "" => return None,
            reason => {
                let start = offset(bytes, reason.as_bytes());
                Span::new(start..start + reason.len())
            }
        };
        let status = parsed.code.filter(|code| is_status(*code))?;
        if parsed.headers.len() > limits.fields_max || !head.adopt(bytes, parsed.headers) {
            return None;
        }
        let version = if parsed.version == Some(0) {
            Version::Http10
        } else {
            Version::Http11
        };
        self.line = StatusLine {
            version,
            status,
            reason,
        };
        Some(used)
    }

    fn take_line(
        &mut self,
        lines: &mut Lines,
        input: &[u8],
        grammar: Grammar,
    ) -> Result<bool, HeadError> {
        // A response without a status line (HTTP/0.9, another protocol) is refused at its first
        // byte.
        if !input
            .iter()
            .zip(b"HTTP/")
            .all(|(byte, wanted)| byte == wanted)
        {
            return Err(HeadError::Malformed("not an HTTP/1 status line"));
        }
        let Some(line) = lines.next(input, grammar)? else {
            return Ok(false);
        };
        self.line = StatusLine::parse(&input[line])?;
        Ok(true)
    }

    fn settle(&mut self, head: &mut Head, limits: &HeadLimits) -> Result<(), HeadError> {
        let mut upgrades = 0;
        for Field {
            value: place,
            known,
            ..
        } in &head.fields
        {
            let value = place.of(&head.bytes);
            match known {
                Known::ContentLength => self.framing.add_length(value)?,
                Known::TransferEncoding => self.framing.add_codings(value)?,
                Known::Connection => self.connection.add(value, limits)?,
                Known::Date => self.has_date = true,
                Known::Upgrade => {
                    upgrades += 1;
                    self.upgrade =
                        (upgrades == 1 && members(value).all(is_protocol)).then_some(*place);
                }
                _ => {}
            }
        }
        self.framing.check(self.line.version)?;
        if self.connection.names_fields {
            mark_named(head);
            // A Date named by Connection concerns this connection only and is not forwarded.
            let passes = |field: &Field| field.known == Known::Date && !field.named_by_connection;
            self.has_date = head.fields.iter().any(passes);
        }
        Ok(())
    }
}

impl StatusLine {
    /// Parses `HTTP-version SP 3DIGIT [SP reason]`; the bytes are known to be free of control
    /// characters. RFC 9112 4 wants the second space even before an empty reason; many leave it
    /// out, and nothing depends on it.
    fn parse(line: &[u8]) -> Result<Self, HeadError> {
        const VERSION_LEN: usize = "HTTP/1.1".len();
        let Some((version, [b' ', rest @ ..])) = line.split_at_checked(VERSION_LEN) else {
            return Err(HeadError::Malformed("invalid status line"));
        };
        let version = parse_version(version)?;
        let (code, reason) = match rest {
            [a, b, c] => ([*a, *b, *c], VERSION_LEN + 4..line.len()),
            [a, b, c, b' ', ..] => ([*a, *b, *c], VERSION_LEN + 5..line.len()),
            _ => return Err(HeadError::Malformed("invalid status line")),
        };
        if !code.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::Malformed("invalid status code"));
        }
        let status = code
            .iter()
            .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
        if !is_status(status) {
            return Err(HeadError::Malformed("status code out of range"));
        }
        Ok(Self {
            version,
            status,
            reason: Span::new(reason),
        })
    }
}

/// Three digits of which the first is not 0 (RFC 9110 15).
fn is_status(code: u16) -> bool {
    (100..=999).contains(&code)
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
