//! The real control plane over simulated nodes that refuse, delay, forget and vanish by seed.
//!
//! In the end every machine that somebody asked for is there, once, and says why it is where it
//! is; and nothing else is there. A seed that fails stays in the list of seeds.
//!
//! `make test-simulation` runs it with 1,000 nodes and 50,000 machines.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a step that fails is a test that fails; what it came to is for people"
)]

mod check;
mod clock;
mod link;
mod scenarios;
mod users;
mod world;

use check::{Watch, first_flaw};
use futures_util::future::join_all;
use link::Faults;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use users::{User, Wishes};
use world::World;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
struct Plan {
    n_nodes: u64,
    n_apps: usize,
    wishes: Wishes,
    faults: Faults,
    /// For how long nodes and the control plane fail.
    chaos: Duration,
    /// Pause between two failures at most.
    failure_pause: Duration,
    /// One of so many failures is the end of the control plane, which then begins anew.
    restarts: u32,
}

const FAULTS: Faults = Faults {
    lost_requests: 4,
    late_requests: 3,
    lost_answers: 4,
    refusals: 10,
    delay_max: Duration::from_millis(40),
};
const SAMPLE: Plan = Plan {
    n_nodes: 60,
    n_apps: 30,
    wishes: Wishes {
        n_machines_max: 50,
        n_actions: 1,
        pause_max: Duration::from_secs(60),
    },
    faults: FAULTS,
    chaos: Duration::from_secs(400),
    failure_pause: Duration::from_secs(20),
    restarts: 10,
};
/// Fewer machines, to which more happens.
const BUSY: Plan = Plan {
    n_nodes: 12,
    n_apps: 6,
    wishes: Wishes {
        n_machines_max: 8,
        n_actions: 12,
        pause_max: Duration::from_secs(90),
    },
    faults: FAULTS,
    chaos: Duration::from_secs(1_500),
    failure_pause: Duration::from_secs(30),
    restarts: 10,
};
/// What a large platform has.
const FULL: Plan = Plan {
    n_nodes: 1_000,
    n_apps: 250,
    wishes: Wishes {
        n_machines_max: 200,
        n_actions: 1,
        pause_max: Duration::from_secs(120),
    },
    faults: FAULTS,
    chaos: Duration::from_secs(600),
    failure_pause: Duration::from_secs(3),
    restarts: 40,
};
/// Longest time that may pass until all is well after the last failure.
const RECOVERY_MAX: Duration = Duration::from_secs(1_800);
/// How often a long run tells how it goes, of the time that passes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);
/// The share of nodes that may be cut off at once.
const CUT_SHARE: usize = 5;

/// Cuts nodes off, brings them back with or without their machines, and kills the control plane.
async fn fail(world: Arc<World>, seed: u64, plan: Plan) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xFA11);
    let end = Instant::now() + plan.chaos;
    while Instant::now() < end {
        let max = u64::try_from(plan.failure_pause.as_millis()).unwrap();
        let pause = rng.random_range(0..=max);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if rng.random_range(0..plan.restarts) == 0 {
            world.restart().await;
            continue;
        }
        let n_cut = world.links.iter().filter(|link| link.is_cut()).count();
        if (n_cut + 1) * CUT_SHARE > world.links.len() {
            continue;
        }
        let link = &world.links[rng.random_range(0..world.links.len())];
        if link.is_cut() {
            continue;
        }
        link.cut(true);
        let for_seconds = rng.random_range(1..240);
        let loses_disk = rng.random_range(0..6) == 0;
        let (world, link) = (Arc::clone(&world), Arc::clone(link));
        world.clone().tasks.spawn("cut", async move {
            tokio::time::sleep(Duration::from_secs(for_seconds)).await;
            if loses_disk {
                let mut wiped = world.wiped.lock();
                link.worker.inspect(|status, _| {
                    wiped.insert(status.id.clone());
                });
                link.worker.wipe();
            }
            link.cut(false);
        });
    }
}

/// The usual ones, or those that `ROOST_SEEDS` names: `7` or `0..100`.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("ROOST_SEEDS") else {
        return usual;
    };
    let (first, end) = text.split_once("..").unwrap_or((&text, ""));
    let first = first.parse().expect("a number");
    first..end.parse().unwrap_or(first + 1)
}

/// Tells how a long run goes.
struct Progress {
    started: Instant,
    told: std::time::Instant,
}

impl Progress {
    fn begin() -> Self {
        Self {
            started: Instant::now(),
            told: std::time::Instant::now(),
        }
    }

    /// From time to time.
    fn tell(&mut self, world: &World, watch: &Watch) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = std::time::Instant::now();
        println!(
            "{} s of the simulation: {} machines made, {} doubles until now",
            self.started.elapsed().as_secs(),
            world.n_made(),
            watch.n_doubles
        );
    }
}

async fn simulate(seed: u64, plan: Plan) {
    let (began, started) = (std::time::Instant::now(), Instant::now());
    let world = World::start(seed, plan.n_nodes).await;
    world.set_faults(plan.faults);
    let chaos = fail(Arc::clone(&world), seed, plan);
    let users = (0..plan.n_apps).map(|n| User::new(&world, seed, n, plan.wishes).live());
    let mut watch = Watch::default();
    let mut progress = Progress::begin();
    let mut looking = tokio::time::interval(Duration::from_secs(15));
    let mut living = Box::pin(async { tokio::join!(join_all(users), chaos).0 });
    let expected = loop {
        tokio::select! {
            expected = &mut living => break expected,
            _ = looking.tick() => {
                watch.look(&world).await;
                progress.tell(&world, &watch);
            }
        }
    };
    drop(living);
    world.set_faults(Faults::default());
    let quiet = Instant::now();
    // Nodes that are cut come back within some minutes.
    while let Some(flaw) = first_flaw(&world, &expected).await {
        assert!(quiet.elapsed() < RECOVERY_MAX, "seed {seed}: {flaw}");
        watch.look(&world).await;
        progress.tell(&world, &watch);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let n_machines: usize = expected.iter().map(|app| app.n_deployed).sum();
    println!(
        "seed {seed}: {} nodes, {} made and {n_machines} machines left, well {} s after the last \
         failure of {} s; {} doubles, the longest for {} s; {:.1} s",
        plan.n_nodes,
        world.n_made(),
        quiet.elapsed().as_secs(),
        started.elapsed().as_secs(),
        watch.n_doubles,
        watch.longest.as_secs(),
        began.elapsed().as_secs_f64()
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_machine_is_lost_doubled_or_without_a_reason() {
    for seed in seeds(0..1) {
        simulate(seed, SAMPLE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_holds_where_more_happens_than_a_few_nodes_can_bear() {
    for seed in seeds(0..3) {
        simulate(seed, BUSY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_with_fifty_thousand_machines() {
    let n_nodes = std::env::var("ROOST_SIMULATION_NODES").ok();
    let Some(n_nodes) = n_nodes.and_then(|text| text.parse().ok()) else {
        println!("skipped: it takes minutes, optimised; make test-simulation runs it");
        return;
    };
    let plan = Plan {
        n_nodes,
        n_apps: usize::try_from(n_nodes / 4).unwrap(),
        ..FULL
    };
    for seed in seeds(0..1) {
        simulate(seed, plan).await;
    }
}
