//! What a configuration costs in descriptors, as a sum. What it costs in memory is in `memory.rs`.

use crate::config::Config;
use crate::net::pipes::PIPES_MAX;
use crate::pool::settings::Kind;

/// What the process itself has open: three standard streams, the listener, two ends of the signals' pipe, three wake-ups;
/// and three to spare, one of them for the listener that a reload opens before it closes the old one, and one for a list of
/// backends that is read.
const DESCRIPTORS_OWN: u64 = 12;
/// A worker's poller and wake-up.
const DESCRIPTORS_OF_WORKER: u64 = 2;
/// What the admin interface has open: its listener, its wake-up, a file of /proc, and those that it holds for the time when traffic has taken
/// all others (src/admin/mod.rs).
const DESCRIPTORS_OF_ADMIN: u64 = 3 + 8;
/// For name lookups, and connections of the admin interface beyond those that it holds.
const DESCRIPTORS_RESERVED: u64 = 48;
/// Health checks that run at once; each has one descriptor.
const CHECKS_MAX: u64 = 64;

/// How many descriptors this process may have at most: the hard limit, to which the soft one is raised at start.
pub fn descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

/// How the descriptors of the process are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// Client connections open at once, at most `proxy.max_connections` and at least 1.
    pub clients: usize,
    /// How many of them can be in an exchange at once, each with a backend connection of its own.
    pub exchanges: usize,
    /// Health checks that run at once.
    pub checks: usize,
    /// Pipes of one worker, for `splice`.
    pub pipes: usize,
    /// Backend connections of one worker beyond one for each of its clients.
    pub idle: usize,
}

