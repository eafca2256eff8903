//! Smooth weighted round robin, at a cost that does not grow with the number of backends.
//!
//! Each backend has a *credit*: the share of the turns that was its due while it was eligible,
//! minus the turns it got. A turn goes to the greatest credit, the first of equals. The credit of a
//! backend that is not eligible rests: it neither earns nor loses, so a dead backend's share
//! spreads over the others by weight, a flapping one cannot push its turns on its neighbour, and
//! after any sequence of changes every backend is within one period of its due.
//!
//! Backends of equal weight earn the same at each turn, so their order changes only when one of
//! them gets a turn: they stand in a queue, and a choice compares the heads of the queues. What a
//! unit of weight has earned so far is one number for all of them; a backend keeps the difference
//! between its credit and that.
//!
//! While the set and its weights stay the same, a period (the sum of the weights, divided by what
//! they have in common) gives each backend exactly its weight: its *quota*. Without it a credit
//! left over from earlier sets could be cashed in as a burst; with it, it only decides who comes
//! first. So credits need no bound, and none is cut when a backend comes back. A retry is a turn in
//! a set without those that the request has tried: quotas that went on across it would make the
//! turns that it took come in a burst at the end of the period.
//!
//! Read next: `exchange/sending.rs`, where the request goes to the chosen backend. Beside it, the
//! other methods: `loads.rs`, `draws.rs`, `rendezvous.rs`.

use std::collections::VecDeque;

use crate::pool::chooser::room::Rooms;
use crate::pool::chooser::{Chooser, Seat};

/// A turn, in the unit of credits.
const ONE: i64 = 1 << 32;

/// The turns of one set of backends.
#[derive(Debug, Default)]
pub(in crate::pool) struct Turns {
    queues: Vec<Queue>,
    /// So many of them, the first, are of backends with their whole weight.
    whole: usize,
    /// The members of the others.
    partial: usize,
    earned: Earned,
    /// The sum of the members' weights.
    total: u32,
    /// Members that have turns left in this period.
    ready: usize,
    period: u32,
    /// Whether the set has changed since the period began: another one begins at the next turn.
    pub(in crate::pool) has_changed: bool,
}

/// Members of equal weight, the greatest credit first.
#[derive(Debug)]
struct Queue {
    weight: u32,
    /// The turns of each in this period.
    quota: u32,
    ready: VecDeque<u32>,
    /// Those whose quota is used up.
    done: VecDeque<u32>,
}

/// Bytes of the queue of one weight, without members.
pub(in crate::pool) const QUEUE_BYTES: usize = size_of::<Queue>();

/// What a unit of weight has earned so far: `whole`, and `part` / `of` of one more.
#[derive(Debug, Clone, Copy)]
struct Earned {
    whole: i64,
    part: u64,
    /// The sum of the weights by which it grows.
    of: u64,
    /// `ONE / of`, and the remainder.
    step: (i64, u64),
}

impl Default for Earned {
    fn default() -> Earned {
        Earned {
            whole: 0,
            part: 0,
            of: 1,
            step: (ONE, 0),
        }
    }
}

impl Earned {
    /// Begins to grow by another sum of weights.
    fn rate(&mut self, total: u32) {
        let total = u64::from(total);
        self.part = self.part * total / self.of;
        self.of = total;
        let one = ONE.cast_unsigned();
        self.step = ((one / total).cast_signed(), one % total);
    }

    /// One turn. Nothing is lost by rounding while the sum stays.
    fn grow(&mut self) {
        self.whole = self.whole.wrapping_add(self.step.0);
        self.part += self.step.1;
        if self.part >= self.of {
            self.part -= self.of;
            self.whole = self.whole.wrapping_add(1);
        }
    }

    /// For a weight, without the part. It wraps around; differences do not.
    fn of_weight(&self, weight: u32) -> i64 {
        self.whole.wrapping_mul(weight.into())
    }
}

impl Turns {
    /// Without members, and with room for as many of each weight as are of this kind.
    #[inline(never)]
    pub(in crate::pool) fn with_room(rooms: &Rooms, kind: usize) -> Turns {
        let mut turns = Turns {
            whole: rooms.whole,
            ..Turns::default()
        };
        turns.queues.reserve_exact(rooms.all.len());
        for (weight, counts) in &rooms.all {
            turns.queues.push(Queue {
                weight: *weight,
                quota: 0,
                ready: VecDeque::with_capacity(counts[kind]),
                done: VecDeque::with_capacity(counts[kind]),
            });
        }
        turns
    }

