//! A set of backends in groups of equal weight, for the methods that need no turns: in a group no
//! order, or that of a heap.

use crate::pool::chooser::Seat;
use crate::pool::chooser::loads::By;
use crate::pool::chooser::room::Rooms;

/// The groups of one set.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "there is no other word for them")]
pub(in crate::pool) struct Groups {
    pub(in crate::pool) groups: Vec<Group>,
    /// So many of them, the first, are of backends with their whole weight.
    whole: usize,
    /// The members of the others.
    partial: usize,
    /// The sum of the members' weights.
    pub(in crate::pool) total: u64,
}

/// Members of equal weight.
#[derive(Debug)]
pub(in crate::pool) struct Group {
    pub(in crate::pool) weight: u32,
    /// By place in the pool.
    pub(in crate::pool) members: Vec<u32>,
    /// The hash of each member's name, in the same order: for `hash` only.
    pub(in crate::pool) keys: Vec<u64>,
    /// For `least_connections`, the turns that are due to the group.
    pub(in crate::pool) credit: i64,
}

impl Group {
    /// The sum of its members' weights.
    pub(in crate::pool) fn share(&self) -> u64 {
        u64::from(self.weight) * self.members.len() as u64
    }
}

impl Groups {
    /// Without members, and with room for as many of each weight as are of this kind.
    #[inline(never)]
    pub(in crate::pool) fn with_room(rooms: &Rooms, kind: usize, with_keys: bool) -> Groups {
        let mut groups = Groups {
            whole: rooms.whole,
            ..Groups::default()
        };
        groups.groups.reserve_exact(rooms.all.len());
        for (weight, counts) in &rooms.all {
            groups.groups.push(Group {
                weight: *weight,
                members: Vec::with_capacity(counts[kind]),
                keys: Vec::with_capacity(if with_keys { counts[kind] } else { 0 }),
                credit: 0,
            });
        }
        groups
    }

    /// Adds a member at the end of its group.
    pub(in crate::pool) fn join(&mut self, place: u32, key: Option<u64>, seats: &mut [Seat]) {
        let seat = &mut seats[place as usize];
        let group = &mut self.groups[seat.group as usize];
        seat.at[By::Load as usize] = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
        group.members.push(place);
        group.keys.extend(key);
        self.total += u64::from(group.weight);
        self.partial += usize::from(seat.group as usize >= self.whole);
    }

    /// Removes a member; the last one of its group, if it is another, moves to where it was.
    pub(in crate::pool) fn leave(&mut self, place: u32, seats: &mut [Seat]) {
        let seat = &seats[place as usize];
        self.partial -= usize::from(seat.group as usize >= self.whole);
        let (group, at) = (
            &mut self.groups[seat.group as usize],
            seat.at[By::Load as usize],
        );
        let left = group.members.swap_remove(at as usize);
        debug_assert_eq!(left, place, "a seat knows where it is in its group");
        if !group.keys.is_empty() {
            group.keys.swap_remove(at as usize);
        }
        if let Some(&moved) = group.members.get(at as usize) {
            seats[moved as usize].at[By::Load as usize] = at;
        }
        self.total -= u64::from(group.weight);
    }

    /// All members leave.
    pub(in crate::pool) fn clear(&mut self) {
        for group in &mut self.groups {
            group.members.clear();
            group.keys.clear();
        }
        (self.total, self.partial) = (0, 0);
        self.begin_again();
    }

    /// Those that may have members.
    #[inline]
    pub(in crate::pool) fn live(&self) -> &[Group] {
        &self.groups[..self.live_count()]
    }

    #[inline]
    pub(in crate::pool) fn live_count(&self) -> usize {
        if self.partial == 0 {
            self.whole
        } else {
            self.groups.len()
        }
    }

    /// Turns between groups begin again: what they are due depends on how many members each has.
    pub(in crate::pool) fn begin_again(&mut self) {
        for group in &mut self.groups {
            group.credit = 0;
        }
    }
}
