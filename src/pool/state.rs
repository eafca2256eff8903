//! What lives on of a backend when configurations change: its health, the operator's decision, its
//! connections.
//!
//! There is one [`BackendState`] for each name, host and port, shared as an `Arc` by every pool
//! that has the backend and by each exchange or idle connection that still counts for it. What an
//! exchange reads often is an atomic or a read lock; what changes seldom is written only when it
//! changes.
//!
//! Read next: `pool/chooser/mod.rs`, how one backend is picked. What belongs to one configuration
//! is in `pool/backend.rs`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use crate::log::limit::LineLimit;
use crate::net::atomic::AtomicU64;
use crate::net::lock::{lock, read, write};
use crate::pool::chooser::kept::Kept;
use crate::pool::ejection::Ejection;
use crate::pool::following::Shared;
use crate::pool::health::{Event, Health, Rules};
use crate::pool::reasons::{Checked, Since};
use crate::pool::settings::BackendSettings;
use crate::traffic::{Totals, Traffic};

/// Identifies a backend for as long as its name, host and port stay: the same number in all pools
/// that follow each other, and never that of another backend in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BackendId(pub(in crate::pool) u32);

/// What an operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It takes all requests.
    Enabled,
    /// It takes no new clients; those bound to it by a cookie stay.
    Draining,
    /// It takes nothing.
    Disabled,
}

impl Operator {
    /// What the configuration decides at first.
    pub(in crate::pool) fn of(settings: &BackendSettings) -> Operator {
        if settings.disabled {
            Operator::Disabled
        } else {
            Operator::Enabled
        }
    }
}

/// What all threads know of a backend.
#[derive(Debug)]
pub struct BackendState {
    /// Its identity in every pool.
    pub id: BackendId,
    /// As configured.
    pub name: Arc<str>,
    health: RwLock<Known>,
    operator: AtomicU8,
    /// Since when the operator wants this, and who said so.
    decided: Mutex<Since>,
    last_check: Mutex<Option<Checked>>,
    in_flight: AtomicUsize,
    idle: AtomicUsize,
    /// When one exchange may try it although it is down; `NEVER` if only checks decide.
    trial_at_ms: AtomicU64,
    pub(in crate::pool) attempts: Attempts,
    pub(in crate::pool) kept: Kept,
    pub(crate) ejection: Ejection,
    /// The pools that it is in, one of which chooses and must hear of changes.
    pub(in crate::pool) shared: Weak<Shared>,
    /// Whether the chooser must hear when an exchange ends.
    tells_ends: AtomicBool,
    addresses: RwLock<Arc<[SocketAddr]>>,
    needs_lookup: bool,
    lookup_pending: AtomicBool,
    lookup_wanted: AtomicBool,
    check_wanted: AtomicBool,
    /// What each worker has counted of it, in the order of the workers.
    traffic: Box<[Traffic]>,
    /// Limits the event lines about its failures.
    pub(crate) failure_lines: LineLimit,
}

/// Its health, and since when it is up or down.
#[derive(Debug)]
struct Known {
    health: Health,
    since: Since,
}

/// How it stands, for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    /// The first that is so of `disabled`, `draining`, `down`, `ejected`, `up`.
    pub(crate) state: &'static str,
    pub(crate) since: Since,
}

/// Later than every time.
pub(in crate::pool) const NEVER: u64 = u64::MAX;

impl BackendState {
    /// Of a new backend that so many `workers` count. `why` it is there; `has_ipv6`: whether this
    /// machine has the address `::1`.
    pub(in crate::pool) fn new(
        id: BackendId,
        settings: &BackendSettings,
        workers: usize,
        why: &'static str,
        has_ipv6: impl FnOnce() -> bool,
    ) -> BackendState {
        let url = &settings.url;
        let addresses = url.host.fixed_addresses_if(url.port, has_ipv6);
        let operator = Operator::of(settings);
        let since = Since::now(&why);
        BackendState {
            id,
            name: settings.name.as_str().into(),
            health: RwLock::new(Known {
                health: Health::NEW,
                since,
            }),
            decided: Mutex::new(since),
            last_check: Mutex::default(),
            operator: AtomicU8::new(operator as u8),
            in_flight: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            trial_at_ms: AtomicU64::new(NEVER),
            attempts: Attempts::default(),
            kept: Kept::default(),
            ejection: Ejection::new(since),
            shared: Weak::new(),
            tells_ends: AtomicBool::new(false),
            needs_lookup: url.host.looked_up().is_some(),
            lookup_pending: AtomicBool::new(addresses.is_none()),
            lookup_wanted: AtomicBool::new(false),
            check_wanted: AtomicBool::new(false),
            traffic: (0..workers.max(1)).map(|_| Traffic::default()).collect(),
            failure_lines: LineLimit::default(),
            addresses: RwLock::new(addresses.unwrap_or_default().into()),
        }
    }

