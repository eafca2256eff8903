//! What one thread waits for until another rings it.

use std::time::{Duration, Instant};

use crate::net::lock::{lock, wait};
use crate::net::sync::{Condvar, Mutex};

/// Rung any number of times, heard once.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    is_rung: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    /// Wakes the thread that waits, or lets the next wait end at once.
    pub(crate) fn ring(&self) {
        *lock(&self.is_rung) = true;
        self.rung.notify_one();
    }

    /// Waits until it is rung, but no longer than `patience`; says whether it was. One thread at a time may wait.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let begin = Instant::now();
        let mut is_rung = lock(&self.is_rung);
        while !*is_rung {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return false;
            }
            is_rung = wait(&self.rung, is_rung, left);
        }
        std::mem::take(&mut *is_rung)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Would be waited for if it were not rung.
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_bell_that_is_rung_twice_is_heard_once() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.wait(LONG));
        assert!(!bell.wait(Duration::ZERO) && !bell.wait(Duration::from_millis(1)));
    }

    #[test]
    fn a_bell_wakes_the_thread_that_waits() {
        let bell = Arc::new(Bell::default());
        let waits = Arc::clone(&bell);
        let waiting = std::thread::spawn(move || waits.wait(LONG));
        bell.ring();
        assert!(waiting.join().unwrap());
    }
}
