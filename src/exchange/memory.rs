//! The most that one connection can hold, and a worker beside its connections: two parts of the sum
//! in `memory.rs`.
//!
//! A client and a backend may both be hostile, and work together. All that the code lets them have
//! held at the same time is added up here, from the constants that bound the code.

use crate::config::{Config, DescriptorBudget, Mode};
use crate::exchange::Client;
use crate::exchange::backend_connections::BackendConnections;
use crate::exchange::context::SPARE_MAX;
use crate::exchange::relay::{OUT_BYTES_KEPT, SCRATCH_BYTES};
use crate::exchange::request_head::REQUEST_READ_BYTES;
use crate::exchange::state::Busy;
use crate::http::chunked::encoded_bytes_max;
use crate::http::forward::{request_bytes_max, response_bytes_max};
use crate::http::head::KEPT_BYTES;
use crate::net::idle_list::IdleList;
use crate::net::proxy_protocol::HEADER_BYTES_MAX;
use crate::net::room::ITEMS_KEPT;
use crate::net::slab::{Key, Slab};
use crate::net::timers::Timers;
use crate::pool::trace::Decisions;
use crate::traffic::WorkerTraffic;

/// A list that doubles when it is full has room for twice its items, and exists twice while it
/// grows.
const DOUBLED: usize = 3;

/// Bytes of one client in a worker's lists.
const LISTED_BYTES: usize = Timers::BYTES_EACH + IdleList::BYTES_EACH + size_of::<Key>();

/// The parts that depend on the configuration.
struct Parts {
    /// A head and its list of fields.
    head: usize,
    /// A head as it is written for the backend, and for the client.
    request_head: usize,
    response_head: usize,
    /// What one read takes of a request's body with its head, held and under way; then what later
    /// reads take.
    request_body: usize,
    /// What is read of a response's body at once.
    response_body: usize,
}

fn parts(config: &Config) -> Parts {
    if config.proxy.mode == Mode::Tcp {
        return Parts {
            head: 0,
            request_head: HEADER_BYTES_MAX,
            response_head: 0,
            request_body: SCRATCH_BYTES,
            response_body: SCRATCH_BYTES,
        };
    }
    let limits = config.limits.heads();
    let base_paths = config.backends.iter().map(|backend| &backend.url.base_path);
    let base_path_max = base_paths.map(String::len).max().unwrap_or(0);
    let lenient = config.backends.iter().any(|backend| backend.lenient);
    Parts {
        head: limits.kept_bytes_max(),
        request_head: request_bytes_max(&limits, base_path_max),
        response_head: response_bytes_max(&limits),
        request_body: encoded_bytes_max(SCRATCH_BYTES, false).max(2 * REQUEST_READ_BYTES),
        response_body: encoded_bytes_max(SCRATCH_BYTES, lenient),
    }
}

/// A client's connection with an exchange, and the backend's connection.
pub(crate) fn connection_bytes_max(config: &Config) -> usize {
    let parts = parts(config);
    let connection = Slab::<Client>::BYTES_EACH + DOUBLED * LISTED_BYTES;
    let tried = DOUBLED * config.backends.len().div_ceil(8);
    let exchange = size_of::<Busy>() + tried + BackendConnections::BYTES_EACH;
    // The request's head is kept to the end, for another try and for the log; the backend may take
    // nothing of what is written from it, nor of the body behind it. While a head arrives there is
    // less.
    let request = parts.head + parts.request_head + parts.request_body;
    // A response's head arrives, then it is written, then all but a small buffer is given back.
    // What follows, a trailer section included, is not read before the client has taken that.
    let response = parts.head.max(KEPT_BYTES + parts.response_head) + parts.response_body;
    connection + exchange + request + response
}

/// Idle connections to backends.
pub(crate) fn idle_backend_connection_bytes() -> usize {
    BackendConnections::BYTES_EACH
}

/// What a worker has for its turns and keeps for the next exchanges.
pub(crate) fn worker_bytes_max(config: &Config, budget: &DescriptorBudget) -> usize {
    let parts = parts(config);
    let out = parts.request_head.max(parts.response_head) + parts.response_body;
    let buffers = SCRATCH_BYTES + OUT_BYTES_KEPT.max(DOUBLED * out);
    // A head that has just become complete is in two buffers until its turn is over.
    let turn = 2 * parts.head;
    let spare = SPARE_MAX.min(budget.clients) * (size_of::<Busy>() + 2 * KEPT_BYTES);
    let counted = Decisions::BYTES + size_of::<WorkerTraffic>();
    let blocks = Slab::<Client>::BLOCK_BYTES + BackendConnections::BLOCK_BYTES;
    buffers + turn + spare + blocks + ITEMS_KEPT * LISTED_BYTES + counted
}
