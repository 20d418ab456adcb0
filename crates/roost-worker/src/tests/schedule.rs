//! Machines that are started by their schedule, on paused time and a clock that is set.

use super::{Node, Run, SetClock, samples};
use roost_model::id::MachineId;
use roost_model::machine::{ExitCause, MachineExit, MachineState};
use roost_model::schedule::Schedule;
use roost_model::time::Timestamp;
use roost_proto::worker::{
    Launch, LeaseNonce, MachineEvent, OperationFilter, ReleaseLease, TakeLease, UpdateMachine,
    WorkerApi as _,
};
use std::sync::Arc;
use std::time::Duration;

/// Midnight.
const START: Timestamp = Timestamp::from_ms(1_700_006_400_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

const DONE: MachineExit = MachineExit {
    exit_code: 0,
    signal: None,
    oom_killed: false,
    cause: ExitCause::App,
};

fn node_at_midnight() -> (Node, Arc<SetClock>) {
    let clock = SetClock::at(START);
    let mut node = Node::new();
    node.clock = clock.clone();
    (node, clock)
}

/// A machine with this schedule that is not started.
async fn create(run: &Run, schedule: &str) -> MachineId {
    let mut request = samples::create("r1");
    request.spec.schedule = Some(Schedule::parse(schedule).unwrap());
    request.launch = Launch::Skip;
    let asker = samples::asker();
    let created = run.worker.create_machine(request, &asker).await;
    created.unwrap().id
}

/// Time for many looks.
async fn look() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

/// What its schedule did to a machine, oldest first.
async fn events(run: &Run, id: &MachineId) -> Vec<MachineEvent> {
    let mut events = run.worker.machine_events(id, 200).await.unwrap();
    events.retain(|event| event.source == "schedule");
    events.reverse();
    events
}

#[tokio::test(start_paused = true)]
async fn a_machine_at_rest_is_started_when_it_is_due_and_its_history_says_so() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let id = create(&run, "hourly").await;
    let due_at = |status: roost_proto::worker::MachineStatus| status.due_at;
    let status = run.worker.machine(&id).await.unwrap();
    assert_eq!(due_at(status), Some(START.after(HOUR)));
    clock.set(START.after(HOUR - Duration::from_millis(1)));
    look().await;
    assert_eq!(node.host.launches().len(), 0);

    clock.set(START.after(HOUR));
    let started = run.wait(&id, MachineState::Started).await;
    assert_eq!(due_at(started), Some(START.after(2 * HOUR)));
    let [event] = &events(&run, &id).await[..] else {
        panic!("one event");
    };
    assert_eq!(event.kind, "start");
    assert_eq!(event.detail["cause"]["kind"], "schedule");
    assert_eq!(event.detail["due_at"], START.after(HOUR).as_ms());
    let filter = OperationFilter {
        machine: Some(id.clone()),
        limit: 1,
        ..OperationFilter::default()
    };
    let operations = run.worker.operations(filter).await.unwrap();
    assert_eq!(operations[0].kind, "start");
    assert_eq!(operations[0].cause["kind"], "schedule");

    node.host.exit(&id, DONE);
    run.wait(&id, MachineState::Stopped).await;
    look().await;
    assert_eq!(node.host.launches().len(), 1);
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_no_worker_ran_is_made_up_once() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let id = create(&run, "hourly").await;
    run.kill();
    clock.set(START.after(3 * DAY + MINUTE));
    let run = node.start().await;
    let started = run.wait(&id, MachineState::Started).await;
    assert_eq!(started.due_at, Some(START.after(3 * DAY + HOUR)));
    node.host.exit(&id, DONE);
    run.wait(&id, MachineState::Stopped).await;
    look().await;
    assert_eq!(node.host.launches().len(), 1);
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn times_that_come_while_it_runs_are_passed_over_and_told_once() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let id = create(&run, "* * * * *").await;
    clock.set(START.after(MINUTE));
    run.wait(&id, MachineState::Started).await;
    for n in 2..=5 {
        clock.set(START.after(n * MINUTE));
        look().await;
    }
    let kinds = |events: Vec<MachineEvent>| events.into_iter().map(|event| event.kind);
    let told: Vec<String> = kinds(events(&run, &id).await).collect();
    assert_eq!(told, ["start", "pass_over"]);
    node.host.exit(&id, DONE);
    run.wait(&id, MachineState::Stopped).await;
    clock.set(START.after(6 * MINUTE));
    run.wait(&id, MachineState::Started).await;
    let newest = events(&run, &id).await.pop().unwrap();
    assert_eq!(newest.kind, "start");
    assert_eq!(newest.detail["passed_over"], 4);
    assert_eq!(node.host.launches().len(), 2);
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_machine_is_passed_over_and_a_leased_one_waits() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let (id, asker) = (create(&run, "hourly").await, samples::asker());
    let cordon = async |cordoned| {
        let set = run.worker.set_cordoned(&id, cordoned, &asker).await;
        set.unwrap();
    };
    cordon(true).await;
    clock.set(START.after(HOUR));
    look().await;
    assert_eq!(node.host.launches().len(), 0);
    let events = events(&run, &id).await;
    assert_eq!(events[0].detail["reason"], "it is cordoned");
    cordon(false).await;
    look().await;
    assert_eq!(node.host.launches().len(), 0, "passed over is over");

    let take = TakeLease {
        nonce: LeaseNonce::from_bytes([7; 16]),
        ttl: 10 * MINUTE,
        description: String::new(),
    };
    let nonce = take.nonce.clone();
    clock.set(START.after(2 * HOUR - MINUTE));
    run.worker.take_lease(&id, take, &asker).await.unwrap();
    clock.set(START.after(2 * HOUR));
    look().await;
    assert_eq!(node.host.launches().len(), 0);
    let mut holder = asker.clone();
    holder.lease_nonce = Some(nonce);
    let released = run.worker.release_lease(&id, ReleaseLease::Own, &holder);
    released.await.unwrap();
    run.wait(&id, MachineState::Started).await;
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_days_causes_neither_storms_nor_silence() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let id = create(&run, "hourly").await;
    let mut n_launches = 0;
    let mut end_after_start = async || {
        run.wait(&id, MachineState::Started).await;
        node.host.exit(&id, DONE);
        run.wait(&id, MachineState::Stopped).await;
        look().await;
        n_launches += 1;
        assert_eq!(node.host.launches().len(), n_launches);
    };
    // Ten days forth: one start.
    clock.set(START.after(10 * DAY + MINUTE));
    end_after_start().await;
    // A moment back: the time that has been is not due again.
    clock.set(START.after(10 * DAY - MINUTE));
    look().await;
    clock.set(START.after(10 * DAY + MINUTE));
    look().await;
    assert_eq!(node.host.launches().len(), 1);
    // Nine days back: within the hour it is due, not in nine days.
    clock.set(START.after(DAY + MINUTE));
    look().await;
    assert_eq!(node.host.launches().len(), 1);
    clock.set(START.after(DAY + HOUR));
    end_after_start().await;
    // Before its creation.
    clock.set(Timestamp::from_ms(START.as_ms() - 24 * 3_600_000 + 1));
    look().await;
    let status = run.worker.machine(&id).await.unwrap();
    assert!(status.due_at.unwrap() < START, "{status:?}");
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn an_update_counts_a_new_schedule_from_now_and_a_destroyed_machine_has_none() {
    let (node, clock) = node_at_midnight();
    let run = node.start().await;
    let (id, asker) = (create(&run, "hourly").await, samples::asker());
    let update = async |schedule: Option<&str>| {
        let mut spec = samples::spec("r1");
        spec.schedule = schedule.map(|text| Schedule::parse(text).unwrap());
        let request = UpdateMachine {
            current_version: None,
            spec,
            secrets: roost_proto::worker::SecretEnv::default(),
            launch: Launch::Skip,
        };
        let updated = run.worker.update_machine(&id, request, &asker).await;
        updated.unwrap().due_at
    };
    clock.set(START.after(90 * MINUTE));
    run.wait(&id, MachineState::Started).await;
    node.host.exit(&id, DONE);
    run.wait(&id, MachineState::Stopped).await;
    assert_eq!(update(Some("hourly")).await, Some(START.after(2 * HOUR)));
    assert_eq!(
        update(Some("45 * * * *")).await,
        Some(START.after(105 * MINUTE))
    );
    assert_eq!(update(None).await, None);
    assert_eq!(update(Some("daily")).await, Some(START.after(DAY)));
    run.worker.destroy_machine(&id, true, &asker).await.unwrap();
    let gone = run.wait(&id, MachineState::Destroyed).await;
    assert_eq!(gone.due_at, None);
    clock.set(START.after(DAY));
    look().await;
    assert_eq!(node.host.launches().len(), 1);
    run.shut_down().await;
}
