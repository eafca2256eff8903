//! The thread that turns backends' names into addresses, so that no other thread waits for a name
//! server.
//!
//! It looks every name up at start, every 30 s and after a failed connect, each name once for all
//! its backends, and puts the addresses into the backends. A failed lookup changes nothing but the
//! log: old addresses are better than none. Addresses and `localhost` are never looked up
//! (`pool/settings.rs`); without other names the thread sleeps.
//!
//! Where each address of a name is a backend of its own (`each_address`), what a lookup finds is
//! news for the main thread, which publishes the backends. An answer in another order is none. Some
//! name servers answer with a few of many addresses; so an address that an answer lacks stays until
//! its backend is down or three answers in a row lack it.
//!
//! A lookup blocks its thread for as long as the C library likes (5 to 40 s if the name server is
//! silent) and cannot be interrupted. So each has a short-lived thread of its own, a fixed number
//! at a time, and names that were slow or failed the last time may not take all of these: a name
//! whose server answers never waits for one whose server does not.
//!
//! Read next: `pool/state.rs`, where the addresses are put.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::News;
use crate::live::{Follower, Live};
use crate::net::lock::lock;
use crate::net::thread;
use crate::net::waker::Waker;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::settings::Host;

/// Between two lookups of a name without a failed connect.
const INTERVAL: Duration = Duration::from_secs(30);
/// The least time between two lookups of a name, however often its connects fail.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Lookups at once. Each takes about 30 KiB while it waits (glibc; musl 14 KiB).
const LOOKUPS_MAX: usize = 16;
/// How many of them may be for doubtful names.
const DOUBTFUL_MAX: usize = 12;
/// A lookup that takes longer than this is doubtful.
const SLOW: Duration = Duration::from_secs(1);

/// So many answers in a row that lack an address end its backend.
const MISSED_MAX: u32 = 3;
/// Addresses of one name that become backends.
const ADDRESSES_MAX: usize = 1000;

/// How a name is looked up; a test brings its own.
pub(crate) type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// A running resolver. Dropping it ends the thread at once. Lookups under way are abandoned and
/// their results dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

