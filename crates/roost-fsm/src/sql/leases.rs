//! Who executes which run.

use super::rows::{run, run_id};
use super::{Row, Sql, next_revision, to_i64, values};
use crate::journal::{Claim, Fence, JournalError, Renewal};
use crate::record::{Kind, Run};
use roost_model::error::chain;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use std::collections::BTreeSet;

/// Gives runs that nobody executes to the caller.
pub async fn claim<S: Sql>(sql: &mut S, claim: &Claim) -> Result<Vec<Run>, JournalError> {
    let mut taken = vec![];
    for id in claimable(sql, claim).await? {
        let until = claim.now.after(claim.lease);
        match take(sql, &id, &claim.holder, until, claim.now).await {
            Ok(run) => taken.push(run),
            // The others are not to wait for a person who looks.
            Err(error @ JournalError::Damaged { .. }) => {
                tracing::error!(run = %id, error = chain(&error), "run cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Runs that [`claim`] would give: children first, for somebody waits for them. Only reads, so
/// that a look needs no lock.
///
/// Reads no parameters: there may be many runs that others execute.
pub async fn claimable<S: Sql>(sql: &mut S, claim: &Claim) -> Result<Vec<RunId>, JournalError> {
    let held: BTreeSet<&str> = claim.held.iter().map(RunId::as_str).collect();
    let kinds: BTreeSet<&Kind> = claim.kinds.iter().collect();
    let latest = claim.now.after(claim.lease);
    let rows = sql
        .rows(
            "look for runs to execute",
            // A queued run's turn has come when no earlier one of its subject is unfinished. A
            // lease of the holder's own that it does not hold is from before it was restarted; one
            // that ends later than a new one would is of a clock that was set back.
            "SELECT id, workflow, version, parent IS NOT NULL FROM runs
             WHERE ended_ms IS NULL
               AND (holder IS NULL OR holder = ?1 OR lease_until_ms <= ?2 OR lease_until_ms > ?3)
               AND (status <> 'queued' OR NOT EXISTS (
                   SELECT 1 FROM runs AS earlier
                   WHERE earlier.subject = runs.subject AND earlier.ended_ms IS NULL
                     AND earlier.ordinal < runs.ordinal))
             ORDER BY ordinal",
            values![claim.holder.as_str(), claim.now, latest],
        )
        .await?;
    let (mut children, mut roots) = (vec![], vec![]);
    for mut row in rows {
        let (id, kind, is_child) = (row.text()?, row.kind()?, row.flag()?);
        if kinds.contains(&kind) && !held.contains(id.as_str()) {
            let same = if is_child { &mut children } else { &mut roots };
            same.push(id);
        }
    }
    let roots = roots.into_iter().take(claim.n_roots_max);
    let chosen = children.into_iter().chain(roots);
    chosen.map(|id| run_id(&id)).collect()
}

/// Gives one run to a holder until the time given, whoever executed it so far.
///
/// For an owner that executes runs without an engine: nobody else claims a run whose workflow
/// nobody registers.
pub async fn take<S: Sql>(
    sql: &mut S,
    id: &RunId,
    holder: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<Run, JournalError> {
    let revision = next_revision(sql).await?;
    sql.execute(
        "take a run",
        "UPDATE runs SET holder = ?2, lease_until_ms = ?3, epoch = epoch + 1,
             started_ms = COALESCE(started_ms, ?4), revision = ?5,
             status = CASE status WHEN 'queued' THEN 'running' ELSE status END
         WHERE id = ?1 AND ended_ms IS NULL",
        values![id.as_str(), holder, until, now, revision],
    )
    .await?;
    let taken = run(sql, id).await?;
    let taken = taken.ok_or_else(|| JournalError::NotFound(id.clone()))?;
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
pub async fn renew<S: Sql>(
    sql: &mut S,
    fences: &[Fence],
    until: Timestamp,
) -> Result<Vec<Renewal>, JournalError> {
    let mut answers = vec![];
    for fence in fences {
        let rows = sql.rows(
            "renew a lease",
            "UPDATE runs SET lease_until_ms = ?3
             WHERE id = ?1 AND epoch = ?2 AND ended_ms IS NULL
             RETURNING status = 'running' AND cancel_at_ms IS NOT NULL AND NOT is_past_point",
            values![fence.run.as_str(), to_i64(fence.epoch), until],
        );
        answers.push(match rows.await?.first_mut().map(Row::flag).transpose()? {
            None => Renewal::Lost,
            Some(true) => Renewal::AskedToTurnBack,
            Some(false) => Renewal::Held,
        });
    }
    Ok(answers)
}
