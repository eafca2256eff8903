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
