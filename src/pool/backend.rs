//! One backend as it is configured.

use std::fmt;
use std::net::IpAddr;

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

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V4(address)) => address.fmt(f),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}
