//! The life of a machine that runs: one task, one wait for everything.
//!
//! ```text
//!            output ──▶ log                       session lost ──▶ open another ──▶ follow again
//!  follow ── app's exit, hypervisor's end, SIGKILL ──▶ Exited           └── no answer ──▶ Exited
//!         ── suspend ──▶ freeze, pause, snapshot, seal ──▶ Suspended
//!                           ├── any of these fails: thaw ──▶ follow
//!                           └── SIGKILL before the seal ──▶ Exited
//! ```
//!
//! This task alone owns the VM; commands come to it one by one.

use crate::boot;
use crate::control::{Control, Request};
use crate::launch::Guest;
use crate::limits::{
    AGENT_LOST_TIMEOUT, AGENT_RETRY_PAUSE, COMMANDS_MAX, DROPPED_REPORT_DELAY, FLOOD_PAUSE,
    OUTPUT_DRAIN_TIMEOUT,
};
use crate::output::MachineLog;
use crate::session::Session;
use crate::snapshot;
use anyhow::{Context as _, Result, anyhow, bail};
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{AppExit, WatchEvent};
use roost_host::cgroup::Cgroup;
use roost_host::vmm::console::Console;
use roost_host::vmm::session::{OpenSessionError, message_of};
use roost_host::vmm::snapshot::{FREEZE_TIMEOUT, SnapshotTags};
use roost_host::vmm::{Vm, VmEnd};
use roost_proto::shim::{ShimCommand, ShimEvent, ShimExit, ShimExitCause};
use roost_proto::vm::VmLaunch;
use roost_runtime::tasks::Tasks;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

/// Number of the signal that is not the guest's to handle.
const SIGKILL: i32 = 9;

/// What ends a machine at once.
const KILL: ShimCommand = ShimCommand::Signal { number: SIGKILL };

/// A machine whose app runs.
pub(crate) struct Machine {
    launch: VmLaunch,
    tags: SnapshotTags,
    vm: Box<dyn Vm>,
    console: Console,
    session: Session,
    log: MachineLog,
    control: Control,
    tasks: Tasks,
    /// The number of the first output event that is not in the log.
    next_sequence: u64,
    /// Whether the app may be frozen by a suspend that failed.
    is_frozen: bool,
}

/// How it came to its end.
pub(crate) enum Outcome {
    /// It ended.
    Exited(ShimExit),
    /// Its snapshot is on disk; who asked for that is to be told when all is cleaned up.
    Suspended(oneshot::Sender<ShimEvent>),
}

/// Why following the guest came to an end.
enum Followed {
    Ended(Outcome),
    SessionLost,
}

/// Who asked is told here.
type Reply = oneshot::Sender<ShimEvent>;

/// What a request has led to.
enum Obeyed {
    RunsOn,
    /// Its snapshot is on disk.
    Suspended(Reply),
    /// It is to be ended at once.
    Kill(Reply),
}

/// Signals for the app that wait for their turn.
type Signals = Vec<(i32, Reply)>;

impl Machine {
    pub(crate) fn new(
        launch: VmLaunch,
        tags: SnapshotTags,
        guest: Guest,
        log: MachineLog,
        control: Control,
        tasks: Tasks,
    ) -> Self {
        Self {
            launch,
            tags,
            vm: guest.vm,
            console: guest.console,
            session: guest.session,
            log,
            control,
            tasks,
            next_sequence: 0,
            is_frozen: false,
        }
    }

    /// Its output before the event of this number is in the log already.
    pub(crate) fn after_output(mut self, next_sequence: u64) -> Self {
        self.next_sequence = next_sequence;
        self
    }

