//! Guests behind tap devices, against a real kernel.
//!
//! A guest is played by one more network namespace: what its kernel sends by a
//! tap device of its own is carried to the machine's, as a hypervisor does.

use super::{RateLimits, Tap, connect, sys};
use crate::driver::MachineAddresses;
use crate::net::PacketPlumber as _;
use crate::net::addresses::GuestNetwork;
use crate::net::testing::{Host, LIMIT, Namespace, addresses_of, host_state, in_fresh_host, shell};
use roost_model::id::MachineId;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod frames;

/// A user without any right on the host.
const OWNER: u32 = 100_000;
/// A virtio network header without requests, then the longest segment.
const HEADER_BYTES: usize = 10;
const FRAME_BYTES_MAX: usize = HEADER_BYTES + 14 + 65_536;
const TRANSFER_BYTES: usize = 32 * 1024 * 1024;

/// A machine with a tap device, as a hypervisor finds it.
struct Vm {
    namespace: Namespace,
    id: MachineId,
    addresses: MachineAddresses,
    network: GuestNetwork,
    tap: Tap,
}

impl Vm {
    async fn new(host: &Host, number: u8, limits: RateLimits) -> Self {
        let (namespace, id, addresses) = host.machine(number).await;
        let network = host.network.guest(addresses);
        let tap = connected(&namespace, network, limits);
        Self {
            namespace,
            id,
            addresses,
            network,
            tap,
        }
    }

    fn queue(&self) -> File {
        self.namespace.run(|| self.tap.open_queue()).unwrap().into()
    }
}

fn connected(namespace: &Namespace, network: GuestNetwork, limits: RateLimits) -> Tap {
    namespace.run(|| {
        let tap = Tap::create("tap0", OWNER).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(connect(&tap, "eth0", network, limits))
            .unwrap();
        tap
    })
}

/// Whether a guest computes checksums and segments or leaves that to others.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Offloads {
    On,
    Off,
}

/// A kernel with the machine's addresses behind the machine's tap device.
struct Guest {
    kernel: Namespace,
    _cable: Cable,
}

impl Guest {
    fn boot(vm: &Vm, offloads: Offloads) -> Self {
        let kernel = Namespace::new();
        let card = kernel.run(|| Tap::create("eth0", 0).unwrap().open_queue().unwrap());
        let ends = [vm.queue(), card.into()];
        if offloads == Offloads::On {
            for end in &ends {
                sys::offer_offloads(end).unwrap();
            }
        }
        let cable = Cable::between(ends);
        let GuestNetwork {
            hardware_address: [a, b, c, d, e, f],
            addresses: MachineAddresses { ipv4, ipv6 },
            gateway_ipv4,
            gateway_ipv6,
            mtu,
        } = vm.network;
        shell(&format!(
            "nsenter -t {} -n sh -ec 'ip link set lo up
             ip link set eth0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {mtu} up
             ip addr add {ipv4}/32 dev eth0; ip addr add {ipv6}/128 dev eth0 nodad
             ip route add default via {gateway_ipv4} dev eth0 onlink
             ip route add default via {gateway_ipv6} dev eth0 onlink'",
            kernel.pid()
        ));
        Self {
            kernel,
            _cable: cable,
        }
    }

    fn pings(&self, target: IpAddr) -> bool {
        let pid = self.kernel.pid().to_string();
        let target = target.to_string();
        std::process::Command::new("nsenter")
            .args([
                "-t", &pid, "-n", "busybox", "ping", "-c", "1", "-W", "1", &target,
            ])
            .output()
            .unwrap()
            .status
            .success()
    }
}

/// Carries frames between two queues until it is dropped.
struct Cable {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Cable {
    fn between(ends: [File; 2]) -> Self {
        let (stopped, stop) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || carry(&ends, &stopped));
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn carry(ends: &[File; 2], stopped: &PipeReader) {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    loop {
        let mut waits = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::new(&ends[0], PollFlags::IN),
            PollFd::new(&ends[1], PollFlags::IN),
        ];
        poll(&mut waits, None).unwrap();
        if !waits[0].revents().is_empty() {
            return;
        }
        for (mut from, mut to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            // A link that is down loses frames, as a real one.
            if let Ok(n_bytes) = from.read(&mut frame) {
                drop(to.write(&frame[..n_bytes]));
            }
        }
    }
}

/// Waits until a connection succeeds: the kernel notices new links in its own time.
fn connects(address: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < LIMIT, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_reaches_its_gateways_and_is_reached_at_its_addresses() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let guest = Guest::boot(&vm, Offloads::On);
        let _listener = guest.kernel.listen(80);
        for address in addresses_of(vm.addresses) {
            connects(SocketAddr::new(address, 80));
        }
        for gateway in [
            IpAddr::from(host.network.gateway_ipv4()),
            host.network.gateway_ipv6().into(),
        ] {
            assert!(guest.pings(gateway), "{gateway}");
        }
    });
}

