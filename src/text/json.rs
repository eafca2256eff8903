//! JSON as it is written: values of a few kinds, put into text with an indent for each level.
//!
//! By hand, because all that is written here are words, whole numbers and what is JSON text already. A general writer brings
//! floating-point numbers along, which are a fortieth of the program.

use std::fmt::{self, Write as _};

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Json {
    /// JSON text.
    Raw(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// JSON text: a number, a literal, or what was read as JSON.
    pub(crate) fn raw(json: impl fmt::Display) -> Json {
        Json::Raw(json.to_string())
    }

    /// A number that is given in thousandths.
    #[inline(never)]
    pub(crate) fn thousandths(number: u64) -> Json {
        let (whole, rest) = (number / 1000, number % 1000);
        let text = format!("{whole}.{rest:03}");
        Json::Raw(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    }

    #[inline(never)]
    pub(crate) fn text(text: &str) -> Json {
        Json::Text(text.to_owned())
    }

    #[inline(never)]
    pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Json {
        Json::List(texts.into_iter().map(Json::text).collect())
    }

    pub(crate) fn object<const N: usize>(entries: [(&str, Json); N]) -> Json {
        let entries = entries.into_iter();
        Json::Object(
            entries
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, level: usize) -> fmt::Result {
        match self {
            Json::Raw(json) => f.write_str(json),
            Json::Text(text) => write_text(text, f),
            Json::List(items) => {
                let write = |f: &mut fmt::Formatter<'_>, item: &Json| item.write(f, level + 1);
                write_all(f, ['[', ']'], items, level, write)
            }
            Json::Object(entries) => {
                let write = |f: &mut fmt::Formatter<'_>, (key, value): &(String, Json)| {
                    write_text(key, f)?;
                    f.write_str(": ")?;
                    value.write(f, level + 1)
                };
                write_all(f, ['{', '}'], entries, level, write)
            }
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

fn write_all<T>(
    f: &mut fmt::Formatter<'_>,
    [begin, end]: [char; 2],
    items: &[T],
    level: usize,
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_char(begin)?;
    for (place, item) in items.iter().enumerate() {
        f.write_str(if place == 0 { "\n" } else { ",\n" })?;
        write!(f, "{:1$}", "", 2 * (level + 1))?;
        write(f, item)?;
    }
    if !items.is_empty() {
        write!(f, "\n{:1$}", "", 2 * level)?;
    }
    f.write_char(end)
}

/// RFC 8259 7: quotation marks, backslashes and controls are escaped.
fn write_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' | '\\' => write!(f, "\\{char}")?,
            '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(char))?,
            _ => f.write_char(char)?,
        }
    }
    f.write_char('"')
}

/// Writes a document piece by piece: for long ones, of which a tree would take many times the text. An entry of a list has an
/// empty key.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) out: String,
    depth: usize,
}

impl Writer {
    /// What comes before a value: each entry of the two outermost levels begins a line.
    #[inline(never)]
    fn key(&mut self, key: &str) {
        if !self.out.is_empty() && !self.out.ends_with(['{', '[']) {
            self.out.push(',');
        }
        if (1..=2).contains(&self.depth) {
            self.out.push('\n');
        }
        if !key.is_empty() {
            self.push_text(key);
            self.out.push(':');
        }
    }

    /// Begins an object or a list, with its bracket.
    #[inline(never)]
    pub(crate) fn open(&mut self, key: &str, bracket: char) {
        self.key(key);
        self.out.push(bracket);
        self.depth += 1;
    }

    /// Ends it.
    #[inline(never)]
    pub(crate) fn close(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth -= 1;
    }

    /// JSON text.
    #[inline(never)]
    pub(crate) fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.out.push_str(json);
    }

    #[inline(never)]
    pub(crate) fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        self.push_text(text);
    }

    pub(crate) fn flag(&mut self, key: &str, flag: bool) {
        self.raw(key, if flag { "true" } else { "false" });
    }

    #[inline(never)]
    pub(crate) fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        self.push_number(number);
    }

    /// A number that is given in thousandths.
    #[inline(never)]
    pub(crate) fn thousandths(&mut self, key: &str, number: u64) {
        self.key(key);
        self.push_number(number / 1000);
        let rest = number % 1000;
        if rest > 0 {
            self.out.push('.');
            for digit in [rest / 100, rest / 10 % 10, rest % 10] {
                self.push_number(digit);
            }
            self.out.truncate(self.out.trim_end_matches('0').len());
        }
    }

    #[inline(never)]
    pub(crate) fn text_or_null(&mut self, key: &str, text: Option<&str>) {
        match text {
            Some(text) => self.text(key, text),
            None => self.raw(key, "null"),
        }
    }

    #[inline(never)]
    pub(crate) fn thousandths_or_null(&mut self, key: &str, number: Option<u64>) {
        match number {
            Some(number) => self.thousandths(key, number),
            None => self.raw(key, "null"),
        }
    }

    #[inline(never)]
    pub(crate) fn number_or_null(&mut self, key: &str, number: Option<u64>) {
        match number {
            Some(number) => self.number(key, number),
            None => self.raw(key, "null"),
        }
    }

    fn push_text(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{}", Quoted(text));
    }

    fn push_number(&mut self, number: u64) {
        let _ = write!(self.out, "{number}");
    }
}

/// A text as JSON.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousandths_are_written_as_far_as_they_count() {
        for (number, text) in [
            (0, "0"),
            (100_000, "100"),
            (33_333, "33.333"),
            (1500, "1.5"),
            (70, "0.07"),
            (10_000, "10"),
        ] {
            assert_eq!(Json::thousandths(number).to_string(), text);
        }
    }

    #[test]
    fn what_is_written_piece_by_piece_is_read_again() {
        let mut json = Writer::default();
        json.open("", '{');
        json.text("a \"key\"", "\u{1}\n");
        json.open("list", '[');
        for number in [0, 1000, 1500, 20, 1001, 10_230] {
            json.thousandths("", number);
        }
        json.close(']');
        json.open("empty", '{');
        json.close('}');
        json.flag("flag", true);
        json.number_or_null("none", None);
        json.close('}');
        let read: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "a \"key\"": "\u{1}\n", "list": [0, 1, 1.5, 0.02, 1.001, 10.23], "empty": {}, "flag": true, "none": null,
            })
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let json = Json::object([
            ("a \"key\"", Json::texts(["\\", "\u{1}\n", "bücher"])),
            ("number", Json::raw(7)),
            ("empty", Json::List(Vec::new())),
            (
                "nested",
                Json::object([("raw", Json::raw(r#"{"x": [true]}"#))]),
            ),
        ]);
        let read: serde_json::Value = serde_json::from_str(&json.to_string()).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "a \"key\"": ["\\", "\u{1}\n", "bücher"], "number": 7, "empty": [], "nested": {"raw": {"x": [true]}},
            })
        );
        assert!(
            json.to_string()
                .starts_with("{\n  \"a \\\"key\\\"\": [\n    \"")
        );
    }
}
