//! The listening sockets of an edge: opened here, or given by the edge before it.
//!
//! Two edges may accept from the same socket; each connection goes to one of
//! them. So a new edge takes over by accepting as well, and then the old one
//! stops: at no time is the socket closed, or without somebody who accepts.

use crate::limits;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Weak};
use tokio::net::TcpListener;

/// The sockets of one edge.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Those of the edge before that nobody has asked for yet.
    given: Mutex<Vec<std::net::TcpListener>>,
    /// Those that are accepted from, and some that no longer are.
    open: Mutex<Vec<Weak<TcpListener>>>,
}

impl Sockets {
    /// None yet but the given ones.
    pub(crate) fn new(given: Vec<std::net::TcpListener>) -> Self {
        Self {
            given: Mutex::new(given),
            open: Mutex::default(),
        }
    }

    /// The socket of this address: the one that was given, else a new one.
    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<Arc<TcpListener>> {
        let socket = match self.take_given(address) {
            Some(socket) => socket,
            None => listen(address)?,
        };
        let listener = Arc::new(TcpListener::from_std(socket)?);
        let mut open = self.open.lock();
        open.retain(|listener| listener.strong_count() > 0);
        open.push(Arc::downgrade(&listener));
        Ok(listener)
    }

    fn take_given(&self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let mut given = self.given.lock();
        let is_it = |socket: &std::net::TcpListener| {
            socket.local_addr().is_ok_and(|local| local == address)
        };
        let idx = given.iter().position(is_it)?;
        Some(given.swap_remove(idx))
    }

    /// Closes those that were given and that nobody has asked for.
    pub(crate) fn close_unused(&self) {
        self.given.lock().clear();
    }

    /// Each that is accepted from, for the edge after this one.
    pub(crate) fn shared(&self) -> io::Result<Vec<std::net::TcpListener>> {
        let open: Vec<_> = self.open.lock().iter().filter_map(Weak::upgrade).collect();
        let share = |listener: &Arc<TcpListener>| {
            let socket = listener.as_fd().try_clone_to_owned()?;
            Ok(std::net::TcpListener::from(socket))
        };
        open.iter().map(share).collect()
    }
}

/// Opens a listening socket as the edge has them.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::ACCEPT_BACKLOG)?;
    Ok(socket.into())
}
