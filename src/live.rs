//! The snapshot that is live: what the process does at this moment.
//!
//! Nothing in a [`Snapshot`] changes. A reload, another list of backends, a stop: each is a new one, published by the main
//! thread alone. Every other thread follows ([`Follower`]), in the way of net/published.rs. What outlives snapshots is in
//! [`Live`] itself: clocks, the count of open connections, the record of decisions.
//!
//! Read next: `listener.rs`, where a connection comes in. How one snapshot follows another is in
//! `reload.rs`.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::ask::{Ask, Asked, Reply, Wish};
use crate::commands::Commands;
use crate::config::{Config, DescriptorBudget, News, Pending};
use crate::http::HeadLimits;
use crate::net::admission::Admission;
use crate::net::clock::Millis;
use crate::net::lock::lock;
use crate::net::published::{Published, View};
use crate::net::waker::Waker;
use crate::pool::Pool;
use crate::pool::trace::{Decision, Decisions};
use crate::text::timestamp::since_epoch;
use crate::traffic::{ProcessTotals, WorkerTraffic};

/// So many may be asked of the main thread at once: as many as the admin interface has clients. Its clients give up waiting
/// while the main thread is busy, and what they asked stays.
pub(crate) const ASKS_MAX: usize = 32;

/// What is in force from one change to the next.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The configuration as used.
    pub config: Config,
    /// The backends and the choice among them.
    pub pool: Arc<Pool>,
    /// The bounds of a head, in the form in which `http` takes them.
    pub head_limits: HeadLimits,
    /// What each part may open.
    pub descriptors: DescriptorBudget,
    /// Since when the process drains: what is in flight is finished, and nothing else is begun.
    pub draining_since: Option<Instant>,
}

impl Snapshot {
    /// What `config` describes, with a pool for it.
    pub(crate) fn new(config: Config, pool: Pool, descriptors: DescriptorBudget) -> Snapshot {
        Snapshot {
            head_limits: config.limits.heads(),
            pool: Arc::new(pool),
            config,
            descriptors,
            draining_since: None,
        }
    }
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Live {
    /// When the process started; the workers' clocks count from here.
    pub epoch: Instant,
    /// The client connections that are open, and the limit.
    pub admission: Admission,
    epoch_unix_ms: u64,
    decisions: Mutex<Vec<Arc<Decisions>>>,
    traffic: Mutex<Vec<Arc<WorkerTraffic>>>,
    snapshots: Published<Snapshot>,
    /// Unparked for each new snapshot: those that wait for nothing that has a descriptor.
    parked: Mutex<Vec<Thread>>,
    /// What was discovered and is not published yet.
    news: Mutex<Pending>,
    /// What the admin interface asks of the main thread.
    asks: Mutex<Vec<Ask>>,
    /// Calls the main thread for both.
    commands: Commands,
    /// The workers that have not ended.
    workers: AtomicUsize,
    /// Written under the lock of `asks`.
    is_stopping: AtomicBool,
    /// Written by the main thread alone.
    pub told: Mutex<Told>,
}

/// What only the main thread knows and the admin interface shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The configuration file, as given.
    pub file: Option<String>,
    /// Where clients connect to, with the real port.
    pub listener: Option<SocketAddr>,
    /// The most memory that the process can take.
    pub memory_bytes_max: u64,
    /// Why the last reload changed nothing, if it did not.
    pub reload_error: Option<String>,
}

