//! The PROXY protocol: who the client is, said before the first byte of a
//! stream. Read from proxies that the operator trusts; written to apps that
//! ask for it.
//!
//! Versions 1 (a line of text) and 2 (binary) are those of the specification
//! in HAProxy's `doc/proxy-protocol.txt`; its sections are in brackets.

use crate::limits;
use roost_model::machine::ProxyVersion;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What version 2 begins with (2.2); no line of version 1 does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest (2.2).
const HEAD_BYTES: usize = 16;
/// The longest line of version 1, its end included (2.1).
const LINE_BYTES_MAX: usize = 107;

/// The two ends of the connection that a header speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What the first bytes of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    More,
    /// A header.
    Whole {
        /// How long it is.
        n_bytes: usize,
        /// What it says; `None` when the proxy speaks for itself or knows nothing (2.1, 2.2).
        told: Option<Told>,
    },
}

/// Bytes that begin no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header: {0}")]
pub struct BadHeader(&'static str);

/// Reads what the bytes begin with. Bytes of a length that is refused here are
/// never waited for.
pub fn parse(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let n_signature = bytes.len().min(SIGNATURE.len());
    if bytes[..n_signature] == SIGNATURE[..n_signature] {
        return parse_binary(bytes);
    }
    parse_line(bytes)
}

fn parse_line(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    const START: &[u8] = b"PROXY ";
    let n_start = bytes.len().min(START.len());
    if bytes[..n_start] != START[..n_start] {
        return Err(BadHeader("it begins otherwise"));
    }
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        if within.len() == LINE_BYTES_MAX {
            return Err(BadHeader("its line has more than 107 bytes"));
        }
        return Ok(Parsed::More);
    };
    let n_bytes = end + 2;
    let line = str::from_utf8(&bytes[START.len()..end]);
    let line = line.map_err(|_| BadHeader("its line is not ASCII"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let told = match words[..] {
        // What follows is to be ignored (2.1).
        ["UNKNOWN", ..] => None,
        ["TCP4", source, destination, source_port, destination_port] => Some(Told {
            source: address::<Ipv4Addr>(source, source_port)?,
            destination: address::<Ipv4Addr>(destination, destination_port)?,
        }),
        ["TCP6", source, destination, source_port, destination_port] => Some(Told {
            source: address::<Ipv6Addr>(source, source_port)?,
            destination: address::<Ipv6Addr>(destination, destination_port)?,
        }),
        _ => return Err(BadHeader("its line has other words")),
    };
    Ok(Parsed::Whole { n_bytes, told })
}

fn address<A: std::str::FromStr + Into<IpAddr>>(
    ip: &str,
    port: &str,
) -> Result<SocketAddr, BadHeader> {
    let ip: A = ip.parse().map_err(|_| BadHeader("an address is none"))?;
    // No sign and no leading zeros (2.1).
    let is_number =
        port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    let port = port.parse().ok().filter(|_| is_number);
    let port = port.ok_or(BadHeader("a port is none"))?;
    Ok(SocketAddr::new(ip.into(), port))
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, BadHeader> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(Parsed::More);
    };
    let n_rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if HEAD_BYTES + n_rest > limits::PROXY_HEADER_BYTES_MAX {
        return Err(BadHeader("it is too long"));
    }
    let is_local = match head[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader("its version or command is another")),
    };
    let Some(rest) = rest.get(..n_rest) else {
        return Ok(Parsed::More);
    };
    let told = match head[13] {
        // Whatever the family, a proxy that speaks for itself tells of nobody (2.2).
        _ if is_local => None,
        0x11 => Some(addresses::<4, Ipv4Addr>(rest)?),
        0x21 => Some(addresses::<16, Ipv6Addr>(rest)?),
        // Unspecified, datagrams, Unix sockets: nothing that a client of ours could be.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(BadHeader("its family is another")),
    };
    Ok(Parsed::Whole {
        n_bytes: HEAD_BYTES + n_rest,
        told,
    })
}

/// Source, destination, and their ports; what follows are extensions.
fn addresses<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(
    bytes: &[u8],
) -> Result<Told, BadHeader> {
    let short = BadHeader("its addresses are cut off");
    let (source, bytes) = bytes.split_first_chunk::<N>().ok_or(short)?;
    let (destination, bytes) = bytes.split_first_chunk::<N>().ok_or(short)?;
    let (ports, _) = bytes.split_first_chunk::<4>().ok_or(short)?;
    let socket = |ip: &[u8; N], port| SocketAddr::new(A::from(*ip).into(), port);
    Ok(Told {
        source: socket(source, u16::from_be_bytes([ports[0], ports[1]])),
        destination: socket(destination, u16::from_be_bytes([ports[2], ports[3]])),
    })
}

/// What the fuzz target `proxy_header` and its seeds run: whatever is cut off
/// waits for more, and what was told is told again.
///
/// # Panics
/// When it is not.
pub fn fuzz(bytes: &[u8]) {
    let Ok(Parsed::Whole { n_bytes, told }) = parse(bytes) else {
        return;
    };
    assert!(n_bytes <= bytes.len() && n_bytes <= limits::PROXY_HEADER_BYTES_MAX);
    for n in 0..n_bytes {
        assert_eq!(parse(&bytes[..n]), Ok(Parsed::More), "the first {n}");
    }
    let Some(told) = told else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let again = header(version, told);
        let Ok(Parsed::Whole {
            n_bytes,
            told: Some(again_told),
        }) = parse(&again)
        else {
            panic!("{told:?} is not told");
        };
        let same = |a: SocketAddr, b: SocketAddr| {
            a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
        };
        assert!(n_bytes == again.len() && same(again_told.source, told.source));
        assert!(same(again_told.destination, told.destination));
    }
}

