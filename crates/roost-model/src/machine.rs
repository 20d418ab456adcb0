//! Machines: what one is asked to be (spec), and the states it goes through.
//!
//! ```text
//!             create                 start ok
//!   (none) ──────────▶ Created ─▶ Starting ─────▶ Started ──▶ Stopping ──▶ Stopped
//!                                    │ ▲             │  exits by itself       │
//!                         start fails│ │ restart     ▼                       │
//!                                    │ └──────── (policy) ──▶ Stopped/Failed │
//!                                    ▼                                       │
//!                                  Failed ◀──────────────────────────────────┘
//!   any but Destroyed ── destroy ──▶ Destroying ──▶ Destroyed
//!
//!             suspend                  snapshot is whole            start
//!   Started ───────────▶ Suspending ─────────────────────▶ Suspended ─────▶ Starting
//!      ▲                      │ fails                          │ stop
//!      └──────────────────────┘                                └─────▶ Stopping
//! ```
//!
//! The states and their words are those of the Machines API. `updating` is not
//! a state here: an update writes a new version of the spec and goes through
//! `Stopping` and `Starting`.

mod check;
mod guest;
mod own_names;
mod service;
mod statics;

pub use check::{
    Check, CheckDraft, CheckFault, CheckKind, CheckPlace, CheckPurpose, CheckTls, GrpcCheck,
    HttpCheck, StatusRanges,
};
pub use guest::{CpuKind, CpuTime, Guest, SizeError, UnknownSize};
pub use own_names::own_names;
pub use service::{
    AffinityDraft, Autostop, Concurrency, ConcurrencyDraft, ConcurrencyKind, HttpOptions,
    PortDraft, PortHandler, PortRange, PortSharing, Protocol, ProxyVersion, ReplayCacheDraft,
    ReplayCacheRule, Service, ServiceDraft, ServiceFault, ServicePort, SessionKey, TlsOptions,
    TlsVersion, service_conflicts,
};
pub use statics::{StaticFault, StaticFolder, statics_conflict};

use crate::id::MachineId;
use crate::image_ref::ImageRef;
use crate::name::{AppName, MachineName, RegionCode};
use crate::schedule::Schedule;
use crate::size::ByteSize;
use crate::split::Split;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a machine is asked to be. Immutable: an update makes a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// The app it belongs to.
    pub app: AppName,
    /// Its name, unique within the app.
    pub name: MachineName,
    /// Where it runs.
    pub region: RegionCode,
    /// The image as the user named it; the worker pins its digest.
    pub image: ImageRef,
    /// What to run in it.
    pub process: ProcessSpec,
    /// Several programs to run in it instead. The end of one is the end of all.
    pub processes: Vec<ProcessSpec>,
    /// The isolation that it asks for.
    pub isolation: Isolation,
    /// How much it may use.
    pub guest: Guest,
    /// How much it may write to its root file system, where the node can limit that.
    pub root_disk: ByteSize,
    /// Swap beside its memory, where its rung has it; zero for none.
    pub swap: ByteSize,
    /// Where it takes traffic.
    pub services: Vec<Service>,
    /// Folders whose files the edge serves by itself.
    pub statics: Vec<StaticFolder>,
    /// Health checks of the machine as a whole, by name.
    pub checks: BTreeMap<String, Check>,
    /// Files written before start.
    pub files: Vec<MachineFile>,
    /// What to do when its process ends by itself.
    pub restart: RestartPolicy,
    /// How to stop it.
    pub stop: StopConfig,
    /// Whether to remove it once it has ended.
    pub auto_destroy: bool,
    /// When to start it, if it rests then.
    pub schedule: Option<Schedule>,
    /// The machines that it stands by for: it rests until the node of one of
    /// them is lost.
    pub standbys: Vec<MachineId>,
    /// Labels of the user and of the deploy (`roost_release_id`, …).
    pub metadata: BTreeMap<String, String>,
}

impl MachineSpec {
    /// The label that names the process group.
    pub const PROCESS_GROUP_KEY: &str = "fly_process_group";
    /// The label that has the number of the release, set by deployments.
    pub const RELEASE_KEY: &str = "roost_release_version";
    /// The label that has the [`Split`] of a release that is tried out, set by deployments.
    pub const SPLIT_KEY: &str = "roost_split";
    /// The group of a machine without that label.
    pub const PROCESS_GROUP_DEFAULT: &str = "app";

    /// The programs to run, one or more: several have user and directory of the
    /// machine unless they say otherwise, and its environment below their own.
    pub fn programs(&self) -> Vec<ProcessSpec> {
        if self.processes.is_empty() {
            return vec![self.process.clone()];
        }
        let of_machine = &self.process;
        let with_own = |own: &ProcessSpec| {
            let mut program = own.clone();
            program.user = own.user.clone().or_else(|| of_machine.user.clone());
            program.workdir = own.workdir.clone().or_else(|| of_machine.workdir.clone());
            program.env.clone_from(&of_machine.env);
            program.env.extend(own.env.clone());
            program
        };
        self.processes.iter().map(with_own).collect()
    }

