//! Field lines (RFC 9110 5, RFC 9112 5): strict parsing, the names we know, and lists.
//!
//! A [`Field`] is a pair of spans in its head's bytes and the name as an enum, found once;
//! everything later compares the enum. What a name means for forwarding is in `forward`.
//!
//! Read next: `http/target.rs`.

use crate::http::head::HeadError;
use std::ops::Range;

/// A range in a head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// A head is at most `HEAD_BYTES_CEILING` long: the reader looks at no byte beyond.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "asserted; a conversion that checks is a fifth of `adopt`"
    )]
    pub(crate) fn new(range: Range<usize>) -> Self {
        debug_assert!(u32::try_from(range.end).is_ok());
        Self {
            start: range.start as u32,
            len: range.len() as u32,
        }
    }

    /// The bytes of the span; none if `bytes` ends before it.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        let (start, len) = (self.start as usize, self.len as usize);
        bytes.get(start..start + len).unwrap_or_default()
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Span,
    /// Without the white space around it.
    pub(crate) value: Span,
    pub(crate) known: Known,
    /// The message's own Connection field names it (RFC 9110 7.6.1).
    pub(crate) named_by_connection: bool,
}

impl Field {
    /// `text` are the bytes of `name`.
    pub(crate) fn new(text: &[u8], name: Span, value: Span) -> Self {
        Self {
            name,
            value,
            known: Known::of(text),
            named_by_connection: false,
        }
    }

    /// Parses a line that is known to be free of control characters. No space before the colon, no
    /// empty name, no continued line (RFC 9112 5.1, 5.2: refused, never repaired).
    pub(crate) fn parse(bytes: &[u8], line: Range<usize>) -> Result<Self, HeadError> {
        let text = &bytes[line.clone()];
        if text.starts_with(b" ") || text.starts_with(b"\t") {
            return Err(HeadError::Malformed("white space before a field name"));
        }
        let Some(colon) = text.iter().position(|byte| !is_tchar(*byte)) else {
            return Err(HeadError::Malformed("field line without a colon"));
        };
        if text[colon] != b':' {
            return Err(HeadError::Malformed("invalid field name"));
        }
        if colon == 0 {
            return Err(HeadError::Malformed("empty field name"));
        }
        let value = trim(&text[colon + 1..]);
        // An empty value lies at the end of its line in both ways of parsing; its place is never
        // used.
        let start = line.start + crate::http::head::offset(text, value);
        Ok(Self::new(
            &text[..colon],
            Span::new(line.start..line.start + colon),
            Span::new(start..start + value.len()),
        ))
    }
}

/// The field names that mean something to a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    #[default]
    Other,
    Connection,
    ContentLength,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthenticationInfo,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// Any other X-Forwarded field, X-Real-IP.
    XForwardedOther,
    /// One of the three above, or X-Real-IP, with an underscore for a hyphen: CGI and its
    /// successors cannot tell them apart.
    XForwardedDisguised,
    XRequestId,
}

impl Known {
    /// Compares only names of the same length and first letter, and first in the usual spelling:
    /// that is one comparison of words, while ignoring case takes one byte after the other.
    pub(crate) fn of(name: &[u8]) -> Self {
        let (Some(first), len) = (name.first(), name.len()) else {
            return Self::Other;
        };
        let (candidate, known): (&[u8], Self) = match (len, first.to_ascii_lowercase()) {
            (2, b't') => (b"TE", Self::Te),
            (3, b'v') => (b"Via", Self::Via),
            (4, b'd') => (b"Date", Self::Date),
            (4, b'h') => (b"Host", Self::Host),
            (6, b'c') => (b"Cookie", Self::Cookie),
            (6, b'e') => (b"Expect", Self::Expect),
            (7, b't') => (b"Trailer", Self::Trailer),
            (7, b'u') => (b"Upgrade", Self::Upgrade),
            (9, b'f') => (b"Forwarded", Self::Forwarded),
            (10, b'c') => (b"Connection", Self::Connection),
            (10, b'k') => (b"Keep-Alive", Self::KeepAlive),
            (12, b'm') => (b"Max-Forwards", Self::MaxForwards),
            (14, b'c') => (b"Content-Length", Self::ContentLength),
            (14, b'h') => (b"HTTP2-Settings", Self::Http2Settings),
            (16, b'p') => (b"Proxy-Connection", Self::ProxyConnection),
            (17, b't') => (b"Transfer-Encoding", Self::TransferEncoding),
            (18, b'p') => (b"Proxy-Authenticate", Self::ProxyAuthenticate),
            (19, b'p') => (b"Proxy-Authorization", Self::ProxyAuthorization),
            (25, b'p') => (b"Proxy-Authentication-Info", Self::ProxyAuthenticationInfo),
            (9.., b'x') => return Self::of_x(name),
            _ => return Self::Other,
        };
        if name == candidate || name.eq_ignore_ascii_case(candidate) {
            known
        } else {
            Self::Other
        }
    }

    fn of_x(name: &[u8]) -> Self {
        if name.eq_ignore_ascii_case(b"x-request-id") {
            return Self::XRequestId;
        }
        let claims = starts_with_any_hyphen(name, b"x-forwarded-")
            || name.len() == 9 && starts_with_any_hyphen(name, b"x-real-ip");
        if !claims {
            Self::Other
        } else if name.contains(&b'_') {
            Self::XForwardedDisguised
        } else if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            Self::XForwardedFor
        } else if name.eq_ignore_ascii_case(b"x-forwarded-host") {
            Self::XForwardedHost
        } else if name.eq_ignore_ascii_case(b"x-forwarded-proto") {
            Self::XForwardedProto
        } else {
            Self::XForwardedOther
        }
    }
}

/// Whether `name` begins with `prefix` (lower case, with hyphens) in any case, underscores standing
/// for hyphens.
fn starts_with_any_hyphen(name: &[u8], prefix: &[u8]) -> bool {
    name.len() >= prefix.len()
        && name.iter().zip(prefix).all(|(byte, wanted)| {
            byte.to_ascii_lowercase() == *wanted || *byte == b'_' && *wanted == b'-'
        })
}

/// The members of a comma-separated list, trimmed. Empty ones are left in; callers skip them where
/// they do no harm (RFC 9110 5.6.1.2).
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim)
}

/// Without optional white space (RFC 9110 5.6.3: SP and HTAB, nothing else) at both ends.
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let is_ows = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value
        .iter()
        .position(|byte| !is_ows(byte))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !is_ows(byte))
        .map_or(start, |last| last + 1);
    &value[start..end]
}

/// Whether all bytes are visible ASCII (RFC 5234 VCHAR). Looks at every byte instead of stopping at
/// the first wrong one: the compiler makes one vector comparison of many bytes then.
pub(crate) fn is_visible(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .fold(true, |visible, byte| visible & byte.is_ascii_graphic())
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_tchar(*byte))
}

/// A character of a token (RFC 9110 5.6.2).
pub(crate) fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

const TCHAR: [bool; 256] = table(b"!#$%&'*+-.^_`|~");

/// The letters, the digits and `others`.
pub(crate) const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
}
