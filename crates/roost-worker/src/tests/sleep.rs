//! Machines that sleep for want of traffic, and are woken.

use super::{Node, Run, samples};
use roost_host::fake::FakeSuspend;
use roost_model::id::MachineId;
use roost_model::machine::{Autostop, MachineSpec, MachineState, Rung};
use roost_model::name::AppName;
use roost_proto::traffic::WakeError;
use roost_proto::worker::{CreateMachine, Launch, MachineEvent, WorkerApi as _};
use std::time::Duration;
use tokio::net::TcpListener;

/// A node that puts machines to sleep soon.
pub(super) fn node(rung: Rung) -> Node {
    let mut node = Node::on(rung);
    node.config.autostop_after = Duration::from_secs(1);
    node
}

/// A port where the machines of a test take connections.
pub(super) async fn port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A machine with this name, of an app that lets it sleep so.
pub(super) fn sleepy(app: &str, name: &str, port: u16, autostop: Autostop) -> CreateMachine {
    let mut request = samples::create(name);
    request.spec.app = AppName::parse(app).unwrap();
    let mut service = samples::service(port);
    (service.autostart, service.autostop) = (true, autostop);
    request.spec.services = vec![service];
    request
}

pub(super) async fn create(run: &Run, request: CreateMachine) -> MachineId {
    let created = run.worker.create_machine(request, &samples::asker()).await;
    created.unwrap().id
}

/// What the proxy asked for, newest first.
pub(super) async fn by_proxy(run: &Run, id: &MachineId) -> Vec<MachineEvent> {
    let events = run.worker.machine_events(id, 50).await.unwrap();
    let of_proxy = events.into_iter().filter(|event| event.source == "proxy");
    of_proxy.collect()
}

pub(super) async fn wake(run: &Run, id: &MachineId) -> Result<(), WakeError> {
    run.worker.sleep_control().wake(id.clone()).await
}

#[tokio::test]
async fn an_idle_machine_is_stopped_and_woken_and_a_busy_one_runs_on() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let busy = create(&run, sleepy("busy", "busy", port, Autostop::Stop)).await;
    node.gauge.1.lock().insert(busy.clone(), 1);
    let fixed = create(&run, sleepy("fixed", "fixed", port, Autostop::Off)).await;
    for id in [&busy, &fixed] {
        run.wait(id, MachineState::Started).await;
    }
    let idle = create(&run, sleepy("idle", "idle", port, Autostop::Stop)).await;
    run.wait(&idle, MachineState::Stopped).await;
    let events = by_proxy(&run, &idle).await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "stop"));
    assert_eq!(events[0].detail["reason"], "autostop");

    let (one, other) = tokio::join!(wake(&run, &idle), wake(&run, &idle));
    assert_eq!((one, other), (Ok(()), Ok(())));
    run.wait(&idle, MachineState::Started).await;
    let starts = |events: Vec<MachineEvent>| {
        let starts = events.iter().filter(|event| event.kind == "start");
        starts.count()
    };
    assert_eq!(starts(by_proxy(&run, &idle).await), 1, "one start for both");
    // It sleeps again, and all this time the others did not.
    run.wait(&idle, MachineState::Stopped).await;
    for id in [&busy, &fixed] {
        let status = run.worker.machine(id).await.unwrap();
        assert_eq!(status.state, MachineState::Started);
        assert_eq!(by_proxy(&run, id).await, []);
    }
    run.shut_down().await;
}

#[tokio::test]
async fn machines_that_are_too_many_sleep_and_as_many_as_are_to_stay_do() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let mut all = vec![];
    // Each has something to do, and one could do it all: without the minimum two would sleep.
    for (name, load) in [("web-1", 3), ("web-2", 1), ("web-3", 2)] {
        let mut request = sleepy("web", name, port, Autostop::Stop);
        request.spec.services[0].min_machines_running = 2;
        let id = create(&run, request).await;
        node.gauge.1.lock().insert(id.clone(), load);
        all.push(id);
    }
    // The least busy one goes to sleep once its requests have ended.
    run.wait(&all[1], MachineState::Stopping).await;
    node.gauge.1.lock().remove(&all[1]);
    run.wait(&all[1], MachineState::Stopped).await;
    wake(&run, &all[1]).await.unwrap();
    run.wait(&all[1], MachineState::Started).await;
    run.wait(&all[1], MachineState::Stopped).await;
    for id in [&all[0], &all[2]] {
        let status = run.worker.machine(id).await.unwrap();
        assert_eq!(status.state, MachineState::Started);
        assert_eq!(by_proxy(&run, id).await, []);
    }
    run.shut_down().await;
}

