//! The two ends of a flow: the port's socket, which knows at which of its
//! addresses a datagram came and answers from there, and the socket to a
//! machine, which is bound to the client's own address.

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Where a datagram came from and went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Path {
    pub(crate) client: SocketAddr,
    /// The address of the edge.
    pub(crate) local: IpAddr,
}

/// Opens the socket of a port, also of one that is shared at the moment.
pub(crate) fn open(address: SocketAddr, is_shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = datagram_socket(address)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket to this machine: in the name of the client where that is possible, else in the host's.
/// A client on the host itself has an address that no machine can answer to.
pub(crate) fn towards(machine: SocketAddr, client: SocketAddr) -> io::Result<UdpSocket> {
    let has_name = !client.ip().is_loopback() && client.is_ipv4() == machine.is_ipv4();
    if has_name {
        match in_the_name_of(client, machine) {
            Ok(socket) => return UdpSocket::from_std(socket.into()),
            // A client on the host itself has its port bound already.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tracing::debug!(
                %client, %machine,
                "datagrams of a client on the host go to a machine with the host's address"
            ),
            Err(error) => tracing::warn!(
                %client, %machine, %error,
                "datagrams of a client go to a machine with the host's address"
            ),
        }
    }
    let socket = datagram_socket(machine)?;
    socket.connect(&machine.into())?;
    UdpSocket::from_std(socket.into())
}

fn in_the_name_of(client: SocketAddr, machine: SocketAddr) -> io::Result<Socket> {
    let socket = datagram_socket(machine)?;
    // Of IPv6 sockets too: the kernel has one flag for both.
    socket.set_ip_transparent_v4(true)?;
    // A client may have flows to several ports, and in the other edge of a hot restart.
    socket.set_reuse_address(true)?;
    socket.bind(&client.into())?;
    socket.connect(&machine.into())?;
    Ok(socket)
}

fn datagram_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The next datagram at a port, if there is one: its length, and its path.
pub(crate) fn try_receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let fd = socket.as_fd().as_raw_fd();
    socket.try_io(Interest::READABLE, || receive(fd, buffer))
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let received = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
    let local = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
            Some(IpAddr::V4(address))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    let client = received.address.as_ref().and_then(socket_addr);
    let (Some(client), Some(local)) = (client, local) else {
        let problem = "the kernel does not say whence a datagram came";
        return Err(io::Error::other(problem));
    };
    Ok((received.bytes, Path { client, local }))
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = address.as_sockaddr_in().map(|a| SocketAddrV4::from(*a));
    let ipv6 = || address.as_sockaddr_in6().map(|a| SocketAddrV6::from(*a));
    ipv4.map(SocketAddr::V4)
        .or_else(|| ipv6().map(SocketAddr::V6))
}

/// Sends to the machine that a socket is connected to. The kernel is asked whether it has
/// room, and nobody else: what it refuses is dropped.
pub(crate) fn try_send(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send(bytes).map(drop)
}

/// Waits until there is something to receive from a machine, or it has refused.
pub(crate) async fn answers(machine: &UdpSocket) -> io::Result<()> {
    // Of a refusal the kernel says only that there is an error, not that there is something to read.
    let ready = machine.ready(Interest::READABLE | Interest::ERROR).await?;
    if !ready.is_error() {
        return Ok(());
    }
    machine
        .try_io(Interest::ERROR, || match machine.take_error()? {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error),
            // Others, such as of a datagram that was too large, say nothing about the machine.
            Some(_) | None => Err(io::ErrorKind::WouldBlock.into()),
        })
        .or_else(|error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(error),
        })
}

/// The next datagram from the machine at this address, if there is one. Until the socket was
/// connected it took those of others too.
pub(crate) fn try_receive_from(
    socket: &UdpSocket,
    machine: SocketAddr,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    let (n_bytes, from) = socket.try_recv_from(buffer)?;
    let is_it = (from.ip(), from.port()) == (machine.ip(), machine.port());
    Ok(is_it.then_some(n_bytes))
}

/// Sends an answer back on a path; the same goes for it.
pub(crate) fn try_answer(socket: &UdpSocket, path: Path, bytes: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let parts = [IoSlice::new(bytes)];
    let client = SockaddrStorage::from(path.client);
    let flags = MsgFlags::MSG_DONTWAIT;
    match path.local {
        IpAddr::V4(local) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(local).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let from = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &from, flags, Some(&client))?;
        }
        IpAddr::V6(local) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.octets(),
                },
                ipi6_ifindex: 0,
            };
            let from = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &from, flags, Some(&client))?;
        }
    }
    Ok(())
}
