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
//! Read next: `pool/chooser/turns.rs`, round robin.

pub(in crate::pool) mod draws;
pub(in crate::pool) mod fastest;
mod groups;
pub(in crate::pool) mod kept;
mod loads;
mod rendezvous;
mod turns;

use std::sync::{Arc, Mutex, Weak};

use crate::pool::Tier;
use crate::pool::backend::Backend;
use crate::pool::chooser::draws::{Random, better_of_two};
use crate::pool::chooser::fastest::Fastest;
use crate::pool::chooser::groups::Groups;
use crate::pool::chooser::loads::{By, least_loaded, settle};
use crate::pool::chooser::rendezvous::{Answers, Bound, highest_score};
use crate::pool::chooser::turns::Turns;
use crate::pool::reasons::Since;
use crate::pool::roster::Tried;
use crate::pool::settings::{EjectionSettings, Method};
use crate::pool::standing::Standing;
use crate::pool::state::{BackendState, NEVER};
use crate::pool::trace::{CANDIDATES_MAX, Candidate, Decision, Rule, Verdict};
use crate::pool::trust::FULL;

/// The room of a set: a weight in tenths, and how many backends and how many backups may have it.
#[derive(Debug)]
pub(in crate::pool) struct Rooms {
    all: Vec<(u32, [usize; 2])>,
    /// So many of them, the first, are for backends with their whole weight.
    whole: usize,
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

/// How many of those that wait are looked at in a millisecond, on average.
const LOOKS_PER_MS: u64 = 100;

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
    /// Set by a choice whose first answer was at its bound.
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

/// Why a choice by hash took another backend than the first.
#[derive(Debug)]
pub(in crate::pool) struct AtBound {
    first: u32,
    tier: Tier,
    bound: Bound,
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

    /// Whether it is that of the pool with these backends.
    pub(in crate::pool) fn is_of(&self, backends: &Arc<[Arc<Backend>]>) -> bool {
        Arc::ptr_eq(&self.backends, backends)
    }

    /// Goes on where the chooser of another pool stops. Where a set is the same, its period goes
    /// on.
    pub(in crate::pool) fn take_over(&mut self, before: &mut Chooser) {
        self.epoch = before.epoch.wrapping_add(1);
        self.choices = before.choices;
        // What has grown by the old settings has grown.
        before.look_at_due();
        // At the start of the process none grows.
        let is_first = before.backends.is_empty();
        let counts = std::mem::take(&mut before.counts);
        before.end(self.epoch);
        self.fastest.take_over(&before.fastest);
        for (turns, before) in self.turns.iter_mut().zip(&before.turns) {
            turns.follow(before);
        }
        let mut is_same = [true; 4];
        for (place, backend) in (0..).zip(&*Arc::clone(&self.backends)) {
            let kept = &backend.state.kept;
            let is_new = !is_first && !kept.was_there(self.epoch);
            let seat = &mut self.seats[place as usize];
            kept.seat(place, seat);
            if let Some(times) = self.fastest.times(place as usize) {
                *times = kept.times();
            }
            // What comes up while it is looked at must be told.
            backend.state.tell_ends(self.hears_ends);
            self.candidates.extend(
                (self.backends.len() <= CANDIDATES_MAX).then_some(Candidate {
                    backend: backend.id,
                    verdict: Verdict::Disabled,
                }),
            );
            self.stand[Verdict::Disabled as usize] += 1;
            let (tier, group) = self.look(place, is_new);
            if let Some(turns) = self.turns.get_mut(tier as usize) {
                let seat = &mut self.seats[place as usize];
                (seat.tier, seat.group) = (tier, group);
                let weight = backend.settings.weight * (FULL - group / self.weights);
                let quota = kept.quota_in(self.epoch, tier as u32, weight);
                is_same[tier as usize] &= quota.is_some();
                turns.set_quota_left(seat, quota);
                self.join(place);
            }
        }
        for set in 0..4 {
            self.turns[set].go_on(is_same[set] && counts[set] == self.counts[set]);
        }
        self.answers.forget();
        self.relieve();
    }

