//! What a worker costs beside its drivers: a driver that does nothing, and every
//! step durable on this disk.
//!
//! - CPU of a machine from its creation until it is started, and its rest of a
//!   life, one at a time;
//! - machines started per second when many are created at once;
//! - CPU of a worker's start with many machines that run, until it has adopted all.

use super::process;
use roost_model::machine::MachineState;
use roost_model::name::{AppName, MachineName};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{Asker, Cause, CreateMachine, Launch, SecretEnv, WorkerApi as _};
use roost_worker::Worker;
use roost_worker::testing::{Node, Run, region, wait};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Machines that are created one after the other.
const N_SINGLE: usize = 100;
/// Machines that are created at once.
const N_BURST: usize = 200;
/// Machines that run when the worker starts again.
const N_ADOPTED: usize = 500;
/// The most CPU of one machine until it is started.
const CREATE_TARGET: Duration = Duration::from_millis(20);
/// The fewest machines a second.
const BURST_TARGET: f64 = 100.0;
/// The most CPU of a start.
const START_TARGET: Duration = Duration::from_secs(2);

pub(crate) fn worker() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let capacity = Capacity {
        n_cores: 1_024,
        memory: ByteSize::gib(4_096),
        n_machines: 1_000,
        overcommit: Overcommit::DEFAULT,
    };
    runtime.block_on(measure(&Node::new(capacity)));
}

async fn measure(node: &Node) {
    let verdict = |ok| if ok { "ok" } else { "MISSED" };
    let run = node.start().await;
    let before = own_cpu();
    for n in 0..N_SINGLE {
        start_one(run.worker.clone(), format!("single-{n}")).await;
    }
    let each = (own_cpu() - before) / u32::try_from(N_SINGLE).unwrap();
    println!(
        "a machine from create to started, null driver: {:.2} ms of CPU (target ≤ {}) {}",
        each.as_secs_f64() * 1e3,
        CREATE_TARGET.as_millis(),
        verdict(each <= CREATE_TARGET)
    );

    let (start, before) = (Instant::now(), own_cpu());
    start_many(&run, "burst", N_BURST).await;
    let (took, used) = (start.elapsed(), own_cpu() - before);
    let per_second = N_BURST as f64 / took.as_secs_f64();
    println!(
        "{N_BURST} machines created at once, null driver: {per_second:.0} started a second \
         (target ≥ {BURST_TARGET}), {:.2} ms of CPU each {}",
        used.as_secs_f64() * 1e3 / N_BURST as f64,
        verdict(per_second >= BURST_TARGET)
    );

    start_many(&run, "adopted", N_ADOPTED - N_SINGLE - N_BURST).await;
    run.shut_down().await;
    let (start, before) = (Instant::now(), own_cpu());
    let run = node.start().await;
    let adopted = run.worker.machines(None).await.unwrap();
    let (took, used) = (start.elapsed(), own_cpu() - before);
    let n_running = adopted
        .iter()
        .filter(|machine| machine.pid.is_some())
        .count();
    assert_eq!(n_running, N_ADOPTED, "all are adopted");
    println!(
        "start of a worker with {N_ADOPTED} machines that run, null driver: {:.2} s of CPU \
         (target < {}), {:.2} s {}",
        used.as_secs_f64(),
        START_TARGET.as_secs(),
        took.as_secs_f64(),
        verdict(used < START_TARGET)
    );
    run.shut_down().await;
}

/// CPU of this process.
fn own_cpu() -> Duration {
    process::cpu(i32::try_from(std::process::id()).unwrap())
}

async fn start_many(run: &Run, prefix: &str, n_machines: usize) {
    let mut starts = JoinSet::new();
    for n in 0..n_machines {
        starts.spawn(start_one(run.worker.clone(), format!("{prefix}-{n}")));
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap();
    }
}

async fn start_one(worker: Arc<Worker>, name: String) {
    let asker = Asker::from(Cause::User {
        token: "tok_1".into(),
        name: "bench".into(),
    });
    let created = worker
        .create_machine(creation(&name), &asker)
        .await
        .unwrap();
    wait(&worker, &created.id, MachineState::Started).await;
}

fn creation(name: &str) -> CreateMachine {
    let config: MachineConfig =
        serde_json::from_value(serde_json::json!({"image": "bench:1"})).unwrap();
    let identity = MachineIdentity {
        app: AppName::parse("bench").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: region(),
    };
    CreateMachine {
        request_id: name.into(),
        spec: config.to_spec(identity).unwrap(),
        secrets: SecretEnv(BTreeMap::new()),
        launch: Launch::Start,
        cordoned: false,
        reservation: None,
        lease: None,
        placement: None,
    }
}
