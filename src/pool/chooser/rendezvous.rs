//! `hash`: rendezvous hashing.
//!
//! Each backend has a score with a client that depends on no other backend, and the best score
//! wins; so losing a backend moves its own clients only, and spreads them evenly. The score is an
//! exponential variable, -log2(hash / 2^64) / weight, and the smallest wins with a probability in
//! proportion to its weight. In a group of equal weight that is the greatest hash, so each group is
//! one run over an array of names' keys, and one logarithm.
//!
//! The answers of clients that came lately are remembered, so that most requests cost no run at all
//! however many backends there are. An answer holds as long as its backend is in the set and no
//! other has joined: a backend that leaves moves its own clients only.
//!
//! Read next: `pool/chooser/bound.rs`, bounded loads.

use crate::pool::chooser::Seat;
use crate::pool::chooser::bound::Bound;
use crate::pool::chooser::groups::{Group, Groups};
use crate::pool::hash::{before_last_step, log2, mix};

/// Answers that are remembered: about as many as a run of a thousand clients at once needs for one
/// in ten of them to be overwritten by another.
const ANSWERS: usize = 4096;

/// With fewer backends a run costs no more than a look at what is remembered.
const REMEMBERED_FROM: usize = 17;

/// The last answers, by client.
#[derive(Debug)]
pub(in crate::pool) struct Answers {
    by_client: Vec<Answer>,
    /// How many times a backend has joined a set.
    joined: u32,
    /// How often all members were looked at.
    #[cfg(test)]
    pub(in crate::pool) runs: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    client_key: u64,
    joined: u32,
    place: u32,
}

impl Answers {
    /// Bytes of all of them.
    pub(in crate::pool) const BYTES: usize = ANSWERS * size_of::<Answer>();

    /// For so many backends.
    pub(in crate::pool) fn new(backends: usize) -> Answers {
        let number = if backends < REMEMBERED_FROM {
            0
        } else {
            ANSWERS
        };
        Answers {
            by_client: vec![Answer::default(); number],
            // What no answer has yet.
            joined: 1,
            #[cfg(test)]
            runs: 0,
        }
    }

    /// A backend has joined a set: it may be the better answer for any client.
    pub(in crate::pool) fn forget(&mut self) {
        self.joined = self.joined.wrapping_add(1);
        if self.joined == 0 {
            self.by_client.fill(Answer::default());
            self.joined = 1;
        }
    }

    /// The member with the best score, of at least one; `is_member` tells whether one that was
    /// remembered still is in the set.
    pub(in crate::pool) fn of(
        &mut self,
        client_key: u64,
        groups: &Groups,
        is_member: impl Fn(u32) -> bool,
    ) -> u32 {
        let highest_score = |groups, client_key| highest_score(groups, client_key, None);
        // The client's key is a hash itself.
        let at = usize::try_from(client_key % ANSWERS as u64).unwrap_or(0);
        let Some(known) = self.by_client.get_mut(at) else {
            return highest_score(groups, client_key);
        };
        if known.client_key == client_key && known.joined == self.joined && is_member(known.place) {
            return known.place;
        }
        #[cfg(test)]
        {
            self.runs += 1;
        }
        let place = highest_score(groups, client_key);
        *known = Answer {
            client_key,
            joined: self.joined,
            place,
        };
        place
    }
}

/// The member with the best score, of at least one; of those below the bound, if there is one.
pub(in crate::pool) fn highest_score(
    groups: &Groups,
    client_key: u64,
    bound: Option<(Bound, &[Seat])>,
) -> u32 {
    let mut best: Option<(&Group, (u64, usize))> = None;
    for group in groups.live() {
        let may_take = |at: usize| {
            bound.is_none_or(|(bound, seats)| {
                bound.allows(seats[group.members[at] as usize].load, group.weight)
            })
        };
        let Some(this) = highest(group, client_key, may_take) else {
            continue;
        };
        if best.is_none_or(|best| is_better((group.weight, this.0), (best.0.weight, best.1.0))) {
            best = Some((group, this));
        }
    }
    best.map_or(0, |(group, (_, at))| group.members[at])
}

/// The greatest hash in a group of those that may take it, and where it is.
fn highest(
    group: &Group,
    client_key: u64,
    may_take: impl Fn(usize) -> bool,
) -> Option<(u64, usize)> {
    let mut best = None;
    let mut upper = 0;
    for (at, &key) in group.keys.iter().enumerate() {
        let number = client_key.wrapping_add(key);
        // The last step leaves the upper half as it is: most often that decides.
        if before_last_step(number) >= upper {
            let hash = mix(number);
            if best.is_none_or(|(most, _)| hash > most) && may_take(at) {
                best = Some((hash, at));
                upper = hash >> 32 << 32;
            }
        }
    }
    best
}

fn is_better((weight, a): (u32, u64), (best_weight, b): (u32, u64)) -> bool {
    if weight == best_weight {
        return a > b;
    }
    // Crosswise instead of dividing; 38 bits by 14. Equal logarithms are decided as equal weights
    // are.
    let (x, y) = (
        minus_log2(a) * u64::from(best_weight),
        minus_log2(b) * u64::from(weight),
    );
    x < y || x == y && a > b
}

/// -log2(hash / 2^64) in units of 2^-32, more than 0.
fn minus_log2(hash: u64) -> u64 {
    (64 << 32) - log2(hash.max(1))
}
