//! Text for people and logs: escaping, numbers and times without the formatter, words in messages.

pub mod escape;
pub mod format;
pub mod timestamp;
pub mod words;