    #[cfg(test)]
    pub(in crate::pool) fn room(&self) -> usize {
        let room = |queue: &Queue| queue.ready.capacity() + queue.done.capacity();
        self.queues.iter().map(room).sum()
    }

    /// Takes over the clock of the same set of another pool, before members join.
    pub(in crate::pool) fn follow(&mut self, before: &Turns) {
        self.earned = before.earned;
        self.period = before.period;
        self.has_changed = before.has_changed;
    }

    /// All have joined; `is_same`: the period goes on.
    pub(in crate::pool) fn go_on(&mut self, is_same: bool) {
        self.has_changed |= !is_same;
        self.set_quotas();
    }

    /// All members leave and keep their credits.
    pub(in crate::pool) fn end(&mut self, seats: &mut [Seat]) {
        for queue in &mut self.queues {
            let earned = self.earned.of_weight(queue.weight);
            for place in queue.ready.drain(..).chain(queue.done.drain(..)) {
                let seat = &mut seats[place as usize];
                seat.credit = seat.credit.wrapping_add(earned);
            }
        }
        (self.total, self.ready, self.partial) = (0, 0, 0);
    }

    /// What a member has earned beside its credit.
    fn earned(&self, seat: &Seat) -> i64 {
        let queue = self.queues.get(seat.group as usize);
        queue.map_or(0, |queue| self.earned.of_weight(queue.weight))
    }

    /// What is left of a member's quota in this period; none if it has had no turn in it.
    pub(in crate::pool) fn quota_left(&self, seat: &Seat) -> Option<u32> {
        (seat.period == self.period).then_some(seat.quota)
    }

    /// Before it joins: it has this much left of its quota; `u32::MAX` or none: all of it.
    pub(in crate::pool) fn set_quota_left(&self, seat: &mut Seat, left: Option<u32>) {
        seat.quota = left.unwrap_or(u32::MAX);
        let in_this = seat.quota != u32::MAX;
        seat.period = self.period.wrapping_sub(u32::from(!in_this));
    }

    /// Adds a member, with the credit that it has.
    pub(in crate::pool) fn join(&mut self, place: u32, seats: &mut [Seat]) {
        let seat = &mut seats[place as usize];
        let queue = &mut self.queues[seat.group as usize];
        let earned = self.earned.of_weight(queue.weight);
        seat.credit = seat.credit.wrapping_sub(earned);
        self.total += queue.weight;
        self.partial += usize::from(seat.group as usize >= self.whole);
        if seat.is_done(self.period) {
            insert(&mut queue.done, place, seats);
        } else {
            self.ready += 1;
            insert(&mut queue.ready, place, seats);
        }
    }

    /// Removes a member, which keeps its credit.
    pub(in crate::pool) fn leave(&mut self, place: u32, seats: &mut [Seat]) {
        let seat = &seats[place as usize];
        let queue = &mut self.queues[seat.group as usize];
        self.total -= queue.weight;
        self.partial -= usize::from(seat.group as usize >= self.whole);
        let list = if seat.is_done(self.period) {
            &mut queue.done
        } else {
            self.ready -= 1;
            &mut queue.ready
        };
        let at = list.partition_point(|&other| goes_before(other, place, seats));
        let left = list.remove(at);
        debug_assert_eq!(
            left,
            Some(place),
            "a queue is sorted by credit at all times"
        );
        let earned = self.earned.of_weight(queue.weight);
        let seat = &mut seats[place as usize];
        seat.credit = seat.credit.wrapping_add(earned);
    }

    /// Gives the next turn to one of the members, at least one.
    pub(in crate::pool) fn next(&mut self, seats: &mut [Seat]) -> u32 {
        if self.has_changed {
            self.begin_again(seats);
        } else if self.ready == 0 {
            self.begin_period();
        }
        if self.earned.of != u64::from(self.total) {
            self.earned.rate(self.total);
        }
        self.earned.grow();
        let mut best = (0, u32::MAX);
        for (at, queue) in self.live().iter().enumerate() {
            if let Some(&head) = queue.ready.front()
                && (best.1 == u32::MAX || self.is_greater((at, head), best, seats))
            {
                best = (at, head);
            }
        }
        let (at, place) = best;
        let queue = &mut self.queues[at];
        queue.ready.pop_front();
        let seat = &mut seats[place as usize];
        seat.credit = seat.credit.wrapping_sub(ONE);
        if seat.period != self.period {
            (seat.period, seat.quota) = (self.period, queue.quota);
        }
        debug_assert!(seat.quota > 0, "it was among those that have turns left");
        seat.quota = seat.quota.saturating_sub(1);
        if seat.quota == 0 {
            self.ready -= 1;
            insert(&mut queue.done, place, seats);
        } else {
            insert(&mut queue.ready, place, seats);
        }
        place
    }