impl Resolver {
    /// Starts the thread with the system's resolver. It sleeps if no name needs a lookup.
    pub(crate) fn start(live: &Arc<Live>) -> io::Result<Resolver> {
        let system = |name: &str| {
            let found = (name, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        };
        Resolver::start_with(live, Arc::new(system), PAUSE_MIN)
    }

    /// Starts the thread with another way to look names up and another `PAUSE_MIN`.
    pub(crate) fn start_with(
        live: &Arc<Live>,
        lookup: Lookup,
        pause_min: Duration,
    ) -> io::Result<Resolver> {
        let waker = Arc::new(Waker::new()?);
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Follower::new(live.clone(), Arc::clone(&waker));
        follower.pool.wake_resolver_with(Arc::clone(&waker));
        let mut schedule = Schedule {
            names: Vec::new(),
            running: 0,
            follower,
            lookup,
            pause_min,
            results: Arc::default(),
            waker: Arc::clone(&waker),
            stop: Arc::clone(&stop),
        };
        schedule.set_names(Instant::now());
        thread::start("resolver", move || schedule.run())?;
        Ok(Resolver { waker, stop })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The result of a lookup of this name.
type Found = (String, io::Result<Vec<IpAddr>>);

/// What the thread owns.
struct Schedule {
    follower: Follower,
    names: Vec<Name>,
    /// Lookups under way, including those of names that no backend has any more.
    running: usize,
    lookup: Lookup,
    pause_min: Duration,
    /// Of lookups that have ended.
    results: Arc<Mutex<Vec<Found>>>,
    /// Woken after a lookup, a failed connect, a new snapshot and at a stop.
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

/// A name and its backends.
struct Name {
    host: String,
    backends: Vec<Arc<Backend>>,
    /// When the next lookup begins, or may begin.
    due: Instant,
    /// Not before this, however often its connects fail.
    rests_until: Instant,
    /// Since when it is being looked up.
    begun: Option<Instant>,
    /// Its last lookup failed; logged.
    failed: bool,
    /// Its last lookup took long.
    slow: bool,
    /// Where each address is a backend: those that are known.
    members: Members,
}

impl Schedule {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if self.follower.look() {
                self.set_names(Instant::now());
            }
            for (host, found) in std::mem::take(&mut *lock(&self.results)) {
                self.running -= 1;
                // Perhaps no backend has this name any more.
                if let Some(name) = self.names.iter_mut().find(|name| name.host == host) {
                    let published = self.follower.config.discovery.addresses(&host);
                    if let Some(news) = name.take(found, self.pause_min, published) {
                        self.follower.live().tell(news);
                    }
                }
                // A check may be waiting for this name, or be worth making now.
                self.follower.pool.wake_checker();
            }
            let now = Instant::now();
            for name in &mut self.names {
                name.hear_wishes();
            }
            self.begin_lookups(now);
            // A name that is due and had to wait begins when a finished lookup wakes this thread.
            let later = self.names.iter().filter(|name| name.begun.is_none());
            let next = later.map(|name| name.due).filter(|due| *due > now).min();
            self.waker
                .wait(next.map_or(INTERVAL, |next| next.saturating_duration_since(now)));
        }
    }

    /// Begins the lookups that are due and have room: the names that are not doubtful first, and
    /// the oldest of each kind.
    fn begin_lookups(&mut self, now: Instant) {
        let under_way = self.names.iter().filter(|name| name.begun.is_some());
        let mut room = LOOKUPS_MAX.saturating_sub(self.running);
        let doubtful = under_way.filter(|name| name.is_doubtful(now)).count();
        let mut doubtful_room = DOUBTFUL_MAX.saturating_sub(doubtful);

        while room > 0 {
            let names = self.names.iter().enumerate();
            let due = names.filter(|(_, name)| name.begun.is_none() && name.due <= now);
            let order = due.map(|(place, name)| (name.is_doubtful(now), name.due, place));
            let Some((is_doubtful, _, place)) = order.min() else {
                return;
            };
            if is_doubtful && doubtful_room == 0 {
                return;
            }
            room -= 1;
            doubtful_room -= usize::from(is_doubtful);
            self.begin(place, now);
        }
    }

    /// Takes the names of the live pool. A name that was there before keeps its state; if its
    /// backends have changed, it is looked up at once.
    fn set_names(&mut self, now: Instant) {
        let (names, places) = distinct_names(&self.follower.pool, now);
        for before in std::mem::replace(&mut self.names, names) {
            let Some(&place) = places.get(&before.host) else {
                continue;
            };
            let name = &mut self.names[place];
            let is_pending = |backend: &Arc<Backend>| backend.is_lookup_pending();
            let due = if name.backends.iter().any(is_pending) {
                now
            } else {
                before.due
            };
            let backends = std::mem::take(&mut name.backends);
            *name = Name {
                backends,
                due,
                ..before
            };
            if !name.is_each_address_a_backend() {
                name.members = Members::default();
            }
        }
    }

    fn begin(&mut self, place: usize, now: Instant) {
        let name = &mut self.names[place];
        name.begun = Some(now);
        let host = name.host.clone();
        let (lookup, results, waker) = (
            Arc::clone(&self.lookup),
            Arc::clone(&self.results),
            Arc::clone(&self.waker),
        );
        let started = thread::start("lookup", move || {
            // The resolver may have ended meanwhile.
            let found = lookup(&host);
            lock(&results).push((host.clone(), found));
            waker.wake();
        });
        match started {
            Ok(_) => self.running += 1,
            Err(error) => {
                name.take(Err(error), self.pause_min, &[]);
            }
        }
    }
}

impl Name {
    /// A failed connect to any of its backends brings its next lookup forward.
    fn hear_wishes(&mut self) {
        let wishes = |backend: &&Arc<Backend>| backend.take_lookup_wish();
        // A wish during a lookup is kept for the next one: the connect may have failed with the
        // addresses that this one finds.
        if self.begun.is_none() && self.backends.iter().filter(wishes).count() > 0 {
            self.due = self.due.min(self.rests_until);
        }
    }

    /// Whether its name server may be silent: the last lookup failed or was slow, or this one is.
    fn is_doubtful(&self, now: Instant) -> bool {
        let is_long = |begun| now.saturating_duration_since(begun) >= SLOW;
        self.failed || self.slow || self.begun.is_some_and(is_long)
    }

    /// Applies a lookup's result; logs what is new. Gives news of the addresses that are a backend
    /// each, if they are not those that are `published`.
    fn take(
        &mut self,
        found: io::Result<Vec<IpAddr>>,
        pause_min: Duration,
        published: &[IpAddr],
    ) -> Option<News> {
        let now = Instant::now();
        let begun = self.begun.take().unwrap_or(now);
        self.slow = now.saturating_duration_since(begun) >= SLOW;
        self.due = now + INTERVAL;
        self.rests_until = now + pause_min;
        let failure = match found {
            Ok(addresses) if !addresses.is_empty() => {
                self.found(&addresses);
                return self.members_found(&addresses, published);
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        for backend in &self.backends {
            backend.lookup_failed();
        }
        if !std::mem::replace(&mut self.failed, true) {
            let known = self.known();
            let rest = if known.is_empty() {
                String::new()
            } else {
                format!("; it is kept at {known}")
            };
            let (backends, host) = (self.backend_names(), &self.host);
            log::warn!("{backends}: {host:?} does not resolve: {failure}{rest}");
        }
        None
    }

    fn found(&mut self, addresses: &[IpAddr]) {
        self.failed = false;
        let mut changed = false;
        for backend in &self.backends {
            let url = &backend.settings.url;
            if matches!(url.host, Host::Member { .. }) {
                continue;
            }
            let port = url.port;
            let with_port = |address: &IpAddr| SocketAddr::new(*address, port);
            changed |= backend.set_addresses(addresses.iter().map(with_port).collect());
        }
        if changed {
            let known = self.known();
            log::info!("{}: {:?} is {known}", self.backend_names(), self.host);
        }
    }

    fn is_each_address_a_backend(&self) -> bool {
        self.backends.iter().any(|each| each.settings.each_address)
    }

    /// Takes an answer where each address is a backend.
    fn members_found(&mut self, answer: &[IpAddr], published: &[IpAddr]) -> Option<News> {
        if !self.is_each_address_a_backend() {
            return None;
        }
        let backends = &self.backends;
        let is_down = |wanted: IpAddr| {
            let mut at = backends.iter().filter(|backend| {
                let host = &backend.settings.url.host;
                matches!(host, Host::Member { address, .. } if *address == wanted)
            });
            at.clone().count() > 0 && at.all(|backend| !backend.is_healthy())
        };
        self.members.take(answer, published, is_down);
        let known = self.members.addresses();
        (known != published).then(|| News::Addresses(self.host.clone(), known))
    }

    /// Its addresses, as a log line shows them.
    fn known(&self) -> String {
        let mut shown: Vec<String> = Vec::new();
        for address in self.backends.iter().flat_map(|it| it.addresses().to_vec()) {
            let address = address.ip().to_string();
            if !shown.contains(&address) {
                shown.push(address);
            }
        }
        shown.join(", ")
    }

    /// The beginning of its log lines.
    fn backend_names(&self) -> String {
        const NAMED_MAX: usize = 4;
        let names: Vec<String> = self
            .backends
            .iter()
            .take(NAMED_MAX)
            .map(|backend| format!("{:?}", backend.settings.name))
            .collect();
        let names = names.join(", ");
        match self.backends.len() {
            1 => format!("backend {names}"),
            2..=NAMED_MAX => format!("backends {names}"),
            many => format!("backends {names} and {} more", many - NAMED_MAX),
        }
    }
}

/// The addresses of a name of which each is a backend, sorted, and how many answers in a row lack
/// each.
#[derive(Default)]
struct Members(Vec<(IpAddr, u32)>);

impl Members {
    /// Takes an answer. What is `published` is known from before; an address that `is_down` goes as
    /// soon as one answer lacks it.
    fn take(&mut self, answer: &[IpAddr], published: &[IpAddr], is_down: impl Fn(IpAddr) -> bool) {
        for address in published {
            self.add(*address);
        }
        let answer: Vec<IpAddr> = answer.iter().map(IpAddr::to_canonical).collect();
        self.0.retain_mut(|(address, missed)| {
            *missed = if answer.contains(address) {
                0
            } else {
                *missed + 1
            };
            *missed == 0 || *missed < MISSED_MAX && !is_down(*address)
        });
        for address in answer {
            self.add(address);
        }
    }

    /// Adds one that may be there already, if there is room.
    fn add(&mut self, address: IpAddr) {
        let place = self.0.partition_point(|(known, _)| *known < address);
        let is_known = self
            .0
            .get(place)
            .is_some_and(|(known, _)| *known == address);
        if !is_known && self.0.len() < ADDRESSES_MAX {
            self.0.insert(place, (address, 0));
        }
    }

    /// All of them.
    fn addresses(&self) -> Vec<IpAddr> {
        self.0.iter().map(|(address, _)| *address).collect()
    }
}

/// The names of a pool's backends that need a lookup, each once (in either case, RFC 4343), in the
/// order of the backends; and where each stands.
fn distinct_names(pool: &Pool, now: Instant) -> (Vec<Name>, HashMap<String, usize>) {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut names: Vec<Name> = Vec::new();
    for backend in pool.backends() {
        let Some(host) = backend.settings.url.host.looked_up() else {
            continue;
        };
        let host = host.to_ascii_lowercase();
        let place = *places.entry(host.clone()).or_insert(names.len());
        if place == names.len() {
            names.push(Name {
                host,
                backends: Vec::new(),
                due: now,
                rests_until: now,
                begun: None,
                failed: false,
                slow: false,
                members: Members::default(),
            });
        }
        names[place].backends.push(Arc::clone(backend));
    }
    (names, places)
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
