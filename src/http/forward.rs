//! What a proxy changes: the received head is never edited, a new one is written from it.
//!
//! The two tables, `request_rule` and `response_rule`, decide about each field that we know; all
//! others pass, in order and as received, unless the message's own Connection field names them.
//!
//! Read next: `http/body.rs`.

use crate::http::fields::{Field, Known};
use crate::http::framing::Body;
use crate::http::head::Head;
use crate::http::{HeadLimits, RequestHead, ResponseHead, Scheme, Version};
use crate::text::format::{write_address, write_decimal};
use std::net::IpAddr;

/// What is known about a request beyond its head.
#[derive(Clone, Copy, Debug)]
pub struct RequestForwarding<'a> {
    /// The peer's address, to be added to X-Forwarded-For.
    pub peer: IpAddr,
    /// Whether the peer's own X-Forwarded-*, Forwarded and X-Real-IP are trusted.
    pub trusted: bool,
    /// For X-Forwarded-Proto, unless the peer has set it.
    pub scheme: Scheme,
    /// Whether to add Via.
    pub via: bool,
    /// Put before the path; without a final slash.
    pub base_path: &'a [u8],
    /// The backend's authority, for HTTP/1.0 requests without Host.
    pub authority: &'a [u8],
    /// Written unless the client sent the same one.
    pub request_id: &'a [u8],
}

/// The most that is written beside the received fields: our own fields with their values, without a
/// host and a base path.
const ADDED_BYTES_MAX: usize = 1024;

/// The longest head that [`write_request`] makes of one within `limits`: the host is written twice,
/// and a space after each colon.
pub(crate) fn request_bytes_max(limits: &HeadLimits, base_path: usize) -> usize {
    2 * limits.head_bytes_max + limits.fields_max + base_path + ADDED_BYTES_MAX
}

/// The longest head that [`write_response`] makes of one within `limits`: a line that ended in LF
/// alone now ends in CRLF.
pub(crate) fn response_bytes_max(limits: &HeadLimits) -> usize {
    limits.head_bytes_max + 2 * limits.fields_max + ADDED_BYTES_MAX
}

/// What is known about a response beyond its head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseForwarding<'a> {
    /// How the body is delimited towards the client.
    pub body: Body,
    /// Forward Content-Length although there is no body (HEAD, 304).
    pub keep_length_field: bool,
    /// What becomes of the client's connection.
    pub connection: ClientConnection,
    /// The value of a Set-Cookie field to add.
    pub set_cookie: Option<&'a [u8]>,
    /// The value of a Date field to add if there is none ([`ResponseHead::has_date`]).
    pub date: Option<&'a [u8]>,
    /// Whether trailer fields will be forwarded; if not, their announcement (Trailer) is dropped
    /// too.
    pub trailers: bool,
}

/// What a response tells the client about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientConnection {
    /// It persists, as is the default in HTTP/1.1: nothing is written.
    KeepAlive,
    /// It persists and an HTTP/1.0 client must be told.
    KeepAliveExplicit,
    /// It will be closed.
    Close,
    /// It becomes a tunnel (101); the Upgrade field is the backend's.
    Upgrade,
}

/// The rule for a received field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Passes unless Connection names it.
    Pass,
    /// Kept even if Connection names it, so that a client cannot strip fields added by us or by
    /// earlier proxies.
    Keep,
    /// Dropped, or rewritten by us.
    Drop,
}

#[expect(
    clippy::match_same_arms,
    reason = "a table: each line has its own clause"
)]
fn request_rule(field: &Field, head: &RequestHead, how: &RequestForwarding<'_>) -> Rule {
    let when = |keep: bool| if keep { Rule::Keep } else { Rule::Drop };
    match field.known {
        // RFC 9112 3.2: written first, from the target or from this field.
        Known::Host => Rule::Drop,
        // RFC 9112 6: rewritten from the body's framing.
        Known::ContentLength | Known::TransferEncoding => Rule::Drop,
        // RFC 9110 7.6.1: fields of one connection.
        Known::Connection | Known::ProxyConnection | Known::KeepAlive => Rule::Drop,
        // RFC 9110 10.1.4, 7.8: the same; rewritten if the client means them.
        Known::Te | Known::Upgrade => Rule::Drop,
        // RFC 9110 6.6.2: announces trailer fields, which requests lose here.
        Known::Trailer => Rule::Drop,
        // RFC 7540 3.2.1 (gone in RFC 9113): only with the h2c upgrade that is never forwarded.
        Known::Http2Settings => Rule::Drop,
        // RFC 9110 11.7.2: credentials for the next proxy, which is us; no backend's business.
        Known::ProxyAuthorization | Known::ProxyAuthenticate | Known::ProxyAuthenticationInfo => {
            Rule::Drop
        }
        // RFC 9110 10.1.1: without meaning in HTTP/1.0, but not in the HTTP/1.1 that we write.
        Known::Expect => when(head.version() == Version::Http11),
        // RFC 9110 7.6.3: the hops before us.
        Known::Via => Rule::Keep,
        // RFC 9110 7.6.2: counted down if it applies.
        Known::MaxForwards if head.max_forwards().is_some() => Rule::Keep,
        // Replaced unless it is the id that we would write.
        Known::XRequestId => when(head.request_id() == Some(how.request_id)),
        // RFC 7239 8.1: only from trusted peers. X-Forwarded-For is rewritten, longer.
        Known::XForwardedFor | Known::XForwardedDisguised => Rule::Drop,
        Known::Forwarded
        | Known::XForwardedHost
        | Known::XForwardedProto
        | Known::XForwardedOther => when(how.trusted),
        Known::Cookie | Known::Date | Known::MaxForwards | Known::Other => Rule::Pass,
    }
}

