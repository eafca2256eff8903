//! What a worker lends to the exchange whose turn it is.

use std::io;
use std::sync::Arc;

use crate::config::Mode;
use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::relay::{OUT_BYTES_KEPT, Tools};
use crate::exchange::request_id::RequestIds;
use crate::exchange::state::Exchange;
use crate::live::Runtime;
use crate::log::access::{AccessLogWriter, Format};
use crate::net::clock::Clock;
use crate::net::pipes::Pipes;
use crate::net::poller::Poller;
use crate::net::waker::Bell;
use crate::pool::trace::Decisions;
use crate::text::timestamp::HttpDate;

/// Exchanges kept for the next request; more are given back to the allocator.
pub(crate) const SPARE_MAX: usize = 256;

/// A worker's resources. They belong to one thread; only `runtime` is shared.
#[derive(Debug)]
pub(crate) struct Context {
    /// The configuration, the backends, the state of the process.
    pub runtime: Arc<Runtime>,
    /// Where sockets are registered.
    pub poller: Poller,
    /// The time, as of this batch of events.
    pub clock: Clock,
    /// The time of day for Date fields.
    pub date: HttpDate,
    /// Buffers and pipes.
    pub tools: Tools,
    /// Connections to backends.
    pub backends: BackendConnections,
    /// Names for requests that have none.
    pub request_ids: RequestIds,
    /// The last exchanges, explained.
    pub decisions: Arc<Decisions>,
    /// Where access lines go, and how they are written.
    pub access_log: Option<(AccessLogWriter, Format)>,
    /// Whether the process is stopping.
    pub draining: bool,
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare: Vec<Box<Exchange>>,
    /// The fewest spare exchanges since the last time that memory was given back: so many are not needed.
    spare_min: usize,
}

impl Context {
    /// The resources of one worker, which `bell` wakes.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        bell: &Bell,
        access_log: Option<(AccessLogWriter, Format)>,
    ) -> io::Result<Self> {
        Ok(Self {
            poller: Poller::new(bell)?,
            clock: Clock::new(runtime.epoch),
            date: HttpDate::default(),
            tools: Tools {
                pipes: Pipes::new(runtime.descriptors.pipes),
                ..Tools::default()
            },
            backends: BackendConnections::new(runtime.descriptors.idle, &runtime.pool),
            request_ids: RequestIds::default(),
            access_log,
            draining: false,
            decisions: runtime.new_decisions(),
            spare: Vec::with_capacity(SPARE_MAX),
            spare_min: 0,
            runtime,
        })
    }

    /// Whether a connection is closed after its answer: the process stops, or other clients wait for a place.
    pub(crate) fn closes_after_answer(&self) -> bool {
        self.draining || self.runtime.admission.newcomers_wait()
    }

    /// Whether there are no requests, only connections to pass on.
    pub(crate) fn is_tcp(&self) -> bool {
        self.runtime.config.proxy.mode == Mode::Tcp
    }

    /// An unused exchange, as new.
    pub(crate) fn take_exchange(&mut self) -> Box<Exchange> {
        let spare = self.spare.pop();
        self.spare_min = self.spare_min.min(self.spare.len());
        spare.unwrap_or_default()
    }

    /// Takes an exchange back when it is over, with everything that it had borrowed.
    pub(crate) fn put_back(&mut self, mut exchange: Box<Exchange>) {
        exchange.clear(&mut self.backends, &mut self.tools.pipes);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(exchange);
        }
    }

    /// Whether there is memory to give back.
    pub(crate) fn has_unused(&self) -> bool {
        !self.spare.is_empty()
            || self.tools.out.capacity() > OUT_BYTES_KEPT
            || self.backends.has_unused()
    }

    /// Gives back the memory that has not been used since the last time.
    pub(crate) fn give_back(&mut self) {
        // From the front: the last ones are those that are used again.
        self.spare.drain(..self.spare_min);
        self.spare_min = self.spare.len();
        self.tools.out.clear();
        self.tools.out.shrink_to(OUT_BYTES_KEPT);
        self.backends.give_back();
    }
}
