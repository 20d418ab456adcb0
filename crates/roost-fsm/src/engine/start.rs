//! Starting runs.

use super::Engine;
use crate::journal::{JournalError, NewRun, Opened};
use crate::limits;
use crate::record::{Kind, Status, Subject};
use crate::workflow::{Workflow, kind_of};
use roost_model::id::RunId;

/// A run to be started.
#[derive(Debug, Clone)]
pub struct StartRequest<'a, P> {
    /// What it acts on.
    pub subject: Subject,
    /// What it is told.
    pub params: &'a P,
    /// Who or what asks for it.
    pub cause: String,
    /// A second request with the same key is the same run.
    pub key: Option<String>,
}

/// A run could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another run of the subject has not ended.
    #[error("{subject} is busy with run {run}")]
    Busy {
        /// Whose turn it is not.
        subject: Subject,
        /// The run that has not ended.
        run: RunId,
    },
    /// Too many runs of the subject wait.
    #[error("{} runs of {subject} wait already", limits::QUEUE_MAX)]
    QueueFull {
        /// Which subject.
        subject: Subject,
    },
    /// The key belongs to a run that is another one.
    #[error("run {0} was started with this key and other parameters")]
    KeyTaken(RunId),
    /// It would wait for a run that waits for it.
    #[error("run {run} acts on {subject} and would wait for this one")]
    WaitsForItself {
        /// Which subject.
        subject: Subject,
        /// The run above it.
        run: RunId,
    },
    /// Its parent has as many children as it may, or is too far down itself.
    #[error("run {0} may not have another child")]
    TooManyRelatives(RunId),
    /// Its parent turns back or has ended.
    #[error("run {0} turns back and begins nothing new")]
    ParentTurnsBack(RunId),
    /// The parameters or the key are too long, or cannot be recorded.
    #[error("{0}")]
    Invalid(String),
    /// The workflow is not registered here: nobody would execute it.
    #[error("workflow {0} is not registered")]
    Unregistered(Kind),
    /// The journal could not be used.
    #[error("record a run")]
    Journal(#[source] JournalError),
}

impl Engine {
    /// Starts a run and returns its id; it goes on by itself.
    pub async fn start<W: Workflow>(
        &self,
        request: StartRequest<'_, W::Params>,
    ) -> Result<RunId, StartError> {
        let new = self.new_run::<W>(request)?;
        self.open(new).await
    }

    pub(crate) async fn start_child<W: Workflow>(
        &self,
        request: StartRequest<'_, W::Params>,
        parent: RunId,
    ) -> Result<RunId, StartError> {
        let mut new = self.new_run::<W>(request)?;
        new.parent = Some(parent);
        self.open(new).await
    }

    /// A run for a caller that records it together with rows of its own, see
    /// [`crate::sqlite::open`], and then tells [`Self::opened`].
    pub fn new_run<W: Workflow>(
        &self,
        request: StartRequest<'_, W::Params>,
    ) -> Result<NewRun, StartError> {
        let kind = kind_of::<W>();
        if !self.inner.workflows.contains_key(&kind) {
            return Err(StartError::Unregistered(kind));
        }
        let params = serde_json::to_string(request.params)
            .map_err(|error| StartError::Invalid(format!("parameters: {error}")))?;
        let key_length = request.key.as_ref().map_or(0, String::len);
        for (what, length, max) in [
            ("parameters", params.len(), limits::PARAMS_BYTES_MAX),
            ("a key", key_length, limits::KEY_BYTES_MAX),
        ] {
            if length > max {
                let text = format!("{what} of {length} bytes; {max} are the most");
                return Err(StartError::Invalid(text));
            }
        }
        let now = self.inner.clock.now();
        let random = u128::from(self.dice()) << 64 | u128::from(self.dice());
        Ok(NewRun {
            id: RunId::from_ulid(ulid::Ulid::from_parts(now.as_ms(), random)),
            kind,
            subject: request.subject,
            on_busy: W::ON_BUSY,
            key: request.key,
            parent: None,
            cause: request.cause,
            params,
            created_at: now,
        })
    }

    async fn open(&self, new: NewRun) -> Result<RunId, StartError> {
        let subject = new.subject.clone();
        let opened = self.inner.journal.open(new).await;
        let opened = opened.map_err(StartError::Journal)?;
        self.opened(&opened);
        match opened {
            Opened::New { run, .. } | Opened::Repeated(run) => Ok(run.id),
            Opened::KeyTaken(run) => Err(StartError::KeyTaken(run)),
            Opened::Busy(run) => Err(StartError::Busy { subject, run }),
            Opened::QueueFull => Err(StartError::QueueFull { subject }),
            Opened::WaitsForItself(run) => Err(StartError::WaitsForItself { subject, run }),
            Opened::TooManyRelatives(run) => Err(StartError::TooManyRelatives(run)),
            Opened::ParentTurnsBack(run) => Err(StartError::ParentTurnsBack(run)),
        }
    }

    /// Tells the engine what became of a run that the caller recorded.
    pub fn opened(&self, opened: &Opened) {
        if let Opened::New { run, superseded } = opened {
            tracing::debug!(run = %run.id, workflow = %run.kind, subject = %run.subject, "run recorded");
            for id in superseded {
                self.tell_to_turn_back(id);
            }
            if run.status == Status::Queued {
                self.kick();
            }
            self.changed();
        }
    }
}
