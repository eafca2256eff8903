//! How a head is taken from a stream: the part that requests and responses share.
//!
//! A head that is there in one piece is parsed by httparse in one go, and what httparse lets pass and we do not
//! is checked on its result (see [`Head::adopt`]). Any other head, one in pieces or a wrong one, is taken line by
//! line by [`take_fields`], which remembers where it stopped: a head sent byte by byte costs no more than
//! its length, and what can never become valid is refused at its first wrong byte. The line-wise way alone decides
//! about errors, in the order of the bytes, so that the same bytes give the same answer however they were cut.
//! Both ways fill the same fields; a property test holds them to each other. Next: `fields`.

use crate::http::fields::{Field, Span};
use crate::http::{Grammar, Version, strict_reason};
use crate::net::room::make_room;
use std::fmt;
use std::ops::Range;

/// No head is longer than this, whatever the limits say: offsets in a head are kept in 32 bits.
pub const HEAD_BYTES_CEILING: usize = 1 << 20;

/// Heads with more fields are taken line by line.
pub(crate) const FIELDS_AT_ONCE: usize = 128;
/// A head's buffer that grew beyond this is given back when the head is cleared.
const BYTES_KEPT: usize = 4096;
/// The same for its list of fields.
const FIELDS_KEPT: usize = 128;
/// What both of them take at the most.
pub(crate) const KEPT_BYTES: usize = BYTES_KEPT + FIELDS_KEPT * size_of::<Field>();

/// Why a head was refused. For a request it has a status; a response with any of these is a bad answer (502).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// 400: breaks the grammar, or two readers could understand it differently.
    Malformed(&'static str),
    /// 414: the request line alone is longer than a head may be.
    RequestLineTooLong,
    /// 431: the head is longer than allowed.
    TooLong,
    /// 431: more fields (or connection options) than allowed.
    TooManyFields,
    /// 501: CONNECT, or a transfer coding that is not understood.
    NotImplemented(&'static str),
    /// 505: a major version other than 1.
    Version,
}

impl HeadError {
    /// The status that answers a request with such a head.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::RequestLineTooLong => 414,
            Self::TooLong | Self::TooManyFields => 431,
            Self::NotImplemented(_) => 501,
            Self::Version => 505,
        }
    }

    /// What is wrong, for a log line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(reason) | Self::NotImplemented(reason) => reason,
            Self::RequestLineTooLong => "request line too long",
            Self::TooLong => "head too long",
            Self::TooManyFields => "too many fields",
            Self::Version => "HTTP major version is not 1",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for HeadError {}

/// The bytes of a head and where its fields are.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) lines: Lines,
}

/// Stands for a head that is not complete.
pub(crate) static NO_HEAD: Head = Head {
    bytes: Vec::new(),
    fields: Vec::new(),
    lines: Lines { start: 0, seen: 0 },
};

impl Head {
    /// Whether it takes more memory than is kept for the next head.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes.capacity() > BYTES_KEPT || self.fields.capacity() > FIELDS_KEPT
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.lines = Lines::default();
        if self.is_large() {
            self.bytes = Vec::new();
            self.fields = Vec::new();
        }
    }

    /// Takes over what httparse found in `head`, if every line of it ends in CRLF; otherwise changes nothing.
    ///
    /// httparse takes a bare LF for the end of a line. It never takes a CR for anything but the beginning of CRLF, and a
    /// field's name begins right after the line before: so a look at the byte before each LF is enough.
    pub(crate) fn adopt(&mut self, head: &[u8], parsed: &[httparse::Header<'_>]) -> bool {
        let crlf_before = |at: usize| at >= 2 && head[at - 2..at] == *b"\r\n";
        if !(head.ends_with(b"\r\n\r\n")
            && parsed
                .iter()
                .all(|field| crlf_before(offset(head, field.name.as_bytes()))))
        {
            return false;
        }
        make_room(&mut self.fields, parsed.len(), parsed.len());
        self.fields.extend(parsed.iter().map(|field| {
            let place = |part: &[u8]| {
                let start = offset(head, part);
                Span::new(start..start + part.len())
            };
            Field::new(
                field.name.as_bytes(),
                place(field.name.as_bytes()),
                place(field.value),
            )
        }));
        self.keep(head);
        true
    }

    /// Keeps these bytes in place of those that were kept before.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        make_room(&mut self.bytes, bytes.len(), bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields
            .iter()
            .map(|field| (field.name.of(&self.bytes), field.value.of(&self.bytes)))
    }
}

