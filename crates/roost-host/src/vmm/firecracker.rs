//! Firecracker: a small hypervisor for KVM, under its own jailer.
//!
//! ```text
//!   firecracker.rs   the driver and its VM
//!   ├─ version       which one is installed, and whether it is known to work
//!   ├─ chroot        the directory that becomes its root: links, no copies
//!   ├─ process       jailer ⇒ firecracker, dies with the caller (sys: fork to exec)
//!   ├─ config        VmConfig → requests
//!   ├─ api, socket   sending them
//!   ├─ agent         the stream to the guest
//!   ├─ records       its log and metrics
//!   └─ filter        whether it filters its system calls
//! ```
//!
//! # What the jail is made of
//!
//! The jailer gives Firecracker the machine's user and group, a root directory
//! with nothing in it but the files of the VM, `/dev/kvm` and `/dev/net/tun`, and
//! a bound on files. The process namespace, the cgroup and the network namespace
//! (the caller's, which is for this VM alone) come from here. Firecracker itself
//! filters its system calls; programs built for glibc instead of musl have an
//! empty filter, which is found out after the start and refused.
//!
//! How much a guest sends is limited on its tap device, for all hypervisors
//! alike; how much it moves to and from disks is limited by Firecracker.

use super::{
    Accelerator, AgentStream, Hypervisor, HypervisorFacts, HypervisorKind, Vm, VmConfig, VmEnd,
    VmStats, VmmError, snapshot::state_timeout, stats,
};
use crate::cgroup::Cgroup;
use async_trait::async_trait;
use roost_model::size::ByteSize;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::unix::pipe;
use tokio::sync::OnceCell;

mod agent;
mod api;
mod chroot;
mod config;
mod filter;
pub mod limits;
mod process;
mod records;
mod socket;
#[expect(
    unsafe_code,
    reason = "what a process does between fork and exec has no safe wrapper; all of it is there"
)]
mod sys;
mod version;

use api::{Api, ApiRequest};
use chroot::Chroot;
use config::inside;
use filter::Filtered;
use limits::{
    END_TIMEOUT, FILE_BYTES_MARGIN, GUEST_MAPPING_MIN, MESSAGE_TIMEOUT, OPEN_FILES_MAX,
    REQUEST_TIMEOUT, START_POLL_MAX, START_POLL_MIN, START_TIMEOUT,
};

use process::{Output, Process, ProcessConfig};
use records::{Records, Sources};
use socket::SocketPath;
use version::Installed;

/// Whether Firecracker has to filter its system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FilterPolicy {
    /// One without a filter is refused.
    #[default]
    Required,
    /// One without a filter is used, with a warning. For tests with programs
    /// that are no release of Firecracker.
    Optional,
}

/// How Firecracker is found and used.
#[derive(Debug, Clone, Default)]
pub struct FirecrackerOptions {
    /// The program; looked for where programs are if it is not given.
    pub firecracker: Option<PathBuf>,
    /// Its jailer, of the same version.
    pub jailer: Option<PathBuf>,
    /// Whether it has to filter its system calls.
    pub filter: FilterPolicy,
    /// What guests are told of where they are.
    pub region: String,
}

/// The driver.
#[derive(Debug)]
pub struct Firecracker {
    options: FirecrackerOptions,
    installed: OnceCell<Installed>,
}

impl Firecracker {
    /// A driver for what these options name; nothing is looked for yet.
    pub fn new(options: FirecrackerOptions) -> Self {
        Self {
            options,
            installed: OnceCell::new(),
        }
    }

    async fn installed(&self) -> Result<&Installed, VmmError> {
        let options = &self.options;
        let find = || version::find(options.firecracker.as_deref(), options.jailer.as_deref());
        self.installed.get_or_try_init(find).await
    }

    /// Starts the process, up to its first answer.
    async fn start(
        &self,
        config: &VmConfig,
        load: Option<&Path>,
    ) -> Result<FirecrackerVm, VmmError> {
        config::check(config)?;
        let installed = self.installed().await?;
        let program = installed.firecracker.file_name().unwrap_or_default();
        let chroot = Chroot::prepare(config, program, load).map_err(|error| VmmError::Io {
            operation: format!("make a jail: {error}"),
            source: error.source,
        })?;
        let at = |operation: &str| {
            let operation = operation.to_owned();
            move |source| VmmError::Io { operation, source }
        };
        let socket = |name| SocketPath::new(&chroot.root, name).map_err(at("open the jail"));
        let api = Api::new(socket(file_name(inside::API))?);
        let agent = socket(file_name(inside::AGENT))?;
        let cgroup = match &config.cgroup {
            Some(path) => entrances(path).map_err(at("open the cgroup"))?,
            None => Vec::new(),
        };
        let (process, output) = Process::start(ProcessConfig {
            name: config.name.clone(),
            jailer: installed.jailer.clone(),
            args: jailer_args(config, installed, &chroot.id),
            cgroup,
            binds: chroot.binds,
        })
        .await?;
        let Output { stdout, stderr } = output;
        let sources = Sources {
            stderr,
            log: chroot.log,
            metrics: chroot.metrics,
        };
        let mut vm = FirecrackerVm {
            name: config.name.clone(),
            owner: config.owner,
            memory: config.memory,
            pid: 0,
            api,
            agent,
            console: Some(stdout),
            records: Records::collect(config.name.clone(), sources, process.watch()),
            process,
            save: chroot.save,
        };
        match self.await_api(&mut vm).await {
            Ok(()) => Ok(vm),
            Err(error) => Err(vm.give_up(error).await),
        }
    }

