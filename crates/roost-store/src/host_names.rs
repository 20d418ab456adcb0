//! Custom host names and their certificates in the control database.

mod issuing;

pub use issuing::{Attempt, Revocation};

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::{Store, StoreError, limits};
use roost_model::host_name::{HostName, wildcard_of};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

const READ: &str = "read host names";
const CHANGE: &str = "change a host name";

/// Where the certificate of a host name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An authority that speaks ACME.
    Acme,
    /// The user.
    Custom,
}

impl Source {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Custom => "custom",
        }
    }
}

/// A certificate with its sealed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRecord {
    /// The chain as PEM.
    pub chain: String,
    /// The key as PEM, sealed.
    pub sealed_key: Vec<u8>,
}

/// A custom host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNameRecord {
    /// The name.
    pub host: HostName,
    /// Its app.
    pub app_id: String,
    /// The app's name.
    pub app: AppName,
    /// Where its certificate comes from.
    pub source: Source,
    /// When it was added.
    pub created_at: Timestamp,
    /// What serves, once there is one.
    pub certificate: Option<CertificateRecord>,
    /// How the name is proven to the authority next.
    pub method: String,
    /// The order under way, sealed.
    pub sealed_order: Option<Vec<u8>>,
    /// When there is something to do for it.
    pub next_at: Option<Timestamp>,
    /// Failures in a row.
    pub n_failures: u64,
    /// Until when the authority wants to be left alone.
    pub limited_until: Option<Timestamp>,
}

/// A host name to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewHostName<'a> {
    /// The name.
    pub host: &'a HostName,
    /// Its app.
    pub app_id: &'a str,
    /// An uploaded certificate; none to have one issued.
    pub certificate: Option<&'a CertificateRecord>,
    /// How the name is to be proven first.
    pub method: &'a str,
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    let ms: Option<i64> = row.try_get(column).attempt(READ)?;
    Ok(ms.map(|ms| Timestamp::from_ms(to_u64(ms))))
}

fn host_name(row: &SqliteRow) -> Result<HostNameRecord, StoreError> {
    let text = |column: &str| row.try_get::<String, _>(column).attempt(READ);
    let unreadable = |value: String| StoreError::Unreadable {
        operation: READ,
        value,
    };
    let (host, app) = (text("host")?, text("app")?);
    let source = text("source")?;
    let all = [Source::Acme, Source::Custom];
    let found = all.into_iter().find(|known| known.as_str() == source);
    let chain: Option<String> = row.try_get("chain").attempt(READ)?;
    let sealed_key: Option<Vec<u8>> = row.try_get("sealed_key").attempt(READ)?;
    let certificate = chain.zip(sealed_key);
    Ok(HostNameRecord {
        host: HostName::parse(&host).map_err(|_| unreadable(host))?,
        app_id: text("app_id")?,
        app: AppName::parse(&app).map_err(|_| unreadable(app))?,
        source: found.ok_or_else(|| unreadable(source))?,
        created_at: time(row, "created_at")?.unwrap_or(Timestamp::from_ms(0)),
        certificate: certificate.map(|(chain, sealed_key)| CertificateRecord { chain, sealed_key }),
        method: text("method")?,
        sealed_order: row.try_get("sealed_order").attempt(READ)?,
        next_at: time(row, "next_at")?,
        n_failures: to_u64(row.try_get("n_failures").attempt(READ)?),
        limited_until: time(row, "limited_until")?,
    })
}

