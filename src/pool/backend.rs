//! One backend: its settings and what every thread knows of it.
//!
//! Shared as `Arc<Backend>` by the pool, the workers, the checker and the resolver. What an exchange reads often is an
//! atomic or a read lock; what changes seldom is written only when it changes. Places in flight are taken by
//! `Pool::choose` alone, under the balancer's lock, and given back by dropping [`InFlight`], however an exchange ends.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use crate::log::limit::LineLimit;
use crate::net::atomic::AtomicU64;
use crate::net::lock::{read, write};
use crate::pool::health::{Event, Health, Rules};
use crate::pool::persist::SetCookie;
use crate::pool::settings::BackendSettings;

/// What an operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It takes requests.
    Enabled,
    /// It takes no new clients; those bound to it by a cookie stay.
    Draining,
    /// It takes nothing.
    Disabled,
}

/// One backend at run time.
#[derive(Debug)]
pub struct Backend {
    /// As configured.
    pub settings: BackendSettings,
    /// Its place in the pool.
    pub index: usize,
    set_cookie: Option<SetCookie>,
    health: RwLock<Health>,
    operator: AtomicU8,
    in_flight: AtomicUsize,
    idle: AtomicUsize,
    /// From when on one exchange may try it though it is down; `NEVER` where only checks decide.
    trial_at_ms: AtomicU64,
    pub(in crate::pool) attempts: Attempts,
    addresses: RwLock<Arc<[SocketAddr]>>,
    needs_lookup: bool,
    lookup_pending: AtomicBool,
    lookup_wanted: AtomicBool,
    check_wanted: AtomicBool,
    /// Bounds the event lines about its failures.
    pub(crate) failure_lines: LineLimit,
}

/// A time that does not come.
pub(in crate::pool) const NEVER: u64 = u64::MAX;

impl Backend {
    pub(in crate::pool) fn new(
        settings: BackendSettings,
        index: usize,
        set_cookie: Option<SetCookie>,
    ) -> Backend {
        let addresses = settings.url.host.fixed_addresses(settings.url.port);
        let operator = if settings.disabled {
            Operator::Disabled
        } else {
            Operator::Enabled
        };
        Backend {
            index,
            set_cookie,
            health: RwLock::new(Health::NEW),
            operator: AtomicU8::new(operator as u8),
            in_flight: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            trial_at_ms: AtomicU64::new(NEVER),
            attempts: Attempts::default(),
            needs_lookup: addresses.is_none(),
            lookup_pending: AtomicBool::new(addresses.is_none()),
            lookup_wanted: AtomicBool::new(false),
            check_wanted: AtomicBool::new(false),
            failure_lines: LineLimit::default(),
            addresses: RwLock::new(addresses.unwrap_or_default().into()),
            settings,
        }
    }

