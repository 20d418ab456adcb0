//! Checks that inform, and checks that have their machine stopped, against real sockets.

use super::{Node, Run, samples};
use roost_host::fake::FakeLaunch;
use roost_model::id::MachineId;
use roost_model::machine::{
    Check, CheckKind, ExitCause, MachineExit, MachineSpec, MachineState, RestartPolicy, RestartWhen,
};
use roost_model::time::Timestamp;
use roost_proto::worker::{CheckResult, CheckStatus, MachineEvent, WorkerApi as _};
use roost_runtime::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// A check that is quick to fail.
fn check(kind: CheckKind) -> Check {
    Check {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(10),
        grace_period: Duration::ZERO,
        ..Check::new(kind)
    }
}

fn stopping(port: u16) -> Check {
    Check {
        failure_threshold: 2,
        stops_unhealthy: true,
        ..check(CheckKind::Tcp { port })
    }
}

/// Begins to start a machine with this check.
async fn create(run: &Run, check: Check, change: impl FnOnce(&mut MachineSpec)) -> MachineId {
    let mut request = samples::create("r1");
    request.spec.checks.insert("alive".into(), check);
    change(&mut request.spec);
    let asker = samples::asker();
    let created = run.worker.create_machine(request, &asker).await;
    created.unwrap().id
}

async fn alive(run: &Run, id: &MachineId) -> Option<CheckStatus> {
    let status = run.worker.machine(id).await.unwrap();
    status
        .checks
        .into_iter()
        .find(|check| check.name == "alive")
}

