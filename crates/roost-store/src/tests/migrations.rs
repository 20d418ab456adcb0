//! Databases of earlier, later and no versions.

use super::{NOW, deployment, name, open, release};
use crate::database::{MIGRATIONS, migrate};
use crate::records::DeploymentStatus;
use crate::{Store, StoreError};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::path::Path;

/// What each version could write: an app that serves its first release, and a secret.
const FIRST_VERSION_ROWS: &str = r#"
INSERT INTO apps (id, name, created_at, current_release, next_release) VALUES ('app_1', 'web', 5, 1, 2);
INSERT INTO releases (id, app_id, version, image, config, status, created_at)
    VALUES ('rel_1', 'app_1', 1, 'hello', '{"image": "hello"}', 'succeeded', 6);
INSERT INTO deployments (id, app_id, release_version, status, batches, wait_timeout_ms, created_at, finished_at)
    VALUES ('dep_1', 'app_1', 1, 'succeeded', '[[0]]', 1000, 7, 8);
INSERT INTO secrets (app_id, name, sealed, digest, created_at, updated_at)
    VALUES ('app_1', 'KEY', x'0102', 'd', 9, 9);
INSERT INTO idempotency (key, fingerprint, outcome, expires_at) VALUES ('done', 'f', '"answer"', 9000000000000);
"#;

/// The database without anything of the store's own.
async fn open_plain(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqlitePool::connect_with(options).await.unwrap()
}

/// All that is in a database: its schema, and each row of each table, migrations included.
async fn dump(path: &Path) -> Vec<String> {
    let pool = open_plain(path).await;
    let all = async |query: String| -> Vec<String> {
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    let schema = "SELECT type || name || COALESCE(sql, '') FROM sqlite_master ORDER BY 1";
    let mut lines = all(schema.into()).await;
    for table in all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1".into()).await
    {
        let columns = all(format!(
            "SELECT 'quote(' || name || ')' FROM pragma_table_info('{table}')"
        ))
        .await
        .join(" || ',' || ");
        lines.extend(
            all(format!(
                "SELECT '{table}:' || {columns} FROM {table} ORDER BY 1"
            ))
            .await,
        );
    }
    pool.close().await;
    lines
}

async fn make(path: &Path, n_migrations: usize, sql: &'static str) {
    let pool = open_plain(path).await;
    migrate(&pool, &MIGRATIONS[..n_migrations]).await.unwrap();
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_database_of_every_earlier_version_opens_with_all_that_is_in_it() {
    for n_migrations in 1..=MIGRATIONS.len() {
        let dir = tempfile::tempdir().unwrap();
        make(
            &dir.path().join("control.db"),
            n_migrations,
            FIRST_VERSION_ROWS,
        )
        .await;
        let store = open(dir.path()).await;
        let app = store.app(&name("web")).await.unwrap();
        assert_eq!((app.current_release, app.deleting_at), (Some(1), None));
        assert_eq!(store.releases("app_1").await.unwrap()[0].image, "hello");
        assert_eq!(store.secrets("app_1").await.unwrap()[0].sealed, [1, 2]);
        let first = store.newest_deployment("app_1").await.unwrap().unwrap();
        assert_eq!(first.status, DeploymentStatus::Succeeded);
        // It can be written to as one made today.
        let next = store
            .create_deployment("app_1", &release(2), &deployment(2), NOW, None)
            .await
            .unwrap();
        assert_eq!(next.release_version, 2);
    }
}

#[tokio::test]
async fn a_request_that_a_killed_first_version_left_under_way_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let row =
        "INSERT INTO idempotency (key, fingerprint, expires_at) VALUES ('k', 'f', 9000000000000)";
    make(&dir.path().join("control.db"), 1, row).await;
    let found = open(dir.path()).await.claim_request("k", "f", NOW).await;
    assert!(
        matches!(found, Ok(crate::records::Idempotency::New(_))),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    make(&path, MIGRATIONS.len(), FIRST_VERSION_ROWS).await;
    let later = "UPDATE _sqlx_migrations SET version = 999 WHERE version = 1";
    let pool = open_plain(&path).await;
    sqlx::raw_sql(later).execute(&pool).await.unwrap();
    pool.close().await;
    let before = dump(&path).await;
    assert!(before.iter().any(|row| row.contains("999")), "{before:?}");
    let refused = Store::open(&path).await;
    assert!(
        matches!(refused, Err(StoreError::Migrate(_))),
        "{refused:?}"
    );
    drop(refused);
    assert_eq!(dump(&path).await, before);
}

#[tokio::test]
async fn a_database_opens_twice_and_a_damaged_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.db");
    Store::open(&path).await.unwrap().close().await;
    Store::open(&path).await.unwrap().close().await;
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("damaged"), "{error}");
}
