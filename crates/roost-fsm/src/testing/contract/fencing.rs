//! Leases, and what is written under them.

use super::{
    Bench, CancelAnswer, Direction, Entry, Fence, Journal, JournalError, LEASE, Outcome, Recorded,
    Renewal, Status, Turn, done, ended_as, ids, started, turned_back,
};
use std::sync::Arc;
use std::time::Duration;

pub(super) async fn check(make: &impl AsyncFn() -> Arc<dyn Journal>) {
    what_happened_reads_back(Bench::new(make).await).await;
    a_lease_keeps_others_away_until_it_ends(Bench::new(make).await).await;
    a_restarted_holder_takes_its_runs_back(Bench::new(make).await).await;
    a_lease_of_a_clock_that_was_ahead_is_over(Bench::new(make).await).await;
    a_heartbeat_prolongs_the_lease(Bench::new(make).await).await;
    a_run_can_be_given_back(Bench::new(make).await).await;
    the_holder_before_writes_nothing(Bench::new(make).await).await;
    nothing_is_written_after_the_end(Bench::new(make).await).await;
    what_does_not_follow_is_refused_whole(Bench::new(make).await).await;
    a_cancel_in_time_stops_the_point_of_no_return(Bench::new(make).await).await;
    a_cancel_past_the_point_is_refused(Bench::new(make).await).await;
    a_heartbeat_tells_that_the_run_is_cancelled(Bench::new(make).await).await;
}

async fn what_happened_reads_back(mut bench: Bench) {
    let run = bench.begin("a").await;
    assert_eq!((run.epoch, run.started_at), (1, Some(bench.now)));
    let lease = run.lease.clone().expect("it is held");
    assert_eq!(
        (lease.holder.as_str(), lease.until),
        ("here", bench.now.after(LEASE))
    );
    let began = bench.now;
    bench.record(&run, [started("one", Direction::Do, 1)]).await;
    bench.pass(Duration::from_secs(1));
    let retry = Entry::StepEnded {
        outcome: Outcome::Retry,
        reason: Some("busy".into()),
        output: None,
        retry_at: Some(bench.now.after(LEASE)),
    };
    let written = bench.record(&run, [retry]).await;
    assert_eq!(written, bench.story(&run.id).await);
    let record = &written.steps[0];
    assert_eq!((record.seq, record.attempt), (1, 1));
    assert_eq!(
        (record.step.as_str(), record.direction),
        ("one", Direction::Do)
    );
    assert_eq!(
        (record.started_at, record.ended_at),
        (began, Some(bench.now))
    );
    assert_eq!(record.outcome, Some(Outcome::Retry));
    assert_eq!(record.reason.as_deref(), Some("busy"));
    assert_eq!(record.retry_at, Some(bench.now.after(LEASE)));
    let again = [started("one", Direction::Do, 2), done("[1,2]")];
    let written = bench.record(&run, again).await;
    assert_eq!(written.steps[1].seq, 2);
    assert_eq!(written.steps[1].output.as_deref(), Some("[1,2]"));
    let written = bench.record(&run, [turned_back()]).await;
    assert_eq!(written.run.status, Status::Undoing);
    assert_eq!(written.run.turn, Some(Turn::Failed));
    let undone = [started("one", Direction::Undo, 1), done("null")];
    bench.record(&run, undone).await;
    let written = bench.end(&run, Status::Failed).await;
    assert_eq!(written.run.ended_at, Some(bench.now));
    assert_eq!(written.run.lease, None);
    assert_eq!(written.steps.len(), 3);
}

async fn a_lease_keeps_others_away_until_it_ends(mut bench: Bench) {
    let run = bench.begin("a").await;
    assert!(bench.claim("there").await.is_empty());
    bench.pass(LEASE - Duration::from_millis(1));
    assert!(bench.claim("there").await.is_empty());
    bench.pass(Duration::from_millis(1));
    let taken = bench.claim("there").await;
    assert_eq!(ids(&taken), [run.id]);
    assert_eq!(taken[0].epoch, run.epoch + 1);
    assert_eq!(taken[0].started_at, run.started_at);
}

async fn a_restarted_holder_takes_its_runs_back(mut bench: Bench) {
    let run = bench.begin("a").await;
    let held = vec![run.id.clone()];
    assert!(bench.claim_but("here", held).await.is_empty());
    let taken = bench.claim("here").await;
    assert_eq!(taken[0].epoch, run.epoch + 1);
}

async fn a_lease_of_a_clock_that_was_ahead_is_over(mut bench: Bench) {
    let run = bench.begin("a").await;
    bench.now = super::Timestamp::from_ms(bench.now.as_ms() - 3_600_000);
    assert_eq!(ids(&bench.claim("there").await), [run.id]);
}

