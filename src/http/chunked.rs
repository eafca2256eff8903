//! The chunked transfer coding (RFC 9112 7.1): a strict decoder that eats bytes as they come, and
//! an encoder.
//!
//! The decoder returns data where it is in the caller's buffer and copies nothing but trailer
//! fields. Chunk extensions are checked and dropped, as an intermediary may do that does not know
//! them.
//!
//! Read next: `http/trailers.rs`.

use crate::http::fields::is_tchar;
use crate::http::head::HeadError;
use crate::http::trailers::TrailerSection;
use crate::http::{Grammar, HeadLimits, strict_reason};
use std::fmt;

/// How far extension bytes may exceed the data that came with them. Honest ones are some bytes a
/// chunk; without a bound a sender could keep us reading for ever without a byte of body
/// (CVE-2023-39326 in Go).
const EXTENSION_BYTES_AHEAD_MAX: u32 = 16 * 1024;
/// Digits of a chunk size, leading zeros included: what fits in 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;
/// Decodes the chunks of one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    grammar: Grammar,
    /// The size read so far, then the bytes of the chunk that are still missing.
    left: u64,
    /// How far extensions are ahead of data, in bytes.
    extension_bytes_ahead: u32,
    trailers: TrailerSection,
}

/// The result of [`Decoder::decode`]. `used` counts bytes of its input; the rest belongs to the
/// next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Body bytes, at least one, which lie at the end of the first `used` bytes.
    Data {
        /// Bytes to drop from the input.
        used: usize,
        /// A part of a chunk's data.
        data: &'a [u8],
    },
    /// All input is used up and the body goes on.
    More {
        /// Bytes to drop from the input: all of them.
        used: usize,
    },
    /// The body is complete, trailer section included.
    End {
        /// Bytes to drop from the input; what follows is not part of this message.
        used: usize,
    },
}

/// Why a chunked body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// Breaks the grammar, or has endless extensions.
    Malformed(&'static str),
    /// The trailer section is wrong or over its limits.
    Trailers(HeadError),
}

impl ChunkError {
    /// The status that answers a request with such a body.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Trailers(error) => error.status(),
        }
    }

    /// What is wrong, for a log line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(reason) => reason,
            Self::Trailers(HeadError::TooLong) => "trailer section too long",
            Self::Trailers(error) => error.reason(),
        }
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for ChunkError {}

/// What the next byte may be. An extension is `*( BWS ";" BWS name [ BWS "=" BWS ( token /
/// quoted-string ) ] )`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
    },
    /// After white space behind a size or a value: only `;` may follow it.
    BeforeSemicolon,
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the first byte after the last chunk.
    TrailerStart,
    EndLf,
    Trailers,
    Done,
    Refused(ChunkError),
}

impl Decoder {
    /// A decoder for one body; `trailer_limits` bound its trailer section, which is kept.
    pub fn new(trailer_limits: &HeadLimits) -> Self {
        Self::with(TrailerSection::new(trailer_limits, true))
    }

    /// The same for a body whose trailer fields are not forwarded: they are checked but not kept.
    pub fn without_trailers(trailer_limits: &HeadLimits) -> Self {
        Self::with(TrailerSection::new(trailer_limits, false))
    }

    fn with(trailers: TrailerSection) -> Self {
        Self {
            state: State::Size { digits: 0 },
            grammar: Grammar::Request,
            left: 0,
            extension_bytes_ahead: 0,
            trailers,
        }
    }

    /// Reads by this grammar instead of a request's.
    pub fn read_as(&mut self, grammar: Grammar) {
        self.grammar = grammar;
    }

