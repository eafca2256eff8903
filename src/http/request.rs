//! The head of a request: taken from the client's bytes and checked, with the facts that decide
//! about forwarding found once.
//!
//! How it is taken in pieces is in `head`.
//!
//! Read next: `http/response.rs`.

use crate::http::fields::{Field, Known, Span, is_tchar, is_token, is_visible, members, trim};
use crate::http::framing::{Body, Framing, Message};
use crate::http::head::{
    FIELDS_AT_ONCE, Head, HeadError, HeadFacts, HeadReader, Lines, offset, parse_version,
};
use crate::http::options::{ConnectionOptions, is_protocol, mark_named};
use crate::http::target::{Resource, Target, is_authority};
use crate::http::{Grammar, HeadLimits, Version};
use std::mem::MaybeUninit;
use std::ops::Range;

/// A longer X-Request-Id is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// One request head, with its own copy of the bytes. Use it again after [`RequestHead::clear`]; its
/// memory stays.
#[derive(Debug, Default)]
pub struct RequestHead {
    reader: HeadReader<RequestFacts>,
}

/// What a request head says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestFacts {
    line: RequestLine,
    /// The target as the backend sees it, without the base path.
    resource: Span,
    host: Option<Span>,
    framing: Framing,
    connection: ConnectionOptions,
    expects_continue: bool,
    offers_upgrade: bool,
    accepts_trailers: bool,
    request_id: Option<Span>,
    /// Of OPTIONS and TRACE only.
    max_forwards: Option<u64>,
}

/// The request line; lengths and spans count from its first byte.
#[derive(Clone, Copy, Debug, Default)]
struct RequestLine {
    /// The method of an incomplete line is known to be valid.
    has_method: bool,
    len: usize,
    method: Span,
    target: Span,
    version: Version,
}

impl RequestHead {
    /// Takes one head from the front of `input`, skipping a few empty lines before it (RFC 9112
    /// 2.2).
    ///
    /// `Ok(None)`: not complete; call again with the same bytes and more, every byte is looked at
    /// once. `Ok(Some(used))`: complete, and the first `used` bytes are spent. An error stays until
    /// the value is cleared. Before the head is complete, and after an error, only the request line
    /// is known: [`RequestHead::request_line`], and [`RequestHead::method`] and
    /// [`RequestHead::version`] if it is valid.
    pub fn take(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        self.reader.take(input, limits, Grammar::Request)
    }

    /// Clears the head and keeps its memory, unless it was unusually large.
    pub fn clear(&mut self) {
        self.reader.clear();
    }

    /// The request line without its CRLF, as received. Of an incomplete or refused head: what has
    /// come of it, at most 1024 bytes, perhaps none; it may contain any byte.
    pub fn request_line(&self) -> &[u8] {
        let bytes = &self.reader.head.bytes;
        if self.reader.is_complete() {
            &bytes[..self.reader.facts.line.len]
        } else {
            bytes
        }
    }

    /// The method, case-sensitive.
    pub fn method(&self) -> &[u8] {
        self.reader.facts.line.method.of(&self.reader.head.bytes)
    }

    /// Whether the response has no body, whatever its fields say.
    pub fn is_head(&self) -> bool {
        self.method() == b"HEAD"
    }