/// `HTTP/` DIGIT `.` DIGIT, in capitals (RFC 9112 2.3).
pub(crate) fn parse_version(version: &[u8]) -> Result<Version, HeadError> {
    match version {
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            if *major == b'1' {
                Ok(Version::Http11)
            } else {
                Err(HeadError::Version)
            }
        }
        _ => Err(HeadError::Malformed("invalid HTTP version")),
    }
}

/// Where in `whole` its part `part` begins.
pub(crate) fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr())
}

/// Takes field lines from `input` up to the empty line; the result is where that ends. `input` begins where
/// it began at the first call and may have grown since.
pub(crate) fn take_fields(
    lines: &mut Lines,
    fields: &mut Vec<Field>,
    input: &[u8],
    fields_max: usize,
    grammar: Grammar,
) -> Result<Option<usize>, HeadError> {
    while let Some(line) = lines.next(input, grammar)? {
        if line.is_empty() {
            return Ok(Some(lines.start));
        }
        if fields.len() >= fields_max {
            return Err(HeadError::TooManyFields);
        }
        let field = Field::parse(input, line)?;
        make_room(fields, 1, fields_max);
        fields.push(field);
    }
    Ok(None)
}

/// Splits lines off a growing input and looks at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// Where the line that is not complete begins.
    pub(crate) start: usize,
    /// Where to look on.
    pub(crate) seen: usize,
}

impl Lines {
    /// The next complete line without its end, which is CRLF. RFC 9112 2.2 would let a recipient take a bare LF for the end
    /// of a line and a bare CR for a space: exactly where readers differ, so both are refused, as is any other control,
    /// but for the LF of a backend that is read leniently.
    pub(crate) fn next(
        &mut self,
        input: &[u8],
        grammar: Grammar,
    ) -> Result<Option<Range<usize>>, HeadError> {
        let Some(ahead) = text_end(&input[self.seen..]) else {
            self.seen = input.len();
            return Ok(None);
        };
        let at = self.seen + ahead;
        let end = match (input[at], input.get(at + 1)) {
            (b'\r', Some(b'\n')) => at + 2,
            (b'\n', _) if grammar == Grammar::LenientResponse => at + 1,
            (b'\r', None) => {
                self.seen = at;
                return Ok(None);
            }
            (b'\r', Some(_)) => return Err(HeadError::Malformed("bare CR")),
            (b'\n', _) => {
                let reason = strict_reason!(grammar, "bare LF");
                return Err(HeadError::Malformed(reason));
            }
            _ => return Err(HeadError::Malformed("control character")),
        };
        let line = self.start..at;
        self.start = end;
        self.seen = end;
        Ok(Some(line))
    }
}

/// Where the first byte is that is not text. Whole blocks are looked at first: the compiler makes that a few vector
/// instructions, a tenth of what one byte after the other takes.
fn text_end(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_all_text = |block: &&[u8]| block.iter().fold(true, |text, byte| text & is_text(*byte));
    let start = bytes.chunks_exact(BLOCK).take_while(is_all_text).count() * BLOCK;
    let ahead = bytes[start..].iter().position(|byte| !is_text(*byte))?;
    Some(start + ahead)
}

/// What a line of a head may hold (RFC 9110 5.5): HTAB, SP, visible characters and obs-text.
pub(crate) fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
