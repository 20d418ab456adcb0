//! Tokens in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::TokenRecord;
use crate::{Store, StoreError};
use roost_model::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

fn token(row: &SqliteRow) -> Result<TokenRecord, sqlx::Error> {
    Ok(TokenRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        hash: row.try_get("hash")?,
        scope: row.try_get("scope")?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at")?)),
    })
}

impl Store {
    /// Records a token.
    pub async fn add_token(&self, token: &TokenRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tokens (id, name, hash, scope, created_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&token.id)
        .bind(&token.name)
        .bind(&token.hash)
        .bind(&token.scope)
        .bind(to_i64(token.created_at.as_ms()))
        .execute(&self.pool)
        .await
        .attempt("add a token")?;
        Ok(())
    }

    /// The token with this hash.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.one_token("SELECT * FROM tokens WHERE hash = $1", hash)
            .await
    }

    /// The token with this id.
    pub async fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.one_token("SELECT * FROM tokens WHERE id = $1", id)
            .await
    }

    async fn one_token(
        &self,
        query: &'static str,
        key: &str,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let row = sqlx::query(query)
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .attempt("look up a token")?;
        row.as_ref()
            .map(token)
            .transpose()
            .attempt("look up a token")
    }

    /// All tokens, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM tokens ORDER BY created_at, id LIMIT $1")
            .bind(crate::limits::LIST_MAX)
            .fetch_all(&self.pool)
            .await
            .attempt("list tokens")?;
        rows.iter()
            .map(token)
            .collect::<Result<_, _>>()
            .attempt("list tokens")
    }

    /// Removes a token; a missing one is fine.
    pub async fn remove_token(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM tokens WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .attempt("remove a token")?;
        Ok(())
    }
}
