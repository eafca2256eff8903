//! Ejection: a backend that answers badly so many times in a row is out for a time, whatever checks
//! say of it.
//!
//! An exchange is bad when its status is one of `ejection.status`, when the backend does not answer
//! in time (504) or dies, and when its answer breaks off; one that ends well begins the count
//! again. An ejection is the next in a row, and twice as long, if since the last one no more time
//! has passed than that lasted.
//!
//! How much may be out at once is the chooser's business: one client's errors must not take every
//! backend out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::net::atomic::AtomicU64;
use crate::net::lock::lock;
use crate::pool::reasons::Since;
use crate::pool::settings::EjectionSettings;

/// How many times as long as the first of a row the last may be.
const TIMES_MAX: u64 = 10;

/// What is remembered of one backend. All but the count of bad exchanges is written under the
/// balancer's lock.
#[derive(Debug)]
pub(crate) struct Ejection {
    /// Bad exchanges in a row.
    bad: AtomicU32,
    /// When it ends; 0: there is none.
    until_ms: AtomicU64,
    /// Another one before this moment is the next in a row, and how many in the row were before the
    /// last.
    row_until_ms: AtomicU64,
    before: AtomicU32,
    /// Whether the chooser has it out.
    is_out: AtomicBool,
    since: Mutex<Since>,
    /// How often it was ejected.
    count: AtomicU64,
}

impl Ejection {
    pub(in crate::pool) fn new(since: Since) -> Ejection {
        Ejection {
            bad: AtomicU32::new(0),
            until_ms: AtomicU64::new(0),
            row_until_ms: AtomicU64::new(0),
            before: AtomicU32::new(0),
            is_out: AtomicBool::new(false),
            since: Mutex::new(since),
            count: AtomicU64::new(0),
        }
    }

    /// An exchange has ended well.
    #[inline]
    pub(in crate::pool) fn forget(&self) {
        if self.bad.load(Relaxed) != 0 {
            self.bad.store(0, Relaxed);
        }
    }

    /// Counts a bad exchange, and returns how many there were in a row.
    pub(in crate::pool) fn note_bad(&self) -> u32 {
        self.bad.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// When it is back; 0: there is no ejection.
    pub(in crate::pool) fn until_ms(&self) -> u64 {
        self.until_ms.load(Relaxed)
    }

    /// Begins, and returns how long it lasts.
    pub(in crate::pool) fn begin(&self, now_ms: u64, rules: &EjectionSettings, why: Since) -> u64 {
        let time_ms = u64::try_from(rules.time.as_millis()).unwrap_or(u64::MAX);
        let before = if now_ms < self.row_until_ms.load(Relaxed) {
            self.before.load(Relaxed) + 1
        } else {
            0
        };
        let times = 1u64
            .checked_shl(before)
            .map_or(TIMES_MAX, |times| times.min(TIMES_MAX));
        let lasts_ms = time_ms.saturating_mul(times);
        let until_ms = now_ms + lasts_ms;
        self.until_ms.store(until_ms, Relaxed);
        self.row_until_ms.store(until_ms + lasts_ms, Relaxed);
        self.before.store(before.min(63), Relaxed);
        self.count.fetch_add(1, Relaxed);
        *lock(&self.since) = why;
        lasts_ms
    }

    /// Ends before its time.
    pub(in crate::pool) fn end(&self, now_ms: u64) {
        let left_ms = self.until_ms().saturating_sub(now_ms);
        self.row_until_ms.fetch_sub(left_ms, Relaxed);
        self.finish();
    }

    /// Its time has passed.
    pub(in crate::pool) fn finish(&self) {
        self.until_ms.store(0, Relaxed);
    }

    /// Ends, and begins no row: the operator has enabled the backend.
    pub(in crate::pool) fn pardon(&self) {
        self.finish();
        self.row_until_ms.store(0, Relaxed);
        self.bad.store(0, Relaxed);
    }

    /// The chooser has taken it out, or back.
    pub(in crate::pool) fn set_out(&self, is_out: bool) {
        self.is_out.store(is_out, Relaxed);
        // What was under way when it went out says nothing about how it is now.
        self.bad.store(0, Relaxed);
    }

    /// It takes requests again, for people to read.
    pub(in crate::pool) fn note_back(&self) {
        *lock(&self.since) = Since::now(&"back from ejection");
    }

    /// Whether it is out.
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Relaxed)
    }

    /// When it went out or came back last, and why.
    pub(in crate::pool) fn since(&self) -> Since {
        *lock(&self.since)
    }

    /// How often it was ejected.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_a_row_lasts_twice_as_long_up_to_ten_times_and_a_good_while_ends_the_row() {
        let rules = EjectionSettings::default();
        let ejection = Ejection::new(Since::now(&"start"));
        let mut now_ms = 1_000_000;
        for lasts_ms in [30_000, 60_000, 120_000, 240_000, 300_000, 300_000] {
            assert_eq!(ejection.begin(now_ms, &rules, Since::now(&"bad")), lasts_ms);
            assert_eq!(ejection.until_ms(), now_ms + lasts_ms);
            now_ms += lasts_ms + lasts_ms - 1;
        }
        now_ms += 1;
        assert_eq!(ejection.begin(now_ms, &rules, Since::now(&"bad")), 30_000);
        ejection.end(now_ms + 5);
        assert_eq!(
            ejection.begin(now_ms + 30_004, &rules, Since::now(&"bad")),
            60_000
        );
        ejection.pardon();
        assert_eq!(
            ejection.begin(now_ms + 30_005, &rules, Since::now(&"bad")),
            30_000
        );
        assert_eq!(ejection.count(), 9);
    }
}
