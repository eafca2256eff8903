//! The thread that turns backends' names into addresses, so that no other thread waits for a name server.
//!
//! It looks every name up at start, every 30 s and after a failed connect, each name once for all
//! its backends, and puts the addresses into the backends. A failed lookup changes nothing but the
//! log: old addresses are better than none. Addresses and `localhost` are never looked up
//! (`pool/settings.rs`); without other names the thread sleeps.
//!
//! Where each address of a name is a backend of its own (`each_address`), what a lookup finds is
//! news for the main thread, which publishes the backends. An answer in another order is none. Some
//! name servers answer with a few of many addresses; so an address that an answer lacks stays, until
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
        let mut known: HashMap<String, Name> = std::mem::take(&mut self.names)
            .into_iter()
            .map(|name| (name.host.clone(), name))
            .collect();
        self.names = distinct_names(&self.follower.pool, now);
        for name in &mut self.names {
            let Some(before) = known.remove(&name.host) else {
                continue;
            };
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
        let is_at = |backend: &&Arc<Backend>, at: IpAddr| matches!(&backend.settings.url.host, Host::Member { address, .. } if *address == at);
        let backends = &self.backends;
        let is_down = |address| {
            let mut at = backends.iter().filter(|backend| is_at(backend, address));
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

/// The addresses of a name of which each is a backend, sorted, and how many answers in a row lack each.
#[derive(Default)]
struct Members(Vec<(IpAddr, u32)>);

impl Members {
    /// Takes an answer. What is `published` is known from before; an address that `is_down` goes as soon as one answer lacks
    /// it.
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
/// order of the backends.
fn distinct_names(pool: &Pool, now: Instant) -> Vec<Name> {
    let mut places = HashMap::new();
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
    names
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::config::Config;
    use crate::live::Snapshot;
    use crate::live::tests::{live_of, snapshot_of};
    use crate::pool::Event;
    use crate::pool::settings::{Kind, Method};
    use crate::pool::tests::{LONG, balance, health, until};

    type Answer = io::Result<Vec<IpAddr>>;

    /// A name server in the test's hands: it says what is asked, and the test says when and what is answered.
    struct NameServer {
        queries: Receiver<(String, Sender<Answer>)>,
        /// Those that are asked and not answered.
        silent: Vec<(String, Sender<Answer>)>,
    }

    impl NameServer {
        fn new() -> (NameServer, Lookup) {
            let (ask, queries) = channel();
            let lookup = move |name: &str| {
                let (answer, answers) = channel();
                // The test may be over already.
                let _ = ask.send((name.to_owned(), answer));
                answers.recv().unwrap_or_else(|_| Ok(Vec::new()))
            };
            let silent = Vec::new();
            (NameServer { queries, silent }, Arc::new(lookup))
        }

        /// Waits until this name is asked for, and leaves all others without an answer.
        fn answers(&mut self, name: &str, addresses: io::Result<&[&str]>) {
            while !self.is_asked(name) {
                self.is_asked_something();
            }
            let place = self.silent.iter().position(|(asked, _)| asked == name);
            let (_, answer) = self.silent.remove(place.unwrap());
            let parse = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
            answer.send(addresses.map(parse)).unwrap();
        }

        fn is_asked(&self, name: &str) -> bool {
            self.silent.iter().any(|(asked, _)| asked == name)
        }

        fn is_asked_something(&mut self) {
            let query = self.queries.recv_timeout(LONG).unwrap();
            assert!(!self.is_asked(&query.0), "{query:?} is asked twice at once");
            self.silent.push(query);
        }

        /// How many are without an answer; none of them is asked for later than this.
        fn count_silent(&mut self, expected: usize) {
            while self.silent.len() < expected {
                self.is_asked_something();
            }
            let more = self.queries.recv_timeout(Duration::from_millis(20));
            assert!(more.is_err(), "{more:?} is asked beyond {expected}");
        }
    }

    fn failed() -> io::Result<&'static [&'static str]> {
        Err(io::Error::other("no name server answers"))
    }

    fn pool(hosts: &[impl AsRef<str>]) -> Arc<Pool> {
        let settings = |(place, host): (usize, &str)| {
            let mut settings = crate::pool::backend::tests::settings(host);
            settings.name = format!("{host}#{place}");
            settings.url.host = Host::Name(host.to_owned());
            settings.url.port = 80 + u16::try_from(place).unwrap();
            settings
        };
        let hosts = hosts.iter().map(AsRef::as_ref);
        Arc::new(Pool::new(
            hosts.enumerate().map(settings).collect(),
            &balance(Method::RoundRobin),
            &health(Kind::None),
        ))
    }

    fn live(pool: &Arc<Pool>) -> Arc<Live> {
        let snapshot = snapshot_of(Arc::clone(pool), health(Kind::None), 0);
        Arc::new(Live::new(snapshot).unwrap())
    }

    fn start(pool: &Arc<Pool>) -> (NameServer, Resolver) {
        let (server, lookup) = NameServer::new();
        let resolver = Resolver::start_with(&live(pool), lookup, Duration::ZERO);
        (server, resolver.unwrap())
    }

    fn first(pool: &Pool, index: usize) -> Option<String> {
        let addresses = pool.backends()[index].addresses();
        addresses.first().map(ToString::to_string)
    }

    fn fail_to_connect(pool: &Pool, index: usize) {
        let backend = &pool.backends()[index];
        pool.report(backend, Event::ConnectFailed, &"connect to it refused");
    }

    #[test]
    fn names_are_looked_up_at_start_without_waiting_and_localhost_never() {
        let pool = pool(&["localhost", "a.example", "b.localhost", "b.example"]);
        let (mut server, _resolver) = start(&pool);
        assert!(
            pool.backends()[1].is_lookup_pending(),
            "the start did not wait for an answer"
        );
        server.answers("a.example", Ok(&["192.0.2.1"]));
        server.answers("b.example", failed());
        until(|| !pool.backends()[3].is_lookup_pending());
        until(|| first(&pool, 1).is_some());
        assert_eq!(first(&pool, 1).as_deref(), Some("192.0.2.1:81"));
        assert_eq!(first(&pool, 3), None);
        assert_eq!(first(&pool, 0).as_deref(), Some("127.0.0.1:80"));
    }

    #[test]
    fn a_name_that_comes_later_is_looked_up_and_what_is_known_of_the_others_goes_on() {
        let first_pool = pool(&["a.example"]);
        let live = live(&first_pool);
        let (mut server, lookup) = NameServer::new();
        let _resolver = Resolver::start_with(&live, lookup, LONG).unwrap();
        server.answers("a.example", Ok(&["192.0.2.1"]));
        until(|| first(&first_pool, 0).is_some());

        let both = pool(&["a.example", "b.example"]);
        let settings = both.backends().iter().map(|each| each.settings.clone());
        let (balance, health) = (balance(Method::RoundRobin), health(Kind::None));
        let next = Pool::following(Some(&first_pool), settings.collect(), &balance, &health);
        let next = Arc::new(next);
        live.publish(snapshot_of(Arc::clone(&next), health, 0));
        server.answers("b.example", Ok(&["192.0.2.2"]));
        until(|| first(&next, 1).is_some());
        assert_eq!(first(&next, 0).as_deref(), Some("192.0.2.1:80"));
        server.count_silent(0);
    }

    #[test]
    fn a_name_is_looked_up_once_for_all_its_backends() {
        let pool = pool(&["a.example", "A.Example", "a.example"]);
        let (mut server, _resolver) = start(&pool);
        server.count_silent(1);
        server.answers("a.example", Ok(&["192.0.2.1"]));
        until(|| first(&pool, 2).is_some());
        assert_eq!(first(&pool, 0).as_deref(), Some("192.0.2.1:80"));
        assert_eq!(first(&pool, 1).as_deref(), Some("192.0.2.1:81"));
        assert_eq!(first(&pool, 2).as_deref(), Some("192.0.2.1:82"));
        fail_to_connect(&pool, 1);
        fail_to_connect(&pool, 2);
        server.answers("a.example", Ok(&["192.0.2.2"]));
        until(|| first(&pool, 0).as_deref() == Some("192.0.2.2:80"));
    }

    #[test]
    fn a_name_waits_for_no_other_name() {
        let pool = pool(&["silent.example", "mute.example", "a.example"]);
        let (mut server, _resolver) = start(&pool);
        for number in 1..10 {
            let address = format!("192.0.2.{number}");
            server.answers("a.example", Ok(&[&address]));
            until(|| first(&pool, 2) == Some(format!("{address}:82")));
            fail_to_connect(&pool, 2);
        }
        assert!(server.is_asked("silent.example") && server.is_asked("mute.example"));
    }

    #[test]
    fn more_silent_names_than_lookups_do_not_keep_a_good_name_waiting() {
        let mut hosts: Vec<String> = (0..20).map(|n| format!("silent-{n}.example")).collect();
        hosts.push("good.example".to_owned());
        let good = hosts.len() - 1;
        let pool = pool(&hosts);
        let (mut server, _resolver) = start(&pool);
        server.count_silent(LOOKUPS_MAX);
        // The C library gives up: each lookup that ends lets the next name in, and those that failed go to the back.
        for host in &hosts[..5] {
            server.answers(host, failed());
        }
        server.answers("good.example", Ok(&["192.0.2.1"]));
        until(|| first(&pool, good).is_some());
        for host in &hosts[5..good] {
            server.answers(host, failed());
        }
        until(|| {
            pool.backends()
                .iter()
                .all(|backend| !backend.is_lookup_pending())
        });

        // All are silent again: from now on some lookups are kept for names that answer.
        for index in 0..good {
            fail_to_connect(&pool, index);
        }
        server.count_silent(DOUBTFUL_MAX);
        for number in 2..10 {
            fail_to_connect(&pool, good);
            let address = format!("192.0.2.{number}");
            server.answers("good.example", Ok(&[&address]));
            until(|| first(&pool, good) == Some(format!("{address}:{}", 80 + good)));
        }
        server.count_silent(DOUBTFUL_MAX);
    }

    #[test]
    fn a_lookup_that_takes_long_is_doubtful_while_it_lasts_and_the_next_time() {
        let pool = pool(&["a.example"]);
        let now = Instant::now();
        let mut name = distinct_names(&pool, now).remove(0);
        assert!(!name.is_doubtful(now));
        name.begun = Some(now.checked_sub(SLOW).unwrap());
        assert!(name.is_doubtful(now));
        let answer = || Ok(vec!["192.0.2.1".parse().unwrap()]);
        name.take(answer(), Duration::ZERO, &[]);
        assert!(name.is_doubtful(now), "an answer, but a late one");
        name.begun = Some(Instant::now());
        name.take(answer(), Duration::ZERO, &[]);
        assert!(!name.is_doubtful(now));
    }

    #[test]
    fn a_failed_connect_has_the_name_looked_up_again_and_a_failed_lookup_keeps_the_addresses() {
        let pool = pool(&["a.example"]);
        let (mut server, _resolver) = start(&pool);
        server.answers("a.example", Ok(&["192.0.2.1"]));
        until(|| first(&pool, 0).as_deref() == Some("192.0.2.1:80"));
        fail_to_connect(&pool, 0);
        server.answers("a.example", failed());
        fail_to_connect(&pool, 0);
        server.answers("a.example", Ok(&[]));
        assert_eq!(first(&pool, 0).as_deref(), Some("192.0.2.1:80"));
        fail_to_connect(&pool, 0);
        server.answers("a.example", Ok(&["192.0.2.2"]));
        until(|| first(&pool, 0).as_deref() == Some("192.0.2.2:80"));
    }

    #[test]
    fn asking_often_is_answered_after_the_pause() {
        let pool = pool(&["a.example"]);
        let (mut server, lookup) = NameServer::new();
        let pause = Duration::from_millis(200);
        let _resolver = Resolver::start_with(&live(&pool), lookup, pause).unwrap();
        server.answers("a.example", Ok(&["192.0.2.1"]));
        until(|| first(&pool, 0).is_some());
        let answered = Instant::now();
        for _ in 0..100 {
            fail_to_connect(&pool, 0);
        }
        server.answers("a.example", Ok(&["192.0.2.1"]));
        // The pause began before `answered` was taken, by no more than the time between two threads.
        assert!(answered.elapsed() >= pause / 2);
    }

    /// The main thread in the test's hands: a configuration, and what is published of it.
    struct Main {
        live: Arc<Live>,
        server: NameServer,
        _resolver: Resolver,
    }

    impl Main {
        fn start(backends: &str) -> Main {
            let text = format!(
                r#"{{"proxy": {{"port": 0}}, "backends": [{backends}], "health_check": {{"fall": 3}}}}"#
            );
            let live = live_of(Config::from_text("test", &text).unwrap());
            let (server, lookup) = NameServer::new();
            let resolver = Resolver::start_with(&live, lookup, Duration::ZERO);
            Main {
                live,
                server,
                _resolver: resolver.unwrap(),
            }
        }

        fn publish(&self, news: Vec<News>) {
            let last = self.live.current();
            let config = last.config.with_news(news).unwrap();
            let (backends, balance) = (config.backends.clone(), &config.balance);
            let pool = Pool::following(Some(&last.pool), backends, balance, &config.health_check);
            self.live
                .publish(Snapshot::new(config, pool, last.descriptors));
        }

        /// Publishes the next news, and gives the names of the backends.
        fn take(&self) -> Vec<String> {
            let news = self.next_news();
            self.publish(news);
            self.names()
        }

        fn next_news(&self) -> Vec<News> {
            self.live.news_came().recv_timeout(LONG).unwrap();
            self.live.take_news()
        }

        fn names(&self) -> Vec<String> {
            let pool = &self.live.current().pool;
            let names = pool
                .backends()
                .iter()
                .map(|backend| backend.name.to_string());
            names.collect()
        }

        /// Has the name looked up again because of a backend, which is down then or not, and answered.
        fn answers(&mut self, failed: &str, is_down: bool, addresses: io::Result<&[&str]>) {
            let pool = Arc::clone(&self.live.current().pool);
            let backend = pool
                .backends()
                .iter()
                .find(|it| &*it.name == failed)
                .unwrap();
            pool.report(backend, Event::ConnectFailed, &"connect to it refused");
            self.server.is_asked_something();
            // Not before it is asked: then what was answered before is taken.
            for _ in 0..2 {
                pool.probed(backend, if is_down { Err("it is gone") } else { Ok(()) });
            }
            assert_eq!(backend.is_healthy(), !is_down);
            self.server.answers("web", addresses);
        }

        /// There were no news of the last answer: it was taken when the next lookup begins.
        fn expect_no_news(&mut self, failed: &str) {
            let pool = Arc::clone(&self.live.current().pool);
            let backend = pool
                .backends()
                .iter()
                .find(|it| &*it.name == failed)
                .unwrap();
            let is_down = !backend.is_healthy();
            self.answers(failed, is_down, failed_lookup());
            assert_eq!(self.live.take_news(), []);
        }
    }

    fn failed_lookup() -> io::Result<&'static [&'static str]> {
        failed()
    }

    const WEB: &str = r#"{"url": "http://web", "name": "web", "each_address": true}"#;

    #[test]
    fn each_address_is_a_backend_and_until_they_are_known_the_name_is_one() {
        let mut main = Main::start(WEB);
        let before = Arc::clone(&main.live.current().pool);
        assert_eq!(main.names(), ["web"]);
        main.server
            .answers("web", Ok(&["192.0.2.2", "::ffff:192.0.2.1", "192.0.2.2"]));
        assert_eq!(main.take(), ["web/192.0.2.1", "web/192.0.2.2"]);
        // What came to the name meanwhile goes on.
        assert_eq!(first(&before, 0).as_deref(), Some("192.0.2.2:80"));
        let pool = &main.live.current().pool;
        assert_eq!(first(pool, 0).as_deref(), Some("192.0.2.1:80"));
        assert_eq!(first(pool, 1).as_deref(), Some("192.0.2.2:80"));
    }

    #[test]
    fn another_order_and_a_lookup_that_fails_are_no_news() {
        let mut main = Main::start(WEB);
        main.server.answers("web", Ok(&["192.0.2.1", "192.0.2.2"]));
        main.take();
        main.answers("web/192.0.2.1", false, Ok(&["192.0.2.2", "192.0.2.1"]));
        main.expect_no_news("web/192.0.2.1");
        for answer in [Ok(&[][..]), failed(), Ok(&[]), failed()] {
            main.answers("web/192.0.2.1", true, answer);
            main.expect_no_news("web/192.0.2.2");
        }
    }

    #[test]
    fn a_server_that_answers_with_a_part_does_not_make_backends_come_and_go() {
        let mut main = Main::start(WEB);
        main.server.answers("web", Ok(&["192.0.2.1", "192.0.2.2"]));
        main.take();
        main.answers("web/192.0.2.1", false, Ok(&["192.0.2.2", "192.0.2.3"]));
        let all = ["web/192.0.2.1", "web/192.0.2.2", "web/192.0.2.3"];
        assert_eq!(main.take(), all);
        for part in [
            &["192.0.2.3", "192.0.2.1"],
            &["192.0.2.1", "192.0.2.2"],
            &["192.0.2.2", "192.0.2.3"],
        ] {
            main.answers("web/192.0.2.1", false, Ok(part));
            main.expect_no_news("web/192.0.2.1");
        }
        assert_eq!(main.names(), all);
    }

    #[test]
    fn an_address_goes_when_three_answers_lack_it_and_at_once_when_it_is_down() {
        let mut main = Main::start(WEB);
        main.server
            .answers("web", Ok(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
        main.take();
        let without_1: &[&str] = &["192.0.2.2", "192.0.2.3"];
        main.answers("web/192.0.2.1", false, Ok(without_1));
        main.answers("web/192.0.2.1", false, Ok(without_1));
        main.expect_no_news("web/192.0.2.1");
        main.answers("web/192.0.2.1", false, Ok(without_1));
        assert_eq!(main.take(), ["web/192.0.2.2", "web/192.0.2.3"]);
        let kept = main.live.current().pool.backends()[0].id;
        main.answers("web/192.0.2.3", true, Ok(&["192.0.2.2"]));
        assert_eq!(main.take(), ["web/192.0.2.2"]);
        assert_eq!(main.live.current().pool.backends()[0].id, kept);
    }

    #[test]
    fn what_main_has_not_published_is_told_again() {
        let mut main = Main::start(WEB);
        main.server.answers("web", Ok(&["192.0.2.1"]));
        main.next_news();
        main.answers("web", false, Ok(&["192.0.2.1"]));
        assert_eq!(main.take(), ["web/192.0.2.1"]);
    }

    #[test]
    fn entries_of_one_name_share_its_lookup() {
        let port = r#"{"url": "http://web:81", "each_address": true}"#;
        let plain = r#"{"url": "http://WEB:82"}"#;
        let mut main = Main::start(&format!("{WEB}, {port}, {plain}"));
        main.server.count_silent(1);
        main.server.answers("web", Ok(&["192.0.2.1"]));
        assert_eq!(main.take(), ["web/192.0.2.1", "web:81/192.0.2.1", "web:82"]);
        let pool = &main.live.current().pool;
        assert_eq!(first(pool, 1).as_deref(), Some("192.0.2.1:81"));
        assert_eq!(first(pool, 2).as_deref(), Some("192.0.2.1:82"));
    }

    #[test]
    fn a_name_has_at_most_so_many_addresses_and_keeps_those_that_it_has() {
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        let mut members = Members::default();
        let many: Vec<IpAddr> = (10_000..20_000).map(address).collect();
        members.take(&many, &[], |_| false);
        assert_eq!(members.addresses(), many[..ADDRESSES_MAX]);
        let more: Vec<IpAddr> = (0..20_000).map(address).collect();
        members.take(&more, &[], |_| false);
        assert_eq!(members.addresses(), many[..ADDRESSES_MAX]);
    }

    #[test]
    fn stopping_does_not_wait_for_a_lookup() {
        let pool = pool(&["a.example"]);
        let (mut server, resolver) = start(&pool);
        server.count_silent(1);
        drop(resolver);
        until(|| Arc::strong_count(&pool) == 1);
        server.answers("a.example", Ok(&["192.0.2.1"]));
        assert_eq!(first(&pool, 0), None, "what came too late is not used");
    }
}
