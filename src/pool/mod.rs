//! Which backend takes a request, and whether it may.
//!
//! [`Pool::choose`] asks the chooser for one that the request has not tried; [`Pool::report`] takes
//! what an exchange saw of a backend, [`Pool::probed`] what a check found. The balancing state is
//! behind one `Mutex`, held for a choice or for what changes the next one; each backend's health is
//! behind its own `RwLock`. Under a lock nothing is logged, allocated or written to a socket.
//!
//! A pool never changes; another configuration is another pool, which follows the one before it
//! ([`Pool::following`]), and both may be in use at the same time. A backend is identified by its
//! name and address: its state, and what the balancer remembers of it, passes from pool to pool.
//! Its place in the list has a meaning inside one pool only.
//!
//! Read next: `pool/chooser/mod.rs`, how the backends are kept in order. Beside it: `backend.rs`
//! and `state.rs` (one backend: what belongs to one pool, and what lives on), `standing.rs` (how it
//! stands for a request), `health.rs` (rise and fall), `roster.rs` (which backends a request has
//! tried), `following.rs` (how a pool takes over), `persist.rs` (cookies and hashing), `share.rs`
//! (which share each is meant to get), `queue.rs` (requests that wait for a place), `served.rs`
//! (how a try ended), `time.rs` (its clock and its seed), `trace/mod.rs` (the record of a choice),
//! `explain.rs` (choices shown); `checker.rs` and `resolver.rs` are the threads that feed the pool.

pub mod backend;
mod chooser;
pub(crate) mod ejection;
pub mod explain;
mod following;
pub(crate) mod hash;
pub(crate) mod health;
pub(crate) mod moved;
pub(crate) mod persist;
pub mod queue;
pub(crate) mod reasons;
mod retries;
mod roster;
mod served;
pub mod settings;
pub(crate) mod share;
mod standing;
pub mod state;
pub(crate) mod time;
pub mod trace;
mod trust;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
#[cfg(test)]
use std::sync::{Mutex, atomic::AtomicUsize};
use std::time::Duration;

use crate::http::RequestHead;
use crate::log::limit::LineLimit;
use crate::net::lock::lock;
use crate::net::waker::Waker;
use crate::pool::backend::{Backend, InFlight};
use crate::pool::chooser::{Chooser, Home, Lack};
use crate::pool::following::{Shared, State};
use crate::pool::health::{Check, Health};
use crate::pool::persist::Cookies;
use crate::pool::queue::{Waiter, Waiting};
use crate::pool::roster::{Roster, Walk};
use crate::pool::settings::{BackendSettings, BalanceSettings, EjectionSettings, HashSettings};
use crate::pool::settings::{HealthCheckSettings, Method, StatusRanges};
use crate::pool::standing::Standing;
use crate::pool::state::{BackendId, Operator, Order};
use crate::pool::trace::{Decision, Rule, Verdict};

pub use health::Event;
pub use roster::Tried;
pub use served::Served;

/// The backends and the choice among them.
#[derive(Debug)]
pub struct Pool {
    backends: Arc<[Arc<Backend>]>,
    roster: Arc<Roster>,
    method: Method,
    /// Whether anything goes by how tries end.
    learns: bool,
    /// Statuses that make an exchange a bad one.
    bad_status: StatusRanges,
    hash: HashSettings,
    ejection: Option<EjectionSettings>,
    retry_percent: u32,
    cookies: Option<Cookies>,
    standing: Standing,
    /// How many requests may wait.
    queue_length: usize,
    /// Its chooser, while another pool chooses.
    home: Arc<Home>,
    /// Shared with the pools before and after this one.
    shared: Arc<Shared>,
    #[cfg(test)]
    looked_at: AtomicUsize,
    /// How tries have ended.
    #[cfg(test)]
    pub(crate) heard: Mutex<Vec<Served>>,
}

/// Choices of one request that the method makes among all backends. A request that has failed more
/// often walks on through the list: then each backend is looked at a few times, and not once more
/// for each one that fails.
const CHOICES_MAX: u32 = 16;

/// What an exchange asks of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// What [`Pool::hash_key`] finds in its request.
    pub key: Option<&'a [u8]>,
    /// The value of the persistence cookie in its request.
    pub cookie: Option<&'a [u8]>,
    /// Whether `balance.tries` allows one more try; unhealthy backends are tried in any case.
    pub tries_left: bool,
    /// Whether the try before this one cost a try after the request had been sent, so that this one
    /// counts for `balance.retry_percent`.
    pub repeats: bool,
}

