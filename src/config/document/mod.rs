//! JSON text whose values know where they stand, so that an error can be shown by file, line, column and key path.
//!
//! A [`Document`] owns the text, in which comments are allowed (`comments.rs`). A [`Node`] is one value in it, still unparsed: its text is borrowed from the document,
//! so its place is the distance between the two addresses, and nothing but an error ever computes a line number. What is
//! wrong is a [`ConfigError`] (`config/error.rs`). Nothing here knows what the keys mean: `config/` does, read that next.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::text::words::{SHOWN_CHARS_MAX, listed, nearest, quoted, shortened};

pub(crate) use crate::config::error::ConfigError;

mod comments;

/// The largest file that is read, in bytes: room for some 20,000 backends.
pub(crate) const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The text of a configuration and the name under which errors show it.
#[derive(Debug)]
pub(crate) struct Document {
    file: String,
    /// As it was written: what lines and columns are counted in.
    text: String,
    /// The same with spaces in place of comments, at the same offsets: what values are borrowed from.
    json: String,
}

impl Document {
    /// Reads a file, refusing whatever cannot be a JSON text in UTF-8.
    pub(crate) fn read(path: &Path) -> Result<Document, ConfigError> {
        let file = path.display().to_string();
        let wrong = |what: String, hint: &str| ConfigError::of_file(&file, what, hint);
        let unreadable = |error: &std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "name a configuration file, or use --backends with --port, or --demo"
                }
                std::io::ErrorKind::PermissionDenied => {
                    "make it readable for the user that runs rondo"
                }
                std::io::ErrorKind::IsADirectory => "name the file in it",
                _ => "",
            };
            wrong(format!("cannot be read: {error}"), hint)
        };
        let opened = File::open(path).map_err(|error| unreadable(&error))?;
        let mut bytes = Vec::new();
        opened
            .take(FILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(wrong(
                "is too large".to_owned(),
                &format!("a configuration has at most {FILE_BYTES_MAX} bytes"),
            ));
        }
        Document::from_bytes(&file, bytes)
    }

    /// Takes the bytes of a file, refusing whatever cannot be a JSON text in UTF-8.
    pub(crate) fn from_bytes(file: &str, bytes: Vec<u8>) -> Result<Document, ConfigError> {
        let wrong = |what: &str, hint: &str| Err(ConfigError::of_file(file, what, hint));
        // RFC 8259 8.1: JSON text is UTF-8 without a byte order mark.
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return wrong("is UTF-16", "save it as UTF-8");
        }
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return wrong(
                "begins with a byte order mark",
                "save it as UTF-8 without one",
            );
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid_bytes = error.utf8_error().valid_up_to();
                let valid = String::from_utf8_lossy(&error.as_bytes()[..valid_bytes]);
                let (line, column) = place(&valid, valid.len());
                return Err(ConfigError {
                    line,
                    column,
                    ..ConfigError::of_file(file, "is not UTF-8", "save it as UTF-8")
                });
            }
        };
        match comments::blank_comments(&text) {
            Ok(json) => Ok(Document {
                file: file.to_owned(),
                text,
                json,
            }),
            Err(opening) => {
                let (line, column) = place(&text, opening);
                Err(ConfigError {
                    line,
                    column,
                    ..ConfigError::of_file(file, "has a comment that is not closed", "add */")
                })
            }
        }
    }

    /// The outermost value, the whole text having been checked to be JSON.
    pub(crate) fn root(&self) -> Result<Node<'_>, ConfigError> {
        if self.json.trim_ascii().is_empty() {
            return Err(ConfigError::of_file(
                &self.file,
                "is empty",
                r#"the least is {"proxy":{"port":8080},"backends":[{"url":"http://127.0.0.1:8081"}]}"#,
            ));
        }
        // Skipping a value is a loop in serde_json, not a recursion: deep nesting costs no stack.
        match serde_json::from_str::<&RawValue>(&self.json) {
            Ok(raw) => Ok(self.node(raw, String::new())),
            Err(error) => Err(self.not_json(&error)),
        }
    }

    fn node<'a>(&'a self, raw: &'a RawValue, path: String) -> Node<'a> {
        Node {
            document: self,
            raw: raw.get(),
            path,
        }
    }

    /// The offset of a part of the text, which must be borrowed from it.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr() - self.json.as_ptr().addr()
    }

    fn error_at(&self, offset: usize, path: String, what: String, hint: String) -> ConfigError {
        let (line, column) = place(&self.text, offset);
        ConfigError {
            file: self.file.clone(),
            line,
            column,
            path,
            what,
            hint,
        }
    }

    fn not_json(&self, error: &serde_json::Error) -> ConfigError {
        // serde_json counts columns in bytes, and from 0 only where a line has not begun.
        let lines_before = error.line().saturating_sub(1);
        let line_begin: usize = self
            .text
            .split_inclusive('\n')
            .take(lines_before)
            .map(str::len)
            .sum();
        let mut offset = (line_begin + error.column().saturating_sub(1)).min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let message = error.to_string();
        let reason = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(reason, _)| reason);
        let hint = match self.text.as_bytes().get(offset) {
            Some(b'/' | b'#') => "a comment begins with //, or stands between /* and */",
            Some(b'\'') => "JSON strings stand in double quotes",
            Some(b'}' | b']') if self.text[..offset].trim_ascii_end().ends_with(',') => {
                "take out the comma before it"
            }
            _ => "",
        };
        self.error_at(
            offset,
            String::new(),
            format!("not valid JSON: {reason}"),
            hint.to_owned(),
        )
    }
}

