//! Databases of every released schema are read by this store, and nothing in them is lost.
//!
//! `tests/golden/control-vN.sql` is the dump of a database of schema version N with what
//! [`fill`] records: by the store of that version, so before version 3 without runs, and with
//! machines only from version 4 on. A schema that was released never changes, and neither does
//! its dump. Who adds a migration that is released makes the next one:
//!
//! ```text
//! UPDATE=1 cargo test -p roost-store --test golden
//! ```
//!
//! This writes the dump of the newest version if it is missing, and no other. The tests of
//! roost-api take the deployments of version 2 to their ends.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use roost_fsm::journal::NewRun;
use roost_fsm::record::{Kind, Status, Subject};
use roost_fsm::workflow::OnBusy;
use roost_model::host_name::HostName;
use roost_model::id::{InstanceId, MachineId, NodeId, RunId};
use roost_model::name::{AppName, MachineName, RegionCode, SecretName};
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use roost_proto::rest::{
    CanaryConfig, CanaryJudgement, DeploymentCanary, DeploymentError, DeploymentStep, ReleaseSeen,
};
use roost_store::addresses::AddressKind;
use roost_store::host_names::{CertificateRecord, NewHostName};
use roost_store::placements::{Blueprint, Change, Chosen, Fence};
use roost_store::records::{
    DeploymentRecord, DeploymentStatus, NewDeployment, NewRelease, ReleaseStatus, SecretChange,
    SlotPhase, SlotRecord, TokenRecord,
};
use roost_store::{Store, subject_of_app};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);
/// The version that runs came with.
const RUNS: i64 = 3;
/// The version that records of machines came with.
const PLACEMENTS: i64 = 4;
/// The version from which on they tell who is cordoned.
const CORDONS: i64 = 5;
/// The version that host names came with.
const HOST_NAMES: i64 = 6;
/// The version that canaries came with.
const CANARIES: i64 = 7;
/// The version that addresses came with.
const ADDRESSES: i64 = 8;
/// Versions between which no other was released.
const RELEASED: [i64; 6] = [2, 4, 5, 6, 7, 8];
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
/// Apps by id, and where their newest deployments are.
const APPS: [(&str, &str, DeploymentStatus); 4] = [
    ("app_1", "web", DeploymentStatus::Running),
    ("app_2", "api", DeploymentStatus::Retiring),
    ("app_3", "old", DeploymentStatus::Undoing),
    ("app_4", "new", DeploymentStatus::Pending),
];

fn dump_path(version: i64) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    dir.join(format!("control-v{version}.sql"))
}

async fn connect(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqlitePool::connect_with(options).await.unwrap()
}

#[tokio::test]
async fn a_database_of_every_released_version_is_read_whole() {
    let newest = newest_version().await;
    assert_eq!(RELEASED.last(), Some(&newest), "its dump is to be made");
    if std::env::var_os("UPDATE").is_some() && !dump_path(newest).exists() {
        std::fs::write(dump_path(newest), make_dump(newest).await).unwrap();
    }
    for version in RELEASED {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        let dump = std::fs::read_to_string(dump_path(version)).unwrap();
        let pool = connect(&path).await;
        let load = sqlx::raw_sql(sqlx::AssertSqlSafe(dump));
        load.execute(&pool).await.unwrap();
        pool.close().await;
        check(&Store::open(&path).await.unwrap(), version).await;
    }
}

