//! The idle clients of a worker, longest idle first: those that have had an answer, and those that
//! have had none.
//!
//! All idle clients have the same time to live, so this order is also the order of their deadlines:
//! one look at the front of each list finds the next one to close, for its age or to make room.

use crate::net::clock::{Millis, NEVER};
use crate::net::room::{ITEMS_KEPT, make_room_in_list};

/// No index.
const NONE: u32 = u32::MAX;

/// In place of the next older index: this one is not in a list.
const UNLISTED: u32 = u32::MAX - 1;

/// The list of an idle client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has had an answer on this connection.
    Answered,
    /// It has had none.
    Silent,
}

/// Two doubly linked lists over one vector: an index stands in at most one of them.
#[derive(Debug)]
pub(crate) struct IdleList {
    links: Vec<Link>,
    answered: Ends,
    silent: Ends,
    length: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    since: Millis,
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Default for IdleList {
    fn default() -> Self {
        Self {
            links: Vec::with_capacity(ITEMS_KEPT),
            answered: Ends::default(),
            silent: Ends::default(),
            length: 0,
        }
    }
}

impl IdleList {
    /// Bytes for each index.
    pub(crate) const BYTES_EACH: usize = size_of::<Link>();

    /// Gives memory back when the lists are empty.
    pub(crate) fn give_back(&mut self) {
        let is_empty = self.answered.oldest == NONE && self.silent.oldest == NONE;
        if is_empty && self.links.capacity() > ITEMS_KEPT {
            *self = Self::default();
        }
    }

    /// Makes `index`, idle since `since`, the newest of its kind, whether it was listed or not.
    pub(crate) fn touch(&mut self, kind: Kind, index: u32, since: Millis) {
        self.remove(index);
        let at = index as usize;
        while self.links.len() <= at {
            make_room_in_list(&mut self.links);
            self.links.push(Link {
                since: NEVER,
                older: UNLISTED,
                newer: NONE,
            });
        }
        self.length += 1;
        let ends = match kind {
            Kind::Answered => &mut self.answered,
            Kind::Silent => &mut self.silent,
        };
        let older = std::mem::replace(&mut ends.newest, index);
        match older {
            NONE => ends.oldest = index,
            older => self.links[older as usize].newer = index,
        }
        self.links[at] = Link {
            since,
            older,
            newer: NONE,
        };
    }

    /// Removes `index` if it is in a list.
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else {
            return;
        };
        let Link { older, newer, .. } = *link;
        if older == UNLISTED {
            return;
        }
        link.older = UNLISTED;
        self.length -= 1;
        // At an end of its list, this changes that end.
        match older {
            NONE if self.answered.oldest == index => self.answered.oldest = newer,
            NONE => self.silent.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE if self.answered.newest == index => self.answered.newest = older,
            NONE => self.silent.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }

    /// How many there are in both lists.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The longest-idle index of this kind, and since when it is idle.
    #[inline(always)]
    pub(crate) fn oldest(&self, kind: Kind) -> Option<(u32, Millis)> {
        let ends = match kind {
            Kind::Answered => self.answered,
            Kind::Silent => self.silent,
        };
        let link = self.links.get(ends.oldest as usize)?;
        Some((ends.oldest, link.since))
    }

    /// The longest-idle index of both kinds.
    #[inline(always)]
    pub(crate) fn longest(&self) -> Option<(u32, Millis)> {
        let both = [Kind::Answered, Kind::Silent].map(|kind| self.oldest(kind));
        both.into_iter().flatten().min_by_key(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut list: IdleList, kind: Kind) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some((index, _)) = list.oldest(kind) {
            let length = list.len();
            order.push(index);
            list.remove(index);
            assert_eq!(list.len(), length - 1);
        }
        order
    }

    #[test]
    fn the_order_is_that_of_the_last_touch() {
        let mut list = IdleList::default();
        for (since, index) in (0..).zip([3, 0, 7, 0, 3, 3]) {
            list.touch(Kind::Answered, index, since);
        }
        assert_eq!((list.longest(), list.len()), (Some((7, 2)), 3));
        assert_eq!(drain(list, Kind::Answered), [7, 0, 3]);
    }

    #[test]
    fn removing_works_at_the_front_in_the_middle_at_the_end_and_twice() {
        for kind in [Kind::Answered, Kind::Silent] {
            for (removed, left) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
                let mut list = IdleList::default();
                (0..3).for_each(|index| list.touch(kind, index, 0));
                list.remove(removed);
                list.remove(removed);
                list.remove(99);
                assert_eq!(drain(list, kind), left);
            }
        }
    }

    #[test]
    fn an_empty_list_has_no_oldest() {
        let mut list = IdleList::default();
        assert_eq!(list.longest(), None);
        list.touch(Kind::Silent, 5, 1);
        list.remove(5);
        assert_eq!((list.longest(), list.oldest(Kind::Silent)), (None, None));
        list.touch(Kind::Silent, 5, 2);
        assert_eq!(list.oldest(Kind::Silent), Some((5, 2)));
        assert_eq!(drain(list, Kind::Silent), [5]);
    }

    #[test]
    fn an_index_stands_in_one_list_and_moves_from_one_to_the_other() {
        let mut list = IdleList::default();
        for index in 0..4 {
            list.touch(Kind::Silent, index, index.into());
        }
        list.touch(Kind::Answered, 0, 10);
        list.touch(Kind::Answered, 2, 11);
        list.touch(Kind::Silent, 0, 12);
        assert_eq!(list.longest(), Some((1, 1)));
        assert_eq!(list.oldest(Kind::Answered), Some((2, 11)));
        list.remove(1);
        list.remove(3);
        assert_eq!(list.longest(), Some((2, 11)));
        assert_eq!(drain(list, Kind::Silent), [0]);
    }
}
