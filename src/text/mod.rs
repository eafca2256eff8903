//! Text for people and logs: escaping, numbers and times without the formatter, words in messages.

pub(crate) mod escape;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod names;
pub(crate) mod timestamp;
pub(crate) mod words;
