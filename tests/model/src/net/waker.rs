//! As the eventfd of the program, several wake-ups add up to one. It can be waited for as `poll` does, or as an edge-triggered epoll.
//!
//! No wait ends before a wake-up, however short the patience: a wake-up that is lost must not be mended by a deadline.

use std::io;
use std::time::Duration;

use crate::net::lock::lock;
use crate::net::sync::{AtomicUsize, Condvar, Mutex, Ordering};

#[derive(Debug)]
pub(crate) struct Waker {
    is_pending: Mutex<bool>,
    woken: Condvar,
    wakes: AtomicUsize,
}

impl Waker {
    #[expect(clippy::unnecessary_wraps, reason = "the program's needs a descriptor")]
    pub(crate) fn new() -> io::Result<Waker> {
        Ok(Waker {
            is_pending: Mutex::new(false),
            woken: Condvar::new(),
            wakes: AtomicUsize::new(0),
        })
    }

    pub(crate) fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        *lock(&self.is_pending) = true;
        self.woken.notify_all();
    }

    /// How often it was used.
    pub(crate) fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }

    /// As the program's: two steps, and a wake-up between them is lost.
    pub(crate) fn wait(&self, _patience: Duration) {
        let mut is_pending = lock(&self.is_pending);
        while !*is_pending {
            is_pending = self.woken.wait(is_pending).unwrap();
        }
        drop(is_pending);
        *lock(&self.is_pending) = false;
    }

    /// As a worker's poller waits: each wake-up ends one wait, one that comes later the next. With `may_sleep` false it does
    /// not wait at all, but uses the wake-up up.
    pub(crate) fn poll(&self, may_sleep: bool) {
        let mut is_pending = lock(&self.is_pending);
        while may_sleep && !*is_pending {
            is_pending = self.woken.wait(is_pending).unwrap();
        }
        *is_pending = false;
    }
}
