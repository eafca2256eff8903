//! A body as bytes and values: read in the framing in which it comes, written in the framing of the
//! next connection.
//!
//! Where it ends is known from its head (`framing`); here chunks are decoded and encoded, and the
//! bound on its data and its end are checked.
//!
//! Read next: `http/chunked.rs`.

use std::fmt;

use crate::http::chunked::{ChunkError, Decoder, Step, encode_chunk, encode_end};
use crate::http::{Body, Grammar, HeadLimits};

/// Data up to this size is copied behind a head, so that one plain write sends both.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// Why a body cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// The connection ended before the body did.
    BrokeOff,
    /// Its framing is not valid.
    Malformed(ChunkError),
    /// It is longer than allowed.
    TooLong,
}

impl BodyError {
    /// The reason in an access line, for a request's body.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            BodyError::TooLong => "the request's body is too long",
            BodyError::Malformed(error) => error.reason(),
            BodyError::BrokeOff => "the request's body broke off",
        }
    }

    /// The status that answers a request with such a body.
    pub(crate) fn status(&self) -> u16 {
        match self {
            BodyError::TooLong => 413,
            BodyError::Malformed(error) => error.status(),
            BodyError::BrokeOff => 400,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::BrokeOff => f.write_str("it ended before its body did"),
            BodyError::Malformed(error) => write!(f, "malformed body: {error}"),
            BodyError::TooLong => f.write_str("the body is longer than allowed"),
        }
    }
}

impl std::error::Error for BodyError {}

/// How the next connection learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// By its length, or by the end of the connection: the data alone is sent.
    Plain,
    /// In chunks, with the source's trailers if `trailers`.
    Chunked {
        /// Whether trailer fields are passed on.
        trailers: bool,
    },
}

#[derive(Debug)]
enum Reader {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Finished,
}

/// How much is left of a body that is forwarded as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlainLeft {
    /// This many bytes, at least one.
    Bytes(u64),
    /// Everything until the connection ends.
    UntilClose,
}

/// One body under way from one framing to another.
#[derive(Debug)]
pub(crate) struct BodyTranslator {
    reader: Reader,
    writer: Writer,
    /// Bytes taken, framing included.
    taken: u64,
    /// Bytes of the body itself.
    data: u64,
    data_max: u64,
}

/// No body, or one that has ended.
impl Default for BodyTranslator {
    fn default() -> Self {
        Self {
            reader: Reader::Finished,
            writer: Writer::Plain,
            taken: 0,
            data: 0,
            data_max: u64::MAX,
        }
    }
}

impl BodyTranslator {
    /// For a body that comes framed as `body`. `data_max` bounds its data in bytes, and `limits`
    /// its trailer section.
    pub(crate) fn new(body: Body, writer: Writer, data_max: u64, limits: &HeadLimits) -> Self {
        let reader = match body {
            Body::None | Body::Length(0) => Reader::Finished,
            Body::Length(length) => Reader::Length(length),
            Body::Chunked if writer == (Writer::Chunked { trailers: true }) => {
                Reader::Chunked(Decoder::new(limits))
            }
            Body::Chunked => Reader::Chunked(Decoder::without_trailers(limits)),
            Body::UntilClose => Reader::UntilClose,
        };
        Self {
            reader,
            writer,
            data_max,
            ..Self::default()
        }
    }

    /// For everything until the connection ends: one direction of a tunnel.
    pub(crate) fn tunnel() -> Self {
        Self {
            reader: Reader::UntilClose,
            ..Self::default()
        }
    }

    /// Reads chunks by this grammar instead of a request's.
    pub(crate) fn read_as(&mut self, grammar: Grammar) {
        if let Reader::Chunked(decoder) = &mut self.reader {
            decoder.read_as(grammar);
        }
    }

