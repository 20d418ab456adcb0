//! `kill -9` in the middle of a transaction.

use super::{NOW, count, deployment, name, open, open_with_app, release};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the process that is killed finds its database.
const PATH_VARIABLE: &str = "ROOST_STORE_TEST_DATABASE";
/// The name of the only test here.
const THIS_TEST: &str = "tests::crashes::a_process_killed_in_the_middle_of_a_transaction_leaves_all_of_before_and_nothing_of_it";
/// What it says when it is in the middle of its transaction.
const READY: &str = "in the middle";

/// Writes more in one transaction than the cache holds, so that some of it is in the
/// write-ahead log, and waits to be killed: until its parent is gone, should that come first.
async fn write_and_wait(path: &Path) {
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(path))
        .await
        .unwrap();
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::raw_sql("PRAGMA cache_size = 4; UPDATE apps SET next_release = 77")
        .execute(&mut *transaction)
        .await
        .unwrap();
    for n in 0..300 {
        sqlx::query("INSERT INTO tokens (id, name, hash, scope, created_at) VALUES ($1, $2, $1, 'admin', 1)")
            .bind(n)
            .bind("x".repeat(3000))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    println!("{READY}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[tokio::test]
async fn a_process_killed_in_the_middle_of_a_transaction_leaves_all_of_before_and_nothing_of_it() {
    // The test starts itself as the process that is killed.
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        return write_and_wait(Path::new(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    open_with_app(dir.path()).await.close().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", THIS_TEST])
        .env(PATH_VARIABLE, dir.path().join("control.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains(READY));
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready, "it came to the middle");
    let log = std::fs::metadata(dir.path().join("control.db-wal")).unwrap();
    assert!(log.len() > 100_000, "some of it was written: {}", log.len());

    let store = open(dir.path()).await;
    assert_eq!(count(&store, "tokens").await, 0);
    store.app(&name("web")).await.unwrap();
    let next = store
        .create_deployment("app_1", &release(1), &deployment(1), NOW, None)
        .await
        .unwrap();
    assert_eq!(next.release_version, 1);
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(sound, "ok");
}
