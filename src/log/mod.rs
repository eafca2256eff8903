//! The two logs: access lines on standard output, events on standard error.

pub mod access;
pub mod events;
pub mod line;