#[test]
fn the_namespace_between_guest_and_host_has_no_network_of_its_own() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let pid = vm.namespace.pid();
        let addresses = shell(&format!("nsenter -t {pid} -n ip -o addr show scope global"));
        assert_eq!(addresses, "");
        let link_local = shell(&format!(
            "nsenter -t {pid} -n ip -6 -o addr show scope link"
        ));
        assert_eq!(link_local, "");
        let gateway = SocketAddr::new(host.network.gateway_ipv4().into(), 80);
        let error = vm.namespace.connect(gateway).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
    });
}

/// One more namespace that the host has a route to.
fn outside() -> Namespace {
    let outside = Namespace::new();
    shell(&format!(
        "ip link add up0 type veth peer name eth0 netns {0}
         ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
         nsenter -t {0} -n sh -ec 'ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up'",
        outside.pid()
    ));
    outside
}

#[test]
fn guests_reach_neither_each_other_nor_the_outside_under_a_false_address() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = outside();
        host.plumber.ensure_node().await.unwrap();
        let (one, two) = (
            Vm::new(&host, 1, RateLimits::default()).await,
            Vm::new(&host, 2, RateLimits::default()).await,
        );
        let guest = Guest::boot(&one, Offloads::On);
        let other = Guest::boot(&two, Offloads::On);
        let _listener = other.kernel.listen(80);
        for address in addresses_of(two.addresses) {
            connects(SocketAddr::new(address, 80));
            assert!(
                guest.kernel.connect(SocketAddr::new(address, 80)).is_err(),
                "{address} answers another guest"
            );
        }
        let receiver = outside.run(|| UdpSocket::bind("192.0.2.2:53").unwrap());
        receiver.set_nonblocking(true).unwrap();
        let false_source = "10.99.0.7";
        shell(&format!(
            "nsenter -t {} -n ip addr add {false_source}/32 dev eth0",
            guest.kernel.pid()
        ));
        let own = IpAddr::from(one.addresses.ipv4);
        let [falsely, truly] = [false_source.parse().unwrap(), own]
            .map(|source| guest.kernel.run(|| UdpSocket::bind((source, 0)).unwrap()));
        let start = Instant::now();
        let mut buffer = [0; 16];
        loop {
            falsely.send_to(b"false", "192.0.2.2:53").unwrap();
            truly.send_to(b"true", "192.0.2.2:53").unwrap();
            std::thread::sleep(Duration::from_millis(10));
            if let Ok((n_bytes, _)) = receiver.recv_from(&mut buffer) {
                assert_eq!(&buffer[..n_bytes], b"true", "a false source came through");
                break;
            }
            assert!(start.elapsed() < LIMIT, "nothing arrives outside");
        }
    });
}

/// Bytes of which any loss, repetition or change shows.
fn pattern(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next)
        .take(n_bytes.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(n_bytes);
    bytes
}

/// Sends bytes one way and says how long it took until all had arrived as they are.
fn send(mut from: TcpStream, mut to: TcpStream, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || from.write_all(bytes));
        let mut arrived = vec![0; bytes.len()];
        to.set_read_timeout(Some(LIMIT)).unwrap();
        to.read_exact(&mut arrived).unwrap();
        sender.join().unwrap().unwrap();
        assert!(arrived == bytes, "the bytes have changed");
    });
    start.elapsed()
}

/// A connection to what listens there: the end that has asked for it, the other end.
fn connection(listener: &TcpListener, address: IpAddr) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().unwrap().port();
    let asking = connects(SocketAddr::new(address, port));
    (asking, listener.accept().unwrap().0)
}

fn send_both_ways((one, other): (TcpStream, TcpStream), bytes: &[u8]) -> [Duration; 2] {
    let back = (other.try_clone().unwrap(), one.try_clone().unwrap());
    [send(one, other, bytes), send(back.0, back.1, bytes)]
}

