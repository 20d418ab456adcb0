//! The sockets that processes of the guest listen on, so that a wrong port can be told.

use crate::failure::Failure;
use crate::limits::{FILES_SEARCHED_MAX, PROCESSES_SEARCHED_MAX, SOCKETS_MAX};
use crate::stats::read_proc;
use roost_agent::proto::ListeningSocket;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The kernel's lists, and the state in which a socket of each kind takes what comes.
const LISTS: [(&str, &str, &str); 4] = [
    ("tcp", "/proc/net/tcp", LISTENING),
    ("tcp", "/proc/net/tcp6", LISTENING),
    ("udp", "/proc/net/udp", UNCONNECTED),
    ("udp", "/proc/net/udp6", UNCONNECTED),
];
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// A socket as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    protocol: &'static str,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Lists them; blocks while it searches the processes.
pub(crate) fn list() -> Result<Vec<ListeningSocket>, Failure> {
    let mut sockets = Vec::new();
    for (protocol, path, state) in LISTS {
        // A kernel without IPv6 has two lists only.
        if Path::new(path).exists() {
            sockets.extend(parse(protocol, state, &read_proc(path)?));
        }
    }
    sockets.truncate(SOCKETS_MAX);
    let owners = find_owners(&sockets);
    let sockets = sockets.into_iter().map(|socket| ListeningSocket {
        protocol: socket.protocol.to_owned(),
        address: socket.address.to_string(),
        port: socket.port.into(),
        process: owners.get(&socket.inode).cloned().unwrap_or_default(),
    });
    Ok(sockets.collect())
}

/// Lines of `sl local remote state queues timer retransmits uid timeout inode …`.
fn parse(protocol: &'static str, state: &str, list: &str) -> Vec<Socket> {
    list.lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if words.get(3) != Some(&state) {
                return None;
            }
            let (address, port) = words.get(1)?.split_once(':')?;
            Some(Socket {
                protocol,
                address: parse_address(address)?,
                port: u16::from_str_radix(port, 16).ok()?,
                inode: words.get(9)?.parse().ok()?,
            })
        })
        .filter(|socket| socket.port != 0)
        .collect()
}

/// Words of four bytes in the order of this CPU, in hexadecimal.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |idx: usize| {
        let digits = text.get(idx * 8..idx * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (idx, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(idx)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Names of the processes that have these sockets open, by inode.
fn find_owners(sockets: &[Socket]) -> HashMap<u64, String> {
    let mut owners = HashMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return owners;
    };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let processes = processes
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .take(PROCESSES_SEARCHED_MAX);
    for process in processes {
        // It may have ended meanwhile.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for file in files.flatten().take(FILES_SEARCHED_MAX) {
            let Some(inode) = std::fs::read_link(file.path())
                .ok()
                .and_then(|link| inode(&link))
            else {
                continue;
            };
            if sockets.iter().any(|socket| socket.inode == inode) {
                let name = std::fs::read(process.path().join("comm")).unwrap_or_default();
                let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
                owners.entry(inode).or_insert(name);
            }
        }
        if owners.len() == sockets.len() {
            break;
        }
    }
    owners
}

/// The number in `socket:[number]`.
fn inode(link: &Path) -> Option<u64> {
    let number = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{LISTENING, list, parse};
    use std::net::TcpListener;

    #[test]
    fn only_sockets_that_listen_are_taken() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0\n   \
            1: 0100007F:1F91 0100007F:ABCD 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 100 0 0 10 0\n   \
            2: broken\n   \
            3: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1\n";
        let sockets = parse("tcp", LISTENING, text);
        let found: Vec<_> = sockets
            .iter()
            .map(|socket| (socket.address.to_string(), socket.port, socket.inode))
            .collect();
        assert_eq!(
            found,
            [
                ("127.0.0.1".to_owned(), 8080, 12345),
                ("::1".to_owned(), 80, 7)
            ]
        );
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let sockets = list().unwrap();
        let socket = sockets.iter().find(|socket| socket.port == port).unwrap();
        assert_eq!(
            (socket.protocol.as_str(), socket.address.as_str()),
            ("tcp", "127.0.0.1")
        );
        assert!(!socket.process.is_empty());
    }
}
