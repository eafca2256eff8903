//! How a head is taken from a stream: one reader, [`HeadReader`], for requests and responses.
//!
//! A head that arrives in one piece is parsed by httparse in one go, and what httparse allows and
//! we do not is checked on its result (see [`Head::adopt`]). Any other head, in pieces or invalid,
//! is parsed line by line by [`HeadReader::take_lines`], which remembers where it stopped: a head
//! sent byte by byte costs no more than its length, and what can never become valid is refused at
//! its first wrong byte. Only the line-by-line parser reports errors, in the order of the bytes, so
//! that the same bytes give the same error however they were cut. Both parsers find the same
//! fields; a property test holds them to each other. What differs between a request and a response
//! is in the [`HeadFacts`] of each.
//!
//! Read next: `http/fields.rs`.

use crate::http::fields::{Field, Span};
use crate::http::{Grammar, HeadLimits, Version, strict_reason};
use crate::net::room::make_room;
use std::fmt;
use std::ops::Range;

/// No head is longer than this, whatever the limits say: offsets in a head are kept in 32 bits.
pub const HEAD_BYTES_CEILING: usize = 1 << 20;

/// RFC 9112 2.2 asks to ignore at least one empty line before a request; up to this many bytes are
/// ignored.
pub(crate) const EMPTY_LINES_BYTES_MAX: usize = 8;
/// Heads with more fields are taken line by line.
pub(crate) const FIELDS_AT_ONCE: usize = 128;
/// How much of the start line of an incomplete or refused head is kept for the log.
const LOGGED_LINE_BYTES_MAX: usize = 1024;
/// A head's buffer that grew beyond this is given back when the head is cleared.
const BYTES_KEPT: usize = 4096;
/// The same for its list of fields.
const FIELDS_KEPT: usize = 128;
/// The most that both keep.
pub(crate) const KEPT_BYTES: usize = BYTES_KEPT + FIELDS_KEPT * size_of::<Field>();

/// Why a head was refused. For a request it decides the status; a response with any of these is a
/// 502.
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

/// Takes heads, one after the other; `F` are the facts of one kind of head.
#[derive(Debug, Default)]
pub(crate) struct HeadReader<F> {
    pub(crate) head: Head,
    pub(crate) facts: F,
    stage: Stage,
    /// Bytes of empty lines before the start line.
    skipped: usize,
}

/// The facts of a head beside its fields: the start line, and what can be judged only when the head
/// is complete.
pub(crate) trait HeadFacts: Default {
    /// The start line alone is longer than a head may be.
    const LINE_TOO_LONG: HeadError;
    const TOO_MANY_EMPTY_LINES: &'static str;
    /// Whether the start line of a head that is incomplete or refused is kept for the log.
    const LINE_IS_LOGGED: bool;

    /// The common case: the head is complete and httparse finds nothing wrong. Returns its length;
    /// `None` means another case, and nothing was changed.
    fn take_whole(&mut self, head: &mut Head, input: &[u8], limits: &HeadLimits) -> Option<usize>;

    /// Parses the start line from where the last call stopped; returns whether it is complete.
    fn take_line(
        &mut self,
        lines: &mut Lines,
        input: &[u8],
        grammar: Grammar,
    ) -> Result<bool, HeadError>;

    /// Judges a head whose start line and fields are known.
    fn settle(&mut self, head: &mut Head, limits: &HeadLimits) -> Result<(), HeadError>;
}

/// How far a head has been parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    StartLine,
    Fields,
    Complete,
    Refused(HeadError),
}

impl<F: HeadFacts> HeadReader<F> {
    /// See [`RequestHead::take`](crate::http::RequestHead::take); of one head always with the same
    /// grammar.
    pub(crate) fn take(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        grammar: Grammar,
    ) -> Result<Option<usize>, HeadError> {
        match self.stage {
            Stage::Refused(error) => return Err(error),
            Stage::Complete => self.clear(),
            Stage::StartLine | Stage::Fields => {}
        }
        let line_was_kept = self.stage == Stage::Fields && !self.head.bytes.is_empty();
        let result = self.advance(input, limits, grammar);
        if let Err(error) = result {
            self.stage = Stage::Refused(error);
        }
        if F::LINE_IS_LOGGED && self.stage != Stage::Complete && !(line_was_kept && result.is_ok())
        {
            self.keep_line_for_log(input);
        }
        result
    }