/// Everything that [`fill`] recorded is there.
async fn check(store: &Store, version: i64) {
    let token = store.token_by_hash(&"5".repeat(64)).await.unwrap();
    assert_eq!(token.unwrap().scope, "deploy:web");
    let apps = store.apps().await.unwrap();
    let current: Vec<_> = apps.iter().map(|app| app.current_release).collect();
    assert_eq!(
        current,
        [Some(1), None, None, Some(1)],
        "api, new, old, web"
    );
    let host_names = store.host_names(Some("app_1")).await.unwrap();
    assert_eq!(host_names.len(), usize::from(version >= HOST_NAMES));
    if let Some(host_name) = host_names.first() {
        assert_eq!(host_name.certificate.as_ref(), Some(&certificate()));
    }
    let addresses = store.addresses(Some("app_1")).await.unwrap();
    let found: Vec<_> = addresses.iter().map(|record| record.address).collect();
    let expected: &[IpAddr] = if version >= ADDRESSES {
        &[ADDRESS]
    } else {
        &[]
    };
    assert_eq!(found, expected);
    let secrets = store.secrets("app_1").await.unwrap();
    assert_eq!(secrets[0].sealed, [1, 2, 3]);
    let releases = store.releases("app_1").await.unwrap();
    let statuses = releases.iter().map(|release| release.status);
    assert!(statuses.eq([ReleaseStatus::Running, ReleaseStatus::Succeeded]));
    assert_eq!(releases[0].config.image, "hello:2");
    assert_eq!(releases[0].description.as_deref(), Some("golden"));

    let first = store.deployment("app_1", &deployment_id(1)).await.unwrap();
    assert_eq!(first.status, DeploymentStatus::Succeeded);
    assert_eq!(first.finished_at, Some(NOW));
    assert_eq!(first.batches, [[0], [1]]);
    assert_eq!(first.canary, (version >= CANARIES).then(canary));
    let steps = store.steps(&deployment_id(1), 0).await.unwrap();
    let names = steps.iter().map(|step| step.name.as_str());
    assert!(names.eq(["plan", "finish"]));
    assert_eq!(
        store.slots(&deployment_id(2)).await.unwrap(),
        slots_under_way()
    );

    if version >= PLACEMENTS {
        check_placements(store, version).await;
    }
    let unfinished = store.unfinished_deployments(None).await.unwrap();
    assert_eq!(unfinished.len(), APPS.len());
    for (id, _, status) in APPS {
        let newest = store.newest_deployment(id).await.unwrap().unwrap();
        assert_eq!((newest.status, newest.finished_at), (status, None));
        let is_undone = status == DeploymentStatus::Undoing;
        assert_eq!(newest.error.is_some(), is_undone);
        let run = store.run_with_key(&newest.id).await.unwrap();
        assert_eq!(run.is_some(), version >= RUNS, "version {version}");
        if let Some(run) = run {
            assert_eq!(run.status, Status::Queued);
            assert_eq!(run.subject.as_str(), subject_of_app(id));
        }
    }
}

/// A machine whose removal is asked for, and one whose answer is awaited.
async fn check_placements(store: &Store, version: i64) {
    let placements = store.placements().await.unwrap();
    let [one, two] = placements.as_slice() else {
        panic!("{placements:?}");
    };
    assert_eq!((&one.machine, &one.version), (&Some(machine(1)), &None));
    assert_eq!((one.is_cordoned, one.rests), (version >= CORDONS, false));
    assert_eq!(one.leaving_since, Some(NOW));
    assert_eq!((&two.machine, two.placed_at), (&None, NOW));
    assert_eq!((two.is_cordoned, two.leaving_since), (false, None));
    assert_eq!(store.blueprint("r1").await.unwrap(), blueprint());
    let fences = store.fences().await.unwrap();
    assert_eq!((fences.len(), &fences[0].name), (1, &two.name));
}

fn blueprint() -> Blueprint {
    Blueprint {
        region: RegionCode::parse("local").unwrap(),
        config: MachineConfig {
            image: "hello:1".into(),
            ..MachineConfig::default()
        },
        release_version: Some(1),
        is_kept: true,
    }
}

async fn place(store: &Store) {
    let on = |n: u64| Chosen {
        node: NodeId::parse(&format!("node_{n:026}")).unwrap(),
        why: "the only one".into(),
        at: NOW,
    };
    for (request, name) in [("r1", "one"), ("r2", "two")] {
        let name = MachineName::parse(name).unwrap();
        let key = (request, "app_1", &name);
        store
            .begin_placement(key, &blueprint(), &on(1))
            .await
            .unwrap();
    }
    let (one, version) = (machine(1), InstanceId::from_ulid(ulid::Ulid::nil()));
    let settled = store.settle_placement("r1", 0, (&one, &version));
    assert!(settled.await.unwrap());
    let cordoned = Change {
        is_cordoned: Some(true),
        ..Change::default()
    };
    store.change_placement(&one, &cordoned).await.unwrap();
    store.set_leaving(&one, NOW).await.unwrap();
    let two = store.placement("r2").await.unwrap().unwrap();
    let fence = Fence {
        node: two.node.clone(),
        app: two.app.clone(),
        name: two.name.clone(),
        machine: None,
        why: "the answer was lost".into(),
        since: NOW,
    };
    let moved = store.move_placement(&two, &on(2), Some(&fence)).await;
    assert!(moved.unwrap());
}

