//! The room of a chooser: all that it will ever need, made at once by the thread that makes the
//! pool.
//!
//! Read next: `pool/chooser/members.rs`, how a backend joins a set.

use std::sync::{Arc, Weak};

use crate::pool::backend::Backend;
use crate::pool::chooser::fastest::Fastest;
use crate::pool::chooser::groups::{self, Groups};
use crate::pool::chooser::rendezvous::Answers;
use crate::pool::chooser::turns::{self, Turns};
use crate::pool::chooser::{Chooser, Home, Seat};
use crate::pool::settings::Method;
use crate::pool::standing::Standing;
use crate::pool::state::NEVER;
use crate::pool::trace::{CANDIDATES_MAX, Verdict};
use crate::pool::trust::FULL;

/// The room of a set: a weight in tenths, and how many backends and how many backups may have it.
#[derive(Debug)]
pub(in crate::pool) struct Rooms {
    pub(in crate::pool) all: Vec<(u32, [usize; 2])>,
    /// So many of them, the first, are for backends with their whole weight.
    pub(in crate::pool) whole: usize,
}

impl Rooms {
    /// Of a set without members.
    const NONE: Rooms = Rooms {
        all: Vec::new(),
        whole: 0,
    };

    /// For backends with these weights, each with all of it or, if `grows`, with any tenth.
    fn of(weights: &[(u32, [usize; 2])], grows: bool) -> Rooms {
        let least = if grows { 1 } else { FULL };
        let tenths = (least..=FULL).rev();
        let of_tenth = |tenth| move |&(weight, counts): &(u32, _)| (weight * tenth, counts);
        Rooms {
            all: tenths
                .flat_map(|tenth| weights.iter().map(of_tenth(tenth)))
                .collect(),
            whole: weights.len(),
        }
    }
}

impl Chooser {
    /// Bytes for each backend, if all have other weights: its seat, entries in both queues of two
    /// sets or in two groups with their keys, its times, and in the list of those that wait.
    pub(in crate::pool) const BYTES_EACH: usize = size_of::<Seat>()
        + 4 * turns::QUEUE_BYTES
        + 2 * size_of::<groups::Group>()
        + 2 * (8 + 4)
        + 2 * (4 + 4)
        + Fastest::BYTES_EACH
        + 2 * 4;

    /// What is added to [`Chooser::BYTES_EACH`] where backends grow into their weight: nine more
    /// groups or queues in two sets, with room in those of one.
    pub(in crate::pool) const GROWING_BYTES_EACH: usize =
        (FULL as usize - 1) * (2 * turns::QUEUE_BYTES + 2 * 4);

    /// Bytes beside the backends.
    pub(in crate::pool) const BYTES: usize = size_of::<Chooser>() + Answers::BYTES;

    /// For these backends, none of which has joined a set yet.
    pub(in crate::pool) fn new(
        backends: Arc<[Arc<Backend>]>,
        method: Method,
        load_percent_max: Option<u32>,
        standing: Standing,
        home: Weak<Home>,
    ) -> Chooser {
        let heaviest = backends.iter().map(|backend| backend.settings.weight).max();
        let mut numbers = vec![u32::MAX; heaviest.unwrap_or(0) as usize + 1];
        let mut weights: Vec<(u32, [usize; 2])> = Vec::new();
        let mut seats = Vec::with_capacity(backends.len());
        for backend in &*backends {
            let weight = backend.settings.weight;
            let number = &mut numbers[weight as usize];
            if *number == u32::MAX {
                *number = u32::try_from(weights.len()).unwrap_or(u32::MAX);
                weights.push((weight, [0, 0]));
            }
            weights[*number as usize].1[usize::from(backend.settings.backup)] += 1;
            seats.push(Seat::new(*number));
        }
        let with_keys = method.is_by_hash();
        let grows = standing.slow_start_ms > 0 && !with_keys;
        let ejects = standing.ejected_percent_max.is_some();
        let (healthy, unhealthy) = (Rooms::of(&weights, grows), Rooms::of(&weights, false));
        let (in_turns, in_groups) = if method == Method::RoundRobin {
            (&healthy, &Rooms::NONE)
        } else {
            (&Rooms::NONE, &healthy)
        };
        let count = backends.len();
        let backups = backends.iter().filter(|one| one.settings.backup).count();
        let by_load = matches!(method, Method::LeastConnections | Method::Fastest);
        let with_times = if method == Method::Fastest {
            [count - backups, backups]
        } else {
            [0; 2]
        };
        Chooser {
            method,
            standing,
            home,
            seats,
            counts: [0; 4],
            full: [0; 4],
            turns: [
                (0, in_turns),
                (1, in_turns),
                (0, &unhealthy),
                (1, &unhealthy),
            ]
            .map(|(kind, rooms)| Turns::with_room(rooms, kind)),
            groups: [0, 1].map(|kind| Groups::with_room(in_groups, kind, with_keys)),
            loads: [0; 2],
            answers: Answers::new(if with_keys { count } else { 0 }),
            load_percent_max,
            at_bound: None,
            hears_ends: by_load || load_percent_max.is_some(),
            fastest: Fastest::with_room(with_times),
            choices: 0,
            epoch: 0,
            healthy: 0,
            waiting: Vec::with_capacity(count),
            next_due_ms: NEVER,
            weights: u32::try_from(weights.len()).unwrap_or(u32::MAX),
            back: Vec::with_capacity(if ejects { count } else { 0 }),
            fit: [0; 2],
            out: [0; 2],
            grows,
            candidates: Vec::with_capacity(if count > CANDIDATES_MAX { 0 } else { count }),
            stand: [0; Verdict::COUNT],
            #[cfg(test)]
            looked_at: 0,
            backends,
        }
    }

    /// Items for which there is room.
    #[cfg(test)]
    pub(in crate::pool) fn room(&self) -> usize {
        let turns: usize = self.turns.iter().map(Turns::room).sum();
        turns + self.seats.capacity() + self.waiting.capacity() + self.candidates.capacity()
    }
}
