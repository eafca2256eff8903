//! The backends that may be chosen, kept in order, so that a choice does not look at all of them.
//!
//! A backend is in one of four sets, or in none. Which one changes only when its health, the
//! operator's decision, its fullness or the time of a trial does, and then [`Chooser::update`]
//! moves this one backend. A choice is made in the first set that has a member, unless a set before
//! it has none only because all are full: others do not stand in for those. A backend that the
//! request has tried leaves its set for the moment. In each set backends of equal weight stand
//! together, in the order that the method needs: what a choice costs depends on how many weights
//! there are, not on how many backends.
//!
//! Each pool has a chooser, made with all its room by the thread that makes the pool. The pool that
//! chose last has its own in [`State`](crate::pool::following::State), behind the one lock; when
//! another one chooses, that takes over what the first knows of each backend (credits, quotas).
//!
//! Read next: `pool/chooser/turns.rs`, round robin. Beside it: `members.rs` (how a backend changes
//! its set), `due.rs` (what changes with time alone), `ejected.rs` (how much may be ejected at
//! once), `kept.rs` (how a chooser goes on where another one stops), `record.rs` (how the backends
//! stand), `room.rs` (all the memory that this needs).

mod bound;
pub(in crate::pool) mod draws;
mod due;
mod ejected;
pub(in crate::pool) mod fastest;
mod groups;
pub(in crate::pool) mod kept;
mod loads;
mod members;
mod record;
mod rendezvous;
mod room;
mod turns;

use std::sync::{Arc, Mutex, Weak};

use crate::pool::Tier;
use crate::pool::backend::Backend;
use crate::pool::chooser::bound::AtBound;
use crate::pool::chooser::draws::{Random, better_of_two};
use crate::pool::chooser::fastest::Fastest;
use crate::pool::chooser::groups::Groups;
use crate::pool::chooser::loads::least_loaded;
use crate::pool::chooser::rendezvous::{Answers, highest_score};
use crate::pool::chooser::turns::Turns;
use crate::pool::roster::Tried;
use crate::pool::settings::Method;
use crate::pool::standing::Standing;
use crate::pool::state::{BackendState, NEVER};
use crate::pool::trace::{Candidate, Rule, Verdict};

/// Where a chooser waits while another pool chooses.
pub(in crate::pool) type Home = Mutex<Option<Box<Chooser>>>;

/// The backends of one pool, by how they stand.
#[derive(Debug)]
pub(in crate::pool) struct Chooser {
    backends: Arc<[Arc<Backend>]>,
    method: Method,
    standing: Standing,
    pub(in crate::pool) home: Weak<Home>,
    /// In the order of the backends.
    seats: Vec<Seat>,
    /// The members of each set.
    counts: [usize; 4],
    /// Those that would be members if they were not full.
    full: [usize; 4],
    /// The sets in turns: all of them, or the last two.
    turns: [Turns; 4],
    /// The first two sets, if the method is another one.
    groups: [Groups; 2],
    /// The exchanges of their members, if it hears of each.
    loads: [u64; 2],
    answers: Answers,
    /// For `hash` with bounded loads.
    load_percent_max: Option<u32>,
    /// Of the last choice whose first answer was at its bound.
    at_bound: Option<AtBound>,
    /// The chooser hears of each exchange that ends.
    hears_ends: bool,
    fastest: Fastest,
    /// Choices made, by all pools.
    choices: u64,
    /// How many pools have taken over.
    epoch: u32,
    /// Backends that are healthy and may be used, whether they are full or not.
    healthy: usize,
    /// Those that change at a time, and when the first of these is due: a trial, a tenth of weight.
    waiting: Vec<u32>,
    next_due_ms: u64,
    /// How many different weights the backends have.
    weights: u32,
    /// Whether they grow into their weight.
    grows: bool,
    /// The weight of those that are healthy, and of those that are but for their ejection: of
    /// backends and of backups.
    fit: [u64; 2],
    out: [u64; 2],
    /// Those whose ejection is over, for the log.
    back: Vec<u32>,
    /// How each one stands, if they are few.
    candidates: Vec<Candidate>,
    /// How many stand how.
    stand: [u32; Verdict::COUNT],
    #[cfg(test)]
    pub(in crate::pool) looked_at: usize,
}