    /// The queues that may have members.
    #[inline]
    fn live(&self) -> &[Queue] {
        let live = if self.partial == 0 {
            self.whole
        } else {
            self.queues.len()
        };
        &self.queues[..live]
    }

    /// Whether the head of one queue comes before that of another.
    fn is_greater(&self, one: (usize, u32), other: (usize, u32), seats: &[Seat]) -> bool {
        let [a, b] = [one, other].map(|(at, head)| self.credit(at, head, seats));
        a > b || a == b && one.1 < other.1
    }

    /// The credit of a member of a queue, exact: in units of 1 / (`ONE` x the sum of the weights).
    fn credit(&self, at: usize, place: u32, seats: &[Seat]) -> i128 {
        let weight = self.queues[at].weight;
        let earned = self.earned.of_weight(weight);
        let whole = earned.wrapping_add(seats[place as usize].credit);
        let part = self.earned.part * u64::from(weight);
        i128::from(whole) * i128::from(self.total) + i128::from(part)
    }

    /// All have used up their quotas.
    fn begin_period(&mut self) {
        self.period = self.period.wrapping_add(1);
        let live = self.live().len();
        for queue in &mut self.queues[..live] {
            std::mem::swap(&mut queue.ready, &mut queue.done);
            self.ready += queue.ready.len();
        }
    }

    /// Begins a period of the changed set.
    fn begin_again(&mut self, seats: &[Seat]) {
        self.has_changed = false;
        self.period = self.period.wrapping_add(1);
        self.ready = 0;
        let live = self.live().len();
        for queue in &mut self.queues[..live] {
            if queue.ready.is_empty() {
                std::mem::swap(&mut queue.ready, &mut queue.done);
            }
            // Each was put there by a turn, so this adds no more than a constant to a turn.
            while let Some(place) = queue.done.pop_front() {
                insert(&mut queue.ready, place, seats);
            }
            self.ready += queue.ready.len();
        }
        self.set_quotas();
    }

    fn set_quotas(&mut self) {
        let taken = self.live().iter().filter(|queue| !queue.is_empty());
        let common = taken.fold(0, |common, queue| gcd(common, queue.weight));
        let live = self.live().len();
        for queue in &mut self.queues[..live] {
            queue.quota = queue.weight / common.max(1);
        }
    }
}

impl Chooser {
    /// How many turns a backend is away from its due, in millionths.
    pub(in crate::pool) fn turns_off(&self, place: usize) -> u64 {
        let seat = &self.seats[place];
        let turns = self.turns.get(seat.tier as usize);
        let credit = seat
            .credit
            .wrapping_add(turns.map_or(0, |turns| turns.earned(seat)));
        let millionths = (u128::from(credit.unsigned_abs()) * 1_000_000 + (1 << 31)) >> 32;
        u64::try_from(millionths).unwrap_or(u64::MAX)
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.done.is_empty()
    }
}

/// Puts a member behind those of greater credit, and of equals that stand before it in the list of
/// backends: most often the end.
fn insert(list: &mut VecDeque<u32>, place: u32, seats: &[Seat]) {
    let behind = list.back();
    if behind.is_none_or(|&behind| goes_before(behind, place, seats)) {
        list.push_back(place);
    } else {
        insert_between(list, place, seats);
    }
}

#[inline(never)]
fn insert_between(list: &mut VecDeque<u32>, place: u32, seats: &[Seat]) {
    let at = list.partition_point(|&other| goes_before(other, place, seats));
    list.insert(at, place);
}

fn goes_before(one: u32, other: u32, seats: &[Seat]) -> bool {
    let [a, b] = [one, other].map(|place| seats[place as usize].credit);
    let more = a.wrapping_sub(b);
    more > 0 || more == 0 && one < other
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
