//! A kill at each journal write: the machine is neither lost nor doubled.

use super::power::Moment;
use super::{Node, Run, samples};
use roost_model::id::MachineId;
use roost_model::machine::{MachineState, Rung};
use roost_proto::worker::{OperationFilter, WorkerApi as _};

/// The life of one machine; it is killed somewhere in it.
async fn live(run: &Run) {
    let machine = run.started().await;
    if machine.rung == Rung::Vm {
        run.worker
            .suspend_machine(&machine.id, &samples::asker())
            .await
            .unwrap();
        run.wait(&machine.id, MachineState::Suspended).await;
        run.worker
            .start_machine(&machine.id, &samples::asker())
            .await
            .unwrap();
        run.wait(&machine.id, MachineState::Started).await;
    }
    run.worker
        .restart_machine(&machine.id, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Started).await;
    run.worker
        .stop_machine(&machine.id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Stopped).await;
    run.worker
        .destroy_machine(&machine.id, false, &samples::asker())
        .await
        .unwrap();
    run.wait(&machine.id, MachineState::Destroyed).await;
}

/// What a caller does whose call got no answer: it repeats, and goes on.
async fn go_on(node: &Node, run: &Run, at: &str) {
    let machine = run
        .worker
        .create_machine(samples::create("r1"), &samples::asker())
        .await
        .unwrap();
    let all = run.worker.machines(None).await.unwrap();
    assert!(all.len() <= 1, "{at}: {all:#?}");
    // A destruction that was under way is resumed meanwhile.
    if all.is_empty() {
        run.wait(&machine.id, MachineState::Destroyed).await;
        node.wait_clear(at).await;
        wait_ended(run, at).await;
        return;
    }
    // It may be on its way to destruction already.
    if run
        .worker
        .start_machine(&machine.id, &samples::asker())
        .await
        .is_ok()
    {
        run.wait(&machine.id, MachineState::Started).await;
        assert_eq!(
            node.host.running(),
            std::slice::from_ref(&machine.id),
            "{at}"
        );
    }
    end(node, run, &machine.id, at).await;
}

async fn end(node: &Node, run: &Run, id: &MachineId, at: &str) {
    run.worker
        .destroy_machine(id, true, &samples::asker())
        .await
        .unwrap();
    run.wait(id, MachineState::Destroyed).await;
    node.wait_clear(at).await;
    wait_ended(run, at).await;
}

/// The last operation ends after the machine is seen to be gone.
async fn wait_ended(run: &Run, at: &str) {
    let filter = OperationFilter {
        only_unfinished: true,
        limit: 50,
        ..OperationFilter::default()
    };
    for _ in 0..1_000 {
        let unfinished = run.worker.operations(filter.clone()).await.unwrap();
        if unfinished.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let unfinished = run.worker.operations(filter).await.unwrap();
    panic!("{at}: {unfinished:?} does not end");
}

/// Kills at the `n`th write; `false` when the life has fewer.
async fn kill_at(n: u64, moment: Moment) -> bool {
    let at = format!("killed {moment:?} write {n}");
    let node = Node::on(Rung::Vm);
    let first = node.start().await;
    let power = first.worker.inner.store.power.clone();
    power.plan(n, moment, first.driver.clone());
    let was_killed = tokio::select! {
        () = live(&first) => false,
        () = power.went.notified() => true,
    };
    first.kill();
    let second = node.start().await;
    go_on(&node, &second, &at).await;
    second.shut_down().await;
    was_killed
}

#[tokio::test(start_paused = true)]
async fn a_kill_before_any_write_is_resumed() {
    let mut n = 1;
    while kill_at(n, Moment::Before).await {
        n += 1;
    }
    assert!(n > 18, "only {n} writes were tried");
}

#[tokio::test(start_paused = true)]
async fn a_kill_after_any_write_is_resumed() {
    let mut n = 1;
    while kill_at(n, Moment::After).await {
        n += 1;
    }
    assert!(n > 18, "only {n} writes were tried");
}
