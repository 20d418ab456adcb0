//! Waking machines for `min_machines_running`, when those that stayed awake for it are lost.
//!
//! A machine sleeps because others stay awake, here or at another node. When these stop, fail, or
//! are of a node that tells of its machines no more, it is woken without any request. That is a
//! matter of how many run, not of which: so more are counted here than a node relies on when it
//! puts its own to sleep, and what is woken in vain sleeps again only after its time.
//!
//! A node that is started again, or cannot be reached for a moment, is no reason: the lack has to
//! last. Where several nodes have machines that sleep, each waits once more for those before it,
//! also while what these have woken comes up, so that not all of them wake one for the same lack.
//!
//! A machine is woken for its own minimum only, not for that of others that rest: when it is awake
//! it would be too many again.

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

    /// Whether machines of a group are to be woken: some are missing, and have been for long
    /// enough.
    fn are_due(
        &mut self,
        alike: &Alike,
        (group, elsewhere): (&Group<'_>, &Elsewhere),
        patience: Duration,
        now: Instant,
    ) -> bool {
        let n_running = group.n_running + elsewhere.n_running;
        if group.asleep.iter().all(|(_, n_kept)| *n_kept <= n_running) {
            self.0.remove(alike);
            return false;
        }
        let n_turns = elsewhere.n_nodes_before.saturating_add(1);
        self.lasts(alike, patience.saturating_mul(n_turns), now)
    }
}

/// The machines of this node that are alike.
#[derive(Debug, Default)]
struct Group<'a> {
    /// How many run here, or are about to.
    n_running: usize,
    /// Those that sleep, each with how many are to be awake by its own services, over all nodes.
    asleep: Vec<(&'a MachineId, usize)>,
}

/// How many run, and how many may be woken still.
#[derive(Debug)]
struct Room {
    n_running: usize,
    n_starts: usize,
}

impl Room {
    /// Whether there is room for a machine of which so many are to be awake.
    fn has_for(&self, n_kept: usize) -> bool {
        self.n_starts > 0 && self.n_running < n_kept
    }

    /// One is woken.
    fn take(&mut self) {
        self.n_starts -= 1;
        self.n_running += 1;
    }
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
    let mut n_starts = limits::LACK_STARTS_MAX;
    for (alike, group) in groups {
        let elsewhere = inner.gauge.elsewhere(&alike.0);
        let elsewhere = Elsewhere::of(&alike, &inner.config.node.id, &elsewhere);
        if !lacks.are_due(&alike, (&group, &elsewhere), patience, now) || n_starts == 0 {
            continue;
        }
        let mut room = Room {
            n_running: group.n_running + elsewhere.n_running,
            n_starts,
        };
        wake(inner, &group.asleep, &mut room).await;
        n_starts = room.n_starts;
        // If they do not come up, or are not to be woken, others are looked for after a while;
        // those for whom there was no room, at the next look.
        if n_starts > 0 {
            lacks.0.remove(&alike);
        }
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
            group.n_running += usize::from(is_running);
            group.asleep.extend(is_asleep.then(|| (id, n_kept(entry))));
        }
    }
    groups.retain(|_, group| group.asleep.iter().any(|(_, n_kept)| *n_kept > 0));
    groups
}

/// Wakes those of the machines for which there is room.
async fn wake(inner: &Arc<Inner>, asleep: &[(&MachineId, usize)], room: &mut Room) {
    for (id, n_kept) in asleep {
        if room.has_for(*n_kept)
            && was_put_to_sleep(inner, id).await
            && change(inner, id, requests::wake_for_minimum).await
        {
            tracing::info!(machine_id = %id, "a machine is woken, since too few are awake");
            room.take();
        }
    }
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
