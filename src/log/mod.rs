//! The two logs: access lines on standard output, events on standard error.

pub(crate) mod access;
pub mod events;
pub(crate) mod limit;
pub(crate) mod line;
mod output;
