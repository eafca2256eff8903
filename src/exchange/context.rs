//! What a worker lends to the exchange whose turn it is.

use std::sync::Arc;

use crate::config::Mode;
use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::relay::{Buffers, OUT_BYTES_KEPT};
use crate::exchange::request_id::RequestIds;
use crate::exchange::state::{Busy, Settings};
use crate::live::{Follower, Live, Snapshot};
use crate::log::access::AccessLogWriter;
use crate::net::clock::Clock;
use crate::net::pipes::Pipes;
use crate::net::poller::Poller;
use crate::pool::trace::Decisions;
use crate::text::timestamp::HttpDate;
use crate::traffic::WorkerTraffic;

/// Exchanges kept for the next request; more are given back to the allocator.
pub(crate) const SPARE_MAX: usize = 256;

/// A snapshot with a reference count of its own for each worker: with the shared count, each
/// exchange would make all workers write to one cache line.
pub(crate) type OwnCount = Arc<Arc<Snapshot>>;

/// A worker's resources. They belong to one thread; only `live` is shared.
#[derive(Debug)]
pub(crate) struct Context {
    /// What all threads share.
    pub live: Arc<Live>,
    /// The snapshot of this batch of events; an exchange keeps the one with which it began.
    pub snapshot: OwnCount,
    /// Where sockets are registered.
    pub poller: Poller,
    /// Read once for this batch of events.
    pub clock: Clock,
    /// The time of day for Date fields.
    pub date: HttpDate,
    /// Buffers and pipes.
    pub buffers: Buffers,
    /// Connections to backends.
    pub backends: BackendConnections,
    /// Ids for requests that have none.
    pub request_ids: RequestIds,
    /// The last exchanges, explained.
    pub decisions: Arc<Decisions>,
    /// What this worker counts.
    pub traffic: Arc<WorkerTraffic>,
    /// Where access lines go.
    pub access_log: AccessLogWriter,
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare: Vec<Box<Busy>>,
    /// The fewest spare exchanges since memory was last given back: so many are not needed.
    spare_min: usize,
}

impl Context {
    /// The resources of one worker, which waits with `poller`.
    pub(crate) fn new(follower: &Follower, poller: Poller, access_log: AccessLogWriter) -> Self {
        let (live, snapshot) = (follower.live(), follower.snapshot());
        Self {
            poller,
            clock: Clock::new(live.epoch),
            date: HttpDate::default(),
            buffers: Buffers {
                pipes: Pipes::new(snapshot.descriptors.pipes),
                ..Buffers::default()
            },
            backends: BackendConnections::new(snapshot.descriptors.idle, &snapshot.pool),
            request_ids: RequestIds::default(),
            access_log,
            decisions: live.new_decisions(),
            traffic: live.new_traffic(),
            spare: Vec::with_capacity(SPARE_MAX),
            spare_min: 0,
            live: live.clone(),
            snapshot: OwnCount::new(snapshot.clone()),
        }
    }

    /// Takes up another snapshot. Exchanges under way keep their own.
    pub(crate) fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        self.buffers.pipes.set_max(snapshot.descriptors.pipes);
        self.backends
            .follow(&snapshot.pool, snapshot.descriptors.idle);
        self.snapshot = OwnCount::new(snapshot.clone());
        // With the last worker that follows, it has all that wait.
        snapshot.pool.serve_waiting();
    }

    /// Whether the process is stopping.
    pub(crate) fn is_draining(&self) -> bool {
        self.snapshot.draining_since.is_some()
    }

    /// Whether a connection is closed after its response: the process drains, or other clients wait
    /// to connect.
    pub(crate) fn closes_after_answer(&self) -> bool {
        self.is_draining() || self.live.admission.newcomers_wait()
    }

    /// Whether connections are balanced instead of requests.
    pub(crate) fn is_tcp(&self) -> bool {
        self.snapshot.config.proxy.mode == Mode::Tcp
    }

    /// An empty exchange with the present settings.
    pub(crate) fn take_exchange(&mut self) -> Box<Busy> {
        let spare = self.spare.pop();
        self.spare_min = self.spare_min.min(self.spare.len());
        let mut busy = spare.unwrap_or_default();
        busy.exchange.settings = Settings::of(&self.snapshot);
        busy
    }

    /// Takes back an exchange that is over, and all that it had borrowed.
    pub(crate) fn put_back(&mut self, mut busy: Box<Busy>) {
        busy.clear(&mut self.backends, &mut self.buffers.pipes);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(busy);
        }
    }

    /// Whether there is memory to give back.
    pub(crate) fn has_unused(&self) -> bool {
        !self.spare.is_empty()
            || self.buffers.out.capacity() > OUT_BYTES_KEPT
            || self.backends.has_unused()
    }

    /// Gives back memory that was unused since the last time.
    pub(crate) fn give_back(&mut self) {
        // From the front: the last ones are those in use.
        self.spare.drain(..self.spare_min);
        self.spare_min = self.spare.len();
        self.buffers.out.clear();
        self.buffers.out.shrink_to(OUT_BYTES_KEPT);
        self.backends.give_back();
    }
}
