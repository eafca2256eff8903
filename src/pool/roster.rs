//! Which backends a pool has, in its order; and the set of those that one request has tried, which outlives pools.

use std::sync::Arc;

use crate::pool::backend::Backend;
use crate::pool::state::BackendId;

/// The backends of one pool by their place, and their places by backend.
#[derive(Debug)]
pub(in crate::pool) struct Roster {
    by_place: Vec<BackendId>,
    /// Sorted.
    places: Vec<(BackendId, u32)>,
}

impl Roster {
    pub(in crate::pool) fn new(by_place: Vec<BackendId>) -> Roster {
        let mut places: Vec<(BackendId, u32)> = by_place.iter().copied().zip(0..).collect();
        places.sort_unstable();
        Roster { by_place, places }
    }

    /// The place of a backend, if it is in the pool.
    pub(in crate::pool) fn place(&self, backend: BackendId) -> Option<usize> {
        let found = self.places.binary_search_by_key(&backend, |&(id, _)| id);
        found.ok().map(|at| self.places[at].1 as usize)
    }
}

/// The backends that one request was sent to.
///
/// A bit for each place in the list of one pool, that of the last choice: small, and looked at for every backend at every
/// choice. Where a request is under way while the configuration changes, its next choice is made in another pool; then the
/// bits move to the places that the same backends have there.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    first: u64,
    /// Beyond the first 64; allocated for large pools only.
    rest: Vec<u64>,
    /// The list that the places are of; none as long as there is no bit and no walk.
    roster: Option<Arc<Roster>>,
    /// How many choices were made for it.
    pub(in crate::pool) choices: u32,
    pub(in crate::pool) walk: Option<Walk>,
}

/// How far a request has come that walks through the list.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Walk {
    /// The place where it began.
    pub(in crate::pool) start: usize,
    /// Which of the pool's rounds it makes.
    pub(in crate::pool) round: usize,
    /// How many places it has passed in it.
    pub(in crate::pool) passed: usize,
    /// How often a backend had come up before it began.
    pub(in crate::pool) came_up: usize,
    pub(in crate::pool) began_ms: u64,
}

impl Tried {
    /// Begins another request.
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

    /// Whether the backend at a place was tried; a place in the list that it follows.
    pub(in crate::pool) fn contains(&self, place: usize) -> bool {
        let word = match place / 64 {
            0 => self.first,
            word => self.rest.get(word - 1).copied().unwrap_or(0),
        };
        word >> (place % 64) & 1 == 1
    }

    /// From now on places are those of this list. A walk through another one begins again.
    pub(in crate::pool) fn take_up(&mut self, roster: &Arc<Roster>) {
        if self.roster.is_none() {
            self.roster = Some(Arc::clone(roster));
        }
        self.follow(roster);
    }

    /// The same, where a list has been taken up before: nothing to do for a first choice.
    #[inline]
    pub(in crate::pool) fn follow(&mut self, roster: &Arc<Roster>) {
        if let Some(known) = &self.roster
            && !Arc::ptr_eq(known, roster)
        {
            *self = self.moved(known, roster);
        }
    }

    /// The same backends with the places of another list, as far as they are in it.
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
