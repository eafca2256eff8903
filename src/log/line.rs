//! One access line, as text or as JSON. Bytes from the network are escaped: a client cannot forge a
//! line.

use std::net::IpAddr;

use crate::text::escape::{escape_json, escape_text};
use crate::text::format::{write_address, write_decimal};
use crate::text::timestamp::{Clock, since_epoch};

/// How much of a request line is logged, before escaping.
const REQUEST_LINE_BYTES_MAX: usize = 2048;
/// The same for the backend's name, the request id and the reason.
const WORD_BYTES_MAX: usize = 128;
/// The same for each field of the request that a JSON line shows.
const FIELD_BYTES_MAX: usize = 1024;

/// One exchange, or what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessLine<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// As received; empty when none came.
    pub request_line: &'a [u8],
    /// The status sent to the client; 0 when none was.
    pub status: u16,
    /// Bytes sent to the client, head included.
    pub bytes_sent: u64,
    /// From the request's first byte to the last of the response, in microseconds; shown in
    /// milliseconds.
    pub total_us: u64,
    /// The backend's name; empty when none was chosen.
    pub backend: &'a str,
    /// The number of backends that it was sent to.
    pub tries: u32,
    /// Empty when there is none.
    pub request_id: &'a [u8],
    /// Why the exchange failed or was cut.
    pub reason: Option<&'static str>,
    /// What only a JSON line shows.
    pub details: Details<'a>,
}

/// What a JSON line shows besides. Fields are as received, and empty where there are none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Details<'a> {
    /// The authority that was asked.
    pub host: &'a [u8],
    /// User-Agent.
    pub user_agent: &'a [u8],
    /// Referer.
    pub referer: &'a [u8],
    /// Bytes received from the client, head included.
    pub bytes_received: u64,
    /// From the request's first byte to the head of the response that was forwarded, in
    /// microseconds.
    pub head_us: Option<u64>,
    /// In the queue, in microseconds.
    pub queued_us: Option<u64>,
    /// From the choice of the last backend to the end, in microseconds.
    pub backend_us: Option<u64>,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Fields separated by one space, the request line in quotes, `-` for what is missing.
    Text,
    /// A JSON object, `null` for what is missing.
    Json,
}

impl AccessLine<'_> {
    /// More bytes than the line can take in either format.
    pub(crate) fn bytes_max(&self) -> usize {
        // No byte becomes more than the six of `\u00HH`; all other fields and all names take less
        // than 600.
        let details = &self.details;
        let escaped = self.request_line().len()
            + bounded_word(self.backend.as_bytes()).len()
            + bounded_word(self.request_id).len()
            + bounded_word(self.reason.unwrap_or("").as_bytes()).len()
            + bounded_field(details.host).len()
            + bounded_field(details.user_agent).len()
            + bounded_field(details.referer).len();
        600 + 6 * escaped
    }

    /// Appends the line with its end and the present time.
    pub(crate) fn write(&self, format: Format, clock: &mut Clock, out: &mut Vec<u8>) {
        match format {
            Format::Text => self.write_text(clock, out),
            Format::Json => self.write_json(clock, out),
        }
    }

    fn write_text(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        clock.write(since_epoch(), out);
        out.push(b' ');
        write_address(self.client, out);
        if self.request_line.is_empty() {
            out.extend_from_slice(b" - ");
        } else {
            out.extend_from_slice(b" \"");
            escape_text(self.request_line(), out);
            out.extend_from_slice(b"\" ");
        }
        match self.status {
            0 => out.push(b'-'),
            status => write_decimal(status.into(), out),
        }
        out.push(b' ');
        write_decimal(self.bytes_sent, out);
        out.push(b' ');
        write_ms(self.total_us, out);
        out.push(b' ');
        text_word(self.backend.as_bytes(), out);
        out.push(b' ');
        write_decimal(self.tries.into(), out);
        out.push(b' ');
        text_word(self.request_id, out);
        match self.reason {
            None => out.extend_from_slice(b" -\n"),
            Some(reason) => {
                out.extend_from_slice(b" \"");
                escape_text(bounded_word(reason.as_bytes()), out);
                out.extend_from_slice(b"\"\n");
            }
        }
    }

    fn write_json(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        clock.write(since_epoch(), out);
        out.extend_from_slice(b"\",\"client\":\"");
        write_address(self.client, out);
        out.extend_from_slice(b"\",\"request\":");
        json_text(self.request_line(), out);
        out.extend_from_slice(b",\"status\":");
        match self.status {
            0 => out.extend_from_slice(b"null"),
            status => write_decimal(status.into(), out),
        }
        out.extend_from_slice(b",\"bytes_sent\":");
        write_decimal(self.bytes_sent, out);
        out.extend_from_slice(b",\"total_ms\":");
        write_ms(self.total_us, out);
        out.extend_from_slice(b",\"backend\":");
        json_text(bounded_word(self.backend.as_bytes()), out);
        out.extend_from_slice(b",\"tries\":");
        write_decimal(self.tries.into(), out);
        out.extend_from_slice(b",\"request_id\":");
        json_text(bounded_word(self.request_id), out);
        out.extend_from_slice(b",\"reason\":");
        json_text(bounded_word(self.reason.unwrap_or("").as_bytes()), out);
        self.details.write_json(out);
        out.extend_from_slice(b"}\n");
    }

    fn request_line(&self) -> &[u8] {
        &self.request_line[..self.request_line.len().min(REQUEST_LINE_BYTES_MAX)]
    }
}

