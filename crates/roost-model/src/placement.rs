//! Where a machine is to run: pure, and with reasons.
//!
//! ```text
//! nodes ─▶ filters, in this order, each with its reason:
//!            volume, region, labels, cordon, isolation, anti-affinity, disk, room, excluded
//!       ─▶ the first region of the request that has a node left
//!       ─▶ zones, then nodes, with the fewest machines of the group (within the slack)
//!       ─▶ nodes that have the image ─▶ the fullest ─▶ the smallest id
//! ```
//!
//! One pass over the nodes filters them, a second one over those that are left
//! chooses: the work grows with the nodes, and with machines only by the maps
//! of what a node has.
//! The view may be old; the worker of the node has the last word.

mod refusal;
mod room;
mod view;

pub use refusal::{NodeRefusal, Reason, Refusal};
pub use room::{Capacity, Overcommit, Shortage, Usage};
pub use view::{ClusterView, NodeView, PlacementRequest};

use crate::id::NodeId;
use crate::limits;
use crate::machine::Rung;
use crate::name::{RegionCode, ZoneName};
use std::collections::BTreeMap;
use std::fmt;

/// The node that takes a machine, and why it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Why it.
    pub why: Why,
}

/// Why a node was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Its region.
    pub region: RegionCode,
    /// The position of that among the preferred regions.
    pub region_rank: usize,
    /// Machines of the group in its zone before.
    pub n_in_zone: u32,
    /// Machines of the group on it before.
    pub n_on_node: u32,
    /// Whether it has the image.
    pub has_image: bool,
    /// Nodes that could have taken the machine.
    pub n_possible: usize,
    /// Nodes in all.
    pub n_nodes: usize,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            region,
            n_in_zone,
            n_on_node,
            n_possible,
            n_nodes,
            ..
        } = self;
        write!(
            f,
            "{n_possible} of {n_nodes} nodes could take it; in region {region}"
        )?;
        if self.region_rank > 0 {
            write!(f, " (choice {})", self.region_rank + 1)?;
        }
        write!(
            f,
            " with {n_in_zone} of its group in the zone and {n_on_node} on the node"
        )?;
        if self.has_image {
            f.write_str(", which has the image")?;
        }
        Ok(())
    }
}

/// Chooses a node for a machine, or says of each why not.
///
/// The same view and request give the same answer, whatever the order of nodes.
pub fn choose(view: &ClusterView, request: &PlacementRequest) -> Result<Choice, Refusal> {
    let mut refusals = Vec::new();
    let mut possible = Vec::new();
    for node in &view.nodes {
        match filter(node, request) {
            Ok(region_rank) => possible.push(Candidate::of(node, request, region_rank)),
            Err(reason) => refusals.push(NodeRefusal {
                node: node.id.clone(),
                reason,
            }),
        }
    }
    let n_possible = possible.len();
    let Some(best) = best_of(view, possible, request) else {
        refusals.sort_by(|a, b| a.node.cmp(&b.node));
        return Err(Refusal { nodes: refusals });
    };
    Ok(Choice {
        node: best.node.id.clone(),
        why: Why {
            region: best.node.region.clone(),
            region_rank: best.region_rank,
            n_in_zone: best.n_in_zone,
            n_on_node: best.n_on_node,
            has_image: best.has_image,
            n_possible,
            n_nodes: view.nodes.len(),
        },
    })
}

/// A node that can take the machine.
struct Candidate<'a> {
    node: &'a NodeView,
    region_rank: usize,
    n_in_zone: u32,
    n_on_node: u32,
    has_image: bool,
    free_permille: u64,
}

impl<'a> Candidate<'a> {
    fn of(node: &'a NodeView, request: &PlacementRequest, region_rank: usize) -> Self {
        let taken = node.taken().plus(Usage::of(request.guest));
        let image = request.image.as_ref();
        Self {
            node,
            region_rank,
            n_in_zone: 0,
            n_on_node: node.n_of_group(&request.app, &request.group),
            has_image: image.is_some_and(|digest| node.images.contains(digest)),
            free_permille: node.capacity.free_permille(taken),
        }
    }
}

