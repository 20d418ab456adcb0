//! The journal in SQLite: the contract, a caller's transaction, a full disk, damaged rows.

use super::{SCHEMA, SqliteJournal, claim, load, open, record, take};
use crate::journal::{Claim, Entry, Filter, Journal, JournalError, NewRun, Opened};
use crate::record::{Kind, Status, Subject};
use crate::testing::contract::check_journal;
use crate::workflow::OnBusy;
use parking_lot::Mutex;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_ms(1_000);

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    connection
        .pragma_update(None, "foreign_keys", "ON")
        .unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    connection
}

fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .pragma_update(None, "foreign_keys", "ON")
        .unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    connection
}

fn new_run(n: u128) -> NewRun {
    NewRun {
        id: RunId::from_ulid(ulid::Ulid::from_parts(1, n)),
        kind: Kind {
            name: "machine create".into(),
            version: 1,
        },
        subject: Subject::new(format!("machine/{n}")).unwrap(),
        on_busy: OnBusy::Queue,
        key: None,
        parent: None,
        cause: "request req_1".into(),
        params: "{}".into(),
        created_at: NOW,
    }
}

#[tokio::test]
async fn the_contract_holds_in_memory() {
    check_journal(async || Arc::new(SqliteJournal::in_memory().unwrap()) as Arc<dyn Journal>).await;
}

#[tokio::test]
async fn the_contract_holds_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let n_files = Mutex::new(0);
    check_journal(async || {
        *n_files.lock() += 1;
        let path = dir.path().join(format!("{}.db", n_files.lock()));
        let connection = Arc::new(Mutex::new(connect(&path)));
        Arc::new(SqliteJournal::new(connection)) as Arc<dyn Journal>
    })
    .await;
}

#[test]
fn a_caller_writes_his_rows_and_the_first_record_in_one_transaction() {
    let mut connection = in_memory();
    connection
        .execute_batch("CREATE TABLE wishes (id)")
        .unwrap();
    for commits in [false, true] {
        let transaction = connection.transaction().unwrap();
        transaction
            .execute("INSERT INTO wishes VALUES (1)", [])
            .unwrap();
        let opened = open(&transaction, &new_run(1)).unwrap();
        assert!(matches!(opened, Opened::New { .. }));
        if commits {
            transaction.commit().unwrap();
        } else {
            drop(transaction);
        }
        let n_wishes: u32 = connection
            .query_row("SELECT COUNT(*) FROM wishes", [], |row| row.get(0))
            .unwrap();
        let story = load(&connection, &new_run(1).id).unwrap();
        assert_eq!((n_wishes == 1, story.is_some()), (commits, commits));
    }
}

#[test]
fn an_owner_executes_a_run_without_an_engine() {
    let mut connection = in_memory();
    let transaction = connection.transaction().unwrap();
    open(&transaction, &new_run(1)).unwrap();
    let run = take(&transaction, &new_run(1).id, "owner", NOW, NOW).unwrap();
    assert_eq!(run.status, Status::Running);
    let end = Entry::Ended {
        status: Status::Succeeded,
        reason: None,
    };
    record(&transaction, &run.fence(), &[end], NOW).unwrap();
    let refused = take(&transaction, &run.id, "owner", NOW, NOW);
    assert!(
        matches!(refused, Err(JournalError::OutOfOrder { .. })),
        "{refused:?}"
    );
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let connection = connect(&dir.path().join("full.db"));
    let n_pages: u32 = connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    connection
        .pragma_update(None, "max_page_count", n_pages + 2)
        .unwrap();
    let journal = SqliteJournal::new(Arc::new(Mutex::new(connection)));
    let mut n_recorded = 0;
    loop {
        let big = NewRun {
            params: "x".repeat(3_000),
            ..new_run(n_recorded)
        };
        match journal.open(big).await {
            Ok(_) => n_recorded += 1,
            Err(error) => {
                assert!(matches!(error, JournalError::Full { .. }), "{error:?}");
                break;
            }
        }
    }
    let listed = journal.list(Filter::default()).await.unwrap();
    assert_eq!(listed.len(), usize::try_from(n_recorded).unwrap());
}

#[tokio::test]
async fn a_damaged_record_is_named_and_not_guessed_at() {
    let connection = in_memory();
    for damage in [
        "status = 'lost'",
        "turn = 'left'",
        "cancel_at_ms = 1",
        "holder = 'half a lease'",
        "subject = ''",
    ] {
        connection.execute("DELETE FROM runs", []).unwrap();
        let transaction = connection.unchecked_transaction().unwrap();
        open(&transaction, &new_run(1)).unwrap();
        transaction.commit().unwrap();
        connection
            .execute(&format!("UPDATE runs SET {damage}"), [])
            .unwrap();
        let error = load(&connection, &new_run(1).id).unwrap_err();
        let JournalError::Damaged { what, .. } = &error else {
            panic!("{damage}: {error:?}");
        };
        assert!(what.contains(new_run(1).id.as_str()), "{damage}: {what}");
    }
}

#[test]
fn a_damaged_run_keeps_no_other_from_being_executed() {
    let mut connection = in_memory();
    let transaction = connection.transaction().unwrap();
    for n in [1, 2] {
        open(&transaction, &new_run(n)).unwrap();
    }
    let damage = "UPDATE runs SET turn = 'left' WHERE id = ?1";
    let id = new_run(1).id;
    transaction.execute(damage, [id.as_str()]).unwrap();
    let claimed = claim(
        &transaction,
        &Claim {
            holder: "a".into(),
            kinds: vec![new_run(1).kind],
            held: vec![],
            n_roots_max: 9,
            now: NOW,
            lease: Duration::from_secs(15),
        },
    );
    let ids: Vec<RunId> = claimed.unwrap().into_iter().map(|run| run.id).collect();
    assert_eq!(ids, [new_run(2).id]);
}

#[test]
fn the_database_itself_keeps_a_subject_for_one_run() {
    let connection = in_memory();
    let transaction = connection.unchecked_transaction().unwrap();
    let second = NewRun {
        subject: new_run(1).subject,
        ..new_run(2)
    };
    open(&transaction, &new_run(1)).unwrap();
    open(&transaction, &second).unwrap();
    take(&transaction, &new_run(1).id, "a", NOW, NOW).unwrap();
    let refused = take(&transaction, &second.id, "b", NOW, NOW);
    assert!(
        matches!(refused, Err(JournalError::Storage { .. })),
        "{refused:?}"
    );
}
