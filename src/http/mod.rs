//! HTTP/1.1 as bytes in and values out: no socket, no clock, no thread.
//!
//! rondo stands between two strangers who read the same bytes, so this folder has one rule: what
//! two readers could take for different messages is refused, and everything sent is rewritten from
//! what was understood. RFC 9110 (semantics) and RFC 9112 (HTTP/1.1) are cited by section.
//!
//! Read next: `http/head.rs` (how a head is taken from a stream), then `fields`, `target`,
//! `framing` (where a body ends), `options`, `request`, `response`, `forwarded` (who the client
//! is), [`forward`] (what a proxy changes), `body` (a body under way), [`chunked`], `trailers` and
//! [`reply`].
//!
//! The caller owns the buffers. A [`RequestHead`] or [`ResponseHead`] keeps a copy of its head, so
//! that the buffer may move on and the head can be written again for another backend; the copy's
//! memory is reused for the next head, so that nothing is allocated once a connection is warm.

pub(crate) mod body;
pub mod chunked;
mod fields;
pub mod forward;
pub(crate) mod forwarded;
mod framing;
pub(crate) mod head;
mod options;
pub mod reply;
mod request;
mod response;
mod target;
mod trailers;

pub use chunked::{ChunkError, Decoder, Step, encode_chunk, encode_end};
pub use forward::{
    ClientConnection, RequestForwarding, ResponseForwarding, write_interim, write_request,
    write_response,
};
pub use framing::Body;
pub use head::{HEAD_BYTES_CEILING, HeadError};
pub use reply::{CONTINUE, Reply, write_reply};
pub use request::RequestHead;
pub use response::ResponseHead;
pub(crate) use target::is_authority;

/// The protocol version of a message, as far as it matters: a higher minor version than 1 is read
/// as 1 (RFC 9110 2.5: it promises to be compatible), another major version is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: not persistent unless asked for, no transfer codings, no interim responses.
    Http10,
    /// HTTP/1.1 to HTTP/1.9.
    #[default]
    Http11,
}

/// Whose message is read, and how strictly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// A client's: strictly.
    Request,
    /// A backend's: strictly too; the reason for a refusal says where `backends[].lenient` would
    /// help.
    Response,
    /// A backend's with `lenient`: a line may end in LF alone, and empty lines before the status
    /// line and white space behind a chunk size are allowed. RFC 9112 2.2 lets a recipient take the
    /// first two, and none of this moves the end of a message; all of it is rewritten.
    LenientResponse,
}

/// The reason for refusing what a lenient reader would take.
macro_rules! strict_reason {
    ($grammar:expr, $reason:literal) => {
        if $grammar == crate::http::Grammar::Response {
            concat!($reason, " (backends[].lenient would accept it)")
        } else {
            $reason
        }
    };
}
pub(crate) use strict_reason;

/// The client's scheme, perhaps towards a proxy before us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As a proxy names it; for a WebSocket some write `wss`.
    pub(crate) fn of(name: &[u8]) -> Self {
        if name.eq_ignore_ascii_case(b"https") || name.eq_ignore_ascii_case(b"wss") {
            Self::Https
        } else {
            Self::Http
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How large one head, or one trailer section, may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes from the first of the first line to the last of the empty line; more than
    /// [`HEAD_BYTES_CEILING`] counts as that.
    pub head_bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
}

impl HeadLimits {
    /// With this many bytes of input a head is complete or refused, including empty lines before
    /// it.
    pub(crate) fn input_bytes_max(&self) -> usize {
        self.head_bytes_max.min(HEAD_BYTES_CEILING) + head::EMPTY_LINES_BYTES_MAX
    }

    /// The memory of a head, its list of fields included.
    pub(crate) fn kept_bytes_max(&self) -> usize {
        self.input_bytes_max() + self.fields_max * size_of::<fields::Field>()
    }
}

#[cfg(test)]
mod properties;
