//! Who may ask for what: each rule is there against a page in another tab, a name that was rebound to this machine, or a
//! stranger on the network.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::admin::answer::Answer;
use crate::admin::route::{self, Request, Wanted};
use crate::config::Admin as Settings;
use crate::http::RequestHead;

/// The request, if it may be answered; else the refusal.
#[inline(never)]
pub(crate) fn judge(head: &RequestHead, settings: &Settings) -> Result<Request, Answer> {
    let host = head.host().unwrap_or_default();
    if !is_own_host(host, &settings.hosts) {
        // A page of a name that points here (DNS rebinding) has that name in Host, whatever it sends.
        let error = "Host must be an address, localhost or one of admin.hosts";
        return Err(Answer::error(421, error));
    }
    let is_reading = matches!(head.method(), b"GET" | b"HEAD");
    if !is_reading && !fields(head, b"origin").all(|origin| is_of(origin, host)) {
        let error = "Origin is another site; changes are made from this interface's own page";
        return Err(Answer::error(403, error));
    }
    let wanted = route::find(head.method(), head.target());
    let is_open = match &wanted {
        _ if !is_reading => false,
        Ok(wanted) if wanted.is_for_probers() => true,
        _ => settings.address.ip().to_canonical().is_loopback(),
    };
    match &settings.token {
        Some(token) if !is_open && !has_token(head, token) => {
            // At the page a browser opens its own dialog; everywhere else the page asks.
            let challenge = match head.target() {
                b"/" if is_reading => {
                    "WWW-Authenticate: Basic realm=\"rondo\", charset=\"UTF-8\"\r\n"
                }
                _ => "WWW-Authenticate: Bearer\r\n",
            };
            return Err(Answer::error(401, "the token is missing or wrong").with(challenge));
        }
        None if matches!(head.method(), b"PUT" | b"DELETE") => {
            let error = "this needs admin.token in the configuration, and none is set";
            return Err(Answer::error(403, error));
        }
        _ => {}
    }
    let mut wanted = wanted?;
    if let Wanted::Page { takes_gzip } = &mut wanted {
        *takes_gzip = fields(head, b"accept-encoding").any(names_gzip);
    }
    Ok(Request {
        wanted,
        head_only: head.is_head(),
        body: Vec::new(),
    })
}

/// The values of a field.
fn fields<'a>(head: &'a RequestHead, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let fields = head.fields();
    fields.filter_map(move |(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
}

/// Whether a client takes gzip (RFC 9110 12.5.3).
fn names_gzip(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| {
        let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let is_refused = |part: &[u8]| {
            let quality = part.strip_prefix(b"q=0");
            quality.is_some_and(|rest| rest.iter().all(|byte| b".0".contains(byte)))
        };
        name.eq_ignore_ascii_case(b"gzip") && !parts.any(is_refused)
    })
}

/// Whether a Host field, which is valid, names this interface.
fn is_own_host(host: &[u8], hosts: &[String]) -> bool {
    let Ok(host) = str::from_utf8(host) else {
        return false;
    };
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = host.split(':').next().unwrap_or_default();
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether an origin is the one that `host` is the authority of. In front of the interface there may be TLS.
fn is_of(origin: &[u8], host: &[u8]) -> bool {
    let schemes = [&b"http://"[..], b"https://"];
    let authority = schemes
        .iter()
        .find_map(|scheme| origin.strip_prefix(*scheme));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether the one Authorization field brings the token: as `Bearer`, or as the password of `Basic`.
#[inline(never)]
fn has_token(head: &RequestHead, token: &str) -> bool {
    let mut values = fields(head, b"authorization");
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some(at) = value.iter().position(|byte| *byte == b' ') else {
        return false;
    };
    let (scheme, credentials) = (&value[..at], value[at..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return is_same(credentials, token.as_bytes());
    }
    let basic = decoded(credentials).filter(|_| scheme.eq_ignore_ascii_case(b"basic"));
    let password = basic.as_deref().and_then(|pair| {
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Some(&pair[colon + 1..])
    });
    password.is_some_and(|password| is_same(password, token.as_bytes()))
}

/// Compares in a time that depends on the length of what was sent only, not on how much of it is right.
fn is_same(sent: &[u8], token: &[u8]) -> bool {
    let pairs = sent.iter().zip(token.iter().cycle());
    let differences = pairs.fold(0, |all, (one, other)| black_box(all | (one ^ other)));
    differences == 0 && sent.len() == token.len()
}

/// Base64 (RFC 4648 4), with or without its padding.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text
        .trim_ascii_end()
        .iter()
        .take_while(|byte| **byte != b'=')
    {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}