/// One value of a document, with its place and its key path.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    document: &'a Document,
    raw: &'a str,
    path: String,
}

impl<'a> Node<'a> {
    /// An error at this value. `what` continues a sentence that begins with the key path.
    pub(crate) fn error(&self, what: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        let mut what = what.into();
        if self.path.is_empty() {
            what.insert_str(0, "the configuration ");
        }
        let offset = self.document.offset(self.raw);
        self.document
            .error_at(offset, self.path.clone(), what, hint.into())
    }

    /// The error of a value that is not what it must be; names what was found.
    pub(crate) fn not(&self, hint: &str) -> ConfigError {
        self.error(format!("is {}", self.found()), format!("must be {hint}"))
    }

    /// Whether the value is a string, which says nothing about its content.
    pub(crate) fn is_text(&self) -> bool {
        self.raw.starts_with('"')
    }

    /// Whether the value is the string `word`, or the number, `true`, `false` or `null` that is written so.
    pub(crate) fn is(&self, word: &str) -> bool {
        if self.is_text() {
            decoded(self.raw).is_ok_and(|text| text == word)
        } else {
            self.raw == word
        }
    }

    /// A string; `hint` says what is wanted when it is none.
    pub(crate) fn text(&self, hint: &str) -> Result<Cow<'a, str>, ConfigError> {
        if !self.is_text() {
            return Err(self.not(hint));
        }
        decoded(self.raw).map_err(|reason| self.error(format!("is no text: {reason}"), ""))
    }

    /// One of the named values.
    pub(crate) fn one_of<T: Copy>(&self, named: &[(&str, T)]) -> Result<T, ConfigError> {
        let wanted = || {
            let quoted: Vec<String> = named.iter().map(|(name, _)| format!("{name:?}")).collect();
            listed(&quoted, "or")
        };
        let text = self.text(&wanted())?;
        if let Some((_, value)) = named.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let meant = nearest(&text, named.iter().map(|(name, _)| *name));
        Err(match meant {
            Some(name) => self.error(
                format!("is {}", self.found()),
                format!("did you mean {name:?}? It must be {}", wanted()),
            ),
            None => self.not(&wanted()),
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, ConfigError> {
        match self.raw {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not("true or false")),
        }
    }

    /// An integer within the bounds.
    pub(crate) fn integer<T: TryFrom<u64>>(
        &self,
        bounds: RangeInclusive<u64>,
    ) -> Result<T, ConfigError> {
        let (least, most) = (bounds.start(), bounds.end());
        let hint = if *most == u64::MAX {
            format!("an integer of at least {least}")
        } else {
            format!("an integer from {least} to {most}")
        };
        self.raw
            .parse::<u64>()
            .ok()
            .filter(|number| bounds.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.not(&hint))
    }

    /// A duration such as `"500ms"` within the bounds.
    pub(crate) fn duration(
        &self,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let hint = format!(
            "a duration from \"{}\" to \"{}\", an integer with one unit of ms, s, m or h",
            duration_text(*bounds.start()),
            duration_text(*bounds.end()),
        );
        let text = self.text(&hint)?;
        parse_duration(&text)
            .filter(|duration| bounds.contains(duration))
            .ok_or_else(|| self.not(&hint))
    }

    /// The values of a list.
    pub(crate) fn list(&self, hint: &str) -> Result<Vec<Node<'a>>, ConfigError> {
        if !self.raw.starts_with('[') {
            return Err(self.not(hint));
        }
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw)
            .map_err(|error| self.error(format!("is no list: {error}"), ""))?;
        Ok(items
            .into_iter()
            .enumerate()
            .map(|(index, raw)| self.document.node(raw, format!("{}[{index}]", self.path)))
            .collect())
    }

    /// An object that has no keys but these, each at most once.
    pub(crate) fn object(&self, keys: &'static [&'static str]) -> Result<Object<'a>, ConfigError> {
        let mut values: Vec<Option<Node<'a>>> = vec![None; keys.len()];
        for (key_raw, value) in self.entries()? {
            let offset = self.document.offset(key_raw);
            let key = decoded(key_raw).map_err(|reason| {
                let what = format!("has a key that is no text: {reason}");
                self.document
                    .error_at(offset, self.path.clone(), what, String::new())
            })?;
            let Some(known) = keys.iter().position(|known| *known == key) else {
                let hint = match nearest(&key, keys.iter().copied()) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("the keys here are {}", listed(keys, "and")),
                };
                return Err(self.document.error_at(
                    offset,
                    self.child_path(&key),
                    "is not a known key".to_owned(),
                    hint,
                ));
            };
            if let Some(first) = &values[known] {
                let (line, column) = place(&self.document.text, self.document.offset(first.raw));
                return Err(self.document.error_at(
                    offset,
                    self.child_path(&key),
                    "is given twice".to_owned(),
                    format!("keep one, the first value is at line {line}, column {column}"),
                ));
            }
            let path = self.child_path(&key);
            values[known] = Some(self.document.node(value, path));
        }
        Ok(Object {
            place: self.clone(),
            keys,
            values,
        })
    }

    /// The values at a path such as `backends[].url`, where `[]` stands for every value of a list. None where there is none.
    pub(crate) fn find(&self, path: &str) -> Vec<Node<'a>> {
        let mut found = vec![self.clone()];
        for step in path.split('.') {
            let key = step.trim_end_matches("[]");
            found = found.iter().filter_map(|node| node.child(key)).collect();
            if key != step {
                found = found
                    .iter()
                    .flat_map(|node| node.list("").unwrap_or_default())
                    .collect();
            }
        }
        found
    }

    /// The value in short, as an error shows it.
    pub(crate) fn found(&self) -> String {
        match self.raw.as_bytes().first() {
            Some(b'{') => "an object".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'"') => match decoded(self.raw) {
                Ok(text) => quoted(&text),
                Err(_) => "a malformed string".to_owned(),
            },
            _ => shortened(self.raw),
        }
    }

    fn entries(&self) -> Result<Vec<(&'a str, &'a RawValue)>, ConfigError> {
        if !self.raw.starts_with('{') {
            return Err(self.not("an object"));
        }
        let entries: Entries<'a> = serde_json::from_str(self.raw)
            .map_err(|error| self.error(format!("is no object: {error}"), ""))?;
        Ok(entries.0)
    }

    fn child(&self, key: &str) -> Option<Node<'a>> {
        let entries = self.entries().ok()?;
        let (_, raw) = entries
            .into_iter()
            .find(|(found, _)| decoded(found).is_ok_and(|found| found == key))?;
        Some(self.document.node(raw, self.child_path(key)))
    }

    fn child_path(&self, key: &str) -> String {
        let is_plain = !key.is_empty()
            && key.len() <= SHOWN_CHARS_MAX
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        match (self.path.is_empty(), is_plain) {
            (true, true) => key.to_owned(),
            (false, true) => format!("{}.{key}", self.path),
            (_, false) => format!("{}[{}]", self.path, quoted(key)),
        }
    }
}

