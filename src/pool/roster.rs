//! The backends of a pool in its order, and the set of those that one request has tried, which
//! outlives pools.

use std::sync::Arc;

use crate::pool::backend::Backend;
use crate::pool::state::BackendId;

/// The backends of one pool by place, and their places by backend.
#[derive(Debug)]
pub(in crate::pool) struct Roster {
    by_place: Vec<BackendId>,
    /// Sorted by backend.
    places: Vec<(BackendId, u32)>,
}

impl Roster {
    pub(in crate::pool) fn new(by_place: Vec<BackendId>) -> Roster {
        let mut places: Vec<(BackendId, u32)> = by_place.iter().copied().zip(0..).collect();
        places.sort_unstable();
        Roster { by_place, places }
    }

    /// The place of a backend, if it is in this pool.
    pub(in crate::pool) fn place(&self, backend: BackendId) -> Option<usize> {
        let found = self.places.binary_search_by_key(&backend, |&(id, _)| id);
        found.ok().map(|at| self.places[at].1 as usize)
    }
}

/// The backends that one request was sent to.
///
/// A bit for each place in the list of one pool, the one of the last choice: small, since every
/// request has one. If the configuration changes during a request, its next
/// choice is made in another pool; then the bits move to the places of the same backends there.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    first: u64,
    /// Beyond the first 64 places; allocated for large pools only.
    rest: Vec<u64>,
    /// The list that the places refer to; none while no bit is set and no walk has begun.
    roster: Option<Arc<Roster>>,
    /// How many choices were made for the request.
    pub(in crate::pool) choices: u32,
    pub(in crate::pool) walk: Option<Walk>,
}

/// The progress of a request that walks through the list.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Walk {
    /// The place where it began.
    pub(in crate::pool) start: usize,
    /// The round of the walk.
    pub(in crate::pool) round: usize,
    /// How many places of this round it has passed.
    pub(in crate::pool) passed: usize,
    /// How many times a backend had come up before it began.
    pub(in crate::pool) came_up: usize,
    pub(in crate::pool) began_ms: u64,
}

impl Tried {
    /// Empties the set for another request.
    pub fn clear(&mut self) {
        self.first = 0;
        self.rest.clear();
        self.roster = None;
        self.choices = 0;
        self.walk = None;
    }

    /// Adds a backend.
    pub fn insert(&mut self, backend: &Backend) {
        self.take_up(&backend.roster);
        self.set(backend.index);
    }

    /// Whether the backend at a place, in the list taken up last, was tried.
    pub(in crate::pool) fn contains(&self, place: usize) -> bool {
        let word = match place / 64 {
            0 => self.first,
            word => self.rest.get(word - 1).copied().unwrap_or(0),
        };
        word >> (place % 64) & 1 == 1
    }

    /// Whether this backend was tried, whichever list it is in.
    pub(in crate::pool) fn has(&self, backend: &Backend) -> bool {
        let place = match &self.roster {
            None => None,
            Some(known) if Arc::ptr_eq(known, &backend.roster) => Some(backend.index),
            Some(known) => known.place(backend.id),
        };
        place.is_some_and(|place| self.contains(place))
    }

    /// Whether the places, if there are any, are those of this list.
    pub(in crate::pool) fn is_of(&self, roster: &Arc<Roster>) -> bool {
        self.is_empty()
            || self
                .roster
                .as_ref()
                .is_some_and(|known| Arc::ptr_eq(known, roster))
    }

    /// Whether none was tried.
    pub(in crate::pool) fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.is_empty()
    }

    /// The places of those that were tried, in the list taken up last.
    pub(in crate::pool) fn places(&self) -> impl Iterator<Item = u32> + '_ {
        let words = std::iter::once(self.first).chain(self.rest.iter().copied());
        (0..).step_by(64).zip(words).flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                // None for a word that is 0.
                word &= word.checked_sub(1)?;
                Some(first + bit)
            })
        })
    }

    /// From now on places are those of this list. A walk through another list begins again.
    pub(in crate::pool) fn take_up(&mut self, roster: &Arc<Roster>) {
        if self.roster.is_none() {
            self.roster = Some(Arc::clone(roster));
        }
        self.follow(roster);
    }

    /// The same, if a list was taken up before: nothing to do for a first choice.
    #[inline]
    pub(in crate::pool) fn follow(&mut self, roster: &Arc<Roster>) {
        if let Some(known) = &self.roster
            && !Arc::ptr_eq(known, roster)
        {
            *self = self.moved(known, roster);
        }
    }

    /// The same backends by their places in another list, as far as they are in it.
    #[cold]
    fn moved(&self, from: &Roster, to: &Arc<Roster>) -> Tried {
        let mut moved = Tried {
            roster: Some(Arc::clone(to)),
            choices: self.choices,
            ..Tried::default()
        };
        for (place, &backend) in from.by_place.iter().enumerate() {
            if self.contains(place)
                && let Some(place) = to.place(backend)
            {
                moved.set(place);
            }
        }
        moved
    }

    fn set(&mut self, place: usize) {
        match place / 64 {
            0 => self.first |= 1 << place,
            word => {
                if self.rest.len() < word {
                    self.rest.resize(word, 0);
                }
                self.rest[word - 1] |= 1 << (place % 64);
            }
        }
    }
}
