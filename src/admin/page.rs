//! The page: one file without anything from outside, and a plain table for browsers without JavaScript.
//!
//! The page lies in the program as it is sent, compressed: `page.html.gz` is one member of gzip (RFC 1952) with all of
//! page.html up to the table. Its compressed data end at a byte, so the table, which each request gets as it is then, is
//! appended as stored blocks (RFC 1951 3.2.4), and no compressor is needed. A client that takes no gzip, curl for one, gets
//! the table alone. `scripts/browser --policy` writes both files of the page.

use crate::admin::answer::Answer;
use crate::admin::status::{Overview, STATES, Standing, grouped};
use crate::text::escape::make_printable;

/// Ends with an empty last block of 5 bytes and the member's checksum and length.
const PAGE: &[u8] = include_bytes!("page.html.gz");
const LAST_BLOCK: usize = 5;
const TRAILER: usize = 8;
/// What follows the table in page.html.
const END: &str = "</div>\n</main>\n</body>\n</html>\n";
/// The whole page where there is no gzip.
const PLAIN: &str =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>rondo</title>\n";
/// A stored block has no more bytes.
const STORED_MAX: usize = 65_535;

/// Rows of the table.
const ROWS_MAX: usize = 1000;
const COLUMNS: [&str; 12] = [
    "Backend",
    "State",
    "Why",
    "Weight",
    "In flight",
    "Requests/s",
    "Share wanted %",
    "Share got %",
    "Failed 1 min",
    "p50 ms",
    "p99 ms",
    "Last check",
];

/// The answer to `GET /`.
#[inline(never)]
pub(crate) fn page(overview: &Overview<'_>, takes_gzip: bool) -> Answer {
    let table = table(overview);
    let (body, encoding) = if takes_gzip {
        (with_table(&(table + END)), "Content-Encoding: gzip\r\n")
    } else {
        ((PLAIN.to_owned() + &table + "\n").into_bytes(), "")
    };
    Answer::new(200, "text/html; charset=utf-8", body)
        .with(encoding)
        .with("Content-Security-Policy: ")
        .with(include_str!("page.csp").trim_ascii_end())
        .with("\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\nCross-Origin-Opener-Policy: same-origin\r\n")
}

/// The compressed page with this behind it.
#[inline(never)]
fn with_table(text: &str) -> Vec<u8> {
    let (front, end) = PAGE.split_at(PAGE.len() - LAST_BLOCK - TRAILER);
    let number = |at: usize| {
        let bytes = end[at..].first_chunk().copied().unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let mut out = front.to_vec();
    let mut blocks = text.as_bytes().chunks(STORED_MAX).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let checksum = crc(number(LAST_BLOCK), text.as_bytes());
    let length = number(LAST_BLOCK + 4).wrapping_add(u32::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out
}

/// The checksum of gzip (RFC 1952 8), continued over more bytes.
fn crc(before: u32, bytes: &[u8]) -> u32 {
    let step = |rest: u32, _| (rest >> 1) ^ ((rest & 1) * 0xedb8_8320);
    let add = |rest: u32, byte: &u8| (0..8).fold(rest ^ u32::from(*byte), step);
    !bytes.iter().fold(!before, add)
}

/// The table, those in trouble first.
#[inline(never)]
fn table(overview: &Overview<'_>) -> String {
    let mut out = String::from("<p>");
    write_escaped(&overview.summary(), &mut out);
    out.push_str("</p><table><thead><tr>");
    for column in COLUMNS {
        out = out + "<th scope=\"col\">" + column + "</th>";
    }
    out.push_str("</tr></thead><tbody>\n");
    let mut count = 0;
    for place in (0..STATES.len()).flat_map(|state| overview.places(state)) {
        count += 1;
        if count <= ROWS_MAX {
            write_row(&overview.standing(place), &mut out);
        }
    }
    out.push_str("</tbody></table>");
    if count > ROWS_MAX {
        let more = grouped((count - ROWS_MAX) as u64);
        out = out + "<p>and " + &more + " more</p>";
    }
    out
}

#[inline(never)]
fn write_row(standing: &Standing<'_>, out: &mut String) {
    let Standing {
        backend, recent, ..
    } = standing;
    let state = STATES[standing.state];
    for part in ["<tr class=\"", state, "\"><th scope=\"row\">"] {
        out.push_str(part);
    }
    write_escaped(&backend.name, out);
    out.push_str("</th>");
    write_cell(state, out);
    write_cell(standing.since.reason.get(), out);
    for number in [backend.settings.weight.into(), backend.in_flight() as u64] {
        write_cell(&number.to_string(), out);
    }
    write_tenths(Some(recent.rate_tenths), out);
    write_tenths(Some(u64::from(standing.share_wanted) / 100), out);
    write_tenths(standing.share_got.map(|share| share / 100), out);
    write_cell(&grouped(recent.failed), out);
    write_tenths(recent.head_p50_us.map(|us| us / 100), out);
    write_tenths(recent.head_p99_us.map(|us| us / 100), out);
    write_cell(
        standing
            .check
            .as_ref()
            .map_or("-", |check| check.reason.get()),
        out,
    );
    out.push_str("</tr>\n");
}

#[inline(never)]
fn write_cell(text: &str, out: &mut String) {
    out.push_str("<td>");
    write_escaped(text, out);
    out.push_str("</td>");
}

/// A number that is given in tenths.
#[inline(never)]
fn write_tenths(number: Option<u64>, out: &mut String) {
    let text = number.map(|number| format!("{}.{}", number / 10, number % 10));
    write_cell(text.as_deref().unwrap_or("-"), out);
}

/// Text that can be neither markup nor the end of an attribute, and that shows all its characters.
#[inline(never)]
fn write_escaped(text: &str, out: &mut String) {
    let mut plain = String::new();
    make_printable(text, &mut plain);
    for char in plain.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_gzip_and_goes_on() {
        // RFC 1952's polynomial: the check value of CRC-32/ISO-HDLC.
        assert_eq!(crc(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc(crc(0, b"1234"), b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn what_could_be_markup_is_text() {
        let mut out = String::new();
        write_escaped("<b onload='x'>\"&\u{202e}\n", &mut out);
        assert_eq!(out, "&lt;b onload=&#39;x&#39;&gt;&quot;&amp;\\u{202e}\\n");
    }
}
