//! A clock that jumps by days. Schedules and health checks have such tests of their own.

use super::{Node, SetClock, samples};
use roost_model::id::ReservationId;
use roost_model::machine::{ExitCause, Guest, MachineExit, MachineState};
use roost_model::restart::BACKOFF_MAX;
use roost_model::time::Timestamp;
use roost_proto::worker::{LeaseNonce, Reserve, TakeLease, WorkerApi as _, WorkerError};
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp::from_ms(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn days(n: i64) -> Timestamp {
    let day_ms = i64::try_from(DAY.as_millis()).unwrap();
    let ms = i64::try_from(START.as_ms()).unwrap() + n * day_ms;
    Timestamp::from_ms(u64::try_from(ms).unwrap())
}

fn node() -> (Node, Arc<SetClock>) {
    let clock = SetClock::at(START);
    let mut node = Node::new();
    node.clock = clock.clone();
    (node, clock)
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_hold_for_days_because_the_clock_was_set_back() {
    let (node, clock) = node();
    let run = node.start().await;
    let id = run.started().await.id;
    let (worker, asker) = (&run.worker, samples::asker());
    for jump in [-10, 10] {
        let lease = TakeLease {
            nonce: LeaseNonce::from_bytes([7; 16]),
            ttl: Duration::from_secs(60),
            description: String::new(),
        };
        clock.set(START);
        worker.take_lease(&id, lease, &asker).await.unwrap();
        let refused = worker.set_cordoned(&id, true, &asker).await;
        assert!(matches!(refused, Err(WorkerError::Leased { .. })));
        clock.set(days(jump));
        assert_eq!(worker.lease(&id, &asker).await.unwrap(), None);
        worker.set_cordoned(&id, jump < 0, &asker).await.unwrap();
    }
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn room_is_not_held_for_days_because_the_clock_was_set_back() {
    let (node, clock) = node();
    let run = node.start().await;
    let reserve = |n| Reserve {
        id: ReservationId::from_ulid(ulid::Ulid::from_parts(1, n)),
        guest: Guest::DEFAULT,
        hold: Duration::from_secs(300),
    };
    // The node has room for three.
    for n in 1..=3 {
        run.worker.reserve(reserve(n)).await.unwrap();
    }
    run.worker.reserve(reserve(4)).await.unwrap_err();
    clock.set(days(-10));
    assert_eq!(run.worker.capacity().await.unwrap().reserved.n_machines, 0);
    run.worker.reserve(reserve(4)).await.unwrap();
    let mut request = samples::create("late");
    request.reservation = Some(reserve(1).id);
    let refused = run.worker.create_machine(request, &samples::asker()).await;
    assert!(refused.is_err(), "it was given up");
    run.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_waits_to_be_restarted_does_not_wait_for_days() {
    let (node, clock) = node();
    let crash = MachineExit {
        exit_code: 1,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    let run = node.start().await;
    let id = run.started().await.id;
    node.host.exit(&id, crash);
    run.wait(&id, MachineState::Starting).await;
    run.kill();
    for jump in [-10, 10] {
        clock.set(days(jump));
        let run = node.start().await;
        tokio::time::sleep(BACKOFF_MAX).await;
        run.wait(&id, MachineState::Started).await;
        node.host.exit(&id, crash);
        run.wait(&id, MachineState::Starting).await;
        run.kill();
    }
}
