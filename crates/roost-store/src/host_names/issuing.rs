//! How far the issuing of certificates is.

use super::{CHANGE, CertificateRecord, READ};
use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::{Store, StoreError, limits};
use roost_model::host_name::HostName;
use roost_model::time::Timestamp;
use sqlx::{Row as _, Sqlite, Transaction};

/// What came of an attempt to get a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// How the name was to be proven.
    pub method: String,
    /// A word for programs, such as `issued` or `failed`.
    pub outcome: String,
    /// The same for people.
    pub message: String,
}

/// A certificate that is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The chain as PEM.
    pub chain: String,
    /// Whose it was.
    pub host: HostName,
    /// Failures in a row.
    pub n_failures: u64,
}

impl Store {
    /// Records how far the order of a host name is, and when it goes on; none drops the order.
    pub async fn set_certificate_order(
        &self,
        host: &HostName,
        sealed_order: Option<&[u8]>,
        next_at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE host_names SET sealed_order = $2, next_at = $3
             WHERE host = $1 AND source = 'acme'",
        )
        .bind(host.as_str())
        .bind(sealed_order)
        .bind(to_i64(next_at.as_ms()))
        .execute(&self.pool)
        .await
        .attempt(CHANGE)?;
        Ok(())
    }

    /// Whether an order is under way.
    pub async fn has_certificate_orders(&self) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM host_names WHERE sealed_order IS NOT NULL LIMIT 1")
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)?;
        Ok(found.is_some())
    }

    /// Lets a host name whose last attempts failed be looked at now.
    pub async fn hasten_certificate(
        &self,
        host: &HostName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE host_names SET next_at = MIN(next_at, $2)
             WHERE host = $1 AND n_failures > 0 AND (limited_until IS NULL OR limited_until <= $2)",
        )
        .bind(host.as_str())
        .bind(to_i64(now.as_ms()))
        .execute(&self.pool)
        .await
        .attempt(CHANGE)?;
        Ok(())
    }

    /// Records an issued certificate, which ends its order.
    pub async fn set_certificate(
        &self,
        host: &HostName,
        certificate: &CertificateRecord,
        attempt: &Attempt,
        renew_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        let set = sqlx::query(
            "UPDATE host_names SET chain = $2, sealed_key = $3, is_issued = TRUE, method = $4,
                 sealed_order = NULL, next_at = $5, n_failures = 0, limited_until = NULL
             WHERE host = $1 AND source = 'acme'",
        )
        .bind(host.as_str())
        .bind(&certificate.chain)
        .bind(&certificate.sealed_key)
        .bind(&attempt.method)
        .bind(to_i64(renew_at.as_ms()))
        .execute(&mut *transaction)
        .await
        .attempt(CHANGE)?;
        if set.rows_affected() > 0 {
            note(&mut transaction, host, attempt).await?;
        }
        transaction.commit().await.attempt(CHANGE)
    }

    /// Records that no certificate came of an attempt, which ends its order, and how and when
    /// the next one is made.
    pub async fn set_certificate_failed(
        &self,
        host: &HostName,
        attempt: &Attempt,
        (next_method, next_at): (&str, Timestamp),
        limited_until: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        let set = sqlx::query(
            "UPDATE host_names SET method = $2, sealed_order = NULL, next_at = $3,
                 n_failures = n_failures + 1, limited_until = $4
             WHERE host = $1 AND source = 'acme'",
        )
        .bind(host.as_str())
        .bind(next_method)
        .bind(to_i64(next_at.as_ms()))
        .bind(limited_until.map(|until| to_i64(until.as_ms())))
        .execute(&mut *transaction)
        .await
        .attempt(CHANGE)?;
        if set.rows_affected() > 0 {
            note(&mut transaction, host, attempt).await?;
        }
        transaction.commit().await.attempt(CHANGE)
    }

    /// The last attempts for a host name, newest first.
    pub async fn certificate_attempts(&self, host: &HostName) -> Result<Vec<Attempt>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM certificate_attempts WHERE host = $1 ORDER BY at DESC")
                .bind(host.as_str())
                .fetch_all(&self.pool)
                .await
                .attempt(READ)?;
        let attempt = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Attempt {
                at: Timestamp::from_ms(to_u64(row.try_get("at")?)),
                method: row.try_get("method")?,
                outcome: row.try_get("outcome")?,
                message: row.try_get("message")?,
            })
        };
        rows.iter()
            .map(attempt)
            .collect::<Result<_, _>>()
            .attempt(READ)
    }

    /// Certificates that are to be revoked now.
    pub async fn due_revocations(
        &self,
        now: Timestamp,
        most: i64,
    ) -> Result<Vec<Revocation>, StoreError> {
        let rows = sqlx::query("SELECT * FROM revocations WHERE next_at <= $1 LIMIT $2")
            .bind(to_i64(now.as_ms()))
            .bind(most)
            .fetch_all(&self.pool)
            .await
            .attempt(READ)?;
        let revocation = |row: &sqlx::sqlite::SqliteRow| {
            let host: String = row.try_get("host").attempt(READ)?;
            Ok(Revocation {
                chain: row.try_get("chain").attempt(READ)?,
                host: HostName::parse(&host).map_err(|_| StoreError::Unreadable {
                    operation: READ,
                    value: host,
                })?,
                n_failures: to_u64(row.try_get("n_failures").attempt(READ)?),
            })
        };
        rows.iter().map(revocation).collect()
    }

    /// Forgets a certificate that was revoked, or tries again at `next_at`.
    pub async fn end_revocation(
        &self,
        chain: &str,
        next_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let query = match next_at {
            None => sqlx::query("DELETE FROM revocations WHERE chain = $1").bind(chain),
            Some(next_at) => sqlx::query(
                "UPDATE revocations SET n_failures = n_failures + 1, next_at = $2 WHERE chain = $1",
            )
            .bind(chain)
            .bind(to_i64(next_at.as_ms())),
        };
        query.execute(&self.pool).await.attempt(CHANGE)?;
        Ok(())
    }

    /// The sealed account with the authority that has this directory.
    pub async fn acme_account(&self, directory: &str) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT sealed FROM acme_accounts WHERE directory = $1")
            .bind(directory)
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)
    }

    /// Keeps an account, or forgets it.
    pub async fn set_acme_account(
        &self,
        directory: &str,
        sealed: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let query = match sealed {
            None => sqlx::query("DELETE FROM acme_accounts WHERE directory = $1").bind(directory),
            Some(sealed) => sqlx::query(
                "INSERT INTO acme_accounts (directory, sealed, created_at) VALUES ($1, $2, $3)
                 ON CONFLICT (directory) DO UPDATE SET
                     sealed = excluded.sealed, created_at = excluded.created_at",
            )
            .bind(directory)
            .bind(sealed)
            .bind(to_i64(now.as_ms())),
        };
        query.execute(&self.pool).await.attempt(CHANGE)?;
        Ok(())
    }
}

/// Keeps an attempt, and only the last ones.
async fn note(
    transaction: &mut Transaction<'static, Sqlite>,
    host: &HostName,
    attempt: &Attempt,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO certificate_attempts (host, at, method, outcome, message)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (host, at) DO UPDATE SET
             method = excluded.method, outcome = excluded.outcome, message = excluded.message",
    )
    .bind(host.as_str())
    .bind(to_i64(attempt.at.as_ms()))
    .bind(&attempt.method)
    .bind(&attempt.outcome)
    .bind(&attempt.message)
    .execute(&mut **transaction)
    .await
    .attempt(CHANGE)?;
    sqlx::query(
        "DELETE FROM certificate_attempts WHERE host = $1 AND at NOT IN
             (SELECT at FROM certificate_attempts WHERE host = $1 ORDER BY at DESC LIMIT $2)",
    )
    .bind(host.as_str())
    .bind(limits::CERTIFICATE_ATTEMPTS_MAX)
    .execute(&mut **transaction)
    .await
    .attempt(CHANGE)?;
    Ok(())
}
