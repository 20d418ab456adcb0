//! Three processes share a journal and are killed at random writes, while runs are started and
//! cancelled and their steps fail. By seed: one that fails becomes a test of its own.
//!
//! Whatever happens, each run ends; what it leaves is all or nothing; and no two attempts act on
//! a subject at the same moment.

use super::{Bench, Engine, request};
use crate::Cx;
use crate::engine::{EngineConfig, Timing};
use crate::journal::{Filter, Journal};
use crate::record::{Status, Subject};
use crate::testing::mortal::{MortalJournal, Side};
use crate::workflow::{OnBusy, Step, StepError, Steps, Workflow};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roost_model::id::RunId;
use roost_runtime::tasks::Tasks;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const SEEDS: std::ops::Range<u64> = 0..12;
const N_RUNS: u64 = 30;
const N_SUBJECTS: u64 = 5;

/// What the runs act on.
#[derive(Debug)]
struct World {
    rng: Mutex<StdRng>,
    /// What each run's steps made and did not unmake.
    made: Mutex<BTreeMap<RunId, BTreeSet<&'static str>>>,
    /// Subjects on which an attempt acts.
    busy: Mutex<BTreeSet<Subject>>,
    /// Subjects on which two attempts acted at once. A step that panics is only tried again.
    clashes: Mutex<Vec<Subject>>,
}

/// An attempt that acts on a subject until it is dropped.
struct Acting<'a> {
    world: &'a World,
    subject: Subject,
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        self.world.busy.lock().remove(&self.subject);
    }
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            made: Mutex::default(),
            busy: Mutex::default(),
            clashes: Mutex::default(),
        })
    }

    fn roll(&self, n: u64) -> u64 {
        self.rng.lock().random_range(0..n)
    }

    async fn pause(&self, max: Duration) {
        let max_ms = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(self.roll(max_ms))).await;
    }

    /// Acts for a while around `change`, and may be dropped or fail on either side of it.
    async fn act(
        &self,
        cx: &Cx<u64>,
        may_fail: bool,
        change: impl FnOnce(&mut BTreeSet<&'static str>),
    ) -> Result<(), StepError> {
        if !self.busy.lock().insert(cx.subject().clone()) {
            self.clashes.lock().push(cx.subject().clone());
        }
        let _acting = Acting {
            world: self,
            subject: cx.subject().clone(),
        };
        self.pause(Duration::from_secs(2)).await;
        change(self.made.lock().entry(cx.run_id().clone()).or_default());
        self.pause(Duration::from_secs(2)).await;
        match self.roll(20) {
            0 if may_fail => Err(StepError::Fail("bad luck".into())),
            0..4 => Err(StepError::Retry("not yet".into())),
            _ => Ok(()),
        }
    }
}

/// Makes three things, the last one for good.
struct Make(Arc<World>);

impl Workflow for Make {
    const NAME: &'static str = "make";
    const VERSION: u32 = 1;
    const ON_BUSY: OnBusy = OnBusy::Queue;
    type Params = u64;

    fn steps() -> Steps<Self> {
        Steps::new()
            .step(Step::<()>::new("a"), async |this: Arc<Self>, cx| {
                this.make(&cx, "a").await
            })
            .undo(async |this: Arc<Self>, cx| this.unmake(&cx, "a").await)
            .step(Step::<()>::new("b"), async |this: Arc<Self>, cx| {
                this.make(&cx, "b").await
            })
            .undo(async |this: Arc<Self>, cx| this.unmake(&cx, "b").await)
            .point_of_no_return()
            .step(Step::<()>::new("c"), async |this: Arc<Self>, cx| {
                this.make(&cx, "c").await
            })
    }
}

impl Make {
    async fn make(&self, cx: &Cx<u64>, what: &'static str) -> Result<(), StepError> {
        let make = |made: &mut BTreeSet<_>| {
            made.insert(what);
        };
        self.0.act(cx, true, make).await
    }

    async fn unmake(&self, cx: &Cx<u64>, what: &'static str) -> Result<(), StepError> {
        let unmake = |made: &mut BTreeSet<_>| {
            made.remove(what);
        };
        self.0.act(cx, false, unmake).await
    }
}

fn engine(config: EngineConfig, world: &Arc<World>) -> Engine {
    let builder = Engine::builder(config);
    builder.register(Make(Arc::clone(world))).unwrap().start()
}