#[test]
fn large_transfers_arrive_whole_both_ways_whoever_computes_checksums() {
    in_fresh_host(async || {
        let host = Host::new();
        let outside = outside();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let bytes = pattern(TRANSFER_BYTES);
        for offloads in [Offloads::On, Offloads::Off] {
            let guest = Guest::boot(&vm, offloads);
            let listener = guest.kernel.listen(80);
            for address in addresses_of(vm.addresses) {
                send_both_ways(connection(&listener, address), &bytes);
            }
            let listener = outside.listen(80);
            let address = Ipv4Addr::new(192, 0, 2, 2).into();
            let ends = guest.kernel.run(|| connection(&listener, address));
            send_both_ways(ends, &bytes);
        }
    });
}

#[test]
fn a_limit_holds_each_way_and_can_be_taken_away() {
    const RATE: u64 = 1024 * 1024;
    const BYTES: usize = 3 * 1024 * 1024;
    let rate = NonZeroU64::new(RATE);
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let limits = RateLimits {
            from_guest: rate,
            to_guest: rate,
        };
        let vm = Vm::new(&host, 1, limits).await;
        let bytes = pattern(BYTES);
        let times_to_and_from = |guest: &Guest| {
            let listener = guest.kernel.listen(80);
            send_both_ways(connection(&listener, vm.addresses.ipv4.into()), &bytes)
        };
        let limited = times_to_and_from(&Guest::boot(&vm, Offloads::On));
        connected(&vm.namespace, vm.network, RateLimits::default());
        let unlimited = times_to_and_from(&Guest::boot(&vm, Offloads::On));
        // What was sent at once at the beginning and headers make less than half.
        let least = Duration::from_secs(BYTES as u64 / RATE) / 2;
        for (limited, unlimited) in limited.into_iter().zip(unlimited) {
            assert!(limited > least, "{limited:?}");
            assert!(unlimited < limited, "{unlimited:?}, {limited:?}");
        }
    });
}

#[test]
fn connecting_again_changes_nothing() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let state = || {
            shell(&format!(
                "nsenter -t {} -n sh -ec 'ip -o addr; tc qdisc; tc filter show dev tap0 ingress
                 tc filter show dev eth0 ingress' | grep -v 'index .* ref'",
                vm.namespace.pid()
            ))
        };
        let before = state();
        connected(&vm.namespace, vm.network, RateLimits::default());
        assert_eq!(state(), before);
    });
}

#[test]
fn what_a_guest_had_goes_with_its_namespace() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let before = host_state();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        drop(Guest::boot(&vm, Offloads::On));
        let Vm { namespace, id, .. } = vm;
        drop(namespace);
        let link = host.tag.interface_name(&id);
        let start = Instant::now();
        // The kernel takes a namespace apart in its own time.
        while shell("ip -o link").contains(&link) {
            assert!(start.elapsed() < LIMIT);
            std::thread::sleep(Duration::from_millis(10));
        }
        host.plumber.detach(&id).await.unwrap();
        assert_eq!(host_state(), before);
    });
}

#[test]
fn only_the_owner_opens_the_queue_without_capabilities_and_one_at_a_time() {
    in_fresh_host(async || {
        let host = Host::new();
        host.plumber.ensure_node().await.unwrap();
        let vm = Vm::new(&host, 1, RateLimits::default()).await;
        let dir = tempfile::tempdir().unwrap();
        let open_as = |uid: u32| {
            let device = dir.path().join("tun");
            let (device, pid) = (device.display(), vm.namespace.pid());
            // Only root may open the device itself on some hosts.
            // Removing a device begins with opening it.
            let script = format!(
                "mknod {device} c 10 200 || true; chmod 666 {device}; mount --bind {device} /dev/net/tun
                 exec setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs \\
                 --inh-caps=-all --bounding-set=-all ip tuntap del dev tap0 mode tap"
            );
            std::process::Command::new("nsenter")
                .args([
                    "-t",
                    &pid.to_string(),
                    "-n",
                    "unshare",
                    "--mount",
                    "sh",
                    "-ec",
                ])
                .arg(script)
                .output()
                .unwrap()
        };
        let stranger = open_as(OWNER + 1);
        let reason = String::from_utf8_lossy(&stranger.stderr).into_owned();
        assert!(reason.contains("not permitted"), "{reason}");

        let queue = vm.queue();
        let busy = open_as(OWNER);
        let reason = String::from_utf8_lossy(&busy.stderr).into_owned();
        assert!(reason.contains("busy"), "{reason}");
        drop(queue);
        let owner = open_as(OWNER);
        assert!(owner.status.success(), "{owner:?}");
    });
}