    /// Where to connect, the address that worked last first; empty until a name is resolved.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&read(&self.addresses))
    }

    /// Puts an address first after a connection to it was opened. Costs a read lock if it is first
    /// already.
    pub fn address_worked(&self, address: SocketAddr) {
        let known = self.addresses();
        let Some(place @ 1..) = known.iter().position(|&a| a == address) else {
            return;
        };
        let mut sorted = known.to_vec();
        sorted[..=place].rotate_right(1);
        let sorted = Arc::from(sorted);
        let mut addresses = write(&self.addresses);
        // Unless a lookup was faster: new addresses must not be overwritten with old ones.
        if Arc::ptr_eq(&addresses, &known) {
            *addresses = sorted;
        }
    }

    /// Replaces the addresses with what its name resolves to now; the first one stays first if it
    /// is still among them. Returns whether anything changed.
    pub fn set_addresses(&self, mut new: Vec<SocketAddr>) -> bool {
        let known = self.addresses();
        // Resolvers rotate their answers: the same addresses in another order are no change.
        let changed =
            known.len() != new.len() || known.iter().any(|address| !new.contains(address));
        if changed {
            if let Some(place) = known
                .first()
                .and_then(|first| new.iter().position(|a| a == first))
            {
                new[..=place].rotate_right(1);
            }
            let new = Arc::from(new);
            *write(&self.addresses) = new;
        }
        // After the addresses: a check that waits for the first lookup reads this first.
        self.lookup_pending.store(false, Ordering::Release);
        changed
    }

    /// Whether a resolver says what its addresses are, or that it is there at all.
    pub fn needs_lookup(&self) -> bool {
        self.needs_lookup
    }

    /// Notes that a lookup failed; the addresses stay.
    pub fn lookup_failed(&self) {
        self.lookup_pending.store(false, Ordering::Release);
    }

    /// Whether the first lookup of its name is still to come.
    pub fn is_lookup_pending(&self) -> bool {
        self.lookup_pending.load(Ordering::Acquire)
    }

    /// Asks for another lookup of its name. Returns whether no other thread had asked yet.
    pub(in crate::pool) fn want_lookup(&self) -> bool {
        !self.lookup_wanted.swap(true, Ordering::AcqRel)
    }

    /// Whether a lookup was asked for since the last call.
    pub fn take_lookup_wish(&self) -> bool {
        self.lookup_wanted.load(Ordering::Acquire)
            && self.lookup_wanted.swap(false, Ordering::AcqRel)
    }

    /// Asks for a check before the next one is due.
    pub(in crate::pool) fn want_check(&self) {
        self.check_wanted.store(true, Ordering::Release);
    }

    /// Whether a check was asked for since the last call.
    pub fn take_check_wish(&self) -> bool {
        self.check_wanted.load(Ordering::Acquire) && self.check_wanted.swap(false, Ordering::AcqRel)
    }

    /// Whether rise and fall say that it is up.
    pub fn is_healthy(&self) -> bool {
        self.health().is_up()
    }

    /// Whether it is up and not ejected.
    pub(in crate::pool) fn is_fit(&self) -> bool {
        self.is_healthy() && !self.ejection.is_out()
    }

    pub(in crate::pool) fn health(&self) -> Health {
        read(&self.health).health
    }

    /// Counts an event, and writes only what changes. Returns the states before and after.
    /// `trial_at_ms`: when an exchange may try a backend that has just gone down.
    pub(in crate::pool) fn note(
        &self,
        event: Event,
        rules: &Rules,
        reason: &dyn fmt::Display,
        trial_at_ms: impl Fn() -> u64,
    ) -> (Health, Health) {
        let before = self.health();
        if before.after(event, rules) == before {
            return (before, before);
        }
        // Before the lock is taken: it writes text.
        let since = Since::now(reason);
        let mut known = write(&self.health);
        let before = known.health;
        let after = before.after(event, rules);
        known.health = after;
        if before.is_up() != after.is_up() {
            known.since = since;
        }
        // Still under the lock: when it goes up and down at once, the last change must win here
        // too.
        match (before.is_up(), after.is_up()) {
            (true, false) => self.set_trial(trial_at_ms()),
            (false, true) => self.set_trial(NEVER),
            _ => return (before, after),
        }
        drop(known);
        self.tell_change();
        (before, after)
    }

    /// From that moment on, lets one exchange try it although it is down.
    pub(in crate::pool) fn allow_trial(&self, at_ms: u64) {
        self.set_trial(at_ms);
        self.tell_change();
    }

    /// The same under a lock, by a caller that tells the chooser itself.
    pub(in crate::pool) fn set_trial(&self, at_ms: u64) {
        self.trial_at_ms.store(at_ms, Ordering::Relaxed);
    }

    /// Tells the chooser that this backend has changed; under no lock of its own.
    #[inline(never)]
    fn tell_change(&self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = lock(&shared.state);
            state.chooser.changed(self);
            shared.serve(state);
        }
    }

    /// When one exchange may try it although it is down.
    pub(in crate::pool) fn trial_at_ms(&self) -> u64 {
        self.trial_at_ms.load(Ordering::Relaxed)
    }

    /// What the operator decided.
    pub fn operator(&self) -> Operator {
        match self.operator.load(Ordering::Relaxed) {
            0 => Operator::Enabled,
            1 => Operator::Draining,
            _ => Operator::Disabled,
        }
    }

    /// Decides for the operator by the admin interface, from the next choice on.
    pub fn set_operator(&self, operator: Operator) {
        self.decide(operator, "admin interface");
    }

    /// Decides for the operator, from the next choice on.
    pub(in crate::pool) fn decide(&self, operator: Operator, why: &'static str) {
        if self.operator() != operator {
            *lock(&self.decided) = Since::now(&why);
        }
        self.operator.store(operator as u8, Ordering::Relaxed);
        if operator == Operator::Enabled {
            self.ejection.pardon();
        }
        self.tell_change();
    }

    /// How it stands, since when and why.
    pub(crate) fn shown(&self) -> Shown {
        let decided = *lock(&self.decided);
        let (is_up, known) = {
            let known = read(&self.health);
            (known.health.is_up(), known.since)
        };
        let (state, since) = match self.operator() {
            Operator::Disabled => ("disabled", decided),
            Operator::Draining => ("draining", decided),
            Operator::Enabled if !is_up => ("down", known),
            Operator::Enabled if self.ejection.is_out() => ("ejected", self.ejection.since()),
            // It has been up for as long as it has been all three.
            Operator::Enabled => {
                let all = [decided, known, self.ejection.since()];
                let last = all.into_iter().max_by_key(|since| since.unix_ms);
                ("up", last.unwrap_or(known))
            }
        };
        Shown { state, since }
    }

    /// Keeps what a check has found.
    pub(crate) fn checked(&self, result: Checked) {
        *lock(&self.last_check) = Some(result);
    }

    /// What the last check has found; none before the first one.
    pub(crate) fn last_check(&self) -> Option<Checked> {
        *lock(&self.last_check)
    }

    /// Its exchanges now, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Adds an exchange. Only [`InFlight`](crate::pool::backend::InFlight) does, under the
    /// balancer's lock.
    pub(in crate::pool) fn take_in_flight(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes an exchange, and tells the chooser if that matters: only when the backend was full,
    /// or for a method that goes by loads.
    pub(in crate::pool) fn give_back_in_flight(&self) {
        // In one order with `tell_ends`: either the chooser sees the new number, or this tells.
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "each place is given back once");
        if self.tells_ends.load(Ordering::SeqCst) {
            self.tell_end();
        }
    }

    #[inline(never)]
    fn tell_end(&self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = lock(&shared.state);
            state.chooser.ended(self);
            shared.serve(state);
        }
    }

    /// Whether the chooser is to hear when an exchange ends; it must look at `in_flight` after
    /// this.
    pub(in crate::pool) fn tell_ends(&self, tells: bool) {
        if self.tells_ends.load(Ordering::Relaxed) != tells {
            self.tells_ends.store(tells, Ordering::SeqCst);
        }
    }

    /// Takes a place for one more idle connection, unless `max` are kept already.
    pub(crate) fn reserve_idle(self: &Arc<Self>, max: usize) -> Option<IdlePlace> {
        let more = |idle| (idle < max).then_some(idle + 1);
        let taken = self
            .idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| IdlePlace(Arc::clone(self)))
    }

    /// Where the worker at this place counts.
    pub(crate) fn traffic_of(&self, worker: usize) -> &Traffic {
        self.traffic.get(worker).unwrap_or(&self.traffic[0])
    }

    /// What all workers have counted of it.
    pub(crate) fn traffic(&self) -> Totals {
        Totals::of(&self.traffic)
    }

    /// Idle connections kept over all workers.
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }
}

