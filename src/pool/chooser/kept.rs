//! What a chooser leaves to the next one of each backend: written when another pool takes over,
//! under their lock.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::net::atomic::AtomicU64;
use crate::pool::chooser::Seat;
use crate::pool::chooser::fastest::Times;
use crate::pool::state::NEVER;

#[derive(Debug)]
pub(in crate::pool) struct Kept {
    /// An i64, as in a [`Seat`].
    credit: AtomicU64,
    /// When it was last chosen, as a number of choices.
    last: AtomicU64,
    /// For `fastest`, its times.
    times: [AtomicU64; Times::KEPT],
    /// What is left of its quota in this period; `u32::MAX` if it has had no turn in it.
    quota: AtomicU32,
    /// The epoch that ended the chooser, its set there, and its weight.
    was_in: [AtomicU32; 3],
    /// When it began to grow into its weight; `NEVER`: it has all of it.
    grows_from_ms: AtomicU64,
    /// Its place in the pool that chooses, or in the last one with it that did.
    place: AtomicU32,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            credit: AtomicU64::default(),
            last: AtomicU64::default(),
            times: Default::default(),
            quota: AtomicU32::default(),
            was_in: Default::default(),
            grows_from_ms: AtomicU64::new(NEVER),
            place: AtomicU32::default(),
        }
    }
}

impl Kept {
    /// When it began to grow; `NEVER`: it has all its weight.
    pub(in crate::pool) fn grows_from_ms(&self) -> u64 {
        self.grows_from_ms.load(Relaxed)
    }

    /// It grows since then; `NEVER`: it has all its weight.
    pub(in crate::pool) fn grows_from(&self, at_ms: u64) {
        if self.grows_from_ms() != at_ms {
            self.grows_from_ms.store(at_ms, Relaxed);
        }
    }

    /// The place that [`Kept::seat`] was given.
    pub(in crate::pool) fn place(&self) -> u32 {
        self.place.load(Relaxed)
    }

    /// Begins a seat with what is known.
    pub(in crate::pool) fn seat(&self, place: u32, seat: &mut Seat) {
        self.place.store(place, Relaxed);
        seat.credit = self.credit.load(Relaxed).cast_signed();
        seat.last = self.last.load(Relaxed);
    }

    /// Keeps what is to be known of a seat that ends.
    pub(in crate::pool) fn keep(&self, seat: &Seat, quota: Option<u32>, was_in: [u32; 3]) {
        self.credit.store(seat.credit.cast_unsigned(), Relaxed);
        self.last.store(seat.last, Relaxed);
        self.quota.store(quota.unwrap_or(u32::MAX), Relaxed);
        for (place, number) in self.was_in.iter().zip(was_in) {
            place.store(number, Relaxed);
        }
    }

    /// Whether it was in the chooser that this epoch ended.
    pub(in crate::pool) fn was_there(&self, epoch: u32) -> bool {
        self.was_in[0].load(Relaxed) == epoch
    }

    /// Begins its times with what is known.
    pub(in crate::pool) fn times(&self) -> Times {
        Times::of(self.times.each_ref().map(|number| number.load(Relaxed)))
    }

    /// Keeps its times.
    pub(in crate::pool) fn keep_times(&self, times: Times) {
        for (place, number) in self.times.iter().zip(times.kept()) {
            place.store(number, Relaxed);
        }
    }

    /// The quota that was kept, if it was in the same set with the same weight just before.
    pub(in crate::pool) fn quota_in(&self, epoch: u32, set: u32, weight: u32) -> Option<u32> {
        let was_in = self.was_in.iter().map(|number| number.load(Relaxed));
        was_in
            .eq([epoch, set, weight])
            .then(|| self.quota.load(Relaxed))
    }
}