    /// Leaves out the trailer fields that the head's Connection fields name; `options` are the
    /// values of these fields.
    pub(crate) fn leave_out_trailers<'a>(&mut self, options: impl Iterator<Item = &'a [u8]>) {
        if let Reader::Chunked(decoder) = &mut self.reader {
            decoder.leave_out(options);
        }
    }

    /// Whether the body has been read to its end.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.reader, Reader::Finished)
    }

    /// Bytes taken so far, framing included.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Translates the part of the body at the front of `input` for the next connection and appends
    /// it to `out`, except that long plain data stays where it is and is returned as the second
    /// value, to be sent after `out`. The first value is how much of `input` was used.
    pub(crate) fn translate<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, &'a [u8]), BodyError> {
        let (used, plain): (usize, &[u8]) = match &mut self.reader {
            Reader::Finished => (0, &[]),
            Reader::Length(left) => {
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    self.reader = Reader::Finished;
                }
                (count, &input[..count])
            }
            Reader::UntilClose => (input.len(), input),
            Reader::Chunked(_) => (self.translate_chunks(input, out)?, &[]),
        };
        self.taken += used as u64;
        self.count_data(plain.len())?;
        match self.writer {
            Writer::Chunked { .. } => encode_chunk(plain, out),
            Writer::Plain if !out.is_empty() && plain.len() <= COPY_BYTES_MAX => {
                out.extend_from_slice(plain);
            }
            Writer::Plain => return Ok((used, plain)),
        }
        Ok((used, &[]))
    }

    fn count_data(&mut self, count: usize) -> Result<(), BodyError> {
        self.data += count as u64;
        if self.data > self.data_max {
            Err(BodyError::TooLong)
        } else {
            Ok(())
        }
    }

    fn translate_chunks(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BodyError> {
        let Reader::Chunked(decoder) = &mut self.reader else {
            return Ok(0);
        };
        let (mut used, mut data_count) = (0, 0);
        loop {
            match decoder
                .decode(&input[used..])
                .map_err(BodyError::Malformed)?
            {
                Step::Data { used: step, data } => {
                    used += step;
                    data_count += data.len();
                    match self.writer {
                        Writer::Plain => out.extend_from_slice(data),
                        Writer::Chunked { .. } => encode_chunk(data, out),
                    }
                }
                Step::More { used: step } => {
                    used += step;
                    break;
                }
                Step::End { used: step } => {
                    match self.writer {
                        Writer::Plain => {}
                        Writer::Chunked { trailers: true } => encode_end(decoder.trailers(), out),
                        Writer::Chunked { trailers: false } => encode_end(std::iter::empty(), out),
                    }
                    self.reader = Reader::Finished;
                    used += step;
                    break;
                }
            }
        }
        self.count_data(data_count)?;
        Ok(used)
    }

    /// The connection has ended, and the body too if it may end so. Appends the body's end to
    /// `out`.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        if !matches!(self.reader, Reader::UntilClose) {
            return Err(BodyError::BrokeOff);
        }
        self.reader = Reader::Finished;
        if let Writer::Chunked { .. } = self.writer {
            encode_end(std::iter::empty(), out);
        }
        Ok(())
    }

    /// How much is left, if it is forwarded as it is and need not pass through `translate`.
    pub(crate) fn plain_left(&self) -> Option<PlainLeft> {
        match (&self.reader, self.writer) {
            (Reader::Length(left), Writer::Plain) => Some(PlainLeft::Bytes(*left)),
            (Reader::UntilClose, Writer::Plain) => Some(PlainLeft::UntilClose),
            _ => None,
        }
    }

    /// Notes that `count` bytes of `plain_left` were moved without `translate`.
    pub(crate) fn passed(&mut self, count: usize) -> Result<(), BodyError> {
        debug_assert!(
            self.plain_left().is_some(),
            "only what is plain passes by itself"
        );
        self.taken += count as u64;
        if let Reader::Length(left) = &mut self.reader {
            debug_assert!(*left >= count as u64, "no more passes than is left");
            *left -= count as u64;
            if *left == 0 {
                self.reader = Reader::Finished;
            }
        }
        self.count_data(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        head_bytes_max: 1024,
        fields_max: 16,
    };

    /// Gives `input` in parts of `step` bytes, and what came out.
    fn run(mut body: BodyTranslator, input: &[u8], step: usize) -> Result<Vec<u8>, BodyError> {
        let (mut rest, mut here, mut all) = (input, 0, Vec::new());
        while !body.has_ended() {
            if here == rest.len() {
                body.end(&mut all)?;
                break;
            }
            here = rest.len().min(here + step);
            let mut out = Vec::new();
            let (used, plain) = body.translate(&rest[..here], &mut out)?;
            all.extend_from_slice(&out);
            all.extend_from_slice(plain);
            rest = &rest[used..];
            here -= used;
        }
        Ok(all)
    }

    #[test]
    fn chunks_are_decoded_and_encoded_again_or_sent_plain_to_an_old_client() {
        let sent = b"3;x=y\r\nabc\r\n0004\r\ndefg\r\n0\r\nA: b\r\n\r\n";
        for (writer, expected) in [
            (
                Writer::Chunked { trailers: true },
                &b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nA: b\r\n\r\n"[..],
            ),
            (
                Writer::Chunked { trailers: false },
                b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
            ),
            (Writer::Plain, b"abcdefg"),
        ] {
            let body = || BodyTranslator::new(Body::Chunked, writer, u64::MAX, &LIMITS);
            assert_eq!(run(body(), sent, sent.len()).unwrap(), expected);
            if writer == Writer::Plain {
                assert_eq!(run(body(), sent, 1).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_body_of_known_length_passes_in_parts_of_any_size_and_takes_no_more() {
        for length in [
            0,
            1,
            2,
            COPY_BYTES_MAX - 1,
            COPY_BYTES_MAX,
            COPY_BYTES_MAX + 1,
        ] {
            let input: Vec<u8> = (0..=250).cycle().take(length + 4).collect();
            for step in [1, 7, length + 4] {
                let body = Body::Length(length as u64);
                let body = BodyTranslator::new(body, Writer::Plain, u64::MAX, &LIMITS);
                assert_eq!(run(body, &input, step).unwrap(), &input[..length]);
            }
        }
    }

    #[test]
    fn a_body_until_close_is_chunked_and_ended_when_its_connection_ends() {
        let writer = Writer::Chunked { trailers: false };
        let body = BodyTranslator::new(Body::UntilClose, writer, u64::MAX, &LIMITS);
        assert_eq!(run(body, b"abc", 3).unwrap(), b"3\r\nabc\r\n0\r\n\r\n");
    }

    #[test]
    fn an_end_before_the_bodys_own_is_an_error() {
        for (body, sent) in [
            (Body::Length(5), &b"abc"[..]),
            (Body::Chunked, b"3\r\nabc\r\n0\r\n"),
        ] {
            let body = BodyTranslator::new(body, Writer::Plain, u64::MAX, &LIMITS);
            assert_eq!(run(body, sent, 3), Err(BodyError::BrokeOff));
        }
    }

    #[test]
    fn only_the_data_counts_against_the_limit() {
        let chunks = b"3;extension=long\r\nabc\r\n0\r\n\r\n";
        for (max, fits) in [(3, true), (2, false)] {
            for (body, sent) in [(Body::Chunked, &chunks[..]), (Body::UntilClose, b"abc")] {
                let body = BodyTranslator::new(body, Writer::Plain, max, &LIMITS);
                let result = run(body, sent, sent.len());
                assert_eq!(result.err(), (!fits).then_some(BodyError::TooLong), "{max}");
            }
        }
    }

    #[test]
    fn malformed_chunks_are_an_error() {
        let body = BodyTranslator::new(Body::Chunked, Writer::Plain, u64::MAX, &LIMITS);
        let result = run(body, b"3\r\nabcX\r\n", 10);
        assert!(matches!(result, Err(BodyError::Malformed(_))));
    }

    #[test]
    fn short_data_is_copied_behind_a_head_and_long_data_is_not() {
        for (length, copied) in [(COPY_BYTES_MAX, true), (COPY_BYTES_MAX + 1, false)] {
            let input = vec![b'a'; length];
            let body = Body::Length(length as u64);
            let mut body = BodyTranslator::new(body, Writer::Plain, u64::MAX, &LIMITS);
            let mut out = b"head".to_vec();
            let (used, plain) = body.translate(&input, &mut out).unwrap();
            assert_eq!(
                (used, plain.is_empty(), out.len() == 4),
                (length, copied, !copied)
            );
        }
    }

    #[test]
    fn what_passes_another_way_counts_as_if_it_were_translated() {
        let mut body = BodyTranslator::new(Body::Length(5), Writer::Plain, u64::MAX, &LIMITS);
        assert_eq!(body.plain_left(), Some(PlainLeft::Bytes(5)));
        body.passed(3).unwrap();
        assert_eq!(
            (body.taken(), body.plain_left()),
            (3, Some(PlainLeft::Bytes(2)))
        );
        body.passed(2).unwrap();
        assert!(body.has_ended() && body.plain_left().is_none());
        let mut body = BodyTranslator::new(Body::UntilClose, Writer::Plain, 4, &LIMITS);
        assert_eq!(body.plain_left(), Some(PlainLeft::UntilClose));
        body.passed(4).unwrap();
        assert_eq!(body.passed(1), Err(BodyError::TooLong));
        let chunked = Writer::Chunked { trailers: false };
        for (body, writer) in [(Body::Length(5), chunked), (Body::Chunked, Writer::Plain)] {
            let body = BodyTranslator::new(body, writer, u64::MAX, &LIMITS);
            assert_eq!(body.plain_left(), None);
        }
    }
}
