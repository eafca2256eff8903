//! The worker's clock: read once for each batch of events, so that nothing else asks the kernel for the time.

use std::time::{Duration, Instant};

/// Milliseconds on the worker's clock.
pub(crate) type Millis = u64;

/// The time that lies beyond every other: no deadline.
pub(crate) const NEVER: Millis = Millis::MAX;

/// The worker's clock, read once for each batch of events.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    now_us: u64,
}

impl Clock {
    /// Starts at `epoch`; workers share it so that their times can be compared.
    pub(crate) fn new(epoch: Instant) -> Self {
        let mut clock = Self { epoch, now_us: 0 };
        clock.read();
        clock
    }

    /// Reads the time.
    pub(crate) fn read(&mut self) {
        self.now_us = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(NEVER - 1);
    }

    /// The time when it was last read.
    pub(crate) fn now(&self) -> Millis {
        self.now_us / 1000
    }

    /// The same in microseconds, to measure with.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The moment that lies `duration` after `from`.
    pub(crate) fn after(from: Millis, duration: Duration) -> Millis {
        from.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(NEVER))
    }
}
