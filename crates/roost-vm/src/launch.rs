//! `roost-vm run`: from a launch message to the end of the machine.

use crate::boot;
use crate::control::Control;
use crate::handshake::{Handshake, LaunchError};
use crate::output::MachineLog;
use crate::prepare::{self, TAP};
use crate::session::Session;
use crate::snapshot;
use crate::supervise::{Machine, Outcome};
use anyhow::{Context as _, Result, bail};
use roost_host::net::tap::{self, Tap};
use roost_host::vm::open_hypervisor;
use roost_host::vmm::console::Console;
use roost_host::vmm::snapshot::SnapshotTags;
use roost_host::vmm::{Hypervisor, Vm, VmConfig};
use roost_proto::shim::{ShimCommand, ShimEvent, ShimOrigin, exit_path};
use roost_proto::vm::VmLaunch;
use roost_runtime::fs::write_atomic;
use roost_runtime::tasks::Tasks;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// The machine's link in this process's network namespace.
const LINK: &str = "eth0";

/// Runs one machine from its start to its end.
pub(crate) fn run() -> Result<()> {
    // What others may read says so itself.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Signals to roostd's group or terminal are not for this machine. It
    // fails when this process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    let stream = std::io::stdin().as_fd().try_clone_to_owned()?;
    // The lock is held until this process ends; its content is for people.
    let mut lock = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    write!(lock, "{}", std::process::id())?;
    // Before any other thread is there: all are to be in it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("make a network namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(stream.into()))
}

async fn serve(stream: std::os::unix::net::UnixStream) -> Result<()> {
    let mut handshake = Handshake::new(stream)?;
    let launch: VmLaunch = handshake.receive().await?;
    let tasks = Tasks::new();
    let started = Starter {
        launch: &launch,
        tasks: &tasks,
        handshake: &mut handshake,
        is_connected: false,
    };
    match started.start().await {
        Ok((machine, origin)) => {
            if handshake
                .send(&ShimEvent::Started { origin })
                .await
                .is_err()
            {
                // The worker died at the last moment; it will adopt the machine.
            }
            drop(handshake);
            finish(&launch, machine, &tasks).await
        }
        Err(error) => {
            let removed = prepare::remove_places(&launch);
            let event = ShimEvent::Failed {
                fault: error.fault,
                message: error.message,
            };
            handshake.send(&event).await?;
            removed
        }
    }
}

/// Watches over the machine, and tells everybody how it ended.
async fn finish(launch: &VmLaunch, mut machine: Machine, tasks: &Tasks) -> Result<()> {
    let outcome = machine.run().await;
    let control = machine.end().await;
    if let Err(error) = prepare::remove_places(launch) {
        // How it ended is to be told all the same; the worker's sweep comes after.
        eprintln!("clean up after the machine: {error:#}");
    }
    match outcome {
        Outcome::Exited(exit) => {
            let text = serde_json::to_vec(&exit)?;
            if let Err(error) = write_atomic(&exit_path(&launch.run_dir), &text, 0o600) {
                // Who listens hears of it all the same.
                eprintln!("record the machine's end: {error}");
            }
            control.announce(ShimEvent::Exited(exit)).await;
        }
        Outcome::Suspended(reply) => {
            // Whoever asked may be gone; the snapshot speaks for itself.
            let _ = reply.send(ShimEvent::Suspended);
            control.finish().await;
        }
    }
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// A start under way.
struct Starter<'a> {
    launch: &'a VmLaunch,
    tasks: &'a Tasks,
    handshake: &'a mut Handshake,
    /// Whether the worker has attached the network and the tap leads to it.
    is_connected: bool,
}

