//! What is going to happen, the next first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::simulate::numbers::index;

/// What happens at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) at_us: u64,
    /// Of two at the same time the one that was planned first comes first.
    order: u64,
    pub(super) what: What,
    /// A request, client or backend.
    pub(super) who: u32,
    /// Of the try, or of the check, that it was planned for.
    pub(super) stamp: u32,
    /// The backend.
    pub(super) server: u32,
    /// The life of its server, or the number of a change.
    pub(super) life: u32,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The next request comes.
    Arrival,
    /// A client asks again.
    Asks,
    /// A connection has opened, unless the server is down.
    Reached,
    ConnectTimeout,
    /// A server has done its work.
    Done,
    HeadTimeout,
    QueueTimeout,
    CheckBegins,
    CheckEnds,
    Change,
}

/// The events to come.
#[derive(Debug)]
pub(super) struct Agenda {
    events: BinaryHeap<Event>,
    planned: u64,
}

impl Agenda {
    pub(super) fn new() -> Agenda {
        Agenda {
            events: BinaryHeap::with_capacity(1024),
            planned: 0,
        }
    }

    /// Plans an event of a request or client at a time, for this try.
    pub(super) fn plan(&mut self, at_us: u64, what: What, who: u32, stamp: u32) {
        self.plan_at(at_us, what, who, stamp, (0, 0));
    }

    /// The same at a server.
    #[inline(never)]
    pub(super) fn plan_at(
        &mut self,
        at_us: u64,
        what: What,
        who: u32,
        stamp: u32,
        (server, life): (u32, u32),
    ) {
        self.planned = self.planned.wrapping_add(1);
        self.events.push(Event {
            at_us,
            order: self.planned,
            what,
            who,
            stamp,
            server,
            life,
        });
    }

    #[inline(never)]
    pub(super) fn next(&mut self) -> Option<Event> {
        self.events.pop()
    }
}

/// The places of the keys, the smallest key first.
#[inline(never)]
pub(super) fn sorted(keys: impl Iterator<Item = [u64; 2]>) -> Vec<u32> {
    let mut agenda = Agenda::new();
    for (who, [at_us, order]) in keys.enumerate() {
        agenda.planned = order.wrapping_sub(1);
        agenda.plan(at_us, What::Asks, index(who), 0);
    }
    let mut order = Vec::with_capacity(agenda.events.len());
    while let Some(event) = agenda.next() {
        order.push(event.who);
    }
    order
}

impl Ord for Event {
    /// The earliest is the greatest, as the heap returns that first.
    fn cmp(&self, other: &Event) -> Ordering {
        (other.at_us, other.order).cmp(&(self.at_us, self.order))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_two_at_once_the_one_planned_first() {
        let mut agenda = Agenda::new();
        for (who, at_us) in [5, 3, 5, 1, 3].into_iter().enumerate() {
            agenda.plan(at_us, What::Asks, index(who), 0);
        }
        let order: Vec<u32> = std::iter::from_fn(|| agenda.next().map(|it| it.who)).collect();
        assert_eq!(order, [3, 1, 4, 0, 2]);
    }

    #[test]
    fn keys_are_sorted_by_both_parts() {
        let keys = [[2, 0], [1, u64::MAX], [1, 7], [0, 9]];
        assert_eq!(sorted(keys.into_iter()), [3, 2, 1, 0]);
    }
}
