//! Deadlines of a worker's connections, checked lazily.

use crate::net::clock::{Millis, NEVER};
use crate::net::room::{ITEMS_KEPT, make_room_in_list};

/// No place in the heap.
const NONE: u32 = u32::MAX;

/// Timers, at most one for each client connection: a binary heap that knows the place of each.
///
/// Renewing a deadline is the common case and costs nothing here: a connection whose deadline moves
/// *away* keeps its timer, which expires too early, meets the later deadline and is set again. Only
/// a deadline that comes *nearer* moves the timer.
///
/// A tree would do as well, but its many small nodes would keep the memory between them from being
/// given back.
#[derive(Debug)]
pub(crate) struct Timers {
    /// A heap, the next timer first: each is no later than those at twice its place plus one and
    /// plus two.
    heap: Vec<(Millis, u32)>,
    /// By connection: where its timer is in the heap.
    places: Vec<u32>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heap: Vec::with_capacity(ITEMS_KEPT),
            places: Vec::with_capacity(ITEMS_KEPT),
        }
    }
}

impl Timers {
    /// Bytes of one timer.
    pub(crate) const BYTES_EACH: usize = size_of::<(Millis, u32)>() + size_of::<u32>();

    /// Makes the timer of `index`, now set for `timer`, expire at `deadline` or before.
    pub(crate) fn ensure(&mut self, index: u32, timer: &mut Millis, deadline: Millis) {
        if deadline >= *timer {
            return;
        }
        let at = if *timer == NEVER {
            make_room_in_list(&mut self.heap);
            self.heap.push((deadline, index));
            while self.places.len() <= index as usize {
                make_room_in_list(&mut self.places);
                self.places.push(NONE);
            }
            self.heap.len() - 1
        } else {
            let at = self.places[index as usize] as usize;
            self.heap[at].0 = deadline;
            at
        };
        *timer = deadline;
        self.rise(at);
    }

    /// Removes the timer.
    pub(crate) fn cancel(&mut self, index: u32, timer: &mut Millis) {
        if *timer != NEVER {
            *timer = NEVER;
            self.remove(self.places[index as usize] as usize);
        }
    }

    /// Removes and returns a timer that has expired by `now`; its owner must mark it as `NEVER`.
    pub(crate) fn expired(&mut self, now: Millis) -> Option<u32> {
        let (at, index) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(0);
        Some(index)
    }

    /// When the next timer expires.
    pub(crate) fn next(&self) -> Millis {
        self.heap.first().map_or(NEVER, |(at, _)| *at)
    }

    /// Gives memory back when no timer is set.
    pub(crate) fn give_back(&mut self) {
        if self.heap.is_empty() && self.places.capacity() > ITEMS_KEPT {
            *self = Self::default();
        }
    }

    fn remove(&mut self, at: usize) {
        let (_, index) = self.heap.swap_remove(at);
        self.places[index as usize] = NONE;
        if at < self.heap.len() {
            // The last timer is there now; it may belong on either side.
            self.sink(at);
            self.rise(at);
        }
    }

    /// Moves the timer at `at` up to where it belongs.
    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.heap[at] < self.heap[(at - 1) / 2] {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        self.note_place(at);
    }

    /// Moves it down.
    fn sink(&mut self, mut at: usize) {
        while let Some(first) = self.heap.get(2 * at + 1) {
            let second = self.heap.get(2 * at + 2);
            let next = 2 * at + 1 + usize::from(second.is_some_and(|second| second < first));
            if self.heap[at] <= self.heap[next] {
                break;
            }
            self.swap(at, next);
            at = next;
        }
        self.note_place(at);
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note_place(one);
        self.note_place(other);
    }

    fn note_place(&mut self, at: usize) {
        let (_, index) = self.heap[at];
        self.places[index as usize] =
            u32::try_from(at).expect("no more timers than connections, which fit 31 bits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_away_leaves_the_timer_alone_and_a_nearer_one_moves_it() {
        let mut timers = Timers::default();
        let mut timer = NEVER;
        timers.ensure(1, &mut timer, 100);
        timers.ensure(1, &mut timer, 500);
        assert_eq!((timer, timers.next()), (100, 100));
        timers.ensure(1, &mut timer, 50);
        assert_eq!((timer, timers.next()), (50, 50));
        assert_eq!(timers.expired(49), None);
        assert_eq!(timers.expired(50), Some(1));
        assert_eq!((timers.expired(1000), timers.next()), (None, NEVER));
    }

    #[test]
    fn a_cancelled_timer_never_expires() {
        let mut timers = Timers::default();
        let (mut first, mut second) = (NEVER, NEVER);
        timers.ensure(1, &mut first, 10);
        timers.ensure(2, &mut second, 10);
        timers.cancel(1, &mut first);
        assert_eq!(first, NEVER);
        assert_eq!(timers.expired(10), Some(2));
        assert_eq!(timers.expired(10), None);
    }

    #[test]
    fn timers_expire_in_the_order_of_their_times_whatever_was_set_moved_and_cancelled() {
        let mut timers = Timers::default();
        let mut set = [NEVER; 50];
        let mut random: u32 = 1;
        for _ in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (index, time) = (random >> 24, u64::from(random >> 8 & 0xff));
            let at = index as usize % set.len();
            let index = u32::try_from(at).unwrap();
            if random.is_multiple_of(4) {
                timers.cancel(index, &mut set[at]);
            } else {
                timers.ensure(index, &mut set[at], time);
            }
            assert_eq!(timers.next(), *set.iter().min().unwrap());
        }
        let mut order = Vec::new();
        while let Some(index) = timers.expired(NEVER) {
            order.push(set[index as usize]);
            set[index as usize] = NEVER;
        }
        assert!(order.is_sorted() && order.len() > 10);
        assert!(set.iter().all(|timer| *timer == NEVER));
        timers.give_back();
        assert!(timers.heap.is_empty() && timers.places.capacity() == ITEMS_KEPT);
    }
}
