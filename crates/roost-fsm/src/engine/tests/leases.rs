//! Two processes, restarts, and versions side by side.

use super::{
    Act, Bench, Direction, Engine, Outcome, Scripted, Stage, Status, StepError, is_running,
    outcomes, reason, request,
};
use crate::journal::{Claim, Filter, Journal};
use crate::limits;
use crate::testing::mortal::{MortalJournal, Side};
use crate::workflow::{OnBusy, Step, Steps, Workflow, kind_of};
use roost_runtime::clock::Clock as _;
use roost_runtime::tasks::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_run_whose_holder_stopped_goes_on_elsewhere_at_once() {
    let bench = Bench::new();
    let stage = Stage::new([("two", Act::Hang)]);
    let first = bench.process("a", &stage);
    let id = first.start("thing/1", 1).await;
    stage.hangs.notified().await;
    first.shutdown().await;
    let second = bench.process("b", &stage);
    let began = Instant::now();
    let story = second.ended(&id).await;
    assert!(began.elapsed() < limits::LEASE, "it was given back");
    assert_eq!(story.run.status, Status::Succeeded);
    assert_eq!(story.run.epoch, 2);
    let expected = [Outcome::CutOff, Outcome::Done].map(Some);
    assert_eq!(outcomes(&story, "two", Direction::Do), expected);
    assert_eq!(stage.played(), ["one", "two", "two", "last"]);
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lives_keeps_its_runs() {
    let bench = Bench::new();
    let stage = Stage::new([("one", Act::Hang)]);
    let first = bench.process("a", &stage);
    let id = first.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let second = bench.process("b", &stage);
    tokio::time::sleep(limits::LEASE * 3).await;
    let story = second.engine.story(&id).await.unwrap();
    assert!(is_running(&story));
    assert_eq!(story.run.epoch, 1);
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lost_its_lease_stops_at_once_and_writes_nothing() {
    let bench = Bench::new();
    let stage = Stage::new([("one", Act::Hang)]);
    let first = bench.process("a", &stage);
    let id = first.start("thing/1", 1).await;
    stage.hangs.notified().await;
    // Somebody whose clock is ahead believes that the lease is over, and keeps the run.
    let claim = Claim {
        holder: "thief".into(),
        kinds: vec![kind_of::<Scripted>()],
        held: vec![],
        n_roots_max: 1,
        now: bench.clock.now().after(limits::LEASE),
        lease: limits::HEARTBEAT_INTERVAL,
    };
    // Just before a heartbeat.
    tokio::time::sleep(limits::HEARTBEAT_INTERVAL - Duration::from_millis(1)).await;
    let stolen = bench.journal.claim(claim).await.unwrap();
    assert_eq!(stolen[0].id, id);
    tokio::time::sleep(limits::HEARTBEAT_INTERVAL * 2).await;
    assert!(first.engine.inner.held.lock().is_empty(), "it left the run");
    let story = first.engine.story(&id).await.unwrap();
    assert_eq!(story.run, stolen[0]);
    assert_eq!(outcomes(&story, "one", Direction::Do), [None]);
    first.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_its_lease_drops_the_run_before_others_take_it() {
    let bench = Bench::new();
    let stage = Stage::new([("one", Act::Hang)]);
    let mortal = MortalJournal::new(Arc::clone(&bench.journal), usize::MAX, Side::Before);
    let mortal = Arc::new(mortal);
    let cut_off = Bench {
        journal: Arc::clone(&mortal) as Arc<dyn Journal>,
        clock: bench.clock,
        ..Bench::new()
    };
    let first = cut_off.process("a", &stage);
    let id = first.start("thing/1", 1).await;
    stage.hangs.notified().await;
    mortal.kill();
    let second = bench.process("b", &stage);
    let mut changes = second.engine.changes();
    loop {
        let story = second.engine.story(&id).await.unwrap();
        let still_held = first.engine.inner.held.lock().contains_key(&id);
        if story.run.epoch > 1 {
            assert!(!still_held, "two held it");
            break;
        }
        second.engine.wait_changed(&mut changes).await;
    }
    assert_eq!(second.ended(&id).await.run.status, Status::Succeeded);
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_by_another_process_is_heard_with_the_next_heartbeat() {
    let bench = Bench::new();
    let stage = Stage::new([("one", Act::Hang)]);
    let first = bench.process("a", &stage);
    let second = bench.process("b", &stage);
    let id = first.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let holder = first.engine.story(&id).await.unwrap().run.lease.unwrap();
    let other = if holder.holder == "a" {
        &second
    } else {
        &first
    };
    let began = Instant::now();
    other.engine.cancel(&id, "from afar").await.unwrap();
    let story = other.ended(&id).await;
    assert_eq!(story.run.status, Status::Cancelled);
    assert!(began.elapsed() <= limits::HEARTBEAT_INTERVAL + limits::WAIT_POLL * 2);
    first.shutdown().await;
    second.shutdown().await;
}

/// The second version of a workflow, with another list of steps.
struct ScriptedV2;

impl Workflow for ScriptedV2 {
    const NAME: &'static str = Scripted::NAME;
    const VERSION: u32 = 2;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        let act = async |_: Arc<Self>, _| Ok::<_, StepError>(());
        Steps::new().step(Step::<()>::new("all at once"), act)
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_with_the_version_that_it_began_with() {
    let bench = Bench::new();
    let stage = Stage::new([("two", Act::Hang)]);
    let old = bench.process("a", &stage);
    let id = old.start("thing/1", 1).await;
    stage.hangs.notified().await;
    old.shutdown().await;
    let tasks = Tasks::new();
    let scripted = Scripted {
        stage: Arc::clone(&stage),
    };
    let builder = Engine::builder(bench.config("a", &tasks));
    let builder = builder.register(scripted).unwrap();
    let engine = builder.register(ScriptedV2).unwrap().start();
    let new = engine
        .start::<ScriptedV2>(request("thing/1", &1))
        .await
        .unwrap();
    let new = engine.wait_ended(&new).await.unwrap();
    let old = engine.wait_ended(&id).await.unwrap();
    assert_eq!((old.run.kind.version, new.run.kind.version), (1, 2));
    assert_eq!(old.run.status, Status::Succeeded);
    assert_eq!((old.steps.len(), new.steps.len()), (4, 1));
    assert!(tasks.shutdown(Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_an_unknown_version_is_left_alone() {
    let bench = Bench::new();
    let newer = Tasks::new();
    let builder = Engine::builder(bench.config("a", &newer));
    let engine = builder.register(ScriptedV2).unwrap();
    // Recorded, and not begun when the process ends.
    newer.stop();
    let engine = engine.start();
    let id = engine
        .start::<ScriptedV2>(request("thing/1", &1))
        .await
        .unwrap();
    assert!(newer.shutdown(Duration::from_secs(60)).await);
    let older = bench.process("b", &Stage::new([]));
    tokio::time::sleep(limits::LEASE * 3).await;
    let story = older.engine.story(&id).await.unwrap();
    assert_eq!(story.run.status, Status::Queued);
    older.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_sees_every_change_once() {
    let stage = Stage::new([("two", super::retry("busy"))]);
    let process = Bench::new().process("a", &stage);
    let mut changes = process.engine.changes();
    let id = process.start("thing/1", 1).await;
    let mut revisions = vec![0];
    loop {
        let filter = Filter {
            changed_after: revisions.last().copied(),
            ..Filter::default()
        };
        let runs = process.engine.list(filter).await.unwrap();
        revisions.extend(runs.iter().map(|run| run.revision));
        if runs.iter().any(|run| run.status.is_ended()) {
            break;
        }
        process.engine.wait_changed(&mut changes).await;
    }
    assert!(
        revisions.is_sorted() && revisions.len() > 2,
        "{revisions:?}"
    );
    let story = process.ended(&id).await;
    assert_eq!(
        revisions.last(),
        Some(&story.run.revision),
        "{}",
        reason(&story)
    );
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn old_runs_are_forgotten() {
    let process = Bench::calm().process("a", &Stage::new([]));
    for params in 0..u64::from(limits::KEEP_PER_SUBJECT) + 3 {
        process.run(params).await;
    }
    tokio::time::sleep(limits::PRUNE_INTERVAL * 2).await;
    let listed = process.engine.list(Filter::default()).await.unwrap();
    assert_eq!(
        listed.len(),
        usize::try_from(limits::KEEP_PER_SUBJECT).unwrap()
    );
    tokio::time::sleep(limits::KEEP_FOR + limits::PRUNE_INTERVAL).await;
    assert!(
        process
            .engine
            .list(Filter::default())
            .await
            .unwrap()
            .is_empty()
    );
    process.shutdown().await;
}
