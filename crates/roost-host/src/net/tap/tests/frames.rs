//! Frames that a guest makes up by itself.

use super::{FRAME_BYTES_MAX, HEADER_BYTES, Vm};
use crate::net::PacketPlumber as _;
use crate::net::addresses::GuestNetwork;
use crate::net::tap::{ARP, IPV4, IPV6, RateLimits};
use crate::net::testing::{Host, LIMIT, in_fresh_host};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Only frames of this test go there: the kernels of namespaces have no reason to.
const BROADCAST: [u8; 6] = [0xff; 6];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// A broadcast frame as it is written to the queue of a tap device.
fn frame(from: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend(BROADCAST);
    frame.extend(from);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    // The shortest that Ethernet has.
    frame.resize(frame.len().max(HEADER_BYTES + 60), 0);
    frame
}

/// An ARP packet about the gateway (RFC 826).
#[derive(Debug, Clone, Copy)]
struct Arp {
    operation: u8,
    sender: [u8; 6],
    sender_ipv4: Ipv4Addr,
    gateway: Ipv4Addr,
}

impl Arp {
    fn request(network: GuestNetwork) -> Self {
        Self {
            operation: REQUEST,
            sender: network.hardware_address,
            sender_ipv4: network.addresses.ipv4,
            gateway: network.gateway_ipv4,
        }
    }

    fn payload(self) -> Vec<u8> {
        let mut payload = vec![0, 1, 8, 0, 6, 4, 0, self.operation];
        payload.extend(self.sender);
        payload.extend(self.sender_ipv4.octets());
        payload.extend([0; 6]);
        payload.extend(self.gateway.octets());
        payload
    }
}

/// Frames with a false sender, or of a kind that a container cannot send.
fn false_frames(network: GuestNetwork, foreign: [u8; 6]) -> Vec<Vec<u8>> {
    let own = network.hardware_address;
    let request = Arp::request(network);
    let mut false_sender = request;
    false_sender.sender = foreign;
    let mut false_address = request;
    false_address.sender_ipv4 = Ipv4Addr::new(10, 99, 0, 7);
    let mut false_reply = false_address;
    false_reply.operation = REPLY;
    // A tag of a virtual network, then what is allowed without it. A capture
    // shows it without the tag, so it is not the request itself.
    let mut allowed = request;
    allowed.gateway = Ipv4Addr::new(10, 99, 0, 8);
    let tagged = [&[0, 7, 0x08, 0x06][..], &allowed.payload()].concat();
    vec![
        frame(foreign, ARP, &request.payload()),
        frame(own, ARP, &false_sender.payload()),
        frame(own, ARP, &false_address.payload()),
        frame(own, ARP, &false_reply.payload()),
        frame(foreign, IPV4, &[0x45; 40]),
        frame(foreign, IPV6, &[0x60; 40]),
        frame(own, 0x8100, &tagged),
        frame(own, 0x88b5, b"an experiment"),
        frame(own, 46, b"a length instead of a protocol"),
    ]
}

#[test]
fn only_frames_of_the_machine_itself_leave() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let own = vm.network.hardware_address;
        let mut foreign = own;
        foreign[5] ^= 1;
        let request = frame(own, ARP, &Arp::request(vm.network).payload());
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::EthAll;
        // Sees all frames of the thread's namespace, which plays the host.
        let arrived = socket(AddressFamily::Packet, SockType::Raw, flags, protocol).unwrap();

        let mut queue = vm.queue();
        let mut answer = vec![0; FRAME_BYTES_MAX];
        let start = Instant::now();
        // What the host sends to all is not the answer.
        while queue.read(&mut answer).is_err() || answer[HEADER_BYTES..][..6] != own {
            for frame in false_frames(vm.network, foreign) {
                queue.write_all(&frame).unwrap();
            }
            // Last, and answered: the others were dealt with before it.
            queue.write_all(&request).unwrap();
            assert!(start.elapsed() < LIMIT, "no answer");
            std::thread::sleep(Duration::from_millis(10));
        }

        let mut arrived = File::from(arrived);
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut n_requests = 0;
        while let Ok(n_bytes) = arrived.read(&mut buffer) {
            let from = &buffer[6..12];
            // The host's own frames are seen on their way out.
            if buffer[..6] == BROADCAST && (from == own || from == foreign) {
                assert_eq!(&buffer[..n_bytes], &request[HEADER_BYTES..]);
                n_requests += 1;
            }
        }
        assert!(n_requests > 0, "what arrives is seen");
    });
}
