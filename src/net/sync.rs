//! What the hand-over between threads is made of: atomics, a lock, a condition, a channel.
//!
//! Its files (`mailbox`, `admission`, `published`, `bell`, and `commands.rs`) take them from here
//! and nowhere else: `tests/model` puts the types of a model checker in this file's place, and runs
//! the same code through thousands of schedules.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex};

pub(crate) use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
