//! The settings that the pool goes by: the entries of `backends`, the sections `balance` and
//! `health_check`, checked.
//!
//! `config` reads them; nothing here changes at run time.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::text::json::Json;

/// A word that a setting takes: one row, from which reading, the schema and texts come.
#[derive(Debug, Clone, Copy)]
pub struct Choice<T: 'static> {
    /// As the configuration writes it.
    pub name: &'static str,
    /// What it stands for.
    pub value: T,
    /// What it does, for README and the schema.
    pub meaning: &'static str,
    /// What other programs call it; never accepted, only hinted at.
    pub also: &'static [&'static str],
}

/// A setting that takes one of some words.
pub trait Choices: Copy + PartialEq + 'static {
    /// The rows.
    const ALL: &'static [Choice<Self>];
    /// Words of the documentation that are refused by name, as not built yet.
    const NOT_BUILT: &'static [&'static str] = &[];

    /// As the configuration writes it.
    fn name(self) -> &'static str {
        let row = Self::ALL.iter().find(|choice| choice.value == self);
        row.expect("every value has a row, which a test shows").name
    }
}

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
    /// Its responses may have line ends without CR, empty lines before the status line, and white
    /// space behind a chunk size.
    pub lenient: bool,
    /// Begin each connection with a PROXY protocol v2 header.
    pub send_proxy_protocol: bool,
    /// Start as disabled (`IsDead`).
    pub disabled: bool,
    /// It is one of the addresses of its entry's host name, each a backend; or the entry itself,
    /// while none is known.
    pub each_address: bool,
}

impl BackendSettings {
    /// Whether both are the same backend: its state lives on from one to the other.
    pub(in crate::pool) fn is_same_backend(&self, other: &BackendSettings) -> bool {
        let (one, another) = (&self.url, &other.url);
        self.name == other.name && one.host == another.host && one.port == another.port
    }

    /// Its keys but the name, each with its value as JSON, empty where there is none.
    pub(crate) fn values(&self) -> [(&'static str, String); 9] {
        let BackendSettings {
            name: _,
            url,
            weight,
            backup,
            max_connections,
            check,
            lenient,
            send_proxy_protocol,
            disabled,
            each_address,
        } = self;
        let max_connections = max_connections.map(|most| most.to_string());
        [
            ("url", Json::text(&url.to_string()).to_string()),
            ("weight", weight.to_string()),
            ("backup", backup.to_string()),
            ("max_connections", max_connections.unwrap_or_default()),
            ("check", check.to_string()),
            ("lenient", lenient.to_string()),
            ("send_proxy_protocol", send_proxy_protocol.to_string()),
            ("IsDead", disabled.to_string()),
            ("each_address", each_address.to_string()),
        ]
    }

    /// As an entry of `backends`.
    pub(crate) fn document(&self) -> Json {
        let mut entry = vec![("name".to_owned(), Json::text(&self.name))];
        let values = self.values().into_iter();
        let given = values.filter(|(_, value)| !value.is_empty());
        entry.extend(given.map(|(key, value)| (key.to_owned(), Json::Raw(value))));
        Json::Object(entry)
    }
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

/// A host: an address, or a name to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Never resolved.
    Ip(IpAddr),
    /// In lower case.
    Name(String),
    /// One of the addresses of a name, each of which is a backend.
    Member {
        /// In lower case, and never `localhost`.
        name: String,
        /// Where to connect.
        address: IpAddr,
    },
}

impl Host {
    /// The addresses known without a lookup; `None` for a name that must be resolved.
    ///
    /// `localhost` and names below it are loopback and never resolved (RFC 6761 6.3): IPv4 first,
    /// and IPv6 if this machine has it, because a connect to `::1` without it fails as if local
    /// ports had run out.
    pub fn fixed_addresses(&self, port: u16) -> Option<Vec<SocketAddr>> {
        self.fixed_addresses_if(port, has_ipv6_loopback)
    }