/// Divides `limit` descriptors.
///
/// A client connection takes two, one of them for its backend connection, so that no request is
/// refused for want of a descriptor. If the limit is too low for `proxy.max_connections`,
/// conveniences shrink first: pipes (a body is copied without one), idle backend connections,
/// health checks at once. A `proxy.max_connections` that the configuration sets may exceed this, up
/// to four connections for every five descriptors that are left: most of them may be idle.
pub fn descriptor_budget(limit: u64, config: &Config) -> DescriptorBudget {
    let workers = config.proxy.workers as u64;
    let wanted = config.proxy.max_connections as u64;
    let checked = config.backends.iter().filter(|backend| backend.check);
    let checks = match config.health_check.kind {
        Kind::None => 0,
        _ => CHECKS_MAX.min(checked.count() as u64),
    };
    let idle = (config.limits.idle_backend_connections as u64)
        .saturating_mul(config.backends.len() as u64);
    let admin = config.admin.as_ref().map_or(0, |_| DESCRIPTORS_OF_ADMIN);
    let own = DESCRIPTORS_OWN + workers * DESCRIPTORS_OF_WORKER + admin;
    let left = limit.saturating_sub(own);
    let pipes = PIPES_MAX as u64;
    let all = DESCRIPTORS_RESERVED + checks + 2 * pipes * workers + idle + 2 * wanted;
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    if all <= left {
        return DescriptorBudget {
            clients: number(wanted),
            exchanges: number(wanted),
            checks: number(checks),
            pipes: PIPES_MAX,
            // What one backend may have idle is bound enough.
            idle: usize::MAX,
        };
    }
    let reserved = DESCRIPTORS_RESERVED.min(left / 8);
    let checks = checks.min((left / 8).max(1));
    let pipes = pipes.min(left / (32 * workers));
    let idle = idle.min(left / 16) / workers;
    let left = left.saturating_sub(reserved + checks + (2 * pipes + idle) * workers);
    let exchanges = (left / 2).clamp(1, wanted);
    let clients = if config.proxy.max_connections_is_set {
        (left / 5 * 4).clamp(exchanges, wanted)
    } else {
        exchanges
    };
    DescriptorBudget {
        clients: number(clients),
        exchanges: number(exchanges),
        checks: number(checks),
        pipes: number(pipes),
        idle: number(idle),
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

    /// All descriptors that the budget hands out, of a process with two workers and this many idle connections.
    fn sum(budget: DescriptorBudget, clients_each: u64) -> u64 {
        let of_worker = 2 * budget.pipes as u64 + budget.idle as u64;
        16 + budget.checks as u64 + 2 * of_worker + clients_each * budget.clients as u64
    }

    #[test]
    fn every_client_has_a_descriptor_for_its_backend_connection_too() {
        let config = config("");
        for limit in 17..25_000 {
            let budget = descriptor_budget(limit, &config);
            assert_eq!(budget.clients, budget.exchanges);
            if budget.idle == usize::MAX {
                assert_eq!(budget.clients, 10_000);
                assert!(16 + 48 + 2 + 2 * 64 + 128 + 20_000 <= limit);
            } else if limit >= 19 {
                assert!(sum(budget, 2) <= limit, "{limit}: {budget:?}");
            }
        }
    }

    #[test]
    fn what_is_convenient_shrinks_with_the_limit() {
        let config = config("");
        let of = |limit| {
            let budget = descriptor_budget(limit, &config);
            [budget.clients, budget.checks, budget.pipes, budget.idle]
        };
        // 12 + 2 x 2 for the process; then at most 48 in reserve, 2 checks, 2 x 2 x 32 pipes' ends, 2 x 64 idle.
        assert_eq!(of(u64::MAX), [10_000, 2, 32, usize::MAX]);
        assert_eq!(of(20_322), [10_000, 2, 32, usize::MAX]);
        assert_eq!(of(20_321), [9_999, 2, 32, 64]);
        assert_eq!(of(1024), [418, 2, 15, 31]);
        assert_eq!(of(256), [91, 2, 3, 7]);
        assert_eq!(of(64), [19, 2, 0, 1]);
        assert_eq!(of(16), [1, 1, 0, 0]);
        assert_eq!(of(0), [1, 1, 0, 0]);
    }

    #[test]
    fn the_admin_interface_has_its_own() {
        let text = r#"{"proxy":{"port":1,"workers":2},"backends":[{"url":"http://a"},{"url":"http://b"}],"admin":{"address":"127.0.0.1:1"}}"#;
        let with = Config::from_text("c.json", text).unwrap();
        let without = config("");
        for limit in [200, 1024, 21_000] {
            let descriptors = descriptor_budget(limit, &without);
            assert_eq!(descriptor_budget(limit + 11, &with), descriptors);
        }
    }

    #[test]
    fn health_checks_are_counted_and_only_those_that_are_made() {
        let backends = |check: &str| {
            let backend = format!(r#"{{"url":"http://a"{check}}}"#);
            let list = vec![backend; 600].join(",");
            let text = format!(r#"{{"proxy":{{"port":1,"workers":2}},"backends":[{list}]}}"#);
            descriptor_budget(1024, &Config::from_text("c.json", &text).unwrap())
        };
        let (checked, unchecked) = (backends(""), backends(r#","check":false"#));
        assert_eq!((checked.checks, unchecked.checks), (64, 0));
        assert_eq!(unchecked.clients - checked.clients, 32);
    }

    #[test]
    fn fewer_connections_than_the_limit_allows_stay_as_configured() {
        let config = config(r#","max_connections":7"#);
        assert_eq!(descriptor_budget(1400, &config).clients, 7);
        assert_eq!(descriptor_budget(0, &config).clients, 1);
    }

    #[test]
    fn more_connections_than_can_all_be_in_an_exchange_are_possible_where_they_are_asked_for() {
        let config = config(r#","max_connections":15000"#);
        let budget = descriptor_budget(20_000, &config);
        assert_eq!((budget.clients, budget.exchanges), (15_000, 9_839));
        let budget = descriptor_budget(1024, &config);
        assert_eq!((budget.clients, budget.exchanges), (668, 418));
        assert!(sum(budget, 1) <= 1024);
    }
}
