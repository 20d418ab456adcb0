//! Why no node was chosen, node by node.

use super::room::Shortage;
use crate::error::{Blame, CallerFault, Classify, ErrorCode, Retry};
use crate::id::NodeId;
use crate::machine::Isolation;
use crate::name::RegionCode;
use crate::size::ByteSize;
use std::fmt;

/// Nodes that a text names; the rest is counted.
const NODES_SHOWN_MAX: usize = 10;

/// No node takes the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Every node with what speaks against it, in order of their ids.
    pub nodes: Vec<NodeRefusal>,
}

/// What speaks against a node: the first filter that it did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRefusal {
    /// The node.
    pub node: NodeId,
    /// What speaks against it.
    pub reason: Reason,
}

/// What speaks against a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It has not answered for a while.
    Silent {
        /// For so long.
        seconds: u64,
    },
    /// It was asked for this machine, and did not take it.
    Declined {
        /// What it said.
        said: String,
    },
    /// A machine on it has to be removed first: another has taken its place.
    Fenced,
    /// The machine's volume is elsewhere.
    Volume {
        /// There.
        on: NodeId,
    },
    /// It is in another region.
    Region {
        /// In this one.
        region: RegionCode,
    },
    /// It lacks a label.
    Label {
        /// The label's name.
        name: String,
        /// What it should be.
        wanted: String,
        /// What it is.
        found: Option<String>,
    },
    /// It takes no new machines.
    Cordoned,
    /// It does not grant the isolation.
    Isolation {
        /// What was asked for.
        wanted: Isolation,
        /// Why not, for people.
        why: String,
    },
    /// It has another machine of the group.
    Alone {
        /// So many.
        n_machines: u32,
    },
    /// Its disk is full.
    Disk {
        /// What is free.
        free: ByteSize,
        /// What must be.
        min: ByteSize,
    },
    /// It has no room.
    Room(Shortage),
}

impl Reason {
    /// A word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "silent",
            Self::Declined { .. } => "declined",
            Self::Fenced => "fenced",
            Self::Volume { .. } => "volume",
            Self::Region { .. } => "region",
            Self::Label { .. } => "label",
            Self::Cordoned => "cordoned",
            Self::Isolation { .. } => "isolation",
            Self::Alone { .. } => "alone",
            Self::Disk { .. } => "disk",
            Self::Room(Shortage::Cpus { .. }) => "cpus",
            Self::Room(Shortage::Memory { .. }) => "memory",
            Self::Room(Shortage::Machines { .. }) => "machines",
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "look whether the node runs and can be reached",
            Self::Declined { .. } => "try again, or make room on the node",
            Self::Fenced => "wait until the node has removed what was replaced",
            Self::Volume { .. } => "make room on the volume's node, or use another volume",
            Self::Region { .. } => "add this region to the preferred ones, or add a node there",
            Self::Label { .. } => "ask for other labels, or label the node",
            Self::Cordoned => "uncordon the node, or add another",
            Self::Isolation { .. } => {
                "ask for `container` or `default`; `roost doctor` says more about this host"
            }
            Self::Alone { .. } => "add a node, or allow machines of the group to share one",
            Self::Disk { .. } => "free space on the node's disk",
            Self::Room(Shortage::Cpus { .. } | Shortage::Memory { .. }) => {
                "destroy machines that are not needed, choose a smaller size, or add a node"
            }
            Self::Room(Shortage::Machines { .. }) => {
                "destroy machines that are not needed, or add a node"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { seconds } => write!(f, "it has not answered for {seconds} s"),
            Self::Declined { said } => write!(f, "it did not take the machine: {said}"),
            Self::Fenced => f.write_str("it has yet to remove machines that others replaced"),
            Self::Volume { on } => write!(f, "the machine's volume is on {on}"),
            Self::Region { region } => write!(f, "it is in region {region}"),
            Self::Label {
                name,
                wanted,
                found: Some(found),
            } => write!(f, "its label {name} is `{found}`, not `{wanted}`"),
            Self::Label { name, wanted, .. } => {
                write!(f, "it has no label {name}, which should be `{wanted}`")
            }
            Self::Cordoned => f.write_str("it is cordoned: it takes no new machines"),
            Self::Isolation { wanted, why } => {
                let wanted = wanted.as_str();
                write!(f, "isolation `{wanted}` is refused on this node: {why}")
            }
            Self::Alone { n_machines } => {
                write!(
                    f,
                    "it has {n_machines} of the group already, and they must be apart"
                )
            }
            Self::Disk { free, min } => {
                write!(f, "its disk has {free} free, and {min} must be")
            }
            Self::Room(shortage) => shortage.fmt(f),
        }
    }
}

impl Refusal {
    /// Whether what was asked for is granted nowhere, however much room there were.
    fn is_in_vain(&self) -> bool {
        let granted_nowhere = |refused: &NodeRefusal| match refused.reason {
            Reason::Region { .. } | Reason::Label { .. } | Reason::Isolation { .. } => true,
            Reason::Silent { .. }
            | Reason::Declined { .. }
            | Reason::Fenced
            | Reason::Volume { .. }
            | Reason::Cordoned
            | Reason::Alone { .. }
            | Reason::Disk { .. }
            | Reason::Room(_) => false,
        };
        !self.nodes.is_empty() && self.nodes.iter().all(granted_nowhere)
    }
}

impl fmt::Display for NodeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("no node takes the machine: there are no nodes");
        }
        let shown: Vec<String> = self
            .nodes
            .iter()
            .take(NODES_SHOWN_MAX)
            .map(ToString::to_string)
            .collect();
        write!(f, "no node takes the machine: {}", shown.join("; "))?;
        match self.nodes.len().saturating_sub(NODES_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} nodes more"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Classify for Refusal {
    fn blame(&self) -> Blame {
        if self.is_in_vain() {
            Blame::Caller(CallerFault::Invalid)
        } else {
            Blame::Environment
        }
    }

    fn retry(&self) -> Retry {
        if self.is_in_vain() {
            Retry::Never
        } else {
            Retry::Backoff
        }
    }

    fn code(&self) -> ErrorCode {
        ErrorCode("no-placement")
    }

    /// What to do about the commonest reason.
    fn hint(&self) -> Option<String> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for refusal in &self.nodes {
            let advice = refusal.reason.advice();
            match counts.iter_mut().find(|(known, _)| *known == advice) {
                Some((_, n)) => *n += 1,
                None => counts.push((advice, 1)),
            }
        }
        // The first of equals.
        counts.reverse();
        let (advice, _) = counts.into_iter().max_by_key(|(_, n)| *n)?;
        Some(advice.to_owned())
    }
}
