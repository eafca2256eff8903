//! The kinds of check: what one check sends, and what it takes for an answer. The verdict over a
//! backend is `pool`'s.

pub(crate) mod content;
pub(crate) mod messages;
pub(crate) mod probe;
