//! Which backend takes a request, and whether it may.
//!
//! [`Pool::choose`] finds the candidates and lets a method pick one; [`Pool::report`] hears what came of it and
//! [`Pool::probed`] what a check found. The balancing state is behind one `Mutex`, held for the walk over the backends
//! and nothing else; each backend's health is behind its own `RwLock`. Under a lock nothing is logged, allocated or
//! written to a socket.
//!
//! Read on in `balance.rs` (methods), `health.rs` (rise and fall), `backend.rs` (one backend), `persist.rs` (cookies and
//! hashing), `checks/probe.rs` and `checks/messages.rs` (kinds of check), `explain.rs` (the choices shown). The threads that feed it are `checker.rs` and `resolver.rs`.

pub mod backend;
pub mod balance;
pub mod explain;
pub(crate) mod hash;
pub(crate) mod health;
pub(crate) mod persist;
pub mod settings;
pub mod trace;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::log::limit::LineLimit;
use crate::net::lock::lock;
use crate::net::waker::Bell;
use crate::pool::backend::{Backend, InFlight, NEVER, Operator};
use crate::pool::balance::{Balancer, Candidate};
use crate::pool::health::{Check, Health, Rules};
use crate::pool::persist::Cookies;
use crate::pool::settings::{
    BackendSettings, BalanceSettings, HealthCheckSettings, Method, Persistence,
};
use crate::pool::trace::{Decision, Rule, Verdict};

pub use health::Event;

/// The backends and the choice among them.
#[derive(Debug)]
pub struct Pool {
    backends: Vec<Arc<Backend>>,
    name_keys: Vec<u64>,
    method: Method,
    cookies: Option<Cookies>,
    rules: Rules,
    down_interval: Duration,
    started: Instant,
    state: Mutex<State>,
    /// Bounds the event lines about requests that no backend may take.
    pub(crate) unavailable_lines: LineLimit,
    checker: OnceLock<Arc<Bell>>,
    resolver: OnceLock<Arc<Bell>>,
}

/// What a choice changes.
#[derive(Debug)]
struct State {
    balancer: Balancer,
    /// Empty between two choices; kept for its capacity.
    candidates: Vec<Candidate>,
}

/// What an exchange wants of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The value of the persistence cookie in its request.
    pub cookie: Option<&'a [u8]>,
    /// Whether `balance.tries` allows one more; unhealthy backends are tried whatever it says.
    pub tries_left: bool,
}

/// What a choice came to.
#[derive(Debug)]
pub enum Choice {
    /// This one takes it.
    Backend {
        /// Its place, to be held while the exchange lasts.
        in_flight: InFlight,
        /// Whether the response must bind the client to it: add [`Backend::set_cookie`].
        set_cookie: bool,
    },
    /// No backend may take it: all are disabled, drained, of weight 0 or full (503).
    Unavailable,
    /// All that may take it were tried, or as many as `balance.tries` allows (502, or 504 when the last one was too slow).
    Exhausted,
}

/// The backends that one request was sent to.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    first: u64,
    /// Beyond the first 64; allocated for large pools only.
    rest: Vec<u64>,
}

/// What the walk over the backends found, beside the candidates.
struct Found {
    tier: Tier,
    any_healthy: bool,
    any_tried: bool,
    /// The bound backend is fit but full: the client is served elsewhere and stays bound.
    bound_is_full: bool,
    /// The bound backend, fit to serve.
    bound: Option<usize>,
}

/// The groups of backends; the first that has a candidate is the one to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Healthy,
    HealthyBackup,
    Unhealthy,
    UnhealthyBackup,
    Nobody,
}

impl Pool {
    /// A pool in which everyone is healthy until something else is seen.
    pub fn new(
        backends: Vec<BackendSettings>,
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
    ) -> Pool {
        let cookies = match &balance.persistence {
            Persistence::Cookie { name } => {
                Some(Cookies::new(name, backends.iter().map(|b| b.name.as_str())))
            }
            Persistence::None | Persistence::SourceAddress => None,
        };
        // A client that always has the same address always has the same backend: the method has nothing left to decide.
        let method = match balance.persistence {
            Persistence::SourceAddress => Method::SourceHash,
            Persistence::None | Persistence::Cookie { .. } => balance.method,
        };
        let name_keys = backends
            .iter()
            .map(|backend| persist::name_key(&backend.name))
            .collect();
        let shared = |(index, settings)| {
            let set_cookie = cookies
                .as_ref()
                .map(|cookies: &Cookies| cookies.set_cookie(index));
            Arc::new(Backend::new(settings, index, set_cookie))
        };
        let backends: Vec<_> = backends.into_iter().enumerate().map(shared).collect();
        let state = State {
            balancer: Balancer::new(backends.len()),
            candidates: Vec::with_capacity(backends.len()),
        };
        Pool {
            backends,
            name_keys,
            method,
            cookies,
            rules: Rules::new(health),
            down_interval: health.down_interval,
            started: Instant::now(),
            state: Mutex::new(state),
            unavailable_lines: LineLimit::default(),
            checker: OnceLock::new(),
            resolver: OnceLock::new(),
        }
    }

