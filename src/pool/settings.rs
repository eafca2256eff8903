//! The settings that the pool goes by: the entries of `backends`, the sections `balance` and `health_check`, checked.
//!
//! `config` reads them; nothing here changes at run time.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::Duration;

/// One entry of `backends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSettings {
    /// Unique; by default host and port, with `#2`, `#3` for repeats.
    pub name: String,
    /// Where it listens.
    pub url: BackendUrl,
    /// Its share of the requests, 0 to 1000; 0 takes no new work.
    pub weight: u32,
    /// Used only when no other backend is healthy.
    pub backup: bool,
    /// Exchanges at once over all workers.
    pub max_connections: Option<usize>,
    /// Whether it is checked; if not, it is treated as with [`Kind::None`].
    pub check: bool,
    /// Its answers may have line ends without CR, empty lines before the status line, and white space behind a chunk size.
    pub lenient: bool,
    /// Begin each connection with a PROXY protocol v2 header.
    pub send_proxy_protocol: bool,
    /// Start as disabled (`IsDead`).
    pub disabled: bool,
}

/// The parts of `http://host[:port][/base/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// Host to connect to.
    pub host: Host,
    /// Port to connect to, 1 to 65535.
    pub port: u16,
    /// Path before each request's path, without the final slash; empty for none.
    pub base_path: String,
    /// As a `Host` field has it: the port is left out when it is 80.
    pub authority: String,
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.base_path)
    }
}

/// A host that is an address, or has to be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Never resolved.
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

impl Host {
    /// The addresses that are known without asking anybody; `None` for a name that must be resolved.
    ///
    /// `localhost` and names below it are loopback and never resolved (RFC 6761 6.3): IPv4 first, and IPv6 where this
    /// machine has it, because a connect to `::1` without it fails as if we were short of ports.
    pub fn fixed_addresses(&self, port: u16) -> Option<Vec<SocketAddr>> {
        match self {
            Host::Ip(address) => Some(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) if is_localhost(name) => {
                let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
                let loopback = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                let addresses = &loopback[..if v6 { 2 } else { 1 }];
                Some(
                    addresses
                        .iter()
                        .map(|&address| SocketAddr::new(address, port))
                        .collect(),
                )
            }
            Host::Name(_) => None,
        }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
    let tail = &name[name.len().saturating_sub(b"localhost".len())..];
    let before = &name[..name.len() - tail.len()];
    tail.eq_ignore_ascii_case(b"localhost") && (before.is_empty() || before.ends_with(b"."))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V4(address)) => address.fmt(f),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// The section `balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceSettings {
    /// How to choose among the eligible.
    pub method: Method,
    /// What keeps a client with its backend.
    pub persistence: Persistence,
    /// To how many backends one request may be sent, 1 to 10.
    pub tries: u32,
}

/// How to choose among the eligible backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// In turn, smooth and weighted.
    RoundRobin,
    /// Fewest exchanges in flight in proportion to weight.
    LeastConnections,
    /// The better of two at random.
    RandomTwo,
    /// The client's address decides.
    SourceHash,
}

/// What keeps a client with its backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    None,
    /// The client's address.
    SourceAddress,
    /// A cookie.
    Cookie {
        /// The cookie's name, a token.
        name: String,
    },
}

/// The section `health_check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckSettings {
    /// What a check does.
    pub kind: Kind,
    /// Between checks of a backend that is up.
    pub interval: Duration,
    /// Between checks of a backend that is down.
    pub down_interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Successes in a row to come up, 1 to 100.
    pub rise: u32,
    /// Failures in a row to go down, 1 to 100.
    pub fall: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Connects (L4).
    Tcp,
    /// Sends a request (L7).
    Http {
        /// The request's target.
        path: String,
        /// The answers that count as success.
        status: StatusRanges,
    },
    /// Sends an echo request (L3).
    Icmp,
    /// There are no checks.
    None,
}

/// Statuses that count as success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Whether a status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_loopback_and_never_resolved() {
        for name in [
            "localhost",
            "LocalHost",
            "localhost.",
            "app.localhost",
            "a.b.localhost.",
        ] {
            let fixed = Host::Name(name.to_owned()).fixed_addresses(80).expect(name);
            assert_eq!(fixed[0], "127.0.0.1:80".parse().unwrap());
            assert!(fixed[1..].iter().all(|a| *a == "[::1]:80".parse().unwrap()));
        }
        for name in ["notlocalhost", "localhost.example", "local", "", "."] {
            assert_eq!(
                Host::Name(name.to_owned()).fixed_addresses(80),
                None,
                "{name}"
            );
        }
    }
}
