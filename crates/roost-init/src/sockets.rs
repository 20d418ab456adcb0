//! The sockets that processes of the guest listen on, so that a wrong port can be told.

use crate::failure::Failure;
use crate::limits::{FILES_SEARCHED_MAX, PROCESSES_SEARCHED_MAX, SOCKETS_MAX};
use crate::processes::pids;
use crate::stats::read_proc;
use roost_agent::proto::ListeningSocket;
use roost_model::procfs::{self, SocketState};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The kernel's lists, and the state in which a socket of each takes what comes.
const LISTS: [(&str, &str, SocketState); 4] = [
    ("tcp", "/proc/net/tcp", SocketState::Listening),
    ("tcp", "/proc/net/tcp6", SocketState::Listening),
    ("udp", "/proc/net/udp", SocketState::Unconnected),
    ("udp", "/proc/net/udp6", SocketState::Unconnected),
];

/// A process that has a socket open.
#[derive(Debug)]
struct Owner {
    pid: u32,
    name: String,
}

/// Lists them; blocks while it searches the processes.
pub(crate) fn list() -> Result<Vec<ListeningSocket>, Failure> {
    let mut found = Vec::new();
    for (protocol, path, state) in LISTS {
        // A kernel without IPv6 has two lists only.
        if Path::new(path).exists() {
            let table = read_proc(path)?;
            let sockets = procfs::sockets(&table, state);
            let bound = sockets.filter(|(address, _)| address.port() != 0);
            found.extend(bound.map(|(address, inode)| (protocol, address, inode)));
        }
    }
    found.truncate(SOCKETS_MAX);
    let inodes: BTreeSet<u64> = found.iter().map(|(_, _, inode)| *inode).collect();
    let owners = find_owners(&inodes);
    let sockets = found.into_iter().map(|(protocol, address, inode)| {
        let owner = owners.get(&inode);
        ListeningSocket {
            protocol: protocol.to_owned(),
            address: address.ip().to_string(),
            port: address.port().into(),
            process: owner.map(|owner| owner.name.clone()).unwrap_or_default(),
            pid: owner.map_or(0, |owner| owner.pid),
        }
    });
    Ok(sockets.collect())
}

/// The processes that have these sockets open, by inode.
fn find_owners(inodes: &BTreeSet<u64>) -> HashMap<u64, Owner> {
    let mut owners = HashMap::new();
    for pid in pids().take(PROCESSES_SEARCHED_MAX) {
        // It may have ended meanwhile.
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for file in files.flatten().take(FILES_SEARCHED_MAX) {
            let link = std::fs::read_link(file.path()).unwrap_or_default();
            let inode = link.to_str().and_then(procfs::socket_inode);
            let Some(inode) = inode.filter(|inode| inodes.contains(inode)) else {
                continue;
            };
            let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = String::from_utf8_lossy(name.trim_ascii_end()).into_owned();
            owners.entry(inode).or_insert(Owner { pid, name });
        }
        if owners.len() == inodes.len() {
            break;
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::list;
    use std::net::TcpListener;

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
        assert_eq!(socket.pid, std::process::id());
    }
}