impl Selection<'_> {
    /// The request's part in the rendezvous.
    fn rendezvous_key(&self) -> u64 {
        let of_client = || persist::client_key(self.client);
        self.key.map_or_else(of_client, persist::request_key)
    }
}

/// The result of a choice.
#[derive(Debug)]
pub enum Choice {
    /// A backend.
    Backend {
        /// A place in flight there, to be held while the exchange lasts.
        in_flight: InFlight,
        /// Whether the response must bind the client to the backend: add [`Backend::set_cookie`].
        set_cookie: bool,
    },
    /// No backend may take it: all are disabled, drained, of weight 0 or full (503).
    Unavailable,
    /// All that it could go to are full, and it waits for a place.
    Waiting(Waiting),
    /// All that it could go to are full, and so is the queue (503).
    QueueFull,
    /// All usable ones were tried, or as many as `balance.tries` allows (502, or 504 when the last
    /// one was too slow).
    Exhausted,
}

/// The rounds of a walk through the list. When all backends are down, many requests walk at the
/// same time: each first takes those that no other request is trying at that moment.
const WALK: [(Tier, Order); 6] = [
    (Tier::Healthy, Order::All),
    (Tier::HealthyBackup, Order::All),
    (Tier::Unhealthy, Order::NotTriedNow),
    (Tier::Unhealthy, Order::All),
    (Tier::UnhealthyBackup, Order::NotTriedNow),
    (Tier::UnhealthyBackup, Order::All),
];

/// A backend picked by a choice.
struct Picked {
    index: usize,
    rule: Rule,
    bound_is_full: bool,
}

/// The groups of backends; the choice is made in the first that has a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Healthy,
    HealthyBackup,
    Unhealthy,
    UnhealthyBackup,
    Empty,
}

impl Tier {
    /// The group of a backend with this verdict; none if it may not be chosen.
    fn of(verdict: Verdict, is_backup: bool) -> Option<Tier> {
        match verdict {
            Verdict::Eligible => Some(Tier::Healthy),
            Verdict::Backup => Some(Tier::HealthyBackup),
            Verdict::Down | Verdict::Ejected if is_backup => Some(Tier::UnhealthyBackup),
            Verdict::Down | Verdict::Ejected => Some(Tier::Unhealthy),
            _ => None,
        }
    }
}

impl Pool {
    /// Bytes that its chooser takes for each backend.
    pub(crate) fn chooser_bytes_each(balance: &BalanceSettings) -> usize {
        let grows = balance.slow_start > Duration::ZERO;
        Chooser::BYTES_EACH + usize::from(grows) * Chooser::GROWING_BYTES_EACH
    }

    /// Bytes that its chooser takes beside those.
    pub(crate) const CHOOSER_BYTES: usize = Chooser::BYTES;