    /// Serves the machine until it has ended or is suspended.
    pub(crate) async fn run(&mut self) -> Outcome {
        let mut answered = Instant::now();
        loop {
            if self.thaw().await
                && let Ok(mut events) = self.session.watch(self.next_sequence).await
            {
                if let Followed::Ended(outcome) = self.follow(&mut events).await {
                    return outcome;
                }
                answered = Instant::now();
            } else if answered.elapsed() > AGENT_LOST_TIMEOUT {
                // It opens sessions and does nothing in them.
                return self.agent_lost("its agent refuses to work");
            } else {
                sleep(AGENT_RETRY_PAUSE).await;
            }
            if let Some(outcome) = self.reopen().await {
                return outcome;
            }
        }
    }

    /// Ends what is left of it.
    pub(crate) async fn end(mut self) -> Control {
        if let Err(error) = self.vm.kill().await {
            eprintln!("end the hypervisor: {error}");
        }
        self.log.flush();
        self.log.report_dropped();
        self.control
    }

    async fn follow(&mut self, events: &mut Streaming<WatchEvent>) -> Followed {
        loop {
            // All branches are cancel-safe: what is not taken now is taken next time.
            tokio::select! {
                message = events.message() => match message {
                    Ok(Some(event)) => {
                        if let Some(exit) = self.take(event).await {
                            return Followed::Ended(Outcome::Exited(exit));
                        }
                    }
                    Ok(None) | Err(_) => return Followed::SessionLost,
                },
                end = self.vm.ended() => {
                    let outcome = match self.drain(events).await {
                        Some(exit) => Outcome::Exited(exit),
                        None => self.hypervisor_ended(&end),
                    };
                    return Followed::Ended(outcome);
                }
                Some(request) = self.control.requests.recv() => match self.obey(request).await {
                    // It may be frozen: another session is to thaw it.
                    Obeyed::RunsOn if self.is_frozen => return Followed::SessionLost,
                    Obeyed::RunsOn => {}
                    Obeyed::Suspended(reply) => {
                        return Followed::Ended(Outcome::Suspended(reply));
                    }
                    Obeyed::Kill(reply) => {
                        // The guest has no say, but what it said before is kept.
                        let _ = reply.send(ShimEvent::Signalled);
                        let _ = self.vm.kill().await;
                        self.drain(events).await;
                        return Followed::Ended(self.killed_on_request());
                    }
                },
                () = sleep(DROPPED_REPORT_DELAY), if self.log.has_dropped() => {
                    self.log.report_dropped();
                }
            }
        }
    }

    /// Takes what has arrived of a guest that has ended; returns its app's exit
    /// if that is part of it.
    async fn drain(&mut self, events: &mut Streaming<WatchEvent>) -> Option<ShimExit> {
        let arrived = async {
            while let Ok(Some(event)) = events.message().await {
                if let Some(exit) = self.take(event).await {
                    return Some(exit);
                }
            }
            None
        };
        timeout(OUTPUT_DRAIN_TIMEOUT, arrived).await.ok().flatten()
    }

    /// Opens another session in place of one that was lost.
    async fn reopen(&mut self) -> Option<Outcome> {
        self.session.close();
        let mut signals = Signals::new();
        let busy = "the guest does not answer";
        let opened = tokio::select! {
            opened = Session::open(&mut self.vm, AGENT_LOST_TIMEOUT, &self.tasks) => opened,
            kill = kill_asked(&mut self.control.requests, &mut signals, busy) => {
                let _ = kill.send(ShimEvent::Signalled);
                return Some(self.killed_on_request());
            }
        };
        match opened {
            Ok(session) => {
                self.control.offer_agent(session.channel.clone());
                self.session = session;
                self.pass_on(signals);
                None
            }
            Err(OpenSessionError::Ended(end)) => Some(self.hypervisor_ended(&end)),
            Err(error) => {
                let why = format!("{error}; {}", self.console.quote());
                Some(self.agent_lost(&why))
            }
        }
    }