    /// Where to connect, the address that last worked first; empty while a name is not resolved.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&read(&self.addresses))
    }

    /// Puts an address first, because a connection to it was opened. Costs a read lock where it is first already.
    pub fn address_worked(&self, address: SocketAddr) {
        let known = self.addresses();
        let Some(place @ 1..) = known.iter().position(|&a| a == address) else {
            return;
        };
        let mut sorted = known.to_vec();
        sorted[..=place].rotate_right(1);
        let sorted = Arc::from(sorted);
        let mut addresses = write(&self.addresses);
        // Only if no lookup was faster: new addresses must not be overwritten with old ones.
        if Arc::ptr_eq(&addresses, &known) {
            *addresses = sorted;
        }
    }

    /// Takes the addresses that its name has now, and keeps the first one first where it is still among them.
    /// Says whether anything changed.
    pub fn set_addresses(&self, mut new: Vec<SocketAddr>) -> bool {
        let known = self.addresses();
        // Resolvers rotate their answers: another order of the same addresses is no news.
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
        // After the addresses: a check that waits for the first lookup looks at this first.
        self.lookup_pending.store(false, Ordering::Release);
        changed
    }

    /// Whether its addresses come from a resolver.
    pub fn needs_lookup(&self) -> bool {
        self.needs_lookup
    }

    /// Remembers that its name was looked up without success; the addresses stay as they were.
    pub fn lookup_failed(&self) {
        self.lookup_pending.store(false, Ordering::Release);
    }

    /// Whether its name is yet to be looked up for the first time.
    pub fn is_lookup_pending(&self) -> bool {
        self.lookup_pending.load(Ordering::Acquire)
    }

    /// Asks for its name to be looked up again. Says whether it is the first to ask.
    pub(in crate::pool) fn want_lookup(&self) -> bool {
        !self.lookup_wanted.swap(true, Ordering::AcqRel)
    }

    /// Whether a lookup of its name is wanted; asking once is answered once.
    pub fn take_lookup_wish(&self) -> bool {
        self.lookup_wanted.load(Ordering::Acquire)
            && self.lookup_wanted.swap(false, Ordering::AcqRel)
    }

    /// Asks for a check before the next one is due.
    pub(in crate::pool) fn want_check(&self) {
        self.check_wanted.store(true, Ordering::Release);
    }

    /// Whether a check was asked for; asking once is answered once.
    pub fn take_check_wish(&self) -> bool {
        self.check_wanted.swap(false, Ordering::AcqRel)
    }

    /// Whether rise and fall say that it is up.
    pub fn is_healthy(&self) -> bool {
        self.health().is_up()
    }

    pub(in crate::pool) fn health(&self) -> Health {
        *read(&self.health)
    }

    /// Counts an event, and writes only where it changes something. Gives the states before and after. `trial_at_ms`
    /// says from when on an exchange may try a backend that just went down.
    pub(in crate::pool) fn note(
        &self,
        event: Event,
        rules: &Rules,
        trial_at_ms: impl Fn() -> u64,
    ) -> (Health, Health) {
        let before = self.health();
        if before.after(event, rules) == before {
            return (before, before);
        }
        let mut health = write(&self.health);
        let before = *health;
        let after = before.after(event, rules);
        *health = after;
        // Still under the lock: when it goes up and down at once, the last one must set this too.
        match (before.is_up(), after.is_up()) {
            (true, false) => self.allow_trial(trial_at_ms()),
            (false, true) => self.allow_trial(NEVER),
            _ => {}
        }
        (before, after)
    }

    /// Lets one exchange try it from that moment on, though it is down.
    pub(in crate::pool) fn allow_trial(&self, at_ms: u64) {
        self.trial_at_ms.store(at_ms, Ordering::Relaxed);
    }

    /// From when on one exchange may try it though it is down.
    pub(in crate::pool) fn trial_at_ms(&self) -> u64 {
        self.trial_at_ms.load(Ordering::Relaxed)
    }

    /// What the operator wants of it.
    pub fn operator(&self) -> Operator {
        match self.operator.load(Ordering::Relaxed) {
            0 => Operator::Enabled,
            1 => Operator::Draining,
            _ => Operator::Disabled,
        }
    }

    /// Changes what the operator wants of it, from the next choice on.
    pub fn set_operator(&self, operator: Operator) {
        self.operator.store(operator as u8, Ordering::Relaxed);
    }

    /// Exchanges that it has now, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it has as many exchanges as it may.
    pub fn is_full(&self) -> bool {
        self.settings
            .max_connections
            .is_some_and(|max| self.in_flight() >= max)
    }

    /// Takes a place for one more idle connection, unless `max` are kept already.
    pub fn reserve_idle(&self, max: usize) -> bool {
        let more = |idle| (idle < max).then_some(idle + 1);
        self.idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Gives back the place of an idle connection.
    pub fn release_idle(&self) {
        let before = self.idle.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "each place is given back once");
    }

    /// Idle connections kept over all workers.
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// The value of the `Set-Cookie` field that binds a client to it, one that came by https or not; `None` where no cookies
    /// bind.
    pub fn set_cookie(&self, https: bool) -> Option<&[u8]> {
        let set_cookie = self.set_cookie.as_ref()?;
        Some(set_cookie.value(https))
    }
}