    /// The same for many hosts, with one question to the system.
    pub(in crate::pool) fn fixed_addresses_if(
        &self,
        port: u16,
        has_ipv6: impl FnOnce() -> bool,
    ) -> Option<Vec<SocketAddr>> {
        match self {
            Host::Ip(address) | Host::Member { address, .. } => {
                Some(vec![SocketAddr::new(*address, port)])
            }
            Host::Name(name) if is_localhost(name) => {
                let loopback = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ];
                let addresses = &loopback[..if has_ipv6() { 2 } else { 1 }];
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

    /// The name that a resolver is asked for as long as the backend is there.
    pub(crate) fn looked_up(&self) -> Option<&str> {
        match self {
            Host::Name(name) if is_localhost(name) => None,
            Host::Name(name) | Host::Member { name, .. } => Some(name),
            Host::Ip(_) => None,
        }
    }
}

/// Whether this machine has `::1`.
pub(in crate::pool) fn has_ipv6_loopback() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
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
            Host::Name(name) | Host::Member { name, .. } => f.write_str(name),
        }
    }
}

/// The section `balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceSettings {
    /// How to choose among the eligible.
    pub method: Method,
    /// What [`Method::Hash`] goes by; without a meaning for the others.
    pub hash: HashSettings,
    /// What keeps a client with its backend.
    pub persistence: Persistence,
    /// To how many backends one request may be sent, 1 to 10.
    pub tries: u32,
    /// How long a backend that came up, was added or was enabled takes to grow from a tenth of its
    /// weight to all of it, from none to 24 hours.
    pub slow_start: Duration,
    /// Where requests wait while all backends are full.
    pub queue: Option<QueueSettings>,
    /// Retries that cost a try, as a share of the requests of the last 10 s, 0 to 100.
    pub retry_percent: u32,
    /// The section `ejection`; none: no backend is ejected.
    pub ejection: Option<EjectionSettings>,
}

/// The section `ejection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionSettings {
    /// Bad exchanges in a row that eject a backend, 1 to 1000.
    pub errors: u32,
    /// The statuses that are bad.
    pub status: StatusRanges,
    /// How long the first of a row lasts.
    pub time: Duration,
    /// How much of the weight of its group may be out at once, 1 to 100.
    pub percent_max: u32,
}

impl Default for EjectionSettings {
    fn default() -> EjectionSettings {
        EjectionSettings {
            errors: 5,
            status: StatusRanges(vec![500..=599]),
            time: Duration::from_secs(30),
            percent_max: 50,
        }
    }
}

impl Default for BalanceSettings {
    fn default() -> BalanceSettings {
        BalanceSettings {
            method: Method::RoundRobin,
            hash: HashSettings::default(),
            persistence: Persistence::None,
            tries: 3,
            slow_start: Duration::ZERO,
            queue: None,
            retry_percent: 20,
            ejection: None,
        }
    }
}

/// The queue of requests that wait for a place at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// How many may wait, 1 to 100,000.
    pub length: usize,
    /// How long a request may wait in all.
    pub timeout: Duration,
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
    /// The smallest expected time.
    Fastest,
    /// A hash decides, as [`HashSettings`] say.
    Hash,
    /// The same with its default settings: the client's address decides.
    SourceHash,
}

impl Choices for Method {
    const ALL: &'static [Choice<Method>] = &[
        Choice {
            name: "round_robin",
            value: Method::RoundRobin,
            meaning: "in turn, by weight",
            also: &["roundrobin", "rr", "wrr", "static-rr", "weighted"],
        },
        Choice {
            name: "least_connections",
            value: Method::LeastConnections,
            meaning: "the fewest exchanges in flight for its weight",
            also: &["least_conn", "leastconn", "lc", "least"],
        },
        Choice {
            name: "random_two",
            value: Method::RandomTwo,
            meaning: "the better of two at random",
            also: &["random", "random_choose", "p2c", "power_of_two"],
        },
        Choice {
            name: "fastest",
            value: Method::Fastest,
            meaning: "the smallest expected time to the response head",
            also: &[
                "least_time",
                "ewma",
                "peak_ewma",
                "latency",
                "response_time",
            ],
        },
        Choice {
            name: "hash",
            value: Method::Hash,
            meaning: "by a hash of what `hash` names",
            also: &[
                "uri",
                "url_hash",
                "uri_hash",
                "header_hash",
                "consistent",
                "ring_hash",
                "maglev",
            ],
        },
        Choice {
            name: "source_hash",
            value: Method::SourceHash,
            meaning: "by a hash of the client's address",
            also: &["ip_hash", "source", "client_ip_hash", "iphash", "src"],
        },
    ];
}