    /// Takes an event of the app; returns its exit if it is that.
    async fn take(&mut self, event: WatchEvent) -> Option<ShimExit> {
        if event.sequence != 0 {
            self.next_sequence = event.sequence.saturating_add(1);
        }
        match event.event? {
            Event::Output(output) if !output.data.is_empty() => self.log.take(&output).await,
            // No guest of ours sends these often; another one is slowed down.
            Event::Output(_) => sleep(FLOOD_PAUSE).await,
            Event::LostBytes(n) => {
                self.log
                    .system(&format!("{n} bytes of output were lost in the guest"));
                sleep(FLOOD_PAUSE).await;
            }
            Event::Exit(exit) => return Some(self.app_exited(&exit)),
        }
        None
    }

    fn app_exited(&mut self, exit: &AppExit) -> ShimExit {
        let signal = (exit.signal != 0).then_some(exit.signal);
        self.log.flush();
        // The number that it was given, if it is one of several; nothing else that a guest says.
        let first = match exit.process.parse::<u8>() {
            Ok(number) => format!(": its program {number} was the first to end"),
            Err(_) => String::new(),
        };
        self.log.system(&match (exit.oom_killed, signal) {
            (true, _) => format!(
                "machine ran out of memory: exit code {}{first}",
                exit.exit_code
            ),
            (false, Some(signal)) => format!("machine was ended by signal {signal}{first}"),
            (false, None) => format!("machine exited with code {}{first}", exit.exit_code),
        });
        ShimExit {
            exit_code: exit.exit_code,
            signal,
            oom_killed: exit.oom_killed,
            cause: ShimExitCause::App,
        }
    }

    fn hypervisor_ended(&mut self, end: &VmEnd) -> Outcome {
        let has_panic = self.console.has_panic();
        self.log.flush();
        if end.exit_code == Some(0) && !has_panic {
            self.log.system("machine switched itself off");
            return Outcome::Exited(ShimExit {
                exit_code: 0,
                signal: None,
                oom_killed: false,
                cause: ShimExitCause::App,
            });
        }
        if has_panic {
            let quote = self.console.quote();
            self.log
                .system(&format!("machine's kernel panicked; {quote}"));
        } else {
            self.log
                .system(&format!("machine: its hypervisor ended: {end}"));
        }
        let oom_kills = Cgroup::at(&self.launch.cgroup).map_or(0, |cgroup| cgroup.oom_kills());
        Outcome::Exited(ShimExit {
            exit_code: end.signal.map_or(1, |signal| 128 + signal),
            signal: end.signal,
            oom_killed: oom_kills > 0,
            cause: if has_panic {
                ShimExitCause::GuestPanic
            } else {
                ShimExitCause::Hypervisor
            },
        })
    }

    async fn obey(&mut self, request: Request) -> Obeyed {
        let Request { command, reply } = request;
        match command {
            KILL => Obeyed::Kill(reply),
            ShimCommand::Signal { number } => {
                self.pass_on(vec![(number, reply)]);
                Obeyed::RunsOn
            }
            ShimCommand::Suspend => self.suspend(reply).await,
            // It has been started; whoever asks has lost its way.
            ShimCommand::Start => Obeyed::RunsOn,
        }
    }

    /// Sends signals to the app.
    fn pass_on(&self, signals: Signals) {
        for (number, reply) in signals {
            let session = self.session.clone();
            self.tasks.spawn("signal", async move {
                // Without an answer the worker hears that nobody answers.
                if session.signal(number).await.is_ok() {
                    let _ = reply.send(ShimEvent::Signalled);
                }
            });
        }
    }

