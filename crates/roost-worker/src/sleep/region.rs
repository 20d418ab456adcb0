//! The machines that an app keeps awake in a region, over all nodes.
//!
//! Each node decides for itself, by what the edge has heard of the others. That may be old, so
//! two that relied on each other could both put the last machines to sleep. So a node relies on
//! those with smaller ids only: the first keeps as many as are to stay, or all that it has, and
//! each after it what is then missing. What is not surely a machine that another node keeps for
//! the same reason is not counted.

use super::{Alike, lets_sleep, ports_of};
use roost_model::id::{MachineId, NodeId};
use roost_model::machine::MachineState;
use roost_proto::traffic::{Endpoint, EndpointHealth};
use std::collections::{BTreeMap, BTreeSet};

/// What the machines of a region have in common of which some are to stay awake.
pub(super) struct OfRegion<'a> {
    pub(super) alike: &'a Alike,
    pub(super) release: Option<u64>,
    /// How many are to stay.
    pub(super) n_kept: usize,
}

impl OfRegion<'_> {
    /// How many of them are awake at nodes before this one, by the endpoints of their app
    /// elsewhere.
    pub(super) fn n_kept_before(&self, own: &NodeId, elsewhere: &[Endpoint]) -> usize {
        // While a release is tried out nobody sleeps at its node; then there is another rule.
        if elsewhere.iter().any(|endpoint| endpoint.split.is_some()) {
            return 0;
        }
        let machines = by_machine(elsewhere).into_values();
        let kept = machines.filter(|services| self.is_kept_before(own, services));
        kept.count()
    }

    /// Whether a machine, by its services, is one that a node before this one keeps awake.
    fn is_kept_before(&self, own: &NodeId, services: &[&Endpoint]) -> bool {
        let (_, region, ports) = self.alike;
        let is_one = |endpoint: &&&Endpoint| {
            endpoint.node.as_ref().is_some_and(|node| node.id < *own)
                && endpoint.region == *region
                && endpoint.release == self.release
                && endpoint.health == EndpointHealth::Passing
                && lets_sleep(&endpoint.service)
        };
        let minimum = |endpoint: &&Endpoint| endpoint.service.min_machines_running;
        let n_kept = services.iter().map(minimum).max().unwrap_or(0);
        services.iter().filter(is_one).count() == services.len()
            && usize::try_from(n_kept).is_ok_and(|n_kept| n_kept >= self.n_kept)
            && ports_of(services.iter().map(|endpoint| &endpoint.service)) == *ports
    }
}

/// What other nodes have of the machines that are alike, whatever they keep them for: as many as
/// run need not be woken here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// How many run and take requests, or are being started.
    pub(super) n_running: usize,
    /// How many nodes before this one have some that sleep, which they may be about to wake, or
    /// that run but take no requests, perhaps since they were woken just now.
    pub(super) n_nodes_before: u32,
}

impl Elsewhere {
    /// By the endpoints of their app elsewhere.
    pub(super) fn of(alike: &Alike, own: &NodeId, elsewhere: &[Endpoint]) -> Self {
        let (_, region, ports) = alike;
        let (mut n_running, mut before) = (0, BTreeSet::new());
        for services in by_machine(elsewhere).into_values() {
            if services.iter().any(|endpoint| endpoint.region != *region)
                || ports_of(services.iter().map(|endpoint| &endpoint.service)) != *ports
            {
                continue;
            }
            // One that is tried out has a part of the requests only.
            if services
                .iter()
                .all(|it| runs(&it.health) && it.split.is_none())
            {
                n_running += 1;
            } else if services.iter().any(|it| may_run_soon(&it.health)) {
                let nodes = services.iter().filter_map(|it| it.node.as_ref());
                before.extend(nodes.map(|node| &node.id).filter(|id| *id < own));
            }
        }
        let n_nodes_before = u32::try_from(before.len()).unwrap_or(u32::MAX);
        Self {
            n_running,
            n_nodes_before,
        }
    }
}

/// Whether it takes requests, or is being started: that counts here as well.
fn runs(health: &EndpointHealth) -> bool {
    match health {
        EndpointHealth::Passing => true,
        EndpointHealth::Down(state) => MachineState::parse(state) == Some(MachineState::Starting),
        EndpointHealth::Failing(_) | EndpointHealth::Draining | EndpointHealth::Asleep(_) => false,
    }
}

/// Whether its node may be about to wake it, or has just done so.
fn may_run_soon(health: &EndpointHealth) -> bool {
    matches!(
        health,
        EndpointHealth::Asleep(_) | EndpointHealth::Failing(_)
    )
}

/// The services of each machine.
fn by_machine(endpoints: &[Endpoint]) -> BTreeMap<&MachineId, Vec<&Endpoint>> {
    let mut machines: BTreeMap<&MachineId, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        let services = machines.entry(&endpoint.machine_id);
        services.or_default().push(endpoint);
    }
    machines
}

#[cfg(test)]
pub(super) mod tests;
