//! What is wrong with a configuration, where, and what would be right: one line, whatever the
//! configuration contains.

use std::fmt::{self, Write as _};
use std::ops::{Deref, DerefMut};

use crate::text::escape::printable;

/// What is wrong with a configuration, where, and what would be right.
///
/// Displayed as exactly one line, whatever the file or the value contains. In a box, because the code that reads a
/// configuration passes it on at each of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Box<Details>);

/// The parts of a [`ConfigError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The file's name as given, or the command line option.
    pub file: String,
    /// Line of the value or key, from 1; 0 when the error has no place in the file.
    pub line: usize,
    /// Column in characters, from 1; 0 when the error has no place in the file.
    pub column: usize,
    /// The key's path such as `backends[2].url`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, as the rest of a sentence that begins with the path.
    pub what: String,
    /// What would be right; empty when there is nothing to add.
    pub hint: String,
}

impl ConfigError {
    /// An error about a file as a whole.
    pub fn of_file(file: &str, what: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError::from(Details {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            what: what.into(),
            hint: hint.into(),
        })
    }
}

impl Details {
    /// Without the place: a sentence that begins with the key's path, or with the file where the whole is wrong.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = String::new();
        if self.path.is_empty() {
            sentence.push_str(&self.file);
            sentence.push_str(": ");
        }
        self.write_sentence(&mut sentence);
        printable(&sentence)
    }

    fn write_sentence(&self, line: &mut String) {
        if !self.path.is_empty() {
            line.push_str(&self.path);
            line.push(' ');
        }
        line.push_str(&self.what);
        if !self.hint.is_empty() {
            line.push_str("; ");
            line.push_str(&self.hint);
        }
    }
}

impl From<Details> for ConfigError {
    fn from(details: Details) -> ConfigError {
        ConfigError(Box::new(details))
    }
}

impl Deref for ConfigError {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for ConfigError {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.file.clone();
        if self.line > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line, ":{}:{}", self.line, self.column);
        }
        line.push_str(": ");
        self.write_sentence(&mut line);
        f.write_str(&printable(&line))
    }
}

impl std::error::Error for ConfigError {}
