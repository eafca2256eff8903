//! Bounded loads: by hash a backend takes no more than a multiple of its share of what is in flight.
//!
//! The answer is looked up as without; only when that backend is at its bound, one more run finds
//! the best score among those that are not. One is always below: together the bounds allow for more
//! than is in flight.
//!
//! Read next: `pool/chooser/rendezvous.rs`, the scores.

use crate::pool::Tier;
use crate::pool::chooser::Chooser;
use crate::pool::chooser::rendezvous::highest_score;
use crate::pool::roster::Tried;
use crate::pool::trace::{Decision, Verdict};

/// How many exchanges each member of a set may have by hash.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Bound {
    percent: u64,
    /// In flight in the set, with the one that is to be placed.
    load: u64,
    /// The weight of the set.
    total: u64,
}

impl Bound {
    /// For one more exchange in a set of this weight that has so many.
    pub(in crate::pool) fn of(percent: u32, load: u64, total: u64) -> Bound {
        Bound {
            percent: percent.into(),
            load: load + 1,
            total,
        }
    }

    /// Whether a member of this weight with so many exchanges may take one more: whether with it,
    /// it has at most `percent / 100 * load * weight / total`, rounded up.
    pub(in crate::pool) fn allows(self, load: u32, weight: u32) -> bool {
        // Bits: 20 by 7 by 28, for a million exchanges and ten thousand of the heaviest; 10 by 21 by 14.
        u64::from(load) * 100 * self.total < self.percent * self.load * u64::from(weight)
    }
}

/// Why a choice by hash took another backend than the first.
#[derive(Debug)]
pub(in crate::pool) struct AtBound {
    first: u32,
    tier: Tier,
    bound: Bound,
}

impl Chooser {
    /// The first answer by hash; or the next that is not at its bound.
    #[inline]
    pub(in crate::pool) fn below_bound(&mut self, first: u32, tier: Tier, key: u64) -> u32 {
        let Some(percent) = self.load_percent_max else {
            return first;
        };
        let groups = &self.groups[tier as usize];
        let bound = Bound::of(percent, self.loads[tier as usize], groups.total);
        let seat = &self.seats[first as usize];
        if bound.allows(seat.load, groups.groups[seat.group as usize].weight) {
            return first;
        }
        #[cfg(test)]
        {
            self.answers.runs += 1;
        }
        self.at_bound = Some(AtBound { first, tier, bound });
        highest_score(groups, key, Some((bound, &self.seats)))
    }

    /// Records which backends were at their bounds when the last choice took the next by hash.
    #[cold]
    pub(in crate::pool) fn record_bound(&self, tried: &Tried, decision: &mut Decision) {
        let Some(why) = &self.at_bound else {
            return;
        };
        self.show(why.first as usize, decision);
        decision.passed_over(self.backends[why.first as usize].id, Verdict::AtBound);
        // Without candidates of its own it is one of many: the others are counted as they stand.
        for (place, candidate) in self.candidates.iter().enumerate() {
            let seat = &self.seats[place];
            let group = &self.groups[why.tier as usize].groups[seat.group as usize];
            if seat.tier == why.tier
                && !tried.contains(place)
                && !why.bound.allows(seat.load, group.weight)
            {
                decision.passed_over(candidate.backend, Verdict::AtBound);
            }
        }
    }
}
