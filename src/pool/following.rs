//! How a pool follows another: what it takes over, and what both share while both are in use.

use std::cell::LazyCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::log::limit::LineLimit;
use crate::net::atomic::AtomicU64;
use crate::net::lock::lock;
use crate::net::mailbox::Mailbox;
use crate::net::waker::Waker;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::chooser::Chooser;
use crate::pool::chooser::draws::Random;
use crate::pool::health::Check;
use crate::pool::persist::{self, Cookies};
use crate::pool::queue::Queue;
use crate::pool::retries::Retries;
use crate::pool::roster::Roster;
use crate::pool::settings::{
    BackendSettings, BalanceSettings, HashSettings, HealthCheckSettings, Method, Persistence,
    has_ipv6_loopback,
};
use crate::pool::standing::Standing;
use crate::pool::state::{BackendId, BackendState, NEVER, Operator};
use crate::pool::time::{Sources, Time};
use crate::text::names::places;

/// Removed backends whose names are still kept for readers of recorded decisions.
const GONE_MAX: usize = 4096;

/// Shared by all pools that follow each other. They may be in use at the same time, so the balancer
/// is here: under its one lock two pools cannot exceed a limit, and each turn is counted once.
#[derive(Debug)]
pub(in crate::pool) struct Shared {
    pub(in crate::pool) time: Time,
    pub(in crate::pool) state: Mutex<State>,
    /// How many times a backend has come up.
    pub(in crate::pool) came_up: AtomicUsize,
    /// How often a choice by hash did not take the first, which was at its bound.
    pub(in crate::pool) sent_on: AtomicU64,
    /// Limits the event lines about requests that no backend may take.
    pub(in crate::pool) unavailable_lines: LineLimit,
    pub(in crate::pool) checker: OnceLock<Arc<Waker>>,
    pub(in crate::pool) resolver: OnceLock<Arc<Waker>>,
    /// By which the workers are called.
    pub(in crate::pool) mailboxes: Box<[OnceLock<Arc<Mailbox>>]>,
    last_id: AtomicU32,
    /// How many threads choose in these pools; each counts for itself.
    workers: usize,
    /// The names of the backends removed last, newest last. Exchanges do not need them, readers of
    /// recorded decisions do.
    gone: Mutex<VecDeque<(BackendId, Arc<str>)>>,
}

/// What a choice changes, under the lock.
#[derive(Debug)]
pub(in crate::pool) struct State {
    /// Of the pool that chose last.
    pub(in crate::pool) chooser: Box<Chooser>,
    pub(in crate::pool) random: Random,
    /// The backend that the last walk through the list came to: the next walk begins behind it, so
    /// that walks at the same time go on together.
    pub(in crate::pool) last_walk: BackendId,
    pub(in crate::pool) queue: Queue,
    pub(in crate::pool) retries: Retries,
}

impl Shared {
    fn new(workers: usize, health: &HealthCheckSettings, sources: Sources) -> Shared {
        let Sources { time, seed } = sources;
        let standing = Standing::new(&BalanceSettings::default(), health, time.clone());
        let none = Chooser::new(
            Arc::new([]),
            Method::RoundRobin,
            None,
            standing,
            Weak::new(),
        );
        Shared {
            time,
            state: Mutex::new(State {
                chooser: Box::new(none),
                random: Random::new(seed),
                last_walk: BackendId::default(),
                queue: Queue::new(0, workers),
                retries: Retries::default(),
            }),
            came_up: AtomicUsize::new(0),
            sent_on: AtomicU64::new(0),
            unavailable_lines: LineLimit::default(),
            checker: OnceLock::new(),
            resolver: OnceLock::new(),
            mailboxes: (0..workers).map(|_| OnceLock::new()).collect(),
            last_id: AtomicU32::new(0),
            workers,
            gone: Mutex::default(),
        }
    }
}

impl Pool {
    /// The pool of another configuration, which takes over from `previous`: a backend with the same
    /// name, host and port keeps its health, the operator's decision, its connections and its
    /// turns; any other is new. The operator's decision changes only if `IsDead` does.
    ///
    /// It takes effect at once, on the backends that both pools have; so nothing may fail between
    /// this call and the pool's use.
    pub fn following(
        previous: Option<&Pool>,
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        let shared = previous.map_or_else(
            || Arc::new(Shared::new(1, health, Sources::system())),
            |previous| Arc::clone(&previous.shared),
        );
        Pool::of(shared, previous, backends, balance, health)
    }

    /// The first pool of a process with so many workers.
    pub fn for_workers(
        workers: usize,
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        let shared = Arc::new(Shared::new(workers, health, Sources::system()));
        Pool::of(shared, None, backends, balance, health)
    }

    /// The first pool, for a caller that sets its clock.
    #[cfg(any(test, feature = "simulate"))]
    pub(crate) fn with_sources(
        sources: Sources,
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        let shared = Arc::new(Shared::new(1, health, sources));
        Pool::of(shared, None, backends, balance, health)
    }

