//! What a placement looks at: nodes, and what is asked for.

use super::refusal::Reason;
use super::room::{Capacity, Usage};
use crate::id::NodeId;
use crate::machine::{Guest, Isolation, Rung};
use crate::name::{AppName, RegionCode, ZoneName};
use crate::size::ByteSize;
use std::collections::{BTreeMap, BTreeSet};

/// The nodes as they are known now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// In any order.
    pub nodes: Vec<NodeView>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its region.
    pub region: RegionCode,
    /// What it fails together with, within the region; its own when none is given.
    pub zone: Option<ZoneName>,
    /// Labels that its operator gave it.
    pub labels: BTreeMap<String, String>,
    /// Why no machines are started on a rung; rungs that are not here have no refusal.
    pub refused_rungs: BTreeMap<Rung, String>,
    /// Whether it takes no new machines.
    pub cordoned: bool,
    /// What it has.
    pub capacity: Capacity,
    /// What its machines take, those that are stopped as well: they can always start.
    pub used: Usage,
    /// What is held for machines to come.
    pub reserved: Usage,
    /// Free space on the disk of machines' file systems.
    pub disk_free: ByteSize,
    /// Digests of the images that are present.
    pub images: BTreeSet<String>,
    /// How many machines of each process group of each app it has.
    pub machines: BTreeMap<AppName, BTreeMap<String, u32>>,
}

impl NodeView {
    /// All that is taken.
    pub fn taken(&self) -> Usage {
        self.used.plus(self.reserved)
    }

    /// Machines of this process group.
    pub fn n_of_group(&self, app: &AppName, group: &str) -> u32 {
        let groups = self.machines.get(app);
        groups
            .and_then(|groups| groups.get(group))
            .map_or(0, |n| *n)
    }

    /// Counts one more machine, as placed by `request`.
    pub fn add(&mut self, request: &PlacementRequest) {
        self.used = self.used.plus(Usage::of(request.guest));
        let groups = self.machines.entry(request.app.clone()).or_default();
        *groups.entry(request.group.clone()).or_default() += 1;
    }
}

/// A machine that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRequest {
    /// Its app.
    pub app: AppName,
    /// Its process group.
    pub group: String,
    /// Where it may be, best first; anywhere when empty.
    pub regions: Vec<RegionCode>,
    /// Its size.
    pub guest: Guest,
    /// What it asks of isolation.
    pub isolation: Isolation,
    /// The weakest rung that its app allows.
    pub isolation_floor: Rung,
    /// Labels that its node must have.
    pub labels: BTreeMap<String, String>,
    /// The node that has its volume.
    pub volume_node: Option<NodeId>,
    /// Whether it refuses to share a node with another machine of its group.
    pub alone: bool,
    /// The digest of its image, if it is known.
    pub image: Option<String>,
    /// How unevenly a group may be spread over zones and nodes to fill nodes up:
    /// machines more than on the emptiest one.
    pub spread_slack: u32,
    /// Nodes that are out of the question though their views do not tell, and why.
    pub excluded: BTreeMap<NodeId, Reason>,
}
