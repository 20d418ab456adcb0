//! Claims about calls whose network fails.

use crate::cluster::{ANY, Cluster, ask, asker, create, node};
use roost_auth::cluster::Role;
use roost_model::error::{Classify as _, Retry};
use roost_model::machine::MachineState;
use roost_proto::worker::{WaitFor, WorkerApi, WorkerError};
use roost_rpc::{RemoteWorker, limits};
use roost_runtime::tasks::Tasks;
use roost_testkit::faults::{Faults, Faulty};
use roost_testkit::sim_worker::SimWorker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A server that can be killed: all of it ends at once.
struct Server {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
}

impl Server {
    fn start(cluster: &Cluster, address: SocketAddr, worker: Arc<dyn WorkerApi>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = cluster.identity(1, Role::Worker);
        let served = async { roost_rpc::serve(address, worker, &identity, &Tasks::new()).await };
        let address = std::thread::scope(|scope| {
            let bound = scope.spawn(|| runtime.block_on(served));
            bound.join().unwrap().unwrap()
        });
        Self { runtime, address }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

fn assert_may_be_repeated(error: &WorkerError) {
    assert!(
        matches!(error, WorkerError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(error.retry(), Retry::Backoff);
    assert_eq!(error.code().to_string(), "worker-unreachable");
}

fn wait_for(state: MachineState) -> WaitFor {
    WaitFor {
        states: vec![state],
        instance_id: None,
        after_event: None,
        timeout: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_call_is_asked_again() {
    let cluster = Cluster::new();
    let worker = Arc::new(SimWorker::new());
    let server = Server::start(&cluster, ANY, worker.clone());
    let address = server.address;
    let api = ask(1, address, &cluster.identity(2, Role::Api));
    let id = api.create_machine(create("r1"), &asker()).await.unwrap().id;
    // This one waits in the server.
    let waiting = api.wait_machine(&id, wait_for(MachineState::Stopped));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.kill();
    };
    let (waited, ()) = tokio::join!(waiting, kill);
    assert_may_be_repeated(&waited.unwrap_err());
    assert_may_be_repeated(&api.machine(&id).await.unwrap_err());

    let server = Server::start(&cluster, address, worker);
    assert_eq!(api.machine(&id).await.unwrap().id, id);
    server.kill();
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_repeated_and_done_once() {
    let cluster = Cluster::new();
    let worker = Arc::new(SimWorker::new());
    let faults = Faults {
        lost_permille: 1_000,
        ..Faults::default()
    };
    let faulty = Arc::new(Faulty::new(worker.clone(), node(1), faults));
    let remote = cluster.remote(faulty.clone()).await;
    let lost = remote.worker.create_machine(create("r1"), &asker()).await;
    assert_may_be_repeated(&lost.unwrap_err());
    faulty.set_faults(Faults::default());
    let repeated = remote.worker.create_machine(create("r1"), &asker()).await;
    let again = remote.worker.create_machine(create("r1"), &asker()).await;
    assert_eq!(repeated.unwrap().id, again.unwrap().id);
    assert_eq!(worker.n_made(), 1);
    remote.shut_down().await;
}

/// Repeats a call while it may be repeated.
async fn until_done<T>(call: impl AsyncFn() -> Result<T, WorkerError>) -> T {
    for _ in 0..1_000 {
        match call().await {
            Ok(done) => return done,
            Err(error) => assert_may_be_repeated(&error),
        }
    }
    panic!("it is never done");
}

#[tokio::test]
async fn with_faults_of_every_kind_repetition_ends_with_each_machine_once() {
    let cluster = Cluster::new();
    for seed in 0..8 {
        let worker = Arc::new(SimWorker::new());
        let faults = Faults {
            seed,
            delay_max: Duration::from_millis(2),
            refused_permille: 150,
            lost_permille: 150,
            death_permille: 50,
            dead_calls: 3,
        };
        let faulty = Faulty::new(worker.clone(), node(1), faults);
        let remote = cluster.remote(Arc::new(faulty)).await;
        let api: &RemoteWorker = &remote.worker;
        for n in 0..10 {
            let name = format!("m{n}");
            until_done(async || api.create_machine(create(&name), &asker()).await).await;
        }
        let machines = until_done(async || api.machines(None).await).await;
        assert_eq!(machines.len(), 10, "seed {seed}");
        assert_eq!(worker.n_made(), 10, "seed {seed}");
        remote.shut_down().await;
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_before_it_is_sent() {
    let cluster = Cluster::new();
    let identity = cluster.identity(2, Role::Api);
    // Nobody listens: the answer cannot be from there.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let mut request = create("r1");
    let big = "x".repeat(limits::MESSAGE_BYTES_MAX);
    request.secrets.0.insert("BIG".into(), big);
    let api = ask(1, nobody, &identity);
    let error = api.create_machine(request, &asker()).await.unwrap_err();
    assert!(matches!(error, WorkerError::Invalid(_)), "{error:?}");
    let error = api.create_machine(create("r1"), &asker()).await;
    assert_may_be_repeated(&error.unwrap_err());
}
