//! A release that is tried out with one machine before the others follow.

use super::cancel::{await_step, begin};
use super::{assert_serving, ids, kill_everywhere, start};
use crate::http::tests::{Platform, web};
use roost_model::id::{MachineId, NodeId};
use roost_model::name::AppName;
use roost_proto::release_traffic::{Reading, ReleaseTraffic, Tally};
use roost_proto::rest::RequestRecord;
use roost_proto::traffic::TrafficRecords;
use roost_proto::worker::{Asker, Cause, WorkerApi as _};
use roost_testkit::sim_worker::Fate;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// An edge that has seen 200 more requests to each release whenever it is asked.
pub(super) struct Edge {
    n_reads: AtomicU64,
    is_busy: AtomicBool,
    /// Of 100 requests to a release beyond the first.
    n_errors: u64,
}

impl Edge {
    pub(super) fn busy(n_errors: u64) -> Arc<Self> {
        Arc::new(Self {
            n_reads: AtomicU64::new(0),
            is_busy: AtomicBool::new(true),
            n_errors,
        })
    }

    /// One that nobody asks for anything yet.
    fn idle() -> Arc<Self> {
        let edge = Self::busy(0);
        edge.is_busy.store(false, Ordering::SeqCst);
        edge
    }
}

impl TrafficRecords for Edge {
    fn request(&self, _: &str) -> Option<Arc<RequestRecord>> {
        None
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn tallies(&self, _: &AppName) -> Reading {
        let more = u64::from(self.is_busy.load(Ordering::SeqCst));
        let n_hundreds = 2 * self.n_reads.fetch_add(more, Ordering::SeqCst);
        let tally = |release| {
            let n_errors = if release > 1 { self.n_errors } else { 0 };
            let n_good = n_hundreds * (100 - n_errors);
            Tally {
                id: release,
                release,
                traffic: ReleaseTraffic {
                    answers: [0, n_good, 0, 0, n_hundreds * n_errors],
                    ..ReleaseTraffic::default()
                },
            }
        };
        Reading {
            own: (1..9).map(tally).collect(),
            ..Reading::default()
        }
    }
}

/// Two edges that see each release fail half of its requests: this one those of the new release at
/// once, that of another node those of the old one, of which one hears a little later. A third one
/// says nothing.
struct Late {
    n_reads: AtomicU64,
}

impl TrafficRecords for Late {
    fn request(&self, _: &str) -> Option<Arc<RequestRecord>> {
        None
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn tallies(&self, _: &AppName) -> Reading {
        let n_reads = self.n_reads.fetch_add(1, Ordering::SeqCst);
        let tally = |release, n| Tally {
            id: release,
            release,
            traffic: ReleaseTraffic {
                answers: [0, n, 0, 0, n],
                ..ReleaseTraffic::default()
            },
        };
        // The first reading is what was before, and by the second the canary looks bad.
        let n_told = if n_reads < 2 { 0 } else { 1_000 };
        Reading {
            own: vec![tally(2, 100 * n_reads)],
            others: [(node(1), vec![tally(1, n_told)])].into(),
            silent: vec![node(2)],
        }
    }
}

/// Two edges that each see one release, of which half of the requests fail from some moment on:
/// those of the new release a little earlier.
struct Outage {
    begun: OnceLock<Instant>,
}

impl TrafficRecords for Outage {
    fn request(&self, _: &str) -> Option<Arc<RequestRecord>> {
        None
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn tallies(&self, _: &AppName) -> Reading {
        // The first reading is what was before.
        let is_first = self.begun.get().is_none();
        let n = if is_first { 0 } else { 1_000 };
        let since = self.begun.get_or_init(Instant::now).elapsed();
        let tally = |release, fails_from_ms| {
            let fails = since >= Duration::from_millis(fails_from_ms);
            let n_failed = if fails { n } else { 0 };
            Tally {
                id: release,
                release,
                traffic: ReleaseTraffic {
                    answers: [0, n, 0, 0, n_failed],
                    ..ReleaseTraffic::default()
                },
            }
        };
        Reading {
            own: vec![tally(2, 2_500)],
            others: [(node(1), vec![tally(1, 4_000)])].into(),
            silent: vec![],
        }
    }
}

fn node(n: u8) -> NodeId {
    NodeId::parse(&format!("node_0000000000000000000000000{n}")).unwrap()
}

#[tokio::test]
async fn a_canary_is_not_failed_before_other_edges_are_heard_and_who_is_silent_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let n_reads = AtomicU64::new(0);
    platform.state.show_records(Arc::new(Late { n_reads }));
    let first = json!({"config": web("hello"), "count": 2});
    platform.deploy("web", first).await;
    let ended = platform.deploy("web", with_canary(json!({}))).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let judgement = &ended["canary"]["judgement"];
    assert_eq!(judgement["old"]["requests"], 2_000, "{judgement}");
    assert_eq!(judgement["silent"], json!([node(2).as_str()]));
    let reason = judgement["reason"].as_str().unwrap();
    let silent = format!("no word of its requests came from the edge of {}", node(2));
    assert!(reason.ends_with(&silent), "{reason}");
    platform.stop().await;
}

#[tokio::test]
async fn a_verdict_that_has_just_changed_is_not_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    let begun = OnceLock::new();
    platform.state.show_records(Arc::new(Outage { begun }));
    let first = json!({"config": web("hello"), "count": 2});
    platform.deploy("web", first).await;
    let ended = platform.deploy("web", with_canary(json!({}))).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    platform.stop().await;
}

/// An app with two machines of its first release.
async fn with_two(dir: &std::path::Path, edge: Arc<Edge>) -> Platform {
    let platform = start(dir).await;
    platform.state.show_records(edge);
    platform
        .deploy("web", json!({"config": web("hello"), "count": 2}))
        .await;
    platform
}

fn with_canary(canary: Value) -> Value {
    json!({"config": web("next"), "canary": canary})
}

fn splits(machines: &[Value]) -> Vec<&str> {
    let labels = machines
        .iter()
        .map(|machine| &machine["config"]["metadata"]);
    labels
        .filter_map(|labels| labels["roost_split"].as_str())
        .collect()
}

#[tokio::test]
async fn a_canary_runs_beside_the_old_machines_until_it_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::idle();
    let platform = with_two(dir.path(), edge.clone()).await;
    let before = ids(&platform.machines("web").await);
    let canary = json!({"percent": 5, "header": "X-Canary: 1", "wait": 3600});
    let id = begin(&platform, with_canary(canary)).await;
    await_step(&platform, &id, "canary").await;
    let machines = platform.machines("web").await;
    assert_eq!(splits(&machines), ["percent=5;header=x-canary: 1"]);
    assert_eq!(machines.len(), 3, "{machines:?}");
    let is_old = |machine: &&Value| before.contains(&machine["id"].as_str().unwrap().to_owned());
    let old: Vec<Value> = machines.iter().filter(is_old).cloned().collect();
    assert_serving(&old, 2, "1");
    edge.is_busy.store(true, Ordering::SeqCst);
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_serving(&platform.machines("web").await, 2, "2");
    let judgement = &ended["canary"]["judgement"];
    assert_eq!(judgement["passed"], true, "{ended}");
    assert_eq!(
        (&judgement["old"]["release"], &judgement["new"]["release"]),
        (&json!(1), &json!(2))
    );
    assert!(
        judgement["new"]["requests"].as_u64() >= Some(100),
        "{ended}"
    );
    assert_eq!(ended["canary"]["config"]["more_errors"], 0.05, "a default");
    platform.stop().await;
}

