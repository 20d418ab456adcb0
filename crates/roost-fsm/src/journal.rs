//! Where runs are recorded.
//!
//! The journal decides what must be decided in one transaction: whether a run may begin, who
//! executes it, whether a write still counts, whether a request to turn back came in time. All
//! else is decided by [`crate::decide`] from what is recorded.

use crate::record::{Cancel, Direction, Kind, Outcome, Run, Status, Story, Subject, Turn};
use crate::workflow::OnBusy;
use async_trait::async_trait;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use std::time::Duration;

/// The journal could not be used, or refused a write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Somebody else executes the run now. Nothing was written.
    #[error("run {0} is executed by somebody else now")]
    Fenced(RunId),
    /// There is no such run.
    #[error("no run {0}")]
    NotFound(RunId),
    /// The disk is full. Nothing was written.
    #[error("{operation}: the disk is full")]
    Full {
        /// What was attempted.
        operation: &'static str,
    },
    /// The store failed; whether something was written is not known.
    #[error("{operation}")]
    Storage {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record does not have the form it must have. It is not guessed at.
    #[error("the record of {what} is damaged: {problem}")]
    Damaged {
        /// Whose record.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The write contradicts what is recorded: a mistake of the caller.
    #[error("run {run} is {status}: {entry} does not follow")]
    OutOfOrder {
        /// Which run.
        run: RunId,
        /// Where it is.
        status: Status,
        /// What was to be written.
        entry: &'static str,
    },
}

/// A run to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// Its id, unless an earlier run has the same key.
    pub id: RunId,
    /// What is to be executed.
    pub kind: Kind,
    /// What it acts on.
    pub subject: Subject,
    /// What happens if the subject is busy.
    pub on_busy: OnBusy,
    /// A second run with the same key is the same run.
    pub key: Option<String>,
    /// The run whose step begins this one.
    pub parent: Option<RunId>,
    /// Who or what asks for it.
    pub cause: String,
    /// Its parameters as JSON.
    pub params: String,
    /// Now.
    pub created_at: Timestamp,
}

/// What became of a run that was to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It is recorded.
    New {
        /// The run.
        run: Run,
        /// Runs of its subject that were asked to turn back for it.
        superseded: Vec<RunId>,
    },
    /// It was recorded before, under this key.
    Repeated(Run),
    /// The key is that of a run with another workflow, subject or parameters.
    KeyTaken(RunId),
    /// The subject is busy with this run, and the new one does not wait.
    Busy(RunId),
    /// As many runs wait for this subject as may.
    QueueFull,
    /// The subject is that of a run above it: it would wait for itself.
    WaitsForItself(RunId),
    /// The parent has as many children as it may, or is itself a child of too many.
    TooManyRelatives(RunId),
    /// The parent turns back or has ended.
    ParentTurnsBack(RunId),
}

/// What a holder shows with each write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Which run.
    pub run: RunId,
    /// The epoch of its lease.
    pub epoch: u64,
}

/// Asks for runs to execute.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who asks. Its own leases count as ended: it lost its memory of them.
    pub holder: String,
    /// What it can execute.
    pub kinds: Vec<Kind>,
    /// Runs that it executes already.
    pub held: Vec<RunId>,
    /// Most runs without a parent to be given.
    pub n_roots_max: usize,
    /// Now.
    pub now: Timestamp,
    /// How long the leases last.
    pub lease: Duration,
}

/// What a heartbeat came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease goes on.
    Held,
    /// The lease goes on, and the run is asked to turn back.
    AskedToTurnBack,
    /// Somebody else executes the run, or it has ended.
    Lost,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An attempt begins. At most one is open at a time.
    StepStarted {
        /// The step's name.
        step: String,
        /// Done or undone.
        direction: Direction,
        /// Which attempt in this direction, from 1.
        attempt: u32,
    },
    /// The open attempt ends.
    StepEnded {
        /// How.
        outcome: Outcome,
        /// Why it failed.
        reason: Option<String>,
        /// What it came to, as JSON.
        output: Option<String>,
        /// Not before this is it tried again.
        retry_at: Option<Timestamp>,
    },
    /// The run cannot turn back any more.
    PointPassed,
    /// The run undoes from now on; its children are asked to turn back too.
    TurnedBack {
        /// Why.
        turn: Turn,
        /// In words.
        reason: String,
    },
    /// The run ends.
    Ended {
        /// As what.
        status: Status,
        /// Why, if it has not succeeded.
        reason: Option<String>,
    },
}