fn deployment_id(n: u32) -> String {
    format!("dep_{n:026}")
}

fn machine(n: u8) -> MachineId {
    MachineId::from_bytes([0, 0, 0, 0, 0, 0, n])
}

fn slot(idx: usize, old: Option<u8>) -> SlotRecord {
    SlotRecord {
        idx,
        old_machine: old.map(machine),
        old_ran: old.is_some(),
        makes_new: true,
        new_machine: None,
        phase: SlotPhase::Planned,
    }
}

/// One slot is through, the other one waits for its new machine.
fn slots_under_way() -> [SlotRecord; 2] {
    let at = |idx, new, phase| SlotRecord {
        new_machine: Some(machine(new)),
        phase,
        ..slot(idx, Some(new - 2))
    };
    [at(0, 3, SlotPhase::Shifted), at(1, 4, SlotPhase::Created)]
}

async fn add_host_name(store: &Store) {
    let host_name = NewHostName {
        host: &HostName::parse("www.example.com").unwrap(),
        app_id: "app_1",
        certificate: Some(&certificate()),
        method: "http-01",
    };
    store.add_host_name(host_name, NOW).await.unwrap();
}

fn certificate() -> CertificateRecord {
    CertificateRecord {
        chain: "chain".into(),
        sealed_key: vec![4, 5, 6],
    }
}

fn canary() -> DeploymentCanary {
    let seen = |release| ReleaseSeen {
        release,
        requests: 7,
        errors: 1,
        p50_ms: Some(1.5),
        p95_ms: None,
    };
    let judgement = CanaryJudgement {
        passed: true,
        reason: "golden".into(),
        watched_ms: 60_000,
        old: seen(1),
        new: seen(2),
        silent: vec![],
    };
    DeploymentCanary {
        config: CanaryConfig::from(&CanaryConfig::default().to_canary().unwrap()),
        judgement: Some(judgement),
    }
}

fn step(name: &str) -> DeploymentStep {
    DeploymentStep {
        seq: 0,
        name: name.into(),
        machine: None,
        status: "done".into(),
        message: "as planned".into(),
        at: NOW.as_ms(),
    }
}

async fn deploy(store: &Store, app_id: &str, n: u32, slots: Vec<SlotRecord>) -> DeploymentRecord {
    let release = NewRelease {
        id: format!("rel_{n}"),
        image: "hello".into(),
        image_digest: Some(format!("sha256:{}", "7".repeat(64))),
        config: MachineConfig {
            image: format!("hello:{n}"),
            ..MachineConfig::default()
        },
        description: Some("golden".into()),
    };
    let id = deployment_id(n);
    let new = NewDeployment {
        follows: (n == 2).then(|| deployment_id(1)),
        batches: (0..slots.len()).map(|idx| vec![idx]).collect(),
        wait_timeout: Duration::from_secs(60),
        canary: (n == 1).then(canary),
        slots,
        run: NewRun {
            id: RunId::from_ulid(ulid::Ulid::from_parts(1, u128::from(n))),
            kind: Kind {
                name: "deploy".into(),
                version: 1,
            },
            subject: Subject::new(subject_of_app(app_id)).unwrap(),
            on_busy: OnBusy::Queue,
            key: Some(id.clone()),
            parent: None,
            cause: "{}".into(),
            params: serde_json::json!({"app": app_id, "deployment": id}).to_string(),
            created_at: NOW,
        },
        id,
    };
    let made = store.create_deployment(app_id, &release, &new, NOW, None);
    made.await.unwrap()
}

