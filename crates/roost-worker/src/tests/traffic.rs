//! The traffic table and health checks, against real sockets on loopback.

use super::{Node, Run, samples};
use roost_model::id::MachineId;
use roost_model::machine::{Check, CheckKind, HttpCheck, MachineSpec, MachineState};
use roost_proto::traffic::{EndpointHealth, TrafficFeed};
use roost_proto::worker::{CheckResult, CreateMachine, WaitFor, WorkerApi as _};
use roost_runtime::tasks::Tasks;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn with_port(port: u16) -> CreateMachine {
    let mut request = samples::create("r1");
    request.spec.services = vec![samples::service(port)];
    request
}

fn health(feed: &TrafficFeed) -> Option<EndpointHealth> {
    let table = feed.borrow();
    let app = table.values().next()?;
    Some(app.endpoints.first()?.health.clone())
}

async fn wait_health(feed: &mut TrafficFeed, what: &str, fits: impl Fn(&EndpointHealth) -> bool) {
    let wait = feed.wait_for(|table| {
        let endpoint = table.values().next().and_then(|app| app.endpoints.first());
        endpoint.is_some_and(|endpoint| fits(&endpoint.health))
    });
    let outcome = tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .map(|_| ());
    assert!(outcome.is_ok(), "not {what}: {:?}", health(feed));
}

fn is_failing(health: &EndpointHealth) -> bool {
    matches!(health, EndpointHealth::Failing(_))
}

/// Answers every connection with this status until the tasks stop.
fn serve(tasks: &Tasks, listener: TcpListener, status: &'static str) {
    let stop = tasks.stopping();
    tasks.spawn("test server", async move {
        let serve = async {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nup");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        };
        stop.run_until_cancelled(serve).await;
    });
}

async fn create(run: &Run, request: CreateMachine) -> MachineId {
    run.worker
        .create_machine(request, &samples::asker())
        .await
        .unwrap()
        .id
}

#[tokio::test]
async fn a_service_takes_requests_once_its_port_is_open() {
    let node = Node::new();
    let run = node.start().await;
    let mut feed = run.worker.traffic();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let id = create(&run, with_port(address.port())).await;
    wait_health(&mut feed, "failing", is_failing).await;
    let listener = TcpListener::bind(address).await.unwrap();
    wait_health(&mut feed, "passing", |health| {
        *health == EndpointHealth::Passing
    })
    .await;
    run.worker
        .set_cordoned(&id, true, &samples::asker())
        .await
        .unwrap();
    assert_eq!(health(&feed), Some(EndpointHealth::Draining));
    run.worker
        .set_cordoned(&id, false, &samples::asker())
        .await
        .unwrap();
    assert_eq!(health(&feed), Some(EndpointHealth::Passing));

    // Another roostd has it back in traffic when it has started.
    run.shut_down().await;
    let again = node.start().await;
    assert_eq!(
        health(&again.worker.traffic()),
        Some(EndpointHealth::Passing)
    );
    again
        .worker
        .stop_machine(&id, None, None, &samples::asker())
        .await
        .unwrap();
    again.wait(&id, MachineState::Stopped).await;
    let down = EndpointHealth::Down("stopped".into());
    assert_eq!(health(&again.worker.traffic()), Some(down));
    again
        .worker
        .destroy_machine(&id, false, &samples::asker())
        .await
        .unwrap();
    again.wait(&id, MachineState::Destroyed).await;
    assert_eq!(health(&again.worker.traffic()), None);
    drop(listener);
    again.shut_down().await;
}

fn http_check(port: u16, grace_period: Duration) -> Check {
    Check {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        grace_period,
        ..Check::new(CheckKind::Http(HttpCheck::get(port, "/up")))
    }
}

#[tokio::test]
async fn a_service_with_a_check_waits_for_its_first_pass_and_shows_the_output() {
    let node = Node::new();
    let run = node.start().await;
    let mut feed = run.worker.traffic();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(&run.tasks, listener, "200 OK");
    let mut request = with_port(port);
    request.spec.services[0].checks = vec![http_check(port, Duration::ZERO)];
    let id = create(&run, request).await;
    wait_health(&mut feed, "passing", |health| {
        *health == EndpointHealth::Passing
    })
    .await;
    let status = run.worker.machine(&id).await.unwrap();
    assert_eq!(
        status.checks[0].name,
        format!("servicecheck-00-http-{port}")
    );
    assert_eq!(status.checks[0].result, CheckResult::Passing);
    assert_eq!(status.checks[0].output, "200 OK up");
    run.shut_down().await;
}

#[tokio::test]
async fn a_failing_check_says_what_it_saw_and_keeps_traffic_away() {
    let node = Node::new();
    let run = node.start().await;
    let mut feed = run.worker.traffic();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serve(&run.tasks, listener, "503 Service Unavailable");
    let mut request = with_port(port);
    request.spec.services[0].checks = vec![http_check(port, Duration::ZERO)];
    let id = create(&run, request).await;
    wait_health(
        &mut feed,
        "failing with the status",
        |health| match health {
            EndpointHealth::Failing(text) => text.contains("503 Service Unavailable"),
            EndpointHealth::Passing
            | EndpointHealth::Draining
            | EndpointHealth::Asleep(_)
            | EndpointHealth::Down(_) => false,
        },
    )
    .await;
    let status = run.worker.machine(&id).await.unwrap();
    assert_eq!(status.checks[0].result, CheckResult::Critical);
    run.shut_down().await;
}

#[tokio::test]
async fn the_table_has_the_split_of_a_machine_until_its_label_goes_also_after_a_restart() {
    let node = Node::new();
    let run = node.start().await;
    let (key, label) = (MachineSpec::SPLIT_KEY, "percent=10;header=x-canary: 1");
    let mut request = with_port(8080);
    request.spec.metadata.insert(key.into(), label.into());
    let id = create(&run, request).await;
    let split = |run: &Run| {
        let feed = run.worker.traffic();
        let table = feed.borrow();
        let split = table.values().next().unwrap().endpoints[0].split.clone();
        split.map(|split| split.to_string())
    };
    assert_eq!(split(&run).as_deref(), Some(label));
    run.shut_down().await;
    let run = node.start().await;
    assert_eq!(split(&run).as_deref(), Some(label));
    let asker = samples::asker();
    let removed = run.worker.set_metadata(&id, key, None, &asker);
    removed.await.unwrap();
    assert_eq!(split(&run), None);
    let stopped = run.worker.stop_machine(&id, None, None, &asker);
    stopped.await.unwrap();
    let wait = WaitFor {
        states: vec![MachineState::Stopped],
        instance_id: None,
        after_event: None,
        timeout: Duration::from_secs(20),
    };
    run.worker.wait_machine(&id, wait).await.unwrap();
    assert_eq!(split(&run), None, "what it was is forgotten");
    run.shut_down().await;
}