fn best_of<'a>(
    view: &ClusterView,
    mut possible: Vec<Candidate<'a>>,
    request: &PlacementRequest,
) -> Option<Candidate<'a>> {
    let region_rank = possible.iter().map(|node| node.region_rank).min()?;
    possible.retain(|node| node.region_rank == region_rank);
    let in_zone = count_by_zone(view, request);
    for candidate in &mut possible {
        candidate.n_in_zone = match zone_of(candidate.node) {
            Some(zone) => in_zone.get(&zone).map_or(0, |n| *n),
            None => candidate.n_on_node,
        };
    }
    keep_emptiest(&mut possible, request.spread_slack, |node| node.n_in_zone);
    keep_emptiest(&mut possible, request.spread_slack, |node| node.n_on_node);
    possible.into_iter().min_by(|a, b| {
        let key = |node: &Candidate<'_>| (!node.has_image, node.free_permille);
        key(a).cmp(&key(b)).then_with(|| a.node.id.cmp(&b.node.id))
    })
}

type Zone<'a> = (&'a RegionCode, &'a ZoneName);

fn zone_of(node: &NodeView) -> Option<Zone<'_>> {
    Some((&node.region, node.zone.as_ref()?))
}

/// Machines of the group in each zone, on nodes that take no more as well.
fn count_by_zone<'a>(view: &'a ClusterView, request: &PlacementRequest) -> BTreeMap<Zone<'a>, u32> {
    let mut counts = BTreeMap::new();
    for node in &view.nodes {
        if let Some(zone) = zone_of(node) {
            *counts.entry(zone).or_default() += node.n_of_group(&request.app, &request.group);
        }
    }
    counts
}

fn keep_emptiest(
    nodes: &mut Vec<Candidate<'_>>,
    slack: u32,
    count: impl Fn(&Candidate<'_>) -> u32,
) {
    let min = nodes.iter().map(&count).min().unwrap_or(0);
    nodes.retain(|node| count(node) <= min.saturating_add(slack));
}

/// The position of the node's region among the preferred ones, or what speaks against the node.
fn filter(node: &NodeView, request: &PlacementRequest) -> Result<usize, Reason> {
    if let Some(on) = request.volume_node.as_ref()
        && *on != node.id
    {
        return Err(Reason::Volume { on: on.clone() });
    }
    let region_rank = match request.regions.as_slice() {
        [] => 0,
        regions => {
            let rank = regions.iter().position(|region| *region == node.region);
            rank.ok_or_else(|| Reason::Region {
                region: node.region.clone(),
            })?
        }
    };
    for (name, wanted) in &request.labels {
        let found = node.labels.get(name);
        if found != Some(wanted) {
            return Err(Reason::Label {
                name: name.clone(),
                wanted: wanted.clone(),
                found: found.cloned(),
            });
        }
    }
    if node.cordoned {
        return Err(Reason::Cordoned);
    }
    check_isolation(node, request)?;
    let n_machines = node.n_of_group(&request.app, &request.group);
    if request.alone && n_machines > 0 {
        return Err(Reason::Alone { n_machines });
    }
    if node.disk_free < limits::NODE_DISK_FREE_MIN {
        return Err(Reason::Disk {
            free: node.disk_free,
            min: limits::NODE_DISK_FREE_MIN,
        });
    }
    if let Some(shortage) = node.capacity.shortage(node.taken(), request.guest) {
        return Err(Reason::Room(shortage));
    }
    match request.excluded.get(&node.id) {
        Some(reason) => Err(reason.clone()),
        None => Ok(region_rank),
    }
}

/// Whether some rung of those that grant the isolation is above the floor and works there.
///
/// The worker takes the first rung that works, and that must not be below the floor.
fn check_isolation(node: &NodeView, request: &PlacementRequest) -> Result<(), Reason> {
    let wanted = request.isolation;
    let refuse = |why: String| Err(Reason::Isolation { wanted, why });
    let is_refused = |rung: &&Rung| node.refused_rungs.contains_key(rung);
    match wanted.rungs().iter().find(|rung| !is_refused(rung)) {
        Some(rung) if *rung >= request.isolation_floor => Ok(()),
        Some(rung) => refuse(format!(
            "it would be `{rung}`, and the app wants `{}` at least",
            request.isolation_floor
        )),
        None => {
            let why = wanted.rungs().iter().map(|rung| &node.refused_rungs[rung]);
            let why: Vec<&str> = why.map(String::as_str).collect();
            refuse(why.join("; "))
        }
    }
}

#[cfg(test)]
mod tests;