    /// Whether it rests until a machine that it stands by for is lost.
    pub fn is_standby(&self) -> bool {
        !self.standbys.is_empty()
    }

    /// The number of the release that it is of, if a deployment made it.
    pub fn release(&self) -> Option<u64> {
        self.metadata.get(Self::RELEASE_KEY)?.parse().ok()
    }

    /// What it gets of the app's requests, while its release is tried out.
    pub fn split(&self) -> Option<Split> {
        Split::parse(self.metadata.get(Self::SPLIT_KEY)?).ok()
    }

    /// The process group: machines of an app that are alike.
    pub fn process_group(&self) -> &str {
        let named = self.metadata.get(Self::PROCESS_GROUP_KEY);
        named.map_or(Self::PROCESS_GROUP_DEFAULT, String::as_str)
    }
}

/// The program of a machine; `None` means what the image says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessSpec {
    /// Replaces entrypoint and command.
    pub exec: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub cmd: Option<Vec<String>>,
    /// Replaces the image's user: `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Replaces the image's working directory.
    pub workdir: Option<String>,
    /// Variables above the image's own.
    pub env: BTreeMap<String, String>,
}

/// A file written into a machine before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFile {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// The content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// What to do when a machine's process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When to restart.
    pub when: RestartWhen,
    /// Most restarts within the window of `restart::WINDOW` (`OnFailure` only).
    pub retries_max: u32,
}

/// When to restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartWhen {
    /// Never.
    No,
    /// After a non-zero exit code or a signal.
    OnFailure,
    /// After any exit.
    Always,
}

impl RestartPolicy {
    /// On failure, ten times within five minutes.
    pub const DEFAULT: Self = Self {
        when: RestartWhen::OnFailure,
        retries_max: 10,
    };
}

/// How to stop a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopConfig {
    /// The first signal; `None` means what the image says, else SIGINT.
    pub signal: Option<StopSignal>,
    /// Time between the signal and SIGKILL.
    pub timeout: Duration,
}

impl StopConfig {
    /// The image's signal or SIGINT, then five seconds.
    pub const DEFAULT: Self = Self {
        signal: None,
        timeout: Duration::from_secs(5),
    };
}

macro_rules! signals {
    ($($variant:ident = $number:literal $text:literal),* $(,)?) => {
        /// A signal that a stop may begin with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum StopSignal {
            $(#[doc = $text] $variant),*
        }

        impl StopSignal {
            /// All of them by name, for messages.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Reads `SIGTERM`, `TERM`, `sigterm` or `15`.
            pub fn parse(text: &str) -> Option<Self> {
                let upper = text.trim().to_ascii_uppercase();
                let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
                match full.as_str() {
                    $($text => Some(Self::$variant),)*
                    other => match other.strip_prefix("SIG").and_then(|n| n.parse::<i32>().ok()) {
                        $(Some($number) => Some(Self::$variant),)*
                        _ => None,
                    },
                }
            }

            /// The number on Linux (x86 and ARM).
            pub fn number(self) -> i32 {
                match self { $(Self::$variant => $number),* }
            }

            /// The name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

signals! {
    Hup = 1 "SIGHUP",
    Int = 2 "SIGINT",
    Quit = 3 "SIGQUIT",
    Kill = 9 "SIGKILL",
    Usr1 = 10 "SIGUSR1",
    Usr2 = 12 "SIGUSR2",
    Term = 15 "SIGTERM",
    Winch = 28 "SIGWINCH",
    RtMin3 = 37 "SIGRTMIN+3",
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MachineState {
    /// Recorded, never started.
    Created,
    /// Being started.
    Starting,
    /// Its process runs.
    Started,
    /// Being stopped.
    Stopping,
    /// Not running; can be started.
    Stopped,
    /// Its snapshot is being written.
    Suspending,
    /// Not running; can be started, and then goes on from its snapshot.
    Suspended,
    /// Could not be started, or gave up restarting; can be started again.
    Failed,
    /// Being removed.
    Destroying,
    /// Removed; kept as a record for a while.
    Destroyed,
}

impl MachineState {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Starting,
        Self::Started,
        Self::Stopping,
        Self::Stopped,
        Self::Suspending,
        Self::Suspended,
        Self::Failed,
        Self::Destroying,
        Self::Destroyed,
    ];

    /// The word of the Machines API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the machine has come to rest: no transition is under way.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Created
            | Self::Started
            | Self::Stopped
            | Self::Suspended
            | Self::Failed
            | Self::Destroyed => true,
            Self::Starting | Self::Stopping | Self::Suspending | Self::Destroying => false,
        }
    }
}

/// How a machine's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineExit {
    /// The exit code, or 128 + the signal.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for using too much memory.
    pub oom_killed: bool,
    /// What ended it: its own program, or something below it.
    pub cause: ExitCause,
}

