//! Claims about room: what is promised, to whom, and for how long.

use super::{Node, Run, samples};
use roost_model::error::{Classify as _, Retry};
use roost_model::id::{MachineId, ReservationId};
use roost_model::machine::{Guest, MachineState, Rung};
use roost_model::placement::{Overcommit, Usage};
use roost_model::size::ByteSize;
use roost_proto::worker::{
    CreateMachine, Launch, Reserve, UpdateMachine, WorkerApi as _, WorkerError,
};
use std::time::Duration;

/// A node with two cores and 1 GiB that promises nothing twice.
fn small_node() -> Node {
    let mut node = Node::new();
    let capacity = &mut node.config.node.capacity;
    capacity.n_cores = 2;
    capacity.memory = ByteSize::gib(1);
    capacity.n_machines = 100;
    capacity.overcommit = Overcommit::NONE;
    node
}

fn of_memory(mib: u64) -> Guest {
    Guest {
        memory: ByteSize::mib(mib),
        ..Guest::DEFAULT
    }
}

fn create(request_id: &str, guest: Guest) -> CreateMachine {
    let mut request = samples::create(request_id);
    request.spec.guest = guest;
    request.launch = Launch::Skip;
    request
}

fn reservation(n: u128) -> ReservationId {
    ReservationId::from_ulid(ulid::Ulid::from_parts(1, n))
}

fn reserve(n: u128, guest: Guest, hold: Duration) -> Reserve {
    Reserve {
        id: reservation(n),
        guest,
        hold,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

async fn made(run: &Run, request_id: &str, guest: Guest) -> MachineId {
    let created = run
        .worker
        .create_machine(create(request_id, guest), &samples::asker())
        .await;
    created.unwrap().id
}

async fn refused(run: &Run, request: CreateMachine) -> WorkerError {
    let error = run
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap_err();
    assert!(matches!(error, WorkerError::NoCapacity(_)), "{error}");
    assert_eq!(error.retry(), Retry::ElsewhereNow);
    error
}

#[tokio::test]
async fn a_machine_that_does_not_fit_is_refused_with_what_is_free_and_leaves_nothing() {
    let node = small_node();
    let run = node.start().await;
    made(&run, "r1", of_memory(768)).await;
    let error = refused(&run, create("r2", of_memory(512))).await;
    let text = "memory for shared machines: 512 MiB wanted, 256 MiB free";
    assert!(error.to_string().ends_with(text), "{error}");
    let error = refused(&run, create("r2", Guest::preset("performance-2x").unwrap())).await;
    let text = "whole cores: 2 wanted, 1 free";
    assert!(error.to_string().ends_with(text), "{error}");
    made(&run, "r2", of_memory(256)).await;
    let view = run.worker.capacity().await.unwrap();
    assert_eq!(view.used.shared_memory, ByteSize::gib(1));
    assert_eq!(view.used.n_machines, 2);
    assert_eq!(view.machines[&samples::spec("x").app]["app"], 2);
    run.shut_down().await;
}

#[tokio::test]
async fn a_stopped_machine_keeps_its_room_and_a_destroyed_one_gives_it_back() {
    let node = small_node();
    let run = node.start().await;
    let id = made(&run, "r1", of_memory(1_024)).await;
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    run.worker
        .stop_machine(&id, None, None, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Stopped).await;
    refused(&run, create("r2", of_memory(256))).await;
    run.worker
        .destroy_machine(&id, false, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Destroyed).await;
    made(&run, "r2", of_memory(1_024)).await;
    run.shut_down().await;
}

#[tokio::test]
async fn of_many_creations_at_once_as_many_succeed_as_there_is_room() {
    let node = small_node();
    let run = node.start().await;
    let mut set = tokio::task::JoinSet::new();
    for n in 0..12 {
        let worker = run.worker.clone();
        let request = create(&format!("r{n}"), of_memory(256));
        set.spawn(async move {
            worker
                .create_machine(request, &samples::asker())
                .await
                .is_ok()
        });
    }
    let made = set.join_all().await.into_iter().filter(|made| *made);
    assert_eq!(made.count(), 4);
    run.shut_down().await;
}

#[tokio::test]
async fn an_update_may_grow_into_what_is_free_and_no_further() {
    let node = small_node();
    let run = node.start().await;
    let id = made(&run, "r1", of_memory(512)).await;
    made(&run, "r2", of_memory(256)).await;
    let grow = async |mib| {
        let mut spec = samples::spec("r1");
        spec.guest = of_memory(mib);
        let update = UpdateMachine {
            current_version: None,
            spec,
            secrets: samples::create("r1").secrets,
            launch: Launch::Skip,
        };
        run.worker
            .update_machine(&id, update, &samples::asker())
            .await
    };
    let error = grow(769).await.unwrap_err();
    assert!(matches!(error, WorkerError::NoCapacity(_)), "{error}");
    let kept = run.worker.machine(&id).await.unwrap();
    assert_eq!(kept.spec.guest, of_memory(512));
    assert_eq!(grow(768).await.unwrap().spec.guest, of_memory(768));
    run.shut_down().await;
}

#[tokio::test]
async fn held_room_is_for_the_creation_that_names_it_also_after_a_restart() {
    let node = small_node();
    let first = node.start().await;
    let request = reserve(1, of_memory(768), MINUTE);
    let held = first.worker.reserve(request.clone()).await.unwrap();
    assert_eq!(first.worker.reserve(request).await.unwrap(), held);
    refused(&first, create("r1", of_memory(512))).await;
    first.shut_down().await;

    let second = node.start().await;
    refused(&second, create("r1", of_memory(512))).await;
    let mut request = create("r1", of_memory(1_024));
    request.reservation = Some(held.id.clone());
    let error = second
        .worker
        .create_machine(request.clone(), &samples::asker())
        .await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("is for 1 shared CPUs and 768 MiB"), "{text}");
    request.spec.guest = of_memory(768);
    let created = second
        .worker
        .create_machine(request.clone(), &samples::asker())
        .await
        .unwrap();
    // Repeated, it needs no room and no reservation.
    let again = second
        .worker
        .create_machine(request.clone(), &samples::asker())
        .await
        .unwrap();
    assert_eq!(again.id, created.id);
    let view = second.worker.capacity().await.unwrap();
    assert_eq!(view.reserved, Usage::default());
    assert_eq!(view.used.shared_memory, ByteSize::mib(768));
    // Used up.
    request.request_id = "r3".into();
    request.spec = samples::spec("r3");
    let error = second
        .worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("expired or was used"), "{error}");
    second.shut_down().await;
}