#[expect(
    clippy::match_same_arms,
    reason = "a table: each line has its own clause"
)]
fn response_rule(field: &Field, trailers: bool) -> Rule {
    match field.known {
        // RFC 9112 6: rewritten from the body's framing.
        Known::ContentLength | Known::TransferEncoding => Rule::Drop,
        // RFC 9110 7.6.1 and 7.8: fields of one connection; Upgrade is rewritten in a 101.
        Known::Connection
        | Known::ProxyConnection
        | Known::KeepAlive
        | Known::Te
        | Known::Upgrade
        | Known::Http2Settings => Rule::Drop,
        // RFC 9110 11.7: between a proxy and its client.
        Known::ProxyAuthenticate | Known::ProxyAuthorization | Known::ProxyAuthenticationInfo => {
            Rule::Drop
        }
        // RFC 9110 6.6.2: an announcement of trailer fields holds only if they are forwarded.
        Known::Trailer if !trailers => Rule::Drop,
        // RFC 9110 7.6.3: the hops before us.
        Known::Via => Rule::Keep,
        _ => Rule::Pass,
    }
}

/// Whether we may write a field in a trailer section (RFC 9110 6.5.1): not if it belongs to the
/// connection or the framing, routes, authenticates, modifies the request, controls caches, or says
/// how to read the content.
pub(crate) fn may_be_trailer(known: Known, name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 30] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-location",
        "content-range",
        "content-type",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-status",
        "range",
        "retry-after",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "vary",
        "warning",
        "www-authenticate",
        "authentication-info",
        "clear-site-data",
        "content-security-policy",
        "alt-svc",
    ];
    known == Known::Other
        && !FORBIDDEN
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// Appends the head of the backend request. It is HTTP/1.1 whatever the client spoke.
pub fn write_request(head: &RequestHead, how: &RequestForwarding<'_>, out: &mut Vec<u8>) {
    let received = head.complete();
    out.reserve(received.bytes.len() + 256);

    out.extend_from_slice(head.method());
    out.push(b' ');
    if !how.base_path.is_empty() && head.target() != b"*" {
        out.extend_from_slice(how.base_path);
    }
    out.extend_from_slice(head.target());
    let host = head.host().unwrap_or(how.authority);
    write_line(b" HTTP/1.1\r\nHost: ", host, out);

    let (mut has_host, mut has_proto, mut has_id) = (false, false, false);
    for field in &received.fields {
        match request_rule(field, head, how) {
            Rule::Drop => continue,
            Rule::Pass if field.named_by_connection => continue,
            Rule::Pass | Rule::Keep => {}
        }
        match field.known {
            Known::XForwardedHost => has_host = true,
            Known::XForwardedProto => has_proto = true,
            Known::XRequestId => has_id = true,
            Known::MaxForwards => {
                if let Some(left) = head.max_forwards() {
                    out.extend_from_slice(b"Max-Forwards: ");
                    write_decimal(left.saturating_sub(1), out);
                    out.extend_from_slice(b"\r\n");
                    continue;
                }
            }
            _ => {}
        }
        pass_on(received, *field, out);
    }

    write_framing(head.body(), out);
    write_forwarded_for(head, how, out);
    if !has_proto {
        let line: &[u8] = match how.scheme {
            Scheme::Http => b"X-Forwarded-Proto: http\r\n",
            Scheme::Https => b"X-Forwarded-Proto: https\r\n",
        };
        out.extend_from_slice(line);
    }
    if let Some(host) = head.host().filter(|_| !has_host) {
        write_line(b"X-Forwarded-Host: ", host, out);
    }
    if how.via {
        // RFC 9110 7.6.3: the version in which we received the request.
        let via: &[u8] = if head.version() == Version::Http10 {
            b"Via: 1.0 rondo\r\n"
        } else {
            b"Via: 1.1 rondo\r\n"
        };
        out.extend_from_slice(via);
    }
    if !has_id {
        write_line(b"X-Request-Id: ", how.request_id, out);
    }
    write_request_connection(head, out);
    out.extend_from_slice(b"\r\n");
}

