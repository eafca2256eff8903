//! Where a body ends, decided once for both directions (RFC 9112 6.3).
//!
//! [`Framing`] gathers the framing fields and refuses ambiguous ones; [`Framing::body`] decides.
//!
//! Read next: `http/options.rs`.

use crate::http::Version;
use crate::http::fields::{is_tchar, is_token, members};
use crate::http::head::HeadError;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none, and no field says so.
    None,
    /// This many bytes, maybe zero.
    Length(u64),
    /// Chunks up to the last one and its trailer section.
    Chunked,
    /// Everything until the connection closes; responses only.
    UntilClose,
}

/// The direction of a body: a missing length means different things in each.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    Request,
    Response { status: u16, request_is_head: bool },
}

/// What the framing fields of one head say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    /// The value of Content-Length.
    pub(crate) length: Option<u64>,
    coding: Coding,
    unknown_coding: bool,
}

/// The list of transfer codings so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    None,
    /// Some, and the last was not `chunked`.
    Open,
    /// The last was `chunked`; nothing may follow.
    Chunked,
}

impl Framing {
    /// Takes the value of a Content-Length field. RFC 9112 6.3 step 5 and RFC 9110 8.6: a list or a
    /// repetition of the same number is that number (and is written once), everything else is
    /// unrecoverable. Some readers accept less of this; none that accepts it reads another number.
    pub(crate) fn add_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for member in members(value) {
            let length = decimal(member).ok_or(HeadError::Malformed("malformed Content-Length"))?;
            if self.length.is_some_and(|known| known != length) {
                return Err(HeadError::Malformed("differing Content-Length values"));
            }
            self.length = Some(length);
        }
        Ok(())
    }

    /// Takes the value of a Transfer-Encoding field (RFC 9112 6.1, 7). Several fields are one list.
    pub(crate) fn add_codings(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for member in members(value) {
            if self.coding == Coding::Chunked {
                return Err(HeadError::Malformed("a transfer coding after chunked"));
            }
            self.coding = if member.eq_ignore_ascii_case(b"chunked") {
                Coding::Chunked
            } else if is_coding(member) {
                self.unknown_coding = true;
                Coding::Open
            } else {
                return Err(HeadError::Malformed("malformed Transfer-Encoding"));
            };
        }
        Ok(())
    }

    /// Judges what only all fields together show. `version` is that of the message.
    pub(crate) fn check(&self, version: Version) -> Result<(), HeadError> {
        if self.coding == Coding::None {
            return Ok(());
        }
        // RFC 9112 6.1: either of the next two "ought to be handled as an error", or "as if the
        // framing is faulty".
        if self.length.is_some() {
            return Err(HeadError::Malformed(
                "Content-Length with Transfer-Encoding",
            ));
        }
        if version == Version::Http10 {
            return Err(HeadError::Malformed(
                "Transfer-Encoding in an HTTP/1.0 message",
            ));
        }
        if self.coding != Coding::Chunked {
            return Err(HeadError::Malformed(
                "the last transfer coding is not chunked",
            ));
        }
        if self.unknown_coding {
            return Err(HeadError::NotImplemented("unknown transfer coding"));
        }
        Ok(())
    }

    /// The steps of RFC 9112 6.3, for framing that passed [`Framing::check`].
    pub(crate) fn body(&self, message: Message) -> Body {
        // 1. A response to HEAD, and 1xx, 204 and 304, end with their head, whatever their fields
        //    say.
        if let Message::Response {
            status,
            request_is_head,
        } = message
            && (request_is_head || matches!(status, 100..=199 | 204 | 304))
        {
            return Body::None;
        }
        // 2. A 2xx response to CONNECT begins a tunnel: CONNECT is never forwarded.
        // 3. Transfer-Encoding with Content-Length: refused by `check`.
        // 4. Transfer-Encoding: the final coding is chunked, else `check` refused it, in responses
        //    too.
        if self.coding == Coding::Chunked {
            return Body::Chunked;
        }
        // 5. An invalid Content-Length: refused by `add_length`.
        // 6. A valid one.
        if let Some(length) = self.length {
            return Body::Length(length);
        }
        match message {
            // 7. A request without either has no body.
            Message::Request => Body::None,
            // 8. A response without either ends with its connection.
            Message::Response { .. } => Body::UntilClose,
        }
    }
}

/// `1*DIGIT` that fits in 64 bits: no sign, no white space, no other base.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// A coding other than plain `chunked`: a token, perhaps with parameters. `chunked` with parameters
/// is refused (RFC 9112 7.1 defines none and asks to treat them as an error), as are quoted
/// parameters, which no honest sender uses.
fn is_coding(member: &[u8]) -> bool {
    let name_len = member
        .iter()
        .position(|byte| !is_tchar(*byte))
        .unwrap_or(member.len());
    let (name, parameters) = member.split_at(name_len);
    let is_parameter_byte =
        |byte: &u8| is_tchar(*byte) || matches!(byte, b';' | b'=' | b' ' | b'\t');
    is_token(name)
        && !name.eq_ignore_ascii_case(b"chunked")
        && (parameters.is_empty()
            || crate::http::fields::trim(parameters).starts_with(b";")
                && parameters.iter().all(is_parameter_byte))
}
