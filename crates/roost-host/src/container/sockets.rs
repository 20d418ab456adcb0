//! The sockets that a machine listens on, read from the host's `/proc`.

use super::limits::{DESCRIPTORS_MAX, SOCKET_OWNERS_MAX, SOCKET_TABLE_BYTES_MAX};
use roost_model::procfs::{self, SocketState};
use roost_proto::worker::{LISTENING_SOCKETS_MAX, ListeningSocket};
use std::collections::HashMap;
use std::io::Read as _;

/// The kernel's tables, and the state in which a socket of each takes what comes.
const TABLES: [(&str, SocketState); 4] = [
    ("tcp", SocketState::Listening),
    ("tcp6", SocketState::Listening),
    ("udp", SocketState::Unconnected),
    ("udp6", SocketState::Unconnected),
];

/// Lists them for the network namespace of `pid`, with the one of `pids` that has it. Blocks.
pub(super) fn list(pid: u32, pids: &[u32]) -> std::io::Result<Vec<(Option<u32>, ListeningSocket)>> {
    let mut found = Vec::new();
    for (protocol, state) in TABLES {
        let text = match read_table(&format!("/proc/{pid}/net/{protocol}")) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && protocol.ends_with('6') =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let sockets = procfs::sockets(&text, state);
        found.extend(sockets.map(|(address, inode)| (protocol, address, inode)));
    }
    found.truncate(LISTENING_SOCKETS_MAX);
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
            let inode = link.to_str().and_then(procfs::socket_inode);
            if let Some(inode) = inode {
                owners
                    .entry(inode)
                    .or_insert_with(|| (*pid, name.trim().to_owned()));
            }
        }
    }
    owners
}
