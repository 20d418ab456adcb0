//! Databases of every released schema are read by this worker.
//!
//! `tests/golden/worker-vN.sql` is the dump of a database of schema version N
//! with the machines that [`fill`] makes. A schema that was released never
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

use async_trait::async_trait;
use roost_auth::seal::SealingKey;
use roost_host::driver::{MachineAddresses, RootFs, RootFsKind};
use roost_host::fake::{FakeHost, FakeLaunch};
use roost_model::digest::Digest;
use roost_model::id::{MachineId, NodeId, ReservationId};
use roost_model::image_ref::ImageRef;
use roost_model::machine::{Guest, MachineSpec, MachineState};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::traffic::NoTraffic;
use roost_proto::worker::{
    Asker, Cause, CreateMachine, Launch, LeaseNonce, MachineStatus, Operation, OperationFilter,
    Reserve, SecretEnv, TakeLease, WaitFor, WorkerApi as _, WorkerError,
};
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use roost_worker::{
    Drivers, ImageSource, NoHousekeeper, NodeProfile, ResolvedImage, Standing, Worker,
    WorkerConfig, WorkerParts,
};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// When the dumps were made; leases and reservations hold for some minutes.
const MADE_AT: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const NONCE: &str = "0123456789abcdef";
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
    let node = Node::new();
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
    let addresses: Vec<Ipv6Addr> = machines
        .iter()
        .map(|machine| machine.private_ipv6)
        .collect();
    assert_eq!(addresses, [2, 0, 1].map(|slot| address(slot).ipv6), "{at}");
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
    let operations = run.finished(filter).await;
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

/// The dump of a database that the worker filled and left in the middle of things.
async fn make_dump() -> String {
    let node = Node::new();
    let run = node.start().await;
    fill(&node, &run).await;
    run.shut_down().await;
    dump(&Connection::open(node.database()).unwrap())
}

/// A machine that runs under a lease, one that was stopped, one that is being
/// launched, one that was destroyed; and a reservation.
async fn fill(node: &Node, run: &Run) {
    let worker = &run.worker;
    let runs = worker
        .create_machine(creation("run"), &asker())
        .await
        .unwrap();
    run.wait(&runs.id, MachineState::Started).await;
    let lease = TakeLease {
        nonce: LeaseNonce::parse(NONCE).unwrap(),
        ttl: Duration::from_secs(600),
        description: "a migration".into(),
    };
    worker.take_lease(&runs.id, lease, &asker()).await.unwrap();
    let stopped = worker
        .create_machine(creation("stopped"), &asker())
        .await
        .unwrap();
    run.wait(&stopped.id, MachineState::Started).await;
    worker
        .stop_machine(&stopped.id, None, None, &asker())
        .await
        .unwrap();
    run.wait(&stopped.id, MachineState::Stopped).await;
    worker
        .set_cordoned(&stopped.id, true, &asker())
        .await
        .unwrap();
    node.host.plan_launches([FakeLaunch::Hang]);
    worker
        .create_machine(creation("begun"), &asker())
        .await
        .unwrap();
    while node.host.launches().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let gone = worker
        .create_machine(creation("gone"), &asker())
        .await
        .unwrap();
    run.wait(&gone.id, MachineState::Started).await;
    worker
        .destroy_machine(&gone.id, true, &asker())
        .await
        .unwrap();
    run.wait(&gone.id, MachineState::Destroyed).await;
    let filter = OperationFilter {
        machine: Some(gone.id),
        limit: 50,
        ..OperationFilter::default()
    };
    run.finished(filter).await;
    let reservation = Reserve {
        id: ReservationId::from_ulid(ulid::Ulid::from_parts(2, 2)),
        guest: Guest::DEFAULT,
        hold: Duration::from_secs(600),
    };
    worker.reserve(reservation).await.unwrap();
}

/// Statements that make this database.
fn dump(connection: &Connection) -> String {
    let mut text = String::new();
    let mut schema = connection
        .prepare("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid")
        .unwrap();
    let objects = schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    for object in objects.unwrap() {
        let (kind, name, sql): (String, String, String) = object.unwrap();
        writeln!(text, "{sql};").unwrap();
        if kind != "table" {
            continue;
        }
        let mut rows = connection
            .prepare(&format!("SELECT * FROM {name}"))
            .unwrap();
        let columns = rows.column_names().join(", ");
        let n_columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..n_columns)
                .map(|idx| literal(row.get_unwrap(idx)))
                .collect();
            let values = values.join(", ");
            writeln!(text, "INSERT INTO {name} ({columns}) VALUES ({values});").unwrap();
        }
    }
    writeln!(
        text,
        "PRAGMA user_version = {};",
        schema_version(connection)
    )
    .unwrap();
    text
}