/// What ended a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExitCause {
    /// Its own program ended, by itself or by a signal; code and signal are the program's.
    #[default]
    App,
    /// Its hypervisor ended without being asked to.
    Hypervisor,
    /// Its kernel panicked.
    GuestPanic,
    /// The process inside it that speaks for it no longer answered.
    AgentLost,
    /// The process that watched it was killed, so that how it ended is not known.
    Shim,
    /// It was stopped because a check failed that asks for that.
    Unhealthy,
}

impl ExitCause {
    /// All causes.
    pub const ALL: [Self; 6] = [
        Self::App,
        Self::Hypervisor,
        Self::GuestPanic,
        Self::AgentLost,
        Self::Shim,
        Self::Unhealthy,
    ];

    /// The word in events and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Hypervisor => "hypervisor",
            Self::GuestPanic => "guest-panic",
            Self::AgentLost => "agent-lost",
            Self::Shim => "shim",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// What ended the machine, for people; none when its own program did, which
    /// code and signal tell more about.
    pub fn below_the_app(self) -> Option<&'static str> {
        match self {
            Self::App => None,
            Self::Hypervisor => Some("its hypervisor ended without being asked to"),
            Self::GuestPanic => Some("its kernel panicked; its log may say why"),
            Self::AgentLost => Some("what speaks for it inside no longer answered"),
            Self::Shim => {
                Some("the process that watched it was killed, so how it ended is not known")
            }
            Self::Unhealthy => Some("it was stopped since one of its checks failed"),
        }
    }

    /// The cause with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }
}

/// The rung of the isolation ladder that a machine runs on (design 3.5), weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// A hardened container: shared kernel, user namespace, seccomp.
    Container,
    /// A microVM whose processor is emulated: its own kernel, slowly.
    VmEmulated,
    /// A microVM on the processor's own virtualisation: its own kernel.
    Vm,
}

impl Rung {
    /// All rungs, weakest first.
    pub const ALL: [Self; 3] = [Self::Container, Self::VmEmulated, Self::Vm];

    /// The word in configs and statuses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::VmEmulated => "vm-emulated",
            Self::Vm => "vm",
        }
    }

    /// The rung with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.as_str() == text)
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The isolation that a spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The strongest that the node has proven: `vm`, or else `container`.
    /// Never emulation, which is slow.
    #[default]
    Default,
    /// This rung and no other; refused where the node has not proven it.
    Rung(Rung),
}

impl Isolation {
    /// The words that a config may say, for messages and completion.
    pub const WORDS: [&'static str; 4] = ["default", "container", "vm-emulated", "vm"];

    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Rung(rung) => rung.as_str(),
        }
    }

    /// The rungs that grant it, best first.
    pub fn rungs(self) -> &'static [Rung] {
        match self {
            Self::Default => &[Rung::Vm, Rung::Container],
            Self::Rung(Rung::Container) => &[Rung::Container],
            Self::Rung(Rung::VmEmulated) => &[Rung::VmEmulated],
            Self::Rung(Rung::Vm) => &[Rung::Vm],
        }
    }

    /// Reads a word; the error names the words that are allowed.
    pub fn parse(text: &str) -> Result<Self, IsolationError> {
        if text == "default" {
            return Ok(Self::Default);
        }
        let error = || IsolationError { text: text.into() };
        Rung::parse(text).map(Self::Rung).ok_or_else(error)
    }
}

/// A word that is no isolation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not one of {}", Isolation::WORDS.join(", "))]
pub struct IsolationError {
    /// The word.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::{ExitCause, Isolation, MachineState, Rung, StopSignal};

    #[test]
    fn every_state_reads_back() {
        for state in MachineState::ALL {
            assert_eq!(MachineState::parse(state.as_str()), Some(state));
        }
    }

    #[test]
    fn rungs_are_a_ladder_and_every_word_reads_back() {
        assert!(Rung::Container < Rung::VmEmulated && Rung::VmEmulated < Rung::Vm);
        for rung in Rung::ALL {
            assert_eq!(Rung::parse(rung.as_str()), Some(rung));
        }
        for cause in ExitCause::ALL {
            assert_eq!(ExitCause::parse(cause.as_str()), Some(cause));
        }
        for word in Isolation::WORDS {
            assert_eq!(Isolation::parse(word).unwrap().as_str(), word);
        }
        let error = Isolation::parse("VM").unwrap_err().to_string();
        assert!(error.contains("container, vm-emulated, vm"), "{error}");
    }

    #[test]
    fn a_signal_is_read_in_all_its_spellings() {
        for text in ["SIGTERM", "term", "TERM", "15", "sigterm"] {
            assert_eq!(StopSignal::parse(text), Some(StopSignal::Term), "{text}");
        }
        assert_eq!(StopSignal::parse("SIGRTMIN+3"), Some(StopSignal::RtMin3));
        assert_eq!(StopSignal::parse("SIGNOPE"), None);
    }
}
