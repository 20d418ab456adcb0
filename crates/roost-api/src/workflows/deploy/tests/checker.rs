//! The workflow under the checker: each step fails, is done twice, is cancelled, and is killed at
//! each write of its journal.

use super::canary::Edge;
use super::{assert_serving, start};
use crate::http::tests::{Platform, web};
use crate::workflows::deploy::{Deploy, DeployParams};
use async_trait::async_trait;
use roost_fsm::engine::Timing;
use roost_fsm::record::Status;
use roost_fsm::testing::{
    Scenario, cancel_at_each_step, fail_each_step, kill_at_each_journal_write, run_each_step_twice,
};
use roost_model::name::AppName;
use serde_json::{Value, json};
use std::time::Duration;

/// An app with two machines, and a deployment to its second release, with a canary, that nobody
/// has begun.
struct World {
    platform: Platform,
    app: String,
    deployment: String,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = start(dir.path()).await;
        first
            .deploy("web", json!({"config": web("hello"), "count": 2}))
            .await;
        first.state.kill_switch.after(0);
        let body = json!({"config": web("next"), "max_unavailable": 1, "canary": {}});
        let (_, begun) = first.call("POST", "/v1/apps/web/deployments", body).await;
        first.state.kill_switch.fired.notified().await;
        first.stop().await;
        // Without an engine of its own.
        let platform = Platform::start_with(dir.path(), first.worker.clone()).await;
        platform.state.show_records(Edge::busy(0));
        let name = AppName::parse("web").unwrap();
        let app = platform.state.store.app(&name).await.unwrap();
        Self {
            app: app.id,
            deployment: begun["id"].as_str().unwrap().to_owned(),
            platform,
            _dir: dir,
        }
    }
}

#[async_trait]
impl Scenario for World {
    type Workflow = Deploy;

    fn workflow(&self) -> Deploy {
        Deploy::new(self.platform.state.clone())
    }

    fn params(&self) -> DeployParams {
        DeployParams {
            app: self.app.clone(),
            deployment: self.deployment.clone(),
        }
    }

    // The database has threads of its own, so that time cannot be paused.
    fn timing(&self) -> Timing {
        Timing {
            lease: Duration::from_millis(800),
            heartbeat_interval: Duration::from_millis(200),
            look_interval: Duration::from_millis(50),
        }
    }

    async fn check(&self, end: Status) -> Result<(), String> {
        let (status, code, release) = match end {
            Status::Succeeded => ("succeeded", Value::Null, 2),
            Status::Cancelled => ("failed", json!("deploy-cancelled"), 1),
            _ => ("failed", json!("internal"), 1),
        };
        let platform = &self.platform;
        let path = format!("/v1/apps/web/deployments/{}", self.deployment);
        let (_, ended) = platform.call("GET", &path, Value::Null).await;
        if ended["status"] != status || ended["error"]["code"] != code {
            return Err(format!("it should be {status}, {code}: {ended}"));
        }
        let (_, app) = platform.call("GET", "/v1/apps/web", Value::Null).await;
        if app["current_release"] != release {
            return Err(format!("release {release} should serve: {app}"));
        }
        let machines = platform.machines("web").await;
        assert_serving(&machines, 2, &release.to_string());
        platform.stop().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_step_that_fails_is_tried_again_or_undone() {
    fail_each_step(World::new).await.unwrap();
}

#[tokio::test]
async fn each_step_may_be_done_twice() {
    run_each_step_twice(World::new).await.unwrap();
}

#[tokio::test]
async fn a_deployment_cancelled_at_each_step_is_undone() {
    cancel_at_each_step(World::new).await.unwrap();
}

#[tokio::test]
async fn a_kill_at_each_write_of_its_run_loses_and_doubles_nothing() {
    kill_at_each_journal_write(World::new).await.unwrap();
}