fn literal(value: Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    }
}

async fn newest_version() -> u32 {
    let node = Node::new();
    node.start().await.shut_down().await;
    schema_version(&Connection::open(node.database()).unwrap())
}

fn schema_version(connection: &Connection) -> u32 {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

fn asker() -> Asker {
    Asker::from(Cause::User {
        token: "tok_1".into(),
        name: "ann".into(),
    })
}

fn creation(name: &str) -> CreateMachine {
    CreateMachine {
        request_id: name.into(),
        spec: spec(name),
        secrets: SecretEnv(BTreeMap::from([("TOKEN".into(), "hunter2".into())])),
        launch: Launch::Start,
        reservation: None,
        lease: None,
        placement: None,
    }
}

fn spec(name: &str) -> MachineSpec {
    let config: MachineConfig = serde_json::from_value(serde_json::json!({
        "image": "nginx:1.25",
        "env": {"A": "b"},
        "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512},
        "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
        "metadata": {"tier": "gold"},
    }))
    .unwrap();
    let identity = MachineIdentity {
        app: AppName::parse("web").unwrap(),
        name: MachineName::parse(name).unwrap(),
        region: RegionCode::parse("local").unwrap(),
    };
    config.to_spec(identity).unwrap()
}

/// Machines are on loopback; the IPv6 address tells the slot.
fn address(slot: u32) -> MachineAddresses {
    let slot = u16::try_from(slot).unwrap();
    MachineAddresses {
        ipv4: Ipv4Addr::LOCALHOST,
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, slot),
    }
}

/// It stands still.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        MADE_AT
    }
}

/// Images without layers.
struct NoLayers;

#[async_trait]
impl ImageSource for NoLayers {
    async fn resolve(
        &self,
        _: &MachineId,
        _: &ImageRef,
        _: RootFsKind,
    ) -> Result<ResolvedImage, WorkerError> {
        Ok(ResolvedImage {
            digest: Digest::from_sha256([9; 32]),
            entrypoint: vec!["/app".into()],
            cmd: vec![],
            env: vec![],
            user: String::new(),
            workdir: String::new(),
            stop_signal: None,
            root_fs: RootFs::Layers(vec![]),
        })
    }

    async fn release(&self, _: &MachineId) -> Result<(), WorkerError> {
        Ok(())
    }
}

/// What outlives a worker.
struct Node {
    dir: tempfile::TempDir,
    host: FakeHost,
}

/// One worker on it.
struct Run {
    worker: Arc<Worker>,
    tasks: Tasks,
}

impl Node {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            host: FakeHost::new(),
        }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("worker.db")
    }

    async fn start(&self) -> Run {
        let capacity = Capacity {
            n_cores: 64,
            memory: ByteSize::gib(256),
            n_machines: 10,
            overcommit: Overcommit::DEFAULT,
        };
        let config = WorkerConfig {
            data_dir: self.dir.path().to_owned(),
            log_root: self.dir.path().join("logs"),
            region: RegionCode::parse("local").unwrap(),
            addresses: Arc::new(address),
            sealer: Arc::new(SealingKey::from_bytes(&[7; 32]).unwrap()),
            platform_env: vec![],
            drain_timeout: Duration::from_secs(5),
            node: NodeProfile {
                id: NodeId::from_ulid(ulid::Ulid::from_parts(1, 1)),
                zone: None,
                labels: BTreeMap::new(),
                cordoned: false,
                capacity,
            },
            housekeeper: Arc::new(NoHousekeeper),
        };
        let drivers = Drivers::new();
        drivers.set(self.host.driver(), Standing::Proven);
        let parts = WorkerParts {
            drivers,
            images: Arc::new(NoLayers),
            gauge: Arc::new(NoTraffic),
            clock: Arc::new(StoppedClock),
        };
        let tasks = Tasks::new();
        let worker = Worker::start(config, parts, &tasks).await.unwrap();
        Run { worker, tasks }
    }
}

impl Run {
    async fn wait(&self, id: &MachineId, state: MachineState) -> MachineStatus {
        let wait = WaitFor {
            states: vec![state],
            instance_id: None,
            after_event: None,
            timeout: Duration::from_secs(60),
        };
        self.worker.wait_machine(id, wait).await.unwrap()
    }

    /// Operations, once all of them have ended.
    async fn finished(&self, filter: OperationFilter) -> Vec<Operation> {
        for _ in 0..1_000 {
            let operations = self.worker.operations(filter.clone()).await.unwrap();
            if operations
                .iter()
                .all(|operation| operation.ended_at.is_some())
            {
                return operations;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("some operation does not end");
    }

    async fn shut_down(self) {
        let ended = self.tasks.shutdown(Duration::from_secs(10)).await;
        assert!(ended, "some task does not end");
    }
}