/// What requests that walk through the list of backends share about one that is down.
#[derive(Debug, Default)]
pub(in crate::pool) struct Attempts {
    /// When one of them last began to try it.
    began_ms: AtomicU64,
    /// When an exchange last failed to connect to it.
    failed_ms: AtomicU64,
}

/// The backends that a round of a walk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Order {
    /// Those that have not failed since the walk began.
    All,
    /// Of those, the ones that no other walk is trying at this moment.
    NotTriedNow,
}

impl Attempts {
    pub(in crate::pool) fn began(&self, now_ms: u64) {
        self.began_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(in crate::pool) fn failed(&self, now_ms: u64) {
        self.failed_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether such a round of a walk that began at `since_ms` skips it.
    pub(in crate::pool) fn is_passed_over(&self, order: Order, since_ms: u64) -> bool {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        let is_tried_now = || self.began_ms.load(Ordering::Relaxed) > failed_ms;
        failed_ms > since_ms || order == Order::NotTriedNow && is_tried_now()
    }
}

/// A place among a backend's idle connections; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct IdlePlace(Arc<BackendState>);

impl IdlePlace {
    /// The backend whose place it is.
    pub(crate) fn backend(&self) -> BackendId {
        self.0.id
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        let before = self.0.idle.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "each place is given back once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::backend::tests::settings;
    use std::time::Duration;

    use crate::pool::settings::{HealthCheckSettings, Host, Kind};

    fn named(name: &str) -> Arc<BackendState> {
        let mut settings = settings("a");
        settings.url.host = Host::Name(name.to_owned());
        Arc::new(BackendState::new(
            BackendId(1),
            &settings,
            1,
            "start",
            || true,
        ))
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    #[test]
    fn a_numeric_host_has_its_address_at_once_and_a_name_has_none() {
        let backend = BackendState::new(BackendId(1), &settings("a"), 1, "start", || true);
        assert_eq!(backend.addresses()[..], addresses(&["127.0.0.1:1"])[..]);
        assert!(!backend.is_lookup_pending());
        let backend = named("example.org");
        assert!(backend.addresses().is_empty() && backend.is_lookup_pending());
    }

    #[test]
    fn the_address_that_last_worked_goes_first_and_the_others_keep_their_order() {
        let backend = named("example.org");
        let [a, b, c] = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        assert!(backend.set_addresses(addresses(&[a, b, c])));
        backend.address_worked(c.parse().unwrap());
        assert_eq!(backend.addresses()[..], addresses(&[c, a, b])[..]);
        backend.address_worked("10.9.9.9:1".parse().unwrap());
        assert_eq!(
            backend.addresses()[..],
            addresses(&[c, a, b])[..],
            "an unknown address changes nothing"
        );
    }

    #[test]
    fn new_addresses_replace_the_old_and_a_mere_rotation_is_no_news() {
        let backend = named("example.org");
        let [a, b, c] = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
        assert!(backend.set_addresses(addresses(&[a, b])));
        assert!(!backend.is_lookup_pending());
        assert!(!backend.set_addresses(addresses(&[b, a])));
        assert_eq!(backend.addresses()[..], addresses(&[a, b])[..]);
        assert!(backend.set_addresses(addresses(&[c, a])));
        assert_eq!(
            backend.addresses()[..],
            addresses(&[a, c])[..],
            "the first stays first"
        );
        assert!(backend.set_addresses(addresses(&[b])));
        assert_eq!(backend.addresses()[..], addresses(&[b])[..]);
    }

    #[test]
    fn idle_places_stop_at_the_limit_and_come_back() {
        let backend = named("example.org");
        assert!(backend.reserve_idle(0).is_none());
        let (one, two) = (backend.reserve_idle(2), backend.reserve_idle(2));
        assert!(one.is_some() && two.is_some() && backend.reserve_idle(2).is_none());
        drop(one);
        let three = backend.reserve_idle(2);
        assert!(three.is_some_and(|place| place.backend() == backend.id && backend.idle() == 2));
        drop(two);
        assert_eq!(backend.idle(), 0);
    }

    #[test]
    fn the_operator_decides_and_is_dead_starts_disabled() {
        let mut disabled = settings("a");
        disabled.disabled = true;
        let backend = BackendState::new(BackendId(1), &disabled, 1, "start", || true);
        assert_eq!(backend.operator(), Operator::Disabled);
        for operator in [Operator::Enabled, Operator::Draining, Operator::Disabled] {
            backend.set_operator(operator);
            assert_eq!(backend.operator(), operator);
        }
    }

    fn stands(backend: &BackendState) -> (&'static str, String) {
        let Shown { state, since } = backend.shown();
        assert!(since.unix_ms > 1_600_000_000_000);
        (state, since.reason.get().to_owned())
    }

    #[test]
    fn a_backend_says_since_when_it_stands_as_it_does_and_why() {
        let rules = Rules::new(&HealthCheckSettings {
            fall: 2,
            ..crate::pool::tests::health(Kind::Tcp)
        });
        let backend = BackendState::new(BackendId(1), &settings("a"), 1, "start", || true);
        let note = |event, reason: &str| backend.note(event, &rules, &reason, || NEVER);
        assert_eq!(stands(&backend), ("up", "start".to_owned()));
        note(Event::ConnectFailed, "refused");
        assert_eq!(stands(&backend), ("up", "start".to_owned()), "not yet");
        note(Event::ConnectFailed, "refused again");
        let down = ("down", "refused again".to_owned());
        assert_eq!(stands(&backend), down);
        note(Event::ConnectFailed, "once more");
        assert_eq!(stands(&backend), down, "it was down already");
        backend.set_operator(Operator::Draining);
        let admin = "admin interface".to_owned();
        assert_eq!(stands(&backend), ("draining", admin.clone()));
        backend.decide(Operator::Draining, "configuration");
        assert_eq!(stands(&backend), ("draining", admin), "it was so already");
        backend.decide(Operator::Enabled, "configuration");
        assert_eq!(stands(&backend), down);
        let decided = backend.shown().since.unix_ms;
        while crate::pool::reasons::now_unix_ms() <= decided {}
        note(Event::Connected, "connected");
        assert_eq!(stands(&backend), ("up", "connected".to_owned()));
    }

    #[test]
    fn the_last_check_is_kept_whatever_it_found() {
        let backend = BackendState::new(BackendId(1), &settings("a"), 1, "start", || true);
        assert!(backend.last_check().is_none());
        let took = Duration::from_millis(3);
        backend.checked(Checked::now(Kind::Tcp, took, Err(&"refused")));
        backend.checked(Checked::now(Kind::Http, took, Ok(&"status 200")));
        let last = backend.last_check().unwrap();
        assert!(last.passed && last.kind == Kind::Http && last.took == took);
        assert_eq!(last.reason.get(), "status 200");
    }
}