impl Live {
    /// Begins with this snapshot; `commands` lead to the main thread. An error: there is no eventfd to be had.
    pub(crate) fn new(first: Snapshot, commands: Commands) -> std::io::Result<Live> {
        Ok(Live {
            epoch: Instant::now(),
            admission: Admission::new(first.descriptors.clients)?,
            epoch_unix_ms: u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX),
            decisions: Mutex::default(),
            traffic: Mutex::default(),
            snapshots: Published::new(first),
            parked: Mutex::default(),
            news: Mutex::default(),
            asks: Mutex::default(),
            commands,
            workers: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            told: Mutex::default(),
        })
    }

    /// The snapshot that is live now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.snapshots.current()
    }

    /// Makes `next` the snapshot that is live and wakes its followers. Only the main thread does.
    pub(crate) fn publish(&self, next: Snapshot) {
        // Before the listener is woken: it looks whether there is room now.
        self.admission.set_max(next.descriptors.clients);
        self.snapshots.publish(next);
        lock(&self.parked).iter().for_each(Thread::unpark);
    }

    /// Tells the main thread what was discovered.
    pub(crate) fn tell(&self, news: News) {
        lock(&self.news).add(news, Instant::now());
        self.commands.call();
    }

    /// Asks the main thread for something; `waker` is woken once the reply is there. While the process stops, or when too much
    /// is asked already, that is at once, and the reply is 503.
    pub(crate) fn ask(&self, wish: Wish, dry_run: bool, waker: &Arc<Waker>) -> Asked {
        let (ask, asked) = Ask::new(wish, dry_run, Arc::clone(waker));
        let mut asks = lock(&self.asks);
        if self.is_stopping() {
            drop(asks);
            drop(ask);
            return asked;
        }
        if asks.len() >= ASKS_MAX {
            drop(asks);
            ask.answer(Reply::error(
                503,
                "the main thread is busy; nothing is done",
            ));
            return asked;
        }
        asks.push(ask);
        drop(asks);
        self.commands.call();
        asked
    }

    /// Takes all that was asked, in its order.
    pub(crate) fn take_asks(&self) -> Vec<Ask> {
        std::mem::take(&mut *lock(&self.asks))
    }

    /// Whether a stop has begun: `/ready` says so, and nothing is changed any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Begins a stop; what was asked and is not answered is answered with 503.
    pub(crate) fn begin_stop(&self) {
        let mut asks = lock(&self.asks);
        self.is_stopping.store(true, Ordering::Release);
        let unanswered = std::mem::take(&mut *asks);
        drop(asks);
        drop(unanswered);
    }

    /// Whether a worker has not ended. The main thread is called when the last one has.
    pub(crate) fn has_workers(&self) -> bool {
        self.workers.load(Ordering::Acquire) > 0
    }

    /// When the news are to be taken; none where there are none.
    pub(crate) fn news_due(&self) -> Option<Instant> {
        lock(&self.news).due()
    }

    /// Takes all news that there are.
    pub(crate) fn take_news(&self) -> Vec<News> {
        lock(&self.news).take()
    }

    /// The time of day at a moment of the workers' clocks, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self, moment: Millis) -> u64 {
        self.epoch_unix_ms.saturating_add(moment)
    }

    /// A ring for the decisions of one more worker.
    pub(crate) fn new_decisions(&self) -> Arc<Decisions> {
        let ring = Arc::new(Decisions::default());
        lock(&self.decisions).push(ring.clone());
        ring
    }

    /// Where one more worker counts.
    pub(crate) fn new_traffic(&self) -> Arc<WorkerTraffic> {
        let mut workers = lock(&self.traffic);
        let traffic = Arc::new(WorkerTraffic::of(workers.len()));
        workers.push(traffic.clone());
        traffic
    }

    /// What all workers have counted since the start of the process.
    #[inline(never)]
    pub(crate) fn traffic(&self) -> ProcessTotals {
        let mut totals = ProcessTotals::default();
        for worker in &*lock(&self.traffic) {
            totals.add(worker);
        }
        totals
    }

    /// The last exchanges of each worker, the oldest first.
    #[inline(never)]
    pub(crate) fn decisions_by_worker(&self) -> Vec<Vec<Decision>> {
        let rings = lock(&self.decisions).clone();
        rings.iter().map(|ring| ring.snapshot()).collect()
    }

    /// The last exchanges of all workers, the oldest first.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        let mut all = self.decisions_by_worker().concat();
        all.sort_by_key(|decision| decision.at_unix_ms);
        all
    }
}

/// A worker that has not ended.
#[derive(Debug)]
pub(crate) struct Running(Arc<Live>);

impl Running {
    /// One more.
    pub(crate) fn new(live: Arc<Live>) -> Running {
        live.workers.fetch_add(1, Ordering::AcqRel);
        Running(live)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::AcqRel);
        self.0.commands.call();
    }
}

/// One thread's view: the snapshot by which it goes until it looks again.
#[derive(Debug)]
pub(crate) struct Follower {
    live: Arc<Live>,
    view: View<Snapshot>,
}

impl Follower {
    /// Begins with the snapshot that is live. `waker` is woken for each that follows; see `look`.
    pub(crate) fn new(live: Arc<Live>, waker: Arc<Waker>) -> Follower {
        let view = View::new(&live.snapshots, waker);
        Follower { live, view }
    }

    /// The same for the thread that calls it, which parks where others wait for a waker. It costs no descriptor.
    pub(crate) fn parking(live: Arc<Live>) -> Follower {
        // Before the first look: one that is published in between is seen now or unparks.
        lock(&live.parked).push(thread::current());
        let view = View::unwoken(&live.snapshots);
        Follower { live, view }
    }

    /// Goes by the newest snapshot from now on; says whether it is another one. To be asked after the waker is cleared and
    /// before the thread waits for it.
    pub(crate) fn look(&mut self) -> bool {
        self.view.look(&self.live.snapshots)
    }

    /// What all threads share.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// The snapshot itself, for an owner that keeps it.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        self.view.value()
    }
}

impl Deref for Follower {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.view.value()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::descriptor_budget;
    use crate::pool::settings::HealthCheckSettings;

