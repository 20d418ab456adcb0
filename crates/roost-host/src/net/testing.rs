//! Hosts and machines for tests, as network namespaces made for them.
//!
//! The thread of each test has a namespace of its own that plays the host;
//! machines are processes with a user and a network namespace, and one more
//! namespace can play the outside.

use super::PacketPlumber as _;
use super::addresses::NodeNetwork;
use super::linux::{LinuxPlumber, NetConfig};
use crate::driver::MachineAddresses;
use crate::instance::InstanceTag;
use roost_model::id::MachineId;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// Long enough for a packet to cross a few namespaces, as a dropped one is waited for this long.
pub(super) const DROPPED_AFTER: Duration = Duration::from_millis(400);

pub(super) struct Namespace(Child);

impl Namespace {
    pub(super) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = Self(child);
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", namespace.pid());
        let start = Instant::now();
        while std::fs::read_link(&path).unwrap() == ours {
            assert!(start.elapsed() < LIMIT, "no namespace");
            std::thread::sleep(Duration::from_millis(2));
        }
        namespace
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Runs something in the namespace, on a thread of its own.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.pid());
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = std::fs::File::open(path).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    pub(super) fn listen(&self, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind(("::", port)).unwrap())
    }

    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&address, DROPPED_AFTER))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(super) fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(super) struct Host {
    pub(super) plumber: LinuxPlumber,
    pub(super) network: NodeNetwork,
    pub(super) record_dir: tempfile::TempDir,
    pub(super) tag: InstanceTag,
}

impl Host {
    pub(super) fn new() -> Self {
        let tag = InstanceTag::parse("1a2b").unwrap();
        let network = NodeNetwork::choose(tag, &[]).unwrap();
        let record_dir = tempfile::tempdir().unwrap();
        let sysctl_record = record_dir.path().join("sysctl.json");
        let plumber = LinuxPlumber::new(NetConfig {
            tag,
            network,
            sysctl_record,
        });
        Self {
            plumber,
            network,
            record_dir,
            tag,
        }
    }

    pub(super) fn restarted(&self) -> LinuxPlumber {
        let sysctl_record = self.record_dir.path().join("sysctl.json");
        LinuxPlumber::new(NetConfig {
            tag: self.tag,
            network: self.network,
            sysctl_record,
        })
    }

    pub(super) async fn machine(&self, number: u8) -> (Namespace, MachineId, MachineAddresses) {
        let namespace = Namespace::new();
        let id = MachineId::from_bytes([number; 7]);
        let addresses = self.network.address(u16::from(number)).unwrap();
        self.plumber
            .attach(&id, addresses, namespace.pid())
            .await
            .unwrap();
        (namespace, id, addresses)
    }
}

/// Runs a test in a fresh network namespace; without root it only says so.
pub(super) fn in_fresh_host(test: impl AsyncFnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            shell("ip link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test());
        });
        thread.join().unwrap();
    });
}

/// All that a plumber may change.
pub(super) fn host_state() -> String {
    shell(
        "ip -o link | sed 's/ qdisc.*//'; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list ruleset;
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding;
         cat /proc/sys/net/ipv6/conf/*/accept_ra",
    )
}

pub(super) fn addresses_of(addresses: MachineAddresses) -> [IpAddr; 2] {
    [addresses.ipv4.into(), addresses.ipv6.into()]
}
