//! The idle clients of a worker, longest idle first.
//!
//! All of them have the same time to live, so this order is also the order of their deadlines:
//! one look at the front finds who must go, whether for its age or to make room.

/// No index.
const NONE: u32 = u32::MAX;

/// In place of the next older one: this one is not listed.
const UNLISTED: u32 = u32::MAX - 1;

/// Indices in the order in which they were last touched: a doubly linked list over a vector.
#[derive(Debug)]
pub(crate) struct IdleList {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

impl Default for IdleList {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl IdleList {
    /// Makes `index` the newest, whether it was listed or not.
    pub(crate) fn touch(&mut self, index: u32) {
        if self.newest == index {
            return;
        }
        self.remove(index);
        let at = index as usize;
        if at >= self.links.len() {
            self.links.resize(
                at + 1,
                Link {
                    older: UNLISTED,
                    newer: NONE,
                },
            );
        }
        self.links[at] = Link {
            older: self.newest,
            newer: NONE,
        };
        match self.newest {
            NONE => self.oldest = index,
            newest => self.links[newest as usize].newer = index,
        }
        self.newest = index;
    }

    /// Takes `index` out, if it is listed.
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(index as usize) else {
            return;
        };
        let Link { older, newer } = *link;
        if older == UNLISTED {
            return;
        }
        link.older = UNLISTED;
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }

    /// The one that was touched longest ago.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut list: IdleList) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(index) = list.oldest() {
            order.push(index);
            list.remove(index);
        }
        order
    }

    #[test]
    fn the_order_is_that_of_the_last_touch() {
        let mut list = IdleList::default();
        for index in [3, 0, 7, 0, 3, 3] {
            list.touch(index);
        }
        assert_eq!(drain(list), [7, 0, 3]);
    }

    #[test]
    fn removing_works_at_the_front_in_the_middle_at_the_end_and_twice() {
        for (removed, left) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
            let mut list = IdleList::default();
            (0..3).for_each(|index| list.touch(index));
            list.remove(removed);
            list.remove(removed);
            list.remove(99);
            assert_eq!(drain(list), left);
        }
    }

    #[test]
    fn an_empty_list_has_no_oldest() {
        let mut list = IdleList::default();
        assert_eq!(list.oldest(), None);
        list.touch(5);
        list.remove(5);
        assert_eq!(list.oldest(), None);
        list.touch(5);
        assert_eq!(drain(list), [5]);
    }
}