    /// The backends, in the order of the configuration.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// The name of the cookie that binds clients, where one does: look for its value in the request for [`Wish`].
    pub fn cookie_name(&self) -> Option<&str> {
        self.cookies.as_ref().map(Cookies::name)
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
        wish: &Wish<'_>,
        tried: &Tried,
        mut record: Option<&mut Decision>,
    ) -> Choice {
        let bound = self
            .cookies
            .as_ref()
            .zip(wish.cookie)
            .and_then(|(cookies, value)| cookies.backend(value));
        let client_key = if self.method == Method::SourceHash {
            persist::client_key(wish.client)
        } else {
            0
        };
        if let Some(decision) = record.as_deref_mut() {
            decision.begin_choice();
        }

        let mut state = lock(&self.state);
        let State {
            balancer,
            candidates,
        } = &mut *state;
        candidates.clear();
        let found = self.walk(candidates, tried, bound, record.as_deref_mut());
        if found.any_healthy && !wish.tries_left {
            return Choice::Exhausted;
        }
        let (index, rule) = if let Some(bound) = found.bound {
            (bound, Rule::Cookie)
        } else if candidates.is_empty() {
            return if found.any_tried {
                Choice::Exhausted
            } else {
                Choice::Unavailable
            };
        } else {
            let (method, rule) = match (found.tier, self.method) {
                (Tier::Unhealthy | Tier::UnhealthyBackup, _) => {
                    (Method::RoundRobin, Rule::FailOpen)
                }
                (_, Method::RoundRobin) => (Method::RoundRobin, Rule::Turn),
                (_, Method::LeastConnections) => (Method::LeastConnections, Rule::FewestInFlight),
                (_, Method::RandomTwo) => (Method::RandomTwo, Rule::BetterOfTwo),
                (_, Method::SourceHash) => (Method::SourceHash, Rule::SourceHash),
            };
            let place = balancer.pick(method, candidates, client_key);
            (candidates[place].index, rule)
        };
        let backend = &self.backends[index];
        let in_flight = InFlight::take(backend);
        if backend.trial_at_ms() != NEVER {
            // This exchange finds out; the next one has to wait again.
            backend.allow_trial(self.next_trial_ms(backend));
        }
        drop(state);

        if let Some(decision) = record {
            decision.chosen(index, rule);
        }
        let set_cookie = self.cookies.is_some() && bound != Some(index) && !found.bound_is_full;
        Choice::Backend {
            in_flight,
            set_cookie,
        }
    }

    /// Hears what an exchange saw of a backend; `reason` is for the log. A success on a healthy one
    /// costs a read lock.
    pub fn report(&self, backend: &Backend, event: Event, reason: &dyn fmt::Display) {
        let (before, after) = self.note(backend, event, reason);
        if event == Event::Died {
            // Whether it is really gone, a check finds out.
            backend.want_check();
        }
        if event == Event::Died || before.is_up() && !after.is_up() {
            // So that `down_interval` counts from now.
            ring(&self.checker);
        }
        if event == Event::ConnectFailed && backend.needs_lookup() && backend.want_lookup() {
            ring(&self.resolver);
        }
    }

    /// Hears what a check found; the error is the reason that is logged.
    pub fn probed(&self, backend: &Backend, outcome: Result<(), &str>) {
        let (event, reason) = match outcome {
            Ok(()) => (Event::CheckPassed, "the check passed"),
            Err(reason) => (Event::CheckFailed, reason),
        };
        let (_, after) = self.note(backend, event, &reason);
        if outcome.is_ok()
            && self.rules(backend).check == Check::Icmp
            && after.waits_for_connection()
        {
            // The host is there; whether the server is, only a connection can tell, so one exchange may try.
            backend.allow_trial(0);
        }
    }

    /// Rung when a backend went down or died, or its addresses came: what the checker waits for. Only the first bell is kept.
    pub fn wake_checker_with(&self, bell: Arc<Bell>) {
        let _ = self.checker.set(bell);
    }

    /// Rung when a name should be looked up again: what the resolver waits for. Only the first bell is kept.
    pub fn wake_resolver_with(&self, bell: Arc<Bell>) {
        let _ = self.resolver.set(bell);
    }

    /// Wakes the checker, because there is news that it should see.
    pub fn wake_checker(&self) {
        ring(&self.checker);
    }

