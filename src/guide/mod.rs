//! Chapters to read, beside README: they are part of the documentation so that their links and
//! examples are checked.

// Names of programs are words here, not code.
#![allow(clippy::doc_markdown)]

#[doc = include_str!("changes.md")]
pub mod changes {}

#[doc = include_str!("speed.md")]
pub mod speed {}
