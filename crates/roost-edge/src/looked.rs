//! Why the machines that a request did not go to did not get it.
//!
//! To look at all of them costs more than to choose one. So it is done for
//! requests that are followed, and for those that no machine took at once.

use crate::access::beginning;
use crate::affinity::Affinity;
use crate::limits;
use crate::pick::Asked;
use crate::split::Side;
use crate::table::{PortRoute, Target};
use crate::trail::micros;
use roost_model::id::{MachineId, NodeId};
use roost_proto::rest::SkippedMachine;
use roost_proto::traffic::EndpointHealth;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What speaks against a machine, besides its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Health,
    NotAskedFor,
    Refused,
    Ejected,
    HardLimit,
    Split,
    Session,
    Farther,
    OtherChosen,
}

/// A machine that was passed over.
#[derive(Debug)]
struct Skipped {
    target: Arc<Target>,
    reason: Reason,
    load: usize,
}

/// What the last look at the machines found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Whether to note it in any case.
    pub(crate) is_followed: bool,
    /// On the heap: of most requests nothing is noted.
    noted: Option<Box<Noted>>,
}

#[derive(Debug)]
struct Noted {
    skipped: Vec<Skipped>,
    n_more: usize,
    /// How far other nodes were then.
    round_trips: BTreeMap<NodeId, Duration>,
}

impl Looked {
    /// Notes why the machines of a port did not get the request, but for the chosen one.
    pub(crate) fn note(
        &mut self,
        port: &PortRoute,
        asked: Asked<'_>,
        refused: &[(MachineId, SocketAddr)],
        chosen: Option<&Arc<Target>>,
        round_trips: BTreeMap<NodeId, Duration>,
    ) {
        let mut skipped = Vec::new();
        let is_same = |a: &Arc<Target>, b: &Arc<Target>| Arc::ptr_eq(&a.load, &b.load);
        let others = port.targets.iter();
        let mut others = others.filter(|target| !chosen.is_some_and(|it| is_same(it, target)));
        let is_refused = |target: &Arc<Target>| {
            let endpoint = &target.endpoint;
            let is_it = |(id, address): &(MachineId, SocketAddr)| {
                *address == endpoint.address && *id == endpoint.machine_id
            };
            refused.iter().any(is_it)
        };
        // Who has left his side has seen all of it.
        let side = asked.side.filter(|_| port.split.is_some());
        let is_left = |side: &Side| chosen.is_some_and(|it| !side.has(it));
        let side = side.filter(|side| !is_left(side));
        let is_other_side = |target: &Target| side.is_some_and(|side| !side.has(target));
        let is_kept = asked
            .affinity
            .zip(chosen)
            .is_some_and(|(affinity, chosen)| affinity.is_for(chosen));
        let chosen_class = chosen.and_then(|it| port.class_of(it));
        let is_farther = |target: &Target| {
            let classes = chosen_class.zip(port.class_of(target));
            classes.is_some_and(|(chosen, other)| other > chosen)
        };
        // A header brings a request to a machine of the nearest class, a cookie to any.
        let is_by_header = matches!(asked.affinity, Some(Affinity::Header(_)));
        let loses_by_session = |target: &Target| is_kept && !(is_by_header && is_farther(target));
        for target in others.by_ref().take(limits::SKIPPED_MAX) {
            let load = target.load.everywhere();
            let reason = if target.endpoint.health != EndpointHealth::Passing {
                Reason::Health
            } else if !asked.wants.allows_at_all(target) {
                Reason::NotAskedFor
            } else if is_refused(target) {
                Reason::Refused
            } else if target.load.is_ejected() {
                Reason::Ejected
            } else if !target.candidate(false, load).is_open() {
                Reason::HardLimit
            } else if is_other_side(target) {
                Reason::Split
            } else if loses_by_session(target) {
                Reason::Session
            } else if is_farther(target) {
                Reason::Farther
            } else {
                Reason::OtherChosen
            };
            skipped.push(Skipped {
                target: target.clone(),
                reason,
                load,
            });
        }
        self.noted = Some(Box::new(Noted {
            skipped,
            n_more: others.count(),
            round_trips,
        }));
    }

    /// Takes what is noted, so that the next attempt begins without.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            is_followed: self.is_followed,
            noted: self.noted.take(),
        }
    }

    /// Whether anything is noted.
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.is_some()
    }

    /// The machines, for a record, and how many more there are.
    pub(crate) fn for_record(&self) -> (Vec<SkippedMachine>, u64) {
        let Some(noted) = &self.noted else {
            return Default::default();
        };
        let for_record = |it: &Skipped| it.for_record(self.round_trip_us(&it.target));
        let skipped = noted.skipped.iter().map(for_record).collect();
        (skipped, u64::try_from(noted.n_more).unwrap_or(u64::MAX))
    }

    /// How long a round trip to the node of a machine took, if that is another node and known.
    pub(crate) fn round_trip_us(&self, target: &Target) -> Option<u64> {
        let node = target.endpoint.node.as_ref()?;
        let round_trips = &self.noted.as_ref()?.round_trips;
        round_trips.get(&node.id).copied().map(micros)
    }
}

impl Skipped {
    fn for_record(&self, round_trip_us: Option<u64>) -> SkippedMachine {
        let endpoint = &self.target.endpoint;
        let (reason, message) = match self.reason {
            Reason::Health => of_health(&endpoint.health),
            Reason::NotAskedFor => (
                "not-asked-for",
                "the request asks for other machines".to_owned(),
            ),
            Reason::Refused => (
                "refused",
                "it had refused this request's connection".to_owned(),
            ),
            Reason::Ejected => (
                "ejected",
                "requests to it had failed; it gets none for a while".to_owned(),
            ),
            Reason::HardLimit => {
                let limit = self.target.hard_limit().unwrap_or(self.load);
                ("hard-limit", format!("it was at its hard limit of {limit}"))
            }
            Reason::Split => (
                "split",
                "a release is tried out: the request is for machines of the other one".to_owned(),
            ),
            Reason::Session => (
                "session",
                "the requests of this session go to another machine".to_owned(),
            ),
            Reason::Farther => ("farther", "a nearer machine could take it".to_owned()),
            Reason::OtherChosen => (
                "other-chosen",
                "it could have had it; another one was chosen".to_owned(),
            ),
        };
        SkippedMachine {
            machine: endpoint.machine_id.to_string(),
            region: endpoint.region.to_string(),
            node: endpoint.node.as_ref().map(|node| node.id.to_string()),
            round_trip_us,
            reason: reason.to_owned(),
            message,
            load: u64::try_from(self.load).unwrap_or(u64::MAX),
        }
    }
}

fn of_health(health: &EndpointHealth) -> (&'static str, String) {
    match health {
        EndpointHealth::Passing => ("other-chosen", "it was healthy".to_owned()),
        EndpointHealth::Failing(why) => {
            let why = beginning(why, limits::RECORD_REASON_BYTES_MAX);
            ("unhealthy", format!("it was not healthy: {why}"))
        }
        EndpointHealth::Draining => (
            "draining",
            "it was cordoned or about to stop, and took nothing new".to_owned(),
        ),
        EndpointHealth::Asleep(state) => ("asleep", format!("it was asleep: {state}")),
        EndpointHealth::Down(state) => ("down", format!("it did not run: {state}")),
    }
}
