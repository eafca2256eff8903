//! The worker's clock: read once for each batch of events, so that nothing else asks the kernel for
//! the time.
//!
//! Two times follow from it. New deadlines count from `now`. Deadlines are judged by `settled`: all
//! events up to then have been returned. So a process that was stopped, or a worker that was late,
//! first sees what has arrived meanwhile, and no deadline ends an exchange whose answer is there.

use std::time::{Duration, Instant};

/// Milliseconds on the worker's clock.
pub(crate) type Millis = u64;

/// Later than every other time: no deadline.
pub(crate) const NEVER: Millis = Millis::MAX;

/// The worker's clock, read once for each batch of events.
#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    /// When it was last read.
    reading: Instant,
    /// The same since the epoch.
    now_us: u64,
    settled: Millis,
}

impl Clock {
    /// Starts at `epoch`, which all workers share so that their times can be compared.
    pub(crate) fn new(epoch: Instant) -> Self {
        let mut clock = Self {
            epoch,
            reading: epoch,
            now_us: 0,
            settled: 0,
        };
        clock.read();
        clock
    }

    /// Reads the time. To be called when all events up to the last reading have been returned.
    pub(crate) fn read(&mut self) {
        self.settled = self.now();
        self.reading = Instant::now();
        let elapsed = self.reading.duration_since(self.epoch);
        self.now_us = elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros());
    }

    /// Sets the time, with all events up to it returned, until it is read again.
    #[cfg(test)]
    pub(crate) fn stand_at(&mut self, now: Millis) {
        (self.now_us, self.settled) = (now * 1000, now);
    }

    /// The time since it was last read, if that is at least `min`. To add to a moment and compare
    /// costs less than half of taking the difference.
    pub(crate) fn late_by(&self, min: Duration) -> Option<Millis> {
        let now = Instant::now();
        (now >= self.reading + min).then(|| Self::after(0, now.duration_since(self.reading)))
    }

    /// The time when it was last read.
    pub(crate) fn now(&self) -> Millis {
        self.now_us / 1000
    }

    /// The time of the reading before: all that arrived by then has been seen.
    pub(crate) fn settled(&self) -> Millis {
        self.settled
    }

    /// A moment as a time of this clock.
    pub(crate) fn at(&self, moment: Instant) -> Millis {
        let since = moment.saturating_duration_since(self.epoch);
        Self::after(0, since)
    }

    /// The time when it was last read, in microseconds, to measure with.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time `duration` after `from`.
    pub(crate) fn after(from: Millis, duration: Duration) -> Millis {
        // `as_millis` counts in 128 bits.
        let seconds = duration.as_secs().saturating_mul(1000);
        from.saturating_add(seconds.saturating_add(duration.subsec_millis().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settled_time_is_that_of_the_reading_before() {
        let mut clock = Clock::new(Instant::now());
        let before = clock.now();
        std::thread::sleep(Duration::from_millis(3));
        clock.read();
        assert_eq!(clock.settled(), before);
        assert!(clock.now() >= before + 3);
    }

    #[test]
    fn it_says_how_old_its_reading_is() {
        let mut clock = Clock::new(Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let old = clock.late_by(Duration::from_millis(30)).unwrap();
        assert!(old >= 30 && clock.late_by(Duration::from_secs(3600)).is_none());
        clock.read();
        assert!(clock.now() >= old && clock.at(Instant::now()) >= clock.now());
    }

    #[test]
    fn a_moment_counts_from_the_epoch_and_one_before_it_is_the_epoch() {
        let epoch = Instant::now();
        let clock = Clock::new(epoch);
        assert_eq!(clock.at(epoch + Duration::from_millis(1500)), 1500);
        assert_eq!(
            clock.at(epoch.checked_sub(Duration::from_millis(1)).unwrap_or(epoch)),
            0
        );
    }
}
