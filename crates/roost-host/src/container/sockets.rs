//! The sockets that a machine listens on, read from the host's `/proc`.

use super::limits::{DESCRIPTORS_MAX, SOCKET_OWNERS_MAX, SOCKET_TABLE_BYTES_MAX, SOCKETS_MAX};
use roost_proto::worker::ListeningSocket;
use std::collections::HashMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` of the kernel.
const LISTEN: &str = "0A";

/// Lists them for the network namespace of `pid`, with the one of `pids` that has it. Blocks.
pub(super) fn list(pid: u32, pids: &[u32]) -> std::io::Result<Vec<(Option<u32>, ListeningSocket)>> {
    let mut found = Vec::new();
    for protocol in ["tcp", "tcp6"] {
        let text = match read_table(&format!("/proc/{pid}/net/{protocol}")) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && protocol == "tcp6" => {
                continue;
            }
            Err(error) => return Err(error),
        };
        found.extend(parse(&text).map(|(address, inode)| (protocol, address, inode)));
    }
    found.truncate(SOCKETS_MAX);
    let owners = owners(pids);
    Ok(found
        .into_iter()
        .map(|(protocol, address, inode)| {
            let owner = owners.get(&inode);
            let socket = ListeningSocket {
                protocol: protocol.to_owned(),
                address,
                process: owner.map(|(_, name)| name.clone()),
            };
            (owner.map(|(pid, _)| *pid), socket)
        })
        .collect())
}

/// Reads the beginning of a table, in which listening sockets come first.
fn read_table(path: &str) -> std::io::Result<String> {
    let mut text = Vec::new();
    std::fs::File::open(path)?
        .take(SOCKET_TABLE_BYTES_MAX)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads address and inode of each listening line of `/proc/net/tcp` (proc(5)).
fn parse(text: &str) -> impl Iterator<Item = (SocketAddr, u64)> {
    text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        if *state != LISTEN {
            return None;
        }
        Some((parse_address(local)?, inode.parse().ok()?))
    })
}

/// Reads `0100007F:0016`: 32-bit words in the byte order of the host.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len())
        .step_by(8)
        .map(|at| {
            Some(
                u32::from_str_radix(address.get(at..at + 8)?, 16)
                    .ok()?
                    .to_ne_bytes(),
            )
        })
        .collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Which process has which socket, as far as can be seen.
fn owners(pids: &[u32]) -> HashMap<u64, (u32, String)> {
    let mut owners = HashMap::new();
    let mut n_left = DESCRIPTORS_MAX;
    for pid in pids.iter().take(SOCKET_OWNERS_MAX) {
        let Ok(name) = std::fs::read_to_string(format!("/proc/{pid}/comm")) else {
            continue;
        };
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let entries: Vec<_> = entries.flatten().take(n_left).collect();
        n_left -= entries.len();
        for link in entries
            .iter()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        {
            let inode = link.to_str().and_then(|link| {
                link.strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse()
                    .ok()
            });
            if let Some(inode) = inode {
                owners
                    .entry(inode)
                    .or_insert_with(|| (*pid, name.trim().to_owned()));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    #[cfg(target_endian = "little")]
    fn listening_sockets_of_both_families_are_read() {
        let header = "  sl  local_address rem_address   st tx_queue ...\n";
        let v4 = format!(
            "{header}   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1\n   1: 0100007F:0BB9 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 1235 1\n"
        );
        let found: Vec<_> = parse(&v4).collect();
        assert_eq!(found, [("127.0.0.1:3000".parse().unwrap(), 1234)]);
        let v6 = format!(
            "{header}   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 99 1\n"
        );
        assert_eq!(
            parse(&v6).collect::<Vec<_>>(),
            [("[::1]:80".parse().unwrap(), 99)]
        );
        assert_eq!(parse("garbage\n0: zz:zz\n").count(), 0);
    }
}