    /// Clears the head and keeps its memory, unless it was unusually large.
    pub(crate) fn clear(&mut self) {
        let Self {
            head,
            facts,
            stage,
            skipped,
        } = self;
        head.clear();
        *facts = F::default();
        (*stage, *skipped) = Default::default();
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// The head if it is complete; else an empty one, since its spans mean nothing yet.
    pub(crate) fn complete(&self) -> &Head {
        if self.is_complete() {
            &self.head
        } else {
            &NO_HEAD
        }
    }

    fn advance(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        grammar: Grammar,
    ) -> Result<Option<usize>, HeadError> {
        // No start line begins with a control character.
        let begins_at_once = self.skipped == 0 && input.first().is_some_and(|byte| *byte > b'\r');
        let input = if begins_at_once {
            input
        } else if self.skip_empty_lines(input, grammar)? {
            &input[self.skipped..]
        } else {
            return Ok(None);
        };
        let bytes_max = limits.head_bytes_max.min(HEAD_BYTES_CEILING);
        let input = &input[..input.len().min(bytes_max)];
        // After a first look in vain, it is parsed line by line.
        let is_new = self.head.lines.seen == 0;
        let used =
            if is_new && let Some(used) = self.facts.take_whole(&mut self.head, input, limits) {
                used
            } else if let Some(used) = self.take_lines(input, limits, grammar)? {
                used
            } else if input.len() < bytes_max {
                return Ok(None);
            } else if self.stage == Stage::StartLine {
                return Err(F::LINE_TOO_LONG);
            } else {
                return Err(HeadError::TooLong);
            };
        self.facts.settle(&mut self.head, limits)?;
        self.stage = Stage::Complete;
        Ok(Some(self.skipped + used))
    }

    /// Whether the first byte of the start line has come, nearly always the very first byte. Old
    /// clients send an empty line before a request, after a body (RFC 9112 2.2), and some backends
    /// before a status line, after the body of the last response or after a 1xx.
    #[cold]
    fn skip_empty_lines(&mut self, input: &[u8], grammar: Grammar) -> Result<bool, HeadError> {
        loop {
            let length = match &input[self.skipped.min(input.len())..] {
                [] | [b'\r'] => return Ok(false),
                [b'\r', b'\n', ..] => 2,
                [b'\r', ..] if grammar == Grammar::Request => {
                    return Err(HeadError::Malformed("bare CR"));
                }
                [b'\n', ..] if grammar == Grammar::Request => {
                    return Err(HeadError::Malformed("bare LF"));
                }
                [b'\n', ..] => 1,
                _ => return Ok(true),
            };
            if grammar == Grammar::Response {
                let reason = strict_reason!(grammar, "an empty line before the status line");
                return Err(HeadError::Malformed(reason));
            }
            if self.skipped + length > EMPTY_LINES_BYTES_MAX {
                return Err(HeadError::Malformed(F::TOO_MANY_EMPTY_LINES));
            }
            self.skipped += length;
        }
    }

    /// Parses the same head line by line, from where the last call stopped, and reports errors.
    /// Apart from the function into which httparse is inlined: together, the compiler makes the
    /// common case slower.
    #[cold]
    fn take_lines(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        grammar: Grammar,
    ) -> Result<Option<usize>, HeadError> {
        let Head { fields, lines, .. } = &mut self.head;
        if self.stage == Stage::StartLine {
            if !self.facts.take_line(lines, input, grammar)? {
                return Ok(None);
            }
            self.stage = Stage::Fields;
        }
        let used = take_fields(lines, fields, input, limits.fields_max, grammar)?;
        if let Some(used) = used {
            self.head.keep(&input[..used]);
        }
        Ok(used)
    }

    fn keep_line_for_log(&mut self, input: &[u8]) {
        let seen = &input[self.skipped.min(input.len())..];
        let seen = &seen[..seen.len().min(LOGGED_LINE_BYTES_MAX)];
        let end = seen
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'))
            .unwrap_or(seen.len());
        self.head.keep(&seen[..end]);
    }
}

/// The bytes of a head and the places of its fields.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) lines: Lines,
}

/// Stands for an incomplete head.
static NO_HEAD: Head = Head {
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

    /// Takes over what httparse found in `head` if every line ends in CRLF; otherwise changes
    /// nothing.
    ///
    /// httparse takes a bare LF for a line end. It never takes a CR for anything but the beginning
    /// of CRLF, and a field's name begins right after the line before: so checking the byte before
    /// each LF is enough.
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

    /// Replaces the bytes kept before.
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

/// Parses field lines from `input` up to the empty line; returns where that ends. `input` begins
/// where it began at the first call and may have grown since.
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

/// Splits lines off a growing input, looking at each byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// Where the incomplete line begins.
    pub(crate) start: usize,
    /// Where to continue.
    pub(crate) seen: usize,
}

impl Lines {
    /// The next complete line without its CRLF. RFC 9112 2.2 would let a recipient take a bare LF
    /// for a line end and a bare CR for a space: exactly where readers differ, so both are refused,
    /// as is any other control character, except the LF of a backend that is read leniently.
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

/// The index of the first byte that is not text. Whole blocks come first: the compiler makes a few
/// vector instructions of that, a tenth of the time that single bytes take.
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