    /// Whether it may be sent twice (RFC 9110 9.2.2). An unknown method may not.
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self.method(),
            b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE"
        )
    }

    /// Path and query to ask the backend for, or `*`. See [`RequestHead::request_line`] for the
    /// target as received.
    pub fn target(&self) -> &[u8] {
        self.reader.facts.resource.of(&self.reader.head.bytes)
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.reader.facts.line.version
    }

    /// The authority that is asked: of an absolute-form target, else of Host. Missing only in
    /// HTTP/1.0.
    pub fn host(&self) -> Option<&[u8]> {
        self.reader
            .facts
            .host
            .map(|place| place.of(&self.reader.head.bytes))
    }

    /// The path to ask the backend for, without the query; or `*`.
    pub(crate) fn path(&self) -> &[u8] {
        let target = self.target();
        let end = target.iter().position(|byte| *byte == b'?');
        &target[..end.unwrap_or(target.len())]
    }

    /// The value of the first field of this name; of Host, the authority that is asked.
    pub(crate) fn first_value(&self, name: &[u8]) -> Option<&[u8]> {
        if name.eq_ignore_ascii_case(b"host") {
            return self.host();
        }
        let mut fields = self.fields();
        let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The field lines as received: name, and trimmed value.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.complete().fields()
    }

    /// How the body is delimited; never [`Body::UntilClose`].
    pub fn body(&self) -> Body {
        self.reader.facts.framing.body(Message::Request)
    }

    /// Whether the client lets the connection persist (RFC 9112 9.3).
    pub fn keep_alive(&self) -> bool {
        self.reader
            .facts
            .connection
            .persists(self.reader.facts.line.version)
    }

    /// Whether the client waits for 100 (Continue) before it sends its body (RFC 9110 10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.reader.facts.expects_continue && !matches!(self.body(), Body::None | Body::Length(0))
    }

    /// Whether the client offers to switch to a protocol that may be forwarded (RFC 9110 7.8): any
    /// but h2c.
    pub fn upgrade(&self) -> bool {
        self.reader.facts.offers_upgrade && self.reader.facts.connection.upgrade
    }

    /// Whether each of the protocols in `chosen`, the Upgrade field of a 101, was offered. If not,
    /// the 101 was not asked for.
    pub fn offers(&self, chosen: &[u8]) -> bool {
        // No protocol has more layers, and more would make the search below quadratic.
        const LAYERS_MAX: usize = 4;
        self.upgrade()
            && members(chosen).count() <= LAYERS_MAX
            && members(chosen).all(|layer| {
                self.offered_protocols()
                    .any(|offered| offered.eq_ignore_ascii_case(layer))
            })
    }

    /// The protocols offered in Upgrade, without h2c.
    pub(crate) fn offered_protocols(&self) -> impl Iterator<Item = &[u8]> {
        self.values(Known::Upgrade)
            .flat_map(members)
            .filter(|member| is_protocol(member))
    }

    /// Whether the client takes trailer fields (RFC 9110 10.1.4).
    pub fn accepts_trailers(&self) -> bool {
        self.reader.facts.accepts_trailers
    }

    /// The client's X-Request-Id if it is usable: a single one, of 1 to 128 visible ASCII
    /// characters.
    pub fn request_id(&self) -> Option<&[u8]> {
        self.reader
            .facts
            .request_id
            .map(|place| place.of(&self.reader.head.bytes))
    }

    /// How many more intermediaries may forward the request (RFC 9110 7.6.2): only for OPTIONS and
    /// TRACE; 0 means that it must be answered here.
    pub fn max_forwards(&self) -> Option<u64> {
        self.reader.facts.max_forwards
    }

    /// The value of the first cookie of this name (RFC 6265 4.2).
    pub fn cookie(&self, name: &[u8]) -> Option<&[u8]> {
        self.values(Known::Cookie)
            .flat_map(|value| value.split(|byte| *byte == b';'))
            .find_map(|pair| {
                let value = trim(pair).strip_prefix(name)?.strip_prefix(b"=")?;
                Some(value)
            })
    }

    /// The head if it is complete; else an empty one, since its spans mean nothing yet.
    pub(crate) fn complete(&self) -> &Head {
        self.reader.complete()
    }

    pub(crate) fn values(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let Head { bytes, fields, .. } = self.complete();
        fields
            .iter()
            .filter(move |field| field.known == known)
            .map(|field| field.value.of(bytes))
    }
}

