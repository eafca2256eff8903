//! `fastest`: the smallest expected time.
//!
//! That is an average of the backend's times to the response head, multiplied by its exchanges and
//! this one, divided by its weight. The average forgets half of what it knows in 3 s, whether
//! answers come or not. Two answers in a row that took longer make it jump at once, to the shorter
//! of the two: one alone may be a dear request, which says little about the backend.
//!
//! All averages fade alike, so time does not change the order of the backends: only an answer does,
//! or an exchange that begins or ends. A backend is kept in a heap by the logarithm of its expected
//! time, as if it had begun to fade when the pool began. Logarithms are of integers, in units of
//! 1 / 2^16, and the same on every machine.
//!
//! A backend that has not been chosen for 10 s, or never, goes first. While it has not answered
//! then, no other request follows unless all others are in the same state.

use crate::pool::Tier;
use crate::pool::chooser::groups::Groups;
use crate::pool::chooser::loads::{By, settle};
use crate::pool::chooser::{Chooser, Seat};
use crate::pool::settings::Method;
use crate::pool::state::BackendState;

/// The half-life of an average.
const HALF_LIFE_MS: u64 = 3000;

/// An average that has lost seven eighths of its weight counts no more: a backend that was slow is
/// judged by its trial alone.
const FORGOTTEN_MS: u64 = 3 * HALF_LIFE_MS;

/// Each backend is chosen this often at least.
const CHOSEN_EVERY_MS: u64 = 10_000;

/// What a failed exchange counts as at least.
const FAILURE_US_MIN: u64 = 1_000_000;

/// The seconds of which the slowest answer is known: ten whole ones and the present one.
const SECONDS: usize = 11;

/// Behind all whose times are known and who owe no answer.
const AWAITED: u64 = 1 << 62;

/// Before an order that is never negative: more than the logarithm of a weight.
const ORDER_MIN: u64 = 32 << 16;

/// What is known of the times of one backend.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::pool) struct Times {
    /// The average when the last answer came, in units of 1 / 2^8 us; 0: there was none.
    average: u64,
    /// What the last answer took, likewise.
    last: u64,
    /// When it came.
    answered_ms: u64,
    /// When the backend was last chosen.
    chosen_ms: u64,
    /// It was chosen when its average was old, and has not answered since.
    is_awaited: bool,
}

impl Times {
    /// How many numbers pass from pool to pool.
    pub(in crate::pool) const KEPT: usize = 4;

    /// These numbers.
    pub(in crate::pool) fn kept(self) -> [u64; Times::KEPT] {
        [self.average, self.last, self.answered_ms, self.chosen_ms]
    }

    /// From these numbers.
    pub(in crate::pool) fn of(kept: [u64; Times::KEPT]) -> Times {
        let [average, last, answered_ms, chosen_ms] = kept;
        Times {
            average,
            last,
            answered_ms,
            chosen_ms,
            is_awaited: false,
        }
    }

    /// An answer has come, or a failure that counts as one.
    fn answered(&mut self, took_us: u64, is_sure: bool, now_ms: u64) {
        let took = took_us.clamp(1, 1 << 40) << 8;
        let age_ms = now_ms.saturating_sub(self.answered_ms);
        let left = if age_ms < FORGOTTEN_MS {
            left_after(age_ms)
        } else {
            0
        };
        let part = |time: u64, part: u64| {
            let product = u128::from(time) * u128::from(part);
            u64::try_from(product >> 32).unwrap_or(u64::MAX)
        };
        let mean = part(self.average, left) + part(took, ALL - left);
        let jump = if is_sure { took } else { took.min(self.last) };
        self.average = if self.average == 0 {
            took
        } else {
            mean.max(jump)
        };
        self.last = took;
        self.answered_ms = now_ms;
        self.is_awaited = false;
    }

    /// Where a backend stands that has so many exchanges.
    fn order(&self, in_flight: u64, weight: u32) -> u64 {
        let with_one = log2(in_flight + 1);
        if self.average == 0 {
            // Never measured: one request may find out.
            return if in_flight == 0 { 0 } else { 2 * AWAITED } + with_one;
        }
        let fades = (self.answered_ms << 16) / HALF_LIFE_MS;
        let order = ORDER_MIN + log2(self.average) + fades + with_one - log2(weight.into());
        if self.is_awaited {
            AWAITED + order
        } else {
            order
        }
    }
}

/// The slowest answers of the last seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Slowest {
    /// For each second: its number, and microseconds.
    seconds: [(u64, u64); SECONDS],
}

impl Slowest {
    fn add(&mut self, took_us: u64, now_ms: u64) {
        let second = now_ms / 1000;
        let at = &mut self.seconds[(second % SECONDS as u64) as usize];
        let before = if at.0 == second { at.1 } else { 0 };
        *at = (second, before.max(took_us));
    }

    fn of_last_seconds(&self, now_ms: u64) -> u64 {
        let since = (now_ms / 1000).saturating_sub(SECONDS as u64 - 1);
        let recent = self.seconds.iter().filter(|(second, _)| *second >= since);
        recent.map(|&(_, took_us)| took_us).max().unwrap_or(0)
    }
}

