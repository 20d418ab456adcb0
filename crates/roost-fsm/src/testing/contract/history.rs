//! Listing runs, following them, and forgetting old ones.

use super::{
    Bench, Filter, Journal, NewRun, OnBusy, PruneRule, RunId, Status, Subject, limits, started,
};
use crate::record::Direction;
use std::sync::Arc;
use std::time::Duration;

const RULE: PruneRule = PruneRule {
    keep_for: Duration::from_secs(100),
    keep_per_subject: 2,
    batch: 100,
};

pub(super) async fn check(make: &impl AsyncFn() -> Arc<dyn Journal>) {
    runs_are_listed_by_what_is_asked(Bench::new(make).await).await;
    every_change_has_a_higher_revision(Bench::new(make).await).await;
    old_runs_are_forgotten_by_count_and_by_age(Bench::new(make).await).await;
    what_is_unfinished_or_somebodys_child_stays(Bench::new(make).await).await;
    a_pruning_has_an_end(Bench::new(make).await).await;
    revisions_go_on_after_a_pruning(Bench::new(make).await).await;
}

async fn prune(bench: &Bench, rule: PruneRule) -> usize {
    let pruned = bench.journal.prune(rule, bench.now).await;
    pruned.expect("forget old runs")
}

async fn ended(bench: &mut Bench, subject: &str) -> RunId {
    let run = bench.begin(subject).await;
    bench.end(&run, Status::Succeeded).await;
    run.id
}

async fn runs_are_listed_by_what_is_asked(mut bench: Bench) {
    let first = ended(&mut bench, "a").await;
    let second = bench.queue("a").await.id;
    let other = bench.begin("b").await;
    let new = NewRun {
        parent: Some(other.id.clone()),
        ..bench.new_run("c", OnBusy::Queue)
    };
    let child = bench.recorded(new).await.id;
    let of_a = Filter {
        subject: Some(Subject::new("a").expect("a short text")),
        ..Filter::default()
    };
    assert_eq!(bench.list(of_a.clone()).await, [second.clone(), first]);
    let unfinished = Filter {
        only_unfinished: true,
        ..of_a
    };
    assert_eq!(bench.list(unfinished).await, [second]);
    let of_parent = Filter {
        parent: Some(other.id),
        ..Filter::default()
    };
    assert_eq!(bench.list(of_parent).await, vec![child.clone()]);
    let newest = Filter {
        limit: Some(1),
        ..Filter::default()
    };
    assert_eq!(bench.list(newest).await, [child]);
}

async fn every_change_has_a_higher_revision(mut bench: Bench) {
    let run = bench.queue("a").await;
    let taken = bench.take(&run.id).await;
    assert!(taken.revision > run.revision);
    let changed_after = |revision| Filter {
        changed_after: Some(revision),
        ..Filter::default()
    };
    let seen = taken.revision;
    assert!(bench.list(changed_after(seen)).await.is_empty());
    let step = bench
        .record(&taken, [started("one", Direction::Do, 1)])
        .await;
    assert_eq!(bench.list(changed_after(seen)).await, vec![run.id.clone()]);
    let seen = step.run.revision;
    bench.cancel(&run.id).await;
    assert_eq!(bench.list(changed_after(seen)).await, vec![run.id.clone()]);
    // Oldest change first, so that a follower can go on from where he was cut off.
    let second = bench.queue("b").await;
    assert_eq!(bench.list(changed_after(seen)).await, [run.id, second.id]);
}

async fn old_runs_are_forgotten_by_count_and_by_age(mut bench: Bench) {
    let mut runs = vec![];
    for _ in 0..4 {
        runs.push(ended(&mut bench, "a").await);
    }
    let elsewhere = ended(&mut bench, "b").await;
    assert_eq!(prune(&bench, RULE).await, 2);
    let left = bench.list(Filter::default()).await;
    assert_eq!(left, [elsewhere, runs[3].clone(), runs[2].clone()]);
    let stuck = bench.begin("c").await;
    bench.end(&stuck, Status::Stuck).await;
    for _ in 0..3 {
        ended(&mut bench, "c").await;
    }
    prune(&bench, RULE).await;
    assert!(bench.list(Filter::default()).await.contains(&stuck.id));
    bench.pass(RULE.keep_for + Duration::from_millis(1));
    prune(&bench, RULE).await;
    assert!(bench.list(Filter::default()).await.is_empty());
}

async fn what_is_unfinished_or_somebodys_child_stays(mut bench: Bench) {
    let parent = bench.begin("a").await;
    let mut children = vec![];
    for _ in 0..3 {
        let new = NewRun {
            parent: Some(parent.id.clone()),
            ..bench.new_run("b", OnBusy::Queue)
        };
        let child = bench.recorded(new).await;
        let child = bench.take(&child.id).await;
        bench.end(&child, Status::Succeeded).await;
        children.push(child.id);
    }
    bench.pass(RULE.keep_for * 2);
    assert_eq!(prune(&bench, RULE).await, 0);
    bench.end(&parent, Status::Succeeded).await;
    bench.pass(RULE.keep_for * 2);
    assert_eq!(prune(&bench, RULE).await, 1);
    for id in children {
        let child = bench.journal.load(id).await.expect("load a run");
        assert_eq!(child, None, "it goes with its parent");
    }
}

async fn a_pruning_has_an_end(mut bench: Bench) {
    for _ in 0..5 {
        ended(&mut bench, "a").await;
    }
    let small = PruneRule { batch: 2, ..RULE };
    assert_eq!(prune(&bench, small).await, 2);
    assert_eq!(prune(&bench, small).await, 1);
    assert_eq!(prune(&bench, small).await, 0);
    let many = Filter {
        limit: Some(limits::LIST_MAX + 1),
        ..Filter::default()
    };
    assert_eq!(bench.list(many).await.len(), 2);
}

async fn revisions_go_on_after_a_pruning(mut bench: Bench) {
    let run = bench.begin("a").await;
    let seen = bench.end(&run, Status::Succeeded).await.run.revision;
    bench.pass(RULE.keep_for * 2);
    prune(&bench, RULE).await;
    assert!(bench.queue("b").await.revision > seen);
}
