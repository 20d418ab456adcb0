//! Whether a run may begin, and when.

use super::{Bench, CancelAnswer, Journal, LEASE, NewRun, OnBusy, Opened, Status, Turn, ids};
use crate::journal::Entry;
use crate::limits;
use crate::record::Kind;
use std::sync::Arc;

pub(super) async fn check(make: &impl AsyncFn() -> Arc<dyn Journal>) {
    a_run_is_kept_as_it_was_recorded(Bench::new(make).await).await;
    a_key_makes_the_second_run_the_first(Bench::new(make).await).await;
    runs_of_a_subject_take_their_turns(Bench::new(make).await).await;
    a_busy_subject_can_refuse(Bench::new(make).await).await;
    a_queue_has_an_end(Bench::new(make).await).await;
    a_newer_run_can_supersede(Bench::new(make).await).await;
    what_is_past_its_point_is_not_superseded(Bench::new(make).await).await;
    only_what_can_be_executed_is_claimed(Bench::new(make).await).await;
    a_queued_run_is_cancelled_at_once(Bench::new(make).await).await;
}

async fn a_run_is_kept_as_it_was_recorded(mut bench: Bench) {
    let new = NewRun {
        key: Some("key".into()),
        params: r#"{"image":"app:1"}"#.into(),
        ..bench.new_run("app/shop", OnBusy::Queue)
    };
    let recorded = bench.recorded(new.clone()).await;
    let story = bench.story(&new.id).await;
    assert_eq!(story.run, recorded);
    assert!(story.steps.is_empty());
    let run = story.run;
    assert_eq!(run.status, Status::Queued);
    assert_eq!(
        (run.kind, run.subject, run.key, run.params, run.cause),
        (new.kind, new.subject, new.key, new.params, new.cause)
    );
    assert_eq!((run.created_at, run.started_at), (new.created_at, None));
}

async fn a_key_makes_the_second_run_the_first(mut bench: Bench) {
    let key = Some("request 7".to_owned());
    let first = NewRun {
        key: key.clone(),
        ..bench.new_run("a", OnBusy::Refuse)
    };
    let run = bench.recorded(first).await;
    let again = NewRun {
        key: key.clone(),
        ..bench.new_run("a", OnBusy::Refuse)
    };
    assert_eq!(bench.open(again).await, Opened::Repeated(run.clone()));
    let other = NewRun {
        key,
        params: "[]".into(),
        ..bench.new_run("a", OnBusy::Refuse)
    };
    assert_eq!(bench.open(other).await, Opened::KeyTaken(run.id));
}

async fn runs_of_a_subject_take_their_turns(mut bench: Bench) {
    let first = bench.queue("a").await;
    let second = bench.queue("a").await;
    let elsewhere = bench.queue("b").await;
    let taken = bench.claim("here").await;
    assert_eq!(ids(&taken), [first.id.clone(), elsewhere.id.clone()]);
    assert!(taken.iter().all(|run| run.status == Status::Running));
    let held = ids(&taken);
    assert!(bench.claim_but("here", held).await.is_empty());
    // Neither while the first one undoes.
    let first = &taken[0];
    bench.record(first, [super::turned_back()]).await;
    let held = ids(&taken);
    assert!(bench.claim_but("here", held.clone()).await.is_empty());
    bench.end(first, Status::Failed).await;
    let taken = bench.claim_but("here", held).await;
    assert_eq!(ids(&taken), [second.id]);
}

async fn a_busy_subject_can_refuse(mut bench: Bench) {
    let first = bench.queue("a").await;
    let second = bench.new_run("a", OnBusy::Refuse);
    assert_eq!(
        bench.open(second.clone()).await,
        Opened::Busy(first.id.clone())
    );
    let first = bench.take(&first.id).await;
    assert_eq!(
        bench.open(second.clone()).await,
        Opened::Busy(first.id.clone())
    );
    // One that is stuck has ended: a newer run may be what mends it.
    bench.end(&first, Status::Stuck).await;
    bench.recorded(second).await;
}

async fn a_queue_has_an_end(mut bench: Bench) {
    bench.begin("a").await;
    for _ in 0..limits::QUEUE_MAX {
        bench.queue("a").await;
    }
    let one_more = bench.new_run("a", OnBusy::Queue);
    assert_eq!(bench.open(one_more).await, Opened::QueueFull);
    bench.queue("b").await;
}

async fn a_newer_run_can_supersede(mut bench: Bench) {
    let running = bench.begin("a").await;
    let waiting = bench.queue("a").await;
    let new = bench.new_run("a", OnBusy::Supersede);
    let Opened::New { run, superseded } = bench.open(new).await else {
        panic!("it may supersede");
    };
    assert_eq!(superseded, vec![running.id.clone()]);
    assert_eq!(bench.status(&waiting.id).await, Status::Superseded);
    let asked = bench.story(&running.id).await.run;
    assert_eq!(asked.status, Status::Running);
    assert_eq!(asked.cancel.expect("asked").turn, Turn::Superseded);
    assert_eq!(run.status, Status::Queued);
}

async fn what_is_past_its_point_is_not_superseded(mut bench: Bench) {
    let running = bench.begin("a").await;
    bench.record(&running, [Entry::PointPassed]).await;
    let new = bench.new_run("a", OnBusy::Supersede);
    let Opened::New { superseded, .. } = bench.open(new).await else {
        panic!("it may wait");
    };
    assert!(superseded.is_empty());
    assert_eq!(bench.story(&running.id).await.run.cancel, None);
}

async fn only_what_can_be_executed_is_claimed(mut bench: Bench) {
    let kind = Kind {
        version: 2,
        ..Bench::kind()
    };
    let new = NewRun {
        kind,
        ..bench.new_run("a", OnBusy::Queue)
    };
    bench.recorded(new).await;
    assert!(bench.claim("here").await.is_empty());
    bench.pass(LEASE * 10);
    assert!(bench.claim("here").await.is_empty());
}

async fn a_queued_run_is_cancelled_at_once(mut bench: Bench) {
    let run = bench.queue("a").await;
    assert_eq!(bench.cancel(&run.id).await, CancelAnswer::Ended);
    let ended = bench.story(&run.id).await.run;
    assert_eq!(ended.status, Status::Cancelled);
    assert_eq!(ended.ended_at, Some(bench.now));
    assert!(bench.claim("here").await.is_empty());
    let again = bench.cancel(&run.id).await;
    assert_eq!(again, CancelAnswer::EndedBefore(Status::Cancelled));
}
