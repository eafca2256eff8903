//! The PROXY protocol, versions 1 and 2: how the proxy before us names the client, and how we name
//! it to a backend. Bytes and values; no socket.
//!
//! The specification is `doc/proxy-protocol.txt` in the sources of `HAProxy`. Version 1 is a line
//! of text, version 2 a binary header. A receiver that expects a header must accept nothing else,
//! or every client could choose its address.

use std::net::{IpAddr, SocketAddr};

/// What a version 2 header begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest version 1 line with its end (section 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Signature, version and command, family, length (section 2.2).
const FIXED_BYTES: usize = 16;

/// Addresses and extensions of a version 2 header. The length field goes up to 65,535; what senders
/// add (names, a checksum, facts of a TLS session) is far below this.
const VARIABLE_BYTES_MAX: usize = 4096;

/// This many bytes hold a complete header, or are refused.
pub(crate) const HEADER_BYTES_MAX: usize = FIXED_BYTES + VARIABLE_BYTES_MAX;

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its length in bytes.
    pub used: usize,
    /// The client's address; `None` if the sender speaks for itself (LOCAL) or does not know, so
    /// that the connection's own address holds.
    pub client: Option<SocketAddr>,
    /// Whether the client came over TLS, if the sender says so (version 2, `PP2_TYPE_SSL`).
    pub tls: Option<bool>,
}

/// The bytes are not the beginning of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAHeader;

/// Takes a header from the front of `input`. `Ok(None)`: it is incomplete.
pub(crate) fn take(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    match input.first() {
        None => Ok(None),
        Some(b'P') => take_line(input),
        Some(_) => take_binary(input),
    }
}

fn take_line(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    const BEGIN: &[u8] = b"PROXY ";
    let known = input.len().min(BEGIN.len());
    if input[..known] != BEGIN[..known] {
        return Err(NotAHeader);
    }
    let seen = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() == LINE_BYTES_MAX {
            Err(NotAHeader)
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&input[..end]).map_err(|_| NotAHeader)?;
    let client = match line.split(' ').collect::<Vec<_>>()[..] {
        // What follows UNKNOWN is to be ignored.
        ["PROXY", "UNKNOWN", ..] => None,
        [
            "PROXY",
            family,
            source,
            destination,
            source_port,
            destination_port,
        ] => {
            let (source, destination) = (address(family, source)?, address(family, destination)?);
            let (source_port, _) = (port(source_port)?, port(destination_port)?);
            let _ = destination;
            Some(SocketAddr::new(source, source_port))
        }
        _ => return Err(NotAHeader),
    };
    Ok(Some(Header {
        used: end + 2,
        client,
        tls: None,
    }))
}

fn address(family: &str, text: &str) -> Result<IpAddr, NotAHeader> {
    let address: IpAddr = text.parse().map_err(|_| NotAHeader)?;
    match (family, address) {
        ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_)) => Ok(address.to_canonical()),
        _ => Err(NotAHeader),
    }
}

fn port(text: &str) -> Result<u16, NotAHeader> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain {
        text.parse().map_err(|_| NotAHeader)
    } else {
        Err(NotAHeader)
    }
}

