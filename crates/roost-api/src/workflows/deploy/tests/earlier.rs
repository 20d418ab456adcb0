//! Deployments that a version without runs left unfinished.

use crate::http::tests::Platform;
use roost_testkit::sim_worker::SimWorker;
use serde_json::Value;
use std::sync::Arc;

/// A control database of schema version 2, see roost-store's `tests/golden.rs`.
const DUMP: &str = include_str!("../../../../../roost-store/tests/golden/control-v2.sql");

#[tokio::test]
async fn they_are_taken_up_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(dir.path().join("control.db")).unwrap();
    connection.execute_batch(DUMP).unwrap();
    drop(connection);
    let platform = Platform::start_with(dir.path(), Arc::new(SimWorker::new())).await;
    platform.state.resume().await.unwrap();
    for (app, n, status, code, current) in [
        // Its machines are lost.
        ("web", 2, "failed", "machine-not-found", Some(1)),
        // Past the point of no return.
        ("api", 3, "succeeded", "", Some(1)),
        // Being undone: why is not forgotten.
        ("old", 4, "failed", "machine-exited", None),
        // Not begun.
        ("new", 5, "succeeded", "", Some(1)),
    ] {
        let ended = platform.finished(app, &format!("dep_{n:026}")).await;
        let ended_as = ended["status"].as_str().unwrap();
        let error = ended["error"]["code"].as_str().unwrap_or_default();
        assert_eq!((ended_as, error), (status, code), "{app}: {ended}");
        let path = format!("/v1/apps/{app}");
        let (_, app) = platform.call("GET", &path, Value::Null).await;
        assert_eq!(app["current_release"].as_u64(), current, "{app}");
    }
    assert_eq!(platform.machines("new").await.len(), 1);
    let committed = format!("dep_{:026}", 3);
    let run = platform.state.store.run_with_key(&committed).await;
    let run = run.unwrap().unwrap();
    assert!(run.is_past_point, "it could not be cancelled");
    platform.stop().await;
}
