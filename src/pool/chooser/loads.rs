//! `least_connections`: the fewest exchanges in flight in proportion to weight.
//!
//! Each group of equal weight is a heap: the member with the fewest exchanges first, of equals the
//! one that was chosen longest ago. Between groups of different weights, those take turns whose
//! first member has no more than its share: it has too much when another one would, even with this
//! exchange added, have no more in proportion to its weight than it has now. With an idle pool that
//! leaves all groups, so that turns follow the weights and the lightest is not starved.

use crate::pool::chooser::Seat;
use crate::pool::chooser::groups::Groups;

/// The member to choose, of at least one.
pub(in crate::pool) fn least_loaded(groups: &mut Groups, seats: &[Seat]) -> u32 {
    let load = |place: u32| u64::from(seats[place as usize].load);
    let mut least = (u64::MAX, 1);
    let mut only = None;
    let mut count = 0;
    for group in groups.live() {
        if let Some(&place) = group.members.first() {
            (only, count) = (Some(place), count + 1);
            let (with_one, weight) = (load(place) + 1, u64::from(group.weight));
            // Crosswise instead of dividing: 32 bits by 10.
            if count == 1 || with_one * least.1 < least.0 * weight {
                least = (with_one, weight);
            }
        }
    }
    if let (Some(place), 1) = (only, count) {
        return place;
    }
    let mut total = 0;
    let (mut winner, mut best, mut best_credit) = (0, 0, i64::MIN);
    let live = groups.live_count();
    for (at, group) in groups.groups[..live].iter_mut().enumerate() {
        if let Some(&place) = group.members.first()
            && load(place) * least.1 < least.0 * u64::from(group.weight)
        {
            let share = group.share().cast_signed();
            total += share;
            group.credit += share;
            if group.credit > best_credit {
                (winner, best, best_credit) = (at, place, group.credit);
            }
        }
    }
    groups.groups[winner].credit -= total;
    best
}

/// By what a heap is in order; of equals, the one chosen longest ago is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum By {
    /// What the method goes by.
    Load,
    /// When they were last chosen alone.
    Turn,
}

/// Restores the order of a heap in which the member at `at` has joined, or has changed.
pub(in crate::pool) fn settle(members: &mut [u32], mut at: usize, seats: &mut [Seat], by: By) {
    while at > 0 && goes_before(members[at], members[(at - 1) / 2], seats, by) {
        swap(members, at, (at - 1) / 2, seats, by);
        at = (at - 1) / 2;
    }
    loop {
        let below = 2 * at + 1;
        if below >= members.len() {
            return;
        }
        let other = (below + 1).min(members.len() - 1);
        let least = if goes_before(members[other], members[below], seats, by) {
            other
        } else {
            below
        };
        if !goes_before(members[least], members[at], seats, by) {
            return;
        }
        swap(members, at, least, seats, by);
        at = least;
    }
}

fn swap(members: &mut [u32], one: usize, other: usize, seats: &mut [Seat], by: By) {
    members.swap(one, other);
    for at in [one, other] {
        seats[members[at] as usize].at[by as usize] = u32::try_from(at).unwrap_or(u32::MAX);
    }
}

fn goes_before(one: u32, other: u32, seats: &[Seat], by: By) -> bool {
    let key = |place: u32| {
        let seat = &seats[place as usize];
        let order = if by == By::Load { seat.order } else { 0 };
        (order, seat.last, place)
    };
    key(one) < key(other)
}