fn take_binary(input: &[u8]) -> Result<Option<Header>, NotAHeader> {
    let known = input.len().min(SIGNATURE.len());
    if input[..known] != SIGNATURE[..known] {
        return Err(NotAHeader);
    }
    let Some(fixed) = input.get(..FIXED_BYTES) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > VARIABLE_BYTES_MAX {
        return Err(NotAHeader);
    }
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(NotAHeader),
    };
    let Some(variable) = input.get(FIXED_BYTES..FIXED_BYTES + length) else {
        return Ok(None);
    };
    let client = match fixed[13] {
        _ if is_local => None,
        // TCP over IPv4 and over IPv6: source, destination, their ports.
        0x11 => {
            let source: [u8; 4] = part(variable, 0, 12)?;
            Some(SocketAddr::new(
                source.into(),
                u16::from_be_bytes(part(variable, 8, 12)?),
            ))
        }
        0x21 => {
            let source: [u8; 16] = part(variable, 0, 36)?;
            let source = IpAddr::from(source).to_canonical();
            Some(SocketAddr::new(
                source,
                u16::from_be_bytes(part(variable, 32, 36)?),
            ))
        }
        // Unspecified, datagrams and Unix sockets: no address of a client of ours.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(NotAHeader),
    };
    let addresses_bytes = match fixed[13] >> 4 {
        0x1 => 12,
        0x2 => 36,
        0x3 => 216,
        _ => 0,
    };
    let extensions = variable.get(addresses_bytes..).filter(|_| !is_local);
    Ok(Some(Header {
        used: FIXED_BYTES + length,
        client,
        tls: extensions.and_then(came_over_tls),
    }))
}

/// Looks for `PP2_TYPE_SSL` among the extensions: each has a type, a length and a value (section
/// 2.2). A malformed one ends the search.
fn came_over_tls(mut extensions: &[u8]) -> Option<bool> {
    const PP2_TYPE_SSL: u8 = 0x20;
    const PP2_CLIENT_SSL: u8 = 0x01;
    while let [kind, high, low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length)?;
        if *kind == PP2_TYPE_SSL {
            return value.first().map(|client| client & PP2_CLIENT_SSL != 0);
        }
        extensions = rest;
    }
    None
}

/// Bytes from `at` of an address block that must have at least `block` bytes.
fn part<const N: usize>(variable: &[u8], at: usize, block: usize) -> Result<[u8; N], NotAHeader> {
    let block = variable.get(..block).ok_or(NotAHeader)?;
    block[at..at + N].try_into().map_err(|_| NotAHeader)
}

