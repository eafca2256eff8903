//! The section `proxy`: what clients meet, and whose word about other clients is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::config::document::{ConfigError, Node, Object};
use crate::http::Scheme;
use crate::log::access::Format;

/// The section `proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// TCP port; 0 picks a free one.
    pub port: u16,
    /// Address to listen on; none: all interfaces, IPv4 and IPv6.
    pub address: Option<IpAddr>,
    /// Whether requests are read.
    pub mode: Mode,
    /// Threads in the pool, 1 to 1024.
    pub workers: usize,
    /// Client connections open at once, 1 to 1000000; what the descriptor limit allows is in [`crate::config::descriptor_budget`].
    pub max_connections: usize,
    /// Whether and how exchanges are logged.
    pub access_log: AccessLog,
    /// Whose forwarded fields are believed.
    pub trust_forwarded: Trust,
    /// Every connection must begin with a PROXY protocol header.
    pub accept_proxy_protocol: bool,
    /// How clients speak where neither a trusted field nor a PROXY protocol header says it.
    pub forwarded_proto: Option<Scheme>,
    /// Add `Via` to requests.
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

/// Whose forwarded fields are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's.
    Nobody,
    /// Everybody's.
    Everybody,
    /// Those of clients in one of these networks.
    Networks(Vec<Network>),
}

impl Trust {
    /// Whether the forwarded fields of this client are believed.
    pub fn trusts(&self, client: IpAddr) -> bool {
        match self {
            Trust::Nobody => false,
            Trust::Everybody => true,
            Trust::Networks(networks) => networks.iter().any(|network| network.contains(client)),
        }
    }

    /// Whether an address in X-Forwarded-For is a trusted proxy's, behind which the client is to be looked for. Where
    /// everybody is trusted that is not known of any, and the address next to us is the client's.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        matches!(self, Trust::Networks(_)) && self.trusts(address)
    }
}

/// All addresses that share a prefix. An IPv4-mapped IPv6 address is the IPv4 address, in the network as in the client.
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
            // IPv4-mapped addresses lie in `::/64` too, where nobody who writes `::1/64` expects them.
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
        let section = top.section(
            "proxy",
            &[
                "port",
                "address",
                "mode",
                "workers",
                "max_connections",
                "access_log",
                "trust_forwarded",
                "accept_proxy_protocol",
                "forwarded_proto",
                "via",
            ],
        )?;
        Ok(Proxy {
            port: port(section.need("port", PORT)?)?,
            address: section.optional("address", address)?,
            mode: section.or("mode", Mode::Http, |node| {
                node.one_of(&[("http", Mode::Http), ("tcp", Mode::Tcp)])
            })?,
            workers: section.or("workers", cores(), |node| node.integer(1..=1024))?,
            max_connections: section.or("max_connections", 10_000, |node| {
                node.integer(1..=1_000_000)
            })?,
            access_log: section.or("access_log", AccessLog::Text, access_log)?,
            trust_forwarded: section.or("trust_forwarded", Trust::Nobody, trust)?,
            accept_proxy_protocol: section.or("accept_proxy_protocol", false, Node::boolean)?,
            forwarded_proto: section.optional("forwarded_proto", |node| {
                node.one_of(&[("http", Scheme::Http), ("https", Scheme::Https)])
            })?,
            via: section.or("via", true, Node::boolean)?,
        })
    }
}

const PORT: &str = "a port from 0 to 65535, 0 picks a free one";

/// The article writes the port as a string; a number is what anyone else would write.
fn port(node: &Node<'_>) -> Result<u16, ConfigError> {
    if !node.is_text() {
        return node.integer(0..=65535).map_err(|_| node.not(PORT));
    }
    let text = node.text(PORT)?;
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| node.not(PORT))
}

fn address(node: &Node<'_>) -> Result<IpAddr, ConfigError> {
    let hint = r#"an IP address such as "127.0.0.1" or "::1", without a port; leave it out for all interfaces"#;
    let text = node.text(hint)?;
    text.parse().map_err(|_| node.not(hint))
}

fn access_log(node: &Node<'_>) -> Result<AccessLog, ConfigError> {
    if node.is("json") {
        return Ok(AccessLog::Json);
    }
    match node.boolean() {
        Ok(true) => Ok(AccessLog::Text),
        Ok(false) => Ok(AccessLog::Off),
        Err(_) => Err(node.not(r#"true, false or "json""#)),
    }
}

fn trust(node: &Node<'_>) -> Result<Trust, ConfigError> {
    if let Ok(everybody) = node.boolean() {
        return Ok(if everybody {
            Trust::Everybody
        } else {
            Trust::Nobody
        });
    }
    let networks = node
        .list(r#"true, false or a list of networks such as ["10.0.0.0/8"]"#)?
        .iter()
        .map(network)
        .collect::<Result<_, _>>()?;
    Ok(Trust::Networks(networks))
}

fn network(node: &Node<'_>) -> Result<Network, ConfigError> {
    let hint = r#"a network such as "10.0.0.0/8" or "fd00::/8", or one address"#;
    let text = node.text(hint)?;
    text.parse().map_err(|()| node.not(hint))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024))
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
    fn trust_is_nobodys_everybodys_or_that_of_networks() {
        let client = "10.1.1.1".parse().unwrap();
        assert!(!Trust::Nobody.trusts(client));
        assert!(Trust::Everybody.trusts(client));
        assert!(!Trust::Networks(Vec::new()).trusts(client));
        let networks = Trust::Networks(vec![network("::1"), network("10.0.0.0/8")]);
        assert!(networks.trusts(client));
        assert!(!networks.trusts("11.1.1.1".parse().unwrap()));
        assert!(networks.is_proxy(client) && !networks.is_proxy("11.1.1.1".parse().unwrap()));
        assert!(!Trust::Everybody.is_proxy(client) && !Trust::Nobody.is_proxy(client));
    }
}
