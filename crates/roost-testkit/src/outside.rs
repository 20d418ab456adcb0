//! A client with an address of its own: a network namespace beside the host,
//! connected to it as a neighbour in a network is.

use crate::program::run;
use crate::wait::wait_until;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Such a namespace; it goes with its cable when dropped.
#[derive(Debug)]
pub struct Outside {
    process: Child,
    /// The host's address on the cable.
    pub host: Ipv4Addr,
    /// The client's address.
    pub client: Ipv4Addr,
}

impl Outside {
    /// Makes one. Its network is of those for tests of networks (RFC 2544), a piece that
    /// follows from this process's id.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed)) % 32_768;
        let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number * 4;
        let process = Command::new("unshare")
            .args(["--net", "sleep", "3600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let outside = Self {
            process,
            host: Ipv4Addr::from(network + 1),
            client: Ipv4Addr::from(network + 2),
        };
        outside.connect(number);
        outside
    }

    fn connect(&self, number: u32) {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let path = self.path();
        wait_until("a namespace", Duration::from_secs(60), || {
            let ino = std::fs::metadata(&path).map_err(|error| error.to_string())?;
            (ino.ino() != own)
                .then_some(())
                .ok_or("the host's".to_owned())
        });
        let (pid, cable) = (self.process.id().to_string(), format!("rtest{number:05}"));
        let ip = |args: &str| run(Command::new("ip").args(args.split(' ')));
        ip(&format!(
            "link add {cable} type veth peer name eth0 netns {pid}"
        ));
        ip(&format!("addr add {}/30 dev {cable}", self.host));
        ip(&format!("link set {cable} up"));
        let inside = |args: &str| {
            let enter = ["-t", &pid, "-n", "ip"];
            run(Command::new("nsenter").args(enter).args(args.split(' ')))
        };
        inside("link set lo up");
        inside(&format!("addr add {}/30 dev eth0", self.client));
        inside("link set eth0 up");
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.process.id())
    }

    /// Runs something in the namespace, on a thread of its own: sockets that it opens stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }
}

impl Default for Outside {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
