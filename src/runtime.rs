//! What all threads share: the configuration that is live, the backends, how many connections
//! are open, and whether we are stopping.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::bell::Bell;
use crate::config::Config;
use crate::decisions::{Decision, Decisions};
use crate::http::HeadLimits;
use crate::poller::Millis;
use crate::pool::lock::lock;
use crate::timestamp::since_epoch;

use crate::pool::Pool;

/// Shared by the listener, the workers, the checker and the server.
#[derive(Debug)]
pub struct Runtime {
    /// The configuration as used.
    pub config: Config,
    /// The backends and the choice among them.
    pub pool: Arc<Pool>,
    /// The bounds of a head, in the form in which `http` takes them.
    pub head_limits: HeadLimits,
    /// When the process started; the workers' clocks count from here.
    pub epoch: Instant,
    /// The client connections that are open.
    pub open: Open,
    epoch_unix_ms: u64,
    decisions: Mutex<Vec<Arc<Decisions>>>,
    draining: Mutex<Option<Instant>>,
    is_draining: AtomicBool,
}

impl Runtime {
    /// Prepares what `config` describes. `connections_max`: how many clients may be connected.
    pub fn new(config: Config, connections_max: usize) -> std::io::Result<Self> {
        let pool = Pool::new(
            config.backends.clone(),
            &config.balance,
            &config.health_check,
        );
        let head_limits = HeadLimits {
            head_bytes_max: config.limits.head_bytes,
            fields_max: config.limits.fields,
        };
        Ok(Self {
            config,
            pool: Arc::new(pool),
            head_limits,
            epoch: Instant::now(),
            open: Open::new(connections_max)?,
            epoch_unix_ms: u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX),
            decisions: Mutex::default(),
            draining: Mutex::new(None),
            is_draining: AtomicBool::new(false),
        })
    }

    /// The time of day at a moment of the workers' clocks, in milliseconds since 1970.
    pub fn unix_ms(&self, moment: Millis) -> u64 {
        self.epoch_unix_ms.saturating_add(moment)
    }

    /// A ring for the decisions of one more worker.
    pub fn new_decisions(&self) -> Arc<Decisions> {
        let ring = Arc::new(Decisions::default());
        lock(&self.decisions).push(ring.clone());
        ring
    }

    /// The last exchanges of all workers, the oldest first.
    pub fn decisions(&self) -> Vec<Decision> {
        let rings = lock(&self.decisions).clone();
        let mut all: Vec<Decision> = rings.iter().flat_map(|ring| ring.snapshot()).collect();
        all.sort_by_key(|decision| decision.at_unix_ms);
        all
    }

    /// Begins to drain: what is in flight is finished, and nothing else is begun.
    pub fn drain(&self) {
        let mut since = lock(&self.draining);
        since.get_or_insert_with(Instant::now);
        self.is_draining.store(true, Ordering::Release);
    }

    /// Since when we drain, if we do.
    pub fn draining_since(&self) -> Option<Instant> {
        if !self.is_draining.load(Ordering::Acquire) {
            return None;
        }
        *lock(&self.draining)
    }
}

/// The number of open client connections, and the listener that may be waiting for it to fall.
#[derive(Debug)]
pub struct Open {
    /// How many there may be.
    pub max: usize,
    /// Wakes the listener.
    pub listener: Bell,
    count: AtomicUsize,
    listener_waits: AtomicBool,
}

impl Open {
    fn new(max: usize) -> std::io::Result<Self> {
        Ok(Self {
            max,
            listener: Bell::new()?,
            count: AtomicUsize::new(0),
            listener_waits: AtomicBool::new(false),
        })
    }

    /// Whether another connection may be accepted. Only the listener adds, so the answer holds.
    pub fn has_room(&self) -> bool {
        self.count.load(Ordering::SeqCst) < self.max
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Counts one more.
    pub fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one less.
    pub fn remove(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.room_may_be_made();
    }

    /// The listener announces that it waits for room. It must look at `has_room` once more after this.
    pub fn listener_waits(&self) {
        self.listener_waits.store(true, Ordering::SeqCst);
    }

    /// Wakes the listener if it waits: a connection closed, or became idle and could be.
    pub fn room_may_be_made(&self) {
        if self.listener_waits.load(Ordering::SeqCst)
            && self.listener_waits.swap(false, Ordering::SeqCst)
        {
            self.listener.ring();
        }
    }
}
