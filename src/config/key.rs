//! A setting is one row: its name, what it takes, its default, and its meaning.
//!
//! A section lists its rows in its own file. Reading (`document/object.rs`), the JSON Schema
//! (`schema.rs`), the hints about unknown keys (`hints.rs`) and the tables of README, which a test
//! compares, come from them.

use std::time::Duration;

use crate::config::document::duration_text;
use crate::pool::settings::Choices;
use crate::text::words::listed;

/// A row.
#[derive(Debug)]
pub(crate) struct Key {
    pub name: &'static str,
    pub takes: Takes,
    pub default: Fallback,
    pub meaning: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Takes {
    /// `true` or `false`.
    Flag,
    /// An integer, from the least to the most.
    Integer(u64, u64),
    /// A duration, from the least to the most.
    Duration(Duration, Duration),
    /// One of some words.
    Word(fn() -> Vec<Word>),
    /// An object with these keys.
    Object(&'static [Key]),
    /// A list of such objects.
    Objects {
        keys: &'static [Key],
        wanted: &'static str,
    },
    /// Anything else: described in words, and as a JSON Schema.
    Other {
        wanted: &'static str,
        schema: &'static str,
    },
}

/// What holds for a key that is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fallback {
    /// It must be given.
    Required,
    /// The same as if this JSON text were given.
    Value(&'static str),
    /// Something that no value expresses.
    Nothing(&'static str),
}

/// A word that a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    pub name: &'static str,
    pub meaning: &'static str,
    /// What other programs call it.
    pub also: &'static [&'static str],
}

impl Key {
    /// Its meaning, values and default, for an editor.
    pub(crate) fn description(&self) -> String {
        let default = match self.default {
            Fallback::Nothing(words) => format!(" Default: {words}."),
            Fallback::Required | Fallback::Value(_) => String::new(),
        };
        format!(
            "{}. Must be {}.{default}",
            self.explanation(),
            self.takes.wanted()
        )
    }

    /// Its meaning, and that of its words.
    pub(crate) fn explanation(&self) -> String {
        let Takes::Word(words) = self.takes else {
            return self.meaning.to_owned();
        };
        let explained: Vec<String> = words()
            .iter()
            .map(|word| format!("`{:?}` {}", word.name, word.meaning))
            .collect();
        format!("{}: {}", self.meaning, explained.join("; "))
    }
}

impl Takes {
    /// A duration within the usual bounds.
    pub(crate) const DURATION: Takes =
        Takes::Duration(Duration::from_millis(1), Duration::from_secs(24 * 60 * 60));

    /// The same or none at all.
    pub(crate) const DURATION_OR_ZERO: Takes =
        Takes::Duration(Duration::ZERO, Duration::from_secs(24 * 60 * 60));

    /// One of the words for the values of `T`.
    pub(crate) const fn word<T: Choices>() -> Takes {
        Takes::Word(words::<T>)
    }

    /// In words, to follow "must be".
    pub(crate) fn wanted(&self) -> String {
        match self {
            Takes::Flag => "true or false".to_owned(),
            Takes::Integer(least, u64::MAX) => format!("an integer of at least {least}"),
            Takes::Integer(least, most) => format!("an integer from {least} to {most}"),
            Takes::Duration(least, most) => format!(
                "a duration from \"{}\" to \"{}\", an integer with one unit of ms, s, m or h",
                duration_text(*least),
                duration_text(*most),
            ),
            Takes::Word(words) => {
                let quoted: Vec<String> = words()
                    .iter()
                    .map(|word| format!("{:?}", word.name))
                    .collect();
                listed(&quoted, "or")
            }
            Takes::Object(_) => "an object".to_owned(),
            Takes::Objects { wanted, .. } | Takes::Other { wanted, .. } => (*wanted).to_owned(),
        }
    }
}

/// The words for the values of `T`, by row.
pub(crate) fn words<T: Choices>() -> Vec<Word> {
    T::ALL
        .iter()
        .map(|choice| Word {
            name: choice.name,
            meaning: choice.meaning,
            also: choice.also,
        })
        .collect()
}