    /// Waits for the first answer, and learns who gives it.
    async fn await_api(&self, vm: &mut FirecrackerVm) -> Result<(), VmmError> {
        let answered = tokio::time::timeout(START_TIMEOUT, vm.find_pid()).await;
        let timed_out = |_| VmmError::TimedOut {
            operation: "start firecracker".to_owned(),
            limit: START_TIMEOUT,
        };
        vm.pid = answered.map_err(timed_out)??;
        // It listens before it filters, and answers after that.
        vm.api
            .send(ApiRequest::get("/version"), REQUEST_TIMEOUT)
            .await?;
        self.check_filter(vm, &[Filtered::All, Filtered::Some])
    }

    fn check_filter(&self, vm: &FirecrackerVm, accepted: &[Filtered]) -> Result<(), VmmError> {
        let filtered = filter::filtered(vm.pid).map_err(|source| VmmError::Io {
            operation: "look for firecracker's filter of system calls".to_owned(),
            source,
        })?;
        if accepted.contains(&filtered) {
            return Ok(());
        }
        match self.options.filter {
            FilterPolicy::Required => Err(VmmError::Unusable(
                "firecracker runs without a filter of system calls; \
                 install a release, which is built for musl"
                    .to_owned(),
            )),
            FilterPolicy::Optional => {
                tracing::warn!(
                    machine_id = vm.name,
                    "firecracker runs without a filter of system calls"
                );
                Ok(())
            }
        }
    }

    /// Sends what makes a guest of the process.
    async fn bring_up(
        &self,
        vm: FirecrackerVm,
        requests: Vec<ApiRequest>,
        limit: Duration,
    ) -> Result<Box<dyn Vm>, VmmError> {
        let mut result = Ok(());
        for request in requests {
            result = vm.api.send(request, limit).await;
            if result.is_err() {
                break;
            }
        }
        match result.and_then(|()| self.check_filter(&vm, &[Filtered::All])) {
            Ok(()) => Ok(Box::new(vm)),
            Err(error) => Err(vm.give_up(error).await),
        }
    }
}

#[async_trait]
impl Hypervisor for Firecracker {
    async fn facts(&self) -> Result<HypervisorFacts, VmmError> {
        let installed = self.installed().await?;
        Ok(HypervisorFacts {
            kind: HypervisorKind::Firecracker,
            version: installed.version_text.clone(),
            accelerator: Accelerator::Kvm,
        })
    }

    async fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmmError> {
        let version = self.installed().await?.version;
        let vm = self.start(config, None).await?;
        let requests = config::cold_start(config, version, &self.options.region);
        self.bring_up(vm, requests, REQUEST_TIMEOUT).await
    }

    async fn restore(&self, config: &VmConfig, files: &Path) -> Result<Box<dyn Vm>, VmmError> {
        let vm = self.start(config, Some(files)).await?;
        let mut requests = vec![config::load_snapshot()];
        requests.extend(config::metadata(config, &self.options.region));
        let limit = state_timeout(config.memory);
        self.bring_up(vm, requests, limit).await
    }
}

/// A VM that runs under Firecracker.
#[derive(Debug)]
struct FirecrackerVm {
    name: String,
    owner: super::VmOwner,
    memory: ByteSize,
    /// Of Firecracker itself, on the host.
    pid: u32,
    process: Process,
    api: Api,
    agent: SocketPath,
    console: Option<pipe::Receiver>,
    records: Records,
    save: OwnedFd,
}

