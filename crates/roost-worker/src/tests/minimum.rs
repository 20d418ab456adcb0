//! Machines that stay awake, or are woken, so that enough of their app run.

use super::sleep::{by_proxy, create, node, port, sleepy, wake};
use super::{Run, samples};
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::{Autostop, MachineState, Rung};
use roost_proto::traffic::{Endpoint, EndpointHealth, PeerNode};
use roost_proto::worker::{CreateMachine, WorkerApi as _};
use std::sync::Arc;

/// A machine like this one that runs at the node with this number; the own one's is 1.
fn elsewhere(request: &CreateMachine, number: u64) -> Endpoint {
    Endpoint {
        machine_id: MachineId::from_bytes([9; 7]),
        region: request.spec.region.clone(),
        release: None,
        split: None,
        address: "10.0.0.9:8080".parse().unwrap(),
        health: EndpointHealth::Passing,
        service: Arc::new(request.spec.services[0].clone()),
        node: Some(Arc::new(PeerNode {
            id: NodeId::from_ulid(ulid::Ulid::from_parts(number, 0)),
            edge: "192.0.2.1:4282".parse().unwrap(),
        })),
        statics: Arc::default(),
    }
}

/// Waits until a machine that may sleep has been looked at for longer than is needed to put
/// another one to sleep, or to wake it.
async fn let_some_looks_pass(run: &Run, port: u16) {
    let other = create(run, sleepy("other", "other", port, Autostop::Stop)).await;
    for _ in 0..3 {
        run.wait(&other, MachineState::Stopped).await;
        wake(run, &other).await.unwrap();
        run.wait(&other, MachineState::Started).await;
    }
}

async fn stop(run: &Run, id: &MachineId) {
    let asker = samples::asker();
    let stopped = run.worker.stop_machine(id, None, None, &asker);
    stopped.await.unwrap();
    run.wait(id, MachineState::Stopped).await;
}

#[tokio::test]
async fn machines_of_a_node_before_this_one_are_enough() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let run = node.start().await;
    let mut request = sleepy("web", "web-1", port, Autostop::Stop);
    request.spec.services[0].min_machines_running = 1;
    let (before, after) = (elsewhere(&request, 0), elsewhere(&request, 2));
    // What a node after this one has is no reason to sleep: that one relies on this one.
    *node.gauge.2.lock() = vec![after];
    let id = create(&run, request).await;
    run.wait(&id, MachineState::Started).await;
    let_some_looks_pass(&run, port).await;
    assert_eq!(by_proxy(&run, &id).await, []);
    *node.gauge.2.lock() = vec![before];
    run.wait(&id, MachineState::Stopped).await;
    run.shut_down().await;
}

#[tokio::test]
async fn a_machine_is_woken_when_the_one_that_stayed_awake_elsewhere_is_lost() {
    let (_listener, port) = port().await;
    let node = node(Rung::Container);
    let mut request = sleepy("web", "web-1", port, Autostop::Stop);
    request.spec.services[0].min_machines_running = 1;
    let before = elsewhere(&request, 0);
    *node.gauge.2.lock() = vec![before.clone()];
    let run = node.start().await;
    let id = create(&run, request).await;
    run.wait(&id, MachineState::Stopped).await;
    // As long as that one is there nobody is woken. A new worker knows why it rests.
    run.shut_down().await;
    let run = node.start().await;
    let_some_looks_pass(&run, port).await;
    let events = by_proxy(&run, &id).await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "stop"));

    node.gauge.2.lock().clear();
    run.wait(&id, MachineState::Started).await;
    let events = by_proxy(&run, &id).await;
    assert_eq!((events.len(), events[0].kind.as_str()), (2, "start"));
    assert_eq!(events[0].detail["reason"], "min_machines_running");
    // It is the one that stays now, until the other is back.
    let_some_looks_pass(&run, port).await;
    assert_eq!(by_proxy(&run, &id).await.len(), 2);
    *node.gauge.2.lock() = vec![before];
    run.wait(&id, MachineState::Stopped).await;
    run.shut_down().await;
}

#[tokio::test]
async fn one_that_sleeps_takes_the_place_of_one_that_was_stopped_which_stays_so() {
    let (_listener, port) = port().await;
    let mut node = node(Rung::Container);
    node.config.node.capacity = samples::capacity(4);
    let run = node.start().await;
    let mut all = vec![];
    for name in ["web-1", "web-2", "web-3"] {
        let mut request = sleepy("web", name, port, Autostop::Stop);
        request.spec.services[0].min_machines_running = 1;
        let id = create(&run, request).await;
        // The first has something to do: it is the one that stays.
        node.gauge
            .1
            .lock()
            .insert(id.clone(), usize::from(all.is_empty()));
        all.push(id);
    }
    for id in &all[1..] {
        run.wait(id, MachineState::Stopped).await;
    }
    node.gauge.1.lock().clear();
    stop(&run, &all[0]).await;
    // One is enough, and it is the first by its id.
    let (woken, other) = (
        all[1..].iter().min().unwrap(),
        all[1..].iter().max().unwrap(),
    );
    run.wait(woken, MachineState::Started).await;
    let_some_looks_pass(&run, port).await;
    assert_eq!(by_proxy(&run, woken).await.len(), 2);
    assert_eq!(by_proxy(&run, other).await.len(), 1);
    // Now there is nobody left who may be woken.
    let asker = samples::asker();
    run.worker.set_cordoned(other, true, &asker).await.unwrap();
    stop(&run, woken).await;
    let_some_looks_pass(&run, port).await;
    let of_all = [
        by_proxy(&run, &all[0]),
        by_proxy(&run, woken),
        by_proxy(&run, other),
    ];
    let of_all = futures_util::future::join_all(of_all).await;
    let counts: Vec<usize> = of_all.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 2, 1]);
    run.shut_down().await;
}

#[tokio::test]
async fn one_that_sleeps_is_not_woken_for_the_minimum_of_one_that_was_stopped() {
    let (_listener, port) = port().await;
    let mut node = node(Rung::Container);
    node.config.node.capacity = samples::capacity(4);
    let run = node.start().await;
    let machine = |name, minimum| {
        let mut request = sleepy("web", name, port, Autostop::Stop);
        request.spec.services[0].min_machines_running = minimum;
        request
    };
    let first = create(&run, machine("web-1", 1)).await;
    // It has something to do: it is the one that stays.
    node.gauge.1.lock().insert(first.clone(), 1);
    let second = create(&run, machine("web-2", 1)).await;
    run.wait(&second, MachineState::Stopped).await;
    let third = create(&run, machine("web-3", 2)).await;
    run.wait(&third, MachineState::Started).await;
    stop(&run, &third).await;
    let_some_looks_pass(&run, port).await;
    assert_eq!(by_proxy(&run, &first).await, []);
    assert_eq!(by_proxy(&run, &second).await.len(), 1, "it sleeps on");
    assert_eq!(by_proxy(&run, &third).await, []);
    run.shut_down().await;
}