impl HeadFacts for RequestFacts {
    const LINE_TOO_LONG: HeadError = HeadError::RequestLineTooLong;
    const TOO_MANY_EMPTY_LINES: &'static str = "too many empty lines before the request";
    const LINE_IS_LOGGED: bool = true;

    fn take_whole(&mut self, head: &mut Head, input: &[u8], limits: &HeadLimits) -> Option<usize> {
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_AT_ONCE];
        let mut parsed = httparse::Request::new(&mut []);
        let status = httparse::ParserConfig::default().parse_request_with_uninit_headers(
            &mut parsed,
            input,
            &mut slots,
        );
        let Ok(httparse::Status::Complete(used)) = status else {
            return None;
        };
        let (method, target) = (parsed.method?.as_bytes(), parsed.path?.as_bytes());
        let bytes = &input[..used];
        let target_start = offset(bytes, target);
        // httparse allows UTF-8 in targets; RFC 3986 has ASCII only.
        if !is_visible(target)
            || parsed.headers.len() > limits.fields_max
            || !head.adopt(bytes, parsed.headers)
        {
            return None;
        }
        self.line = RequestLine {
            has_method: true,
            len: target_start + target.len() + " HTTP/1.1".len(),
            method: Span::new(0..method.len()),
            target: Span::new(target_start..target_start + target.len()),
            version: if parsed.version == Some(0) {
                Version::Http10
            } else {
                Version::Http11
            },
        };
        Some(used)
    }

    fn take_line(
        &mut self,
        lines: &mut Lines,
        input: &[u8],
        grammar: Grammar,
    ) -> Result<bool, HeadError> {
        if !self.line.has_method {
            // Any other protocol on this port (TLS, a banner) is refused here, not at the deadline.
            match input[lines.seen..].iter().position(|byte| !is_tchar(*byte)) {
                None => {
                    lines.seen = input.len();
                    return Ok(false);
                }
                Some(len) if lines.seen + len > 0 && input[lines.seen + len] == b' ' => {
                    lines.seen += len;
                    self.line.has_method = true;
                }
                Some(_) => return Err(HeadError::Malformed("invalid method")),
            }
        }
        let Some(line) = lines.next(input, grammar)? else {
            return Ok(false);
        };
        self.line = RequestLine::parse(&input[line])?;
        Ok(true)
    }

    fn settle(&mut self, head: &mut Head, limits: &HeadLimits) -> Result<(), HeadError> {
        let line = self.line;
        let bytes = &head.bytes;
        let method = line.method.of(bytes);
        if method == b"CONNECT" {
            return Err(HeadError::NotImplemented("CONNECT"));
        }
        let Target {
            authority,
            resource,
        } = Target::read(method, line.target.of(bytes))?;
        let mut facts = Self {
            line,
            ..Self::gather(head, limits)?
        };
        facts.framing.check(line.version)?;
        facts.settle_host(bytes, authority.is_some())?;
        if matches!(method, b"OPTIONS" | b"TRACE") {
            facts.max_forwards = max_forwards(head)?;
        }

        if let Some(authority) = authority {
            // RFC 9112 3.2.2: the target's authority replaces the one in Host.
            facts.host = Some(line.in_target(&authority));
        }
        facts.resource = match resource {
            Resource::Path(range) => line.in_target(&range),
            Resource::Asterisk => append(head, b"*", Span::default()),
            Resource::NoPath(query) => append(head, b"/", line.in_target(&query)),
        };
        if facts.connection.names_fields {
            mark_named(head);
        }
        if line.version == Version::Http10 {
            // RFC 9110 7.8, 10.1.1 and 10.1.4: in HTTP/1.0 these mean nothing.
            facts.offers_upgrade = false;
            facts.expects_continue = false;
            facts.accepts_trailers = false;
        }
        *self = facts;
        Ok(())
    }
}

