//! The section `proxy`: the listening side, and which clients' forwarded fields are trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::config::document::{ConfigError, Node, Object};
use crate::config::key::{Fallback, Key, Takes};
use crate::http::Scheme;
use crate::log::access::Format;
use crate::pool::settings::{Choice, Choices};
use crate::text::words::counted;

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "port",
        takes: Takes::Other {
            wanted: "a port from 0 to 65535, 0 picks a free one",
            schema: r#"{"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string", "pattern": "^[0-9]+$"}]}"#,
        },
        default: Fallback::Required,
        meaning: "TCP port to listen on, as a number or a string; one that was picked is logged",
    },
    Key {
        name: "address",
        takes: Takes::Other {
            wanted: r#"an IP address such as "127.0.0.1" or "::1", without a port; leave it out for all interfaces"#,
            schema: r#"{"type": "string"}"#,
        },
        default: Fallback::Nothing("all interfaces"),
        meaning: "address to listen on; all interfaces are IPv6 and IPv4",
    },
    Key {
        name: "mode",
        takes: Takes::word::<Mode>(),
        default: Fallback::Value(r#""http""#),
        meaning: "what is balanced",
    },
    Key {
        name: "workers",
        takes: Takes::Integer(1, WORKERS_MAX),
        default: Fallback::Nothing("one per core"),
        meaning: "threads that carry the traffic",
    },
    Key {
        name: "max_connections",
        takes: Takes::Integer(1, 1_000_000),
        default: Fallback::Value("10000"),
        meaning: "client connections at once, as far as the descriptor limit allows. At the limit the connection that has been idle longest, after an answer or for 1 s since it was accepted, is closed to make room; with none, new ones wait in the kernel's queue. While some wait, answers say `Connection: close`",
    },
    Key {
        name: "access_log",
        takes: Takes::Other {
            wanted: r#"true, false or "json""#,
            schema: r#"{"enum": [true, false, "json"]}"#,
        },
        default: Fallback::Value("true"),
        meaning: "a line for each exchange, as text or as JSON",
    },
    Key {
        name: "trust_forwarded",
        takes: Takes::Other {
            wanted: r#"true, false or a list of networks such as ["10.0.0.0/8"]"#,
            schema: r#"{"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]}"#,
        },
        default: Fallback::Value("false"),
        meaning: "the clients whose `X-Forwarded-*` and `Forwarded` fields are believed: none, all, or those in these networks",
    },
    Key {
        name: "accept_proxy_protocol",
        takes: Takes::Flag,
        default: Fallback::Value("false"),
        meaning: "each connection must begin with a PROXY protocol header, version 1 or 2",
    },
    Key {
        name: "forwarded_proto",
        takes: Takes::word::<Scheme>(),
        default: Fallback::Nothing("what is known"),
        meaning: "what `X-Forwarded-Proto` says where neither a trusted field nor a PROXY protocol v2 header says it",
    },
    Key {
        name: "via",
        takes: Takes::Flag,
        default: Fallback::Value("true"),
        meaning: "add `Via` to requests",
    },
];

const WORKERS_MAX: u64 = 1024;

/// The section `proxy`; each field is the key of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the rows above say it
pub struct Proxy {
    pub port: u16,
    pub address: Option<IpAddr>,
    pub mode: Mode,
    pub workers: usize,
    /// The wish; what the descriptor limit allows is in [`crate::config::descriptor_budget`].
    pub max_connections: usize,
    /// Whether the configuration sets that number.
    pub max_connections_is_set: bool,
    pub access_log: AccessLog,
    pub trust_forwarded: Trust,
    pub accept_proxy_protocol: bool,
    pub forwarded_proto: Option<Scheme>,
    pub via: bool,
}

/// Whether requests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Requests are read and balanced one by one (L7).
    Http,
    /// Bytes are relayed unread, connections are balanced (L4).
    Tcp,
}

impl Choices for Mode {
    const ALL: &'static [Choice<Mode>] = &[
        Choice {
            name: "http",
            value: Mode::Http,
            meaning: "requests",
            also: &["l7"],
        },
        Choice {
            name: "tcp",
            value: Mode::Tcp,
            meaning: "connections, without reading them",
            also: &["l4", "stream"],
        },
    ];
}

