//! The Unix sockets that Firecracker makes in its jail.
//!
//! Two things are in the way of a plain `connect`: a path of more than 107 bytes
//! is no address of a socket, and the directory belongs to Firecracker, so that
//! a name in it may be a link to a socket of the host. Both are avoided by
//! opening what is there, without following links, and connecting to that.

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixStream;

/// A name in the jail.
#[derive(Debug, Clone)]
pub(super) struct SocketPath {
    dir: Arc<OwnedFd>,
    name: &'static str,
}

impl SocketPath {
    /// The socket of this name directly below `dir`, there or not.
    pub(super) fn new(dir: &Path, name: &'static str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        Ok(Self {
            dir: Arc::new(dir),
            name,
        })
    }

    /// Connects to who listens there.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(&*self.dir, self.name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::other(format!("{} is not a socket", self.name)));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }
}
