//! JSON text whose values know their position, so that an error can name file, line, column and key
//! path.
//!
//! A [`Document`] owns the text, in which comments are allowed (`comments.rs`). A [`Node`] is one
//! unparsed value in it: its text is borrowed from the document, so its position is the distance
//! between the two addresses, and only an error computes a line number. An [`Object`] (`object.rs`)
//! is a node with its keys read by the rows of a section. Text that is no JSON is explained in
//! `syntax.rs`.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::config::key::Key;
use crate::text::words::{SHOWN_CHARS_MAX, quoted, shortened};

#[cfg(feature = "simulate")]
pub(crate) use self::object::entries;
pub(crate) use self::object::{Object, parse_duration};
pub(crate) use crate::config::error::{ConfigError, Details};

mod comments;
mod object;
mod syntax;

/// What kind of text a document is: how its errors speak of it.
#[derive(Debug)]
pub(crate) struct Form {
    /// What is said of the outermost value.
    pub noun: &'static str,
    /// What the whole must be where it is empty, after "the least is".
    pub least: &'static str,
    /// The largest file that is read, in bytes.
    pub bytes_max: usize,
    /// What to do where there is no such file.
    pub missing: &'static str,
    /// Whether its keys are those of a configuration.
    pub is_configuration: bool,
}

/// The configuration: room for some 20,000 backends.
pub(crate) const CONFIGURATION: Form = Form {
    noun: "the configuration",
    least: r#"{"proxy":{"port":8080},"backends":[{"url":"http://127.0.0.1:8081"}]}"#,
    bytes_max: 1024 * 1024,
    missing: "name a configuration file, or use --backends with --port, or --demo",
    is_configuration: true,
};

/// The text of a file and the name under which errors show it.
#[derive(Debug)]
pub(crate) struct Document {
    form: &'static Form,
    file: String,
    /// As it was written: what lines and columns are counted in.
    text: String,
    /// The same with spaces in place of comments, at the same offsets: what values are borrowed
    /// from.
    json: String,
}

impl Document {
    /// Reads a file, refusing whatever cannot be a JSON text in UTF-8.
    pub(crate) fn read(path: &Path, form: &'static Form) -> Result<Document, ConfigError> {
        let bytes = Document::bytes(path, form)?;
        Document::from_bytes(&path.display().to_string(), bytes, form)
    }