/// Takes the header off a stream and not one byte more.
pub(crate) async fn take(stream: &mut TcpStream) -> io::Result<Option<Told>> {
    let mut bytes = [0; limits::PROXY_HEADER_BYTES_MAX];
    let mut n_taken = 0;
    loop {
        let n_seen = n_taken + stream.peek(&mut bytes[n_taken..]).await?;
        if n_seen == n_taken {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (n_wanted, whole) = match parse(&bytes[..n_seen]).map_err(invalid)? {
            Parsed::More => (n_seen, None),
            Parsed::Whole { n_bytes, told } => (n_bytes, Some(told)),
        };
        // They are there already: they were seen.
        stream.read_exact(&mut bytes[n_taken..n_wanted]).await?;
        n_taken = n_wanted;
        if let Some(told) = whole {
            return Ok(told);
        }
    }
}

/// The header that tells an app of these two ends.
pub fn header(version: ProxyVersion, told: Told) -> Vec<u8> {
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let (source, destination) = (told.source, told.destination);
    let (source_ip, destination_ip) = match (ip(source), ip(destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (source.into(), destination.into()),
        // Of two families: both in the wider one.
        (source, destination) => (widen(source), widen(destination)),
    };
    let is_v4 = source_ip.is_ipv4();
    match version {
        ProxyVersion::V1 => {
            let family = if is_v4 { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            format!("PROXY {family} {source_ip} {destination_ip} {from} {to}\r\n").into_bytes()
        }
        ProxyVersion::V2 => {
            let (family, n_rest) = if is_v4 { (0x11, 12) } else { (0x21, 36) };
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([0x21, family, 0, n_rest]);
            for ip in [source_ip, destination_ip] {
                match ip {
                    IpAddr::V4(ip) => bytes.extend(ip.octets()),
                    IpAddr::V6(ip) => bytes.extend(ip.octets()),
                }
            }
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
            bytes
        }
    }
}

fn widen(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Parsed, SIGNATURE, Told, header, parse};
    use roost_model::machine::ProxyVersion;

    fn told(source: &str, destination: &str) -> Told {
        Told {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn what_is_written_reads_back_and_every_beginning_of_it_waits_for_more() {
        for told in [
            told("192.0.2.1:5", "198.51.100.2:443"),
            told("[2001:db8::1]:65535", "[2001:db8::2]:1"),
        ] {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut bytes = header(version, told);
                let n_bytes = bytes.len();
                for n in 0..n_bytes {
                    assert_eq!(parse(&bytes[..n]), Ok(Parsed::More), "{n} of {bytes:?}");
                }
                let told = Some(told);
                bytes.extend(b"rest");
                assert_eq!(parse(&bytes), Ok(Parsed::Whole { n_bytes, told }));
            }
        }
    }

    #[test]
    fn two_families_are_told_in_the_wider_one() {
        let mixed = told("192.0.2.1:5", "[2001:db8::2]:443");
        let line = header(ProxyVersion::V1, mixed);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5 443\r\n");
        let mapped = told("[::ffff:192.0.2.1]:5", "[::ffff:192.0.2.2]:443");
        let line = String::from_utf8(header(ProxyVersion::V1, mapped)).unwrap();
        assert_eq!(line, "PROXY TCP4 192.0.2.1 192.0.2.2 5 443\r\n");
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_tells_of_nobody() {
        for bytes in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            [SIGNATURE, &b"\x20\x00\x00\x00"[..]].concat(),
            [SIGNATURE, &b"\x20\x11\x00\x02ab"[..]].concat(),
            [SIGNATURE, &b"\x21\x31\x00\x00"[..]].concat(),
        ] {
            let n_bytes = bytes.len();
            let told = None;
            assert_eq!(
                parse(&bytes),
                Ok(Parsed::Whole { n_bytes, told }),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_shows() {
        let line = |rest: &str| format!("PROXY {rest}\r\n").into_bytes();
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXZ".to_vec(),
            b"\r\n\r\n\0\r\nQUIX".to_vec(),
            line("TCP4 192.0.2.1 192.0.2.2 1"),
            line("TCP4 192.0.2.1 192.0.2.2 1 2 3"),
            line("TCP4 192.0.2.1  192.0.2.2 1 2"),
            line("TCP4 ::1 ::1 1 2"),
            line("TCP4 192.0.2.1 192.0.2.2 1 65536"),
            line("TCP4 192.0.2.1 192.0.2.2 +1 2"),
            line("TCP4 192.0.2.1 192.0.2.2 01 2"),
            line("TCP4 192.0.2.1 192.0.2.2 1 "),
            line("UDP4 192.0.2.1 192.0.2.2 1 2"),
            line(""),
            [b"PROXY TCP4 ".as_slice(), &[b'1'; 107]].concat(),
            [SIGNATURE, &b"\x11\x11\x00\x00"[..]].concat(),
            [SIGNATURE, &b"\x22\x11\x00\x00"[..]].concat(),
            [SIGNATURE, &b"\x21\x41\x00\x00"[..]].concat(),
            [SIGNATURE, &b"\x21\x11\x00\x04abcd"[..]].concat(),
            [SIGNATURE, &b"\x21\x11\xff\xff"[..]].concat(),
        ] {
            assert!(
                parse(&bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
}
