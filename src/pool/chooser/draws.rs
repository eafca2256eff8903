//! `random_two`: the better of two at random.

use crate::pool::chooser::groups::Groups;
use crate::pool::hash::mix;

/// Draws two of the members, at least one, by weight; takes the second only if it would, with this
/// exchange added, have no more in proportion to its weight than the first has without it.
pub(in crate::pool) fn better_of_two(
    random: &mut Random,
    groups: &Groups,
    load: impl Fn(u32) -> usize,
) -> u32 {
    let (group, at) = draw(random.below(groups.total), groups, None);
    let [first, weight] = [
        groups.groups[group].members[at],
        groups.groups[group].weight,
    ];
    let rest = groups.total - u64::from(weight);
    if rest == 0 {
        return first;
    }
    let (group, at) = draw(random.below(rest), groups, Some((group, at)));
    let [second, second_weight] = [
        groups.groups[group].members[at],
        groups.groups[group].weight,
    ];
    let (a, b) = (load(first) as u64, load(second) as u64);
    if (b + 1) * u64::from(weight) <= a * u64::from(second_weight) {
        return second;
    }
    first
}

/// The group and the place in it of the holder of a ticket, when each member but `without` has as
/// many tickets as its weight.
fn draw(mut ticket: u64, groups: &Groups, without: Option<(usize, usize)>) -> (usize, usize) {
    let mut last = (0, 0);
    for (number, group) in groups.live().iter().enumerate() {
        let missing = without.filter(|(of, _)| *of == number).map(|(_, at)| at);
        let count = group.members.len() - usize::from(missing.is_some());
        let share = u64::from(group.weight) * count as u64;
        if count == 0 {
            continue;
        }
        let drawn = if ticket < share {
            usize::try_from(ticket / u64::from(group.weight)).unwrap_or(0)
        } else {
            count - 1
        };
        // The last one has the tickets of the one that is missing.
        last = (number, if missing == Some(drawn) { count } else { drawn });
        match ticket.checked_sub(share) {
            Some(rest) => ticket = rest,
            None => break,
        }
    }
    last
}

/// A small generator (`SplitMix64`).
#[derive(Debug)]
pub(in crate::pool) struct Random(u64);

impl Random {
    pub(in crate::pool) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound` (at least 1); the bias of 2^-38 for a sum of weights of 2^26 does not
    /// matter.
    pub(in crate::pool) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = u128::from(mix(self.0)) * u128::from(bound);
        u64::try_from(number >> 64).unwrap_or(0)
    }
}
