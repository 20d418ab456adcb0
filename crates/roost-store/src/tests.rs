//! The control database on a real disk: kept, refused, undone.

mod apps;
mod crashes;
mod full;
mod migrations;
mod placements;
mod repeats;
mod writers;

use crate::Store;
use crate::records::{NewDeployment, NewRelease, SlotPhase, SlotRecord};
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

/// Deployment `n` of one slot, planned after deployment `n - 1`.
fn deployment(n: u32) -> NewDeployment {
    NewDeployment {
        id: format!("dep_{n}"),
        follows: (n > 1).then(|| format!("dep_{}", n - 1)),
        batches: vec![vec![0]],
        wait_timeout: Duration::from_secs(1),
        slots: vec![SlotRecord {
            idx: 0,
            old_machine: None,
            old_ran: false,
            makes_new: true,
            new_machine: None,
            phase: SlotPhase::Planned,
        }],
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
