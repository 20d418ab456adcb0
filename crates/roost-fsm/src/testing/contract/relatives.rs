//! Parents and children.

use super::{Bench, Journal, NewRun, OnBusy, Opened, Run, Status, ids, turned_back};
use crate::journal::{Entry, JournalError};
use crate::limits;
use std::sync::Arc;

pub(super) async fn check(make: &impl AsyncFn() -> Arc<dyn Journal>) {
    children_turn_back_with_their_parent(Bench::new(make).await).await;
    a_parent_that_turns_back_begins_no_child(Bench::new(make).await).await;
    a_child_does_not_wait_for_its_parent(Bench::new(make).await).await;
    descent_has_an_end(Bench::new(make).await).await;
    a_child_of_nobody_is_refused(Bench::new(make).await).await;
    children_are_claimed_though_the_roots_are_enough(Bench::new(make).await).await;
}

fn child_of(bench: &mut Bench, parent: &Run, subject: &str) -> NewRun {
    NewRun {
        parent: Some(parent.id.clone()),
        ..bench.new_run(subject, OnBusy::Queue)
    }
}

async fn children_turn_back_with_their_parent(mut bench: Bench) {
    let parent = bench.begin("a").await;
    let mut children = vec![];
    for subject in ["b", "c", "d", "d"] {
        let new = child_of(&mut bench, &parent, subject);
        children.push(bench.recorded(new).await);
    }
    let held = vec![parent.id.clone()];
    let taken = bench.claim_but("here", held).await;
    assert_eq!(taken.len(), 3, "one of the two of a subject waits");
    bench.record(&taken[1], [Entry::PointPassed]).await;
    let story = bench.record(&parent, [turned_back()]).await;
    // The one that had not begun has ended.
    assert_eq!(story.n_children_unfinished, 3);
    assert_eq!(bench.status(&children[3].id).await, Status::Cancelled);
    assert!(bench.story(&children[0].id).await.run.cancel.is_some());
    // Past its point of no return it goes on to its end.
    assert_eq!(bench.story(&children[1].id).await.run.cancel, None);
    for child in &taken {
        bench.end(child, Status::Cancelled).await;
    }
    assert_eq!(bench.story(&parent.id).await.n_children_unfinished, 0);
}

async fn a_parent_that_turns_back_begins_no_child(mut bench: Bench) {
    let parent = bench.begin("a").await;
    let new = child_of(&mut bench, &parent, "b");
    bench.record(&parent, [turned_back()]).await;
    let refused = Opened::ParentTurnsBack(parent.id.clone());
    assert_eq!(bench.open(new.clone()).await, refused);
    bench.end(&parent, Status::Failed).await;
    assert_eq!(bench.open(new).await, refused);
}

async fn a_child_does_not_wait_for_its_parent(mut bench: Bench) {
    let parent = bench.begin("a").await;
    let same = child_of(&mut bench, &parent, "a");
    let refused = Opened::WaitsForItself(parent.id.clone());
    assert_eq!(bench.open(same).await, refused);
    let new = child_of(&mut bench, &parent, "b");
    let child = bench.recorded(new).await;
    let child = bench.take(&child.id).await;
    let grandchild = child_of(&mut bench, &child, "a");
    assert_eq!(bench.open(grandchild).await, refused);
}

async fn descent_has_an_end(mut bench: Bench) {
    let mut parent = bench.begin("0").await;
    for depth in 1..limits::DEPTH_MAX {
        let new = child_of(&mut bench, &parent, &depth.to_string());
        let child = bench.recorded(new).await;
        parent = bench.take(&child.id).await;
    }
    let too_deep = child_of(&mut bench, &parent, "deep");
    assert_eq!(
        bench.open(too_deep).await,
        Opened::TooManyRelatives(parent.id)
    );
    let parent = bench.begin("wide").await;
    for n in 0..limits::CHILDREN_MAX {
        let new = child_of(&mut bench, &parent, &format!("wide/{n}"));
        bench.recorded(new).await;
    }
    let too_many = child_of(&mut bench, &parent, "wide/more");
    assert_eq!(
        bench.open(too_many).await,
        Opened::TooManyRelatives(parent.id)
    );
}

async fn a_child_of_nobody_is_refused(mut bench: Bench) {
    let stranger = bench.new_run("x", OnBusy::Queue);
    let new = NewRun {
        parent: Some(stranger.id.clone()),
        ..bench.new_run("a", OnBusy::Queue)
    };
    let refused = bench.journal.open(new).await;
    let is_unknown = matches!(&refused, Err(JournalError::NotFound(id)) if *id == stranger.id);
    assert!(is_unknown, "{refused:?}");
}

async fn children_are_claimed_though_the_roots_are_enough(mut bench: Bench) {
    let parent = bench.begin("a").await;
    bench.queue("b").await;
    let new = child_of(&mut bench, &parent, "c");
    let child = bench.recorded(new).await;
    let claim = super::Claim {
        holder: "here".into(),
        kinds: vec![Bench::kind()],
        held: vec![parent.id],
        n_roots_max: 0,
        now: bench.now,
        lease: super::LEASE,
    };
    let taken = bench.journal.claim(claim).await.expect("claim runs");
    assert_eq!(ids(&taken), [child.id]);
}
