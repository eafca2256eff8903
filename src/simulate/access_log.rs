//! An access log of one's own as the load: when requests came, from which clients, and how long
//! backends worked on them.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use crate::config::document::{ConfigError, Details, Node, entries, text_of};
use crate::simulate::agenda::sorted;
use crate::simulate::numbers::{LONGEST_US, index};
use crate::simulate::scenario::decimal;

/// Requests of a log: of each some 50 bytes are kept.
const REQUESTS_MAX: usize = 1_000_000;
/// Bytes of a line: more than rondo writes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    /// In the order in which they came, the first at 0.
    pub(super) calls: Vec<Logged>,
    /// Each once.
    pub(super) clients: Vec<IpAddr>,
    /// Lines of requests that no backend had: rondo answered them itself.
    pub(super) left_out: usize,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged {
    pub(super) at_us: u64,
    /// Its place among the clients.
    pub(super) client: u32,
    pub(super) work_us: u32,
    /// Whether it may be sent again (RFC 9110 9.2.2).
    pub(super) is_idempotent: bool,
}

impl Log {
    /// Reads the log that a scenario names in `node`.
    #[inline(never)]
    pub(super) fn read(path: &Path, node: &Node<'_>) -> Result<Log, ConfigError> {
        let unreadable = |error: io::Error| node.error(format!("cannot be read: {error}"), "");
        let mut file = File::open(path).map_err(unreadable)?;
        let mut read: Vec<(IpAddr, Logged)> = Vec::new();
        let mut left_out = 0;
        let mut buffer = vec![0; LINE_BYTES_MAX];
        let (mut number, mut length) = (1, 0);
        loop {
            let count = file.read(&mut buffer[length..]).map_err(unreadable)?;
            length += count;
            let mut used = 0;
            for at in 0..length {
                // The last line may end with the file.
                if buffer[at] != b'\n' && (count > 0 || at + 1 < length) {
                    continue;
                }
                match read_line(&buffer[used..=at]) {
                    Some(Line::Request(client, call)) => read.push((client, call)),
                    Some(Line::LeftOut) => left_out += 1,
                    None => return Err(malformed(path, number)),
                }
                number += 1;
                used = at + 1;
            }
            buffer.copy_within(used..length, 0);
            length -= used;
            if length == buffer.len() {
                return Err(malformed(path, number));
            }
            if read.len() > REQUESTS_MAX {
                return Err(node.error("has more than 1000000 requests", "play a part of it"));
            }
            if count == 0 {
                break;
            }
        }
        if read.is_empty() {
            return Err(node.error("has no request that went to a backend", ""));
        }
        let mut clients: Vec<IpAddr> = Vec::new();
        for at in sorted(read.iter().map(|(client, _)| bits(*client))) {
            let (client, call) = &mut read[at as usize];
            if clients.last() != Some(client) {
                clients.push(*client);
            }
            call.client = index(clients.len() - 1);
        }
        // A line is written when its request ends.
        let order = sorted(read.iter().zip(0..).map(|((_, call), at)| [call.at_us, at]));
        let mut calls: Vec<Logged> = Vec::with_capacity(read.len());
        for at in order {
            calls.push(read[at as usize].1);
        }
        let first_us = calls[0].at_us;
        for call in &mut calls {
            call.at_us -= first_us;
        }
        Ok(Log {
            calls,
            clients,
            left_out,
        })
    }
}

fn malformed(path: &Path, line: usize) -> ConfigError {
    ConfigError::from(Details {
        file: path.display().to_string(),
        line,
        column: 1,
        path: String::new(),
        what: "is no line of rondo's JSON access log".to_owned(),
        hint: r#"it is written with "access_log": "json""#.to_owned(),
    })
}

/// An address as two numbers.
fn bits(address: IpAddr) -> [u64; 2] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
    .octets();
    let (halves, _) = octets.as_chunks::<8>();
    [u64::from_be_bytes(halves[0]), u64::from_be_bytes(halves[1])]
}

enum Line {
    /// Its time is since 1970.
    Request(IpAddr, Logged),
    /// No backend had it.
    LeftOut,
}

/// What a line says, if it is one of an access log.
#[inline(never)]
fn read_line(line: &[u8]) -> Option<Line> {
    let entries = entries(str::from_utf8(line).ok()?).ok()?;
    let find = |name: &str| {
        let mut found = entries
            .iter()
            .filter(|(key, _)| text_of(key).as_deref() == Some(name));
        found.next().map(|(_, value)| value.get())
    };
    let text = |name: &str| text_of(find(name)?);
    let time_us = 1000 * unix_ms(&text("time")?)?;
    let client = text("client")?.parse().ok()?;
    let total_us = decimal(find("total_ms")?, 1000)?;
    let took = find("backend_ms")?;
    if took == "null" {
        return Some(Line::LeftOut);
    }
    let work_us = decimal(took, 1000)?;
    let request = text("request").unwrap_or_default();
    let is_spent = ["POST ", "PATCH "]
        .iter()
        .any(|method| request.starts_with(method));
    let call = Logged {
        at_us: time_us.saturating_sub(total_us),
        client: 0,
        work_us: u32::try_from(work_us.min(LONGEST_US)).unwrap_or(u32::MAX),
        is_idempotent: !is_spent,
    };
    Some(Line::Request(client, call))
}

/// A time as the log writes it, `2026-07-27T10:00:00.123Z`, in milliseconds since 1970.
#[inline(never)]
fn unix_ms(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 24 || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = (days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second;
    Some(seconds * 1000 + number(20, 23)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let mut clock = crate::text::timestamp::Clock::new();
        for ms in [
            0,
            951_782_399_999,
            951_782_400_000,
            1_785_146_400_123,
            4_102_444_800_000,
        ] {
            let mut text = Vec::new();
            clock.write(std::time::Duration::from_millis(ms), &mut text);
            assert_eq!(unix_ms(str::from_utf8(&text).unwrap()), Some(ms));
        }
        for wrong in [
            "",
            "2026-13-27T10:00:00.123Z",
            "2026-07-27 10:00",
            "1969-12-31T23:59:59.999Z",
        ] {
            assert_eq!(unix_ms(wrong), None, "{wrong}");
        }
    }

    fn line(backend_ms: &str, request: &str) -> Option<Line> {
        let text = format!(
            "{{\"time\":\"1970-01-01T00:00:10.000Z\",\"client\":\"::1\",\"request\":{request},\
             \"status\":200,\"total_ms\":5.007,\"backend_ms\":{backend_ms}}}\n"
        );
        read_line(text.as_bytes())
    }

    #[test]
    fn a_line_is_a_request_if_a_backend_had_it() {
        for (request, is_idempotent) in [("GET / HTTP/1.1", true), ("POST / HTTP/1.1", false)] {
            let Some(Line::Request(client, call)) = line("4.5", &format!("{request:?}")) else {
                panic!("{request}");
            };
            assert!(client.is_ipv6() && call.is_idempotent == is_idempotent);
            assert_eq!((call.at_us, call.work_us), (9_994_993, 4500));
        }
        assert!(matches!(line("null", "null"), Some(Line::LeftOut)));
        assert!(line("-1", "null").is_none());
        for wrong in ["", "{}", "[]", "x", r#"{"time":1}"#] {
            assert!(read_line(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
