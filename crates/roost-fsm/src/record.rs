//! What the journal keeps: runs, and the attempts of their steps.

use crate::limits;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use std::fmt;

/// A workflow as the journal knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// The workflow's name.
    pub name: String,
    /// Its version: a list of steps that changed is a new one.
    pub version: u32,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name, self.version)
    }
}

/// What a run acts on, for example `machine/148e…` or `app/shop`. One run at a time does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(String);

/// A text cannot be a subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a subject has 1 to {} bytes and no control characters",
    limits::SUBJECT_BYTES_MAX
)]
pub struct SubjectError;

impl Subject {
    /// Takes a text as a subject.
    pub fn new(text: impl Into<String>) -> Result<Self, SubjectError> {
        let text = text.into();
        let fits = (1..=limits::SUBJECT_BYTES_MAX).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(SubjectError)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An enum that is stored as one word per variant.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Reads a stored word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Where a run is.
    ///
    /// ```text
    /// queued ─▶ running ─▶ succeeded
    ///    │         │ └───▶ stuck             (a step past the point of no return failed for good)
    ///    │         ▼
    ///    │      undoing ─▶ failed, cancelled, superseded
    ///    │         └─────▶ stuck             (an undo failed for good)
    ///    └───────────────▶ cancelled, superseded
    /// ```
    Status {
        /// Recorded, and begins when the subject's earlier runs have ended.
        Queued = "queued",
        /// Does its steps.
        Running = "running",
        /// Undoes the steps that it began.
        Undoing = "undoing",
        /// Did every step.
        Succeeded = "succeeded",
        /// A step failed; what was begun is undone.
        Failed = "failed",
        /// Cancelled by request; what was begun is undone.
        Cancelled = "cancelled",
        /// Gave way to a newer run of its subject; what was begun is undone.
        Superseded = "superseded",
        /// Neither forward nor back: a person must look.
        Stuck = "stuck",
    }
}

impl Status {
    /// Whether nothing more happens.
    pub const fn is_ended(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Undoing => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Superseded | Self::Stuck => {
                true
            }
        }
    }
}

words! {
    /// Why a run turns back.
    Turn {
        /// A step failed for good.
        Failed = "failed",
        /// Somebody asked for it.
        Cancelled = "cancelled",
        /// A newer run of its subject wants its place.
        Superseded = "superseded",
    }
}

impl Turn {
    /// The status of the run when all is undone.
    pub const fn ends_as(self) -> Status {
        match self {
            Self::Failed => Status::Failed,
            Self::Cancelled => Status::Cancelled,
            Self::Superseded => Status::Superseded,
        }
    }
}

words! {
    /// Which of a step's two functions is meant.
    Direction {
        /// The one that does it.
        Do = "do",
        /// The one that undoes it.
        Undo = "undo",
    }
}

words! {
    /// How an attempt ended.
    Outcome {
        /// It did what it should; its output is recorded.
        Done = "done",
        /// It failed, and is tried again.
        Retry = "retry",
        /// It failed for good.
        Failed = "failed",
        /// It was dropped because the run turned back.
        Dropped = "dropped",
        /// Its process ended, or lost its lease.
        CutOff = "cut off",
    }
}

/// A request to turn back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// When it was asked.
    pub at: Timestamp,
    /// [`Turn::Cancelled`] or [`Turn::Superseded`].
    pub turn: Turn,
    /// Who asked, and why.
    pub reason: String,
}

/// Who executes a run, and until when nobody else may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The engine's name.
    pub holder: String,
    /// Without a heartbeat it ends here.
    pub until: Timestamp,
}

/// One execution of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What is executed.
    pub kind: Kind,
    /// What it acts on.
    pub subject: Subject,
    /// A second run with the same key is the same run.
    pub key: Option<String>,
    /// The run whose step began this one.
    pub parent: Option<RunId>,
    /// Who or what asked for it.
    pub cause: String,
    /// Its parameters as JSON.
    pub params: String,
    /// Where it is.
    pub status: Status,
    /// Why it turned back, if it did.
    pub turn: Option<Turn>,
    /// Why it failed, was cancelled or is stuck.
    pub reason: Option<String>,
    /// The request to turn back, if there was one.
    pub cancel: Option<Cancel>,
    /// Whether it is past the point of no return.
    pub is_past_point: bool,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it was taken up first.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Counts the holders so far. A write by any but the newest is refused.
    pub epoch: u64,
    /// Who executes it.
    pub lease: Option<Lease>,
    /// Grows with each change of any run of this journal.
    pub revision: u64,
}

/// One attempt of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// Its place in the run's history, from 1.
    pub seq: u32,
    /// The step's name.
    pub step: String,
    /// Done or undone.
    pub direction: Direction,
    /// Which attempt in this direction, from 1.
    pub attempt: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it is under way.
    pub outcome: Option<Outcome>,
    /// Why it failed.
    pub reason: Option<String>,
    /// What it came to, as JSON.
    pub output: Option<String>,
    /// Not before this is it tried again.
    pub retry_at: Option<Timestamp>,
}

/// A run with all that happened in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The run.
    pub run: Run,
    /// The attempts, oldest first.
    pub steps: Vec<StepRecord>,
    /// How many of its children have not ended.
    pub n_children_unfinished: u32,
}

impl Story {
    /// The attempts of one step in one direction, oldest first.
    pub fn attempts(&self, step: &str, direction: Direction) -> Vec<&StepRecord> {
        self.steps
            .iter()
            .filter(|record| record.step == step && record.direction == direction)
            .collect()
    }

    /// The attempt that is under way, or that was when its process ended.
    pub fn open_attempt(&self) -> Option<&StepRecord> {
        self.steps.iter().find(|record| record.outcome.is_none())
    }
}

/// Cuts a text to what the journal keeps of it.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > limits::REASON_BYTES_MAX {
        let end = text.floor_char_boundary(limits::REASON_BYTES_MAX);
        text.truncate(end);
    }
    text
}

/// What one direction of a step is called in errors and logs.
pub(crate) fn attempt_of(step: &str, direction: Direction) -> String {
    match direction {
        Direction::Do => format!("step {step}"),
        Direction::Undo => format!("undo of step {step}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction, Outcome, Status, Subject, Turn, cut};
    use crate::limits;

    #[test]
    fn every_word_reads_back() {
        for &status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        for &outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        for &turn in Turn::ALL {
            assert_eq!(Turn::parse(turn.as_str()), Some(turn));
            assert!(turn.ends_as().is_ended());
        }
        for &direction in Direction::ALL {
            assert_eq!(Direction::parse(direction.as_str()), Some(direction));
        }
        assert_eq!(Status::parse("lost"), None);
    }

    #[test]
    fn a_subject_is_short_and_printable() {
        assert!(Subject::new("machine/0123").is_ok());
        assert!(Subject::new("").is_err());
        assert!(Subject::new("a\nb").is_err());
        assert!(Subject::new("x".repeat(limits::SUBJECT_BYTES_MAX)).is_ok());
        assert!(Subject::new("x".repeat(limits::SUBJECT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = cut("ü".repeat(limits::REASON_BYTES_MAX));
        assert!(cut.len() <= limits::REASON_BYTES_MAX);
        assert!(cut.chars().all(|c| c == 'ü'));
    }
}
