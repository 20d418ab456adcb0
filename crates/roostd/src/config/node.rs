//! What this node is to a placement, and what it has to give.

use super::NodePaths;
use crate::args::NodeArgs;
use anyhow::{Context as _, Result};
use roost_host::room;
use roost_model::id::NodeId;
use roost_model::name::ZoneName;
use roost_model::placement::{Capacity, Overcommit};
use roost_model::size::ByteSize;
use roost_runtime::fs::write_atomic;
use roost_worker::{NodeProfile, WorkerConfig};
use std::collections::BTreeMap;

/// Memory of the host that machines do not get: the kernel's and roost's own.
const MEMORY_OF_HOST: ByteSize = ByteSize::mib(256);
/// Longest label, name or value.
const LABEL_BYTES_MAX: usize = 63;

/// The profile; faults of the command line are added to `faults`.
pub(super) fn profile(
    args: &NodeArgs,
    paths: &NodePaths,
    faults: &mut Vec<String>,
) -> Result<Option<NodeProfile>> {
    let n_faults = faults.len();
    let zone = args.zone.as_deref().map(ZoneName::parse).transpose();
    let zone = zone
        .map_err(|error| faults.push(format!("--zone: {error}")))
        .unwrap_or_default();
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        match parse_label(label) {
            Some((name, value)) => drop(labels.insert(name, value)),
            None => faults.push(format!(
                "--label `{label}` is not NAME=VALUE with 1 to {LABEL_BYTES_MAX} letters, digits, dashes, dots or underscores each"
            )),
        }
    }
    let overcommit = Overcommit::new(args.overcommit_cpu, args.overcommit_memory);
    if overcommit.is_none() {
        let max = Overcommit::PERCENT_MAX;
        faults.push(format!(
            "--overcommit-cpu and --overcommit-memory must be from 100 to {max} percent"
        ));
    }
    let memory = match &args.memory {
        None => {
            let total = room::memory_total().context("read how much memory this host has")?;
            let left = total.bytes().saturating_sub(MEMORY_OF_HOST.bytes());
            ByteSize(left)
        }
        Some(text) => ByteSize::parse(text).unwrap_or_else(|| {
            faults.push(format!("--memory `{text}` is not a size such as 8GiB"));
            ByteSize(0)
        }),
    };
    let (Some(overcommit), true) = (overcommit, faults.len() == n_faults) else {
        return Ok(None);
    };
    Ok(Some(NodeProfile {
        id: node_id(paths)?,
        zone,
        labels,
        cordoned: args.cordon,
        capacity: Capacity {
            n_cores: room::n_cores().context("read how many cores this host has")?,
            memory,
            n_machines: WorkerConfig::N_MACHINES_MAX_DEFAULT,
            overcommit,
        },
    }))
}

fn parse_label(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let is_word = |text: &str| {
        (1..=LABEL_BYTES_MAX).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    (is_word(name) && is_word(value)).then(|| (name.to_owned(), value.to_owned()))
}

/// The node's id: made at the first start, then kept.
fn node_id(paths: &NodePaths) -> Result<NodeId> {
    let path = paths.node_id();
    if path.exists() {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        return NodeId::parse(text.trim()).with_context(|| format!("read {}", path.display()));
    }
    let id = NodeId::from_ulid(ulid::Ulid::generate());
    write_atomic(&path, id.as_str().as_bytes(), 0o644)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::parse_label;

    #[test]
    fn a_label_is_a_name_and_a_value() {
        assert_eq!(
            parse_label("disk=nvme-2.0"),
            Some(("disk".into(), "nvme-2.0".into()))
        );
        for bad in ["disk", "=x", "disk=", "a b=c", "a=b=c"] {
            assert_eq!(parse_label(bad), None, "{bad}");
        }
    }
}
