//! Who executes which run.

use super::rows::{ms, run, run_id};
use super::{JournalContext as _, next_revision, to_i64};
use crate::journal::{Claim, Fence, JournalError, Renewal};
use crate::record::{Kind, Run};
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::{Connection, Transaction, params};
use std::collections::BTreeSet;

/// Gives runs that nobody executes to the caller.
pub fn claim(transaction: &Transaction<'_>, claim: &Claim) -> Result<Vec<Run>, JournalError> {
    let mut taken = vec![];
    for id in claimable(transaction, claim)? {
        let until = claim.now.after(claim.lease);
        taken.push(take(transaction, &id, &claim.holder, until, claim.now)?);
    }
    Ok(taken)
}

/// Runs that [`claim`] would give: children first, for somebody waits for them.
///
/// Reads no parameters: there may be many runs that others execute.
pub(super) fn claimable(
    connection: &Connection,
    claim: &Claim,
) -> Result<Vec<RunId>, JournalError> {
    const LOOK: &str = "look for runs to execute";
    let held: BTreeSet<&str> = claim.held.iter().map(RunId::as_str).collect();
    let kinds: BTreeSet<&Kind> = claim.kinds.iter().collect();
    let mut statement = connection
        // A queued run's turn has come when no earlier one of its subject is unfinished. A lease
        // of the holder's own that it does not hold is from before it was restarted; one that ends
        // later than a new one would is of a clock that was set back.
        .prepare_cached(
            "SELECT id, workflow, version, parent IS NOT NULL FROM runs
             WHERE ended_ms IS NULL
               AND (holder IS NULL OR holder = ?1 OR lease_until_ms <= ?2 OR lease_until_ms > ?3)
               AND (status <> 'queued' OR NOT EXISTS (
                   SELECT 1 FROM runs AS earlier
                   WHERE earlier.subject = runs.subject AND earlier.ended_ms IS NULL
                     AND earlier.ordinal < runs.ordinal))
             ORDER BY ordinal",
        )
        .during(LOOK)?;
    let latest = claim.now.after(claim.lease);
    let found: Vec<(String, Kind, bool)> = statement
        .query_map(params![claim.holder, ms(claim.now), ms(latest)], |row| {
            let kind = Kind {
                name: row.get(1)?,
                version: row.get(2)?,
            };
            Ok((row.get(0)?, kind, row.get(3)?))
        })
        .and_then(Iterator::collect)
        .during(LOOK)?;
    let (children, roots): (Vec<_>, Vec<_>) = found
        .into_iter()
        .filter(|(id, kind, _)| kinds.contains(kind) && !held.contains(id.as_str()))
        .partition(|(_, _, is_child)| *is_child);
    let roots = roots.into_iter().take(claim.n_roots_max);
    let chosen = children.into_iter().chain(roots);
    chosen.map(|(id, _, _)| run_id(&id)).collect()
}

/// Gives one run to a holder until the time given, whoever executed it so far.
///
/// For an owner that executes runs without an engine: nobody else claims a run whose workflow
/// nobody registers.
pub fn take(
    transaction: &Transaction<'_>,
    id: &RunId,
    holder: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<Run, JournalError> {
    let revision = next_revision(transaction)?;
    transaction
        .prepare_cached(
            "UPDATE runs SET holder = ?2, lease_until_ms = ?3, epoch = epoch + 1,
                 started_ms = COALESCE(started_ms, ?4), revision = ?5,
                 status = CASE status WHEN 'queued' THEN 'running' ELSE status END
             WHERE id = ?1 AND ended_ms IS NULL",
        )
        .and_then(|mut statement| {
            statement.execute(params![id.as_str(), holder, ms(until), ms(now), revision])
        })
        .during("take a run")?;
    let taken = run(transaction, id)?.ok_or_else(|| JournalError::NotFound(id.clone()))?;
    if taken.status.is_ended() {
        return Err(JournalError::OutOfOrder {
            run: taken.id,
            status: taken.status,
            entry: "a lease",
        });
    }
    Ok(taken)
}

/// Prolongs leases; answers in the same order.
pub fn renew(
    transaction: &Transaction<'_>,
    fences: &[Fence],
    until: Timestamp,
) -> Result<Vec<Renewal>, JournalError> {
    let mut statement = transaction
        .prepare_cached(
            "UPDATE runs SET lease_until_ms = ?3
             WHERE id = ?1 AND epoch = ?2 AND ended_ms IS NULL
             RETURNING status = 'running' AND cancel_at_ms IS NOT NULL AND NOT is_past_point",
        )
        .during("renew a lease")?;
    let mut answers = vec![];
    for fence in fences {
        let params = params![fence.run.as_str(), to_i64(fence.epoch), ms(until)];
        let is_asked: Vec<bool> = statement
            .query_map(params, |row| row.get(0))
            .and_then(Iterator::collect)
            .during("renew a lease")?;
        answers.push(match is_asked.as_slice() {
            [] => Renewal::Lost,
            [true, ..] => Renewal::AskedToTurnBack,
            [false, ..] => Renewal::Held,
        });
    }
    Ok(answers)
}
