//! Which backend takes a request, and whether it may.
//!
//! [`Pool::choose`] finds the candidates and lets a method pick one; [`Pool::report`] takes what an
//! exchange saw of a backend, [`Pool::probed`] what a check found. The balancing state is behind
//! one `Mutex`, held for the walk over the backends and nothing else; each backend's health is
//! behind its own `RwLock`. Under a lock nothing is logged, allocated or written to a socket.
//!
//! A pool never changes; another configuration is another pool, which follows the one before it
//! ([`Pool::following`]), and both may be in use at the same time. A backend is identified by its
//! name and address: its state, and what the balancer remembers of it, passes from pool to pool.
//! Its place in the list has a meaning inside one pool only.
//!
//! Read next: `pool/balance.rs`, the methods. Beside it: `backend.rs` and `state.rs` (one backend:
//! what belongs to one pool, and what lives on), `health.rs` (rise and fall), `roster.rs` (which
//! backends a request has tried), `following.rs` (how a pool takes over), `persist.rs` (cookies and
//! hashing), `explain.rs` (choices shown); `checker.rs` and `resolver.rs` are the threads that feed
//! the pool.

pub mod backend;
pub mod balance;
pub mod explain;
mod following;
pub(crate) mod hash;
pub(crate) mod health;
pub(crate) mod moved;
pub(crate) mod persist;
pub(crate) mod reasons;
mod roster;
pub mod settings;
pub(crate) mod share;

pub mod state;
pub mod trace;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
#[cfg(test)]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::log::limit::LineLimit;
use crate::net::lock::lock;
use crate::net::waker::Waker;
use crate::pool::backend::{Backend, InFlight};
use crate::pool::balance::Candidate;
use crate::pool::following::{Shared, State};
use crate::pool::health::{Check, Health, Rules};
use crate::pool::persist::Cookies;
use crate::pool::roster::{Roster, Walk};
use crate::pool::settings::{BackendSettings, BalanceSettings, HealthCheckSettings, Method};
use crate::pool::state::{BackendId, BackendState, NEVER, Operator, Order};
use crate::pool::trace::{Decision, Rule, Verdict};

pub use health::Event;
pub use roster::Tried;

/// The backends and the choice among them.
#[derive(Debug)]
pub struct Pool {
    backends: Vec<Arc<Backend>>,
    roster: Arc<Roster>,
    method: Method,
    cookies: Option<Cookies>,
    rules: Rules,
    down_interval: Duration,
    /// Shared with the pools before and after this one.
    shared: Arc<Shared>,
    #[cfg(test)]
    looked_at: AtomicUsize,
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
    /// The value of the persistence cookie in its request.
    pub cookie: Option<&'a [u8]>,
    /// Whether `balance.tries` allows one more try; unhealthy backends are tried in any case.
    pub tries_left: bool,
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

/// The result of a walk over the backends, beside the candidates.
struct Found {
    tier: Tier,
    any_healthy: bool,
    any_tried: bool,
    /// The bound backend can serve but is full: the client is served elsewhere and stays bound.
    bound_is_full: bool,
    /// The bound backend, if it can serve.
    bound: Option<usize>,
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
            Verdict::Down if is_backup => Some(Tier::UnhealthyBackup),
            Verdict::Down => Some(Tier::Unhealthy),
            _ => None,
        }
    }
}

impl Pool {
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

    /// Limits the event lines about requests that no backend may take.
    pub(crate) fn unavailable_lines(&self) -> &LineLimit {
        &self.shared.unavailable_lines
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
        mut record: Option<&mut Decision>,
    ) -> Choice {
        let bound = self
            .cookies
            .as_ref()
            .zip(selection.cookie)
            .and_then(|(cookies, value)| cookies.backend(value));
        // The backends that it was sent to before may have been chosen in another pool.
        tried.follow(&self.roster);
        let mut state = lock(&self.shared.state);
        let picked = if tried.choices < CHOICES_MAX {
            tried.choices += 1;
            self.pick(&mut state, selection, tried, bound, record.as_deref_mut())
        } else {
            self.walk_on(&mut state, selection, tried, bound)
        };
        let Picked {
            index,
            rule,
            bound_is_full,
        } = match picked {
            Ok(picked) => picked,
            Err(nothing) => return nothing,
        };
        let backend = &self.backends[index];
        let in_flight = InFlight::take(backend);
        if backend.trial_at_ms() != NEVER {
            // This exchange is the trial; the next one has to wait again.
            backend.allow_trial(self.next_trial_ms(backend));
        }
        drop(state);

        if let Some(decision) = record {
            decision.chosen(in_flight.id, rule);
        }
        let set_cookie = self.cookies.is_some() && bound != Some(index) && !bound_is_full;
        Choice::Backend {
            in_flight,
            set_cookie,
        }
    }