    #[inline(never)]
    fn of(
        shared: Arc<Shared>,
        previous: Option<&Pool>,
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        let states = shared.states(previous, &backends);
        let roster = Roster::new(states.iter().map(|state| state.id).collect());
        if let Some(previous) = previous {
            shared.remember_gone(previous, &roster);
        }
        let roster = Arc::new(roster);
        let cookies = match &balance.persistence {
            Persistence::Cookie { name } => {
                Some(Cookies::new(name, backends.iter().map(|b| b.name.as_str())))
            }
            Persistence::None | Persistence::SourceAddress => None,
        };
        // A client with the same address always has the same backend: nothing is left for the
        // method to decide.
        let method = match balance.persistence {
            Persistence::SourceAddress => Method::SourceHash,
            Persistence::None | Persistence::Cookie { .. } => balance.method,
        };
        let hash = match method {
            Method::Hash => balance.hash.clone(),
            _ => HashSettings::default(),
        };
        let of_this_pool = |(index, settings): (usize, BackendSettings), state| {
            let cookies = cookies.as_ref();
            Arc::new(Backend {
                index,
                set_cookie: cookies.map(|cookies: &Cookies| cookies.set_cookie(index)),
                name_key: persist::name_key(&settings.name),
                roster: Arc::clone(&roster),
                settings,
                state,
            })
        };
        let queue_length = balance.queue.map_or(0, |queue| queue.length);
        // Requests that were given a place and have not taken it up yet are not those that wait.
        shared.make_room(2 * queue_length);
        let backends: Arc<[_]> = (0..)
            .zip(backends)
            .zip(states)
            .map(|(settings, state)| of_this_pool(settings, state))
            .collect();
        let pool = Pool {
            backends,
            roster,
            method,
            learns: method == Method::Fastest || balance.ejection.is_some(),
            retry_percent: balance.retry_percent,
            bad_status: balance.ejection.clone().unwrap_or_default().status,
            ejection: balance.ejection.clone(),
            hash,
            cookies,
            standing: Standing::new(balance, health, shared.time.clone()),
            queue_length,
            home: Arc::default(),
            shared,
            #[cfg(test)]
            looked_at: AtomicUsize::new(0),
            #[cfg(test)]
            heard: Mutex::default(),
        };
        // Made here, on the main thread, so that no choice allocates.
        *lock(&pool.home) = Some(pool.new_chooser());
        if let Some(previous) = previous {
            pool.apply_changes(previous);
        }
        pool
    }

    /// The name of a backend of this pool, or of one of the last 4,096 that were removed.
    pub fn name(&self, backend: BackendId) -> Option<Arc<str>> {
        if let Some(place) = self.roster.place(backend) {
            return Some(Arc::clone(&self.backends[place].name));
        }
        let gone = lock(&self.shared.gone);
        let (_, name) = gone.iter().rev().find(|(id, _)| *id == backend)?;
        Some(Arc::clone(name))
    }

    /// Makes room for all that choices among its backends need.
    #[inline(never)]
    pub(in crate::pool) fn new_chooser(&self) -> Box<Chooser> {
        let (backends, home) = (Arc::clone(&self.backends), Arc::downgrade(&self.home));
        let load_percent_max = self.hash.load_percent_max;
        Box::new(Chooser::new(
            backends,
            self.method,
            load_percent_max,
            self.standing.clone(),
            home,
        ))
    }

    /// Applies what the new settings change about backends that were there before.
    fn apply_changes(&self, previous: &Pool) {
        for backend in self.backends() {
            let Some(place) = previous.roster.place(backend.id) else {
                continue;
            };
            let before = &previous.backends[place];
            if backend.settings.disabled != before.settings.disabled {
                backend.decide(Operator::of(&backend.settings), "configuration");
            }
            let rules = |pool: &Pool, backend| pool.standing.rules(backend).check;
            let (was, is) = (rules(previous, before), rules(self, backend));
            if is != Check::None && was == Check::None {
                backend.allow_trial(NEVER);
            } else if is == Check::None && !backend.is_healthy() {
                // No check will bring it up, and `down_interval` may be shorter now.
                let at_ms = self.standing.next_trial_ms(backend);
                backend.allow_trial(at_ms.min(backend.trial_at_ms()));
            }
        }
    }
}

impl Shared {
    /// The state of each backend, in their order: the previous pool's if it is the same backend.
    fn states(
        self: &Arc<Self>,
        previous: Option<&Pool>,
        backends: &[BackendSettings],
    ) -> Vec<Arc<BackendState>> {
        let known = previous.map_or(&[][..], Pool::backends);
        let mut by_name = places(known.iter().map(|known| &*known.settings.name));
        // Lazily and once: asking the system for each of a thousand backends would take ten
        // milliseconds.
        let has_ipv6 = LazyCell::new(has_ipv6_loopback);
        let state = |settings: &BackendSettings| {
            // Taken out, so that two backends cannot share a state whatever their names are.
            let known = by_name.remove(&*settings.name).map(|place| &known[place]);
            if let Some(known) = known.filter(|it| settings.is_same_backend(&it.settings)) {
                return Arc::clone(&known.state);
            }
            let id = self.next_id(previous);
            let why = if previous.is_some() { "added" } else { "start" };
            let mut state = BackendState::new(id, settings, self.workers, why, || *has_ipv6);
            state.shared = Arc::downgrade(self);
            Arc::new(state)
        };
        backends.iter().map(state).collect()
    }

    /// A number that no backend of the previous pool has; after four thousand million backends
    /// numbers repeat.
    fn next_id(&self, previous: Option<&Pool>) -> BackendId {
        loop {
            let before = self.last_id.fetch_add(1, Ordering::Relaxed);
            let id = BackendId(before.wrapping_add(1));
            let is_taken = previous.is_some_and(|previous| previous.roster.place(id).is_some());
            if id != BackendId::default() && !is_taken {
                return id;
            }
        }
    }

    /// Keeps the names of the removed backends.
    fn remember_gone(&self, previous: &Pool, roster: &Roster) {
        let mut gone = lock(&self.gone);
        for backend in previous.backends() {
            if roster.place(backend.id).is_none() {
                gone.push_back((backend.id, Arc::clone(&backend.name)));
            }
        }
        let too_many = gone.len().saturating_sub(GONE_MAX);
        gone.drain(..too_many);
    }
}

#[cfg(test)]
#[path = "following_tests.rs"]
mod tests;
