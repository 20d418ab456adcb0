//! Idempotency keys: a repeated request gets the answer of the first.

use crate::database::to_i64;
use crate::error::Attempt as _;
use crate::limits;
use crate::records::Idempotency;
use crate::{Store, StoreError};
use roost_model::time::Timestamp;
use sqlx::Row as _;

const OPERATION: &str = "look up an idempotency key";

impl Store {
    /// Claims a key for a request, or tells what became of the first request with it.
    pub async fn claim_request(
        &self,
        key: &str,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Idempotency, StoreError> {
        let mut transaction = self.begin(OPERATION).await?;
        sqlx::query("DELETE FROM idempotency WHERE expires_at <= $1")
            .bind(to_i64(now.as_ms()))
            .execute(&mut *transaction)
            .await
            .attempt(OPERATION)?;
        let row = sqlx::query("SELECT fingerprint, outcome FROM idempotency WHERE key = $1")
            .bind(key)
            .fetch_optional(&mut *transaction)
            .await
            .attempt(OPERATION)?;
        let found = match row {
            None => {
                let expires_at = now.after(limits::IDEMPOTENCY_KEEP);
                sqlx::query(
                    "INSERT INTO idempotency (key, fingerprint, expires_at) VALUES ($1, $2, $3)",
                )
                .bind(key)
                .bind(fingerprint)
                .bind(to_i64(expires_at.as_ms()))
                .execute(&mut *transaction)
                .await
                .attempt(OPERATION)?;
                sqlx::query(
                    "DELETE FROM idempotency WHERE outcome IS NOT NULL AND key IN
                         (SELECT key FROM idempotency ORDER BY expires_at DESC, key LIMIT -1 OFFSET $1)",
                )
                .bind(limits::IDEMPOTENCY_KEYS_MAX)
                .execute(&mut *transaction)
                .await
                .attempt(OPERATION)?;
                Idempotency::New
            }
            Some(row) => {
                let first: String = row.try_get("fingerprint").attempt(OPERATION)?;
                let outcome: Option<String> = row.try_get("outcome").attempt(OPERATION)?;
                match outcome {
                    _ if first != fingerprint => Idempotency::Different,
                    Some(outcome) => Idempotency::Done(outcome),
                    None => Idempotency::UnderWay,
                }
            }
        };
        transaction.commit().await.attempt(OPERATION)?;
        Ok(found)
    }

    /// Keeps the answer to a claimed request; `None` frees the key, since a failed request may be repeated.
    pub async fn finish_request(&self, key: &str, outcome: Option<&str>) -> Result<(), StoreError> {
        let query = match outcome {
            Some(outcome) => sqlx::query("UPDATE idempotency SET outcome = $2 WHERE key = $1")
                .bind(key)
                .bind(outcome),
            None => sqlx::query("DELETE FROM idempotency WHERE key = $1").bind(key),
        };
        query
            .execute(&self.pool)
            .await
            .attempt("keep the answer to a request")?;
        Ok(())
    }

    /// Frees the keys of requests that a crash cut short.
    pub(crate) async fn forget_unfinished_requests(&self) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM idempotency WHERE outcome IS NULL")
            .execute(&self.pool)
            .await
            .attempt("free idempotency keys")?;
        Ok(())
    }
}