    /// One pass over the backends, under the lock: who is a candidate, and in which group. Only candidates of the best
    /// group stay in the list.
    fn walk(
        &self,
        candidates: &mut Vec<Candidate>,
        tried: &Tried,
        bound: Option<usize>,
        mut record: Option<&mut Decision>,
    ) -> Found {
        let mut found = Found {
            tier: Tier::Nobody,
            any_healthy: false,
            any_tried: false,
            bound_is_full: false,
            bound: None,
        };
        for (index, backend) in self.backends.iter().enumerate() {
            let healthy = backend.is_healthy();
            let verdict = self.judge(index, backend, healthy, tried);
            if bound == Some(index)
                && healthy
                && backend.operator() != Operator::Disabled
                && !tried.contains(index)
            {
                found.bound_is_full = backend.is_full();
                found.bound = (!found.bound_is_full).then_some(index);
            }
            match verdict {
                Verdict::Disabled | Verdict::Draining | Verdict::Weightless => {}
                _ => found.any_healthy |= healthy,
            }
            found.any_tried |= verdict == Verdict::Tried;
            if let Some(decision) = record.as_deref_mut() {
                decision.stands(index, verdict);
            }
            let tier = match (verdict, backend.settings.backup) {
                (Verdict::Eligible, false) => Tier::Healthy,
                (Verdict::Backup, _) => Tier::HealthyBackup,
                (Verdict::Down, false) => Tier::Unhealthy,
                (Verdict::Down, true) => Tier::UnhealthyBackup,
                _ => continue,
            };
            if tier < found.tier {
                found.tier = tier;
                candidates.clear();
            }
            if tier == found.tier {
                candidates.push(Candidate {
                    index,
                    weight: backend.settings.weight,
                    in_flight: backend.in_flight(),
                    name_key: self.name_keys[index],
                });
            }
        }
        // Fail open: only when no healthy backend exists at all, whether this request tried it or not.
        if found.any_healthy && found.tier >= Tier::Unhealthy {
            candidates.clear();
        }
        found
    }

    fn judge(&self, index: usize, backend: &Backend, healthy: bool, tried: &Tried) -> Verdict {
        match backend.operator() {
            Operator::Disabled => return Verdict::Disabled,
            Operator::Draining => return Verdict::Draining,
            Operator::Enabled => {}
        }
        if backend.settings.weight == 0 {
            Verdict::Weightless
        } else if tried.contains(index) {
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

    /// Whether one exchange may find out if a backend that is down has come back, because no check does.
    fn may_be_tried(&self, backend: &Backend) -> bool {
        let at_ms = backend.trial_at_ms();
        at_ms != NEVER && self.now_ms() >= at_ms
    }

    /// With `none`, exchanges try after `down_interval`; else after the next check that allows it.
    fn next_trial_ms(&self, backend: &Backend) -> u64 {
        match self.rules(backend).check {
            Check::None => self.now_ms() + millis(self.down_interval),
            Check::Tcp | Check::Http | Check::Icmp => NEVER,
        }
    }

    /// A backend that is not checked goes by what `none` says.
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
        millis(self.started.elapsed())
    }

    /// Counts an event; logs a change of state once, with its reason, when no lock is held any more.
    fn note(&self, backend: &Backend, event: Event, reason: &dyn fmt::Display) -> (Health, Health) {
        let rules = self.rules(backend);
        let (before, after) = backend.note(event, &rules, || self.next_trial_ms(backend));
        let name = &backend.settings.name;
        if after.is_up() && !before.is_up() {
            log::info!("backend {name:?} is up: {reason}");
        } else if before.is_up() && !after.is_up() {
            match after.failures() {
                1 => log::warn!("backend {name:?} is down: {reason}"),
                n => log::warn!("backend {name:?} is down after {n} failures in a row: {reason}"),
            }
        } else if after.successes() > before.successes() && rules.check == Check::None {
            // A success that `rise` does not take for enough: the next exchange may add to it.
            backend.allow_trial(0);
        }
        (before, after)
    }
}

impl Tried {
    /// Begins another request.
    pub fn clear(&mut self) {
        self.first = 0;
        self.rest.clear();
    }

    /// Adds a backend.
    pub fn insert(&mut self, backend: usize) {
        match backend / 64 {
            0 => self.first |= 1 << backend,
            word => {
                if self.rest.len() < word {
                    self.rest.resize(word, 0);
                }
                self.rest[word - 1] |= 1 << (backend % 64);
            }
        }
    }

    /// Whether a backend was tried.
    pub fn contains(&self, backend: usize) -> bool {
        let word = match backend / 64 {
            0 => self.first,
            word => self.rest.get(word - 1).copied().unwrap_or(0),
        };
        word >> (backend % 64) & 1 == 1
    }
}

fn ring(bell: &OnceLock<Arc<Bell>>) {
    if let Some(bell) = bell.get() {
        bell.ring();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
