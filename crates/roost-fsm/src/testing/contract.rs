//! What every journal has to do, as tests.
//!
//! A journal's tests call [`check_journal`] with a function that makes an empty one. Claims are
//! functions that panic when they do not hold; each has a journal of its own.

use crate::journal::{
    CancelAnswer, Claim, Entry, Fence, Filter, Journal, JournalError, NewRun, Opened, PruneRule,
    Recorded, Renewal,
};
use crate::limits;
use crate::record::{Cancel, Direction, Kind, Outcome, Run, Status, Story, Subject, Turn};
use crate::workflow::OnBusy;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

mod fencing;
mod history;
mod relatives;
mod turns;

/// How long the leases of these tests last.
const LEASE: Duration = Duration::from_secs(10);
const START: Timestamp = Timestamp::from_ms(1_000_000_000);

/// Checks all claims.
pub async fn check_journal(make: impl AsyncFn() -> Arc<dyn Journal>) {
    turns::check(&make).await;
    fencing::check(&make).await;
    relatives::check(&make).await;
    history::check(&make).await;
}

/// A journal, a clock that the test sets, and runs with short ids.
struct Bench {
    journal: Arc<dyn Journal>,
    now: Timestamp,
    n_runs: u64,
    /// The runs that [`Self::take`] gave.
    held: Vec<RunId>,
}

impl Bench {
    async fn new(make: &impl AsyncFn() -> Arc<dyn Journal>) -> Self {
        Self {
            journal: make().await,
            now: START,
            n_runs: 0,
            held: vec![],
        }
    }

    fn kind() -> Kind {
        Kind {
            name: "test".into(),
            version: 1,
        }
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    fn new_run(&mut self, subject: &str, on_busy: OnBusy) -> NewRun {
        self.n_runs += 1;
        NewRun {
            id: RunId::from_ulid(ulid::Ulid::from_parts(1, u128::from(self.n_runs))),
            kind: Self::kind(),
            subject: Subject::new(subject).expect("a short text"),
            on_busy,
            key: None,
            parent: None,
            cause: "contract".into(),
            params: "{}".into(),
            created_at: self.now,
        }
    }

    async fn open(&self, new: NewRun) -> Opened {
        self.journal.open(new).await.expect("open a run")
    }

    /// Records a run that nothing speaks against.
    async fn queue(&mut self, subject: &str) -> Run {
        let new = self.new_run(subject, OnBusy::Queue);
        self.recorded(new).await
    }

    async fn recorded(&self, new: NewRun) -> Run {
        match self.open(new).await {
            Opened::New { run, .. } => run,
            other => panic!("not recorded: {other:?}"),
        }
    }

    /// Records a run and takes it.
    async fn begin(&mut self, subject: &str) -> Run {
        let run = self.queue(subject).await;
        self.take(&run.id).await
    }

    /// Takes everything that is free, and returns this run of it. It is held from then on.
    async fn take(&mut self, id: &RunId) -> Run {
        let runs = self.claim_but("here", self.held.clone()).await;
        self.held.extend(ids(&runs));
        let taken = runs.into_iter().find(|run| run.id == *id);
        taken.expect("the run is free")
    }

    async fn claim(&self, holder: &str) -> Vec<Run> {
        self.claim_but(holder, vec![]).await
    }

    async fn claim_but(&self, holder: &str, held: Vec<RunId>) -> Vec<Run> {
        let claim = Claim {
            holder: holder.into(),
            kinds: vec![Self::kind()],
            held,
            n_roots_max: 100,
            now: self.now,
            lease: LEASE,
        };
        self.journal.claim(claim).await.expect("claim runs")
    }

    async fn try_record(
        &self,
        run: &Run,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Recorded, JournalError> {
        let entries = entries.into_iter().collect();
        self.journal.record(run.fence(), entries, self.now).await
    }

    async fn record(&self, run: &Run, entries: impl IntoIterator<Item = Entry>) -> Story {
        match self.try_record(run, entries).await.expect("record") {
            Recorded::Written(story) => story,
            Recorded::AskedToTurnBack(story) => panic!("not written: {story:?}"),
        }
    }

    async fn end(&self, run: &Run, status: Status) -> Story {
        self.record(run, [ended_as(status)]).await
    }

    async fn story(&self, id: &RunId) -> Story {
        let story = self.journal.load(id.clone()).await.expect("load a run");
        story.expect("the run is there")
    }

    async fn status(&self, id: &RunId) -> Status {
        self.story(id).await.run.status
    }

    async fn cancel(&self, id: &RunId) -> CancelAnswer {
        let cancel = Cancel {
            at: self.now,
            turn: Turn::Cancelled,
            reason: "asked".into(),
        };
        let answer = self.journal.ask_cancel(id.clone(), cancel).await;
        answer.expect("cancel a run")
    }

    async fn list(&self, filter: Filter) -> Vec<RunId> {
        let runs = self.journal.list(filter).await.expect("list runs");
        runs.into_iter().map(|run| run.id).collect()
    }
}

fn started(step: &str, direction: Direction, attempt: u32) -> Entry {
    Entry::StepStarted {
        step: step.into(),
        direction,
        attempt,
    }
}

fn done(output: &str) -> Entry {
    Entry::StepEnded {
        outcome: Outcome::Done,
        reason: None,
        output: Some(output.into()),
        retry_at: None,
    }
}

fn turned_back() -> Entry {
    Entry::TurnedBack {
        turn: Turn::Failed,
        reason: "because".into(),
    }
}

fn ended_as(status: Status) -> Entry {
    Entry::Ended {
        status,
        reason: None,
    }
}

fn ids(runs: &[Run]) -> Vec<RunId> {
    runs.iter().map(|run| run.id.clone()).collect()
}