impl Store {
    /// Records a host name, or gives one that the app has another certificate.
    ///
    /// Fails with [`StoreError::Exists`] when it is another app's, or covered by another app's
    /// wildcard, or a wildcard over another app's name.
    pub async fn add_host_name(
        &self,
        new: NewHostName<'_>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        refuse_taken(&mut transaction, &new).await?;
        if new.certificate.is_none() && is_asked_for(&mut transaction, &new).await? {
            return transaction.commit().await.attempt(CHANGE);
        }
        if new.certificate.is_some() {
            revoke_later(&mut transaction, new.app_id, Some(new.host), now).await?;
        }
        let source = match new.certificate {
            Some(_) => Source::Custom,
            None => Source::Acme,
        };
        let next_at = new.certificate.is_none().then(|| to_i64(now.as_ms()));
        // To have one issued, what serves until then is kept.
        sqlx::query(
            "INSERT INTO host_names
                 (host, app_id, source, created_at, chain, sealed_key, method, next_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (host) DO UPDATE SET
                 source = excluded.source, method = excluded.method,
                 chain = COALESCE(excluded.chain, chain),
                 sealed_key = COALESCE(excluded.sealed_key, sealed_key),
                 is_issued = is_issued AND excluded.chain IS NULL,
                 sealed_order = NULL, next_at = excluded.next_at,
                 n_failures = 0, limited_until = NULL",
        )
        .bind(new.host.as_str())
        .bind(new.app_id)
        .bind(source.as_str())
        .bind(to_i64(now.as_ms()))
        .bind(new.certificate.map(|certificate| &certificate.chain))
        .bind(new.certificate.map(|certificate| &certificate.sealed_key))
        .bind(new.method)
        .bind(next_at)
        .execute(&mut *transaction)
        .await
        .attempt(CHANGE)?;
        let n_names: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM host_names")
            .fetch_one(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        if n_names > limits::HOST_NAMES_MAX {
            return Err(StoreError::TooMany {
                what: "host names",
                max: limits::HOST_NAMES_MAX,
            });
        }
        transaction.commit().await.attempt(CHANGE)
    }

    /// All host names, or those of one app, by name.
    pub async fn host_names(
        &self,
        app_id: Option<&str>,
    ) -> Result<Vec<HostNameRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT h.*, a.name AS app FROM host_names h JOIN apps a ON a.id = h.app_id
             WHERE $1 IS NULL OR h.app_id = $1 ORDER BY h.host",
        )
        .bind(app_id)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(host_name).collect()
    }

    /// The host names of ACME for which something is to be done, the longest due first.
    pub async fn due_host_names(
        &self,
        now: Timestamp,
        most: i64,
    ) -> Result<Vec<HostNameRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT h.*, a.name AS app FROM host_names h JOIN apps a ON a.id = h.app_id
             WHERE h.source = 'acme' AND h.next_at <= $1 ORDER BY h.next_at LIMIT $2",
        )
        .bind(to_i64(now.as_ms()))
        .bind(most)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(host_name).collect()
    }

    /// Removes a host name of an app; an issued certificate is to be revoked. Whether it was there.
    pub async fn remove_host_name(
        &self,
        app_id: &str,
        host: &HostName,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        let owner = sqlx::query("SELECT 1 FROM host_names WHERE host = $1 AND app_id = $2")
            .bind(host.as_str())
            .bind(app_id)
            .fetch_optional(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        if owner.is_none() {
            return Ok(false);
        }
        revoke_later(&mut transaction, app_id, Some(host), now).await?;
        sqlx::query("DELETE FROM host_names WHERE host = $1")
            .bind(host.as_str())
            .execute(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        transaction.commit().await.attempt(CHANGE)?;
        Ok(true)
    }
}

/// Fails when another app has the name, the wildcard that covers it, or a name that it covers.
async fn refuse_taken(
    transaction: &mut Transaction<'static, Sqlite>,
    new: &NewHostName<'_>,
) -> Result<(), StoreError> {
    let others: Vec<String> = sqlx::query_scalar("SELECT host FROM host_names WHERE app_id <> $1")
        .bind(new.app_id)
        .fetch_all(&mut **transaction)
        .await
        .attempt(READ)?;
    let own = new.host.as_str();
    let covers = |wildcard: &str, name: &str| wildcard_of(name).as_deref() == Some(wildcard);
    let taken = others
        .iter()
        .find(|other| *other == own || covers(other, own) || covers(own, other));
    match taken {
        Some(taken) => Err(StoreError::Exists(format!("host name `{taken}`"))),
        None => Ok(()),
    }
}

/// Whether a certificate for this name is issued, or asked for, already. The asking goes on as
/// it was: the authority counts each order.
async fn is_asked_for(
    transaction: &mut Transaction<'static, Sqlite>,
    new: &NewHostName<'_>,
) -> Result<bool, StoreError> {
    let asked = sqlx::query("SELECT 1 FROM host_names WHERE host = $1 AND source = 'acme'")
        .bind(new.host.as_str())
        .fetch_optional(&mut **transaction)
        .await
        .attempt(READ)?;
    Ok(asked.is_some())
}

/// Notes that the issued certificates of these host names are to be revoked: all of an app, or
/// one.
pub(crate) async fn revoke_later(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
    host: Option<&HostName>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO revocations (chain, host, next_at)
         SELECT chain, host, $3 FROM host_names
         WHERE app_id = $1 AND ($2 IS NULL OR host = $2)
             AND is_issued AND chain IS NOT NULL
         ON CONFLICT (chain) DO NOTHING",
    )
    .bind(app_id)
    .bind(host.map(HostName::as_str))
    .bind(to_i64(now.as_ms()))
    .execute(&mut **transaction)
    .await
    .attempt(CHANGE)?;
    Ok(())
}