impl Choices for Scheme {
    const ALL: &'static [Choice<Scheme>] = &[
        Choice {
            name: "http",
            value: Scheme::Http,
            meaning: "clients speak in the clear",
            also: &[],
        },
        Choice {
            name: "https",
            value: Scheme::Https,
            meaning: "a terminator in front speaks TLS with them",
            also: &[],
        },
    ];
}

/// Whether and how exchanges are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// Not at all.
    Off,
    /// A line of text each.
    Text,
    /// A line with a JSON object each.
    Json,
}

impl AccessLog {
    /// How a line is written, if one is.
    pub fn format(self) -> Option<Format> {
        match self {
            AccessLog::Off => None,
            AccessLog::Text => Some(Format::Text),
            AccessLog::Json => Some(Format::Json),
        }
    }
}

/// Which clients' forwarded fields are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of no client.
    None,
    /// Those of every client.
    All,
    /// Those of clients in one of these networks.
    Networks(Vec<Network>),
}

impl Trust {
    /// Whether the forwarded fields of this client are trusted.
    pub fn trusts(&self, client: IpAddr) -> bool {
        match self {
            Trust::None => false,
            Trust::All => true,
            Trust::Networks(networks) => networks.iter().any(|network| network.contains(client)),
        }
    }

    /// Whether an address in X-Forwarded-For is a trusted proxy's, so that the client is farther
    /// away. If all clients are trusted no address is known to be a proxy's, and the address next
    /// to us is the client's.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        matches!(self, Trust::Networks(_)) && self.trusts(address)
    }
}

/// All addresses with a common prefix. An IPv4-mapped IPv6 address counts as the IPv4 address, in
/// the network and in the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The first bits of an IPv4 address and which bits count.
    V4 {
        /// Zero where the mask is.
        prefix: u32,
        /// Ones where bits count.
        mask: u32,
    },
    /// The first bits of an IPv6 address and which bits count.
    V6 {
        /// Zero where the mask is.
        prefix: u128,
        /// Ones where bits count.
        mask: u128,
    },
}

impl Network {
    /// Whether an address belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Network::V4 { prefix, mask }, IpAddr::V4(address)) => {
                address.to_bits() & mask == *prefix
            }
            (Network::V6 { prefix, mask }, IpAddr::V6(address)) => {
                address.to_bits() & mask == *prefix
            }
            // IPv4-mapped addresses lie in `::/64` too, which no author of `::1/64` expects.
            _ => false,
        }
    }

    fn new(address: IpAddr, bits: u32) -> Option<Network> {
        match address {
            IpAddr::V4(address) => Network::v4(address, bits),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(address) if bits >= 96 => Network::v4(address, bits - 96),
                _ => Network::v6(address, bits),
            },
        }
    }

    fn v4(address: Ipv4Addr, bits: u32) -> Option<Network> {
        // Shifting by the full width is an overflow: a prefix of no bits has an empty mask.
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
        let prefix = address.to_bits() & mask;
        Some(Network::V4 { prefix, mask })
    }

    fn v6(address: Ipv6Addr, bits: u32) -> Option<Network> {
        let mask = u128::MAX
            .checked_shl(128_u32.checked_sub(bits)?)
            .unwrap_or(0);
        let prefix = address.to_bits() & mask;
        Some(Network::V6 { prefix, mask })
    }
}

impl FromStr for Network {
    type Err = ();

    /// `10.0.0.0/8`, `::1/128`, or one address. Bits beyond the prefix do not count.
    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let bits = match bits {
            // `parse` would take a sign.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| ())?
            }
            Some(_) => return Err(()),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Network::new(address, bits).ok_or(())
    }
}

impl Proxy {
    pub(super) fn read(top: &Object<'_>) -> Result<Proxy, ConfigError> {
        let section = top.section("proxy")?;
        Ok(Proxy {
            port: section.parsed("port", port)?,
            address: section.optional_parsed("address", |node| node.text()?.parse().ok())?,
            mode: section.word("mode")?,
            workers: section.optional_integer("workers")?.unwrap_or_else(cores),
            max_connections: section.integer("max_connections")?,
            max_connections_is_set: section.given("max_connections").is_some(),
            access_log: section.parsed("access_log", access_log)?,
            trust_forwarded: trust(&section)?,
            accept_proxy_protocol: section.flag("accept_proxy_protocol")?,
            forwarded_proto: section.optional_word("forwarded_proto")?,
            via: section.flag("via")?,
        })
    }

