//! What the hand-over between threads is made of: atomics, a lock, a channel.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
