//! The request target and Host (RFC 9112 3.2): which of the four forms, whose authority, what is
//! asked of the backend.
//!
//! Path and query are never changed or decoded: they decide nothing here, so no two readers can
//! disagree about them, and a stray `%` in a URL is the origin's business. Checked is what ends a
//! line or names a host.
//!
//! Read next: `http/framing.rs`.

use crate::http::fields::table;
use crate::http::head::HeadError;
use std::net::Ipv6Addr;
use std::ops::Range;

/// A valid target. Ranges count from the target's first byte.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The authority of an absolute-form target.
    pub(crate) authority: Option<Range<usize>>,
    pub(crate) resource: Resource,
}

/// What the backend is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Path and query, as received.
    Path(Range<usize>),
    /// An absolute-form target without a path: `/` goes before this range, which is empty or a
    /// query.
    NoPath(Range<usize>),
    /// `OPTIONS *`, or `OPTIONS` with an absolute-form target that has neither path nor query (RFC
    /// 9112 3.2.4).
    Asterisk,
}

impl Target {
    /// Reads a target of visible ASCII characters.
    ///
    /// The grammar has no fragment in a target. If one comes, it is cut off, as nginx does: it is
    /// meant for the client, and a backend that never sees `#` cannot read it in its own way.
    pub(crate) fn read(method: &[u8], target: &[u8]) -> Result<Self, HeadError> {
        let end = target
            .iter()
            .position(|byte| *byte == b'#')
            .unwrap_or(target.len());
        if target.starts_with(b"/") {
            return Ok(Self {
                authority: None,
                resource: Resource::Path(0..end),
            });
        }
        if target == b"*" {
            return if method == b"OPTIONS" {
                Ok(Self {
                    authority: None,
                    resource: Resource::Asterisk,
                })
            } else {
                Err(HeadError::Malformed(
                    "asterisk target with a method other than OPTIONS",
                ))
            };
        }
        let Some(start) = after_scheme(target) else {
            return Err(HeadError::Malformed(
                "target is neither a path nor an http URL",
            ));
        };
        let authority_len = target[start..end]
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?'))
            .unwrap_or(end - start);
        let path = start + authority_len;
        if !is_authority(&target[start..path]) {
            return Err(HeadError::Malformed("invalid authority in the target"));
        }
        let resource = match target[path..end].first() {
            Some(b'/') => Resource::Path(path..end),
            None if method == b"OPTIONS" => Resource::Asterisk,
            _ => Resource::NoPath(path..end),
        };
        Ok(Self {
            authority: Some(start..path),
            resource,
        })
    }
}

/// Where the authority of an absolute URL begins. Schemes are compared without regard to case (RFC
/// 3986 3.1).
fn after_scheme(target: &[u8]) -> Option<usize> {
    [b"http://".as_slice(), b"https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(<[u8]>::len)
}

/// Whether `bytes` is `uri-host [":" port]` with a non-empty host (RFC 9110 4.2.1) and without
/// userinfo (RFC 9110 4.2.4). Of the IP literals only IPv6 addresses exist.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let (host, rest) = if let Some(inside) = bytes.strip_prefix(b"[") {
        let Some(end) = inside.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let (address, rest) = (&inside[..end], &inside[end + 1..]);
        let is_address = str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
        (is_address, rest)
    } else {
        let len = reg_name_len(bytes);
        (len > 0, &bytes[len..])
    };
    host && match rest.split_first() {
        None => true,
        Some((b':', port)) => is_port(port),
        Some(_) => false,
    }
}

/// How much of `bytes` is a reg-name (RFC 3986 3.2.2).
fn reg_name_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    loop {
        let is_plain = |byte: &&u8| REG_NAME[**byte as usize];
        len += bytes[len..].iter().take_while(is_plain).count();
        match bytes[len..] {
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                len += 3;
            }
            _ => return len,
        }
    }
}

/// Digits that make a port number; none at all is the default port (RFC 3986 3.2.3).
fn is_port(port: &[u8]) -> bool {
    let number = port.iter().try_fold(0_u16, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.is_some()
}

/// Unreserved characters and sub-delims.
const REG_NAME: [bool; 256] = table(b"-._~!$&'()*+,;=");
