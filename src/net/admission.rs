//! How many client connections are open, and what happens at the limit.
//!
//! Only the listener admits. At the limit it says that it waits for room; a worker that closes a
//! connection wakes it. To close an idle connection for it, a worker must first take this wish, so
//! that no more connections are closed than the listener still has a use for.
//!
//! Read next: `listener.rs`, which waits; `worker.rs`, `make_room`.

use std::sync::Arc;
use std::time::Duration;

use crate::net::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::net::waker::Waker;

/// For how long a connection that has had no answer must have been idle to make room: its first
/// request may be on its way.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// The same for one that has had an answer. A client that goes on at once would otherwise often
/// meet the close.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// The number of open client connections, and the listener that may be waiting for it to fall.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Wakes the listener.
    pub listener: Arc<Waker>,
    /// How many there may be.
    max: AtomicUsize,
    count: AtomicUsize,
    /// The listener waits for room.
    room_wanted: AtomicBool,
    /// The limit is reached and clients wait in the listen backlog.
    newcomers_wait: AtomicBool,
}

impl Admission {
    /// Admits at most `max` connections at once.
    pub(crate) fn new(max: usize) -> std::io::Result<Self> {
        Ok(Self {
            listener: Arc::new(Waker::new()?),
            max: AtomicUsize::new(max),
            count: AtomicUsize::new(0),
            room_wanted: AtomicBool::new(false),
            newcomers_wait: AtomicBool::new(false),
        })
    }

    /// Admits at most `max` from now on. A lower limit closes nothing.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
    }

    /// Whether another connection may be accepted. Only the listener adds, so the answer holds,
    /// until the limit changes.
    pub(crate) fn has_room(&self) -> bool {
        self.count.load(Ordering::SeqCst) < self.max.load(Ordering::SeqCst)
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

    /// Whether clients wait in the backlog for a place: then answers say that the connection ends.
    pub(crate) fn newcomers_wait(&self) -> bool {
        self.newcomers_wait.load(Ordering::Relaxed)
    }

    /// The listener says whether clients wait in the backlog for a place.
    pub(crate) fn set_newcomers_wait(&self, wait: bool) {
        // Workers read it for every answer: it is written only when it changes.
        if self.newcomers_wait() != wait {
            self.newcomers_wait.store(wait, Ordering::Relaxed);
        }
    }

    /// Lets the listener wait for room, unless there is some by now. `ask` asks a worker for it,
    /// and says for how long to wait at most.
    pub(crate) fn wait_for_room(&self, ask: impl FnOnce() -> Duration) {
        self.want_room();
        // After the wish: a connection that closes after this look wakes the listener.
        if !self.has_room() {
            let patience = ask();
            self.listener.wait(patience);
        }
        // Taken back: a worker that has not closed a connection for it yet need not.
        self.take_wish_for_room();
    }

    /// Lets a worker close an idle connection, if the listener still has a use for its place.
    pub(crate) fn make_room(&self, close: impl FnOnce()) {
        if self.take_wish_for_room() {
            close();
            self.listener.wake();
        }
    }

    /// The listener announces that it waits for room.
    pub(crate) fn want_room(&self) {
        self.room_wanted.store(true, Ordering::SeqCst);
    }

    /// Whether the listener waits for room.
    pub(crate) fn is_room_wanted(&self) -> bool {
        self.room_wanted.load(Ordering::SeqCst)
    }

    /// Takes the listener's wish for room. False: it has none any more, or another worker has taken
    /// it.
    fn take_wish_for_room(&self) -> bool {
        self.is_room_wanted() && self.room_wanted.swap(false, Ordering::SeqCst)
    }

    /// Wakes the listener if it waits: a connection closed, or became idle and could be.
    pub(crate) fn room_may_be_made(&self) {
        if self.take_wish_for_room() {
            self.listener.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_below_the_limit_only() {
        let admission = Admission::new(2).unwrap();
        for _ in 0..2 {
            assert!(admission.has_room());
            admission.add();
        }
        assert!(!admission.has_room());
        admission.remove();
        assert!(admission.has_room());
        assert_eq!(admission.count(), 1);
    }

    #[test]
    fn a_wish_for_room_is_taken_once_and_can_be_taken_back() {
        let admission = Admission::new(1).unwrap();
        assert!(!admission.take_wish_for_room());
        admission.want_room();
        assert!(admission.take_wish_for_room() && !admission.take_wish_for_room());
        admission.want_room();
        // What the listener does when it has found room without help.
        assert!(admission.take_wish_for_room());
        assert!(!admission.is_room_wanted() && !admission.take_wish_for_room());
    }

    #[test]
    fn a_connection_that_closes_wakes_a_listener_that_waits() {
        let admission = Admission::new(1).unwrap();
        admission.add();
        admission.want_room();
        admission.remove();
        // Would wait for an hour if the listener had not been woken.
        admission.listener.wait(Duration::from_secs(3600));
        assert!(!admission.is_room_wanted());
    }
}