impl Details<'_> {
    /// For a line of text.
    pub(crate) const NONE: Details<'static> = Details {
        host: b"",
        user_agent: b"",
        referer: b"",
        bytes_received: 0,
        head_us: None,
        queued_us: None,
        backend_us: None,
    };

    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"host\":");
        json_text(bounded_field(self.host), out);
        out.extend_from_slice(b",\"user_agent\":");
        json_text(bounded_field(self.user_agent), out);
        out.extend_from_slice(b",\"referer\":");
        json_text(bounded_field(self.referer), out);
        out.extend_from_slice(b",\"bytes_received\":");
        write_decimal(self.bytes_received, out);
        out.extend_from_slice(b",\"head_ms\":");
        json_ms(self.head_us, out);
        out.extend_from_slice(b",\"backend_ms\":");
        json_ms(self.backend_us, out);
        out.extend_from_slice(b",\"queued_ms\":");
        json_ms(self.queued_us, out);
    }
}

fn bounded_word(word: &[u8]) -> &[u8] {
    &word[..word.len().min(WORD_BYTES_MAX)]
}

fn bounded_field(value: &[u8]) -> &[u8] {
    &value[..value.len().min(FIELD_BYTES_MAX)]
}

/// Milliseconds with three decimals.
fn write_ms(us: u64, out: &mut Vec<u8>) {
    write_decimal(us / 1000, out);
    // The digits behind a 1, so that none of them is left out, and a point in its place.
    let point = out.len();
    write_decimal(1000 + us % 1000, out);
    out[point] = b'.';
}