    /// Picks among all backends, by the method.
    fn pick(
        &self,
        state: &mut State,
        selection: &Selection<'_>,
        tried: &Tried,
        bound: Option<usize>,
        mut record: Option<&mut Decision>,
    ) -> Result<Picked, Choice> {
        let State {
            balancer,
            candidates,
            ..
        } = state;
        if let Some(decision) = record.as_deref_mut() {
            decision.begin_choice();
        }
        candidates.clear();
        let found = self.walk(candidates, tried, bound, record);
        if found.any_healthy && !selection.tries_left {
            return Err(Choice::Exhausted);
        }
        let (index, rule) = if let Some(bound) = found.bound {
            (bound, Rule::Cookie)
        } else if candidates.is_empty() {
            return Err(if found.any_tried {
                Choice::Exhausted
            } else {
                Choice::Unavailable
            });
        } else {
            let (method, rule) = match (found.tier, self.method) {
                (Tier::Unhealthy | Tier::UnhealthyBackup, _) => {
                    (Method::RoundRobin, Rule::FailOpen)
                }
                (_, method) => (method, Rule::Method(method)),
            };
            let client_key = match method {
                Method::SourceHash => persist::client_key(selection.client),
                _ => 0,
            };
            let turn = |index: usize| &self.backends[index].state.turn;
            let place = balancer.pick(method, candidates, turn, client_key);
            (candidates[place].index, rule)
        };
        Ok(Picked {
            index,
            rule,
            bound_is_full: found.bound_is_full,
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
            if walk.passed == 0 && group == Tier::Unhealthy && self.any_healthy() {
                break;
            }
            while walk.passed < count && (fails_open || selection.tries_left) {
                let index = (walk.start + walk.passed) % count;
                walk.passed += 1;
                let backend = &self.backends[index];
                let verdict = self.judge(backend, &backend.state, backend.is_healthy(), tried);
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
            && self.rules(backend).check == Check::Icmp
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

    /// One pass over the backends, under the lock: finds the candidates, and keeps only those of
    /// the best group.
    fn walk(
        &self,
        candidates: &mut Vec<Candidate>,
        tried: &Tried,
        bound: Option<usize>,
        mut record: Option<&mut Decision>,
    ) -> Found {
        let mut found = Found {
            tier: Tier::Empty,
            any_healthy: false,
            any_tried: false,
            bound_is_full: false,
            bound: None,
        };
        for (index, backend) in self.backends.iter().enumerate() {
            // Borrowed once for all that is asked of it.
            let state = &*backend.state;
            let healthy = state.is_healthy();
            let verdict = self.judge(backend, state, healthy, tried);
            if bound == Some(index)
                && let Some(is_full) = self.judge_bound(index, tried)
            {
                found.bound_is_full = is_full;
                found.bound = (!is_full).then_some(index);
            }
            if let Some(decision) = record.as_deref_mut() {
                decision.stands(state.id, verdict);
            }
            let Some(tier) = Tier::of(verdict, backend.settings.backup) else {
                found.any_tried |= verdict == Verdict::Tried;
                found.any_healthy |= healthy && matches!(verdict, Verdict::Tried | Verdict::Full);
                continue;
            };
            found.any_healthy |= healthy;
            if tier < found.tier {
                found.tier = tier;
                candidates.clear();
            }
            if tier == found.tier {
                candidates.push(Candidate {
                    index,
                    id: state.id,
                    weight: backend.settings.weight,
                    in_flight: state.in_flight(),
                    name_key: backend.name_key,
                });
            }
        }
        // Fail open only when no healthy backend exists, tried or not.
        if found.any_healthy && found.tier >= Tier::Unhealthy {
            candidates.clear();
        }
        found
    }

    /// Whether the backend to which a client is bound is full; none if it cannot serve at all.
    fn judge_bound(&self, index: usize, tried: &Tried) -> Option<bool> {
        let backend = &self.backends[index];
        let may_serve = backend.is_healthy()
            && backend.operator() != Operator::Disabled
            && !tried.contains(index);
        may_serve.then(|| backend.is_full())
    }

    /// Whether any backend is healthy that may be used at all.
    fn any_healthy(&self) -> bool {
        self.backends.iter().any(|backend| {
            let may_be_used =
                backend.operator() == Operator::Enabled && backend.settings.weight > 0;
            may_be_used && backend.is_healthy()
        })
    }

    #[inline(always)]
    fn judge(
        &self,
        backend: &Backend,
        state: &BackendState,
        healthy: bool,
        tried: &Tried,
    ) -> Verdict {
        #[cfg(test)]
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        if !state.is_enabled() {
            return match state.operator() {
                Operator::Draining => Verdict::Draining,
                Operator::Disabled | Operator::Enabled => Verdict::Disabled,
            };
        }
        if backend.settings.weight == 0 {
            Verdict::Weightless
        } else if tried.contains(backend.index) {
            Verdict::Tried
        } else if backend.is_full() {
            Verdict::Full
        } else if !healthy && !self.may_be_tried(backend) {
            Verdict::Down
        } else if backend.settings.backup {
            Verdict::Backup
        } else {
            Verdict::Eligible
        }
    }

    /// Whether an exchange may try a backend that is down, because no check would find out.
    fn may_be_tried(&self, backend: &Backend) -> bool {
        let at_ms = backend.trial_at_ms();
        if at_ms != NEVER {
            return self.now_ms() >= at_ms;
        }
        if self.rules(backend).check == Check::None {
            // It went down in a pool whose checks covered it; here no check will bring it up.
            backend.allow_trial(self.next_trial_ms(backend));
        }
        false
    }

    /// With `none`, an exchange may try after `down_interval`; else after the next check that
    /// allows it.
    fn next_trial_ms(&self, backend: &Backend) -> u64 {
        match self.rules(backend).check {
            Check::None => self.now_ms() + millis(self.down_interval),
            Check::Tcp | Check::Http | Check::Icmp => NEVER,
        }
    }

    /// A backend that is not checked follows the rules of `none`.
    fn rules(&self, backend: &Backend) -> Rules {
        if backend.settings.check {
            return self.rules;
        }
        Rules {
            check: Check::None,
            ..self.rules
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.shared.started.elapsed())
    }

    /// Counts an event. A change of state is logged once, with its reason, after all locks are
    /// released.
    fn note(&self, backend: &Backend, event: Event, reason: &dyn fmt::Display) -> (Health, Health) {
        let rules = self.rules(backend);
        let (before, after) = backend.note(event, &rules, reason, || self.next_trial_ms(backend));
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
