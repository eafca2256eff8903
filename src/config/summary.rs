//! What `--check` prints: what would run, and what it would cost at most.

use std::fmt::Write as _;

use crate::config::document::duration_text;
use crate::config::{AccessLog, Config, Mode, Trust, descriptor_budget, memory_bound};
use crate::pool::settings::BackendSettings;
use crate::pool::settings::Kind;
use crate::pool::settings::{Method, Persistence};

/// What would run under this descriptor limit, as lines for people.
pub fn summary(config: &Config, descriptor_limit: u64) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<13} {text}");
    };
    row("listener", &listener(config));
    row("forwarding", &forwarding(config));
    for (number, backend) in config.backends.iter().enumerate() {
        row(
            if number == 0 { "backends" } else { "" },
            &backend_text(backend),
        );
    }
    row("balance", &balance(config));
    row("health check", &health_check(config));
    let timeouts = timeouts(config);
    for (number, line) in timeouts.iter().enumerate() {
        row(if number == 0 { "timeouts" } else { "" }, line);
    }
    row("limits", &limits(config));
    let connections = descriptor_budget(descriptor_limit, config);
    row(
        "connections",
        &connections_text(config, connections, descriptor_limit),
    );
    for (number, line) in memory(config, connections).iter().enumerate() {
        row(if number == 0 { "memory" } else { "" }, line);
    }
    out
}

fn listener(config: &Config) -> String {
    let proxy = &config.proxy;
    let address = match proxy.address {
        Some(address) => address.to_string(),
        None => "all interfaces".to_owned(),
    };
    let port = match proxy.port {
        0 => "a free port".to_owned(),
        port => format!("port {port}"),
    };
    let mode = match proxy.mode {
        Mode::Http => "http",
        Mode::Tcp => "tcp",
    };
    let workers = counted(proxy.workers, "worker");
    let header = if proxy.accept_proxy_protocol {
        ", PROXY protocol required"
    } else {
        ""
    };
    format!("{address}, {port}, mode {mode}, {workers}{header}")
}

fn forwarding(config: &Config) -> String {
    let proxy = &config.proxy;
    let trust = match &proxy.trust_forwarded {
        Trust::Nobody => "nobody".to_owned(),
        Trust::Everybody => "everybody".to_owned(),
        Trust::Networks(networks) => counted(networks.len(), "network"),
    };
    let via = if proxy.via { "added" } else { "not added" };
    let access_log = match proxy.access_log {
        AccessLog::Off => "off",
        AccessLog::Text => "text",
        AccessLog::Json => "json",
    };
    let scheme = match proxy.forwarded_proto {
        Some(scheme) => format!(
            ", X-Forwarded-Proto {} where nothing else says it",
            scheme.name()
        ),
        None => String::new(),
    };
    format!("forwarded fields believed of {trust}{scheme}, Via {via}, access log {access_log}")
}

fn backend_text(backend: &BackendSettings) -> String {
    let mut text = format!("{} {} weight {}", backend.name, backend.url, backend.weight);
    if let Some(most) = backend.max_connections {
        let _ = write!(text, ", at most {}", counted(most, "connection"));
    }
    for (is_set, flag) in [
        (backend.backup, "backup"),
        (!backend.check, "no checks"),
        (backend.lenient, "read leniently"),
        (backend.send_proxy_protocol, "PROXY protocol"),
        (backend.disabled, "disabled"),
    ] {
        if is_set {
            text.push_str(", ");
            text.push_str(flag);
        }
    }
    text
}

fn balance(config: &Config) -> String {
    let method = match config.balance.method {
        Method::RoundRobin => "round_robin",
        Method::LeastConnections => "least_connections",
        Method::RandomTwo => "random_two",
        Method::SourceHash => "source_hash",
    };
    let persistence = match &config.balance.persistence {
        Persistence::None => "no persistence".to_owned(),
        Persistence::SourceAddress => "persistence by source_address".to_owned(),
        Persistence::Cookie { name } => format!("persistence by cookie {name}"),
    };
    let backends = counted(config.balance.tries as usize, "backend");
    format!("{method}, {persistence}, a request is sent to at most {backends}")
}

fn health_check(config: &Config) -> String {
    let check = &config.health_check;
    let down_interval = duration_text(check.down_interval);
    let kind = match &check.kind {
        Kind::Tcp => "tcp connect".to_owned(),
        Kind::Http { path, .. } => format!("http request of {path}"),
        Kind::Icmp => "icmp echo".to_owned(),
        Kind::None => {
            return format!("none; a backend that is down is tried again after {down_interval}");
        }
    };
    format!(
        "{kind} every {}, while down every {down_interval}, timeout {}, rise {}, fall {}",
        duration_text(check.interval),
        duration_text(check.timeout),
        check.rise,
        check.fall
    )
}

