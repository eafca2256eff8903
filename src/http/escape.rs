//! Bytes from the network made safe for one line of a log.
//!
//! Whatever a peer sends, the result is printable ASCII without a quote or a backslash of the peer's own: it
//! cannot end the line, forge a field, or move a terminal's cursor. Every byte can be read back.

/// Appends `bytes` for a text log: `\xHH` stands for what is not printable ASCII, and for `"` and `\`.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, b"\\x", out);
}

/// Appends `bytes` as the inside of a JSON string: `\u00HH` stands for what is not printable ASCII, and for `"` and
/// `\`. A byte becomes the character of the same number (Latin-1), because not every byte string is UTF-8.
pub fn json(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, b"\\u00", out);
}

fn escape(bytes: &[u8], prefix: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(prefix);
        for nibble in [rest[at] >> 4, rest[at] & 0xf] {
            out.push(b"0123456789abcdef"[nibble as usize]);
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use crate::http::escape::*;

    fn escaped(how: fn(&[u8], &mut Vec<u8>), bytes: &[u8]) -> String {
        let mut out = Vec::new();
        how(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_client_cannot_forge_a_line() {
        let forged = b"GET /\" 200\r\n1.2.3.4 \x1b[2J\\ \xe9\x7f\0";
        let expected = r"GET /\x22 200\x0d\x0a1.2.3.4 \x1b[2J\x5c \xe9\x7f\x00";
        assert_eq!(escaped(text, forged), expected);
        assert_eq!(
            escaped(text, b"GET /plain?x=%22 HTTP/1.1"),
            "GET /plain?x=%22 HTTP/1.1"
        );
        assert_eq!(escaped(text, b""), "");
    }

    #[test]
    fn every_byte_survives_json() {
        let all: Vec<u8> = (0..=255).collect();
        let line = format!("\"{}\"", escaped(json, &all));
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: String = serde_json::from_str(&line).unwrap();
        assert!(read.chars().map(u32::from).eq(0..=255));
    }
}