/// What the method keeps beside the seats.
#[derive(Debug)]
pub(in crate::pool) struct Fastest {
    /// In the order of the backends; none with another method.
    times: Vec<Times>,
    /// The members of the first two sets, each a heap: the one chosen longest ago first.
    longest_ago: [Vec<u32>; 2],
    slowest: Slowest,
}

impl Fastest {
    /// Bytes for each backend.
    pub(in crate::pool) const BYTES_EACH: usize = size_of::<Times>() + 4;

    /// For so many backends and backups, or none.
    pub(in crate::pool) fn with_room(counts: [usize; 2]) -> Fastest {
        Fastest {
            times: vec![Times::default(); counts[0] + counts[1]],
            longest_ago: counts.map(Vec::with_capacity),
            slowest: Slowest::default(),
        }
    }

    /// The member to choose, of at least one, and whether its time has come.
    pub(in crate::pool) fn next(
        &self,
        groups: &Groups,
        tier: Tier,
        seats: &[Seat],
        now_ms: u64,
    ) -> (u32, bool) {
        if let Some(&place) = self.longest_ago[tier as usize].first() {
            let waited_ms = now_ms.saturating_sub(self.times[place as usize].chosen_ms);
            if seats[place as usize].last == 0 || waited_ms >= CHOSEN_EVERY_MS {
                return (place, true);
            }
        }
        let heads = groups
            .live()
            .iter()
            .filter_map(|group| group.members.first());
        let first = heads.copied().min_by_key(|&place| {
            let seat = &seats[place as usize];
            (seat.order, seat.last, place)
        });
        (first.unwrap_or(0), false)
    }

    /// A member of this set has joined.
    pub(in crate::pool) fn join(&mut self, set: usize, place: u32, seats: &mut [Seat]) {
        let heap = &mut self.longest_ago[set];
        let at = heap.len();
        heap.push(place);
        seats[place as usize].at[By::Turn as usize] = u32::try_from(at).unwrap_or(u32::MAX);
        settle(heap, at, seats, By::Turn);
    }

    /// A member has left.
    pub(in crate::pool) fn leave(&mut self, set: usize, place: u32, seats: &mut [Seat]) {
        let heap = &mut self.longest_ago[set];
        let at = seats[place as usize].at[By::Turn as usize];
        let left = heap.swap_remove(at as usize);
        debug_assert_eq!(left, place, "a seat knows where it is in the heap");
        if let Some(&moved) = heap.get(at as usize) {
            seats[moved as usize].at[By::Turn as usize] = at;
            settle(heap, at as usize, seats, By::Turn);
        }
    }

    /// A backend was chosen, its `last` is set.
    pub(in crate::pool) fn took(&mut self, place: u32, seats: &mut [Seat], now_ms: u64) {
        let times = &mut self.times[place as usize];
        times.chosen_ms = now_ms;
        times.is_awaited |= now_ms.saturating_sub(times.answered_ms) >= HALF_LIFE_MS;
        let seat = &seats[place as usize];
        let at = seat.at[By::Turn as usize] as usize;
        if let Some(heap) = self.longest_ago.get_mut(seat.tier as usize)
            && heap.get(at) == Some(&place)
        {
            settle(heap, at, seats, By::Turn);
        }
    }

    /// Its exchanges are so many now: where it stands.
    pub(in crate::pool) fn order(&mut self, place: u32, in_flight: u64, weight: u32) -> u64 {
        let times = &mut self.times[place as usize];
        // The client may have left before the answer.
        times.is_awaited &= in_flight > 0;
        times.order(in_flight, weight)
    }

    /// Of a backend, if this is the method.
    pub(in crate::pool) fn times(&mut self, place: usize) -> Option<&mut Times> {
        self.times.get_mut(place)
    }

    /// Goes on where the chooser of another pool stops.
    pub(in crate::pool) fn take_over(&mut self, before: &Fastest) {
        self.slowest = before.slowest;
    }

    /// All members leave.
    pub(in crate::pool) fn clear(&mut self) {
        for heap in &mut self.longest_ago {
            heap.clear();
        }
    }
}

impl Chooser {
    /// A try of this backend has ended, after so many microseconds.
    pub(in crate::pool) fn served(
        &mut self,
        state: &BackendState,
        took_us: u64,
        result: TryResult,
        now_ms: u64,
    ) {
        let Some(place) = self.place(state) else {
            return;
        };
        if self.method != Method::Fastest {
            return;
        }
        let Fastest { times, slowest, .. } = &mut self.fastest;
        let counts_as_us = match result {
            TryResult::Good => {
                slowest.add(took_us, now_ms);
                took_us
            }
            TryResult::Bad | TryResult::BrokeOff => {
                let slowest_us = slowest.of_last_seconds(now_ms);
                took_us.max(slowest_us).max(FAILURE_US_MIN)
            }
        };
        // The head of an answer that breaks off was counted as a good one.
        let is_sure = result == TryResult::BrokeOff;
        times[place as usize].answered(counts_as_us, is_sure, now_ms);
        self.weigh(place);
    }
}

