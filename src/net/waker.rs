//! Wakes one sleeping thread: an eventfd, so that the thread can wait for it beside its sockets.
//!
//! A wake-up never blocks, and several add up to one: the thread that is woken looks at everything
//! that may have changed. Each worker owns one (in its mailbox), and so do the listener, the
//! checker and the resolver.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Any thread may wake the one that waits for it.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// A waker that nothing has used yet; it costs one descriptor.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?))
    }

    /// Wakes the thread that waits, or lets its next wait return at once.
    pub fn wake(&self) {
        // The one error that can come is a full counter: the wake-up is pending already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets a pending wake-up; look for what changed after this, not before.
    pub fn clear(&self) {
        // The one error that can come is an empty counter: none was pending.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    /// Waits for a wake-up, or for as long as `patience`; then none is pending.
    pub fn wait(&self, patience: Duration) {
        let patience = timespec(patience);
        // An interrupted wait is one that ended early, which callers must expect anyway.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience));
        self.clear();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A duration as `poll` takes it, rounded up to the next millisecond so that a deadline has passed
/// when it returns.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    let ms = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        // Below 1e9, so it fits whatever the platform's type is.
        tv_nsec: i64::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wake_up_before_the_wait_is_not_lost_and_two_are_one() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wake();
        let start = Instant::now();
        waker.wait(Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(30));
        waker.wait(Duration::from_millis(1));
        assert!(start.elapsed() >= Duration::from_millis(1));
    }

    #[test]
    fn a_duration_is_rounded_up_to_the_millisecond() {
        let time = timespec(Duration::from_nanos(1_500_000_001));
        assert_eq!((time.tv_sec, time.tv_nsec), (1, 501_000_000));
        let none = timespec(Duration::ZERO);
        assert_eq!((none.tv_sec, none.tv_nsec), (0, 0));
    }
}