fn timeouts(config: &Config) -> [String; 3] {
    let timeouts = &config.timeouts;
    let listed = |list: &[(&str, std::time::Duration)]| {
        list.iter()
            .map(|(name, timeout)| format!("{name} {}", duration_text(*timeout)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    [
        listed(&[
            ("client_head", timeouts.client_head),
            ("client_idle", timeouts.client_idle),
            ("client_body", timeouts.client_body),
            ("client_write", timeouts.client_write),
        ]),
        listed(&[
            ("connect", timeouts.connect),
            ("response_head", timeouts.response_head),
            ("response_body", timeouts.response_body),
            ("backend_idle", timeouts.backend_idle),
        ]),
        listed(&[
            ("tunnel_idle", timeouts.tunnel_idle),
            ("tunnel_half_closed", timeouts.tunnel_half_closed),
            ("drain", timeouts.drain),
            ("drain_delay", timeouts.drain_delay),
        ]),
    ]
}

fn limits(config: &Config) -> String {
    let limits = &config.limits;
    let body = match limits.body_bytes {
        Some(bytes) => format!("{bytes} bytes"),
        None => "any length".to_owned(),
    };
    format!(
        "heads of {} bytes and {} fields, request bodies of {body}, {} for each backend",
        limits.head_bytes,
        limits.fields,
        counted(limits.idle_backend_connections, "idle connection")
    )
}

fn connections_text(config: &Config, connections: usize, descriptor_limit: u64) -> String {
    let most = counted(connections, "client connection");
    if connections < config.proxy.max_connections {
        return format!(
            "at most {most} at once: the limit of {descriptor_limit} descriptors does not allow \
             proxy.max_connections {}",
            config.proxy.max_connections
        );
    }
    format!("at most {most} at once")
}

fn memory(config: &Config, connections: usize) -> [String; 3] {
    let bound = memory_bound(config, connections);
    [
        format!(
            "at most {} with all connections idle, {} with all in an exchange at its worst",
            size(bound.idle_bytes),
            size(bound.active_bytes)
        ),
        format!("and {} for the workers,", size(bound.workers_bytes)),
        format!("and {} in the kernel's pipes", size(bound.pipes_bytes)),
    ]
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Bytes in a unit for people, rounded up: a bound that is rounded down is none.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const GIB: u64 = 1024 * MIB;
    let (unit, name) = match bytes {
        0..MIB => (KIB, "KiB"),
        MIB..GIB => (MIB, "MiB"),
        _ => (GIB, "GiB"),
    };
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit));
    format!("{}.{} {name}", tenths / 10, tenths % 10)
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
            summary(&config, 20_000),
            "\
listener      all interfaces, port 8080, mode http, 2 workers
forwarding    forwarded fields believed of nobody, Via added, access log text
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
memory        at most 2.4 MiB with all connections idle, 1.6 GiB with all in an exchange at its worst
              and 1.0 MiB for the workers,
              and 16.0 MiB in the kernel's pipes
"
        );
    }

    #[test]
    fn what_differs_from_the_defaults_is_shown() {
        let text = r#"{
            "proxy": {"port": 0, "address": "::1", "workers": 1, "access_log": false, "via": false,
                "trust_forwarded": ["10.0.0.0/8"], "forwarded_proto": "https", "max_connections": 500},
            "balance": {"persistence": {"kind": "cookie"}, "method": "random_two", "tries": 1},
            "backends": [{"url": "http://a/x", "weight": 0, "backup": true, "max_connections": 1, "check": false,
                "lenient": true, "IsDead": true}],
            "health_check": {"kind": "none"},
            "limits": {"body_bytes": 5}
        }"#;
        let config = Config::from_text("c.json", text).unwrap();
        let summary = summary(&config, 300);
        for line in [
            "listener      ::1, a free port, mode http, 1 worker",
            "forwarding    forwarded fields believed of 1 network, X-Forwarded-Proto https where nothing else says it, \
             Via not added, access log off",
            "backends      a:80 http://a/x weight 0, at most 1 connection, backup, no checks, read leniently, disabled",
            "balance       random_two, persistence by cookie rondo, a request is sent to at most 1 backend",
            "health check  none; a backend that is down is tried again after 2s",
            "limits        heads of 16384 bytes and 100 fields, request bodies of 5 bytes, 64 idle connections for each backend",
            "connections   at most 28 client connections at once: the limit of 300 descriptors does not allow \
             proxy.max_connections 500",
        ] {
            assert!(
                summary.lines().any(|found| found == line),
                "{line}\n{summary}"
            );
        }
    }

    #[test]
    fn sizes_are_rounded_up() {
        for (bytes, text) in [
            (0, "0.0 KiB"),
            (1, "0.1 KiB"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1024.0 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (1024 * 1024 + 1, "1.1 MiB"),
            (u64::MAX, "17179869184.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