/// What requests that walk through the list of backends tell each other of one that is down.
#[derive(Debug, Default)]
pub(in crate::pool) struct Attempts {
    /// When one of them last turned to it.
    began_ms: AtomicU64,
    /// When an exchange last failed to connect to it.
    failed_ms: AtomicU64,
}

/// Which backends a round of a walk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Order {
    /// All that have not failed since the walk began.
    All,
    /// Of those, the ones that no other walk is just trying.
    NotTriedNow,
}

impl Attempts {
    pub(in crate::pool) fn began(&self, now_ms: u64) {
        self.began_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(in crate::pool) fn failed(&self, now_ms: u64) {
        self.failed_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether a walk that began at `since_ms` leaves it out in such a round.
    pub(in crate::pool) fn is_passed_over(&self, order: Order, since_ms: u64) -> bool {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        let is_tried_now = || self.began_ms.load(Ordering::Relaxed) > failed_ms;
        failed_ms > since_ms || order == Order::NotTriedNow && is_tried_now()
    }
}

/// A place among a backend's exchanges; dropping it gives the place back.
#[derive(Debug)]
pub struct InFlight {
    backend: Arc<Backend>,
    counts: bool,
}

impl InFlight {
    /// Takes a place. Only the pool does, under the balancer's lock: else `max_connections` could be passed by two.
    pub(in crate::pool) fn take(backend: &Arc<Backend>) -> InFlight {
        backend.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            backend: Arc::clone(backend),
            counts: true,
        }
    }

    /// Whose place it is.
    pub fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.backend)
    }

    /// Gives the place back before the exchange is forgotten: the backend has done its part, and a
    /// client that has its answer must find the place free.
    pub fn give_back(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.backend.in_flight.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Deref for InFlight {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::pool::settings::{BackendUrl, Host};

    /// A backend that is never connected to.
    pub(crate) fn settings(name: &str) -> BackendSettings {
        BackendSettings {
            name: name.to_owned(),
            url: BackendUrl {
                host: Host::Ip(Ipv4Addr::LOCALHOST.into()),
                port: 1,
                base_path: String::new(),
                authority: "127.0.0.1:1".to_owned(),
            },
            weight: 1,
            backup: false,
            max_connections: None,
            check: true,
            lenient: false,
            send_proxy_protocol: false,
            disabled: false,
        }
    }

    fn named(name: &str) -> Backend {
        let mut settings = settings("a");
        settings.url.host = Host::Name(name.to_owned());
        Backend::new(settings, 0, None)
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    #[test]
    fn a_numeric_host_has_its_address_at_once_and_a_name_has_none() {
        let backend = Backend::new(settings("a"), 0, None);
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
        assert!(!backend.reserve_idle(0));
        assert!(backend.reserve_idle(2) && backend.reserve_idle(2) && !backend.reserve_idle(2));
        backend.release_idle();
        assert!(backend.reserve_idle(2));
        assert_eq!(backend.idle(), 2);
    }

    #[test]
    fn a_place_in_flight_comes_back_even_when_its_holder_panics() {
        let backend = Arc::new(named("example.org"));
        let place = InFlight::take(&backend);
        assert_eq!(backend.in_flight(), 1);
        let holder = std::thread::spawn(move || {
            let _place = place;
            panic!("the exchange fails, on purpose");
        });
        assert!(holder.join().is_err());
        assert_eq!(backend.in_flight(), 0);
    }

    #[test]
    fn the_operator_decides_and_is_dead_starts_disabled() {
        let mut disabled = settings("a");
        disabled.disabled = true;
        let backend = Backend::new(disabled, 0, None);
        assert_eq!(backend.operator(), Operator::Disabled);
        for operator in [Operator::Enabled, Operator::Draining, Operator::Disabled] {
            backend.set_operator(operator);
            assert_eq!(backend.operator(), operator);
        }
    }
}
