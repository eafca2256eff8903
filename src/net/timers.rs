//! Deadlines of a worker's connections, checked lazily.

use std::collections::BTreeSet;

use crate::net::clock::{Millis, NEVER};

/// Alarms, at most one for each client connection.
///
/// Renewing a deadline is the common case and costs nothing here: a connection whose deadline
/// moves *away* keeps its alarm, which rings too early, finds the later deadline and is set anew.
/// Only a deadline that comes *nearer* moves the alarm.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    set: BTreeSet<(Millis, u32)>,
}

impl Alarms {
    /// Makes the alarm of `index`, now set for `alarm`, ring no later than `deadline`.
    pub(crate) fn ensure(&mut self, index: u32, alarm: &mut Millis, deadline: Millis) {
        if deadline < *alarm {
            self.cancel(index, alarm);
            self.set.insert((deadline, index));
            *alarm = deadline;
        }
    }

    /// Takes the alarm back.
    pub(crate) fn cancel(&mut self, index: u32, alarm: &mut Millis) {
        if *alarm != NEVER {
            self.set.remove(&(*alarm, index));
            *alarm = NEVER;
        }
    }

    /// Takes out one alarm that has rung by `now`; its owner must mark it as `NEVER`.
    pub(crate) fn rung(&mut self, now: Millis) -> Option<u32> {
        let (at, index) = *self.set.first()?;
        if at > now {
            return None;
        }
        self.set.pop_first();
        Some(index)
    }

    /// When the next alarm rings.
    pub(crate) fn next(&self) -> Millis {
        self.set.first().map_or(NEVER, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_away_leaves_the_alarm_alone_and_a_nearer_one_moves_it() {
        let mut alarms = Alarms::default();
        let mut alarm = NEVER;
        alarms.ensure(1, &mut alarm, 100);
        alarms.ensure(1, &mut alarm, 500);
        assert_eq!((alarm, alarms.next()), (100, 100));
        alarms.ensure(1, &mut alarm, 50);
        assert_eq!((alarm, alarms.next()), (50, 50));
        assert_eq!(alarms.rung(49), None);
        assert_eq!(alarms.rung(50), Some(1));
        assert_eq!((alarms.rung(1000), alarms.next()), (None, NEVER));
    }

    #[test]
    fn a_cancelled_alarm_never_rings() {
        let mut alarms = Alarms::default();
        let (mut first, mut second) = (NEVER, NEVER);
        alarms.ensure(1, &mut first, 10);
        alarms.ensure(2, &mut second, 10);
        alarms.cancel(1, &mut first);
        assert_eq!(first, NEVER);
        assert_eq!(alarms.rung(10), Some(2));
        assert_eq!(alarms.rung(10), None);
    }
}