#[tokio::test]
async fn held_room_is_free_again_once_it_is_released_or_has_expired() {
    let node = small_node();
    let run = node.start().await;
    let whole = of_memory(1_024);
    run.worker.reserve(reserve(1, whole, MINUTE)).await.unwrap();
    let error = run.worker.reserve(reserve(2, whole, MINUTE)).await;
    assert!(matches!(error, Err(WorkerError::NoCapacity(_))));
    for _ in 0..2 {
        run.worker.release(&reservation(1)).await.unwrap();
    }
    let short = reserve(2, whole, Duration::from_millis(1));
    run.worker.reserve(short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let view = run.worker.capacity().await.unwrap();
    assert_eq!(view.reserved, Usage::default());
    made(&run, "r1", whole).await;
    for hold in [Duration::ZERO, Duration::from_secs(3_600)] {
        let error = run.worker.reserve(reserve(3, whole, hold)).await;
        assert!(matches!(error, Err(WorkerError::Invalid(_))));
    }
    run.shut_down().await;
}

#[tokio::test]
async fn a_cordoned_node_takes_nothing_new_but_what_was_promised_before() {
    let mut node = small_node();
    let run = node.start().await;
    run.worker
        .reserve(reserve(1, Guest::DEFAULT, MINUTE))
        .await
        .unwrap();
    let id = made(&run, "r1", Guest::DEFAULT).await;
    run.shut_down().await;

    node.config.node.cordoned = true;
    let run = node.start().await;
    let view = run.worker.capacity().await.unwrap();
    assert!(view.cordoned);
    assert!(view.refused_rungs.contains_key(&Rung::Vm), "{view:?}");
    assert!(!view.refused_rungs.contains_key(&Rung::Container));
    let error = refused(&run, create("r2", Guest::DEFAULT)).await;
    assert!(error.to_string().contains("cordoned"), "{error}");
    let mut promised = create("r3", Guest::DEFAULT);
    promised.reservation = Some(reservation(1));
    run.worker
        .create_machine(promised, &samples::asker())
        .await
        .unwrap();
    run.worker
        .start_machine(&id, &samples::asker())
        .await
        .unwrap();
    run.wait(&id, MachineState::Started).await;
    run.shut_down().await;
}

#[tokio::test]
async fn the_worker_keeps_the_contract_of_room() {
    let node = small_node();
    let run = node.start().await;
    let (worker, sample) = (&*run.worker, samples::create("sample"));
    roost_testkit::worker_contract::room(worker, &sample, &samples::asker()).await;
    run.shut_down().await;
}
