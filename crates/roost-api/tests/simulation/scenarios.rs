//! What becomes of machines when one thing goes wrong.

use crate::link::Link;
use crate::world::World;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longer than a silent node needs to be lost, and its machines to be elsewhere.
const UNTIL_LOST: Duration = Duration::from_secs(150);
/// Longer than a node that is back needs to remove what must not be.
const UNTIL_CLEAN: Duration = Duration::from_secs(120);

/// An app over some nodes.
struct Scene(Arc<World>);

impl Scene {
    async fn start(n_nodes: u64) -> Self {
        let scene = Self(World::start(0, n_nodes).await);
        scene
            .done("POST", "/v1/apps", json!({"app_name": "web"}))
            .await;
        scene
    }

    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.0.call(method, path, None, body).await.unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        answer
    }

    async fn deploy(&self, n_machines: usize) {
        let config = json!({"image": "hello", "services": [{"internal_port": 8080}]});
        let body = json!({"config": config, "count": n_machines});
        let path = "/v1/apps/web/deployments";
        let begun = self.done("POST", path, body).await;
        let path = format!("{path}/{}", begun["id"].as_str().unwrap());
        loop {
            let found = self.done("GET", &path, Value::Null).await;
            if !found["finished_at"].is_null() {
                assert_eq!(found["status"], "succeeded", "{found}");
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// A machine that no deployment made.
    async fn make(&self) -> Value {
        let body = json!({"config": {"image": "hello"}});
        self.done("POST", "/v1/apps/web/machines", body).await
    }

    async fn list(&self) -> Vec<Value> {
        let list = self.done("GET", "/v1/apps/web/machines", Value::Null).await;
        list.as_array().unwrap().clone()
    }

    /// The node that has the machine, and its number of machines.
    fn node_of(&self, id: &str) -> &Arc<Link> {
        let has = |link: &&Arc<Link>| names_on(link).iter().any(|(machine, _)| machine == id);
        self.0.links.iter().find(has).expect("some node has it")
    }

    /// All machines on all nodes, by name.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .0
            .links
            .iter()
            .flat_map(|link| names_on(link))
            .map(|(_, name)| name)
            .collect();
        names.sort();
        names
    }
}

fn names_on(link: &Link) -> Vec<(String, String)> {
    let mut names = vec![];
    link.worker.inspect(|status, _| {
        names.push((status.id.to_string(), status.spec.name.to_string()));
    });
    names
}

fn id(machine: &Value) -> &str {
    machine["id"].as_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_deployment_made_starts_elsewhere_when_its_node_is_lost_and_the_copy_goes() {
    let scene = Scene::start(3).await;
    scene.deploy(3).await;
    let before = scene.list().await;
    let cut = scene.node_of(id(&before[0]));
    cut.cut(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let silent = scene.list().await;
    assert_eq!(silent.len(), 3, "a list is whole");
    let told = silent.iter().filter(|machine| {
        let reason = machine["state_reason"].as_str().unwrap_or_default();
        reason.contains("has not answered for")
    });
    assert_eq!(told.count(), 1, "and says which of it is doubtful");
    tokio::time::sleep(UNTIL_LOST).await;
    let after = scene.list().await;
    assert_eq!(after.len(), 3);
    assert!(!after.iter().any(|machine| id(machine) == id(&before[0])));
    let moved = after
        .iter()
        .find(|machine| machine["name"] == before[0]["name"])
        .unwrap();
    let path = format!("/v1/apps/web/machines/{}/events", id(moved));
    let events = scene.done("GET", &path, Value::Null).await;
    let first = events.as_array().unwrap().last().unwrap();
    assert_eq!(first["source"], "reconciler");
    let why = first["request"]["placement"].as_str().unwrap();
    assert!(why.contains("has not answered for"), "{why}");
    assert_eq!(scene.names().len(), 4, "the copy is still on its node");
    cut.cut(false);
    tokio::time::sleep(UNTIL_CLEAN).await;
    assert_eq!(scene.names().len(), 3);
    assert_eq!(scene.list().await.len(), 3);
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_made_by_hand_waits_for_its_node() {
    let scene = Scene::start(2).await;
    let made = scene.make().await;
    let cut = scene.node_of(id(&made));
    cut.cut(true);
    tokio::time::sleep(UNTIL_LOST).await;
    assert_eq!(scene.names().len(), 1);
    cut.cut(false);
    tokio::time::sleep(UNTIL_CLEAN).await;
    let list = scene.list().await;
    assert_eq!((list.len(), id(&list[0])), (1, id(&made)));
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_while_its_node_is_lost_goes_when_the_node_is_back() {
    let scene = Scene::start(2).await;
    let made = scene.make().await;
    let cut = scene.node_of(id(&made));
    cut.cut(true);
    tokio::time::sleep(UNTIL_LOST).await;
    let path = format!("/v1/apps/web/machines/{}?force=true", id(&made));
    scene.done("DELETE", &path, Value::Null).await;
    assert!(scene.list().await.is_empty());
    // Also when the control plane is another one by then.
    scene.0.restart().await;
    assert!(scene.list().await.is_empty());
    assert_eq!(scene.names().len(), 1);
    cut.cut(false);
    tokio::time::sleep(UNTIL_CLEAN).await;
    assert!(scene.names().is_empty());
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_vanished_comes_back_unless_somebody_removed_it() {
    let scene = Scene::start(2).await;
    scene.deploy(4).await;
    let before = scene.list().await;
    let path = format!("/v1/apps/web/machines/{}?force=true", id(&before[0]));
    scene.done("DELETE", &path, Value::Null).await;
    for link in &scene.0.links {
        link.worker.wipe();
    }
    tokio::time::sleep(UNTIL_CLEAN).await;
    let mut left: Vec<&str> = before[1..]
        .iter()
        .map(|machine| machine["name"].as_str().unwrap())
        .collect();
    left.sort_unstable();
    assert_eq!(scene.names(), left);
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_goes_to_another_node_when_the_one_that_was_chosen_is_cut_off_just_then() {
    let scene = Scene::start(2).await;
    scene.deploy(1).await;
    // It looked well a moment ago.
    let cut = &scene.0.links[0];
    cut.cut(true);
    scene.deploy(2).await;
    assert_eq!(scene.list().await.len(), 2);
    cut.cut(false);
    tokio::time::sleep(UNTIL_CLEAN).await;
    assert_eq!(scene.names(), ["web-v2-1", "web-v2-2"]);
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_runs_once_the_node_of_what_it_stands_by_for_is_lost() {
    let scene = Scene::start(3).await;
    let watched = scene.make().await;
    let cut = scene.node_of(id(&watched));
    let config = json!({"image": "hello", "standbys": [id(&watched)]});
    let body = json!({"config": config, "skip_launch": true});
    let standby = scene.done("POST", "/v1/apps/web/machines", body).await;
    assert!(!Arc::ptr_eq(cut, scene.node_of(id(&standby))));
    let path = format!("/v1/apps/web/machines/{}", id(&standby));
    let state = async || scene.done("GET", &path, Value::Null).await["state"].clone();
    tokio::time::sleep(UNTIL_LOST).await;
    assert_eq!(state().await, "created");
    cut.cut(true);
    tokio::time::sleep(UNTIL_LOST).await;
    assert_eq!(state().await, "started");
    cut.cut(false);
    scene.0.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_elsewhere_while_most_nodes_are_silent() {
    let scene = Scene::start(3).await;
    scene.deploy(3).await;
    for link in &scene.0.links[1..] {
        link.cut(true);
    }
    tokio::time::sleep(UNTIL_LOST * 2).await;
    assert_eq!(
        scene.names().len(),
        3,
        "it is the control plane that is cut off"
    );
    for link in &scene.0.links[1..] {
        link.cut(false);
    }
    tokio::time::sleep(UNTIL_CLEAN).await;
    assert_eq!((scene.names().len(), scene.list().await.len()), (3, 3));
    scene.0.end().await;
}
