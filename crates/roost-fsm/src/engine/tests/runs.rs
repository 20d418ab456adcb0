//! One run: forward, back, again, cancelled, and the next one of its subject.

use super::{
    Act, Bench, Direction, Engine, Outcome, Scripted, Stage, Status, StepError, TWO_TIMEOUT, fail,
    is_running, outcomes, reason, request, retry,
};
use crate::engine::RegisterError;
use crate::engine::start::{StartError, StartRequest};
use crate::journal::{CancelAnswer, Filter};
use crate::limits;
use crate::outline::OutlineError;
use crate::record::Turn;
use crate::sqlite::SqliteJournal;
use crate::workflow::{OnBusy, Step, Steps, Workflow};
use parking_lot::Mutex;
use roost_runtime::tasks::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_run_does_its_steps_in_order_and_records_their_outputs() {
    let stage = Stage::new([]);
    let process = Bench::new().process("a", &stage);
    let story = process.run(21).await;
    assert_eq!(story.run.status, Status::Succeeded);
    assert_eq!(stage.played(), ["one", "two", "last"]);
    assert_eq!(story.steps[1].output.as_deref(), Some("42"));
    assert!(story.run.is_past_point && story.run.lease.is_none());
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_for_good_has_everything_undone_in_reverse() {
    let stage = Stage::new([("two", fail("no room"))]);
    let process = Bench::new().process("a", &stage);
    let story = process.run(1).await;
    assert_eq!(story.run.status, Status::Failed);
    assert_eq!(reason(&story), "no room");
    assert_eq!(stage.played(), ["one", "two", "undo two", "undo one"]);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_is_tried_again_with_growing_pauses_until_its_attempts_are_used_up() {
    let busy = || ("two", retry("busy"));
    let stage = Stage::new([busy(), busy(), busy()]);
    let process = Bench::new().process("a", &stage);
    let began = Instant::now();
    let story = process.run(1).await;
    assert!(began.elapsed() >= Duration::from_millis(250 + 500));
    assert_eq!(story.run.status, Status::Failed);
    assert!(reason(&story).starts_with("busy (given up after 3 attempts"));
    let expected = [Outcome::Retry, Outcome::Retry, Outcome::Failed].map(Some);
    assert_eq!(outcomes(&story, "two", Direction::Do), expected);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_end_in_time_or_panics_is_tried_again() {
    let stage = Stage::new([("two", Act::Hang), ("two", Act::Panic)]);
    let process = Bench::new().process("a", &stage);
    let began = Instant::now();
    let story = process.run(1).await;
    assert!(began.elapsed() >= TWO_TIMEOUT);
    assert_eq!(story.run.status, Status::Succeeded);
    let attempts = story.attempts("two", Direction::Do);
    let reasons: Vec<_> = attempts
        .iter()
        .map(|record| record.reason.as_deref())
        .collect();
    assert_eq!(
        reasons,
        [Some("not done after 7 s"), Some("it panicked"), None]
    );
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_even_a_failure_for_good_is_tried_again() {
    let stage = Stage::new([("last", fail("gone")), ("last", retry("busy"))]);
    let process = Bench::new().process("a", &stage);
    let story = process.run(1).await;
    assert_eq!(story.run.status, Status::Succeeded);
    assert_eq!(stage.played(), ["one", "two", "last", "last", "last"]);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_step_past_the_point_that_never_succeeds_is_stuck_after_a_day() {
    let n_attempts = 1_000;
    let stage = Stage::new((0..n_attempts).map(|_| ("last", retry("busy"))));
    let process = Bench::calm().process("a", &stage);
    let id = process.start("thing/1", 1).await;
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    tokio::time::sleep(hours(12)).await;
    assert!(is_running(&process.engine.story(&id).await.unwrap()));
    tokio::time::sleep(hours(24)).await;
    let story = process.ended(&id).await;
    assert_eq!(story.run.status, Status::Stuck);
    assert!(!stage.played().contains(&"undo one".into()));
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_for_good_leaves_the_run_stuck_and_says_why() {
    let stage = Stage::new([("two", fail("no room")), ("undo two", fail("no key"))]);
    let process = Bench::new().process("a", &stage);
    let story = process.run(1).await;
    assert_eq!(story.run.status, Status::Stuck);
    assert_eq!(
        reason(&story),
        "two could not be undone: no key; after: no room"
    );
    assert_eq!(stage.played(), ["one", "two", "undo two"]);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_drops_its_step_and_undoes() {
    let stage = Stage::new([("two", Act::Hang)]);
    let process = Bench::new().process("a", &stage);
    let id = process.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let began = Instant::now();
    let answer = process
        .engine
        .cancel(&id, "changed her mind")
        .await
        .unwrap();
    assert_eq!(answer, CancelAnswer::Asked);
    let story = process.ended(&id).await;
    assert!(
        began.elapsed() < limits::HEARTBEAT_INTERVAL,
        "nobody waited"
    );
    assert_eq!(story.run.status, Status::Cancelled);
    assert_eq!(reason(&story), "changed her mind");
    assert_eq!(
        outcomes(&story, "two", Direction::Do),
        [Some(Outcome::Dropped)]
    );
    assert_eq!(stage.played(), ["one", "two", "undo two", "undo one"]);
    process.shutdown().await;
}

/// One step that is not to be dropped half-way.
#[derive(Default)]
struct Careful {
    began: Notify,
    said: Mutex<Vec<&'static str>>,
}

impl Workflow for Arc<Careful> {
    const NAME: &'static str = "careful";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Refuse;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(Step::<()>::new("one"), async |this: Arc<Self>, cx| {
                this.began.notify_one();
                cx.asked_to_turn_back().await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                this.said.lock().push("wound down");
                Err(StepError::Fail("half done".into()))
            })
            .undo(async |this: Arc<Self>, cx| {
                assert_eq!(cx.turned_back(), Some((Turn::Cancelled, "by hand")));
                this.said.lock().push("undone");
                Ok(())
            })
            .winds_down()
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_winds_down_is_waited_for_and_then_undone() {
    let careful = Arc::new(Careful::default());
    let tasks = Tasks::new();
    let builder = Engine::builder(Bench::new().config("a", &tasks));
    let engine = builder.register(Arc::clone(&careful)).unwrap().start();
    let started = engine.start::<Arc<Careful>>(request("thing/1", &1)).await;
    let id = started.unwrap();
    careful.began.notified().await;
    engine.cancel(&id, "by hand").await.unwrap();
    let story = engine.wait_ended(&id).await.unwrap();
    assert_eq!(story.run.status, Status::Cancelled);
    assert_eq!(*careful.said.lock(), ["wound down", "undone"]);
    let dropped = [Some(Outcome::Dropped)];
    assert_eq!(outcomes(&story, "one", Direction::Do), dropped);
    assert!(tasks.shutdown(Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_cancelled_in_the_pause_before_another_attempt() {
    let stage = Stage::new([("two", retry("busy")), ("two", retry("busy"))]);
    let process = Bench::new().process("a", &stage);
    let id = process.start("thing/1", 1).await;
    while !stage.played().contains(&"two".to_owned()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.engine.cancel(&id, "").await.unwrap();
    let story = process.ended(&id).await;
    assert_eq!(story.run.status, Status::Cancelled);
    assert_eq!(
        outcomes(&story, "two", Direction::Do),
        [Some(Outcome::Retry)]
    );
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_past_the_point_of_no_return_is_refused() {
    let stage = Stage::new([("last", Act::Hang)]);
    let process = Bench::new().process("a", &stage);
    let id = process.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let answer = process.engine.cancel(&id, "").await.unwrap();
    assert_eq!(answer, CancelAnswer::PastPoint);
    assert_eq!(process.ended(&id).await.run.status, Status::Succeeded);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_while_the_disk_is_full_and_goes_on_when_there_is_room() {
    let (journal, connection) = SqliteJournal::in_shared_memory().unwrap();
    let bench = Bench {
        journal: Arc::new(journal),
        ..Bench::new()
    };
    let long = || ("two", retry(&"x".repeat(limits::REASON_BYTES_MAX)));
    let stage = Stage::new([long(), long(), ("one", Act::Hang)]);
    let process = bench.process("a", &stage);
    let id = process.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let limit_pages = |n_pages: u32| {
        let connection = connection.lock();
        connection
            .pragma_update(None, "max_page_count", n_pages)
            .unwrap();
    };
    // No less than there are already.
    limit_pages(1);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let story = process.engine.story(&id).await.unwrap();
    let cut_off = story.attempts("two", Direction::Do);
    assert_eq!(
        cut_off[0].outcome,
        Some(Outcome::CutOff),
        "its end found no room"
    );
    limit_pages(1_000_000);
    assert_eq!(process.ended(&id).await.run.status, Status::Succeeded);
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_run_of_a_subject_begins_when_the_one_before_has_ended() {
    let stage = Stage::new([("one", Act::Hang)]);
    let process = Bench::new().process("a", &stage);
    let first = process.start("thing/1", 1).await;
    stage.hangs.notified().await;
    let second = process.start("thing/1", 2).await;
    let elsewhere = process.start("thing/2", 3).await;
    assert_eq!(
        process.ended(&elsewhere).await.run.status,
        Status::Succeeded
    );
    let waiting = process.engine.story(&second).await.unwrap();
    assert_eq!(waiting.run.status, Status::Queued);
    process.engine.cancel(&first, "").await.unwrap();
    let began = Instant::now();
    assert_eq!(process.ended(&second).await.run.status, Status::Succeeded);
    assert!(began.elapsed() < limits::LOOK_INTERVAL, "it was told");
    process.shutdown().await;
}

/// Gives way, or makes others give way.
struct Urgent;

impl Workflow for Urgent {
    const NAME: &'static str = "urgent";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Supersede;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new().step(Step::<()>::new("act"), async |_: Arc<Self>, _| Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_superseded_run_is_undone_before_the_newer_one_begins() {
    let bench = Bench::new();
    let tasks = Tasks::new();
    let stage = Stage::new([("two", Act::Hang)]);
    let scripted = Scripted {
        stage: Arc::clone(&stage),
    };
    let builder = Engine::builder(bench.config("a", &tasks));
    let engine = builder
        .register(scripted)
        .unwrap()
        .register(Urgent)
        .unwrap()
        .start();
    let old = engine
        .start::<Scripted>(request("thing/1", &1))
        .await
        .unwrap();
    stage.hangs.notified().await;
    let new = engine
        .start::<Urgent>(request("thing/1", &2))
        .await
        .unwrap();
    let new = engine.wait_ended(&new).await.unwrap();
    let old = engine.wait_ended(&old).await.unwrap();
    assert_eq!(new.run.status, Status::Succeeded);
    assert_eq!(old.run.status, Status::Superseded);
    assert!(
        reason(&old).contains(new.run.id.as_str()),
        "{}",
        reason(&old)
    );
    assert!(old.run.ended_at <= new.run.started_at);
    assert!(tasks.shutdown(Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_request_is_the_same_run() {
    let process = Bench::new().process("a", &Stage::new([]));
    let keyed = |params| StartRequest {
        key: Some("request 7".into()),
        ..request("thing/1", params)
    };
    let first = process.engine.start::<Scripted>(keyed(&1)).await.unwrap();
    process.ended(&first).await;
    let second = process.engine.start::<Scripted>(keyed(&1)).await.unwrap();
    assert_eq!(first, second);
    let other = process.engine.start::<Scripted>(keyed(&2)).await;
    assert!(matches!(other, Err(StartError::KeyTaken(run)) if run == first));
    process.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_executed_is_not_recorded() {
    let process = Bench::new().process("a", &Stage::new([]));
    let refused = process.engine.start::<Urgent>(request("thing/1", &1)).await;
    assert!(
        matches!(refused, Err(StartError::Unregistered(_))),
        "{refused:?}"
    );
    let long = StartRequest {
        key: Some("k".repeat(limits::KEY_BYTES_MAX + 1)),
        ..request("thing/1", &1)
    };
    let refused = process.engine.start::<Scripted>(long).await;
    assert!(
        matches!(refused, Err(StartError::Invalid(_))),
        "{refused:?}"
    );
    let listed = process.engine.list(Filter::default()).await.unwrap();
    assert!(listed.is_empty());
    process.shutdown().await;
}

/// Its undo comes before any step.
struct Wrong;

impl Workflow for Wrong {
    const NAME: &'static str = "wrong";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .undo(async |_: Arc<Self>, _| Ok(()))
            .step(Step::<()>::new("act"), async |_: Arc<Self>, _| Ok(()))
    }
}

#[tokio::test]
async fn a_declaration_that_contradicts_itself_is_refused() {
    let bench = Bench::new();
    let tasks = Tasks::new();
    let builder = Engine::builder(bench.config("a", &tasks));
    let refused = builder.register(Wrong).unwrap_err();
    let RegisterError::Outline { source, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(source, OutlineError::Order(_)));
    let builder = Engine::builder(bench.config("a", &tasks));
    let twice = builder.register(Urgent).unwrap().register(Urgent);
    assert!(matches!(twice, Err(RegisterError::Twice(_))));
}

/// Says more than the journal keeps.
struct Chatty;

impl Workflow for Chatty {
    const NAME: &'static str = "chatty";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        let talk = async |_: Arc<Self>, _| Ok::<_, StepError>("x".repeat(limits::OUTPUT_BYTES_MAX));
        Steps::new().step(Step::<String>::new("talk"), talk)
    }
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_too_long_fails_its_step() {
    let bench = Bench::new();
    let tasks = Tasks::new();
    let builder = Engine::builder(bench.config("a", &tasks));
    let engine = builder.register(Chatty).unwrap().start();
    let id = engine
        .start::<Chatty>(request("thing/1", &1))
        .await
        .unwrap();
    let story = engine.wait_ended(&id).await.unwrap();
    assert_eq!(story.run.status, Status::Failed);
    assert!(
        reason(&story).contains("are the most"),
        "{}",
        reason(&story)
    );
    assert!(tasks.shutdown(Duration::from_secs(60)).await);
}