fn json_ms(us: Option<u64>, out: &mut Vec<u8>) {
    match us {
        Some(us) => write_ms(us, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn text_word(word: &[u8], out: &mut Vec<u8>) {
    match word {
        b"" => out.push(b'-'),
        word => escape_text(bounded_word(word), out),
    }
}

fn json_text(text: &[u8], out: &mut Vec<u8>) {
    if text.is_empty() {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'"');
    escape_json(text, out);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: AccessLine<'static> = AccessLine {
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        request_line: b"GET /a HTTP/1.1",
        status: 200,
        bytes_sent: 1234,
        total_us: 5_007,
        backend: "localhost:8081",
        tries: 1,
        request_id: b"id-1",
        reason: None,
        details: Details::NONE,
    };

    fn text(format: Format, line: &AccessLine<'_>) -> String {
        let mut out = Vec::new();
        line.write(format, &mut Clock::new(), &mut out);
        assert!(
            out.len() <= line.bytes_max(),
            "{} > {}",
            out.len(),
            line.bytes_max()
        );
        String::from_utf8(out).unwrap()
    }

    const NOTHING: AccessLine<'static> = AccessLine {
        client: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        request_line: b"",
        status: 0,
        bytes_sent: 0,
        total_us: 0,
        backend: "",
        tries: 0,
        request_id: b"",
        reason: None,
        details: Details::NONE,
    };

    #[test]
    fn a_text_line_has_all_fields_in_order() {
        let line = text(Format::Text, &LINE);
        assert_eq!(
            &line[24..],
            " 127.0.0.1 \"GET /a HTTP/1.1\" 200 1234 5.007 localhost:8081 1 id-1 -\n"
        );
        assert!(line[..24].ends_with('Z'));
        assert_eq!(
            &text(Format::Text, &NOTHING)[24..],
            " ::1 - - 0 0.000 - 0 - -\n"
        );
    }

    #[test]
    fn a_json_line_has_the_same_fields() {
        let details = Details {
            host: b"shop.example:8080",
            user_agent: b"curl/8 \"x\"",
            referer: b"http://shop.example/",
            bytes_received: 321,
            head_us: Some(4_000),
            queued_us: Some(250),
            backend_us: Some(4_321),
        };
        let line = text(Format::Json, &AccessLine { details, ..LINE });
        let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let time = value["time"].take();
        assert_eq!(time.as_str().map(str::len), Some(24));
        assert_eq!(
            value,
            serde_json::json!({
                "time": null, "client": "127.0.0.1", "request": "GET /a HTTP/1.1", "status": 200, "bytes_sent": 1234,
                "total_ms": 5.007, "backend": "localhost:8081", "tries": 1, "request_id": "id-1", "reason": null,
                "host": "shop.example:8080", "user_agent": "curl/8 \"x\"", "referer": "http://shop.example/",
                "bytes_received": 321, "head_ms": 4.0, "backend_ms": 4.321, "queued_ms": 0.25
            })
        );
        let mut nothing: serde_json::Value =
            serde_json::from_str(&text(Format::Json, &NOTHING)).unwrap();
        nothing["time"].take();
        assert_eq!(
            nothing,
            serde_json::json!({
                "time": null, "client": "::1", "request": null, "status": null, "bytes_sent": 0, "total_ms": 0.0,
                "backend": null, "tries": 0, "request_id": null, "reason": null,
                "host": null, "user_agent": null, "referer": null, "bytes_received": 0, "head_ms": null, "backend_ms": null,
                "queued_ms": null
            })
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_a_field() {
        let line = AccessLine {
            request_line: b"GET /\" 200\r\n\x1b[2J\xff HTTP/1.1",
            request_id: b"a b\n",
            ..LINE
        };
        assert_eq!(
            &text(Format::Text, &line)[24..],
            " 127.0.0.1 \"GET /\\x22 200\\x0d\\x0a\\x1b[2J\\xff HTTP/1.1\" 200 1234 5.007 localhost:8081 1 a b\\x0a -\n"
        );
        let json = text(Format::Json, &line);
        assert_eq!(json.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["request"], "GET /\" 200\r\n\x1b[2J\u{ff} HTTP/1.1");
    }

    #[test]
    fn no_line_takes_more_than_was_asked_for() {
        let hostile = vec![0xff; 100_000];
        let name = "\u{7f}".repeat(1000);
        let line = AccessLine {
            client: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            request_line: &hostile,
            status: u16::MAX,
            bytes_sent: u64::MAX,
            total_us: u64::MAX,
            backend: &name,
            tries: u32::MAX,
            request_id: &hostile,
            reason: Some("its response head cannot be forwarded"),
            details: Details {
                host: &hostile,
                user_agent: &hostile,
                referer: &hostile,
                bytes_received: u64::MAX,
                head_us: Some(u64::MAX),
                queued_us: Some(u64::MAX),
                backend_us: Some(u64::MAX),
            },
        };
        assert_eq!(
            text(Format::Text, &line).matches("\\xff").count(),
            2048 + 128
        );
        assert_eq!(
            text(Format::Json, &line).matches("\\u00ff").count(),
            2048 + 128 + 3 * 1024
        );
        let empty = AccessLine {
            request_line: b"",
            backend: "",
            request_id: b"",
            ..line
        };
        text(Format::Text, &empty);
        text(Format::Json, &empty);
    }
}
