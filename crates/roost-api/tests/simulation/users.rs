//! People who use the platform, and repeat what fails.

use crate::world::World;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Times that a user tries something.
const TRIES: usize = 200;
/// Times that a user tries a deployment, of which each takes long.
const DEPLOYMENTS: usize = 12;

/// What an app has to have in the end.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) app: String,
    /// Machines of the release that serves.
    pub(crate) n_deployed: usize,
    /// So many more may be there: removed under an id that was not found, as that of a machine
    /// that is being replaced.
    pub(crate) n_unsure: usize,
    /// Machines made one by one.
    pub(crate) by_hand: BTreeSet<String>,
    /// Whether a deployment failed: an old machine that it stopped may rest.
    pub(crate) has_failed: bool,
    pub(crate) is_deleted: bool,
}

/// How much a user asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) n_machines_max: usize,
    pub(crate) n_actions: usize,
    /// Longest pause between two of them.
    pub(crate) pause_max: Duration,
}

/// One user with one app.
pub(crate) struct User<'a> {
    world: &'a World,
    rng: StdRng,
    wishes: Wishes,
    expected: Expected,
    n_keys: usize,
}

impl<'a> User<'a> {
    pub(crate) fn new(world: &'a World, seed: u64, n: usize, wishes: Wishes) -> Self {
        Self {
            world,
            rng: StdRng::seed_from_u64(seed ^ (0xA990 + u64::try_from(n).unwrap())),
            wishes,
            expected: Expected {
                app: format!("app-{n}"),
                ..Expected::default()
            },
            n_keys: 0,
        }
    }

    /// Does this and that.
    pub(crate) async fn live(mut self) -> Expected {
        let body = json!({"app_name": self.expected.app});
        let made = self.insist("POST", "/v1/apps", None, body).await;
        assert!(made.is_some(), "{} is made", self.expected.app);
        self.pause().await;
        let n_machines = self.wishes.n_machines_max;
        self.deploy(n_machines).await;
        for _ in 0..self.wishes.n_actions {
            self.pause().await;
            match self.rng.random_range(0..10) {
                0..4 => {
                    let n_machines = self.rng.random_range(1..=self.wishes.n_machines_max);
                    self.deploy(n_machines).await;
                }
                4..7 => self.destroy_one().await,
                7..9 => self.make_one().await,
                _ if self.rng.random_range(0..3) == 0 => {
                    self.delete().await;
                    break;
                }
                _ => {}
            }
        }
        self.expected
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/apps/{}{rest}", self.expected.app)
    }

    async fn pause(&mut self) {
        let max = u64::try_from(self.wishes.pause_max.as_millis()).unwrap();
        let ms = self.rng.random_range(0..=max);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Repeats a request until it is done, or is refused for good.
    async fn insist(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Value,
    ) -> Option<Value> {
        for _ in 0..TRIES {
            match self.world.call(method, path, key, body.clone()).await {
                Some((200..300, answer)) => return Some(answer),
                // Its answer was lost the last time.
                Some((409, answer)) if answer["code"] == "name-taken" => return Some(answer),
                Some((404, _)) if method != "POST" => return None,
                // Under way, leased, replaced since, or the platform cannot now.
                Some((404 | 409 | 429 | 500.., _)) | None => {}
                Some((status, answer)) => panic!("{method} {path}: {status} {answer}"),
            }
            let ms = self.rng.random_range(1_000..8_000);
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        panic!("{method} {path} was tried {TRIES} times");
    }

    async fn deploy(&mut self, n_machines: usize) {
        for _ in 0..DEPLOYMENTS {
            let config = json!({"image": "hello", "services": [{"internal_port": 8080}]});
            let body = json!({"config": config, "count": n_machines});
            let key = self.key();
            let path = self.path("/deployments");
            let begun = self.insist("POST", &path, Some(&key), body).await.unwrap();
            let path = format!("{path}/{}", begun["id"].as_str().unwrap());
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let found = self.insist("GET", &path, None, Value::Null).await.unwrap();
                if !found["finished_at"].is_null() {
                    if found["status"] == "succeeded" {
                        (self.expected.n_deployed, self.expected.n_unsure) = (n_machines, 0);
                        return;
                    }
                    assert!(!found["error"]["message"].is_null(), "why: {found}");
                    self.expected.has_failed = true;
                    break;
                }
            }
            self.pause().await;
        }
    }

    fn key(&mut self) -> String {
        self.n_keys += 1;
        format!("{}-{}", self.expected.app, self.n_keys)
    }

    /// Removes a machine of the release that serves.
    async fn destroy_one(&mut self) {
        let path = self.path("/machines");
        let Some(list) = self.insist("GET", &path, None, Value::Null).await else {
            return;
        };
        let app = self.insist("GET", &self.path(""), None, Value::Null).await;
        let serves = app.unwrap_or_default()["current_release"].to_string();
        // Others may be left that a deployment could not remove yet.
        let is_of_release = |machine: &&Value| {
            machine["config"]["metadata"]["roost_release_version"] == *serves
                && machine["state"] != "destroying"
        };
        let machines = list.as_array().unwrap();
        let Some(machine) = machines.iter().find(is_of_release) else {
            return;
        };
        let id = machine["id"].as_str().unwrap();
        let path = format!("{path}/{id}?force=true");
        let removed = self.insist("DELETE", &path, None, Value::Null).await;
        let Expected {
            n_deployed,
            n_unsure,
            ..
        } = &mut self.expected;
        match (*n_deployed, removed) {
            (0, None) => {}
            (0, Some(_)) => *n_unsure -= 1,
            (n, removed) => {
                *n_deployed = n - 1;
                *n_unsure += usize::from(removed.is_none());
            }
        }
    }

    async fn make_one(&mut self) {
        let (path, key) = (self.path("/machines"), self.key());
        let body = json!({"config": {"image": "hello"}});
        let made = self.insist("POST", &path, Some(&key), body).await.unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        self.expected.by_hand.insert(id);
    }

    async fn delete(&mut self) {
        let path = self.path("?force=true");
        self.insist("DELETE", &path, None, Value::Null).await;
        (self.expected.n_deployed, self.expected.n_unsure) = (0, 0);
        self.expected.by_hand.clear();
        self.expected.is_deleted = true;
    }
}
