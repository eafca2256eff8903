//! What came of a case at both ends, compared with what the case says. Bytes only.

use crate::corpus::lane::OK;
use kit::case::{Case, Outcome, escape, fill};
use kit::strict::{self, Message, Seen};
use std::ops::Range;

/// What the client got.
#[derive(Debug)]
pub(crate) struct AtClient {
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Each in canonical form, the last maybe only a part.
    pub(crate) responses: Vec<Vec<u8>>,
}

impl AtClient {
    /// Compares it with what the case expects; `id` is the id that the request went out with.
    pub(crate) fn check(&self, case: &Case, id: &[u8]) -> Result<(), String> {
        if !case.expect.contains(&self.outcomes) {
            let why = format!(
                "client should get {:?}, got {:?}",
                case.expect, self.outcomes
            );
            return Err(at(&why, "client got", &self.bytes));
        }
        let keeps_date = has_date(case.backend_response.as_deref().unwrap_or(OK));
        let mut responses = Vec::new();
        for response in &self.responses {
            let added = added_date(response);
            if is_final(response) && added.is_none() && !(keeps_date && has_date(response)) {
                return Err(at(
                    "a final response without a date",
                    "client got",
                    response,
                ));
            }
            responses.push(without(response, added.filter(|_| !keeps_date)));
        }
        let (Some(expected), false) = (
            &case.response,
            self.outcomes.last() == Some(&Outcome::Status(502)),
        ) else {
            return Ok(());
        };
        let expected = fill(expected, id, b"");
        let broken = matches!(self.outcomes.last(), Some(Outcome::Broken(_)));
        let (_, wanted) = interpret(&expected, &heads(case), !broken)
            .map_err(|e| format!("the case's own response: {e}"))?;
        // A body that breaks off may be cut anywhere; what came of it must be its beginning.
        let same = if broken {
            responses
                .last()
                .is_some_and(|last| is_cut_of(last, &expected))
        } else {
            wanted == responses
        };
        if same {
            return Ok(());
        }
        Err(format!(
            "  client should get\n    {}\n  client got\n    {}",
            escape(&expected),
            escape(&self.bytes)
        ))
    }
}

fn is_final(response: &[u8]) -> bool {
    !response.starts_with(b"HTTP/1.1 1")
}

/// Whether a Date field stands in the head.
fn has_date(response: &[u8]) -> bool {
    let head = response.split(|byte| *byte == b'\n');
    head.take_while(|line| line.len() > 1)
        .any(|line| line.to_ascii_lowercase().starts_with(b"date:"))
}

/// Where the Date line stands that rondo added to a head: the only one, in the one form that is sent.
fn added_date(response: &[u8]) -> Option<Range<usize>> {
    const FORM: &[u8] = b"Date: Aaa, 00 Aaa 0000 00:00:00 GMT\r\n";
    let head_bytes = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let fits = |line: &[u8]| {
        line.iter().zip(FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            b'A' => byte.is_ascii_uppercase(),
            b'a' => byte.is_ascii_lowercase() || form == byte,
            _ => byte == form,
        })
    };
    let lines = response[..head_bytes].windows(FORM.len());
    let mut places = lines.enumerate().filter(|(_, line)| fits(line));
    let (start, _) = places.next()?;
    places.next().is_none().then(|| start..start + FORM.len())
}

fn without(response: &[u8], part: Option<Range<usize>>) -> Vec<u8> {
    let part = part.unwrap_or(0..0);
    [&response[..part.start], &response[part.end..]].concat()
}

/// Whether both have the same head and the content of one begins that of the other.
fn is_cut_of(got: &[u8], whole: &[u8]) -> bool {
    let part = |bytes: &[u8]| match strict::response(bytes, false, false) {
        Ok(Seen::Part(Some(message)) | Seen::Whole(message)) => {
            Some((bytes[..message.head_bytes].to_vec(), message.content))
        }
        _ => None,
    };
    match (part(got), part(whole)) {
        (Some((head, content)), Some((whole_head, whole_content))) => {
            head == whole_head && whole_content.starts_with(&content)
        }
        _ => false,
    }
}

/// Nothing more is to come without our closing.
pub(crate) fn is_done(
    case: &Case,
    bytes: &[u8],
    outcomes: &[Outcome],
    responses: &[Vec<u8>],
) -> bool {
    if outcomes.last() == Some(&Outcome::Status(101)) {
        return case
            .response
            .as_ref()
            .is_none_or(|expected| bytes.len() >= expected.len());
    }
    let count = case.expect.iter().map(Vec::len).min().unwrap_or(0);
    let closes = responses.last().is_some_and(|last| {
        let Ok(Seen::Whole(message)) = strict::response(last, true, true) else {
            return false;
        };
        message.all("Connection").contains(&b"close".as_slice())
    });
    case.expect.iter().any(|expected| expected == outcomes) && responses.len() >= count && !closes
}

