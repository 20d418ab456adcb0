//! The control database on a real disk: kept, refused, undone.

mod apps;
mod crashes;
mod full;
mod host_names;
mod migrations;
mod placements;
mod repeats;
mod runs;
mod writers;

use crate::records::{NewDeployment, NewRelease, SlotPhase, SlotRecord};
use crate::{Store, subject_of_app};
use roost_fsm::journal::NewRun;
use roost_fsm::record::{Kind, Subject};
use roost_fsm::workflow::OnBusy;
use roost_model::id::RunId;
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use std::path::Path;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

async fn open(dir: &Path) -> Store {
    Store::open(&dir.join("control.db")).await.unwrap()
}

fn name(text: &str) -> AppName {
    AppName::parse(text).unwrap()
}

/// A store with the app `web`, whose id is `app_1`.
async fn open_with_app(dir: &Path) -> Store {
    let store = open(dir).await;
    store
        .create_app("app_1", &name("web"), NOW, None)
        .await
        .unwrap();
    store
}

fn release(n: u32) -> NewRelease {
    NewRelease {
        id: format!("rel_{n}"),
        image: "hello".into(),
        image_digest: None,
        config: MachineConfig::default(),
        description: None,
    }
}

/// A run of deployment `n` of the app, which nobody executes.
fn run(n: u32) -> NewRun {
    NewRun {
        id: RunId::from_ulid(ulid::Ulid::from_parts(1, u128::from(n))),
        kind: Kind {
            name: "deploy".into(),
            version: 1,
        },
        // As if those before had ended.
        subject: Subject::new(format!("{}/{n}", subject_of_app("app_1"))).unwrap(),
        on_busy: OnBusy::Refuse,
        key: Some(format!("dep_{n}")),
        parent: None,
        cause: "{}".into(),
        params: "{}".into(),
        created_at: NOW,
    }
}

/// Deployment `n` of one slot, planned after deployment `n - 1`.
fn deployment(n: u32) -> NewDeployment {
    NewDeployment {
        id: format!("dep_{n}"),
        follows: (n > 1).then(|| format!("dep_{}", n - 1)),
        batches: vec![vec![0]],
        wait_timeout: Duration::from_secs(1),
        canary: None,
        slots: vec![SlotRecord {
            idx: 0,
            old_machine: None,
            old_ran: false,
            makes_new: true,
            new_machine: None,
            phase: SlotPhase::Planned,
        }],
        run: run(n),
    }
}

/// How many rows a table has, whoever owns them.
async fn count(store: &Store, table: &str) -> i64 {
    let query = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_one(&store.pool)
        .await
        .unwrap()
}