impl Method {
    /// Why a backend was chosen by it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Method::RoundRobin => "its turn",
            Method::LeastConnections => "fewest in flight for its weight",
            Method::RandomTwo => "the better of two at random",
            Method::Fastest => "the smallest expected time",
            Method::Hash => "the hash of its key",
            Method::SourceHash => "the client's address",
        }
    }

    /// Whether a hash decides.
    pub(crate) fn is_by_hash(self) -> bool {
        matches!(self, Method::Hash | Method::SourceHash)
    }
}

/// The section `balance.hash`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HashSettings {
    /// What is hashed.
    pub key: HashKey,
    /// How many exchanges a backend may have by hash, in per cent of its share of all, 101 to 1000.
    pub load_percent_max: Option<u32>,
}

/// What decides by its hash. Where a request has none, the client's address does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// The path of the request, without the query.
    Path,
    /// The value of the first field of this name.
    Header(String),
    /// The value of the first cookie of this name.
    Cookie(String),
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            HashKey::Source => ("source", ""),
            HashKey::Path => ("path", ""),
            HashKey::Header(name) => ("header:", &**name),
            HashKey::Cookie(name) => ("cookie:", &**name),
        };
        f.write_str(kind)?;
        f.write_str(name)
    }
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
    /// What a check by [`Kind::Http`] sends and expects.
    pub http: HttpCheck,
    /// The port that checks connect to; none: the backend's.
    pub port: Option<u16>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connects (L4).
    Tcp,
    /// Sends a request (L7).
    Http,
    /// Sends an echo request (L3).
    Icmp,
    /// There are no checks.
    None,
}

impl Choices for Kind {
    const ALL: &'static [Choice<Kind>] = &[
        Choice {
            name: "tcp",
            value: Kind::Tcp,
            meaning: "connect",
            also: &["connect", "l4"],
        },
        Choice {
            name: "http",
            value: Kind::Http,
            meaning: "send a request",
            also: &["get", "httpchk", "https", "l7"],
        },
        Choice {
            name: "icmp",
            value: Kind::Icmp,
            meaning: "send an echo request",
            also: &["ping", "l3"],
        },
        Choice {
            name: "none",
            value: Kind::None,
            meaning: "no checks",
            also: &["off", "false", "disabled"],
        },
    ];
}

/// What a check by [`Kind::Http`] sends and expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The request's method.
    pub method: CheckMethod,
    /// Its target.
    pub path: String,
    /// Its Host field; none: the backend's authority.
    pub host: Option<String>,
    /// The answers that count as success.
    pub status: StatusRanges,
    /// What the beginning of the answer's body must contain, at least one byte.
    pub body: Option<String>,
}

impl HttpCheck {
    /// The most bytes of `body`.
    pub const BODY_TEXT_MAX: usize = 1024;
}

impl Default for HttpCheck {
    fn default() -> HttpCheck {
        HttpCheck {
            method: CheckMethod::Get,
            path: "/".to_owned(),
            host: None,
            status: StatusRanges(vec![200..=399]),
            body: None,
        }
    }
}

/// The method of a check's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckMethod {
    /// The answer with its body.
    Get,
    /// The answer without its body.
    Head,
    /// What is allowed.
    Options,
}

impl Choices for CheckMethod {
    const ALL: &'static [Choice<CheckMethod>] = &[
        Choice {
            name: "GET",
            value: CheckMethod::Get,
            meaning: "the answer with its body",
            also: &["get"],
        },
        Choice {
            name: "HEAD",
            value: CheckMethod::Head,
            meaning: "the answer without its body",
            also: &["head"],
        },
        Choice {
            name: "OPTIONS",
            value: CheckMethod::Options,
            meaning: "what is allowed",
            also: &["options"],
        },
    ];
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

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_row() {
        let methods = [
            Method::RoundRobin,
            Method::LeastConnections,
            Method::RandomTwo,
            Method::Fastest,
            Method::Hash,
            Method::SourceHash,
        ];
        assert_eq!(Method::ALL.len(), methods.len());
        for method in methods {
            assert!(!method.name().is_empty());
        }
        let kinds = [Kind::Tcp, Kind::Http, Kind::Icmp, Kind::None];
        assert_eq!(Kind::ALL.len(), kinds.len());
        for kind in kinds {
            assert!(!kind.name().is_empty());
        }
    }

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