/// Why none was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Lack {
    /// There is none, or the request has tried all.
    None,
    /// Those that the choice would be made among are full.
    Full,
}

/// What is known of one backend.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Seat {
    /// The set that it is in, if the request has not tried it.
    tier: Tier,
    verdict: Verdict,
    /// The set that it would be in if it were not full.
    full: Tier,
    /// It counts among the healthy ones.
    is_healthy: bool,
    /// It is ejected.
    is_out: bool,
    /// It is in the list of those that wait.
    waits: bool,
    /// The number of its configured weight.
    weight: u32,
    /// The group in its set: of its weight, and in the first two sets of its trust.
    group: u32,
    /// Its turns, in units of 1 / 2^32; while it is in a queue, without what its weight has earned.
    credit: i64,
    /// What is left of its quota in that period.
    quota: u32,
    period: u32,
    /// Its place in a group without turns, and in the heap by turn of `fastest`.
    at: [u32; 2],
    /// Its exchanges, for a method that goes by them.
    load: u32,
    /// By what it stands in the heap of its group: for `least_connections` its exchanges, for
    /// `fastest` the time that it is expected to take.
    order: u64,
    /// When it was last chosen, for both; 0: never.
    last: u64,
}

impl Seat {
    fn new(weight: u32) -> Seat {
        Seat {
            tier: Tier::Empty,
            verdict: Verdict::Disabled,
            full: Tier::Empty,
            is_healthy: false,
            is_out: false,
            waits: false,
            weight,
            group: weight,
            credit: 0,
            quota: 0,
            period: 0,
            at: [0; 2],
            order: 0,
            load: 0,
            last: 0,
        }
    }

    fn is_done(&self, period: u32) -> bool {
        self.period == period && self.quota == 0
    }
}

impl Chooser {
    /// Whether it is that of the pool with these backends.
    pub(in crate::pool) fn is_of(&self, backends: &Arc<[Arc<Backend>]>) -> bool {
        Arc::ptr_eq(&self.backends, backends)
    }

    /// Whether any backend is healthy that may be used at all.
    pub(in crate::pool) fn any_healthy(&self) -> bool {
        self.healthy > 0
    }

    /// The choice among the backends that were not tried, and why.
    #[inline(always)]
    pub(in crate::pool) fn pick(
        &mut self,
        tried: &Tried,
        random: &mut Random,
        key: u64,
    ) -> Result<(usize, Rule), Lack> {
        if tried.is_empty() {
            self.pick_present(false, random, key)
        } else {
            self.pick_again(tried, random, key)
        }
    }

    /// The same for a request that has tried some.
    #[inline(never)]
    fn pick_again(
        &mut self,
        tried: &Tried,
        random: &mut Random,
        key: u64,
    ) -> Result<(usize, Rule), Lack> {
        self.without(tried, Chooser::leave, usize::wrapping_sub);
        let picked = self.pick_present(true, random, key);
        self.without(tried, Chooser::join, usize::wrapping_add);
        picked
    }

    /// Those that the request has tried leave their sets, or come back.
    fn without(
        &mut self,
        tried: &Tried,
        step: fn(&mut Chooser, u32),
        count: fn(usize, usize) -> usize,
    ) {
        for place in tried.places() {
            step(self, place);
            if let Some(full) = self.full.get_mut(self.seats[place as usize].full as usize) {
                *full = count(*full, 1);
            }
            if let Some(turns) = self.turns.get_mut(self.seats[place as usize].tier as usize) {
                turns.has_changed = true;
            }
        }
    }