/// An object whose keys are known to be right; the values are not read yet.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    /// The object itself, or for a section that was left out the object it belongs into: the place of what is missing.
    place: Node<'a>,
    keys: &'static [&'static str],
    values: Vec<Option<Node<'a>>>,
}

impl<'a> Object<'a> {
    /// The value of a key, which must be one of those the object was opened with.
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'a>> {
        debug_assert!(
            self.keys.contains(&key),
            "{key} is missing in the list of known keys"
        );
        let known = self.keys.iter().position(|known| *known == key)?;
        self.values[known].as_ref()
    }

    /// The value of a key that cannot be left out; `hint` says what it must be.
    pub(crate) fn need(&self, key: &str, hint: &str) -> Result<&Node<'a>, ConfigError> {
        self.get(key).ok_or_else(|| {
            let mut place = self.place.clone();
            place.path = self.place.child_path(key);
            place.error("is missing", format!("must be {hint}"))
        })
    }

    /// The value of a key as `read` understands it, or the default when it was left out.
    pub(crate) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Node<'a>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.get(key).map_or(Ok(default), read)
    }

    /// The value of a key as `read` understands it, or none.
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(key).map(read).transpose()
    }

    /// An object below this one; all its keys are missing when it was left out.
    pub(crate) fn section(
        &self,
        key: &str,
        keys: &'static [&'static str],
    ) -> Result<Object<'a>, ConfigError> {
        if let Some(node) = self.get(key) {
            return node.object(keys);
        }
        let mut place = self.place.clone();
        place.path = self.place.child_path(key);
        Ok(Object {
            place,
            keys,
            values: vec![None; keys.len()],
        })
    }
}

/// The keys and values of an object in the order of the text, repeated ones included.
struct Entries<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                // The key is kept raw too: its place is the place of a key that is unknown or repeated.
                while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                    entries.push((key.get(), value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A duration as the configuration writes it, in the largest unit that is exact.
pub(crate) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms.is_multiple_of(unit_ms) && (ms > 0 || unit == "s") {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    Some(Duration::from_millis(ms))
}

fn decoded(raw: &str) -> Result<Cow<'_, str>, String> {
    let content = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    match content {
        Some(content) if !content.contains('\\') => Ok(Cow::Borrowed(content)),
        _ => serde_json::from_str::<String>(raw)
            .map(Cow::Owned)
            .map_err(|error| {
                let message = error.to_string();
                match message.rsplit_once(" at line ") {
                    Some((reason, _)) => reason.to_owned(),
                    None => message,
                }
            }),
    }
}

/// Line and column, both from 1, of an offset that lies on a character boundary.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_begin..].chars().count() + 1)
}

#[cfg(test)]
mod tests;
