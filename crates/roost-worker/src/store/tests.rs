//! The database as older versions of roost left it.

use super::{Store, StoreError};
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use rusqlite::Connection;

/// A database of schema version 1 with one started machine.
const GOLDEN_V1: &str = include_str!("../../tests/golden/worker-v1.sql");

#[tokio::test]
async fn a_database_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(GOLDEN_V1)
        .unwrap();
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        let rows = store.all().await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].id, MachineId::parse("01020304050607").unwrap());
        assert_eq!(rows[0].state, MachineState::Started);
        assert_eq!((rows[0].slot, rows[0].vm_live), (Some(4), true));
        assert_eq!(rows[0].spec.services[0].internal_port, 8080);
        let events = store.events(&rows[0].id, 10).await.unwrap();
        assert_eq!(events[0].kind, "start");
    }
}

#[test]
fn a_database_of_a_newer_roost_is_refused_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.db");
    drop(Store::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::TooNew { found: 99, .. })
    ));
}