/// Cuts what a client got into responses: whole ones in canonical form, then what became of the last.
pub(crate) fn interpret(
    mut bytes: &[u8],
    heads: &[bool],
    ended: bool,
) -> Result<(Vec<Outcome>, Vec<Vec<u8>>), String> {
    let (mut outcomes, mut responses) = (Vec::new(), Vec::new());
    let mut finals = 0;
    while !bytes.is_empty() {
        let to_head = heads.get(finals).copied().unwrap_or(false);
        let mut seen = strict::response(bytes, to_head, ended)?;
        if let (Seen::Part(Some(message)), true) = (&seen, ended)
            && message.status() >= 400
            && message.content.is_empty()
        {
            // Our own answer to a HEAD whose request could not be read.
            seen = strict::response(bytes, true, ended)?;
        }
        match seen {
            Seen::Whole(message) => {
                outcomes.push(Outcome::Status(message.status()));
                responses.push(message.canonical(bytes, true));
                finals += usize::from(message.status() >= 200);
                bytes = &bytes[message.total_bytes..];
            }
            Seen::Part(Some(message)) => {
                if ended {
                    outcomes.push(Outcome::Broken(message.status()));
                }
                responses.push(message.canonical(bytes, false));
                return Ok((outcomes, responses));
            }
            Seen::Part(None) if ended => return Err("the connection ended inside a head".into()),
            Seen::Part(None) => return Ok((outcomes, responses)),
        }
    }
    if ended && outcomes.is_empty() {
        outcomes.push(Outcome::Closed);
    }
    Ok((outcomes, responses))
}

/// Which of the case's requests are HEAD: its responses have no body.
pub(crate) fn heads(case: &Case) -> Vec<bool> {
    let expected = case.backend_request.clone().unwrap_or_default();
    let mut heads: Vec<bool> = requests(&expected, case.opens_tunnel())
        .unwrap_or_default()
        .iter()
        .map(|request| request.starts_with(b"HEAD "))
        .collect();
    if heads.is_empty() {
        heads.push(case.request.starts_with(b"HEAD "));
    }
    heads
}

/// Every request in canonical form; the bytes of a tunnel belong to the request that opened it.
pub(crate) fn requests(mut bytes: &[u8], tunnel: bool) -> Result<Vec<Vec<u8>>, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        match strict::request(bytes)? {
            Seen::Whole(message) => {
                let end = if tunnel {
                    bytes.len()
                } else {
                    message.total_bytes
                };
                let mut request = message.canonical(bytes, true);
                request.extend_from_slice(&bytes[message.total_bytes..end]);
                requests.push(request);
                bytes = &bytes[end..];
            }
            Seen::Part(_) => return Err(at("an unfinished request", "", bytes)),
        }
    }
    Ok(requests)
}

/// `seen` begins the request `expected`, and does not end it.
pub(crate) fn is_beginning(seen: &[u8], expected: &[u8]) -> Result<(), String> {
    let no = |why: &str| {
        Err(format!(
            "  {why}: backend may see a beginning of\n    {}\n  backend saw\n    {}",
            escape(expected),
            escape(seen)
        ))
    };
    let part = |bytes: &[u8]| -> Result<Option<Message>, String> {
        match strict::request(bytes)? {
            Seen::Whole(message) => Ok(Some(message)),
            Seen::Part(message) => Ok(message),
        }
    };
    let Some(message) = part(seen)? else {
        return Ok(());
    };
    let Some(whole) = part(expected)? else {
        return no("nothing was to be forwarded");
    };
    if seen[..message.head_bytes] != expected[..whole.head_bytes] {
        return no("the head differs");
    }
    if !whole.content.starts_with(&message.content) {
        return no("the content differs");
    }
    Ok(())
}

pub(crate) fn request_id(request: &[u8]) -> Option<Vec<u8>> {
    match strict::request(request) {
        Ok(Seen::Whole(message) | Seen::Part(Some(message))) => {
            message.field("X-Request-Id").map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// Pipelined requests each have an id of their own, of which `fill` knows only the first: compared without them.
pub(crate) fn without_ids(requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if requests.len() < 2 {
        return requests.to_vec();
    }
    requests
        .iter()
        .map(|request| {
            request_id(request).map_or(request.clone(), |id| replace_once(request, &id, b"{id}"))
        })
        .collect()
}

pub(crate) fn ids_are_good(requests: &[Vec<u8>]) -> bool {
    let ids: Vec<Vec<u8>> = requests
        .iter()
        .filter_map(|request| request_id(request))
        .collect();
    let distinct = ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    ids.len() == requests.len()
        && distinct == ids.len()
        && ids
            .iter()
            .all(|id| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
}

fn replace_once(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    match bytes.windows(what.len()).rposition(|window| window == what) {
        Some(at) => [&bytes[..at], with, &bytes[at + what.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

pub(crate) fn at(why: &str, what: &str, bytes: &[u8]) -> String {
    format!("{why}\n  {what}\n    {}", escape(bytes))
}
