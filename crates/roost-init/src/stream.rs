//! The byte stream between the node and this guest: a virtio-serial port where
//! there is one, else a vsock port that the node connects to.

mod node;

pub(crate) use node::NodeStream;

use crate::console::say;
use crate::failure::{Attempt as _, Failure};
use crate::limits::{ACCEPT_RETRY_INTERVAL, DEVICE_POLL_INTERVAL, DEVICE_TIMEOUT, VSOCK_BACKLOG};
use crate::sys::{self, Registered};
use roost_agent::guest::{AcceptEnd, Acceptor, StreamKind};
use roost_agent::{SERIAL_PORT, VSOCK_PORT};
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::time::Instant;

/// The kernel's list of virtio-serial ports.
const PORTS_DIR: &str = "/sys/class/virtio-ports";
/// The kernel's vsock interface.
const VSOCK_DEVICE: &str = "/dev/vsock";

/// Where the node is reached.
#[derive(Debug)]
pub(crate) enum Channel {
    /// One stream without end.
    Serial(NodeStream),
    /// A listener, each connection of which is a stream.
    Vsock(Registered),
}

/// Finds the stream; its device may appear while modules are being loaded.
pub(crate) async fn open() -> Result<Channel, Failure> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    loop {
        if let Some(device) = find_port(Path::new(PORTS_DIR)) {
            return NodeStream::open(&device)
                .map(Channel::Serial)
                .attempt(format_args!("open {}", device.display()));
        }
        if has_vsock_device() {
            return listen()
                .map(Channel::Vsock)
                .attempt("listen for the node on vsock");
        }
        if Instant::now() > deadline {
            return Err(Failure::guest(format!(
                "there is neither a virtio-serial port {SERIAL_PORT} nor a vsock device"
            )));
        }
        tokio::time::sleep(DEVICE_POLL_INTERVAL).await;
    }
}

/// Whether the stream to the node is a serial port, which needs no module of the vsock's.
pub(crate) fn has_serial_port() -> bool {
    find_port(Path::new(PORTS_DIR)).is_some()
}

/// The device of the agent's port, by the name that the kernel lists.
fn find_port(ports_dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(ports_dir).ok()?;
    entries.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == SERIAL_PORT).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// Whether this guest has an address on a vsock; the interface alone is no device.
fn has_vsock_device() -> bool {
    File::open(VSOCK_DEVICE)
        .and_then(|device| sys::vsock_address(&device))
        .is_ok_and(|address| address != libc::VMADDR_CID_ANY)
}

fn listen() -> io::Result<Registered> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::vsock(libc::VMADDR_CID_ANY, VSOCK_PORT))?;
    socket.listen(VSOCK_BACKLOG)?;
    sys::register(Arc::new(socket.into()))
}

/// Drives the stream, or one connection after the other; returns why that ended.
pub(crate) async fn drive(channel: Channel, acceptor: &Acceptor) -> Failure {
    match channel {
        Channel::Serial(stream) => {
            let end = acceptor.run(stream, StreamKind::Device).await;
            Failure::guest(format!("the port to the node: {end}"))
        }
        Channel::Vsock(listener) => {
            let end = accept_for_ever(&listener, acceptor).await;
            Failure::guest(end.to_string())
        }
    }
}

/// A new connection takes the place of an older one: the node has one at a time,
/// and what it has left may linger.
async fn accept_for_ever(listener: &Registered, acceptor: &Acceptor) -> AcceptEnd {
    let mut stream = accept(listener).await;
    loop {
        let end = tokio::select! {
            // Cancel-safe: what is dropped is an old connection.
            end = acceptor.run(stream, StreamKind::Connection) => end,
            // Cancel-safe: a connection is either returned or still waiting.
            next = accept(listener) => {
                stream = next;
                continue;
            }
        };
        if let AcceptEnd::NotTaken = end {
            return end;
        }
        stream = accept(listener).await;
    }
}

/// The next connection of the node. A failure passes: a guest that has no file
/// or memory to spare now may have it later.
async fn accept(listener: &Registered) -> NodeStream {
    let mut has_failed = false;
    loop {
        match try_accept(listener).await {
            Ok(Some(stream)) => return stream,
            // A program of the guest has no business here.
            Ok(None) => {}
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    say(format_args!("accept the node: {error}"));
                }
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

/// A connection, if it is the node's.
async fn try_accept(listener: &Registered) -> io::Result<Option<NodeStream>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = listener
        .async_io(Interest::READABLE, |listener| {
            Ok(rustix::net::accept_with(listener, flags)?)
        })
        .await?;
    let socket = Socket::from(socket);
    if !is_of_node(&socket.peer_addr()?) {
        return Ok(None);
    }
    NodeStream::of_socket(socket.into()).map(Some)
}

/// Whether a peer on the vsock is the host. Other families have no such address.
fn is_of_node(peer: &SockAddr) -> bool {
    peer.as_vsock_address()
        .is_none_or(|(address, _)| address == libc::VMADDR_CID_HOST)
}

#[cfg(test)]
mod tests {
    use super::{accept_for_ever, find_port, is_of_node};
    use crate::sys;
    use roost_agent::guest;
    use roost_agent::session::{SessionId, answer, preamble};
    use socket2::SockAddr;
    use std::path::Path;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;
    use tokio::task::JoinSet;

    /// Connects and begins a session.
    async fn greet(socket: &Path, id: u8) -> UnixStream {
        let id = SessionId::new([id; 16]).unwrap();
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&preamble(id)).await.unwrap();
        let mut reply = [0; 32];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, answer(id));
        stream
    }

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = sys::register(Arc::new(listener.into())).unwrap();
        let (acceptor, mut sessions) = guest::sessions();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(accept_for_ever(&listener, &acceptor).await) });

        let mut first = greet(&socket, 1).await;
        let _first_session = sessions.next().await.unwrap();
        let second = greet(&socket, 2).await;
        let _second_session = sessions.next().await.unwrap();
        assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
        // One that goes by itself makes room as well.
        drop(second);
        greet(&socket, 3).await;
    }

    #[test]
    fn on_a_vsock_only_the_host_is_the_node() {
        assert!(is_of_node(&SockAddr::vsock(libc::VMADDR_CID_HOST, 1)));
        // A program of the guest, by the loopback and by the guest's own address.
        assert!(!is_of_node(&SockAddr::vsock(libc::VMADDR_CID_LOCAL, 1)));
        assert!(!is_of_node(&SockAddr::vsock(3, 1)));
    }

    #[test]
    fn the_port_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for (port, name) in [("vport0p1", "org.other\n"), ("vport0p2", "roost.agent\n")] {
            std::fs::create_dir(dir.path().join(port)).unwrap();
            std::fs::write(dir.path().join(port).join("name"), name).unwrap();
        }
        std::fs::create_dir(dir.path().join("vport0p0")).unwrap();
        assert_eq!(
            find_port(dir.path()).as_deref(),
            Some(Path::new("/dev/vport0p2"))
        );
        assert_eq!(find_port(&dir.path().join("none")), None);
    }
}