impl RequestFacts {
    /// Reads the fields in one pass.
    fn gather(head: &Head, limits: &HeadLimits) -> Result<Self, HeadError> {
        let mut facts = Self::default();
        let mut request_ids = 0;
        for Field {
            value: place,
            known,
            ..
        } in &head.fields
        {
            let value = place.of(&head.bytes);
            match known {
                // RFC 9112 3.2: more than one is an error even when they agree.
                Known::Host if facts.host.is_some() => {
                    return Err(HeadError::Malformed("repeated Host"));
                }
                Known::Host => facts.host = Some(*place),
                Known::ContentLength => facts.framing.add_length(value)?,
                Known::TransferEncoding => facts.framing.add_codings(value)?,
                Known::Connection => facts.connection.add(value, limits)?,
                Known::Upgrade => facts.offers_upgrade |= members(value).any(is_protocol),
                Known::Expect => {
                    facts.expects_continue |=
                        members(value).any(|member| member.eq_ignore_ascii_case(b"100-continue"));
                }
                Known::Te => {
                    facts.accepts_trailers |=
                        members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"));
                }
                Known::XRequestId => {
                    request_ids += 1;
                    let usable =
                        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len()) && is_visible(value);
                    facts.request_id = (usable && request_ids == 1).then_some(*place);
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// RFC 9112 3.2: HTTP/1.1 needs exactly one valid Host. An empty one names no host (RFC 9110
    /// 4.2.1), so it is accepted only beside an authority in the target, which counts instead.
    fn settle_host(&self, bytes: &[u8], target_has_authority: bool) -> Result<(), HeadError> {
        let Some(host) = self.host.map(|place| place.of(bytes)) else {
            return if self.line.version == Version::Http10 {
                Ok(())
            } else {
                Err(HeadError::Malformed("missing Host"))
            };
        };
        if is_authority(host) || host.is_empty() && target_has_authority {
            Ok(())
        } else {
            Err(HeadError::Malformed("invalid Host"))
        }
    }
}

/// Appends `prefix` and the bytes at `part` to the head and returns their span.
fn append(head: &mut Head, prefix: &[u8], part: Span) -> Span {
    let bytes = &mut head.bytes;
    let start = bytes.len();
    let part = part.start()..part.end();
    bytes.reserve_exact(prefix.len() + part.len());
    bytes.extend_from_slice(prefix);
    bytes.extend_from_within(part);
    Span::new(start..bytes.len())
}

/// The only Max-Forwards field. A value that is no number cannot be counted down and is refused, as
/// Apache does. A number too large for us counts as the largest that we can hold, as RFC 9110 7.6.2
/// says.
fn max_forwards(head: &Head) -> Result<Option<u64>, HeadError> {
    let mut values = head
        .fields
        .iter()
        .filter(|field| field.known == Known::MaxForwards)
        .map(|field| field.value.of(&head.bytes));
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HeadError::Malformed("repeated Max-Forwards"));
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::Malformed("malformed Max-Forwards"));
    }
    let number = value.iter().fold(0_u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Ok(Some(number))
}

impl RequestLine {
    /// The span of a part of the target in the head.
    fn in_target(&self, part: &Range<usize>) -> Span {
        let start = self.target.start();
        Span::new(start + part.start..start + part.end)
    }

    /// Parses `method SP request-target SP HTTP-version` with exactly these two spaces (RFC 9112
    /// 3); the bytes are known to be free of control characters.
    fn parse(line: &[u8]) -> Result<Self, HeadError> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HeadError::Malformed("request line is not three parts"));
        };
        if !is_token(method) {
            return Err(HeadError::Malformed("invalid method"));
        }
        if target.is_empty() || !is_visible(target) {
            return Err(HeadError::Malformed("invalid character in the target"));
        }
        let target_start = method.len() + 1;
        Ok(Self {
            has_method: true,
            len: line.len(),
            method: Span::new(0..method.len()),
            target: Span::new(target_start..target_start + target.len()),
            version: parse_version(version)?,
        })
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "request_facts_tests.rs"]
mod facts_tests;