#[tokio::test]
async fn nobody_is_put_to_sleep_while_a_release_is_tried_out() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let mut all = vec![];
    for (name, label) in [("web-1", None), ("web-2", Some("percent=10"))] {
        let mut request = sleepy("web", name, port, Autostop::Stop);
        let split = label.map(|label| (MachineSpec::SPLIT_KEY.to_owned(), label.to_owned()));
        request.spec.metadata.extend(split);
        all.push(create(&run, request).await);
    }
    for id in &all {
        run.wait(id, MachineState::Started).await;
    }
    // One that was seen later has slept twice by the time.
    let other = create(&run, sleepy("other", "other", port, Autostop::Stop)).await;
    run.wait(&other, MachineState::Stopped).await;
    wake(&run, &other).await.unwrap();
    run.wait(&other, MachineState::Started).await;
    run.wait(&other, MachineState::Stopped).await;
    for id in &all {
        assert_eq!(by_proxy(&run, id).await, []);
    }
    let asker = samples::asker();
    let ended = run
        .worker
        .set_metadata(&all[1], MachineSpec::SPLIT_KEY, None, &asker);
    ended.await.unwrap();
    for id in &all {
        run.wait(id, MachineState::Stopped).await;
    }
    run.shut_down().await;
}

#[tokio::test]
async fn the_minimum_counts_in_the_first_region_only() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let mut request = sleepy("web", "web-1", port, Autostop::Stop);
    request.spec.services[0].min_machines_running = 1;
    let env = &mut request.spec.process.env;
    env.insert("PRIMARY_REGION".into(), "elsewhere".into());
    let id = create(&run, request).await;
    run.wait(&id, MachineState::Stopped).await;
    run.shut_down().await;
}

#[tokio::test]
async fn an_idle_machine_is_suspended_and_if_that_fails_stopped() {
    let (_listener, port) = port().await;
    let node = node(Rung::Vm);
    let run = node.start().await;
    let id = create(&run, sleepy("web", "web-1", port, Autostop::Suspend)).await;
    run.wait(&id, MachineState::Suspended).await;
    let events = by_proxy(&run, &id).await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "suspend"));
    assert_eq!(events[0].detail["reason"], "autosuspend");
    node.host
        .plan_suspends([FakeSuspend::Fail("the disk is full".into())]);
    wake(&run, &id).await.unwrap();
    run.wait(&id, MachineState::Stopped).await;
    let kinds: Vec<_> = by_proxy(&run, &id)
        .await
        .into_iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, ["stop", "suspend", "start", "suspend"]);
    assert!(node.host.launches()[1].resume);
    run.shut_down().await;
}

#[tokio::test]
async fn where_nothing_can_be_suspended_an_idle_machine_is_stopped() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let id = create(&run, sleepy("web", "web-1", port, Autostop::Suspend)).await;
    run.wait(&id, MachineState::Stopped).await;
    assert_eq!(by_proxy(&run, &id).await[0].kind, "stop");
    run.shut_down().await;
}

#[tokio::test]
async fn what_a_request_may_not_wake_is_refused_with_the_reason() {
    let node = Node::new();
    let run = node.start().await;
    let asker = samples::asker();
    let mut request = sleepy("web", "web-1", 1, Autostop::Off);
    request.launch = Launch::Skip;
    let id = create(&run, request).await;
    let refused = |expected: &'static str| {
        let woken = wake(&run, &id);
        async move {
            let Err(WakeError::Refused(why)) = woken.await else {
                panic!("it is woken: {expected}")
            };
            assert!(why.contains(expected), "{why}");
        }
    };
    refused("it was never started").await;
    run.worker.start_machine(&id, &asker).await.unwrap();
    run.wait(&id, MachineState::Started).await;
    let stopped = run.worker.stop_machine(&id, None, None, &asker).await;
    stopped.unwrap();
    run.wait(&id, MachineState::Stopped).await;
    run.worker.set_cordoned(&id, true, &asker).await.unwrap();
    refused("it is cordoned").await;
    run.worker.set_cordoned(&id, false, &asker).await.unwrap();
    wake(&run, &id).await.unwrap();
    run.wait(&id, MachineState::Started).await;
    let mut request = samples::create("web-2");
    request.spec.services = vec![samples::service(1)];
    let other = create(&run, request).await;
    run.wait(&other, MachineState::Started).await;
    let stopped = run.worker.stop_machine(&other, None, None, &asker).await;
    stopped.unwrap();
    run.wait(&other, MachineState::Stopped).await;
    let refusal = wake(&run, &other).await.unwrap_err();
    assert!(refusal.to_string().contains("`autostart`"), "{refusal}");
    // Nobody is asked once the worker has ended.
    let control = run.worker.sleep_control();
    run.shut_down().await;
    assert_eq!(control.wake(id).await, Err(WakeError::Away));
}
