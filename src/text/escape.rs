//! Text from outside made safe for one line of a log or a terminal: a client cannot forge a line.

/// Appends bytes so that only printable ASCII remains: everything else, `"` and `\` become `\xHH`.
pub(crate) fn escape_text(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, b"\\x", out);
}

/// Appends bytes as the inside of a JSON string in printable ASCII: everything else, `"` and `\`
/// become `\u00HH`.
pub(crate) fn escape_json(bytes: &[u8], out: &mut Vec<u8>) {
    escape(bytes, b"\\u00", out);
}

/// The same text with everything escaped that could end or hide a part of a line. For text that
/// people wrote: letters of all languages stay.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    make_printable(text, &mut out);
    out
}

/// Appends what [`printable`] gives.
pub(crate) fn make_printable(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            // Harmless; escaping them again in a quotation would only make it unreadable.
            '"' | '\\' | '\'' => out.push(char),
            _ => out.extend(char.escape_debug()),
        }
    }
}

fn escape(bytes: &[u8], prefix: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    // Nearly always nothing needs escaping, and checking all bytes without a break takes a few
    // vector instructions.
    if bytes
        .iter()
        .fold(true, |plain, byte| plain & is_plain(*byte))
    {
        return out.extend_from_slice(bytes);
    }
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| !is_plain(*byte)) {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(prefix);
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_ascii_remains() {
        for (bytes, text, json) in [
            (&b""[..], "", ""),
            (b"GET / HTTP/1.1", "GET / HTTP/1.1", "GET / HTTP/1.1"),
            (b"\r\n", "\\x0d\\x0a", "\\u000d\\u000a"),
            (b"a\"b\\c", "a\\x22b\\x5cc", "a\\u0022b\\u005cc"),
            (
                b"\x00\x1b\x7f\x80\xff~ ",
                "\\x00\\x1b\\x7f\\x80\\xff~ ",
                "\\u0000\\u001b\\u007f\\u0080\\u00ff~ ",
            ),
        ] {
            let mut out = Vec::new();
            escape_text(bytes, &mut out);
            assert_eq!(out, text.as_bytes());
            out.clear();
            escape_json(bytes, &mut out);
            assert_eq!(out, json.as_bytes());
        }
    }

    #[test]
    fn every_byte_survives_a_json_reader() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut json = b"\"".to_vec();
        escape_json(&bytes, &mut json);
        json.push(b'"');
        let text: String = serde_json::from_slice(&json).unwrap();
        let read: Vec<u32> = text.chars().map(u32::from).collect();
        assert_eq!(read, (0..=255).collect::<Vec<u32>>());
    }

    #[test]
    fn printable_text_keeps_its_letters_and_loses_its_controls() {
        assert_eq!(printable("bücher \"x\" \\n 'y'"), "bücher \"x\" \\n 'y'");
        assert_eq!(printable("a\nb\r\0\x1b[1m"), "a\\nb\\r\\0\\u{1b}[1m");
        assert_eq!(printable("\u{2028}\u{202e}"), "\\u{2028}\\u{202e}");
    }
}
