//! One request about one machine, made once per point, and killed there.

use crate::host::{differences, rows, unanswered_creations};
use crate::node::{APP, Node};
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

/// How long everything may take to settle on a loaded host.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// Points of each scenario that `make test` tries.
const SAMPLE: usize = 3;
/// The machine that nobody touches.
const BYSTANDER: &str = "bystander";
/// The machine that requests are about.
const SUBJECT: &str = "subject";

/// What the subject is before the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Not there.
    Nothing,
    /// Started, and never ended before.
    New,
    /// Started.
    Started,
    /// Stopped.
    Stopped,
    /// Being restarted when `roostd` was killed at this point.
    KilledAt(&'static str),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Create,
    Update,
    Stop,
    Start,
    Restart,
    Destroy,
    /// The app ends by itself, and its restart policy asks.
    KillApp,
    /// `roostd` starts again.
    Recover,
}

/// What has to be so in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Started,
    Stopped,
    Gone,
}

/// A request that is made again and again, and killed at another point each time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: Before,
    pub(crate) request: Request,
    pub(crate) wish: Wish,
    /// It has at least so many points: 300 in all scenarios together.
    pub(crate) points_min: usize,
}

/// Which points are tried.
enum Choice {
    Sample,
    All,
    One(String),
}

impl Choice {
    /// By the variable `ROOST_CRASH_POINTS`: absent, `all`, or `SCENARIO:POINT`.
    fn of(scenario: &Scenario) -> Option<Self> {
        match std::env::var("ROOST_CRASH_POINTS")
            .unwrap_or_default()
            .as_str()
        {
            "" => Some(Self::Sample),
            "all" => Some(Self::All),
            one => {
                let (name, point) = one.split_once(':').expect("SCENARIO:POINT");
                (name == scenario.name).then(|| Self::One(point.to_owned()))
            }
        }
    }

    fn pick(&self, recorded: Vec<String>) -> Vec<String> {
        match self {
            Self::All => recorded,
            Self::One(point) => vec![point.clone()],
            // Spread over all of it.
            Self::Sample => {
                let n = recorded.len();
                let spread =
                    (0..SAMPLE).map(|idx| recorded[(2 * idx + 1) * n / (2 * SAMPLE)].clone());
                spread.collect()
            }
        }
    }
}

impl Scenario {
    /// Records the points, then kills `roostd` at those that are to be tried.
    pub(crate) fn run(self) {
        let Some(choice) = Choice::of(&self) else {
            return;
        };
        let mut trials = Trials::new(self);
        trials.settle("at first");
        // The first time an image is unpacked and more of the kind; the second is as all others.
        trials.record();
        let recorded = trials.record();
        let n_points = recorded.len();
        assert!(
            n_points >= self.points_min,
            "{}: only {n_points} points: {recorded:?}",
            self.name
        );
        let points = choice.pick(recorded);
        let n_killed = points.iter().filter(|point| trials.kill_at(point)).count();
        println!(
            "{}: {n_points} points, killed at {n_killed} of {} tried",
            self.name,
            points.len()
        );
        // Timers and the requests of others may come in another order now and then.
        assert!(
            n_killed * 10 >= points.len() * 9,
            "{}: {n_killed} of {points:?}",
            self.name
        );
    }
}

/// The trials of a scenario on one platform.
struct Trials {
    scenario: Scenario,
    node: Node,
    bystander_pid: Value,
    n_trials: u32,
}

impl Trials {
    fn new(scenario: Scenario) -> Self {
        let node = Node::new();
        let mut config = config(1);
        config["services"] = json!([{"internal_port": 8080}]);
        let body = json!({"name": BYSTANDER, "config": config});
        ask(&node, "POST", &machines(), None, &body);
        let mut trials = Self {
            scenario,
            node,
            bystander_pid: Value::Null,
            n_trials: 0,
        };
        trials.settle("with the bystander");
        trials.bystander_pid = trials.find(BYSTANDER).unwrap()["pid"].clone();
        trials
    }

    /// Makes the request and returns the points that it passed.
    fn record(&mut self) -> Vec<String> {
        let key = self.prepare();
        self.node.plan("");
        self.request(&key);
        self.come_true("not killed at all");
        let passed = self.node.passed();
        self.node.forget_plan();
        passed
    }

    /// Kills `roostd` at a point of the request; `false` when it did not pass it.
    fn kill_at(&mut self, point: &str) -> bool {
        let at = format!("{}: {point}", self.scenario.name);
        let key = self.prepare();
        self.node.plan(point);
        self.request(&key);
        // Until then it may still come to the point.
        let is_killed = wait_until(&at, SETTLE_LIMIT, || {
            if self.node.was_killed() {
                return Ok(true);
            }
            self.look().map(|()| false)
        });
        self.node.forget_plan();
        if is_killed {
            assert!(self.node.start(), "{at}: killed without a plan");
        }
        self.settle(&at);
        // Who got no answer asks again; who waits for a policy or a start does not.
        if !matches!(self.scenario.request, Request::KillApp | Request::Recover) {
            self.request(&key);
        }
        self.come_true(&at);
        is_killed
    }

