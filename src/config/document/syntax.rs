//! Text that is no JSON: where it is wrong, and what its author probably meant.

use crate::config::document::comments::string_length;
use crate::config::document::place;

/// The offset of what is wrong, what it is, and a hint.
pub(super) fn explain(text: &str, error: &serde_json::Error) -> (usize, String, String) {
    if let Some(format) = other_format(text) {
        return (
            text.len() - text.trim_ascii_start().len(),
            format!("not valid JSON: this looks like {format}"),
            r#"write it as JSON, such as {"proxy": {"port": 8080}, "backends": [{"url": "http://127.0.0.1:8081"}]}"#.to_owned(),
        );
    }
    if error.is_eof() {
        let offset = text.trim_ascii_end().len();
        let (what, hint) = match open_before(text, offset) {
            Some((opening, closing)) => (
                format!(
                    "the file ends before the {} is closed",
                    shown(text, opening)
                ),
                format!("add {closing}"),
            ),
            None => (reason(error), String::new()),
        };
        return (offset, format!("not valid JSON: {what}"), hint);
    }
    let offset = offset_of(text, error);
    let hint = hint(text, offset);
    (offset, format!("not valid JSON: {}", reason(error)), hint)
}

/// The reason of `serde_json`, without the place.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => message,
    }
}

/// `serde_json` counts columns in bytes, and from 0 only where a line has not begun.
fn offset_of(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line_begin: usize = text
        .split_inclusive('\n')
        .take(lines_before)
        .map(str::len)
        .sum();
    let mut offset = (line_begin + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn hint(text: &str, offset: usize) -> String {
    let open = open_before(text, offset);
    match text.as_bytes().get(offset) {
        Some(b'/' | b'#') => "a comment begins with //, or stands between /* and */".to_owned(),
        Some(b'\'') => "JSON strings stand in double quotes".to_owned(),
        Some(b'}' | b']') if text[..offset].trim_ascii_end().ends_with(',') => {
            "take out the comma before it".to_owned()
        }
        Some(closing @ (b'}' | b']')) => match open {
            Some((opening, expected)) if char::from(*closing) != expected => {
                format!("the {} is still open", shown(text, opening))
            }
            Some(_) => String::new(),
            None => format!("there is one {} too many", char::from(*closing)),
        },
        _ => String::new(),
    }
}

/// The bracket or quote that is open at an offset: where it stands, and what would close it.
fn open_before(text: &str, end: usize) -> Option<(usize, char)> {
    let bytes = &text.as_bytes()[..end];
    let mut open = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => match string_length(&bytes[at..]) {
                Some(length) => {
                    at += length;
                    continue;
                }
                None => return Some((at, '"')),
            },
            b'{' => open.push((at, '}')),
            b'[' => open.push((at, ']')),
            b'}' | b']' => {
                open.pop();
            }
            _ => {}
        }
        at += 1;
    }
    open.pop()
}

fn shown(text: &str, opening: usize) -> String {
    let (line, column) = place(text, opening);
    let bracket = char::from(text.as_bytes()[opening]);
    format!("{bracket} of line {line}, column {column}")
}

/// The format in which a text seems to be written, by its first line that is no comment.
fn other_format(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let is_name = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        !text.is_empty() && text.bytes().all(is_plain)
    };
    let section = line.trim_matches(['[', ']']);
    if line.starts_with('[') && line.ends_with(']') && is_name(section) {
        return Some("TOML");
    }
    if line.starts_with("---") || line.starts_with("- ") || line.starts_with("%YAML") {
        return Some("YAML");
    }
    let name_end = line.find([' ', ':', '=']).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    let rest = rest.trim_start();
    match rest.as_bytes().first() {
        Some(b'=') if is_name(name) => Some("TOML"),
        Some(b':') if is_name(name) && (rest == ":" || rest.starts_with(": ")) => Some("YAML"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_toml_are_recognised() {
        for (text, format) in [
            ("proxy:\n  port: 8080\n", Some("YAML")),
            ("# mine\n\n---\nproxy:\n", Some("YAML")),
            ("- url: http://a\n", Some("YAML")),
            ("port: 8080", Some("YAML")),
            ("%YAML 1.2\n", Some("YAML")),
            ("[proxy]\nport = 8080\n", Some("TOML")),
            ("# mine\n[[backends]]\n", Some("TOML")),
            ("port = 8080\n", Some("TOML")),
            ("port=8080\n", Some("TOML")),
            ("{\"proxy\": }", None),
            ("\"proxy\": {", None),
            ("[1", None),
            ("[\n", None),
            ("http {\n", None),
            ("nonsense", None),
            ("", None),
            ("http://a", None),
        ] {
            assert_eq!(other_format(text), format, "{text:?}");
        }
    }

    #[test]
    fn what_is_open_is_found() {
        for (text, open) in [
            ("", None),
            ("{}", None),
            ("{", Some((0, '}'))),
            ("{ \"a\": [", Some((7, ']'))),
            ("{ \"a\": [ ]", Some((0, '}'))),
            ("[\"{\"", Some((0, ']'))),
            ("[\"{", Some((1, '"'))),
            ("[\"\\\"", Some((1, '"'))),
            ("[\"", Some((1, '"'))),
            ("[\"\"", Some((0, ']'))),
            ("}", None),
        ] {
            assert_eq!(open_before(text, text.len()), open, "{text:?}");
        }
    }
}
