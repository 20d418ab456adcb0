//! The database of a newer roost, on a full disk, and how it is asked. Older
//! ones are read by `tests/golden/`.

use super::{SqliteContext as _, Store, StoreError};
use roost_model::id::MachineId;
use rusqlite::Connection;

/// The most pages of a database when nothing limits them (sqlite.org/limits.html).
const PAGES_MAX: i64 = 4_294_967_294;

impl Store {
    /// Leaves no room for another event of this machine, or for a large row, as
    /// a full disk does.
    pub(crate) async fn fill_disk(&self, id: &MachineId) {
        let id = id.clone();
        let filled = self.run(move |connection| {
            let pages: i64 = connection
                .pragma_query_value(None, "page_count", |row| row.get(0))
                .during("count pages")?;
            limit_pages(connection, pages)?;
            loop {
                // Smaller than any real event.
                connection
                    .execute(
                        "INSERT INTO events SELECT ?1, MAX(seq) + 1, 0, '', 'started', '', '{}' \
                         FROM events WHERE machine_id = ?1",
                        [id.as_str()],
                    )
                    .during("fill")?;
            }
        });
        let result: Result<(), StoreError> = filled.await;
        assert!(result.unwrap_err().is_no_space());
    }

    /// Makes room again.
    pub(crate) async fn free_disk(&self) {
        self.run(|connection| limit_pages(connection, PAGES_MAX))
            .await
            .unwrap();
    }
}

fn limit_pages(connection: &Connection, pages: i64) -> Result<(), StoreError> {
    connection
        .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
        .during("limit pages")
}

#[test]
fn the_sum_of_all_machines_reads_an_index_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.db");
    drop(Store::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    let query = format!("EXPLAIN QUERY PLAN {}", crate::capacity::rows::USED);
    let plan: String = connection.query_row(&query, [], |row| row.get(3)).unwrap();
    assert!(plan.contains("COVERING INDEX machines_by_size"), "{plan}");
}

#[test]
fn a_database_of_a_newer_roost_is_refused_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.db");
    drop(Store::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Store::open(&path),
        Err(StoreError::TooNew { found: 99, .. })
    ));
}
