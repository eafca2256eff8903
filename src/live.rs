//! What all threads share: the configuration that is live, the backends, how many connections
//! are open, and whether we are stopping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::config::{Config, DescriptorBudget};
use crate::http::HeadLimits;
use crate::net::admission::Admission;
use crate::net::clock::Millis;
use crate::net::lock::lock;
use crate::pool::trace::{Decision, Decisions};
use crate::text::timestamp::since_epoch;

use crate::pool::Pool;

/// Shared by the listener, the workers, the checker and the server.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// The configuration as used.
    pub config: Config,
    /// The backends and the choice among them.
    pub pool: Arc<Pool>,
    /// The bounds of a head, in the form in which `http` takes them.
    pub head_limits: HeadLimits,
    /// When the process started; the workers' clocks count from here.
    pub epoch: Instant,
    /// What each part may open.
    pub descriptors: DescriptorBudget,
    /// The client connections that are open, and the limit.
    pub admission: Admission,
    epoch_unix_ms: u64,
    decisions: Mutex<Vec<Arc<Decisions>>>,
    draining: Mutex<Option<Instant>>,
    is_draining: AtomicBool,
}

impl Runtime {
    /// Prepares what `config` describes.
    pub(crate) fn new(config: Config, descriptors: DescriptorBudget) -> std::io::Result<Self> {
        let pool = Pool::new(
            config.backends.clone(),
            &config.balance,
            &config.health_check,
        );
        let head_limits = config.limits.heads();
        Ok(Self {
            config,
            pool: Arc::new(pool),
            head_limits,
            epoch: Instant::now(),
            admission: Admission::new(descriptors.clients)?,
            descriptors,
            epoch_unix_ms: u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX),
            decisions: Mutex::default(),
            draining: Mutex::new(None),
            is_draining: AtomicBool::new(false),
        })
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

    /// The last exchanges of all workers, the oldest first.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        let rings = lock(&self.decisions).clone();
        let mut all: Vec<Decision> = rings.iter().flat_map(|ring| ring.snapshot()).collect();
        all.sort_by_key(|decision| decision.at_unix_ms);
        all
    }

    /// Begins to drain: what is in flight is finished, and nothing else is begun.
    pub(crate) fn drain(&self) {
        let mut since = lock(&self.draining);
        since.get_or_insert_with(Instant::now);
        self.is_draining.store(true, Ordering::Release);
    }

    /// Since when we drain, if we do.
    pub(crate) fn draining_since(&self) -> Option<Instant> {
        if !self.is_draining.load(Ordering::Acquire) {
            return None;
        }
        *lock(&self.draining)
    }
}
