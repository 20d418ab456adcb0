//! What must hold.

use crate::users::Expected;
use crate::world::World;
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::MachineState;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Longest time that two machines of the same name may be on nodes that answer.
const DOUBLE_MAX: Duration = Duration::from_secs(180);

/// A machine on a node.
#[derive(Debug)]
struct Found {
    node: NodeId,
    id: MachineId,
    state: MachineState,
    release: Option<u64>,
    has_reason: bool,
}

/// All machines by app and name.
type All = BTreeMap<(String, String), Vec<Found>>;

/// The machines on all nodes, or on those that can be reached.
fn find_all(world: &World, also_cut: bool) -> All {
    let mut all = All::new();
    for link in &world.links {
        if link.is_cut() && !also_cut {
            continue;
        }
        link.worker.inspect(|status, events| {
            let spec = &status.spec;
            let release = spec.metadata.get("roost_release_version");
            let found = Found {
                node: link.id.clone(),
                id: status.id.clone(),
                state: status.state,
                release: release.and_then(|release| release.parse().ok()),
                has_reason: events.iter().any(|event| {
                    let reason = event.detail["placement"].as_str();
                    reason.is_some_and(|reason| reason.contains(link.id.as_str()))
                }),
            };
            let key = (spec.app.to_string(), spec.name.to_string());
            all.entry(key).or_default().push(found);
        });
    }
    all
}

/// Sees to it that no machine is there twice for long.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    doubles: BTreeMap<(String, String), Instant>,
    pub(crate) longest: Duration,
    pub(crate) n_doubles: usize,
}

impl Watch {
    pub(crate) async fn look(&mut self, world: &World) {
        let mut all = find_all(world, false);
        all.retain(|_, found| found.len() > 1);
        self.doubles.retain(|name, _| all.contains_key(name));
        for (name, found) in all {
            let n_doubles = &mut self.n_doubles;
            let since = *self.doubles.entry(name.clone()).or_insert_with(|| {
                *n_doubles += 1;
                Instant::now()
            });
            self.longest = self.longest.max(since.elapsed());
            if since.elapsed() > DOUBLE_MAX {
                let known = known_of(world, &name).await;
                panic!(
                    "{name:?} is there twice for {:?}: {found:#?}\n{known}",
                    since.elapsed()
                );
            }
        }
    }
}

/// What is recorded of a machine, and what its nodes went through with it.
async fn known_of(world: &World, (app, name): &(String, String)) -> String {
    let is_it = |of: &str, named: &str| (of, named) == (app, name);
    let mut known = vec![];
    match world.store_if_open() {
        Some(store) => {
            let placements = store.placements().await.unwrap();
            let recorded = placements
                .iter()
                .filter(|it| is_it(it.app.as_str(), it.name.as_str()));
            known.extend(recorded.map(|placement| format!("{placement:#?}")));
            let fences = store.fences().await.unwrap();
            let fences = fences
                .iter()
                .filter(|it| is_it(it.app.as_str(), it.name.as_str()));
            known.extend(fences.map(|fence| format!("{fence:#?}")));
        }
        None => known.push("there is no control plane just now".to_owned()),
    }
    for link in &world.links {
        link.worker.inspect(|status, events| {
            if is_it(status.spec.app.as_str(), status.spec.name.as_str()) {
                known.push(format!("{}: {events:#?}", link.id));
            }
        });
    }
    known.join("\n")
}

/// What is not as it should be in the end; none when all is.
pub(crate) async fn first_flaw(world: &World, expected: &[Expected]) -> Option<String> {
    let all = find_all(world, true);
    for (name, found) in &all {
        if found.len() > 1 {
            return Some(format!(
                "{name:?} is there {} times: {found:?}",
                found.len()
            ));
        }
        if !found[0].has_reason {
            return Some(format!("{name:?} does not say why it is there: {found:?}"));
        }
    }
    for expected in expected {
        if let Some(flaw) = flaw_of(world, &all, expected).await {
            return Some(flaw);
        }
    }
    flaw_of_records(world, &all).await
}

async fn flaw_of(world: &World, all: &All, expected: &Expected) -> Option<String> {
    let app = &expected.app;
    let own = all.iter().filter(|((of, _), _)| of == app);
    let own: Vec<&Found> = own.flat_map(|(_, found)| found).collect();
    if expected.is_deleted {
        return (!own.is_empty()).then(|| format!("{app} is deleted and has {own:?}"));
    }
    let deployed: Vec<_> = own.iter().filter(|found| found.release.is_some()).collect();
    let n_most = expected.n_deployed + expected.n_unsure;
    if !(expected.n_deployed..=n_most).contains(&deployed.len()) {
        let placements = world.store().placements().await.unwrap();
        let names = |own: &mut dyn Iterator<Item = String>| own.collect::<Vec<_>>().join(" ");
        return Some(format!(
            "{app} has {} machines, not {} to {n_most}; there: {}; recorded: {}",
            deployed.len(),
            expected.n_deployed,
            names(
                &mut all
                    .keys()
                    .filter(|(of, _)| of == app)
                    .map(|(_, name)| name.clone())
            ),
            names(
                &mut placements
                    .iter()
                    .filter(|placement| placement.app.as_str() == app)
                    .map(|placement| placement.name.to_string())
            ),
        ));
    }
    let record = world.store().app(&app.clone().try_into().unwrap()).await;
    let current = record.unwrap().current_release;
    for found in &deployed {
        if found.release != current {
            return Some(format!("{app} serves {current:?}, and {found:?} is left"));
        }
        let rests = found.state == MachineState::Stopped && expected.has_failed;
        if found.state != MachineState::Started && !rests {
            return Some(format!("{app}: {found:?} does not run"));
        }
    }
    let by_hand: BTreeSet<String> = own
        .iter()
        .filter(|found| found.release.is_none())
        .map(|found| found.id.to_string())
        .collect();
    let wiped = world.wiped.lock();
    let is_lost = |id: &&String| !wiped.contains(&MachineId::parse(id).unwrap());
    let wanted: BTreeSet<String> = expected.by_hand.iter().filter(is_lost).cloned().collect();
    (by_hand != wanted).then(|| format!("{app} has {by_hand:?} made by hand, not {wanted:?}"))
}

/// What the control database says is what is.
async fn flaw_of_records(world: &World, all: &All) -> Option<String> {
    let store = world.store();
    let fences = store.fences().await.unwrap();
    if let Some(fence) = fences.first() {
        return Some(format!("{} fences are left: {fence:?}", fences.len()));
    }
    let mut recorded = BTreeSet::new();
    for placement in store.placements().await.unwrap() {
        let name = (placement.app.to_string(), placement.name.to_string());
        let found = all.get(&name).map(|found| &found[0]);
        let agrees = found.is_some_and(|found| {
            (Some(&found.id), &found.node) == (placement.machine.as_ref(), &placement.node)
        });
        if !agrees {
            return Some(format!("{placement:?} is recorded, and {found:?} is there"));
        }
        recorded.insert(name);
    }
    let unknown = all.iter().find(|(name, _)| !recorded.contains(*name));
    unknown.map(|(name, found)| format!("{name:?} is not recorded: {found:?}"))
}