#[tokio::test]
async fn a_canary_that_fails_more_than_the_old_release_is_undone_and_the_numbers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let platform = with_two(dir.path(), Edge::busy(50)).await;
    let before = ids(&platform.machines("web").await);
    let failed = platform.deploy("web", with_canary(json!({}))).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    assert_eq!(failed["error"]["code"], "canary-failed", "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("50.0 % of its requests failed, 0.0 % of those"),
        "{message}"
    );
    let machines = platform.machines("web").await;
    assert_serving(&machines, 2, "1");
    assert_eq!(ids(&machines), before, "the old machines are the same");
    let steps = failed["steps"].as_array().unwrap();
    let touched = |step: &&Value| ["shift", "stop"].iter().any(|name| step["name"] == *name);
    assert_eq!(
        steps.iter().find(touched),
        None,
        "no old machine was stopped"
    );
    let path = "/v1/apps/web/releases";
    let (_, releases) = platform.call("GET", path, Value::Null).await;
    assert_eq!(releases[0]["canary"], failed["canary"]["judgement"]);
    assert_eq!(releases[0]["canary"]["passed"], false);
    assert!(releases[1]["canary"].is_null());
    let (_, release) = platform
        .call("GET", &format!("{path}/2"), Value::Null)
        .await;
    assert_eq!(release["canary"]["passed"], false);
    platform.stop().await;
}

#[tokio::test]
async fn a_canary_is_cancelled_at_once_while_it_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let platform = with_two(dir.path(), Edge::idle()).await;
    let before = ids(&platform.machines("web").await);
    let id = begin(&platform, with_canary(json!({"wait": 3600}))).await;
    await_step(&platform, &id, "canary").await;
    let path = format!("/v1/apps/web/deployments/{id}/cancel");
    platform.call("POST", &path, Value::Null).await;
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    let machines = platform.machines("web").await;
    assert_serving(&machines, 2, "1");
    assert_eq!(ids(&machines), before);
    platform.stop().await;
}