    /// A process that runs this configuration.
    pub(crate) fn live_of(config: Config) -> Arc<Live> {
        let descriptors = descriptor_budget(u64::MAX, &config);
        let pool = Pool::following(
            None,
            config.backends.clone(),
            &config.balance,
            &config.health_check,
        );
        Arc::new(
            Live::new(
                Snapshot::new(config, pool, descriptors),
                Commands::default(),
            )
            .unwrap(),
        )
    }

    /// A snapshot of this pool, with so many checks at once.
    pub(crate) fn snapshot_of(
        pool: Arc<Pool>,
        health_check: HealthCheckSettings,
        checks: usize,
    ) -> Snapshot {
        let text = r#"{"proxy": {"port": 0}, "backends": [{"url": "http://127.0.0.1:1"}]}"#;
        let mut config = Config::from_text("test", text).unwrap();
        config.health_check = health_check;
        Snapshot {
            head_limits: config.limits.heads(),
            descriptors: DescriptorBudget {
                checks,
                ..descriptor_budget(u64::MAX, &config)
            },
            config,
            pool,
            draining_since: None,
        }
    }

    fn config(clients: usize) -> Config {
        let text = format!(
            r#"{{"proxy": {{"port": 0, "max_connections": {clients}}}, "backends": [{{"url": "http://127.0.0.1:1"}}]}}"#
        );
        Config::from_text("test", &text).unwrap()
    }

    fn next(live: &Live, clients: usize) -> Snapshot {
        let mut next = Snapshot::clone(&live.current());
        next.config = config(clients);
        next.descriptors.clients = clients;
        next
    }

    #[test]
    fn a_follower_goes_by_what_it_has_seen_until_it_looks_again() {
        let live = live_of(config(1));
        let mut follower = Follower::new(live.clone(), Arc::new(Waker::new().unwrap()));
        assert!(!follower.look());
        live.publish(next(&live, 2));
        live.publish(next(&live, 3));
        assert_eq!(follower.config.proxy.max_connections, 1);
        assert!(follower.look() && !follower.look());
        assert_eq!(follower.config.proxy.max_connections, 3);
    }

    #[test]
    fn a_new_snapshot_rings_each_follower_and_sets_the_limit_of_connections() {
        let live = live_of(config(1));
        let wakers = [(); 2].map(|()| Arc::new(Waker::new().unwrap()));
        let _followers = wakers
            .clone()
            .map(|waker| Follower::new(live.clone(), waker));
        live.admission.add();
        assert!(!live.admission.has_room());
        live.publish(next(&live, 2));
        assert!(live.admission.has_room());
        // Would wait for an hour each if they had not been woken.
        for waker in wakers {
            waker.wait(std::time::Duration::from_secs(3600));
        }
    }

    #[test]
    fn a_snapshot_ends_with_the_last_that_goes_by_it() {
        let live = live_of(config(1));
        let mut follower = Follower::new(live.clone(), Arc::new(Waker::new().unwrap()));
        let first = Arc::downgrade(follower.snapshot());
        live.publish(next(&live, 2));
        assert!(first.upgrade().is_some());
        follower.look();
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn what_is_asked_wakes_the_main_thread_and_is_taken_in_order() {
        let live = live_of(config(1));
        let waker = Arc::new(Waker::new().unwrap());
        let names = ["a", "b"];
        for name in names {
            let name = name.to_owned();
            live.ask(Wish::Remove { name }, true, &waker);
        }
        // Called, or it would wait for an hour.
        live.commands.next(std::time::Duration::from_secs(3600));
        let asked = live.take_asks().into_iter().map(|ask| ask.wish.clone());
        let expected = names.map(|name| Wish::Remove {
            name: name.to_owned(),
        });
        assert_eq!(asked.collect::<Vec<_>>(), expected);
        assert!(live.take_asks().is_empty());
    }

    #[test]
    fn what_is_asked_beyond_the_bound_is_answered_with_503_at_once() {
        let live = live_of(config(1));
        let waker = Arc::new(Waker::new().unwrap());
        let ask = || live.ask(Wish::Reload, false, &waker).take();
        for _ in 0..ASKS_MAX {
            assert_eq!(ask(), None);
        }
        assert_eq!(ask().unwrap().status, 503);
        assert_eq!(live.take_asks().len(), ASKS_MAX);
        assert_eq!(ask(), None);
    }

    #[test]
    fn while_the_process_stops_all_that_is_asked_is_answered_with_503() {
        let live = live_of(config(1));
        let waker = Arc::new(Waker::new().unwrap());
        let before = live.ask(Wish::Reload, false, &waker);
        assert!(before.take().is_none() && !live.is_stopping());
        live.begin_stop();
        let after = live.ask(Wish::Reload, false, &waker);
        for asked in [before, after] {
            assert_eq!(asked.take().unwrap().status, 503);
        }
        assert!(live.is_stopping() && live.take_asks().is_empty());
    }
}
