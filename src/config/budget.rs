//! What a configuration costs: descriptors and memory, as sums anyone can check.

use crate::config::Config;
use crate::net::pipes::{PIPE_BYTES, PIPES_MAX};

/// Descriptors that have nothing to do with clients: standard streams, listeners, checks, admin interface, name lookups.
const DESCRIPTORS_FIXED: u64 = 128;
/// Descriptors of one worker: poller, wake-up, and 32 pipes with two ends each, rounded up.
const DESCRIPTORS_PER_WORKER: u64 = 2 * PIPES_MAX as u64 + 8;

/// A connection that waits for a request and keeps no buffer.
const IDLE_CONNECTION_BYTES: u64 = 250;
/// What an exchange needs besides its two heads and two buffers.
const EXCHANGE_BYTES: u64 = 2048;
/// One direction of a body, at most.
const BODY_BUFFER_BYTES: u64 = 64 * 1024;
/// A worker's stack, and the scratch buffers it shares among its exchanges.
const WORKER_BYTES: u64 = 2 * 256 * 1024;
/// What the kernel may hold for a worker in full pipes.
const WORKER_PIPE_BYTES: u64 = (PIPES_MAX * PIPE_BYTES) as u64;

/// How many descriptors this process may have at most: the hard limit, to which the soft one is raised at start.
pub fn descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

/// How many client connections fit under a descriptor limit, at most `proxy.max_connections` and at least 1.
///
/// A client connection needs one descriptor more for its backend connection while an exchange is under way. Not all
/// have one at once, and running out is survived by waiting, so a fifth of what is left is kept for backends beyond
/// the idle ones, which are counted in full (up to a quarter of the limit).
pub fn descriptor_budget(descriptor_limit: u64, config: &Config) -> usize {
    let workers = config.proxy.workers as u64;
    let backends = config.backends.len() as u64;
    let idle = (config.limits.idle_backend_connections as u64)
        .saturating_mul(backends)
        .min(descriptor_limit / 4);
    let fixed = DESCRIPTORS_FIXED + workers * DESCRIPTORS_PER_WORKER + idle;
    let clients = u128::from(descriptor_limit.saturating_sub(fixed)) * 4 / 5;
    usize::try_from(clients)
        .unwrap_or(usize::MAX)
        .min(config.proxy.max_connections)
        .max(1)
}

/// The memory that a number of connections may need at the worst, in bytes, as [`memory_bound`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBound {
    /// All connections idle.
    pub idle_bytes: u64,
    /// All connections in an exchange, each with its buffers full.
    pub active_bytes: u64,
    /// The workers themselves; in both cases on top.
    pub workers_bytes: u64,
    /// What the kernel may hold in pipes for the workers; not part of the process.
    pub pipes_bytes: u64,
}

/// The bound on memory with `connections` client connections.
///
/// - idle: connections x 250 bytes
/// - active: connections x (2 x `limits.head_bytes` + 2 x 64 KiB + 1 KiB)
/// - workers: workers x (256 KiB stack + 256 KiB scratch)
/// - pipes: workers x 32 pipes x 2 x 1 MiB
pub fn memory_bound(config: &Config, connections: usize) -> MemoryBound {
    let connections = connections as u64;
    let workers = config.proxy.workers as u64;
    let head_bytes = config.limits.head_bytes as u64;
    let exchange_bytes = 2 * head_bytes + 2 * BODY_BUFFER_BYTES + EXCHANGE_BYTES;
    MemoryBound {
        idle_bytes: connections.saturating_mul(IDLE_CONNECTION_BYTES),
        active_bytes: connections.saturating_mul(exchange_bytes),
        workers_bytes: workers.saturating_mul(WORKER_BYTES),
        pipes_bytes: workers.saturating_mul(WORKER_PIPE_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        let text = format!(
            r#"{{"proxy":{{"port":1,"workers":2{extra}}},"backends":[{{"url":"http://a"}},{{"url":"http://b"}}]}}"#
        );
        Config::from_text("c.json", &text).unwrap()
    }

    #[test]
    fn client_connections_fit_the_descriptor_limit() {
        // 128 + 2 workers x 72 + 2 backends x 64 idle = 400
        let config = config("");
        assert_eq!(descriptor_budget(1400, &config), 800);
        assert_eq!(descriptor_budget(20_000, &config), 10_000);
        assert_eq!(descriptor_budget(u64::MAX, &config), 10_000);
        assert_eq!(descriptor_budget(0, &config), 1);
        assert_eq!(
            descriptor_budget(400, &config),
            22,
            "idle is capped at a quarter"
        );
    }

    #[test]
    fn fewer_connections_than_the_limit_allows_stay_as_configured() {
        let config = config(r#","max_connections":7"#);
        assert_eq!(descriptor_budget(1400, &config), 7);
        assert_eq!(descriptor_budget(0, &config), 1);
    }

    #[test]
    fn the_memory_bound_is_the_documented_sum() {
        let bound = memory_bound(&config(""), 1000);
        assert_eq!(bound.idle_bytes, 250_000);
        assert_eq!(bound.active_bytes, 1000 * (2 * 16_384 + 2 * 65_536 + 2048));
        assert_eq!(bound.workers_bytes, 2 * 512 * 1024);
        assert_eq!(bound.pipes_bytes, 2 * 8 * 1024 * 1024);
    }
}