#[tokio::test]
async fn a_canary_that_does_not_do_is_given_up_before_it_had_all_its_requests() {
    let dir = tempfile::tempdir().unwrap();
    let platform = with_two(dir.path(), Edge::busy(50)).await;
    let canary = json!({"wait": 3600, "requests": 1_000_000});
    let failed = platform.deploy("web", with_canary(canary)).await;
    assert_eq!(failed["error"]["code"], "canary-failed", "{failed}");
    assert_serving(&platform.machines("web").await, 2, "1");
    platform.stop().await;
}

/// The machine that is tried out.
async fn canary_of(platform: &Platform) -> MachineId {
    let machines = platform.machines("web").await;
    let is_tried = |machine: &&Value| machine["config"]["metadata"]["roost_split"].is_string();
    let machine = machines.iter().find(is_tried).unwrap();
    MachineId::parse(machine["id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_canary_that_ends_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let platform = with_two(dir.path(), Edge::idle()).await;
    let id = begin(&platform, with_canary(json!({"wait": 3600}))).await;
    await_step(&platform, &id, "canary").await;
    let canary = canary_of(&platform).await;
    let asker = Asker::from(Cause::Proxy);
    let stopped = platform.worker.stop_machine(&canary, None, None, &asker);
    stopped.await.unwrap();
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["status"], "failed", "{ended}");
    assert_eq!(ended["error"]["machine"], canary.as_str(), "{ended}");
    assert!(ended["canary"]["judgement"].is_null(), "{ended}");
    assert_serving(&platform.machines("web").await, 2, "1");
    platform.stop().await;
}

#[tokio::test]
async fn a_cancel_does_not_wait_until_a_canary_that_has_passed_is_healthy_again() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::idle();
    let platform = with_two(dir.path(), edge.clone()).await;
    let body = json!({"config": web("next"), "canary": {"wait": 3600}, "wait_timeout": 3600});
    let id = begin(&platform, body).await;
    await_step(&platform, &id, "canary").await;
    platform.worker.set_fate("web-v2-1", Fate::Unhealthy);
    let canary = canary_of(&platform).await;
    let asker = Asker::from(Cause::Proxy);
    let restarted = platform.worker.restart_machine(&canary, &asker);
    restarted.await.unwrap();
    edge.is_busy.store(true, Ordering::SeqCst);
    // Who waits for it is told this.
    await_step(&platform, &id, "listening").await;
    let path = format!("/v1/apps/web/deployments/{id}/cancel");
    platform.call("POST", &path, Value::Null).await;
    let ended = platform.finished("web", &id).await;
    assert_eq!(ended["error"]["code"], "deploy-cancelled", "{ended}");
    assert_serving(&platform.machines("web").await, 2, "1");
    platform.stop().await;
}

#[tokio::test]
async fn a_canary_without_requests_passes_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let platform = with_two(dir.path(), Edge::idle()).await;
    let ended = platform
        .deploy("web", with_canary(json!({"wait": 1})))
        .await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let judgement = &ended["canary"]["judgement"];
    let reason = judgement["reason"].as_str().unwrap();
    assert!(reason.starts_with("it has answered no request"), "{reason}");
    assert!(
        judgement["watched_ms"].as_u64() >= Some(1000),
        "{judgement}"
    );
    platform.stop().await;
}

#[tokio::test]
async fn a_first_release_is_compared_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    platform.state.show_records(Edge::busy(100));
    let first = platform
        .deploy("web", with_canary(json!({"wait": 3600})))
        .await;
    assert_eq!(first["status"], "succeeded", "{first}");
    assert!(first["canary"]["judgement"].is_null(), "{first}");
    assert_serving(&platform.machines("web").await, 1, "1");
    platform.stop().await;
}

#[tokio::test]
async fn a_canary_that_is_none_is_refused_before_anything_begins() {
    let dir = tempfile::tempdir().unwrap();
    let platform = start(dir.path()).await;
    for (canary, part) in [
        (json!({"percent": 101}), "percent is 101"),
        (json!({"percent": 0}), "percent is 0"),
        (json!({"header": "x"}), "header"),
        (json!({"wait": 0}), "wait must be"),
    ] {
        let body = with_canary(canary);
        let (status, error) = platform
            .call("POST", "/v1/apps/web/deployments", body)
            .await;
        assert_eq!(status.as_u16(), 422, "{error}");
        assert!(error["error"].as_str().unwrap().contains(part), "{error}");
    }
    let (_, releases) = platform
        .call("GET", "/v1/apps/web/releases", Value::Null)
        .await;
    assert_eq!(releases, json!([]));
    platform.stop().await;
}

#[tokio::test]
async fn a_good_canary_killed_at_any_journal_write_is_completed_after_a_restart() {
    let good = |platform: &Platform| platform.state.show_records(Edge::busy(0));
    kill_everywhere(good, with_canary(json!({})), "succeeded", "2").await;
}

#[tokio::test]
async fn a_bad_canary_killed_at_any_journal_write_is_undone_after_a_restart() {
    let bad = |platform: &Platform| platform.state.show_records(Edge::busy(90));
    kill_everywhere(bad, with_canary(json!({})), "failed", "1").await;
}