impl Starter<'_> {
    async fn start(mut self) -> Result<(Machine, ShimOrigin), LaunchError> {
        let launch = self.launch;
        // The network namespace is there: the worker attaches while the guest boots.
        let pid = std::process::id();
        self.handshake.send(&ShimEvent::Created { pid }).await?;
        let log = MachineLog::open(launch)?;
        prepare::make_places(launch)?;
        let tap = Tap::create(TAP, launch.owner).context("make the tap device")?;
        let kernel = prepare::kernel(launch).await?;
        let hypervisor = open_hypervisor(&launch.hypervisor, &launch.region);
        let facts = hypervisor.facts().await.context("look at the hypervisor")?;
        let tags = snapshot::tags(launch, facts, &kernel);
        let config = prepare::config(launch, kernel);
        let mut vm_start = VmStart {
            hypervisor,
            config,
            tags,
            tap,
        };
        let origin = if launch.resume {
            match self.resume(&mut vm_start).await {
                Ok((guest, next_sequence)) => {
                    let machine = self.watch(guest, log, vm_start, next_sequence).await?;
                    return Ok((machine, ShimOrigin::Resumed));
                }
                // The snapshot is as good as before.
                Err(ResumeError::Host(error)) => return Err(error.into()),
                Err(ResumeError::Unfit(reason)) => {
                    // What the attempt has left; a VM that came up has ended with it.
                    prepare::remove_places(launch)?;
                    prepare::make_places(launch)?;
                    ShimOrigin::ColdAfter(format!("{reason:#}"))
                }
            }
        } else {
            ShimOrigin::Cold
        };
        snapshot::discard(launch)?;
        let guest = self.boot(&mut vm_start).await?;
        let machine = self.watch(guest, log, vm_start, 0).await?;
        Ok((machine, origin))
    }

    /// Boots the guest and starts the app in it.
    async fn boot(&mut self, start: &mut VmStart) -> Result<Guest, LaunchError> {
        let limit = Duration::from_millis(self.launch.boot_timeout_ms);
        prepare::make_scratch(self.launch).await?;
        let vm = start.hypervisor.launch(&start.config).await;
        let guest = Guest::of(vm.context("start the hypervisor")?, self.tasks);
        let guest = self.reach(guest, &start.tap, limit).await?;
        // Made now: the clock that it carries is that of the app's first look.
        let request = boot::request(self.launch)?;
        let reply = guest.session.boot(request, limit).await;
        reply.map_err(|mut error| {
            if guest.console.has_panic() {
                error.message = format!("the guest's kernel panicked; {}", guest.console.quote());
            }
            error
        })?;
        Ok(guest)
    }

    /// Goes on from the snapshot, if there is one that fits. When it fails
    /// nothing of the guest runs, and its app has not.
    async fn resume(&mut self, start: &mut VmStart) -> Result<(Guest, u64), ResumeError> {
        let limit = Duration::from_millis(self.launch.boot_timeout_ms);
        let files = snapshot::verify(self.launch, &start.tags).await?;
        let next_sequence = snapshot::next_sequence(&files)?;
        let vm = start.hypervisor.restore(&start.config, &files).await;
        let mut guest = Guest::of(vm.context("restore the snapshot")?, self.tasks);
        let connected = self.connect_network(&start.tap).await;
        connected.map_err(ResumeError::Host)?;
        // From here on the disk goes on, so the snapshot is of no more use.
        snapshot::use_up(self.launch).map_err(ResumeError::Host)?;
        guest.vm.resume().await.context("resume the guest")?;
        let guest = self.reach(guest, &start.tap, limit).await;
        let guest = guest.map_err(|error| anyhow::anyhow!(error.message))?;
        let after = guest.session.after_restore(boot::after_restore()?).await;
        after.map_err(|status| anyhow::anyhow!("wake the guest: {}", status.message()))?;
        snapshot::remove_used(self.launch)?;
        Ok((guest, next_sequence))
    }

    /// Connects the network, and waits for the agent meanwhile.
    async fn reach(
        &mut self,
        mut guest: Guest<()>,
        tap: &Tap,
        limit: Duration,
    ) -> Result<Guest, LaunchError> {
        let console = guest.console.clone();
        let tasks = self.tasks;
        let session = async {
            let session = Session::open(&mut guest.vm, limit, tasks).await;
            session.map_err(|error| LaunchError::host(error.explain(&console)))
        };
        let connected = async { self.connect_network(tap).await.map_err(LaunchError::from) };
        let ((), session) = tokio::try_join!(connected, session)?;
        Ok(Guest {
            vm: guest.vm,
            console,
            session,
        })
    }

    /// Waits until the worker has attached the machine's link, and joins the tap to it.
    async fn connect_network(&mut self, tap: &Tap) -> Result<()> {
        if self.is_connected {
            return Ok(());
        }
        match self.handshake.receive().await? {
            ShimCommand::Start => {}
            ShimCommand::Signal { .. } | ShimCommand::Suspend => {
                bail!("the worker sent a command too early");
            }
        }
        let network = prepare::network(self.launch);
        tap::connect(tap, LINK, network, prepare::link_rates(self.launch))
            .await
            .context("connect the guest to the machine's link")?;
        self.is_connected = true;
        Ok(())
    }

    /// Takes charge of a guest whose app runs.
    async fn watch(
        &self,
        guest: Guest,
        mut log: MachineLog,
        start: VmStart,
        next_sequence: u64,
    ) -> Result<Machine, LaunchError> {
        let control = Control::listen(self.launch, self.tasks)?;
        control.offer_agent(guest.session.channel.clone());
        let beside = self.launch.beside.iter().map(|program| &program.args);
        let programs = std::iter::once(&self.launch.args).chain(beside);
        let programs: Vec<String> = programs.map(|args| args.join(" ")).collect();
        log.system(&format!("machine started: {}", programs.join("; ")));
        let machine = Machine::new(
            self.launch.clone(),
            start.tags,
            guest,
            log,
            control,
            self.tasks.clone(),
        );
        Ok(machine.after_output(next_sequence))
    }
}

/// Why a machine does not go on from its snapshot.
enum ResumeError {
    /// The snapshot does not fit or does not work: it starts from its image.
    Unfit(anyhow::Error),
    /// The host or the worker is at fault: nothing starts, the snapshot stays.
    Host(anyhow::Error),
}

impl From<anyhow::Error> for ResumeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Unfit(error)
    }
}

/// What a VM is started with, cold or not.
struct VmStart {
    hypervisor: Box<dyn Hypervisor>,
    config: VmConfig,
    tags: SnapshotTags,
    tap: Tap,
}

/// A guest, with a session or without one yet.
pub(crate) struct Guest<S = Session> {
    pub(crate) vm: Box<dyn Vm>,
    pub(crate) console: Console,
    pub(crate) session: S,
}

impl Guest<()> {
    /// Begins to read its console.
    fn of(mut vm: Box<dyn Vm>, tasks: &Tasks) -> Self {
        let (console, reading) = Console::of(vm.as_mut());
        tasks.spawn("console", reading);
        Self {
            vm,
            console,
            session: (),
        }
    }
}
