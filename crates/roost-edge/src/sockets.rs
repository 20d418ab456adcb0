//! The listening sockets of an edge: opened here, or given by the edge before it.
//!
//! Two edges may accept from the same socket; each connection goes to one of
//! them. So a new edge takes over by accepting as well, and then the old one
//! stops: at no time is the socket closed, or without somebody who accepts. It is
//! the same with datagrams.

use crate::config::Network;
use crate::{limits, udp};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use tokio::net::{TcpListener, UdpSocket};

/// The sockets at which an edge takes traffic, as it gives them to another.
#[derive(Debug, Default)]
pub struct Listening {
    /// Those that accept connections.
    pub streams: Vec<std::net::TcpListener>,
    /// Those that take datagrams.
    pub datagrams: Vec<std::net::UdpSocket>,
}

/// The sockets of one edge.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Of addresses that no interface has.
    private: Option<Network>,
    /// Those of the edge before that nobody has asked for yet.
    given: Mutex<Listening>,
    /// Those that are accepted from, and some that no longer are.
    open: Mutex<Vec<Weak<TcpListener>>>,
    /// The same for datagrams.
    open_datagrams: Mutex<Vec<Weak<UdpSocket>>>,
}

impl Sockets {
    /// None yet but the given ones.
    pub(crate) fn new(given: Listening, private: Option<Network>) -> Self {
        Self {
            private,
            given: Mutex::new(given),
            open: Mutex::default(),
            open_datagrams: Mutex::default(),
        }
    }

    /// The socket of this address: the one that was given, else a new one.
    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<Arc<TcpListener>> {
        let given = self.take_given(address);
        let mut open = self.open.lock();
        open.retain(|listener| listener.strong_count() > 0);
        let socket = match given {
            Some(socket) => socket,
            None => {
                let is_private = self.private.is_some_and(|all| all.contains(address.ip()));
                let open_one = |address, is_shared| bind_stream(address, is_shared, is_private);
                beside(&open, TcpListener::local_addr, address, open_one)?
            }
        };
        let listener = Arc::new(TcpListener::from_std(socket)?);
        open.push(Arc::downgrade(&listener));
        Ok(listener)
    }

    /// The same for datagrams.
    pub(crate) fn take_datagrams(&self, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let given = {
            let datagrams = &mut self.given.lock().datagrams;
            take_of(datagrams, address, std::net::UdpSocket::local_addr)
        };
        let mut open = self.open_datagrams.lock();
        open.retain(|socket| socket.strong_count() > 0);
        let socket = match given {
            Some(socket) => socket,
            None => beside(&open, UdpSocket::local_addr, address, udp::open)?,
        };
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        open.push(Arc::downgrade(&socket));
        Ok(socket)
    }

    fn take_given(&self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let streams = &mut self.given.lock().streams;
        take_of(streams, address, std::net::TcpListener::local_addr)
    }

    /// Closes those that were given and that nobody has asked for.
    pub(crate) fn close_unused(&self) {
        *self.given.lock() = Listening::default();
    }

    /// Each at which traffic is taken, for the edge after this one.
    pub(crate) fn shared(&self) -> io::Result<Listening> {
        let streams: Vec<_> = self.open.lock().iter().filter_map(Weak::upgrade).collect();
        let datagrams = self.open_datagrams.lock();
        let datagrams: Vec<_> = datagrams.iter().filter_map(Weak::upgrade).collect();
        let stream = |listener: &Arc<TcpListener>| {
            let socket = listener.as_fd().try_clone_to_owned()?;
            Ok(std::net::TcpListener::from(socket))
        };
        let datagram = |socket: &Arc<UdpSocket>| {
            let socket = socket.as_fd().try_clone_to_owned()?;
            Ok(std::net::UdpSocket::from(socket))
        };
        Ok(Listening {
            streams: streams.iter().map(stream).collect::<io::Result<_>>()?,
            datagrams: datagrams.iter().map(datagram).collect::<io::Result<_>>()?,
        })
    }
}

fn take_of<T>(
    sockets: &mut Vec<T>,
    address: SocketAddr,
    address_of: fn(&T) -> io::Result<SocketAddr>,
) -> Option<T> {
    let is_it = |socket: &T| address_of(socket).is_ok_and(|local| local == address);
    let idx = sockets.iter().position(is_it)?;
    Some(sockets.swap_remove(idx))
}

/// Opens a socket at this address, also where one of these has its port at every address, or at
/// one while this is to be for every address. What comes is given by the kernel to the socket with
/// the more exact address.
///
/// The kernel lets two have a port so only if both share it at the moment at which the second one is
/// bound. No longer: else any program could take a part of what comes.
fn beside<S: AsFd, T: AsFd>(
    own: &[Weak<S>],
    address_of: fn(&S) -> io::Result<SocketAddr>,
    address: SocketAddr,
    open: impl Fn(SocketAddr, bool) -> io::Result<T>,
) -> io::Result<T> {
    let error = match open(address, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        opened => return opened,
    };
    let is_beside = |socket: &Arc<S>| {
        address_of(socket).is_ok_and(|local| {
            local.port() == address.port()
                && local.is_ipv4() == address.is_ipv4()
                && local.ip().is_unspecified() != address.ip().is_unspecified()
        })
    };
    let own: Vec<_> = own.iter().filter_map(Weak::upgrade).collect();
    let beside: Vec<_> = own.into_iter().filter(is_beside).collect();
    if beside.is_empty() {
        return Err(error);
    }
    let share = |is_shared| {
        let mut sockets = beside.iter();
        sockets.try_for_each(|socket| SockRef::from(&**socket).set_reuse_port(is_shared))
    };
    let opened = share(true).and_then(|()| open(address, true));
    share(false)?;
    let opened = opened?;
    SockRef::from(&opened).set_reuse_port(false)?;
    Ok(opened)
}

/// Opens a listening socket as the edge has them.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind_stream(address, false, false)
}

/// The same, also at a port that is shared at the moment, or at an address that no interface has.
fn bind_stream(
    address: SocketAddr,
    is_shared: bool,
    is_private: bool,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(is_private)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::ACCEPT_BACKLOG)?;
    Ok(socket.into())
}