/// One field of all that came (RFC 9110 5.3 lets lists be combined), with the peer at the end.
fn write_forwarded_for(head: &RequestHead, how: &RequestForwarding<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if how.trusted {
        for value in head
            .values(Known::XForwardedFor)
            .filter(|value| !value.is_empty())
        {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    write_address(how.peer.to_canonical(), out);
    out.extend_from_slice(b"\r\n");
}

/// TE and Upgrade with the Connection field that they need (RFC 9110 10.1.4, 7.8). A connection
/// that merely persists needs none.
fn write_request_connection(head: &RequestHead, out: &mut Vec<u8>) {
    let connection: &[u8] = match (head.accepts_trailers(), head.upgrade()) {
        (false, false) => return,
        (true, false) => b"TE",
        (false, true) => b"Upgrade",
        (true, true) => b"TE, Upgrade",
    };
    write_field(b"Connection", connection, out);
    if head.accepts_trailers() {
        // We could forward none of the codings that TE may list.
        write_field(b"TE", b"trailers", out);
    }
    if head.upgrade() {
        write_upgrade(head.offered_protocols(), out);
    }
}

/// Appends the head of the response for the client. It is HTTP/1.1 whatever the backend spoke (RFC
/// 9110 2.5).
pub fn write_response(head: &ResponseHead, how: &ResponseForwarding<'_>, out: &mut Vec<u8>) {
    write_status_line_and_fields(head, how.trailers, out);
    if let Some(date) = how.date {
        write_line(b"Date: ", date, out);
    }
    match how.body {
        Body::None if how.keep_length_field => {
            // RFC 9110 8.6: it is the length that a GET would have; 1xx and 204 must not have one.
            let allowed = !matches!(head.status(), 100..=199 | 204);
            if let Some(length) = head.content_length().filter(|_| allowed) {
                write_framing(Body::Length(length), out);
            }
        }
        body => write_framing(body, out),
    }
    write_response_connection(head, how.connection, out);
    if let Some(cookie) = how.set_cookie {
        write_field(b"Set-Cookie", cookie, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends an interim response (1xx except 101) for the client. It has no body and no framing (RFC
/// 9110 15.2, 8.6).
pub fn write_interim(head: &ResponseHead, out: &mut Vec<u8>) {
    write_status_line_and_fields(head, false, out);
    out.extend_from_slice(b"\r\n");
}

/// Connection, and Upgrade where it is needed: in a 101, and in a 426 (RFC 9110 15.5.22), which
/// names the protocols that the server wants.
fn write_response_connection(head: &ResponseHead, connection: ClientConnection, out: &mut Vec<u8>) {
    let upgrades = connection == ClientConnection::Upgrade
        || head.status() == 426 && head.offered_protocols().next().is_some();
    let options: &[u8] = match (connection, upgrades) {
        (ClientConnection::KeepAlive, false) => return,
        (ClientConnection::KeepAlive | ClientConnection::Upgrade, _) => b"Upgrade",
        (ClientConnection::KeepAliveExplicit, false) => b"keep-alive",
        (ClientConnection::KeepAliveExplicit, true) => b"keep-alive, Upgrade",
        (ClientConnection::Close, false) => b"close",
        (ClientConnection::Close, true) => b"close, Upgrade",
    };
    write_field(b"Connection", options, out);
    if upgrades {
        write_upgrade(head.offered_protocols(), out);
    }
}

fn write_upgrade<'a>(protocols: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Upgrade: ");
    for (i, protocol) in protocols.enumerate() {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(protocol);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_status_line_and_fields(head: &ResponseHead, trailers: bool, out: &mut Vec<u8>) {
    let received = head.complete();
    out.reserve(received.bytes.len() + 128);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(head.status().into(), out);
    // RFC 9112 4: the space stays even before an empty reason phrase.
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    for field in &received.fields {
        match response_rule(field, trailers) {
            Rule::Drop => continue,
            Rule::Pass if field.named_by_connection => continue,
            Rule::Pass | Rule::Keep => {}
        }
        pass_on(received, *field, out);
    }
}

fn write_framing(body: Body, out: &mut Vec<u8>) {
    match body {
        Body::None | Body::UntilClose => {}
        Body::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// Writes a received field. Nearly every line has the form that we write, so its bytes are copied
/// as they are, at a third of the cost of composing them.
fn pass_on(received: &Head, field: Field, out: &mut Vec<u8>) {
    let bytes = &received.bytes;
    let (start, name_end) = (field.name.start(), field.name.end());
    let (value_start, end) = (field.value.start(), field.value.end());
    let is_plain = value_start == name_end + 2
        && bytes.get(name_end..value_start) == Some(b": ")
        && bytes.get(end..end + 2) == Some(b"\r\n");
    if is_plain {
        out.extend_from_slice(&bytes[start..end + 2]);
    } else {
        write_field(field.name.of(bytes), field.value.of(bytes), out);
    }
}

/// A line, from what it begins with on.
fn write_line(begin: &[u8], end: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(begin);
    out.extend_from_slice(end);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
