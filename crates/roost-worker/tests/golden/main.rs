//! Databases of every released schema are read by this worker.
//!
//! `tests/golden/worker-vN.sql` is the dump of a database of schema version N
//! with the machines that [`node::fill`] makes. A schema that was released never
//! changes, and neither does its dump. Who adds a migration makes the next one:
//!
//! ```text
//! UPDATE=1 cargo test -p roost-worker --test golden
//! ```
//!
//! This writes the dump that is missing, and no other, by the real worker on a
//! fake host. Dumps of versions before 6 have the rows of 6, in the tables and
//! columns that they had.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod dump;
mod node;

use dump::{dump, schema_version};
use node::{NONCE, asker, creation, fill, finished, node};
use roost_model::digest::Digest;
use roost_model::machine::{Guest, MachineState};
use roost_proto::worker::{LeaseNonce, OperationFilter, WorkerApi as _, WorkerError};
use roost_worker::testing::{Node, Run, addresses};
use rusqlite::Connection;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// The version that leases came with.
const LEASES: u32 = 5;
/// The version that operations came with.
const OPERATIONS: u32 = 4;
/// The version that reservations came with.
const RESERVATIONS: u32 = 3;

fn dump_path(version: u32) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    dir.join(format!("worker-v{version}.sql"))
}

#[tokio::test]
async fn a_database_of_every_version_is_read() {
    let newest = newest_version().await;
    if std::env::var_os("UPDATE").is_some() && !dump_path(newest).exists() {
        std::fs::write(dump_path(newest), make_dump().await).unwrap();
    }
    for version in 1..=newest {
        let path = dump_path(version);
        let dump = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            let path = path.display();
            panic!("{path} is missing: UPDATE=1 cargo test -p roost-worker --test golden makes it")
        });
        check(version, &dump).await;
    }
}

/// Opens the database twice: what the first time writes is read by the second.
async fn check(version: u32, dump: &str) {
    let node = node();
    let connection = Connection::open(node.database()).unwrap();
    connection.execute_batch(dump).unwrap();
    assert_eq!(schema_version(&connection), version);
    drop(connection);
    for _ in 0..2 {
        let run = node.start().await;
        check_machines(&node, &run, version).await;
        check_promises(&run, version).await;
        if version >= OPERATIONS {
            check_operations(&run).await;
        }
        run.shut_down().await;
    }
}

async fn check_machines(node: &Node, run: &Run, version: u32) {
    let at = format!("version {version}");
    let mut machines = run.worker.machines(None).await.unwrap();
    machines.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let names: Vec<&str> = machines
        .iter()
        .map(|machine| machine.spec.name.as_str())
        .collect();
    assert_eq!(names, ["begun", "run", "stopped"], "{at}");
    // Their processes went with the host that they ran on: they start again.
    for machine in &machines[..2] {
        run.wait(&machine.id, MachineState::Started).await;
    }
    let [_, runs, stopped] = &machines[..] else {
        panic!("{at}: {machines:?}")
    };
    assert_eq!(stopped.state, MachineState::Stopped, "{at}");
    assert_eq!(stopped.last_exit.unwrap().signal, Some(2), "{at}");
    assert!(stopped.cordoned && !runs.cordoned, "{at}");
    assert_eq!(runs.spec.services[0].internal_port, 8080, "{at}");
    assert_eq!(runs.spec.metadata["tier"], "gold", "{at}");
    assert_eq!(
        runs.image_digest,
        Some(Digest::from_sha256([9; 32]).to_string()),
        "{at}"
    );
    assert_eq!(
        runs.spec.guest,
        Guest::preset("shared-cpu-2x").unwrap(),
        "{at}"
    );
    let had: Vec<Ipv6Addr> = machines
        .iter()
        .map(|machine| machine.private_ipv6)
        .collect();
    assert_eq!(had, [2, 0, 1].map(|slot| addresses(slot).ipv6), "{at}");
    // What was sealed opens.
    let launches = node.host.launches();
    let launch = launches
        .iter()
        .find(|launch| launch.machine_id == runs.id)
        .unwrap();
    let secret = ("TOKEN".to_owned(), "hunter2".to_owned());
    assert!(launch.process.env.contains(&secret), "{at}");
    let history = run.worker.machine_events(&stopped.id, 50).await.unwrap();
    let kinds: Vec<&str> = history
        .iter()
        .rev()
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(kinds[..3], ["create", "launch", "start"], "{at}");
    // The same request, made again, makes no other machine.
    let again = run
        .worker
        .create_machine(creation("run"), &asker())
        .await
        .unwrap();
    assert_eq!(again.id, runs.id, "{at}");
}

async fn check_promises(run: &Run, version: u32) {
    let at = format!("version {version}");
    let view = run.worker.capacity().await.unwrap();
    assert_eq!(view.used.n_machines, 3, "{at}");
    let n_reserved = u32::from(version >= RESERVATIONS);
    assert_eq!(view.reserved.n_machines, n_reserved, "{at}");
    let machines = run.worker.machines(None).await.unwrap();
    let runs = machines
        .iter()
        .find(|machine| machine.spec.name.as_str() == "run")
        .unwrap();
    let refused = run.worker.set_cordoned(&runs.id, false, &asker()).await;
    let is_leased = matches!(refused, Err(WorkerError::Leased { .. }));
    assert_eq!(is_leased, version >= LEASES, "{at}: {refused:?}");
    let mut holder = asker();
    if version >= LEASES {
        holder.lease_nonce = LeaseNonce::parse(NONCE);
    }
    run.worker
        .set_cordoned(&runs.id, false, &holder)
        .await
        .unwrap();
}

/// Those of the dump are there, and the one that was under way has ended.
async fn check_operations(run: &Run) {
    let filter = OperationFilter {
        limit: 50,
        ..OperationFilter::default()
    };
    let operations = finished(&run.worker, filter).await;
    let mut kinds: Vec<&str> = operations
        .iter()
        .map(|operation| operation.kind.as_str())
        .collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        ["create", "create", "create", "create", "destroy", "stop"]
    );
    let stop = operations
        .iter()
        .find(|operation| operation.kind == "stop")
        .unwrap();
    assert_eq!(
        (stop.status.as_str(), &stop.cause["name"]),
        ("succeeded", &"ann".into())
    );
    let id = roost_model::id::RunId::parse(&stop.id).unwrap();
    let told = run.worker.operation(&id).await.unwrap().unwrap();
    let steps: Vec<&str> = told.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["drain", "signal"]);
}

async fn newest_version() -> u32 {
    let node = node();
    node.start().await.shut_down().await;
    schema_version(&Connection::open(node.database()).unwrap())
}

/// The dump of a database that the worker filled and left in the middle of things.
async fn make_dump() -> String {
    let node = node();
    let run = node.start().await;
    fill(&node, &run).await;
    run.shut_down().await;
    dump(&Connection::open(node.database()).unwrap())
}