    /// The bytes of a file, if it can be read and is not too large.
    pub(crate) fn bytes(path: &Path, form: &Form) -> Result<Vec<u8>, ConfigError> {
        let file = path.display().to_string();
        let wrong = |what: String, hint: &str| ConfigError::of_file(&file, what, hint);
        let unreadable = |error: &std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => form.missing,
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
            .take(form.bytes_max as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        if bytes.len() > form.bytes_max {
            let (noun, most) = (form.noun, form.bytes_max);
            return Err(wrong(
                "is too large".to_owned(),
                &format!("{noun} has at most {most} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// Takes the bytes of a file, refusing whatever cannot be a JSON text in UTF-8.
    pub(crate) fn from_bytes(
        file: &str,
        bytes: Vec<u8>,
        form: &'static Form,
    ) -> Result<Document, ConfigError> {
        let wrong = |what: &str, hint: &str| Err(ConfigError::of_file(file, what, hint));
        let wrong_at = |text: &str, offset: usize, what: &str, hint: &str| {
            let (line, column) = place(text, offset);
            let mut error = ConfigError::of_file(file, what, hint);
            (error.line, error.column) = (line, column);
            Err(error)
        };
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
                return wrong_at(&valid, valid.len(), "is not UTF-8", "save it as UTF-8");
            }
        };
        match comments::blank_comments(&text) {
            Ok(json) => Ok(Document {
                form,
                file: file.to_owned(),
                text,
                json,
            }),
            Err(at) => wrong_at(&text, at, "has a comment that is not closed", "add */"),
        }
    }

    /// The outermost value, the whole text having been checked to be JSON.
    pub(crate) fn root(&self) -> Result<Node<'_>, ConfigError> {
        if self.json.trim_ascii().is_empty() {
            return Err(ConfigError::of_file(
                &self.file,
                "is empty",
                format!("the least is {}", self.form.least),
            ));
        }
        // Skipping a value is a loop in serde_json, not a recursion: deep nesting costs no stack.
        match serde_json::from_str::<&RawValue>(&self.json) {
            Ok(raw) => Ok(self.node(raw, String::new())),
            Err(error) => {
                let (offset, what, hint) = syntax::explain(&self.json, &error);
                Err(self.error_at(offset, String::new(), what, hint))
            }
        }
    }

    #[inline(never)]
    fn node<'a>(&'a self, raw: &'a RawValue, path: String) -> Node<'a> {
        Node {
            document: self,
            raw: raw.get(),
            path,
        }
    }

    /// The offset of a part of the text; a default, which is not in it, stands for the whole.
    fn offset(&self, part: &str) -> usize {
        let distance = part.as_ptr().addr().wrapping_sub(self.json.as_ptr().addr());
        if distance < self.json.len() {
            distance
        } else {
            0
        }
    }

    #[inline(never)]
    fn error_at(&self, offset: usize, path: String, what: String, hint: String) -> ConfigError {
        let (line, column) = place(&self.text, offset);
        ConfigError::from(Details {
            file: self.file.clone(),
            line,
            column,
            path,
            what,
            hint,
        })
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
    #[inline(never)]
    pub(crate) fn error(&self, what: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        let mut what = what.into();
        if self.path.is_empty() {
            what.insert(0, ' ');
            what.insert_str(0, self.document.form.noun);
        }
        let offset = self.document.offset(self.raw);
        self.document
            .error_at(offset, self.path.clone(), what, hint.into())
    }

    /// The error of a value that is not what it must be; names what was found.
    #[inline(never)]
    pub(crate) fn not(&self, wanted: &str) -> ConfigError {
        self.error(format!("is {}", self.found()), format!("must be {wanted}"))
    }

    /// An empty object in the place of one that was left out.
    #[cfg(feature = "simulate")]
    pub(crate) fn nothing(&self) -> Node<'a> {
        Node {
            raw: "{}",
            ..self.clone()
        }
    }

    /// Whether the value is a string, which says nothing about its content.
    pub(crate) fn is_text(&self) -> bool {
        self.raw.starts_with('"')
    }

    /// Whether the value is the string `word`, or the number, `true`, `false` or `null` that is
    /// written so.
    pub(crate) fn is(&self, word: &str) -> bool {
        if self.is_text() {
            self.text().is_some_and(|text| text == word)
        } else {
            self.raw == word
        }
    }

    /// A string.
    #[inline(never)]
    pub(crate) fn text(&self) -> Option<Cow<'a, str>> {
        decoded(self.raw).ok().filter(|_| self.is_text())
    }

    /// A number that is written without sign, fraction and exponent.
    pub(crate) fn integer(&self) -> Option<u64> {
        self.raw.parse().ok()
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        self.raw.parse().ok()
    }

    /// The values of a list.
    pub(crate) fn list(&self) -> Option<Vec<Node<'a>>> {
        if !self.raw.starts_with('[') {
            return None;
        }
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw).ok()?;
        let node = |(index, raw)| self.document.node(raw, format!("{}[{index}]", self.path));
        Some(items.into_iter().enumerate().map(node).collect())
    }

    /// How many values a list has.
    pub(crate) fn count(&self) -> Option<usize> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(items.len())
    }

    /// An object that has no keys but these.
    pub(crate) fn object(&self, keys: &'static [Key]) -> Result<Object<'a>, ConfigError> {
        Object::read(self, keys)
    }

    /// The value in short, as an error shows it.
    #[inline(never)]
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

    /// Its text as JSON.
    pub(crate) fn json(&self) -> &str {
        self.raw
    }

    #[inline(never)]
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

/// The text of a string in JSON text.
#[cfg(feature = "simulate")]
pub(crate) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    decoded(raw).ok()
}

fn decoded(raw: &str) -> Result<Cow<'_, str>, String> {
    let content = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    match content {
        Some(content) if !content.contains('\\') => Ok(Cow::Borrowed(content)),
        _ => serde_json::from_str::<String>(raw)
            .map(Cow::Owned)
            .map_err(|error| syntax::reason(&error)),
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
