//! Idempotency keys: a repeated request gets the answer of the first.
//!
//! Which requests are under way only this process knows, by the [`Claim`] that
//! the work holds: a process that dies, or a task that panics, frees its keys.
//! The answer is kept in the transaction that makes what it tells of, so that
//! neither is ever there without the other. An answer that is too long is not
//! kept: the request is done again, which must make nothing twice.

use crate::database::to_i64;
use crate::error::Attempt as _;
use crate::limits;
use crate::records::Idempotency;
use crate::{Store, StoreError};
use parking_lot::Mutex;
use roost_model::time::Timestamp;
use sqlx::{Row as _, Sqlite, Transaction};
use std::collections::BTreeMap;
use std::sync::Arc;

const LOOK_UP: &str = "look up an idempotency key";
/// Stands for an answer that is too long; none is empty.
const NOT_KEPT: &str = "";
const KEEP: &str = "keep the answer to a request";

/// Keys of requests under way, and what tells these requests from others.
pub(crate) type UnderWay = Arc<Mutex<BTreeMap<String, String>>>;

/// The right to answer the request of an idempotency key. Dropped, it frees the key.
#[derive(Debug)]
pub struct Claim {
    key: String,
    fingerprint: String,
    under_way: UnderWay,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

/// What repetitions of a request are answered once a `T` is recorded.
pub struct Answer<'a, T> {
    /// The request's claim.
    pub claim: &'a Claim,
    /// Makes the answer.
    pub write: &'a (dyn Fn(&T) -> serde_json::Result<String> + Send + Sync),
}

impl<T> std::fmt::Debug for Answer<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("claim", self.claim)
            .finish_non_exhaustive()
    }
}

impl<T> Answer<'_, T> {
    /// Keeps the answer within the transaction that records `made`.
    pub(crate) async fn keep(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        made: &T,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let text = (self.write)(made).map_err(|error| StoreError::Unreadable {
            operation: KEEP,
            value: error.to_string(),
        })?;
        keep(transaction, self.claim, &text, now).await
    }
}

async fn keep(
    transaction: &mut Transaction<'static, Sqlite>,
    claim: &Claim,
    answer: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let outcome = if answer.len() > limits::ANSWER_BYTES_MAX {
        NOT_KEPT
    } else {
        answer
    };
    sqlx::query("DELETE FROM idempotency WHERE expires_at <= $1")
        .bind(to_i64(now.as_ms()))
        .execute(&mut **transaction)
        .await
        .attempt(KEEP)?;
    sqlx::query(
        "INSERT INTO idempotency (key, fingerprint, outcome, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key) DO NOTHING",
    )
    .bind(&claim.key)
    .bind(&claim.fingerprint)
    .bind(outcome)
    .bind(to_i64(now.after(limits::IDEMPOTENCY_KEEP).as_ms()))
    .execute(&mut **transaction)
    .await
    .attempt(KEEP)?;
    sqlx::query(
        "DELETE FROM idempotency WHERE key IN
             (SELECT key FROM idempotency ORDER BY expires_at DESC, key LIMIT -1 OFFSET $1)",
    )
    .bind(limits::IDEMPOTENCY_KEYS_MAX)
    .execute(&mut **transaction)
    .await
    .attempt(KEEP)?;
    Ok(())
}

impl Store {
    /// Claims a key for a request, or tells what became of the first request with it.
    pub async fn claim_request(
        &self,
        key: &str,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Idempotency, StoreError> {
        let claim = match self.claim(key, fingerprint) {
            Ok(claim) => claim,
            Err(other) => return Ok(other),
        };
        let row = sqlx::query(
            "SELECT fingerprint, outcome FROM idempotency WHERE key = $1 AND expires_at > $2",
        )
        .bind(key)
        .bind(to_i64(now.as_ms()))
        .fetch_optional(&self.pool)
        .await
        .attempt(LOOK_UP)?;
        let Some(row) = row else {
            return Ok(Idempotency::New(claim));
        };
        let first: String = row.try_get("fingerprint").attempt(LOOK_UP)?;
        if first != fingerprint {
            return Ok(Idempotency::Different);
        }
        let outcome: String = row.try_get("outcome").attempt(LOOK_UP)?;
        if outcome == NOT_KEPT {
            return Ok(Idempotency::New(claim));
        }
        Ok(Idempotency::Done(outcome))
    }

    fn claim(&self, key: &str, fingerprint: &str) -> Result<Claim, Idempotency> {
        let mut under_way = self.under_way.lock();
        match under_way.get(key) {
            Some(first) if first == fingerprint => return Err(Idempotency::UnderWay),
            Some(_) => return Err(Idempotency::Different),
            None if under_way.len() >= limits::REQUESTS_UNDER_WAY_MAX => {
                return Err(Idempotency::TooMany);
            }
            None => {}
        }
        under_way.insert(key.to_owned(), fingerprint.to_owned());
        Ok(Claim {
            key: key.to_owned(),
            fingerprint: fingerprint.to_owned(),
            under_way: Arc::clone(&self.under_way),
        })
    }

    /// Keeps the answer to a request about something that is recorded elsewhere; one that is
    /// kept already stays.
    pub async fn keep_answer(
        &self,
        claim: &Claim,
        answer: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin(KEEP).await?;
        keep(&mut transaction, claim, answer, now).await?;
        transaction.commit().await.attempt(KEEP)
    }
}
