//! How many client connections are open, and the listener that may be waiting for one to close.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::net::waker::Bell;

/// The number of open client connections, and the listener that may be waiting for it to fall.
#[derive(Debug)]
pub(crate) struct Open {
    /// How many there may be.
    pub max: usize,
    /// Wakes the listener.
    pub listener: Bell,
    count: AtomicUsize,
    listener_waits: AtomicBool,
}

impl Open {
    /// Admits at most `max` connections at once.
    pub(crate) fn new(max: usize) -> std::io::Result<Self> {
        Ok(Self {
            max,
            listener: Bell::new()?,
            count: AtomicUsize::new(0),
            listener_waits: AtomicBool::new(false),
        })
    }

    /// Whether another connection may be accepted. Only the listener adds, so the answer holds.
    pub(crate) fn has_room(&self) -> bool {
        self.count.load(Ordering::SeqCst) < self.max
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Counts one more.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one less.
    pub(crate) fn remove(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.room_may_be_made();
    }

    /// The listener announces that it waits for room. It must look at `has_room` once more after this.
    pub(crate) fn listener_waits(&self) {
        self.listener_waits.store(true, Ordering::SeqCst);
    }

    /// Wakes the listener if it waits: a connection closed, or became idle and could be.
    pub(crate) fn room_may_be_made(&self) {
        if self.listener_waits.load(Ordering::SeqCst)
            && self.listener_waits.swap(false, Ordering::SeqCst)
        {
            self.listener.ring();
        }
    }
}
