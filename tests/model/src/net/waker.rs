//! A bell as an eventfd is one: rings add up to one. It can be waited for as `poll` does, or as an edge-triggered epoll.
//!
//! No wait ends before the bell rings, however short the patience: a wake-up that is lost must not be mended by a deadline.

use std::io;
use std::time::Duration;

use crate::net::lock::lock;
use crate::net::sync::{AtomicUsize, Condvar, Mutex, Ordering};

#[derive(Debug)]
pub(crate) struct Bell {
    is_ringing: Mutex<bool>,
    rung: Condvar,
    rings: AtomicUsize,
}

impl Bell {
    #[expect(clippy::unnecessary_wraps, reason = "the program's needs a descriptor")]
    pub(crate) fn new() -> io::Result<Bell> {
        Ok(Bell {
            is_ringing: Mutex::new(false),
            rung: Condvar::new(),
            rings: AtomicUsize::new(0),
        })
    }

    pub(crate) fn ring(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        *lock(&self.is_ringing) = true;
        self.rung.notify_all();
    }

    /// How often it was rung.
    pub(crate) fn rings(&self) -> usize {
        self.rings.load(Ordering::SeqCst)
    }

    /// As the program's: two steps, and a ring between them is lost.
    pub(crate) fn wait(&self, _patience: Duration) {
        let mut is_ringing = lock(&self.is_ringing);
        while !*is_ringing {
            is_ringing = self.rung.wait(is_ringing).unwrap();
        }
        drop(is_ringing);
        *lock(&self.is_ringing) = false;
    }

    /// As a worker's poller waits: each ring ends one wait, one that comes later the next. With `may_sleep` false it does
    /// not wait at all, but takes the ring.
    pub(crate) fn poll(&self, may_sleep: bool) {
        let mut is_ringing = lock(&self.is_ringing);
        while may_sleep && !*is_ringing {
            is_ringing = self.rung.wait(is_ringing).unwrap();
        }
        *is_ringing = false;
    }
}
