//! How a chooser goes on where that of another pool stops, and what this leaves of each backend:
//! written when another pool takes over, under their lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::net::atomic::AtomicU64;
use crate::pool::chooser::fastest::Times;
use crate::pool::chooser::{Chooser, Seat};
use crate::pool::state::NEVER;
use crate::pool::trace::{CANDIDATES_MAX, Candidate, Verdict};
use crate::pool::trust::FULL;

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

impl Chooser {
    /// Goes on where the chooser of another pool stops. Where a set is the same, its period goes
    /// on.
    pub(in crate::pool) fn take_over(&mut self, before: &mut Chooser) {
        self.epoch = before.epoch.wrapping_add(1);
        self.choices = before.choices;
        // What has grown by the old settings has grown.
        before.look_at_due();
        // At the start of the process none grows.
        let is_first = before.backends.is_empty();
        let counts = std::mem::take(&mut before.counts);
        before.end(self.epoch);
        self.fastest.take_over(&before.fastest);
        for (turns, before) in self.turns.iter_mut().zip(&before.turns) {
            turns.follow(before);
        }
        let mut is_same = [true; 4];
        for (place, backend) in (0..).zip(&*Arc::clone(&self.backends)) {
            let kept = &backend.state.kept;
            let is_new = !is_first && !kept.was_there(self.epoch);
            let seat = &mut self.seats[place as usize];
            kept.seat(place, seat);
            if let Some(times) = self.fastest.times(place as usize) {
                *times = kept.times();
            }
            // What comes up while it is looked at must be told.
            backend.state.tell_ends(self.hears_ends);
            self.candidates.extend(
                (self.backends.len() <= CANDIDATES_MAX).then_some(Candidate {
                    backend: backend.id,
                    verdict: Verdict::Disabled,
                }),
            );
            self.stand[Verdict::Disabled as usize] += 1;
            let (tier, group) = self.look(place, is_new);
            if let Some(turns) = self.turns.get_mut(tier as usize) {
                let seat = &mut self.seats[place as usize];
                (seat.tier, seat.group) = (tier, group);
                let weight = backend.settings.weight * (FULL - group / self.weights);
                let quota = kept.quota_in(self.epoch, tier as u32, weight);
                is_same[tier as usize] &= quota.is_some();
                turns.set_quota_left(seat, quota);
                self.join(place);
            }
        }
        for set in 0..4 {
            self.turns[set].go_on(is_same[set] && counts[set] == self.counts[set]);
        }
        self.answers.forget();
        self.relieve();
    }

    /// Keeps what another chooser is to know of each backend, and empties the sets.
    #[inline(never)]
    fn end(&mut self, epoch: u32) {
        for turns in &mut self.turns {
            turns.end(&mut self.seats);
        }
        for groups in &mut self.groups {
            groups.clear();
        }
        self.loads = [0; 2];
        self.fastest.clear();
        for (place, (seat, backend)) in self.seats.iter_mut().zip(&*self.backends).enumerate() {
            let turns = self.turns.get(seat.tier as usize);
            let quota = turns.and_then(|turns| turns.quota_left(seat));
            let kept = &backend.state.kept;
            let weight = backend.settings.weight * (FULL - seat.group / self.weights);
            kept.keep(seat, quota, [epoch, seat.tier as u32, weight]);
            if let Some(times) = self.fastest.times(place) {
                kept.keep_times(*times);
            }
            backend.state.tell_ends(false);
            *seat = Seat::new(seat.weight);
        }
        self.full = [0; 4];
        (self.fit, self.out) = ([0; 2], [0; 2]);
        self.back.clear();
        self.healthy = 0;
        self.waiting.clear();
        self.next_due_ms = NEVER;
        self.candidates.clear();
        self.stand = [0; Verdict::COUNT];
    }
}