    /// Brings the subject to what it is to be before, and makes up a key for the request.
    fn prepare(&mut self) -> String {
        self.n_trials += 1;
        let subject = self.find(SUBJECT);
        let state = subject
            .as_ref()
            .map(|subject| subject["state"].as_str().unwrap().to_owned());
        let is_wanted = match self.scenario.before {
            Before::Nothing => state.is_none(),
            // Restarts by policy are counted.
            Before::New => false,
            Before::Started | Before::KilledAt(_) => state.as_deref() == Some("started"),
            Before::Stopped => state.as_deref() == Some("stopped"),
        };
        if !is_wanted {
            if subject.is_some() {
                self.ask_subject("DELETE", "?force=true", &Value::Null);
                self.settle("prepare: destroyed");
            }
            if self.scenario.before != Before::Nothing {
                ask(&self.node, "POST", &machines(), None, &creation());
                self.settle("prepare: created");
            }
            if self.scenario.before == Before::Stopped {
                self.ask_subject("POST", "/stop", &json!({}));
                self.settle("prepare: stopped");
            }
        }
        if let Before::KilledAt(point) = self.scenario.before {
            self.node.plan(point);
            self.ask_subject("POST", "/restart", &Value::Null);
            wait_until(point, SETTLE_LIMIT, || {
                if self.node.was_killed() {
                    Ok(())
                } else {
                    Err("runs")
                }
            });
        }
        format!("{}-{}", self.scenario.name, self.n_trials)
    }

    /// Asks for what the scenario is about; an answer may be cut off by the kill.
    fn request(&mut self, key: &str) {
        match self.scenario.request {
            Request::Create => {
                ask(&self.node, "POST", &machines(), Some(key), &creation());
            }
            Request::Update => {
                let body = json!({"config": config(1 + self.n_trials % 2)});
                self.ask_subject("POST", "", &body);
            }
            Request::Stop => self.ask_subject("POST", "/stop", &json!({})),
            Request::Start => self.ask_subject("POST", "/start", &Value::Null),
            Request::Restart => self.ask_subject("POST", "/restart", &Value::Null),
            Request::Destroy => self.ask_subject("DELETE", "?force=true", &Value::Null),
            Request::KillApp => {
                let pid = self.find(SUBJECT).unwrap()["pid"].as_i64().unwrap();
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            Request::Recover => {
                if !self.node.was_killed() {
                    self.node.kill();
                }
                self.node.start();
            }
        }
    }

    /// A request about the subject; nothing when it is gone.
    fn ask_subject(&self, method: &str, path: &str, body: &Value) {
        if let Some(subject) = self.find(SUBJECT) {
            let id = subject["id"].as_str().unwrap();
            ask(
                &self.node,
                method,
                &format!("{}/{id}{path}", machines()),
                None,
                body,
            );
        }
    }

    /// The machine of this name in the list.
    fn find(&self, name: &str) -> Option<Value> {
        let (_, list) = self.node.call("GET", &machines(), None, &Value::Null)?;
        let mut list = list.as_array()?.iter();
        list.find(|machine| machine["name"] == name).cloned()
    }

    /// Waits until nothing is under way and the host agrees with the database.
    fn settle(&self, at: &str) {
        wait_until(at, SETTLE_LIMIT, || match differences(&self.node) {
            found if found.is_empty() => Ok(()),
            found => Err(found),
        });
        let bystander = self.find(BYSTANDER).unwrap();
        if self.bystander_pid != Value::Null {
            assert_eq!(
                bystander["pid"], self.bystander_pid,
                "{at}: the bystander was touched"
            );
        }
        wait_until(at, SETTLE_LIMIT, || match self.node.edge_status() {
            Some(status) if status == "200" => Ok(()),
            other => Err(other),
        });
    }

    /// Waits until what was asked for is so.
    fn come_true(&mut self, at: &str) {
        wait_until(at, SETTLE_LIMIT, || self.look());
        self.settle(at);
    }

    /// Whether what was asked for is so and nothing is under way.
    fn look(&self) -> Result<(), Vec<String>> {
        let found = differences(&self.node);
        if !found.is_empty() {
            return Err(found);
        }
        let n_unanswered = unanswered_creations(&self.node);
        if n_unanswered > 0 {
            return Err(vec![format!("{n_unanswered} creations have no answer")]);
        }
        let states: Vec<String> = rows(&self.node)
            .into_values()
            .map(|row| row.state)
            .collect();
        let n_started = states.iter().filter(|state| *state == "started").count();
        let is_so = match self.scenario.wish {
            Wish::Started => (states.len(), n_started) == (2, 2),
            Wish::Stopped => (states.len(), n_started) == (2, 1),
            Wish::Gone => (states.len(), n_started) == (1, 1),
        };
        if is_so { Ok(()) } else { Err(states) }
    }
}

fn machines() -> String {
    format!("/v1/apps/{APP}/machines")
}

fn config(version: u32) -> Value {
    json!({
        "image": format!("box:{version}"),
        "restart": {"policy": "always"},
    })
}

fn creation() -> Value {
    json!({"name": SUBJECT, "config": config(1)})
}

/// A request that succeeds if it is answered at all.
fn ask(node: &Node, method: &str, path: &str, key: Option<&str>, body: &Value) {
    if let Some((status, answer)) = node.call(method, path, key, body) {
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
    }
}