/// Lives and dies until it is told to live on.
async fn live(bench: &Bench, world: &Arc<World>, holder: &str, is_over: &Mutex<bool>) -> Tasks {
    loop {
        let tasks = Tasks::new();
        let mut config = bench.config(holder, &tasks);
        if *is_over.lock() {
            drop(engine(config, world));
            return tasks;
        }
        let n_writes = usize::try_from(world.roll(40)).unwrap();
        let side = [Side::Before, Side::After][usize::from(world.roll(2) == 0)];
        let journal = Arc::clone(&bench.journal);
        let mortal = Arc::new(MortalJournal::new(journal, n_writes, side));
        config.journal = Arc::clone(&mortal) as Arc<dyn Journal>;
        drop(engine(config, world));
        // It may have nothing to write any more.
        let _ = tokio::time::timeout(Duration::from_secs(60), mortal.died.notified()).await;
        assert!(tasks.shutdown(Duration::from_secs(60)).await);
        world.pause(Duration::from_secs(30)).await;
    }
}

/// Starts runs, cancels some, and then lets the processes live on.
async fn ask(engine: &Engine, world: &World, is_over: &Mutex<bool>) -> Vec<RunId> {
    let mut ids = vec![];
    for n in 0..N_RUNS {
        let subject = format!("thing/{}", world.roll(N_SUBJECTS));
        let started = engine.start::<Make>(request(&subject, &n)).await;
        ids.push(started.unwrap());
        world.pause(Duration::from_secs(20)).await;
        if world.roll(4) == 0 {
            let idx = usize::try_from(world.roll(n + 1)).unwrap();
            engine.cancel(&ids[idx], "bad luck").await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    *is_over.lock() = true;
    ids
}

async fn simulate(seed: u64) -> BTreeMap<&'static str, usize> {
    let timing = Timing {
        // A take-over comes sooner than a restart, as often as not.
        lease: Duration::from_secs(12),
        heartbeat_interval: Duration::from_secs(4),
        look_interval: Duration::from_secs(4),
    };
    let bench = Bench {
        timing,
        ..Bench::new()
    };
    let world = World::new(seed);
    // It records and executes nothing.
    let asking = Tasks::new();
    asking.stop();
    let asker = engine(bench.config("asker", &asking), &world);
    let is_over = Mutex::new(false);
    let (ids, a, b, c) = tokio::join!(
        ask(&asker, &world, &is_over),
        live(&bench, &world, "a", &is_over),
        live(&bench, &world, "b", &is_over),
        live(&bench, &world, "c", &is_over),
    );
    let mut ends = BTreeMap::new();
    for id in &ids {
        let limit = Duration::from_secs(100_000);
        let ended = tokio::time::timeout(limit, asker.wait_ended(id)).await;
        let run = ended.expect("the run ends").unwrap().run;
        let made = world.made.lock().get(id).cloned().unwrap_or_default();
        let expected = if run.status == Status::Succeeded {
            3
        } else {
            0
        };
        assert_eq!(
            made.len(),
            expected,
            "seed {seed}: {made:?} is left of {run:?}"
        );
        assert_ne!(run.status, Status::Stuck, "seed {seed}: {run:?}");
        *ends.entry(run.status.as_str()).or_default() += 1;
    }
    for tasks in [a, b, c] {
        assert!(tasks.shutdown(Duration::from_secs(60)).await);
    }
    let clashes = world.clashes.lock().clone();
    assert!(clashes.is_empty(), "seed {seed}: {clashes:?}");
    let listed = asker.list(Filter::default()).await.unwrap();
    assert_eq!(
        listed.len(),
        ids.len(),
        "seed {seed}: none lost, none doubled"
    );
    ends
}

#[tokio::test(start_paused = true)]
async fn processes_that_die_at_random_lose_and_double_nothing() {
    let mut ends = BTreeMap::new();
    for seed in SEEDS {
        for (status, n_runs) in simulate(seed).await {
            *ends.entry(status).or_insert(0) += n_runs;
        }
    }
    for status in [Status::Succeeded, Status::Failed, Status::Cancelled] {
        assert!(
            ends.contains_key(status.as_str()),
            "never {status}: {ends:?}"
        );
    }
}