async fn a_heartbeat_prolongs_the_lease(mut bench: Bench) {
    let run = bench.begin("a").await;
    bench.pass(LEASE / 2);
    assert_eq!(renew(&bench, &run.fence()).await, Renewal::Held);
    bench.pass(LEASE - Duration::from_millis(1));
    assert!(bench.claim("there").await.is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.claim("there").await.len(), 1);
    assert_eq!(renew(&bench, &run.fence()).await, Renewal::Lost);
}

async fn renew(bench: &Bench, fence: &Fence) -> Renewal {
    let until = bench.now.after(LEASE);
    let answers = bench.journal.renew(vec![fence.clone()], until).await;
    answers.expect("renew a lease")[0]
}

async fn a_run_can_be_given_back(mut bench: Bench) {
    let run = bench.begin("a").await;
    let answers = bench.journal.renew(vec![run.fence()], bench.now).await;
    assert_eq!(answers.expect("give back"), [Renewal::Held]);
    assert_eq!(ids(&bench.claim("there").await), [run.id]);
}

async fn the_holder_before_writes_nothing(mut bench: Bench) {
    let old = bench.begin("a").await;
    bench.pass(LEASE);
    let new = bench.claim("there").await.remove(0);
    let refused = bench
        .try_record(&old, [started("one", Direction::Do, 1)])
        .await;
    assert!(
        matches!(refused, Err(JournalError::Fenced(_))),
        "{refused:?}"
    );
    let refused = bench.try_record(&old, [ended_as(Status::Failed)]).await;
    assert!(
        matches!(refused, Err(JournalError::Fenced(_))),
        "{refused:?}"
    );
    assert_eq!(bench.story(&new.id).await.run, new);
}

async fn nothing_is_written_after_the_end(mut bench: Bench) {
    let run = bench.begin("a").await;
    let ended = bench.end(&run, Status::Succeeded).await;
    let refused = bench.try_record(&run, [turned_back()]).await;
    assert!(
        matches!(refused, Err(JournalError::Fenced(_))),
        "{refused:?}"
    );
    assert_eq!(bench.story(&run.id).await, ended);
    assert!(bench.claim("here").await.is_empty());
}

async fn what_does_not_follow_is_refused_whole(mut bench: Bench) {
    let run = bench.begin("a").await;
    let open = bench.record(&run, [started("one", Direction::Do, 1)]).await;
    for entries in [
        // Two attempts at once.
        vec![started("two", Direction::Do, 1)],
        // An end with an attempt under way.
        vec![ended_as(Status::Succeeded)],
        // No end.
        vec![ended_as(Status::Running)],
        // Undone without having turned back; the end of the attempt goes with it.
        vec![done("1"), started("one", Direction::Undo, 1)],
        // Done after having turned back.
        vec![done("1"), turned_back(), started("two", Direction::Do, 1)],
        // No return.
        vec![Entry::PointPassed, turned_back()],
    ] {
        let refused = bench.try_record(&run, entries.clone()).await;
        let is_refused = matches!(refused, Err(JournalError::OutOfOrder { .. }));
        assert!(is_refused, "{entries:?}: {refused:?}");
        assert_eq!(bench.story(&run.id).await, open, "{entries:?}");
    }
}

async fn a_cancel_in_time_stops_the_point_of_no_return(mut bench: Bench) {
    let run = bench.begin("a").await;
    assert_eq!(bench.cancel(&run.id).await, CancelAnswer::Asked);
    assert_eq!(bench.cancel(&run.id).await, CancelAnswer::Asked);
    let asked = bench.story(&run.id).await;
    let pass = [Entry::PointPassed, started("one", Direction::Do, 1)];
    let recorded = bench.try_record(&run, pass).await.expect("an answer");
    assert_eq!(recorded, Recorded::AskedToTurnBack(asked));
    bench.record(&run, [turned_back()]).await;
    assert_eq!(bench.cancel(&run.id).await, CancelAnswer::TurnsBackAlready);
}

async fn a_cancel_past_the_point_is_refused(mut bench: Bench) {
    let run = bench.begin("a").await;
    let passed = bench.record(&run, [Entry::PointPassed]).await;
    assert!(passed.run.is_past_point);
    assert_eq!(bench.cancel(&run.id).await, CancelAnswer::PastPoint);
    assert_eq!(bench.story(&run.id).await, passed);
}

async fn a_heartbeat_tells_that_the_run_is_cancelled(mut bench: Bench) {
    let run = bench.begin("a").await;
    bench.cancel(&run.id).await;
    assert_eq!(renew(&bench, &run.fence()).await, Renewal::AskedToTurnBack);
    bench.record(&run, [turned_back()]).await;
    assert_eq!(renew(&bench, &run.fence()).await, Renewal::Held);
}
