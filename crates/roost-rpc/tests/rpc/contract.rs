//! The contract of workers: the real one and the simulated one, each also as
//! another node sees it.

use crate::cluster::{Cluster, asker, create};
use crate::real;
use roost_model::machine::MachineState;
use roost_model::name::AppName;
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_proto::worker::{WaitFor, WorkerApi};
use roost_testkit::sim_worker::SimWorker;
use roost_testkit::worker_contract::Subject;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

fn here(worker: Arc<dyn WorkerApi>, held: Box<dyn Any + Send>) -> Subject {
    Subject {
        worker,
        sample: create("sample"),
        held,
    }
}

/// The same worker, through gRPC.
async fn there(subject: Subject) -> Subject {
    let cluster = Cluster::new();
    let remote = cluster.remote(subject.worker).await;
    let held = (subject.held, remote.tasks);
    here(Arc::new(remote.worker), Box::new(held))
}

async fn real_here() -> Subject {
    let (node, run) = real::start().await;
    here(run.worker.clone(), Box::new((run, node)))
}

async fn real_there() -> Subject {
    there(real_here().await).await
}

async fn simulated_here() -> Subject {
    let worker = SimWorker::new();
    worker.set_capacity(Capacity {
        n_cores: 8,
        memory: ByteSize::gib(1),
        n_machines: 100,
        overcommit: Overcommit::NONE,
    });
    here(Arc::new(worker), Box::new(()))
}

async fn simulated_there() -> Subject {
    there(simulated_here().await).await
}

mod real_in_process {
    roost_testkit::worker_contract!(super::real_here);
}
mod real_through_grpc {
    roost_testkit::worker_contract!(super::real_there);
}
mod simulated_in_process {
    roost_testkit::worker_contract!(super::simulated_here);
}
mod simulated_through_grpc {
    roost_testkit::worker_contract!(super::simulated_there);
}

#[tokio::test]
async fn what_is_destroyed_stays_on_the_record_of_a_real_worker() {
    for subject in [real_here().await, real_there().await] {
        let (worker, asker) = (&subject.worker, asker());
        let created = worker.create_machine(subject.sample.clone(), &asker).await;
        let machine = created.unwrap();
        let app = &machine.spec.app;
        assert_eq!(worker.destroyed_machines(app).await.unwrap(), []);
        let destroyed = worker.destroy_machine(&machine.id, true, &asker);
        destroyed.await.unwrap();
        let gone = WaitFor {
            states: vec![MachineState::Destroyed],
            instance_id: None,
            after_event: None,
            timeout: Duration::from_secs(60),
        };
        worker.wait_machine(&machine.id, gone).await.unwrap();
        assert_eq!(worker.machines(Some(app)).await.unwrap(), []);
        let kept = worker.destroyed_machines(app).await.unwrap();
        let ids: Vec<_> = kept.iter().map(|status| &status.id).collect();
        assert_eq!(ids, [&machine.id]);
        let other = AppName::parse("other").unwrap();
        assert_eq!(worker.destroyed_machines(&other).await.unwrap(), []);
    }
}