/// What every dump has: an app with a release that serves and another on its way, and apps whose
/// deployments are past the point of no return, undone, and not begun.
async fn fill(store: &Store) {
    let token = TokenRecord {
        id: "tok_1".into(),
        name: "ci".into(),
        hash: "5".repeat(64),
        scope: "deploy:web".into(),
        created_at: NOW,
    };
    store.add_token(&token).await.unwrap();
    let set = async |record: &DeploymentRecord, status, error: Option<&DeploymentError>| {
        let set = store.set_deployment_status(record, status, error, NOW);
        set.await.unwrap();
    };
    for (id, name, _) in APPS {
        let name = AppName::parse(name).unwrap();
        store.create_app(id, &name, NOW, None).await.unwrap();
    }
    let first = deploy(store, "app_1", 1, vec![slot(0, None), slot(1, None)]).await;
    store
        .add_step(&deployment_id(1), step("plan"))
        .await
        .unwrap();
    for idx in 0..2 {
        let through = SlotRecord {
            new_machine: Some(machine([1, 2][idx])),
            phase: SlotPhase::Shifted,
            ..slot(idx, None)
        };
        store.set_slot(&deployment_id(1), &through).await.unwrap();
    }
    set(&first, DeploymentStatus::Retiring, None).await;
    store
        .add_step(&deployment_id(1), step("finish"))
        .await
        .unwrap();
    set(&first, DeploymentStatus::Succeeded, None).await;
    let secret = SecretChange::Set {
        name: SecretName::parse("KEY").unwrap(),
        sealed: vec![1, 2, 3],
        digest: "d".into(),
    };
    store.change_secrets("app_1", &[secret], NOW).await.unwrap();
    add_host_name(store).await;
    let taken = store.take_address("app_1", AddressKind::V4, [ADDRESS], NOW, None);
    taken.await.unwrap().unwrap();
    place(store).await;

    for (n, (app, _, status)) in (2..).zip(APPS) {
        let slots = match n {
            2 => vec![slot(0, Some(1)), slot(1, Some(2))],
            _ => vec![slot(0, None)],
        };
        let record = deploy(store, app, n, slots).await;
        let error = DeploymentError {
            code: "machine-exited".into(),
            message: "machine ended".into(),
            hint: None,
            machine: None,
            log_tail: vec![],
            listening: vec![],
        };
        let error = (status == DeploymentStatus::Undoing).then_some(error);
        set(&record, status, error.as_ref()).await;
    }
    for slot in slots_under_way() {
        store.set_slot(&deployment_id(2), &slot).await.unwrap();
    }
}

async fn newest_version() -> i64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    Store::open(&path).await.unwrap().close().await;
    let version = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations");
    version.fetch_one(&connect(&path).await).await.unwrap()
}

/// A database of today as statements.
async fn make_dump(version: i64) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    let store = Store::open(&path).await.unwrap();
    fill(&store).await;
    store.close().await;
    let pool = connect(&path).await;
    let all = async |query: String| -> Vec<String> {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
        query.fetch_all(&pool).await.unwrap()
    };
    let mut dump =
        format!("-- A control database of schema version {version}: see ../golden.rs.\n");
    dump.push_str("PRAGMA foreign_keys = OFF;\nBEGIN TRANSACTION;\n");
    let own = "sql IS NOT NULL AND name NOT LIKE 'sqlite_%'";
    let tables = format!("SELECT name FROM sqlite_master WHERE type = 'table' AND {own}");
    let tables = all(tables).await;
    for table in &tables {
        let schema = format!("SELECT sql FROM sqlite_master WHERE name = '{table}'");
        writeln!(dump, "{};", all(schema).await.concat()).unwrap();
        let columns = format!("SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')");
        let columns = all(columns).await.join(" || ',' || ");
        for row in all(format!("SELECT {columns} FROM {table} ORDER BY 1")).await {
            writeln!(dump, "INSERT INTO {table} VALUES ({row});").unwrap();
        }
    }
    for index in all(format!(
        "SELECT sql FROM sqlite_master WHERE type <> 'table' AND {own}"
    ))
    .await
    {
        writeln!(dump, "{index};").unwrap();
    }
    dump + "COMMIT;\n"
}
