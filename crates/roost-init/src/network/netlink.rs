//! The few messages of rtnetlink that a guest needs (`linux/rtnetlink.h`).

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

const HEADER_LEN: usize = 16;
/// Longest answer: an error with the message that it is about.
const ANSWER_BYTES_MAX: usize = 4096;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFF_UP: u32 = 0x1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
/// The gateway is on the link, whatever the addresses say.
const RTNH_F_ONLINK: u32 = 4;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// A connection to the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Protocol 0 of this family is `NETLINK_ROUTE`.
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sets a link up, with this MTU.
    pub(super) fn set_link_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        // `struct ifinfomsg`: family, pad, type, index, flags, change.
        let mut body = vec![0; 4];
        for word in [index, IFF_UP, IFF_UP] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        if let Some(mtu) = mtu {
            push_attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// Adds an address, which nobody else has.
    pub(super) fn add_address(&mut self, index: u32, network: &Network) -> io::Result<()> {
        // `struct ifaddrmsg`: family, prefix, flags, scope, index.
        let mut body = vec![
            family(network.address),
            network.prefix,
            IFA_F_NODAD,
            RT_SCOPE_UNIVERSE,
        ];
        body.extend_from_slice(&index.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            push_attribute(&mut body, kind, &octets(network.address));
        }
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Adds the route to everywhere by a gateway on the link.
    pub(super) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        // `struct rtmsg`: family, destination and source length, type of service,
        // table, protocol, scope, type, flags.
        let mut body = vec![family(gateway), 0, 0, 0];
        body.extend([RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST]);
        body.extend_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        push_attribute(&mut body, RTA_GATEWAY, &octets(gateway));
        push_attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER_LEN + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_LEN + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(body);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let (n_read, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        result_of(answer.get(..n_read).unwrap_or_default(), self.sequence)
    }
}

/// What an answer says: zero or a negative error number behind the header.
fn result_of(answer: &[u8], sequence: u32) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4)?.try_into().ok();
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let is_answer = kind.map(u16::from_ne_bytes) == Some(NLMSG_ERROR)
        && field(8).map(u32::from_ne_bytes) == Some(sequence);
    match field(HEADER_LEN).map(i32::from_ne_bytes) {
        Some(0) if is_answer => Ok(()),
        Some(error) if is_answer => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        Some(_) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Appends `struct rtattr` with its value; both are multiples of four bytes.
fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("a value is an address or a number");
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    u8::try_from(family.as_raw()).expect("families of addresses are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Netlink, result_of};

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        answer[8] = 7;
        assert!(result_of(&answer, 7).is_ok());
        assert!(result_of(&answer, 8).is_err());
        assert!(result_of(&answer[..10], 7).is_err());
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(
            result_of(&answer, 7).unwrap_err().raw_os_error(),
            Some(libc::EPERM)
        );
    }

    #[test]
    fn the_kernel_answers_for_a_link_that_is_not_there() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.set_link_up(u32::MAX / 2, None).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{error}"
        );
    }
}
