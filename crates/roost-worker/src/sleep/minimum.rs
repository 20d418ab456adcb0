//! Waking machines for `min_machines_running`, when those that stayed awake for it are lost.
//!
//! A machine sleeps because others stay awake, here or at another node. When these stop, fail, or
//! are of a node that tells of its machines no more, it is woken without any request. That is a
//! matter of how many run, not of which: so more are counted here than a node relies on when it
//! puts its own to sleep, and what is woken in vain sleeps again only after its time.
//!
//! A node that is started again, or cannot be reached for a moment, is no reason: the lack has to
//! last. Where several nodes have machines that sleep, each waits once more for those before it,
//! so that not all of them wake one for the same lack.

use super::region::Elsewhere;
use super::{Alike, All, alike, change, lets_sleep, n_kept};
use crate::api::requests;
use crate::board::Entry;
use crate::limits;
use crate::worker::Inner;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::Cause;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Since when too few machines are awake.
#[derive(Debug, Default)]
pub(super) struct Lacks(BTreeMap<Alike, Instant>);

impl Lacks {
    /// Whether too few have been awake for so long, now that they are too few.
    fn lasts(&mut self, alike: &Alike, patience: Duration, now: Instant) -> bool {
        let since = *self.0.entry(alike.clone()).or_insert(now);
        now.saturating_duration_since(since) >= patience
    }
}

/// The machines of this node that are alike.
#[derive(Debug, Default)]
struct Group<'a> {
    /// How many of them are to be awake, over all nodes.
    n_kept: usize,
    /// How many run here, or are about to.
    n_running: usize,
    asleep: Vec<&'a MachineId>,
}

/// Wakes as many machines as are missing, if they are missing for a while.
pub(super) async fn hold(
    inner: &Arc<Inner>,
    lacks: &mut Lacks,
    (all, tried): All<'_>,
    now: Instant,
) {
    let groups = groups(all.iter().filter(|(_, entry)| !tried.contains(&entry.app)));
    lacks.0.retain(|alike, _| groups.contains_key(alike));
    let patience = inner.config.autostop_after.min(limits::LACK_MAX);
    let mut n_starts = 0;
    for (alike, group) in groups {
        let elsewhere = inner.gauge.elsewhere(&alike.0);
        let elsewhere = Elsewhere::of(&alike, &inner.config.node.id, &elsewhere);
        let n_running = group.n_running + elsewhere.n_running;
        let n_missing = group.n_kept.saturating_sub(n_running);
        if n_missing == 0 {
            lacks.0.remove(&alike);
            continue;
        }
        let patience = patience.saturating_mul(elsewhere.n_nodes_asleep.saturating_add(1));
        if n_starts >= limits::LACK_STARTS_MAX || !lacks.lasts(&alike, patience, now) {
            continue;
        }
        // If they do not come up, or are not to be woken, others are looked for after a while.
        lacks.0.remove(&alike);
        n_starts += wake(inner, &group.asleep, n_missing).await;
    }
}

/// The machines that are alike, where some of them sleep and some are to be awake.
fn groups<'a>(all: impl Iterator<Item = &'a (MachineId, Entry)>) -> BTreeMap<Alike, Group<'a>> {
    let mut groups: BTreeMap<Alike, Group<'a>> = BTreeMap::new();
    for (id, entry) in all {
        let is_running = matches!(entry.state, MachineState::Starting | MachineState::Started)
            && !entry.cordoned
            && !entry.is_standby;
        let is_asleep = entry.is_asleep() && entry.services.iter().all(|it| lets_sleep(it));
        if !entry.services.is_empty() && (is_running || is_asleep) {
            let group = groups.entry(alike(entry)).or_default();
            group.n_kept = group.n_kept.max(n_kept(entry));
            group.n_running += usize::from(is_running);
            group.asleep.extend(is_asleep.then_some(id));
        }
    }
    groups.retain(|_, group| group.n_kept > 0 && !group.asleep.is_empty());
    groups
}

/// Wakes at most so many of the machines, and says how many.
async fn wake(inner: &Arc<Inner>, asleep: &[&MachineId], n_max: usize) -> usize {
    let mut n_woken = 0;
    for id in asleep {
        if n_woken == n_max {
            break;
        }
        if was_put_to_sleep(inner, id).await && change(inner, id, requests::wake_for_minimum).await
        {
            tracing::info!(machine_id = %id, "a machine is woken, since too few are awake");
            n_woken += 1;
        }
    }
    n_woken
}

/// Whether a machine rests since it had no traffic; what somebody has stopped stays so.
async fn was_put_to_sleep(inner: &Inner, id: &MachineId) -> bool {
    let most = usize::try_from(limits::EVENTS_PER_MACHINE_MAX).unwrap_or(usize::MAX);
    let events = inner.store.events(id, most).await;
    let events = events.inspect_err(|error| {
        tracing::error!(machine_id = %id, %error, "cannot read why a machine rests");
    });
    let mut events = events.unwrap_or_default().into_iter();
    let last = events.find(|event| {
        let kind = event.kind.as_str();
        ["start", "restart", "update", "stop", "suspend"].contains(&kind)
    });
    last.is_some_and(|event| {
        event.source == Cause::Proxy.as_str() && ["stop", "suspend"].contains(&event.kind.as_str())
    })
}

#[cfg(test)]
mod tests;