impl FirecrackerVm {
    /// The process that listens for requests, as soon as one does.
    async fn find_pid(&mut self) -> Result<u32, VmmError> {
        let mut pause = START_POLL_MIN;
        loop {
            if let Ok(stream) = self.api.connect().await
                && let Ok(peer) = stream.peer_cred()
                && let Some(pid) = peer.pid().and_then(|pid| u32::try_from(pid).ok())
            {
                return Ok(pid);
            }
            if self.process.has_ended() {
                return Err(VmmError::Ended(String::new()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(START_POLL_MAX);
        }
    }

    /// Ends what did not come up, and says why.
    async fn give_up(mut self, error: VmmError) -> VmmError {
        let error = self.explain(error).await;
        match self.process.kill().await {
            Ok(()) => error,
            Err(error) => error,
        }
    }

    /// The better reason, if the process has ended: its own.
    async fn explain(&mut self, error: VmmError) -> VmmError {
        match error {
            VmmError::Io { .. } | VmmError::Ended(_) => {}
            VmmError::Unusable(_) | VmmError::Refused { .. } | VmmError::TimedOut { .. } => {
                return error;
            }
        }
        // It breaks off its answer a moment before it is gone.
        match tokio::time::timeout(END_TIMEOUT, self.ended()).await {
            Ok(end) => VmmError::Ended(end.to_string()),
            Err(_) => error,
        }
    }

    async fn send(&mut self, request: ApiRequest, limit: Duration) -> Result<(), VmmError> {
        match self.api.send(request, limit).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }
}

#[async_trait]
impl Vm for FirecrackerVm {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn open_agent(&mut self) -> Result<Box<dyn AgentStream>, VmmError> {
        match agent::open(&self.agent).await {
            Ok(stream) => Ok(Box::new(stream)),
            // Most often the guest does not listen yet: that is no reason to wait.
            Err(error) if !self.process.has_ended() => Err(error),
            Err(error) => Err(self.explain(error).await),
        }
    }

    fn take_console(&mut self) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
        let console = self.console.take()?;
        Some(Box::new(console))
    }

    async fn pause(&mut self) -> Result<(), VmmError> {
        self.send(config::set_state("Paused"), REQUEST_TIMEOUT)
            .await
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.send(config::set_state("Resumed"), REQUEST_TIMEOUT)
            .await
    }

    async fn snapshot(&mut self, files: &Path) -> Result<(), VmmError> {
        let at = |operation: &str| {
            let operation = operation.to_owned();
            move |source| VmmError::Io { operation, source }
        };
        chroot::begin_save(&self.save, self.owner).map_err(at("make files for a snapshot"))?;
        let request = config::create_snapshot();
        self.send(request, state_timeout(self.memory)).await?;
        let save = self.save.try_clone().map_err(at("move a snapshot"))?;
        let files = files.to_owned();
        tokio::task::spawn_blocking(move || chroot::end_save(&save, &files))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(at("move a snapshot"))
    }

    async fn stats(&self) -> Result<VmStats, VmmError> {
        stats::read(self.pid, |size| size >= GUEST_MAPPING_MIN).await
    }

    async fn ended(&mut self) -> VmEnd {
        // Cancel-safe: both waits are, and the exit stays known.
        let exit = self.process.ended().await;
        exit.end(self.records.message(MESSAGE_TIMEOUT).await)
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.process.kill().await
    }
}

fn jailer_args(config: &VmConfig, installed: &Installed, id: &str) -> Vec<OsString> {
    let file_bytes_max = config
        .drives
        .iter()
        .fold(config.memory.bytes(), |most, drive| {
            let size = std::fs::metadata(&drive.path).map_or(0, |data| data.len());
            most.max(size)
        });
    let file_bytes_max = file_bytes_max.saturating_add(FILE_BYTES_MARGIN);
    let own: [(&str, OsString); 7] = [
        ("--id", id.into()),
        ("--exec-file", installed.firecracker.clone().into()),
        ("--uid", config.owner.uid.to_string().into()),
        ("--gid", config.owner.gid.to_string().into()),
        ("--chroot-base-dir", config.dir.clone().into()),
        ("--resource-limit", format!("fsize={file_bytes_max}").into()),
        (
            "--resource-limit",
            format!("no-file={OPEN_FILES_MAX}").into(),
        ),
    ];
    let passed_on = [
        ("--api-sock", inside::API),
        ("--log-path", inside::LOG),
        ("--level", "Warning"),
        ("--metrics-path", inside::METRICS),
    ];
    let mut args: Vec<OsString> = Vec::new();
    for (name, value) in own {
        args.extend([name.into(), value]);
    }
    args.push("--".into());
    for (name, value) in passed_on {
        args.extend([name.into(), value.into()]);
    }
    args
}

fn entrances(cgroup: &str) -> io::Result<Vec<OwnedFd>> {
    let files = Cgroup::at(cgroup)?.entrances()?;
    Ok(files.into_iter().map(OwnedFd::from).collect())
}

fn file_name(inside: &'static str) -> &'static str {
    inside.trim_start_matches('/')
}

#[cfg(test)]
mod tests;