/// How a try has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum TryResult {
    Good,
    Bad,
    /// The answer did, after a try that was told of already.
    BrokeOff,
}

/// One, for the numbers of [`left_after`].
const ALL: u64 = 1 << 32;

/// What the half-life leaves of one after so many milliseconds, less than [`FORGOTTEN_MS`].
fn left_after(ms: u64) -> u64 {
    let (halves, rest) = (ms / HALF_LIFE_MS, ms % HALF_LIFE_MS);
    // 2^-x is 2^(1 - x) / 2.
    let power = ((HALF_LIFE_MS - rest) << 16) / HALF_LIFE_MS;
    let two_to = (1 << 16) + power - bend(power);
    two_to << 15 >> halves
}

/// The logarithm to base 2 of a number that is not 0, in units of 1 / 2^16.
fn log2(number: u64) -> u64 {
    let zeros = number.leading_zeros();
    let fraction = (number << zeros << 1) >> 48;
    (u64::from(63 - zeros) << 16) + fraction + bend(fraction)
}

/// By how much the logarithm lies above the straight line from one power of two to the next, and
/// the power below it: a parabola, which is right to 1 per cent.
fn bend(fraction: u64) -> u64 {
    const STEEPNESS: u64 = 22_544;
    let parabola = (fraction * ((1 << 16) - fraction)) >> 16;
    (parabola * STEEPNESS) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_precision_loss)]
    fn logarithms_and_powers_are_right_to_one_per_cent_and_grow_steadily() {
        let mut before = 0;
        for number in (1..100_000u64).chain((0..40).map(|power| 100_001 << power)) {
            let found = log2(number);
            assert!(found >= before, "{number}");
            let wanted = (number as f64).log2() * 65_536.0;
            assert!((found as f64 - wanted).abs() < 600.0, "{number}: {found}");
            before = found;
        }
        let mut before = ALL;
        for ms in 0..FORGOTTEN_MS {
            let found = left_after(ms);
            assert!(found <= before);
            let wanted = ALL as f64 * (-(ms as f64) / 3000.0).exp2();
            assert!(
                (found as f64 - wanted).abs() <= wanted / 100.0 + 1.0,
                "{ms}"
            );
            before = found;
        }
        assert_eq!((left_after(0), left_after(3000)), (ALL, ALL / 2));
    }

    fn average_us(times: &Times) -> u64 {
        times.average >> 8
    }

    #[test]
    fn an_average_halves_in_three_seconds_and_jumps_when_two_in_a_row_were_slower() {
        let mut times = Times::default();
        times.answered(8000, false, 5000);
        assert_eq!(average_us(&times), 8000, "the first");
        times.answered(2000, false, 8000);
        assert_eq!(average_us(&times), 5000);
        times.answered(1_000_000, false, 8000);
        assert_eq!(average_us(&times), 5000, "a dear request");
        times.answered(600_000, false, 8000);
        assert_eq!(average_us(&times), 600_000);
        times.answered(1, false, 11_000);
        times.answered(1, false, 14_000);
        assert_eq!(average_us(&times), 150_000);
        times.answered(1_000_000, true, 14_000);
        assert_eq!(average_us(&times), 1_000_000, "it broke off");
        times.answered(5000, false, 23_000);
        assert_eq!(average_us(&times), 5000, "the rest is forgotten");
    }

    #[test]
    fn time_does_not_change_the_order_of_backends() {
        // One of 8 ms now, one of 16 ms three seconds ago.
        let of = |average_us: u64, answered_ms| Times {
            average: average_us << 8,
            answered_ms,
            ..Times::default()
        };
        assert_eq!(of(8000, 9000).order(3, 5), of(16_000, 6000).order(3, 5));
        // Four at once take four times as long, four times the weight a quarter.
        assert_eq!(of(8000, 0).order(3, 5), of(32_000, 0).order(0, 5));
        assert_eq!(of(8000, 0).order(3, 20), of(8000, 0).order(0, 5));
        let unknown = Times::default();
        assert!(unknown.order(0, 1) < of(1, 0).order(0, 1000));
        assert!(unknown.order(1, 1) > of(1 << 40, 1 << 40).order(10_000, 1));
    }

    #[test]
    fn the_slowest_answer_is_forgotten_after_ten_seconds() {
        let mut slowest = Slowest::default();
        assert_eq!(slowest.of_last_seconds(0), 0);
        slowest.add(70, 1500);
        slowest.add(50, 1999);
        slowest.add(60, 7000);
        assert_eq!(slowest.of_last_seconds(11_500), 70);
        assert_eq!(slowest.of_last_seconds(12_000), 60);
        slowest.add(1, 12_500);
        assert_eq!(slowest.of_last_seconds(12_999), 60);
        assert_eq!(slowest.of_last_seconds(100_000), 0);
    }
}
