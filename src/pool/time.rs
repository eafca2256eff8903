//! What a pool takes from outside: the time, and the seed of what it draws at random.
//!
//! In the program these are the system's clock and a number that differs in each process: two
//! balancers must not draw alike. Where both are set, a pool that is asked the same gives the same
//! answers.

use std::hash::{BuildHasher, RandomState};
#[cfg(any(test, feature = "simulate"))]
use std::sync::{Arc, atomic::Ordering};
use std::time::Instant;

#[cfg(any(test, feature = "simulate"))]
use crate::net::atomic::AtomicU64;

/// The clock of all pools that follow each other.
#[derive(Debug, Clone)]
pub(crate) enum Time {
    /// The system's, since this moment.
    System(Instant),
    /// One that is set: microseconds.
    #[cfg(any(test, feature = "simulate"))]
    Set(Arc<AtomicU64>),
}

/// What the first of the pools that follow each other is given.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) time: Time,
    pub(crate) seed: u64,
}

impl Time {
    /// Microseconds since its start.
    pub(crate) fn now_us(&self) -> u64 {
        match self {
            Time::System(started) => {
                let elapsed = started.elapsed();
                elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros())
            }
            #[cfg(any(test, feature = "simulate"))]
            Time::Set(now_us) => now_us.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds since its start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }
}

impl Sources {
    /// The system's.
    pub(crate) fn system() -> Sources {
        Sources {
            time: Time::System(Instant::now()),
            seed: RandomState::new().hash_one(0),
        }
    }

    /// A clock that stands at 0 until it is set, and this seed.
    #[cfg(any(test, feature = "simulate"))]
    pub(crate) fn set(seed: u64) -> (Sources, Arc<AtomicU64>) {
        let now_us = Arc::new(AtomicU64::new(0));
        let time = Time::Set(Arc::clone(&now_us));
        (Sources { time, seed }, now_us)
    }
}
