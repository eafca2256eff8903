//! The most memory that the process can take: the sum that `--check` prints.
//!
//! Each part is counted beside the code that bounds it; here they are added up, and nowhere else. A
//! test lets hostile peers of many kinds do their worst and finds less.
//!
//! Read next: `exchange/memory.rs`, its largest part.

use crate::admin;
use crate::checker;
use crate::checks::probe::Probe;
use crate::config::{AccessLog, Config, DescriptorBudget, LIST_BYTES_MAX};
use crate::exchange::memory::{
    connection_bytes_max, idle_backend_connection_bytes, worker_bytes_max,
};
use crate::log::{access, events};
use crate::metrics::sampler::Series;
use crate::net::mailbox::Mailbox;
use crate::net::pipes::PIPE_BYTES;
use crate::net::poller::Events;
use crate::net::room::{HEAP_BYTES, allocated};
use crate::net::thread::STACK_BYTES;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::settings::BackendSettings;
use crate::pool::state::BackendState;
use crate::text::words::counted;
use crate::traffic::Traffic;

/// The program itself, the C library, and the threads other than workers; measured, and more than
/// doubled.
const PROCESS_BYTES: usize = 8 * 1024 * 1024;

/// Texts of a backend (name, URL, cookie) and its entries in lists: in the configuration, in the
/// pool and in each worker.
const BACKEND_TEXT_BYTES: usize = 2 * 1024;

/// A bound on resident memory, in bytes, without what the kernel holds for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// With no backend, worker or connection.
    pub process: u64,
    /// One worker.
    pub worker: u64,
    /// All backends, with their idle connections and their checks.
    pub backends: u64,
    /// One client connection in an exchange, with its backend connection.
    pub connection: u64,
    /// What the kernel may hold in pipes: not part of the sum.
    pub pipes: u64,
    workers: u64,
    connections: u64,
}

impl MemoryBound {
    /// The bound for `config` with the descriptors divided by `budget`.
    pub fn of(config: &Config, budget: &DescriptorBudget) -> Self {
        let workers = config.proxy.workers;
        let logged = config.proxy.access_log != AccessLog::Off;
        let log = if logged { access::BUFFER_BYTES } else { 0 };
        let lists = Mailbox::BYTES + Events::BYTES + log;
        let worker = worker_bytes_max(config, budget) + lists + STACK_BYTES + HEAP_BYTES;

        let each = size_of::<Backend>()
            + size_of::<BackendState>()
            + workers * size_of::<Traffic>()
            + config.admin.as_ref().map_or(0, |_| Series::BYTES)
            + BACKEND_TEXT_BYTES
            + 2 * size_of::<BackendSettings>()
            // That of the next configuration is made while this one is in use.
            + 2 * Pool::chooser_bytes_each(&config.balance)
            + checker::BYTES_EACH;
        let backends = config.backends.len();
        let idle_max = config
            .limits
            .idle_backend_connections
            .saturating_mul(backends);
        // As long as the next configuration's is made, there are two.
        let queue = config
            .balance
            .queue
            .map_or(0, |queue| 2 * Pool::queue_bytes(queue.length));
        let idle = idle_max.min(budget.idle.saturating_mul(workers));
        let list = config.discovery.file().map_or(0, |_| LIST_BYTES_MAX);
        let checks = budget.checks * Probe::bytes_max(&config.limits.heads());
        let bytes = |bytes: usize| allocated(bytes as u64);
        Self {
            process: (PROCESS_BYTES + log) as u64
                + bytes(events::BYTES_MAX)
                + bytes(list)
                + bytes(admin::bytes_max(config)),
            worker: bytes(worker),
            backends: bytes(backends * each + 2 * Pool::CHOOSER_BYTES + queue)
                + bytes(idle.saturating_mul(idle_backend_connection_bytes()))
                + bytes(checks),
            connection: bytes(connection_bytes_max(config)),
            pipes: (workers * budget.pipes * PIPE_BYTES) as u64,
            workers: workers as u64,
            connections: budget.clients as u64,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let workers = self.workers.saturating_mul(self.worker);
        let connections = self.connections.saturating_mul(self.connection);
        [self.process, self.backends, workers, connections]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Two lines of `--check`, each with its name.
    pub fn summary(&self) -> [(&'static str, String); 2] {
        let of_each = |number: u64, what: &str, bytes: u64| {
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            format!("{} of {}", counted(number, what), kib(bytes))
        };
        let memory = format!(
            "{}, {}, {} for the rest: at most {} MiB resident in all",
            of_each(self.connections, "connection", self.connection),
            of_each(self.workers, "worker", self.worker),
            kib(self.process + self.backends),
            self.total().div_ceil(1 << 20)
        );
        let kernel = format!(
            "apart from that at most {} MiB in pipes, and the buffers of its sockets",
            self.pipes.div_ceil(1 << 20)
        );
        [("memory", memory), ("kernel", kernel)]
    }
}

/// Rounded up: a bound rounded down is none.
fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1 << 10))
}