    /// Keeps what another chooser is to know of each backend, and empties the sets.
    #[inline(never)]
    fn end(&mut self, epoch: u32) {
        for turns in &mut self.turns {
            turns.end(&mut self.seats);
        }
        for groups in &mut self.groups {
            groups.clear();
        }
        self.loads = [0; 2];
        self.fastest.clear();
        for (place, (seat, backend)) in self.seats.iter_mut().zip(&*self.backends).enumerate() {
            let turns = self.turns.get(seat.tier as usize);
            let quota = turns.and_then(|turns| turns.quota_left(seat));
            let kept = &backend.state.kept;
            let weight = backend.settings.weight * (FULL - seat.group / self.weights);
            kept.keep(seat, quota, [epoch, seat.tier as u32, weight]);
            if let Some(times) = self.fastest.times(place) {
                kept.keep_times(*times);
            }
            backend.state.tell_ends(false);
            *seat = Seat::new(seat.weight);
        }
        self.full = [0; 4];
        (self.fit, self.out) = ([0; 2], [0; 2]);
        self.back.clear();
        self.healthy = 0;
        self.waiting.clear();
        self.next_due_ms = NEVER;
        self.candidates.clear();
        self.stand = [0; Verdict::COUNT];
    }

    /// Whether any backend is healthy that may be used at all.
    pub(in crate::pool) fn any_healthy(&self) -> bool {
        self.healthy > 0
    }

