//! The trailer section of a chunked body (RFC 9112 7.1.2): checked byte by byte as it comes, and
//! kept only for a client that accepts trailers. As strict as for a head, with the same limits: a
//! test holds the two to each other.
//!
//! Read next: `http/reply.rs`.

use crate::http::fields::{Known, is_tchar, members, trim};
use crate::http::forward::may_be_trailer;
use crate::http::head::{HEAD_BYTES_CEILING, HeadError, is_text};
use crate::http::{Grammar, HeadLimits, strict_reason};
use crate::net::room::make_room;

/// How many bytes of names are remembered of the trailer fields to leave out. Real heads name a
/// few; of a head with more, no trailer field is forwarded, as RFC 9110 6.5.1 allows.
pub(crate) const LEFT_OUT_BYTES_MAX: usize = 256;

/// A trailer section on its way.
#[derive(Debug)]
pub(crate) struct TrailerSection {
    /// Whether the receiver accepts trailer fields.
    is_wanted: bool,
    line: Line,
    /// What is wrong with the present line. Reported at the line's end: a head is judged in the
    /// same order.
    fault: Option<Fault>,
    fields_max: u16,
    /// Field lines so far.
    fields: u16,
    bytes_max: u32,
    /// Bytes of the section so far.
    length: u32,
    /// First the names of the fields to leave out, each with a comma behind it; then the section as
    /// received.
    kept: Vec<u8>,
    /// Bytes of the names.
    left_out: u16,
}

/// What may be wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    WhiteSpace,
    NoColon,
    NoName,
    InvalidName,
}

/// The state within a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Name,
    /// Behind the colon, or what stood in its place.
    Rest,
    /// After the CR of a line that is not empty.
    Lf,
    /// After the CR of the empty line.
    LastLf,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Fault::WhiteSpace => "white space before a field name",
            Fault::NoColon => "field line without a colon",
            Fault::NoName => "empty field name",
            Fault::InvalidName => "invalid field name",
        }
    }
}

impl TrailerSection {
    pub(crate) fn new(limits: &HeadLimits, is_wanted: bool) -> Self {
        let bytes_max = limits.head_bytes_max.min(HEAD_BYTES_CEILING);
        Self {
            is_wanted,
            line: Line::Start,
            fault: None,
            fields_max: limits.fields_max.try_into().unwrap_or(u16::MAX),
            fields: 0,
            bytes_max: bytes_max.try_into().unwrap_or(u32::MAX),
            length: 0,
            kept: Vec::new(),
            left_out: 0,
        }
    }