/// Waits until something has happened to a machine, so often, and returns all of them, oldest first.
async fn wait_events(run: &Run, id: &MachineId, kind: &str, n: usize) -> Vec<MachineEvent> {
    for _ in 0..2_000 {
        let mut events = run.worker.machine_events(id, 200).await.unwrap();
        events.retain(|event| event.kind == kind);
        if events.len() >= n {
            events.reverse();
            return events;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let events = run.worker.machine_events(id, 200).await;
    panic!("not {n} times {kind}: {events:#?}");
}

async fn wait_result(run: &Run, id: &MachineId, result: CheckResult) -> CheckStatus {
    for _ in 0..2_000 {
        match alive(run, id).await {
            Some(check) if check.result == result => return check,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("not {result:?}: {:?}", alive(run, id).await);
}

#[tokio::test]
async fn a_machine_is_stopped_and_started_again_only_if_its_check_asks_for_that() {
    let node = Node::new();
    let run = node.start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let id = create(&run, stopping(address.port()), |_| {}).await;
    wait_result(&run, &id, CheckResult::Passing).await;
    drop(listener);
    let ailment = wait_events(&run, &id, "unhealthy", 1).await.remove(0);
    assert_eq!(ailment.detail["check"], "alive");
    assert_eq!(ailment.detail["failures"], 2);
    assert_eq!(ailment.detail["output"], "connection refused");
    let exit = wait_events(&run, &id, "exit", 1).await.remove(0);
    assert_eq!(exit.detail["exit_event"]["cause"], "unhealthy");
    assert_eq!(exit.detail["exit_event"]["requested_stop"], false);
    assert_eq!(exit.detail["exit_event"]["restarting"], true);
    let reason = exit.detail["reason"].as_str().unwrap();
    let expected = "its check alive failed 2 times in a row: connection refused; starts again in";
    assert!(reason.starts_with(expected), "{reason}");
    let listener = TcpListener::bind(address).await.unwrap();
    wait_events(&run, &id, "start", 2).await;
    wait_result(&run, &id, CheckResult::Passing).await;
    drop(listener);
    run.shut_down().await;
}

#[tokio::test]
async fn a_check_that_only_informs_leaves_its_machine_alone() {
    let node = Node::new();
    let run = node.start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let id = create(&run, check(CheckKind::Tcp { port }), |_| {}).await;
    let failing = wait_result(&run, &id, CheckResult::Critical).await;
    assert_eq!(failing.output, "connection refused");
    // Long enough for others to have been stopped.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = run.worker.machine(&id).await.unwrap();
    assert_eq!(status.state, MachineState::Started);
    assert_eq!(node.host.launches().len(), 1);
    run.shut_down().await;
}

#[tokio::test]
async fn the_restart_policy_and_its_budget_hold_for_unhealthy_machines() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for (when, state, n_starts) in [
        (RestartWhen::No, MachineState::Stopped, 1),
        (RestartWhen::OnFailure, MachineState::Failed, 2),
    ] {
        let node = Node::new();
        let run = node.start().await;
        let retries_max = 1;
        let id = create(&run, stopping(port), |spec| {
            spec.restart = RestartPolicy { when, retries_max };
        })
        .await;
        wait_events(&run, &id, "exit", n_starts).await;
        let status = run.wait(&id, state).await;
        let cause = status.last_exit.map(|exit| exit.cause);
        assert_eq!(cause, Some(ExitCause::Unhealthy));
        assert_eq!(node.host.launches().len(), n_starts, "{when:?}");
        run.shut_down().await;
    }
}

#[tokio::test]
async fn an_unhealthy_machine_is_started_again_by_another_roostd_too() {
    let node = Node::new();
    let run = node.start().await;
    node.host.plan_launches([FakeLaunch::RunStubbornly]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let id = create(&run, stopping(address.port()), |spec| {
        spec.stop.timeout = Duration::from_secs(300);
    })
    .await;
    wait_result(&run, &id, CheckResult::Passing).await;
    drop(listener);
    wait_events(&run, &id, "unhealthy", 1).await;
    run.kill();
    // A clean end, after which the policy would leave it alone.
    let exit = MachineExit {
        exit_code: 0,
        signal: None,
        oom_killed: false,
        cause: ExitCause::App,
    };
    node.host.exit(&id, exit);
    let _listener = TcpListener::bind(address).await.unwrap();
    let again = node.start().await;
    let exit = wait_events(&again, &id, "exit", 1).await.remove(0);
    assert_eq!(exit.detail["exit_event"]["cause"], "unhealthy");
    wait_events(&again, &id, "start", 2).await;
    wait_result(&again, &id, CheckResult::Passing).await;
    again.shut_down().await;
}

#[tokio::test]
async fn a_command_in_the_machine_is_a_check() {
    let node = Node::new();
    let run = node.start().await;
    node.host.set_exec_output(b"PONG\n");
    let command = vec!["redis-cli".into(), "ping".into()];
    let id = create(&run, check(CheckKind::Exec { command }), |_| {}).await;
    let passing = wait_result(&run, &id, CheckResult::Passing).await;
    assert_eq!(passing.output, "exit code 0: PONG");
    run.shut_down().await;
}

/// A clock that somebody sets a year forward or back each time that it is read.
#[derive(Debug, Default)]
struct WildClock(AtomicU64);

impl Clock for WildClock {
    fn now(&self) -> Timestamp {
        const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
        let n_read = self.0.fetch_add(1, Ordering::SeqCst);
        Timestamp::from_ms(YEAR_MS * (50 + n_read % 2) + n_read)
    }
}

#[tokio::test]
async fn setting_the_clock_neither_stops_checks_nor_floods_machines_with_them() {
    let mut node = Node::new();
    node.clock = Arc::new(WildClock::default());
    let run = node.start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let kind = CheckKind::Tcp {
        port: address.port(),
    };
    let patient = Check {
        grace_period: Duration::from_secs(3_600),
        ..check(kind)
    };
    let id = create(&run, patient.clone(), |_| {}).await;
    // Years go by and the time of grace does not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let waiting = alive(&run, &id).await.unwrap();
    assert_eq!(waiting.result, CheckResult::Waiting);
    assert_eq!(waiting.output, "connection refused");

    let begin = Instant::now();
    let listener = TcpListener::bind(address).await.unwrap();
    wait_result(&run, &id, CheckResult::Passing).await;
    for n_asked in 0..10 {
        let asked = tokio::time::timeout(Duration::from_secs(30), listener.accept()).await;
        assert!(asked.is_ok(), "asked {n_asked} times only");
    }
    let least = patient.interval.mul_f64(0.9) * 9;
    assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
    run.shut_down().await;
}
