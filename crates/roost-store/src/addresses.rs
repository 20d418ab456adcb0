//! Dedicated addresses of apps in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::{Answer, Store, StoreError, limits};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::collections::BTreeSet;
use std::net::IpAddr;

const READ: &str = "read addresses";
const CHANGE: &str = "change an address";

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// IPv4, of the pool.
    V4,
    /// IPv6, of the pool.
    V6,
    /// IPv6, of the node's private network: for its machines.
    PrivateV6,
}

impl AddressKind {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::PrivateV6 => "private_v6",
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V4, Self::V6, Self::PrivateV6]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// Whether an address may be of this kind.
    pub fn includes(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 | Self::PrivateV6 => address.is_ipv6(),
        }
    }
}

/// An address that is one app's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRecord {
    /// The address.
    pub address: IpAddr,
    /// Its app.
    pub app: AppName,
    /// What kind it is.
    pub kind: AddressKind,
    /// Since when.
    pub created_at: Timestamp,
}

fn record(row: &SqliteRow) -> Result<AddressRecord, StoreError> {
    let text = |column: &str| row.try_get::<String, _>(column).attempt(READ);
    let unreadable = |value: String| StoreError::Unreadable {
        operation: READ,
        value,
    };
    let (address, app, kind) = (text("address")?, text("app")?, text("kind")?);
    Ok(AddressRecord {
        address: address.parse().map_err(|_| unreadable(address))?,
        app: AppName::parse(&app).map_err(|_| unreadable(app))?,
        kind: AddressKind::parse(&kind).ok_or_else(|| unreadable(kind))?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at").attempt(READ)?)),
    })
}

impl Store {
    /// Gives an app the first of these addresses that nobody has; none if all are taken. With it
    /// the answer to the request for it is recorded, if it is to be kept.
    ///
    /// Fails with [`StoreError::Deleting`] when the app is on its way out, with
    /// [`StoreError::NotFound`] when it is gone, and with [`StoreError::TooMany`] when it has as
    /// many as one app may have.
    pub async fn take_address(
        &self,
        app_id: &str,
        kind: AddressKind,
        pool: impl IntoIterator<Item = IpAddr>,
        now: Timestamp,
        answer: Option<Answer<'_, AddressRecord>>,
    ) -> Result<Option<AddressRecord>, StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        let app = sqlx::query("SELECT name, deleting_at FROM apps WHERE id = $1")
            .bind(app_id)
            .fetch_optional(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        let app = app.ok_or_else(|| StoreError::NotFound(format!("app `{app_id}`")))?;
        let name: String = app.try_get("name").attempt(CHANGE)?;
        let deleting_at: Option<i64> = app.try_get("deleting_at").attempt(CHANGE)?;
        if deleting_at.is_some() {
            return Err(StoreError::Deleting(name));
        }
        let n_own: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM addresses WHERE app_id = $1")
            .bind(app_id)
            .fetch_one(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        if n_own >= limits::ADDRESSES_PER_APP_MAX {
            return Err(StoreError::TooMany {
                what: "addresses of an app",
                max: limits::ADDRESSES_PER_APP_MAX,
            });
        }
        let taken: Vec<String> = sqlx::query_scalar("SELECT address FROM addresses")
            .fetch_all(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        let taken: BTreeSet<String> = taken.into_iter().collect();
        let mut free = pool.into_iter().filter(|address| kind.includes(*address));
        let Some(free) = free.find(|address| !taken.contains(&address.to_string())) else {
            return Ok(None);
        };
        let row = sqlx::query(
            "INSERT INTO addresses (address, app_id, kind, created_at) VALUES ($1, $2, $3, $4)
             RETURNING *, $5 AS app",
        )
        .bind(free.to_string())
        .bind(app_id)
        .bind(kind.as_str())
        .bind(to_i64(now.as_ms()))
        .bind(name)
        .fetch_one(&mut *transaction)
        .await
        .attempt(CHANGE)?;
        let record = record(&row)?;
        if let Some(answer) = answer {
            answer.keep(&mut transaction, &record, now).await?;
        }
        transaction.commit().await.attempt(CHANGE)?;
        Ok(Some(record))
    }

    /// All addresses, or those of one app, the oldest first.
    pub async fn addresses(&self, app_id: Option<&str>) -> Result<Vec<AddressRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT d.*, a.name AS app FROM addresses d JOIN apps a ON a.id = d.app_id
             WHERE $1 IS NULL OR d.app_id = $1 ORDER BY d.created_at, d.address",
        )
        .bind(app_id)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(record).collect()
    }

    /// Takes an address from an app. Whether it had it.
    pub async fn release_address(&self, app_id: &str, address: IpAddr) -> Result<bool, StoreError> {
        let removed = sqlx::query("DELETE FROM addresses WHERE address = $1 AND app_id = $2")
            .bind(address.to_string())
            .bind(app_id)
            .execute(&self.pool)
            .await
            .attempt(CHANGE)?;
        Ok(removed.rows_affected() > 0)
    }
}