    /// A pool that follows no other; every backend is healthy until events show otherwise.
    pub fn new(
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        Pool::following(None, backends, balance, health)
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The place of a backend in this pool, if any.
    pub(crate) fn place(&self, backend: BackendId) -> Option<usize> {
        self.roster.place(backend)
    }

    /// The name of the cookie that binds clients, if cookies do; its value in the request goes into
    /// [`Selection`].
    pub fn cookie_name(&self) -> Option<&str> {
        self.cookies.as_ref().map(Cookies::name)
    }

    /// What the method `hash` goes by in a request; nothing where the client's address decides.
    pub fn hash_key<'a>(&self, request: &'a RequestHead) -> Option<&'a [u8]> {
        self.hash.key.in_request(request)
    }

    /// How often a choice by hash went to another backend because the first was at its bound.
    pub(crate) fn sent_on(&self) -> u64 {
        self.shared.sent_on.load(Ordering::Relaxed)
    }

    /// Limits the event lines about requests that no backend may take.
    pub(crate) fn unavailable_lines(&self) -> &LineLimit {
        &self.shared.unavailable_lines
    }

    /// The tenths of its weight that a backend has now.
    pub(crate) fn trust(&self, backend: &Backend) -> u32 {
        self.standing.trust(&backend.state)
    }

    /// Whether any backend is healthy and may be used.
    pub fn has_healthy(&self) -> bool {
        self.backends
            .iter()
            .any(|backend| backend.operator() == Operator::Enabled && backend.is_healthy())
    }

    /// Chooses a backend that was not tried, and takes a place there.
    pub fn choose(
        &self,
        selection: &Selection<'_>,
        tried: &mut Tried,
        record: Option<&mut Decision>,
    ) -> Choice {
        self.choose_or_wait(selection, tried, record, None)
    }

    /// The same for a `waiter` that takes a place in the queue when all that it could go to are full.
    pub fn choose_or_wait(
        &self,
        selection: &Selection<'_>,
        tried: &mut Tried,
        mut record: Option<&mut Decision>,
        waiter: Option<Waiter>,
    ) -> Choice {
        let bound = self
            .cookies
            .as_ref()
            .zip(selection.cookie)
            .and_then(|(cookies, value)| cookies.backend(value));
        // Before the lock is taken: a path may be long.
        let key = if self.method.is_by_hash() {
            selection.rendezvous_key()
        } else {
            0
        };
        // The backends that it was sent to before may have been chosen in another pool.
        tried.follow(&self.roster);
        // Dropped after the lock is released.
        let gone;
        let mut state = lock(&self.shared.state);
        gone = (!state.chooser.is_of(&self.backends)).then(|| self.take_over(&mut state));
        state.chooser.look_at_due();
        if state.queue.waiting() > 0 && state.chooser.has_free() {
            state = self.serve_first(state);
        }
        if tried.choices == 0 {
            state.retries.request(|| self.now_ms());
        } else if selection.repeats
            && (selection.tries_left || !state.chooser.any_healthy())
            && !state.retries.allow(self.now_ms(), self.retry_percent)
        {
            return Choice::Exhausted;
        }
        let picked = if tried.choices < CHOICES_MAX {
            tried.choices += 1;
            let waits = waiter.is_some();
            let record = record.as_deref_mut();
            self.pick(&mut state, selection, key, tried, (bound, waits), record)
        } else {
            self.walk_on(&mut state, selection, tried, bound)
        };
        let Picked {
            index,
            rule,
            bound_is_full,
        } = match picked {
            Ok(picked) => picked,
            Err(Choice::QueueFull) => {
                let waits = waiter.and_then(|waiter| {
                    let key = selection.rendezvous_key();
                    self.wait(state, waiter, (key, bound), tried)
                });
                return waits.map_or(Choice::QueueFull, Choice::Waiting);
            }
            Err(nothing) => return nothing,
        };
        let backend = &self.backends[index];
        let in_flight = InFlight::take(backend);
        if let Some(decision) = record.as_deref_mut() {
            state.chooser.show(index, decision);
        }
        state.chooser.took(index);
        let back = state.chooser.take_back();
        drop(state);
        drop(gone);
        if let Some(place) = back {
            self.log_back(place);
        }

        if let Some(decision) = record {
            decision.chosen(in_flight.id, rule);
        }
        let set_cookie = self.cookies.is_some() && bound != Some(index) && !bound_is_full;
        Choice::Backend {
            in_flight,
            set_cookie,
        }
    }

    #[cold]
    fn log_back(&self, place: usize) {
        self.shared.came_up.fetch_add(1, Ordering::Release);
        log::info!(
            "backend {:?} is back from its ejection",
            self.backends[place].name
        );
    }

    /// Changes the backends whose time has come, which choices do otherwise.
    pub(crate) fn look_at_due(&self) {
        let back = {
            let mut state = lock(&self.shared.state);
            state.chooser.look_at_due();
            let is_own = state.chooser.is_of(&self.backends);
            is_own.then(|| state.chooser.take_back()).flatten()
        };
        if let Some(place) = back {
            self.log_back(place);
        }
    }

    /// How many turns each backend is away from its due, in their order, in millionths; none for
    /// other methods than `round_robin`.
    pub(crate) fn turns_off(&self) -> Vec<u64> {
        let mut all = Vec::with_capacity(self.backends.len());
        let state = lock(&self.shared.state);
        if self.method == Method::RoundRobin {
            let is_known = state.chooser.is_of(&self.backends);
            let places = 0..self.backends.len();
            all.extend(places.map(|place| {
                if is_known {
                    state.chooser.turns_off(place)
                } else {
                    0
                }
            }));
        }
        all
    }

    /// Retries that `balance.retry_percent` refused.
    pub(crate) fn retries_refused(&self) -> u64 {
        lock(&self.shared.state).retries.refused
    }

    /// From now on this pool chooses. Returns the chooser of the pool before, if that is gone.
    #[cold]
    fn take_over(&self, state: &mut State) -> Option<Box<Chooser>> {
        let own = lock(&self.home).take();
        let mut chooser = own.unwrap_or_else(|| self.new_chooser());
        chooser.take_over(&mut state.chooser);
        let before = std::mem::replace(&mut state.chooser, chooser);
        match before.home.upgrade() {
            Some(home) => lock(&home).replace(before),
            None => Some(before),
        }
    }

    /// Picks among all backends, by the method.
    fn pick(
        &self,
        state: &mut State,
        selection: &Selection<'_>,
        key: u64,
        tried: &Tried,
        (bound, waits): (Option<usize>, bool),
        mut record: Option<&mut Decision>,
    ) -> Result<Picked, Choice> {
        let chooser = &mut *state.chooser;
        if let Some(decision) = record.as_deref_mut() {
            chooser.record(tried, decision);
        }
        if chooser.any_healthy() && !selection.tries_left {
            return Err(Choice::Exhausted);
        }
        // Whether the bound backend can serve, and is full: then the client is served elsewhere and
        // stays bound.
        let bound_is_full = bound.and_then(|bound| self.judge_bound(bound, tried));
        if let (Some(index), Some(false)) = (bound, bound_is_full) {
            return Ok(Picked {
                index,
                rule: Rule::Cookie,
                bound_is_full: false,
            });
        }
        let (index, rule) = match chooser.pick(tried, &mut state.random, key) {
            Ok(picked) => picked,
            Err(Lack::Full) if waits => return Err(Choice::QueueFull),
            Err(_) if chooser.any_tried(tried) => return Err(Choice::Exhausted),
            Err(_) => return Err(Choice::Unavailable),
        };
        if rule == Rule::NextByHash {
            self.shared.sent_on.fetch_add(1, Ordering::Relaxed);
            if let Some(decision) = record {
                chooser.record_bound(tried, decision);
            }
        }
        Ok(Picked {
            index,
            rule,
            bound_is_full: bound_is_full == Some(true),
        })
    }

    /// Picks the next backend in the list, for a request that has failed often: group by group,
    /// from where the last such choice stopped. When a backend comes up meanwhile the walk begins
    /// again, so that the backend is not missed; a backend that is down and to which another
    /// request has failed to connect since is skipped, so that many requests at once cost one walk.
    fn walk_on(
        &self,
        state: &mut State,
        selection: &Selection<'_>,
        tried: &mut Tried,
        bound: Option<usize>,
    ) -> Result<Picked, Choice> {
        let count = self.backends.len();
        let came_up = self.shared.came_up.load(Ordering::Acquire);
        tried.take_up(&self.roster);
        let mut walk = match tried.walk {
            Some(walk) if walk.came_up == came_up => walk,
            _ => Walk {
                start: self
                    .roster
                    .place(state.last_walk)
                    .map_or(0, |last| (last + 1) % count),
                round: 0,
                passed: 0,
                came_up,
                began_ms: self.now_ms(),
            },
        };
        while let Some(&(group, order)) = WALK.get(walk.round) {
            let fails_open = group >= Tier::Unhealthy;
            if walk.passed == 0 && group == Tier::Unhealthy && state.chooser.any_healthy() {
                break;
            }
            while walk.passed < count && (fails_open || selection.tries_left) {
                let index = (walk.start + walk.passed) % count;
                walk.passed += 1;
                let backend = &self.backends[index];
                let verdict = self.judge(backend, tried);
                if Tier::of(verdict, backend.settings.backup) != Some(group)
                    || fails_open && backend.attempts.is_passed_over(order, walk.began_ms)
                {
                    continue;
                }
                backend.attempts.began(self.now_ms());
                tried.walk = Some(walk);
                state.last_walk = backend.id;
                return Ok(Picked {
                    index,
                    rule: if fails_open {
                        Rule::FailOpen
                    } else {
                        Rule::NextInList
                    },
                    bound_is_full: bound
                        .is_some_and(|bound| self.judge_bound(bound, tried) == Some(true)),
                });
            }
            walk.round += 1;
            walk.passed = 0;
        }
        Err(Choice::Exhausted)
    }

    /// Takes what an exchange saw of a backend; `reason` is for the log. A success on a healthy
    /// backend costs a read lock.
    pub fn report(&self, backend: &Backend, event: Event, reason: &dyn fmt::Display) {
        let is_success = matches!(event, Event::Connected | Event::Answered);
        if is_success && backend.health() == Health::NEW {
            return;
        }
        let (before, after) = self.note(backend, event, reason);
        if event == Event::ConnectFailed {
            backend.attempts.failed(self.now_ms());
        }
        if event == Event::Died {
            // A check finds out whether it is really gone.
            backend.want_check();
        }
        if event == Event::Died || before.is_up() && !after.is_up() {
            // So that `down_interval` counts from now.
            wake(&self.shared.checker);
        }
        if event == Event::ConnectFailed && backend.needs_lookup() && backend.want_lookup() {
            wake(&self.shared.resolver);
        }
    }

    /// Takes the result of a check; the error is the reason that is logged.
    pub fn probed(&self, backend: &Backend, outcome: Result<(), &str>) {
        let (event, reason) = match outcome {
            Ok(()) => (Event::CheckPassed, "check passed"),
            Err(reason) => (Event::CheckFailed, reason),
        };
        let (_, after) = self.note(backend, event, &reason);
        if outcome.is_ok()
            && self.standing.rules(backend).check == Check::Icmp
            && after.waits_for_connection()
        {
            // The host is up. Whether the server is, only a connection can show: one exchange may
            // try.
            backend.allow_trial(0);
        }
    }

    /// The checker's waker, used when a backend went down or died, or its addresses came. Only the
    /// first waker is kept.
    pub fn wake_checker_with(&self, waker: Arc<Waker>) {
        let _ = self.shared.checker.set(waker);
    }

    /// The resolver's waker, used when a name should be looked up again. Only the first waker is
    /// kept.
    pub fn wake_resolver_with(&self, waker: Arc<Waker>) {
        let _ = self.shared.resolver.set(waker);
    }

    /// Wakes the checker for news.
    pub fn wake_checker(&self) {
        wake(&self.shared.checker);
    }

    /// Whether the backend to which a client is bound is full; none if it cannot serve at all.
    fn judge_bound(&self, index: usize, tried: &Tried) -> Option<bool> {
        let backend = &self.backends[index];
        let may_serve = backend.serves_bound() && !tried.contains(index);
        may_serve.then(|| backend.is_full())
    }

    /// How a backend stands for a request.
    fn judge(&self, backend: &Backend, tried: &Tried) -> Verdict {
        #[cfg(test)]
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        let verdict = self.standing.verdict(backend, backend.is_healthy());
        if tried.contains(backend.index) && verdict.may_be_tried() {
            return Verdict::Tried;
        }
        verdict
    }

    fn now_ms(&self) -> u64 {
        self.standing.now_ms()
    }

    /// Counts an event. A change of state is logged once, with its reason, after all locks are
    /// released.
    fn note(&self, backend: &Backend, event: Event, reason: &dyn fmt::Display) -> (Health, Health) {
        let rules = self.standing.rules(backend);
        let trial_at_ms = || self.standing.next_trial_ms(backend);
        let (before, after) = backend.note(event, &rules, reason, trial_at_ms);
        let name = &backend.name;
        if after.is_up() && !before.is_up() {
            self.shared.came_up.fetch_add(1, Ordering::Release);
            log::info!("backend {name:?} is up: {reason}");
        } else if before.is_up() && !after.is_up() {
            match after.failures() {
                1 => log::warn!("backend {name:?} is down: {reason}"),
                n => log::warn!("backend {name:?} is down after {n} failures in a row: {reason}"),
            }
        } else if after.successes() > before.successes() && rules.check == Check::None {
            // A success short of `rise`: the next exchange may add to it.
            backend.allow_trial(0);
        }
        (before, after)
    }
}

fn wake(waker: &OnceLock<Arc<Waker>>) {
    if let Some(waker) = waker.get() {
        waker.wake();
    }
}

#[cfg(test)]
pub(crate) mod tests;