    /// Leaves out the trailer fields that the message's Connection fields name (RFC 9110 7.6.1).
    /// `options` are the values of these fields.
    pub fn leave_out<'a>(&mut self, options: impl Iterator<Item = &'a [u8]>) {
        self.trailers.leave_out(options);
    }

    /// Decodes up to the next piece of data, the end of the body, or the end of the input. An error
    /// stays.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, ChunkError> {
        let step = self.advance(input);
        if let Err(error) = step {
            self.state = State::Refused(error);
        }
        step
    }

    fn advance<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, ChunkError> {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self.state {
                State::Done => break,
                State::Refused(error) => return Err(error),
                State::Data => return Ok(self.take_data(input, at)),
                State::TrailerStart if *byte != b'\r' => self.state = State::Trailers,
                State::Trailers => return self.take_trailers(input, at),
                _ => {
                    self.state = self.after(*byte)?;
                    at += 1;
                }
            }
        }
        match self.state {
            State::Done => Ok(Step::End { used: at }),
            State::Refused(error) => Err(error),
            _ => Ok(Step::More { used: at }),
        }
    }

    fn take_data<'a>(&mut self, input: &'a [u8], at: usize) -> Step<'a> {
        let here = (input.len() - at) as u64;
        let len = self.left.min(here);
        self.left -= len;
        let len_32 = u32::try_from(len).unwrap_or(u32::MAX);
        self.extension_bytes_ahead = self.extension_bytes_ahead.saturating_sub(len_32);
        if self.left == 0 {
            self.state = State::DataCr;
        }
        let end = at + usize::try_from(len).expect("not more than the input's length");
        Step::Data {
            used: end,
            data: &input[at..end],
        }
    }

    fn take_trailers<'a>(&mut self, input: &[u8], at: usize) -> Result<Step<'a>, ChunkError> {
        let (used, is_whole) = self
            .trailers
            .take(&input[at..], self.grammar)
            .map_err(ChunkError::Trailers)?;
        let used = at + used;
        if is_whole {
            self.state = State::Done;
            return Ok(Step::End { used });
        }
        Ok(Step::More { used })
    }

    /// The state after one byte that is not data.
    #[expect(
        clippy::match_same_arms,
        reason = "a table: one line for each transition"
    )]
    fn after(&mut self, byte: u8) -> Result<State, ChunkError> {
        let next = match (self.state, byte) {
            (State::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(ChunkError::Malformed("chunk size too long"));
                }
                if digits == 0 {
                    self.left = 0;
                }
                self.left = self.left << 4 | u64::from(hex_value(byte));
                return Ok(State::Size { digits: digits + 1 });
            }
            (State::Size { digits: 0 }, _) => {
                return Err(ChunkError::Malformed("chunk size without a digit"));
            }
            (State::Size { .. } | State::Name | State::Value | State::AfterQuoted, b'\r') => {
                return Ok(State::SizeLf);
            }
            (State::SizeLf, b'\n') => return Ok(self.after_size_line()),
            (State::DataCr, b'\r') => return Ok(State::DataLf),
            (State::DataLf, b'\n') => return Ok(State::Size { digits: 0 }),
            (State::DataCr, b'\n') => {
                self.forgive(strict_reason!(self.grammar, "bare LF behind chunk data"))?;
                return Ok(State::Size { digits: 0 });
            }
            (State::DataCr | State::DataLf, _) => {
                return Err(ChunkError::Malformed("chunk data without CRLF at its end"));
            }
            (State::TrailerStart, b'\r') => return Ok(State::EndLf),
            (State::EndLf, b'\n') => return Ok(State::Done),
            (State::EndLf, _) => {
                return Err(ChunkError::Trailers(HeadError::Malformed("bare CR")));
            }
            (
                State::Size { .. }
                | State::BeforeSemicolon
                | State::Name
                | State::AfterName
                | State::Value
                | State::AfterQuoted,
                b';',
            ) => State::BeforeName,
            (
                State::Size { .. } | State::Value | State::AfterQuoted | State::BeforeSemicolon,
                b' ' | b'\t',
            ) => State::BeforeSemicolon,
            (State::BeforeName, b' ' | b'\t') => State::BeforeName,
            (State::Name | State::AfterName, b' ' | b'\t') => State::AfterName,
            (State::Name | State::AfterName, b'=') => State::BeforeValue,
            (State::BeforeValue, b' ' | b'\t') => State::BeforeValue,
            (State::BeforeValue, b'"') => State::Quoted,
            (State::Quoted, b'"') => State::AfterQuoted,
            (State::Quoted, b'\\') => State::QuotedPair,
            (State::Quoted | State::QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => State::Quoted,
            (State::BeforeName | State::Name, _) if is_tchar(byte) => State::Name,
            (State::BeforeValue | State::Value, _) if is_tchar(byte) => State::Value,
            (State::BeforeSemicolon, b'\r') => {
                self.forgive(strict_reason!(
                    self.grammar,
                    "white space behind a chunk size"
                ))?;
                return Ok(State::SizeLf);
            }
            (
                State::Size { .. }
                | State::BeforeSemicolon
                | State::Name
                | State::Value
                | State::AfterQuoted,
                b'\n',
            ) => {
                self.forgive(strict_reason!(self.grammar, "bare LF behind a chunk size"))?;
                return Ok(self.after_size_line());
            }
            (State::Size { .. }, _) => {
                return Err(ChunkError::Malformed("invalid character in a chunk size"));
            }
            _ => return Err(ChunkError::Malformed("invalid chunk extension")),
        };
        // Only bytes of extensions reach this.
        self.extension_bytes_ahead += 1;
        if self.extension_bytes_ahead > EXTENSION_BYTES_AHEAD_MAX {
            return Err(ChunkError::Malformed("chunk extensions too long"));
        }
        Ok(next)
    }

    fn after_size_line(&self) -> State {
        if self.left == 0 {
            State::TrailerStart
        } else {
            State::Data
        }
    }

    /// Refuses what breaks the grammar, except in a lenient reader.
    fn forgive(&self, reason: &'static str) -> Result<(), ChunkError> {
        match self.grammar {
            Grammar::LenientResponse => Ok(()),
            Grammar::Request | Grammar::Response => Err(ChunkError::Malformed(reason)),
        }
    }

    /// The trailer fields that may be forwarded, after the end: without those that would change
    /// framing, routing, authentication or the meaning of the content (RFC 9110 6.5.1), and those
    /// of [`Decoder::leave_out`].
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let is_whole = self.state == State::Done;
        self.trailers.fields().filter(move |_| is_whole)
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// The most output for `input` bytes: the same chunks, the first and the last perhaps cut, and
/// lines that end in CRLF if `lenient` allowed a LF.
pub(crate) fn encoded_bytes_max(input: usize, lenient: bool) -> usize {
    const CUT_BYTES: usize = 64;
    // The shortest chunk grows from `1 LF x LF` to two bytes more.
    let added = if lenient { input / 2 } else { 0 };
    input + added + CUT_BYTES
}

/// Appends one chunk; nothing for no data, because an empty chunk would be the end.
pub fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        encode_chunk_head(data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

/// Appends the line before `len` bytes of data that are sent without this encoder; [`CHUNK_END`]
/// must follow them. `len` is not 0.
fn encode_chunk_head(len: usize, out: &mut Vec<u8>) {
    debug_assert_ne!(len, 0, "an empty chunk is the end of the body");
    let mut started = false;
    for shift in (0..usize::BITS / 4).rev() {
        let digit = (len >> (shift * 4)) & 0xf;
        started |= digit != 0;
        if started {
            out.push(b"0123456789abcdef"[digit]);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What follows the data of a chunk.
const CHUNK_END: &[u8] = b"\r\n";

/// Appends the end of a body: the last chunk and the trailer section, usually empty.
pub fn encode_end<'a>(trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        crate::http::forward::write_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
