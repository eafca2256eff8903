//! What the counters say: how it went lately, and the text that Prometheus scrapes.
//!
//! `traffic/mod.rs` has the counters. Nothing here is a thread: the admin thread takes the samples
//! and writes the text.

pub(crate) mod prometheus;
pub(crate) mod sampler;