impl Entry {
    /// What it is called in errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::StepStarted { .. } => "the start of a step",
            Self::StepEnded { .. } => "the end of a step",
            Self::PointPassed => "the point of no return",
            Self::TurnedBack { .. } => "turning back",
            Self::Ended { .. } => "the end",
        }
    }
}

/// What became of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// They are written; this is the run now.
    Written(Story),
    /// The run was asked to turn back before it passed the point of no return. Nothing was
    /// written.
    AskedToTurnBack(Story),
}

/// What became of a request to turn back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelAnswer {
    /// The run will turn back.
    Asked,
    /// It had not begun, and has ended.
    Ended,
    /// It turns back already.
    TurnsBackAlready,
    /// It is past its point of no return.
    PastPoint,
    /// It had ended before.
    EndedBefore(Status),
}

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this subject.
    pub subject: Option<Subject>,
    /// Children of this run.
    pub parent: Option<RunId>,
    /// Only those that have not ended.
    pub only_unfinished: bool,
    /// Changed after this revision; these come oldest change first, others newest run first.
    pub changed_after: Option<u64>,
    /// At most this many, and [`crate::limits::LIST_MAX`].
    pub limit: Option<u32>,
}

/// Which ended runs are forgotten. Those that are stuck go by age alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRule {
    /// Older ones.
    pub keep_for: Duration,
    /// All of a subject but the newest so many.
    pub keep_per_subject: u32,
    /// At most this many at once; children go with their parents and are not counted.
    pub batch: u32,
}

/// A durable record of runs that several processes may share.
///
/// Each method is one transaction: it happens wholly or not at all, also when the caller is
/// dropped while it waits, and what was answered survives a power cut.
#[async_trait]
pub trait Journal: std::fmt::Debug + Send + Sync + 'static {
    /// Records a run as queued.
    async fn open(&self, new: NewRun) -> Result<Opened, JournalError>;

    /// Gives runs that nobody executes to the caller: those that were begun and whose lease
    /// ended, and queued ones whose turn has come. Each gets a higher epoch.
    ///
    /// A lease that ends later than a new one would was made by a clock that has been set back,
    /// and counts as ended: the epoch keeps two holders apart, whatever clocks do.
    async fn claim(&self, claim: Claim) -> Result<Vec<Run>, JournalError>;

    /// Prolongs leases until `until`; answers in the same order. An `until` of now gives the
    /// runs back.
    async fn renew(
        &self,
        fences: Vec<Fence>,
        until: Timestamp,
    ) -> Result<Vec<Renewal>, JournalError>;

    /// Writes what happened, all or nothing. Refused with [`JournalError::Fenced`] unless the
    /// fence is that of the newest lease.
    async fn record(
        &self,
        fence: Fence,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Recorded, JournalError>;

    /// Asks a run to turn back. One that has not begun ends at once.
    async fn ask_cancel(&self, run: RunId, cancel: Cancel) -> Result<CancelAnswer, JournalError>;

    /// One run with all that happened in it.
    async fn load(&self, run: RunId) -> Result<Option<Story>, JournalError>;

    /// Runs without their steps.
    async fn list(&self, filter: Filter) -> Result<Vec<Run>, JournalError>;

    /// Forgets old runs and says how many.
    async fn prune(&self, rule: PruneRule, now: Timestamp) -> Result<usize, JournalError>;
}

impl Run {
    /// What its holder shows with each write.
    pub fn fence(&self) -> Fence {
        Fence {
            run: self.id.clone(),
            epoch: self.epoch,
        }
    }
}
