//! What is behind one external port of an app: its machines, the nearest first.

use super::Target;
use crate::load::Queue;
use crate::relay::distance::Distance;
use roost_model::machine::{Protocol, ServicePort};
use roost_model::name::RegionCode;
use roost_model::split::Split;
use roost_proto::traffic::EndpointHealth;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is behind one external port of an app.
#[derive(Debug)]
pub(crate) struct PortRoute {
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    /// What is done there: as the first machine that takes traffic has it. A
    /// redirect to HTTPS is wanted as soon as one machine wants it.
    pub(crate) rule: ServicePort,
    /// The endpoints that this port leads to.
    pub(crate) targets: Vec<Arc<Target>>,
    /// Those that take new requests, the nearest first.
    pub(crate) passing: Vec<Arc<Target>>,
    /// Those that may be woken, the nearest first.
    pub(crate) asleep: Vec<Arc<Target>>,
    /// Who gets what of the requests, while a release is tried out and takes traffic.
    pub(crate) split: Option<Arc<Split>>,
    /// Which of `passing` are as near as each other: those of the edge's region, then those of
    /// other regions, each as near as the nearest of its nodes.
    pub(crate) classes: Vec<Range<usize>>,
    /// Requests that wait until a machine takes them.
    pub(crate) queue: Arc<Queue>,
    turn: Arc<AtomicUsize>,
}

impl PortRoute {
    /// The position in `passing` at which the next request begins.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of the class that a machine is in, if it takes new requests.
    pub(crate) fn class_of(&self, target: &Target) -> Option<usize> {
        let mut passing = self.passing.iter();
        let number = passing.position(|it| Arc::ptr_eq(&it.load, &target.load))?;
        let mut classes = self.classes.iter();
        classes.position(|class| class.contains(&number))
    }

    /// `None` when no endpoint of the app has this port.
    pub(super) fn new(
        (protocol, number): (Protocol, u16),
        of_app: &[Arc<Target>],
        queue: Arc<Queue>,
        old: Option<&Self>,
    ) -> Option<Self> {
        let targets = of_app
            .iter()
            .filter(|t| t.port_of(protocol, number).is_some());
        let targets: Vec<Arc<Target>> = targets.cloned().collect();
        let is_passing = |t: &&Arc<Target>| t.endpoint.health == EndpointHealth::Passing;
        // Whatever their health: a region does not move when a machine of it fails.
        let ways = ways_to_regions(&targets);
        // In the edge's region all are one class.
        let way_to = |target: &Arc<Target>| ways.get(&target.endpoint.region).copied();
        let mut passing: Vec<Arc<Target>> = targets.iter().filter(is_passing).cloned().collect();
        passing.sort_by_key(way_to);
        let is_asleep = |t: &&Arc<Target>| matches!(t.endpoint.health, EndpointHealth::Asleep(_));
        let mut asleep: Vec<Arc<Target>> = targets.iter().filter(is_asleep).cloned().collect();
        // One of them is woken: of a region that is far away the nearest.
        asleep.sort_by_key(|target| {
            let distance = if target.is_near {
                0
            } else {
                target.distance_counted()
            };
            (way_to(target), distance)
        });
        let classes = ranges(passing.chunk_by(|a, b| way_to(a) == way_to(b)));
        let mut rule = passing.iter().chain(&targets).next()?.port(number)?.clone();
        let mut rules = targets.iter().filter_map(|target| target.port(number));
        rule.force_https = rules.any(|rule| rule.force_https);
        Some(Self {
            protocol,
            number,
            rule,
            classes,
            split: passing
                .iter()
                .find_map(|target| target.endpoint.split.clone()),
            targets,
            passing,
            asleep,
            queue,
            turn: old.map_or_else(Arc::default, |old| old.turn.clone()),
        })
    }
}

/// How far each other region of these is: as far as the nearest of its nodes. One of whose nodes
/// nobody knows how far they are is the farthest.
fn ways_to_regions(targets: &[Arc<Target>]) -> HashMap<&RegionCode, Distance> {
    let mut ways = HashMap::new();
    for target in targets.iter().filter(|target| !target.is_near) {
        let distance = target.distance.unwrap_or(Distance::MAX);
        let way = ways.entry(&target.endpoint.region).or_insert(distance);
        *way = distance.min(*way);
    }
    ways
}

/// Where each of these pieces of one whole is.
fn ranges<'a, T: 'a>(pieces: impl Iterator<Item = &'a [T]>) -> Vec<Range<usize>> {
    let range = |begin: &mut usize, piece: &[T]| {
        let range = *begin..*begin + piece.len();
        *begin = range.end;
        Some(range)
    };
    pieces.scan(0, range).collect()
}
