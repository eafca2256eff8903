//! What `--check` prints: what would run, and what it would cost at most.

use std::fmt::Write as _;

use crate::config::{
    Config, DescriptorBudget, admin, backends, balance, descriptor_budget, ejection, health_check,
};
use crate::text::words::counted;

/// What would run under this descriptor limit, as lines for people. `costs`: further lines, each
/// with its name.
pub fn summary(config: &Config, descriptor_limit: u64, costs: &[(&str, String)]) -> String {
    let mut out = String::new();
    let mut rows = |name: &str, lines: &[String]| {
        for (number, line) in lines.iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<13} {line}");
        }
    };
    let [listener, forwarding] = config.proxy.summary();
    let backends: Vec<String> = config.backends.iter().map(backends::summary).collect();
    let descriptors = descriptor_budget(descriptor_limit, config);
    rows("listener", &[listener]);
    rows("forwarding", &[forwarding]);
    rows("backends", &backends);
    rows("discovery", &config.discovery.summary());
    rows("balance", &[balance::summary(&config.balance)]);
    rows("ejection", &ejection::summary(&config.balance));
    rows(
        "health check",
        &[health_check::summary(&config.health_check)],
    );
    rows("timeouts", &config.timeouts.summary());
    rows("limits", &[config.limits.summary()]);
    rows(
        "connections",
        &[connections_text(config, descriptors, descriptor_limit)],
    );
    rows("admin", &admin::summary(config.admin.as_ref()));
    for (name, line) in costs {
        rows(name, std::slice::from_ref(line));
    }
    out
}

fn connections_text(config: &Config, budget: DescriptorBudget, descriptor_limit: u64) -> String {
    let wanted = config.proxy.max_connections;
    let mut text = format!(
        "at most {} at once",
        counted(budget.clients, "client connection")
    );
    let are_fewer = budget.exchanges < budget.clients;
    if are_fewer {
        let _ = write!(text, ", {} of them in an exchange", budget.exchanges);
    }
    let limit = format!(": the limit of {descriptor_limit} descriptors");
    if budget.clients < wanted {
        let _ = write!(
            text,
            "{limit} does not allow proxy.max_connections {wanted}"
        );
    } else if are_fewer {
        let _ = write!(text, "{limit} allows no more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_the_articles_file_says_what_would_run() {
        let mut config =
            Config::from_text("config.json", include_str!("../../config.json")).unwrap();
        config.proxy.workers = 2;
        assert_eq!(
            summary(&config, 21_000, &[("memory", "little".to_owned())]),
            "\
listener      all interfaces, port 8080, mode http, 2 workers
forwarding    trusted forwarders: none, Via added, access log text
backends      localhost:8081 http://localhost:8081 weight 1
              localhost:8082 http://localhost:8082 weight 1
              localhost:8083 http://localhost:8083 weight 1
              localhost:8084 http://localhost:8084 weight 1
balance       round_robin, no persistence, a request is sent to at most 3 backends
health check  tcp connect every 1m, while down every 2s, timeout 5s, rise 1, fall 1
timeouts      client_head 10s, client_idle 1m, client_body 30s, client_write 30s
              connect 5s, response_head 1m, response_body 1m, backend_idle 4s
              tunnel_idle 1h, tunnel_half_closed 30s, drain 30s, drain_delay 0s
limits        heads of 16384 bytes and 100 fields, request bodies of any length, 64 idle connections for each backend
connections   at most 10000 client connections at once
memory        little
"
        );
    }

    #[test]
    fn what_a_hash_goes_by_is_shown() {
        let text = r#"{"proxy": {"port": 1}, "backends": [{"url": "http://a"}],
            "balance": {"method": "hash", "hash": {"key": "cookie:id", "load_percent_max": 125}}}"#;
        let config = Config::from_text("c.json", text).unwrap();
        let line = "balance       hash by cookie:id, to at most 125 % of a backend's share, no persistence, ";
        let summary = summary(&config, 1000, &[]);
        assert!(summary.contains(line), "{summary}");
    }

    #[test]
    fn what_differs_from_the_defaults_is_shown() {
        let text = r#"{
            "proxy": {"port": 0, "address": "::1", "workers": 1, "access_log": false, "via": false,
                "trust_forwarded": ["10.0.0.0/8"], "forwarded_proto": "https", "max_connections": 500},
            "balance": {"persistence": {"kind": "cookie"}, "method": "random_two", "tries": 1,
                "queue": {"length": 1, "timeout": "500ms"}},
            "backends": [{"url": "http://a/x", "weight": 0, "backup": true, "max_connections": 1, "check": false,
                "lenient": true, "IsDead": true}],
            "health_check": {"kind": "none"},
            "limits": {"body_bytes": 5}
        }"#;
        let config = Config::from_text("c.json", text).unwrap();
        let summary = summary(&config, 300, &[]);
        for line in [
            "listener      ::1, a free port, mode http, 1 worker",
            "forwarding    trusted forwarders: 1 network, X-Forwarded-Proto https where nothing else says it, \
             Via not added, access log off",
            "backends      a:80 http://a/x weight 0, at most 1 connection, backup, no checks, read leniently, disabled",
            "balance       random_two, persistence by cookie rondo, a request is sent to at most 1 backend, 1 request may wait 500ms for a place",
            "health check  none; a backend that is down is tried again after 2s",
            "limits        heads of 16384 bytes and 100 fields, request bodies of 5 bytes, 64 idle connections for each backend",
            "connections   at most 172 client connections at once, 109 of them in an exchange: the limit of 300 descriptors does not allow \
             proxy.max_connections 500",
        ] {
            assert!(
                summary.lines().any(|found| found == line),
                "{line}\n{summary}"
            );
        }
    }
}