/// Appends a version 2 header that names `client` as the source and `local` as the destination.
pub(crate) fn write(client: SocketAddr, local: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.push(0x21);
    match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend_from_slice(&[0x11, 0, 12]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.extend_from_slice(&[0x21, 0, 36]);
            for address in [source, destination] {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                out.extend_from_slice(&address.octets());
            }
        }
    }
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(input: &[u8]) -> Option<SocketAddr> {
        let header = take(input).unwrap().unwrap();
        assert_eq!(header.used, input.len());
        header.client
    }

    fn binary(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(variable.len()).unwrap().to_be_bytes());
        header.extend(variable);
        header
    }

    #[test]
    fn a_line_names_the_client() {
        assert_eq!(
            client(b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n"),
            "192.0.2.1:56324".parse().ok()
        );
        assert_eq!(
            client(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
            "[2001:db8::1]:1".parse().ok()
        );
        assert_eq!(
            client(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"),
            "192.0.2.1:1".parse().ok()
        );
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n"), None);
    }

    #[test]
    fn what_is_no_line_of_the_protocol_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_BYTES_MAX));
        for input in [
            "PROXY TCP4 192.0.2.1 192.0.2.9 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.9 1 99999\r\n",
            "PROXY TCP4 ::1 192.0.2.9 1 443\r\n",
            "PROXY TCP4 192.0.2.1 nonsense 1 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.9 1 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.9 1 443\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.9 1 443\r\n",
            "PROXY\r\n",
            "POST / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n",
            &long,
        ] {
            assert_eq!(take(input.as_bytes()), Err(NotAHeader), "{input}");
        }
    }

    #[test]
    fn a_binary_header_names_the_client_and_its_extensions_are_skipped() {
        let v4 = [
            192, 0, 2, 1, 192, 0, 2, 9, 0xdc, 0x04, 0x01, 0xbb, 0x04, 0, 1, 0,
        ];
        assert_eq!(
            client(&binary(0x21, 0x11, &v4)),
            "192.0.2.1:56324".parse().ok()
        );
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 9;
        assert_eq!(client(&binary(0x21, 0x21, &v6)), "[::1]:9".parse().ok());
        for (command, family) in [
            (0x20, 0x11),
            (0x20, 0),
            (0x21, 0),
            (0x21, 0x31),
            (0x21, 0x12),
        ] {
            assert_eq!(client(&binary(command, family, &v4)), None);
        }
    }

    #[test]
    fn a_binary_header_says_whether_the_client_came_over_tls() {
        let tls = |command: u8, family: u8, addresses: usize, extensions: &[u8]| {
            let mut variable = vec![0; addresses];
            variable.extend(extensions);
            take(&binary(command, family, &variable))
                .unwrap()
                .unwrap()
                .tls
        };
        // The bits of the client, what its certificate came to, and the version as a text.
        let ssl = b"\x20\0\x0c\x01\0\0\0\0\x21\0\x04TLS1";
        let clear = b"\x20\0\x05\0\0\0\0\0";
        let other = b"\x04\0\x02ab";
        for (family, addresses) in [(0x11, 12), (0x21, 36), (0x31, 216), (0, 0)] {
            let tls = |extensions: &[u8]| tls(0x21, family, addresses, extensions);
            assert_eq!(tls(b""), None);
            assert_eq!(tls(other), None);
            assert_eq!(tls(ssl), Some(true));
            assert_eq!(tls(clear), Some(false));
            assert_eq!(tls(&[&other[..], ssl, other].concat()), Some(true));
            // Malformed: no value, or one that goes on behind the header.
            assert_eq!(tls(b"\x20\0\0"), None);
            assert_eq!(tls(b"\x20\0"), None);
            assert_eq!(tls(&ssl[..ssl.len() - 1]), None);
            assert_eq!(tls(&[&other[..4], ssl].concat()), None);
        }
        assert_eq!(
            tls(0x20, 0x11, 12, ssl),
            None,
            "the sender's own connection"
        );
        let line = take(b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n");
        assert_eq!(line.unwrap().unwrap().tls, None);
    }

    #[test]
    fn what_is_no_binary_header_is_refused() {
        let v4 = [0; 12];
        for input in [
            binary(0x11, 0x11, &v4),
            binary(0x22, 0x11, &v4),
            binary(0x21, 0x11, &v4[1..]),
            binary(0x21, 0x21, &v4),
            binary(0x21, 0x13, &v4),
            binary(0x21, 0x41, &v4),
            binary(0x21, 0x11, &[0; VARIABLE_BYTES_MAX + 1]),
            b"\r\n\r\n\0\r\nQUIX\n".to_vec(),
            b"\r\n".iter().chain(b"GET").copied().collect(),
            vec![0x16, 3, 1],
        ] {
            assert_eq!(take(&input), Err(NotAHeader), "{input:?}");
        }
    }

    #[test]
    fn every_split_is_waited_for_and_nothing_beyond_is_used() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n".to_vec();
        let mut written = Vec::new();
        write(
            "[2001:db8::1]:1".parse().unwrap(),
            "192.0.2.9:80".parse().unwrap(),
            &mut written,
        );
        for header in [line, written] {
            for end in 0..header.len() {
                assert_eq!(take(&header[..end]), Ok(None), "{end}");
            }
            let whole = take(&header).unwrap().unwrap();
            assert_eq!(whole.used, header.len());
            let mut more = header.clone();
            more.extend(b"GET / HTTP/1.1\r\n");
            assert_eq!(take(&more), Ok(Some(whole)));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (source, local) in [
            ("192.0.2.1:5", "192.0.2.9:80"),
            ("[2001:db8::1]:5", "[::1]:80"),
            ("192.0.2.1:5", "[::1]:80"),
        ] {
            let mut out = Vec::new();
            write(source.parse().unwrap(), local.parse().unwrap(), &mut out);
            assert_eq!(client(&out), source.parse().ok());
        }
    }
}