    /// The same among all that are present now.
    #[inline(never)]
    fn pick_present(
        &mut self,
        is_retry: bool,
        random: &mut Random,
        key: u64,
    ) -> Result<(usize, Rule), Lack> {
        let all = [
            Tier::Healthy,
            Tier::HealthyBackup,
            Tier::Unhealthy,
            Tier::UnhealthyBackup,
        ];
        let mut tiers = all.into_iter();
        let present = |&tier: &Tier| self.counts[tier as usize] + self.full[tier as usize] > 0;
        let Some(tier) = tiers.find(present) else {
            return Err(Lack::None);
        };
        let set = tier as usize;
        // Fail open only when no healthy backend exists, tried or not.
        if tier >= Tier::Unhealthy && self.any_healthy() {
            return Err(Lack::None);
        }
        if self.counts[set] == 0 {
            return Err(Lack::Full);
        }
        let (method, mut rule) = if tier >= Tier::Unhealthy {
            (Method::RoundRobin, Rule::FailOpen)
        } else {
            (self.method, Rule::Method(self.method))
        };
        let groups = &mut self.groups[set % 2];
        let place = match method {
            Method::RoundRobin => self.turns[set].next(&mut self.seats),
            Method::LeastConnections => least_loaded(groups, &self.seats),
            Method::Fastest => {
                let now_ms = self.standing.now_ms();
                let (place, is_due) = self.fastest.next(groups, tier, &self.seats, now_ms);
                if is_due {
                    rule = Rule::Due;
                }
                place
            }
            Method::RandomTwo => {
                let load = |place: u32| self.backends[place as usize].in_flight();
                better_of_two(random, groups, load)
            }
            Method::Hash | Method::SourceHash => {
                let is_member = |place: u32| self.seats[place as usize].tier == tier;
                let first = if is_retry {
                    // What is remembered holds for the whole set.
                    highest_score(groups, key, None)
                } else {
                    self.answers.of(key, groups, is_member)
                };
                let place = self.below_bound(first, tier, key);
                if place != first {
                    rule = Rule::NextByHash;
                }
                place
            }
        };
        #[cfg(test)]
        {
            let runs = std::mem::take(&mut self.answers.runs);
            self.looked_at += 1 + runs * self.counts[set];
        }
        Ok((place as usize, rule))
    }

    /// Its backends by place.
    pub(in crate::pool) fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Whether any backend could be chosen by a request that has tried none.
    pub(in crate::pool) fn has_free(&self) -> bool {
        self.counts != [0; 4]
    }

    /// Whether a backend was passed over because it was tried.
    pub(in crate::pool) fn any_tried(&self, tried: &Tried) -> bool {
        let mut places = tried.places();
        places.any(|place| self.seats[place as usize].verdict.may_be_tried())
    }

    /// An exchange has taken a place at this backend.
    #[inline]
    pub(in crate::pool) fn took(&mut self, place: usize) {
        let backend = &self.backends[place];
        let is_trial = backend.trial_at_ms() != NEVER;
        if is_trial {
            // This exchange is the trial; the next one has to wait again.
            backend.set_trial(self.standing.next_trial_ms(backend));
        }
        let is_full = backend.is_full();
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        if self.hears_ends {
            if self.is_by_load() {
                self.choices += 1;
                self.seats[place as usize].last = self.choices;
            }
            if self.method == Method::Fastest {
                let now_ms = self.standing.now_ms();
                self.fastest.took(place, &mut self.seats, now_ms);
            }
            self.weigh(place);
        }
        if is_trial || is_full {
            self.update(place);
        }
    }

    /// An exchange of this backend has ended, and it wants to tell.
    pub(in crate::pool) fn ended(&mut self, state: &BackendState) {
        if let Some(place) = self.place(state) {
            if self.seats[place as usize].verdict == Verdict::Full {
                self.update(place);
            } else if self.hears_ends {
                self.weigh(place);
            }
        }
    }

    /// Something about this backend has changed.
    pub(in crate::pool) fn changed(&mut self, state: &BackendState) {
        if let Some(place) = self.place(state) {
            self.update(place);
            self.relieve();
        }
    }

    /// Where a backend stands, if it is in the pool that chooses.
    fn place(&self, state: &BackendState) -> Option<u32> {
        let place = state.kept.place();
        let backend = self.backends.get(place as usize)?;
        (backend.id == state.id).then_some(place)
    }
}

#[cfg(test)]
mod tests;