    /// Leaves out the fields that `options`, the values of the head's Connection fields, name (RFC
    /// 9110 7.6.1).
    pub(crate) fn leave_out<'a>(&mut self, options: impl Iterator<Item = &'a [u8]>) {
        for option in options {
            if self.kept.len() + option.len() + 1 > LEFT_OUT_BYTES_MAX {
                self.is_wanted = false;
                self.kept = Vec::new();
                return;
            }
            make_room(&mut self.kept, option.len() + 1, LEFT_OUT_BYTES_MAX);
            self.kept.extend_from_slice(option);
            self.kept.push(b',');
        }
        self.left_out = u16::try_from(self.kept.len()).unwrap_or(u16::MAX);
    }

    /// Takes the part of the section at the front of `input`; returns its length, and whether the
    /// section ends there.
    pub(crate) fn take(
        &mut self,
        input: &[u8],
        grammar: Grammar,
    ) -> Result<(usize, bool), HeadError> {
        let mut used = 0;
        let mut is_whole = false;
        for byte in input {
            is_whole = self.advance(*byte, grammar)?;
            used += 1;
            self.length += 1;
            if is_whole {
                break;
            }
            if self.length == self.bytes_max {
                return Err(HeadError::TooLong);
            }
        }
        if self.is_wanted {
            let bytes_max = usize::from(self.left_out) + self.bytes_max as usize;
            make_room(&mut self.kept, used, bytes_max);
            self.kept.extend_from_slice(&input[..used]);
        }
        Ok((used, is_whole))
    }

    /// Takes one byte; returns whether it is the last.
    fn advance(&mut self, byte: u8, grammar: Grammar) -> Result<bool, HeadError> {
        let is_lenient = grammar == Grammar::LenientResponse;
        self.line = match (self.line, byte) {
            (Line::LastLf, b'\n') => return Ok(true),
            (Line::Lf, b'\n') => self.end_line()?,
            (Line::Start, b'\n') if is_lenient => return Ok(true),
            (Line::Name, b'\n') if is_lenient => {
                self.faulty(Fault::NoColon, Line::Lf);
                self.end_line()?
            }
            (Line::Rest, b'\n') if is_lenient => self.end_line()?,
            (Line::Lf | Line::LastLf, _) => return Err(HeadError::Malformed("bare CR")),
            (Line::Start, b'\r') => Line::LastLf,
            (Line::Name, b'\r') => self.faulty(Fault::NoColon, Line::Lf),
            (Line::Rest, b'\r') => Line::Lf,
            (_, b'\n') => return Err(HeadError::Malformed(strict_reason!(grammar, "bare LF"))),
            _ if !is_text(byte) => return Err(HeadError::Malformed("control character")),
            (Line::Start, b' ' | b'\t') => self.faulty(Fault::WhiteSpace, Line::Rest),
            (Line::Start, b':') => self.faulty(Fault::NoName, Line::Rest),
            (Line::Name, b':') | (Line::Rest, _) => Line::Rest,
            (Line::Start | Line::Name, _) if is_tchar(byte) => Line::Name,
            (Line::Start | Line::Name, _) => self.faulty(Fault::InvalidName, Line::Rest),
        };
        Ok(false)
    }

    /// Acts on a complete line that is not empty.
    fn end_line(&mut self) -> Result<Line, HeadError> {
        if self.fields == self.fields_max {
            return Err(HeadError::TooManyFields);
        }
        if let Some(fault) = self.fault {
            return Err(HeadError::Malformed(fault.text()));
        }
        self.fields += 1;
        Ok(Line::Start)
    }

    fn faulty(&mut self, fault: Fault, line: Line) -> Line {
        self.fault = Some(fault);
        line
    }

    /// The fields that may be forwarded, once the section is complete: name, and trimmed value.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (left_out, mut lines) = self.kept.split_at(self.left_out.into());
        std::iter::from_fn(move || {
            let end = lines.iter().position(|byte| *byte == b'\n')?;
            let line = &lines[..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            lines = &lines[end + 1..];
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], trim(&line[colon + 1..])))
        })
        .filter(|(name, _)| {
            let is_named = |option: &[u8]| option.eq_ignore_ascii_case(name);
            may_be_trailer(Known::of(name), name) && !members(left_out).any(is_named)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{Lines, take_fields};
    use proptest::prelude::*;

    /// The section as a head is read.
    fn as_a_head(
        input: &[u8],
        limits: &HeadLimits,
        grammar: Grammar,
    ) -> Result<Option<usize>, HeadError> {
        let seen = &input[..input.len().min(limits.head_bytes_max)];
        match take_fields(
            &mut Lines::default(),
            &mut Vec::new(),
            seen,
            limits.fields_max,
            grammar,
        )? {
            None if seen.len() == limits.head_bytes_max => Err(HeadError::TooLong),
            end => Ok(end),
        }
    }

    proptest! {
        #[test]
        fn a_section_is_judged_as_a_head_is_however_it_is_cut(
            input in "(([a:\r\n \t\x01\u{e9}]|a: b|\r\n){0,12}(\r\n\r\n)?c?)",
            cut in 0_usize..40,
            is_lenient in any::<bool>(),
        ) {
            let grammar = if is_lenient { Grammar::LenientResponse } else { Grammar::Response };
            let input = input.as_bytes();
            let limits = HeadLimits { head_bytes_max: 24, fields_max: 3 };
            let mut section = TrailerSection::new(&limits, true);
            let (first, second) = input.split_at(cut.min(input.len()));
            let taken = section.take(first, grammar).and_then(|(used, is_whole)| {
                if is_whole {
                    return Ok((used, is_whole));
                }
                section.take(second, grammar).map(|(more, is_whole)| (used + more, is_whole))
            });
            let taken = taken.map(|(used, is_whole)| is_whole.then_some(used));
            prop_assert_eq!(taken, as_a_head(input, &limits, grammar));
        }
    }

    #[test]
    fn fields_are_given_as_received_but_for_the_white_space() {
        let limits = HeadLimits {
            head_bytes_max: 100,
            fields_max: 3,
        };
        let input = b"A:\t b c \r\nHost:\r\nEmpty: \r\n\r\nrest";
        let mut section = TrailerSection::new(&limits, true);
        assert_eq!(
            section.take(input, Grammar::Response),
            Ok((input.len() - 4, true))
        );
        let fields: Vec<_> = section.fields().collect();
        assert_eq!(
            fields,
            [(&b"A"[..], &b"b c"[..]), (b"Empty", b"")],
            "Host routes, and must not stand here"
        );
        let mut dropped = TrailerSection::new(&limits, false);
        assert_eq!(
            dropped.take(input, Grammar::Response),
            Ok((input.len() - 4, true))
        );
        assert_eq!(dropped.fields().count(), 0);
        assert_eq!(
            dropped.kept.capacity(),
            0,
            "a section that is not wanted takes no memory"
        );
    }
}
