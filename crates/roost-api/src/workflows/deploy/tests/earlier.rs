//! Deployments that a version without runs left unfinished.

use crate::http::tests::Platform;
use crate::state::ApiState;
use crate::workflows;
use crate::workflows::deploy::take_up;
use roost_fsm::journal::{CancelAnswer, Journal as _};
use roost_fsm::record::{Cancel, Turn};
use roost_runtime::tasks::Tasks;
use roost_testkit::sim_worker::SimWorker;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// A control database of schema version 2, see roost-store's `tests/golden.rs`.
const DUMP: &str = include_str!("../../../../../roost-store/tests/golden/control-v2.sql");

/// A platform on that database that has not taken up anything yet.
async fn not_resumed(dir: &Path) -> Platform {
    let connection = rusqlite::Connection::open(dir.join("control.db")).unwrap();
    connection.execute_batch(DUMP).unwrap();
    drop(connection);
    Platform::start_with(dir, Arc::new(SimWorker::new())).await
}

/// Takes up one deployment, and cancels it before anybody executes its run.
async fn cancel_at_once(platform: &Platform, id: &str) -> CancelAnswer {
    // With an engine that has ended, so that nothing claims the run.
    let state = &ApiState {
        engine: Arc::default(),
        tasks: Tasks::new(),
        ..platform.state.clone()
    };
    state.tasks.stop();
    let engine = workflows::start(state).unwrap();
    assert!(state.engine.set(engine).is_ok());
    let records = state.store.unfinished_deployments(None).await.unwrap();
    let record = records.iter().find(|record| record.id == id).unwrap();
    take_up(state, record)
        .await
        .unwrap()
        .expect("it had no run");
    let run = state.store.run_with_key(id).await.unwrap().unwrap();
    let cancel = Cancel {
        at: state.clock.now(),
        turn: Turn::Cancelled,
        reason: "changed my mind".to_owned(),
    };
    state.store.runs().ask_cancel(run.id, cancel).await.unwrap()
}

#[tokio::test]
async fn one_whose_run_ended_before_it_began_ends_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let platform = not_resumed(dir.path()).await;
    let id = format!("dep_{:026}", 5);
    let answer = cancel_at_once(&platform, &id).await;
    assert_eq!(answer, CancelAnswer::Ended);
    platform.state.resume().await.unwrap();
    let ended = platform.finished("new", &id).await;
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    platform.stop().await;
}

#[tokio::test]
async fn one_that_has_moved_machines_is_undone_when_it_is_cancelled_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = not_resumed(dir.path()).await;
    let id = format!("dep_{:026}", 2);
    let answer = cancel_at_once(&platform, &id).await;
    assert_eq!(answer, CancelAnswer::Asked);
    platform.state.resume().await.unwrap();
    platform.finished("web", &id).await;
    let path = format!("/v1/apps/web/operations/{id}");
    let (_, operation) = platform.call("GET", &path, Value::Null).await;
    let steps = operation["steps"].as_array().unwrap();
    let is_undone = |step: &Value| step["name"] == "roll" && step["direction"] == "undo";
    assert!(steps.iter().any(is_undone), "{operation}");
    platform.stop().await;
}

#[tokio::test]
async fn they_are_taken_up_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let platform = not_resumed(dir.path()).await;
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