    /// The first two lines of `--check`.
    pub(super) fn summary(&self) -> [String; 2] {
        let address = match self.address {
            Some(address) => address.to_string(),
            None => "all interfaces".to_owned(),
        };
        let port = match self.port {
            0 => "a free port".to_owned(),
            port => format!("port {port}"),
        };
        let header = if self.accept_proxy_protocol {
            ", PROXY protocol required"
        } else {
            ""
        };
        let listener = format!(
            "{address}, {port}, mode {}, {}{header}",
            self.mode.name(),
            counted(self.workers, "worker")
        );
        let trusted = match &self.trust_forwarded {
            Trust::None => "none".to_owned(),
            Trust::All => "all clients".to_owned(),
            Trust::Networks(networks) => counted(networks.len(), "network"),
        };
        let scheme = match self.forwarded_proto {
            Some(scheme) => format!(
                ", X-Forwarded-Proto {} where nothing else says it",
                scheme.name()
            ),
            None => String::new(),
        };
        let via = if self.via { "added" } else { "not added" };
        let access_log = match self.access_log {
            AccessLog::Off => "off",
            AccessLog::Text => "text",
            AccessLog::Json => "json",
        };
        let forwarding =
            format!("trusted forwarders: {trusted}{scheme}, Via {via}, access log {access_log}");
        [listener, forwarding]
    }
}

/// The article writes the port as a string; everywhere else it is a number.
fn port(node: &Node<'_>) -> Option<u16> {
    if !node.is_text() {
        return node.integer()?.try_into().ok();
    }
    let text = node.text()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn access_log(node: &Node<'_>) -> Option<AccessLog> {
    match node.boolean() {
        Some(true) => Some(AccessLog::Text),
        Some(false) => Some(AccessLog::Off),
        None => node.is("json").then_some(AccessLog::Json),
    }
}

fn trust(section: &Object<'_>) -> Result<Trust, ConfigError> {
    let node = section.value("trust_forwarded")?;
    if let Some(all) = node.boolean() {
        return Ok(if all { Trust::All } else { Trust::None });
    }
    let list = section.parsed("trust_forwarded", Node::list)?;
    let networks = list.iter().map(network).collect::<Result<_, _>>()?;
    Ok(Trust::Networks(networks))
}

fn network(node: &Node<'_>) -> Result<Network, ConfigError> {
    let parsed = node.text().and_then(|text| text.parse().ok());
    parsed
        .ok_or_else(|| node.not(r#"a network such as "10.0.0.0/8" or "fd00::/8", or one address"#))
}

fn cores() -> usize {
    let most = usize::try_from(WORKERS_MAX).unwrap_or(usize::MAX);
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn contains(network_text: &str, address: &str) -> bool {
        network(network_text).contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.1.2.3/8", "10.0.0.1", "9.255.255.255"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("192.168.1.6/31", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::1/128", "::1", "::2"),
            ("::1", "::1", "::"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "ffff::1", "1.2.3.4"),
            ("::ffff:10.0.0.0/104", "10.200.0.1", "11.0.0.1"),
            ("::1/64", "::2", "1.2.3.4"),
        ] {
            assert!(contains(network, inside), "{network} {inside}");
            assert!(!contains(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn an_ipv4_mapped_client_is_the_ipv4_client() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(contains("::ffff:10.1.1.1", "10.1.1.1"));
        assert!(!contains("::/0", "::ffff:10.1.1.1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/8/8",
            "10.0.0.0/8 ",
            "localhost",
            "[::1]/128",
            "010.0.0.0/8",
            "10.0.0.0/99999999999",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn trust_is_in_no_client_in_all_or_in_those_of_networks() {
        let client = "10.1.1.1".parse().unwrap();
        assert!(!Trust::None.trusts(client));
        assert!(Trust::All.trusts(client));
        assert!(!Trust::Networks(Vec::new()).trusts(client));
        let networks = Trust::Networks(vec![network("::1"), network("10.0.0.0/8")]);
        assert!(networks.trusts(client));
        assert!(!networks.trusts("11.1.1.1".parse().unwrap()));
        assert!(networks.is_proxy(client) && !networks.is_proxy("11.1.1.1".parse().unwrap()));
        assert!(!Trust::All.is_proxy(client) && !Trust::None.is_proxy(client));
    }
}