    /// The choice among the backends that were not tried, and why.
    #[inline]
    pub(in crate::pool) fn pick(
        &mut self,
        tried: &Tried,
        random: &mut Random,
        key: u64,
    ) -> Result<(usize, Rule), Lack> {
        if tried.is_empty() {
            return self.pick_present(false, random, key);
        }
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
                self.below_bound(first, tier, key)
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

    /// The first answer by hash; or the next that is not at its bound.
    #[inline]
    fn below_bound(&mut self, first: u32, tier: Tier, key: u64) -> u32 {
        let Some(percent) = self.load_percent_max else {
            return first;
        };
        self.at_bound = None;
        let groups = &self.groups[tier as usize];
        let bound = Bound::of(percent, self.loads[tier as usize], groups.total);
        let seat = &self.seats[first as usize];
        if bound.allows(seat.load, groups.groups[seat.group as usize].weight) {
            return first;
        }
        #[cfg(test)]
        {
            self.answers.runs += 1;
        }
        self.at_bound = Some(AtBound { first, tier, bound });
        highest_score(groups, key, Some((bound, &self.seats)))
    }

    /// Why the last choice was not the first by hash, once.
    pub(in crate::pool) fn take_at_bound(&mut self) -> Option<AtBound> {
        self.at_bound.take()
    }

    /// Records which backends were at their bounds.
    #[cold]
    pub(in crate::pool) fn record_bound(
        &self,
        why: &AtBound,
        tried: &Tried,
        decision: &mut Decision,
    ) {
        self.show(why.first as usize, decision);
        decision.passed_over(self.backends[why.first as usize].id, Verdict::AtBound);
        // Without candidates of its own it is one of many: the others are counted as they stand.
        for (place, candidate) in self.candidates.iter().enumerate() {
            let seat = &self.seats[place];
            let group = &self.groups[why.tier as usize].groups[seat.group as usize];
            if seat.tier == why.tier
                && !tried.contains(place)
                && !why.bound.allows(seat.load, group.weight)
            {
                decision.passed_over(candidate.backend, Verdict::AtBound);
            }
        }
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
        if self.is_by_load() {
            self.choices += 1;
            self.seats[place as usize].last = self.choices;
            if self.method == Method::Fastest {
                let now_ms = self.standing.now_ms();
                self.fastest.took(place, &mut self.seats, now_ms);
            }
        }
        if self.hears_ends {
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

    /// Ejects a backend, unless too much is out already: returns for how many milliseconds.
    pub(in crate::pool) fn eject(
        &mut self,
        state: &BackendState,
        rules: &EjectionSettings,
        why: Since,
    ) -> Option<u64> {
        let place = self.place(state)?;
        let settings = &self.backends[place as usize].settings;
        let (weight, kind) = (u64::from(settings.weight), usize::from(settings.backup));
        let out = self.out[kind] + weight;
        let is_too_much = self.healthy == 1 || self.is_too_much(out, kind, rules.percent_max);
        if !self.seats[place as usize].is_healthy || is_too_much {
            return None;
        }
        let lasts_ms = state.ejection.begin(self.standing.now_ms(), rules, why);
        self.update(place);
        Some(lasts_ms)
    }

    /// Whether this weight is more than may be out of a group.
    fn is_too_much(&self, out: u64, kind: usize, percent_max: u32) -> bool {
        out * 100 > (self.fit[kind] + self.out[kind]) * u64::from(percent_max)
    }

    /// Ends ejections while too much is out, or no other backend is healthy: first the one that is
    /// over first.
    fn relieve(&mut self) {
        let Some(percent_max) = self.standing.ejected_percent_max else {
            return;
        };
        while let Some(kind) = (0..2).find(|&kind| {
            let out = self.out[kind];
            out > 0 && (self.healthy == 0 || self.is_too_much(out, kind, percent_max))
        }) {
            let of_kind = |place: &u32| {
                let backup = self.backends[*place as usize].settings.backup;
                self.seats[*place as usize].is_out && usize::from(backup) == kind
            };
            let until_ms = |place: &u32| self.backends[*place as usize].ejection.until_ms();
            let places = 0..u32::try_from(self.seats.len()).unwrap_or(u32::MAX);
            let Some(place) = places.filter(of_kind).min_by_key(until_ms) else {
                return;
            };
            let now_ms = self.standing.now_ms();
            self.backends[place as usize].ejection.end(now_ms);
            self.update(place);
        }
    }

    /// How many turns a backend is away from its due, in millionths.
    pub(in crate::pool) fn turns_off(&self, place: usize) -> u64 {
        let seat = &self.seats[place];
        let turns = self.turns.get(seat.tier as usize);
        let credit = seat
            .credit
            .wrapping_add(turns.map_or(0, |turns| turns.earned(seat)));
        let millionths = (u128::from(credit.unsigned_abs()) * 1_000_000 + (1 << 31)) >> 32;
        u64::try_from(millionths).unwrap_or(u64::MAX)
    }

    /// A backend whose ejection is over, each once.
    #[inline]
    pub(in crate::pool) fn take_back(&mut self) -> Option<usize> {
        self.back.pop().map(|place| place as usize)
    }

    /// How many backends it takes for standing like this.
    #[cfg(test)]
    pub(in crate::pool) fn number(&self, verdict: Verdict) -> u32 {
        self.stand[verdict as usize]
    }

    /// Items for which there is room.
    #[cfg(test)]
    pub(in crate::pool) fn room(&self) -> usize {
        let turns: usize = self.turns.iter().map(Turns::room).sum();
        turns + self.seats.capacity() + self.waiting.capacity() + self.candidates.capacity()
    }

    /// Where a backend stands, if it is in the pool that chooses.
    fn place(&self, state: &BackendState) -> Option<u32> {
        let place = state.kept.place();
        let backend = self.backends.get(place as usize)?;
        (backend.id == state.id).then_some(place)
    }

    /// Changes those whose time has come.
    #[inline]
    pub(in crate::pool) fn look_at_due(&mut self) {
        if self.next_due_ms != NEVER {
            let now_ms = self.standing.now_ms();
            if self.next_due_ms <= now_ms {
                self.change_due(now_ms);
            }
        }
    }

    #[cold]
    fn change_due(&mut self, now_ms: u64) {
        self.next_due_ms = NEVER;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&place| {
            self.update(place);
            let waits = self.due_ms(place) != NEVER;
            self.seats[place as usize].waits = waits;
            waits
        });
        if self.next_due_ms != NEVER {
            // All are looked at each time: with ten thousand at most ten times a second.
            let gap_ms = waiting.len() as u64 / LOOKS_PER_MS;
            self.next_due_ms = self.next_due_ms.max(now_ms + gap_ms);
        }
        self.waiting = waiting;
        self.relieve();
    }

    /// When a backend changes by itself.
    fn due_ms(&self, place: u32) -> u64 {
        let state = &self.backends[place as usize].state;
        match self.seats[place as usize].verdict {
            Verdict::Down => state.trial_at_ms(),
            Verdict::Ejected => state.ejection.until_ms(),
            _ if self.grows => self.standing.next_tenth_ms(state),
            _ => NEVER,
        }
    }

    /// Looks at a backend again, and moves it where it belongs now.
    fn update(&mut self, place: u32) {
        let Seat {
            tier: before,
            group: before_in,
            ..
        } = self.seats[place as usize];
        let (tier, group) = self.look(place, true);
        if (tier, group) == (before, before_in) {
            return;
        }
        self.leave(place);
        let seat = &mut self.seats[place as usize];
        (seat.tier, seat.group) = (tier, group);
        for set in [before, tier] {
            if let Some(turns) = self.turns.get_mut(set as usize) {
                turns.has_changed = true;
            }
            if let Some(groups) = self.groups.get_mut(set as usize) {
                groups.begin_again();
            }
        }
        if let Some(turns) = self.turns.get(tier as usize) {
            turns.set_quota_left(&mut self.seats[place as usize], None);
            self.answers.forget();
        }
        self.join(place);
    }

    /// Looks at a backend, and notes everything but its set and its group there, which it returns.
    /// `begins`: if it has come to be healthy, it begins to grow.
    #[inline(never)]
    fn look(&mut self, place: u32, begins: bool) -> (Tier, u32) {
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
        let backend = &self.backends[place as usize];
        let state = &*backend.state;
        let is_healthy = state.is_healthy();
        let mut verdict = self.standing.verdict(backend, is_healthy);
        if verdict == Verdict::Full && !self.hears_ends {
            state.tell_ends(true);
            // One may have ended just before it was to be told.
            verdict = self.standing.verdict(backend, is_healthy);
        }
        if verdict != Verdict::Full && !self.hears_ends {
            state.tell_ends(false);
        }
        let seat = &mut self.seats[place as usize];
        let is_out = verdict == Verdict::Ejected;
        let counts = is_healthy && verdict.may_be_tried() && !is_out;
        let grows = self.grows && counts;
        if grows && begins && !seat.is_healthy {
            state.kept.grows_from(self.standing.now_ms());
        }
        let trust = if grows {
            self.standing.trust(state)
        } else {
            FULL
        };
        if trust == FULL {
            state.kept.grows_from(NEVER);
        }
        self.healthy += usize::from(counts);
        self.healthy -= usize::from(seat.is_healthy);
        let weight = u64::from(backend.settings.weight);
        let kind = usize::from(backend.settings.backup);
        for (sum, was, is) in [
            (&mut self.fit[kind], seat.is_healthy, counts),
            (&mut self.out[kind], seat.is_out, is_out),
        ] {
            *sum = *sum + weight * u64::from(is) - weight * u64::from(was);
        }
        if is_out != state.ejection.is_out() {
            state.ejection.set_out(is_out);
            // There is room for each once.
            if counts && self.back.len() < self.back.capacity() {
                self.back.push(place);
            }
        }
        seat.is_out = is_out;
        seat.is_healthy = counts;
        self.stand[seat.verdict as usize] -= 1;
        self.stand[verdict as usize] += 1;
        seat.verdict = verdict;
        let full = match (verdict, is_healthy, backend.settings.backup) {
            (Verdict::Full, true, false) => Tier::Healthy,
            (Verdict::Full, true, true) => Tier::HealthyBackup,
            (Verdict::Full, false, false) => Tier::Unhealthy,
            (Verdict::Full, false, true) => Tier::UnhealthyBackup,
            _ => Tier::Empty,
        };
        if full != seat.full {
            if let Some(count) = self.full.get_mut(seat.full as usize) {
                *count -= 1;
            }
            if let Some(count) = self.full.get_mut(full as usize) {
                *count += 1;
            }
            seat.full = full;
        }
        if let Some(candidate) = self.candidates.get_mut(place as usize) {
            candidate.verdict = verdict;
        }
        let group = seat.weight + self.weights * (FULL - trust);
        let tier = Tier::of(verdict, backend.settings.backup).unwrap_or(Tier::Empty);
        let due_ms = self.due_ms(place);
        if due_ms != NEVER {
            self.next_due_ms = self.next_due_ms.min(due_ms);
            let seat = &mut self.seats[place as usize];
            if !seat.waits {
                seat.waits = true;
                self.waiting.push(place);
            }
        }
        (tier, group)
    }

    /// Puts a backend into its set, if it is in one.
    #[inline(never)]
    fn join(&mut self, place: u32) {
        let tier = self.seats[place as usize].tier;
        let Some(count) = self.counts.get_mut(tier as usize) else {
            return;
        };
        *count += 1;
        if self.is_by_turns(tier) {
            return self.turns[tier as usize].join(place, &mut self.seats);
        }
        let key = self.backends[place as usize].name_key;
        let key = self.method.is_by_hash().then_some(key);
        self.groups[tier as usize].join(place, key, &mut self.seats);
        self.loads[tier as usize] += u64::from(self.seats[place as usize].load);
        if self.hears_ends {
            self.weigh(place);
        }
        if self.method == Method::Fastest {
            self.fastest.join(tier as usize, place, &mut self.seats);
        }
    }

    /// Takes a backend out of its set, if it is in one.
    #[inline(never)]
    fn leave(&mut self, place: u32) {
        let Seat {
            tier, group, at, ..
        } = self.seats[place as usize];
        let Some(count) = self.counts.get_mut(tier as usize) else {
            return;
        };
        *count -= 1;
        if self.is_by_turns(tier) {
            return self.turns[tier as usize].leave(place, &mut self.seats);
        }
        let groups = &mut self.groups[tier as usize];
        groups.leave(place, &mut self.seats);
        self.loads[tier as usize] -= u64::from(self.seats[place as usize].load);
        if matches!(self.method, Method::LeastConnections | Method::Fastest) {
            let members = &mut groups.groups[group as usize].members;
            let at = at[By::Load as usize] as usize;
            if at < members.len() {
                settle(members, at, &mut self.seats, By::Load);
            }
        }
        if self.method == Method::Fastest {
            self.fastest.leave(tier as usize, place, &mut self.seats);
        }
    }

    /// Notes how many exchanges a backend has.
    fn weigh(&mut self, place: u32) {
        let load = self.backends[place as usize].in_flight();
        let seat = &mut self.seats[place as usize];
        let Some(groups) = self.groups.get_mut(seat.tier as usize) else {
            return;
        };
        let (tier, group) = (seat.tier, seat.group as usize);
        let sum = &mut self.loads[tier as usize];
        *sum -= u64::from(seat.load);
        seat.load = u32::try_from(load).unwrap_or(u32::MAX);
        *sum += u64::from(seat.load);
        let (load, at) = (u64::from(seat.load), seat.at[By::Load as usize] as usize);
        let group = &mut groups.groups[group];
        seat.order = match self.method {
            Method::LeastConnections => load,
            Method::Fastest => self.fastest.order(place, load, group.weight),
            _ => return,
        };
        settle(&mut group.members, at, &mut self.seats, By::Load);
    }

    /// Whether the groups are heaps.
    fn is_by_load(&self) -> bool {
        matches!(self.method, Method::LeastConnections | Method::Fastest)
    }

    fn is_by_turns(&self, tier: Tier) -> bool {
        tier >= Tier::Unhealthy || self.method == Method::RoundRobin
    }

    /// Records how the backends stand.
    pub(in crate::pool) fn record(&self, tried: &Tried, decision: &mut Decision) {
        if self.candidates.is_empty() {
            decision.begin_choice_of_many(&self.stand);
        } else {
            decision.begin_choice(&self.candidates);
        }
        if tried.is_empty() {
            return;
        }
        for place in tried.places() {
            let seat = &self.seats[place as usize];
            if seat.verdict.may_be_tried() {
                let backend = self.backends[place as usize].id;
                self.show(place as usize, decision);
                decision.passed_over(backend, Verdict::Tried);
            }
        }
    }

    /// Makes sure that a backend is among those recorded.
    pub(in crate::pool) fn show(&self, place: usize, decision: &mut Decision) {
        if self.candidates.is_empty() {
            decision.shows(self.backends[place].id, self.seats[place].verdict);
        }
    }
}

#[cfg(test)]
mod tests;