    /// Writes the snapshot. When it fails no snapshot is left, and the app is
    /// to run on.
    async fn suspend(&mut self, reply: Reply) -> Obeyed {
        self.control.set_suspending(true);
        self.is_frozen = true;
        let mut signals = Signals::new();
        let busy = "it is being suspended";
        let written = tokio::select! {
            written = write_state(self.vm.as_mut(), &self.session, &self.launch) => written,
            kill = kill_asked(&mut self.control.requests, &mut signals, busy) => {
                let _ = snapshot::discard(&self.launch);
                let message = "it was killed meanwhile".to_owned();
                let _ = reply.send(ShimEvent::SuspendFailed { message });
                return Obeyed::Kill(kill);
            }
        };
        let sealed = match written {
            Ok(files) => self.seal(&files).await,
            Err(error) => Err(error),
        };
        let Err(error) = sealed else {
            return Obeyed::Suspended(reply);
        };
        let _ = snapshot::discard(&self.launch);
        self.thaw().await;
        self.control.set_suspending(false);
        let message = format!("{error:#}");
        self.log
            .system(&format!("machine was not suspended: {message}"));
        let _ = reply.send(ShimEvent::SuspendFailed { message });
        self.pass_on(signals);
        Obeyed::RunsOn
    }

    /// Makes the files of the guest's state a snapshot. Not to be interrupted:
    /// nobody could tell whether it is one.
    async fn seal(&mut self, files: &Path) -> Result<()> {
        // Before it is sealed: after that a crash of this process resumes it.
        self.log.flush();
        self.log.system("machine is suspended");
        snapshot::seal(&self.launch, files, &self.tags, self.next_sequence).await
    }

    /// Lets an app that a suspend has frozen run on; `false` when it may still
    /// be frozen, which is tried again with another session.
    async fn thaw(&mut self) -> bool {
        if !self.is_frozen {
            return true;
        }
        // A guest that is not paused does not mind.
        let _ = self.vm.resume().await;
        let Ok(request) = boot::after_restore() else {
            return false;
        };
        match self.session.after_restore(request).await {
            Ok(()) => self.is_frozen = false,
            Err(status) => eprintln!("let the app run on: {}", status.message()),
        }
        !self.is_frozen
    }

    fn agent_lost(&mut self, why: &str) -> Outcome {
        self.log.flush();
        self.log.system(&format!(
            "machine was ended, since its guest does not answer; {why}"
        ));
        Outcome::Exited(killed(ShimExitCause::AgentLost))
    }

    fn killed_on_request(&mut self) -> Outcome {
        self.log.flush();
        self.log
            .system(&format!("machine was ended by signal {SIGKILL}"));
        Outcome::Exited(killed(ShimExitCause::App))
    }
}

/// Freezes the app and writes the state of the guest; returns where it is.
async fn write_state(vm: &mut dyn Vm, session: &Session, launch: &VmLaunch) -> Result<PathBuf> {
    tokio::select! {
        prepared = session.prepare_snapshot(FREEZE_TIMEOUT) => {
            prepared.map_err(|status| anyhow!("freeze the app: {}", message_of(&status)))?;
        }
        end = vm.ended() => bail!("its hypervisor ended: {end}"),
    }
    vm.pause().await.context("pause the guest")?;
    let files = snapshot::prepare(launch)?;
    let written = vm.snapshot(&files).await;
    written.context("write the guest's state")?;
    Ok(files)
}

/// Resolves when the machine is to be killed; meanwhile other signals wait,
/// and a suspend is refused for this reason.
async fn kill_asked(
    requests: &mut mpsc::Receiver<Request>,
    signals: &mut Signals,
    busy: &str,
) -> Reply {
    while let Some(Request { command, reply }) = requests.recv().await {
        match command {
            KILL => return reply,
            ShimCommand::Signal { number } if signals.len() < COMMANDS_MAX => {
                signals.push((number, reply));
            }
            ShimCommand::Suspend => {
                let message = busy.to_owned();
                let _ = reply.send(ShimEvent::SuspendFailed { message });
            }
            // Nobody answers, and so whoever asks is told.
            ShimCommand::Signal { .. } | ShimCommand::Start => {}
        }
    }
    std::future::pending().await
}

fn killed(cause: ShimExitCause) -> ShimExit {
    ShimExit {
        exit_code: 128 + SIGKILL,
        signal: Some(SIGKILL),
        oom_killed: false,
        cause,
    }
}

#[cfg(test)]
mod tests;
