//! Why each exchange went to its backend: a bounded record in small codes.
//!
//! The pool records how it chose, the exchange how each try ended; both only store numbers in a
//! fixed place. The reader makes text of them. A [`Decision`] belongs to one exchange; each worker
//! keeps its last ones in a [`Decisions`] ring, which is locked only for a copy.
//!
//! Read next: `pool/trace/decision.rs`, the record. Its codes are in `codes.rs`.

mod codes;
mod decision;
mod few;

use std::sync::Mutex;

use crate::net::lock::lock;

pub use codes::{Outcome, Rule, Stage, Verdict};
pub use decision::{CANDIDATES_MAX, Candidate, Decision, TRIES_MAX, Try};

/// Exchanges recorded in each ring.
pub const DECISIONS_MAX: usize = 256;

/// The last exchanges of one worker.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    kept: Vec<Decision>,
    /// The oldest, once the ring is full.
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Ring {
            // Allocated at the start: a later allocation that stays would keep the memory below it
            // from being given back.
            kept: Vec::with_capacity(DECISIONS_MAX),
            next: 0,
        }
    }
}

impl Decisions {
    /// Bytes of a ring.
    pub(crate) const BYTES: usize = DECISIONS_MAX * size_of::<Decision>();

    /// Adds a record; the oldest goes when there are [`DECISIONS_MAX`].
    pub fn push(&self, decision: &Decision) {
        let mut ring = lock(&self.0);
        if ring.kept.len() < DECISIONS_MAX {
            ring.kept.push(*decision);
            return;
        }
        let next = ring.next;
        ring.kept[next] = *decision;
        ring.next = (next + 1) % DECISIONS_MAX;
    }

    /// A copy, the oldest first.
    pub fn snapshot(&self) -> Vec<Decision> {
        let ring = lock(&self.0);
        let (newer, older) = ring.kept.split_at(ring.next);
        [older, newer].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_ones_oldest_first() {
        let decisions = Decisions::default();
        assert!(decisions.snapshot().is_empty());
        for kept in [
            1,
            DECISIONS_MAX - 1,
            DECISIONS_MAX,
            DECISIONS_MAX + 1,
            3 * DECISIONS_MAX + 7,
        ] {
            let decisions = Decisions::default();
            let mut decision = Decision::default();
            for number in 0..kept as u64 {
                decision.at_unix_ms = number;
                decisions.push(&decision);
            }
            let times: Vec<u64> = decisions
                .snapshot()
                .iter()
                .map(|decision| decision.at_unix_ms)
                .collect();
            let first = kept.saturating_sub(DECISIONS_MAX) as u64;
            assert_eq!(times, (first..kept as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_ring_stays_small() {
        assert!(
            size_of::<Decision>() * DECISIONS_MAX <= 128 * 1024,
            "{} bytes each",
            size_of::<Decision>()
        );
    }
}
