//! The lives of machines: once each, in order, and never by a late request.

use roost_model::error::{Classify as _, Retry};
use roost_model::id::MachineId;
use roost_model::machine::{MachineState, StopSignal};
use roost_model::name::AppName;
use roost_proto::worker::{
    Asker, CreateMachine, Launch, MachineStatus, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use std::time::Duration;

/// Longer than anything takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn assert_code(error: &WorkerError, code: &str) {
    assert_eq!(error.code().to_string(), code, "{error}");
}

/// Waits for a state; fails with the machine's history.
async fn reach(worker: &dyn WorkerApi, id: &MachineId, state: MachineState) -> MachineStatus {
    let wait = WaitFor {
        states: vec![state],
        instance_id: None,
        after_event: None,
        timeout: PATIENCE,
    };
    match worker.wait_machine(id, wait).await {
        Ok(status) => status,
        Err(error) => panic!("{error}; {:#?}", worker.machine_events(id, 20).await),
    }
}

/// A machine is created once, started, stopped and destroyed, and its history
/// says who asked.
pub async fn life(worker: &dyn WorkerApi, sample: &CreateMachine, asker: &Asker) {
    let mut request = sample.clone();
    (request.launch, request.cordoned) = (Launch::Start, true);
    let created = worker.create_machine(request.clone(), asker).await.unwrap();
    let id = &created.id;
    assert_eq!(created.spec, request.spec);
    assert!(created.cordoned);
    let running = reach(worker, id, MachineState::Started).await;
    assert_eq!(running.instance_id, created.instance_id);
    let again = worker.create_machine(request.clone(), asker).await.unwrap();
    assert_eq!(again.id, *id, "a repeated request makes no other machine");
    let mut other = request.clone();
    other.request_id.push('x');
    let taken = worker.create_machine(other, asker).await.unwrap_err();
    assert_code(&taken, "machine-conflict");
    let of_app = worker.machines(Some(&request.spec.app)).await.unwrap();
    assert_eq!(of_app.len(), 1);
    let elsewhere = AppName::parse("elsewhere").unwrap();
    assert_eq!(worker.machines(Some(&elsewhere)).await.unwrap(), []);

    let refused = worker.destroy_machine(id, false, asker).await.unwrap_err();
    assert_code(&refused, "machine-conflict");
    for cordoned in [false, true] {
        let set = worker.set_cordoned(id, cordoned, asker).await.unwrap();
        assert_eq!(set.cordoned, cordoned);
    }
    for _ in 0..2 {
        worker.stop_machine(id, None, None, asker).await.unwrap();
        reach(worker, id, MachineState::Stopped).await;
    }
    let error = worker.signal_machine(id, StopSignal::Hup, asker).await;
    assert_code(&error.unwrap_err(), "machine-conflict");
    worker.start_machine(id, asker).await.unwrap();
    reach(worker, id, MachineState::Started).await;

    let events = worker.machine_events(id, 100).await.unwrap();
    assert!(events.is_sorted_by(|a, b| a.seq > b.seq), "{events:#?}");
    let stop = events.iter().find(|event| event.kind == "stop").unwrap();
    assert_eq!(stop.source, asker.cause.as_str());
    assert_eq!(worker.machine_events(id, 1).await.unwrap(), events[..1]);

    worker.destroy_machine(id, true, asker).await.unwrap();
    let start = tokio::time::Instant::now();
    while !worker.machines(None).await.unwrap().is_empty() {
        assert!(start.elapsed() < PATIENCE, "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A machine that is not there is told apart from all else.
pub async fn unknown_machines(worker: &dyn WorkerApi, _: &CreateMachine, asker: &Asker) {
    let id = &MachineId::from_bytes([0xee; 7]);
    let wait = WaitFor {
        states: vec![MachineState::Started],
        instance_id: None,
        after_event: None,
        timeout: Duration::from_millis(10),
    };
    let errors = [
        worker.machine(id).await.map(drop),
        worker.start_machine(id, asker).await.map(drop),
        worker.stop_machine(id, None, None, asker).await.map(drop),
        worker.restart_machine(id, asker).await.map(drop),
        worker.destroy_machine(id, true, asker).await,
        worker.set_cordoned(id, true, asker).await.map(drop),
        worker.signal_machine(id, StopSignal::Term, asker).await,
        worker.wait_machine(id, wait).await.map(drop),
        worker.machine_events(id, 5).await.map(drop),
        worker.listening_sockets(id).await.map(drop),
    ];
    for error in errors {
        let error = error.unwrap_err();
        assert_code(&error, "machine-not-found");
        assert_eq!(error.retry(), Retry::Never);
    }
}

/// What was asked of a version that was replaced meanwhile is refused.
pub async fn late_requests(worker: &dyn WorkerApi, sample: &CreateMachine, asker: &Asker) {
    let mut request = sample.clone();
    request.launch = Launch::Skip;
    let first = worker.create_machine(request.clone(), asker).await.unwrap();
    let id = &first.id;
    let update = UpdateMachine {
        current_version: Some(first.instance_id.clone()),
        spec: request.spec,
        secrets: request.secrets,
        launch: Launch::Skip,
    };
    let second = worker.update_machine(id, update.clone(), asker).await;
    let second = second.unwrap();
    assert_ne!(second.instance_id, first.instance_id);
    let late = &asker.clone().for_version(first.instance_id.clone());
    let mut blind = update.clone();
    blind.current_version = None;
    let errors = [
        worker.update_machine(id, blind, late).await.map(drop),
        worker.start_machine(id, late).await.map(drop),
        worker.stop_machine(id, None, None, late).await.map(drop),
        worker.restart_machine(id, late).await.map(drop),
        worker.destroy_machine(id, true, late).await,
        worker.set_cordoned(id, true, late).await.map(drop),
    ];
    for error in errors {
        let error = error.unwrap_err();
        assert_code(&error, "machine-conflict");
        assert!(error.to_string().ends_with("comes late"), "{error}");
    }
    let error = worker.update_machine(id, update, asker).await.unwrap_err();
    assert_code(&error, "machine-conflict");
    let kept = worker.machine(id).await.unwrap();
    assert_eq!(kept.instance_id, second.instance_id);
    assert_eq!(kept.state, second.state);
    let in_time = &asker.clone().for_version(second.instance_id);
    worker.start_machine(id, in_time).await.unwrap();
    reach(worker, id, MachineState::Started).await;
}
