//! Whether the databases are whole, and what to do when one is not.
//!
//! Nothing is guessed from a damaged record of machines or apps: `roostd` does
//! not start with one. What can be done about it is here, for the refusal and
//! for `roostd doctor`.

use crate::config::NodePaths;
use anyhow::{Result, bail};
use roost_host::doctor::{CheckResult, CheckStatus};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};

/// Findings that are told of one database; the first says enough.
const FINDINGS_MAX: u32 = 1;

/// A database of a node.
struct Database {
    name: &'static str,
    path: PathBuf,
    /// What to do when it is damaged and there is no copy.
    without_copy: &'static str,
}

fn databases(paths: &NodePaths) -> [Database; 2] {
    [
        Database {
            name: "worker database",
            path: paths.worker_db(),
            without_copy: "start roostd, which then knows no machine of this node: it stops and \
                removes those that run. Apps, releases and secrets are kept in control.db; deploy \
                each app again",
        },
        Database {
            name: "control database",
            path: paths.control_db(),
            without_copy: "start roostd, which then knows no app and no release; `roost down` \
                removes the machines of those that there were. Create and deploy each app again",
        },
    ]
}

impl Database {
    /// What is wrong with it; nothing when it is not there.
    fn problem(&self, paths: &NodePaths) -> Option<String> {
        if !self.path.exists() {
            return None;
        }
        if is_empty(&self.path) && has_machines(paths) {
            return Some("it is empty, and there are machines".into());
        }
        match first_finding(&self.path) {
            Ok(finding) => finding,
            Err(error) => Some(error.to_string()),
        }
    }

    fn fix(&self) -> String {
        let path = self.path.display();
        format!(
            "stop roostd and put a copy of {path} in its place, without {path}-wal and \
             {path}-shm; or, without a copy, move all three aside and {}",
            self.without_copy
        )
    }
}

/// SQLite's own check of the whole file. A database that is busy is whole.
fn first_finding(path: &Path) -> rusqlite::Result<Option<String>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let pragma = format!("PRAGMA quick_check({FINDINGS_MAX})");
    let found: String = connection.query_row(&pragma, [], |row| row.get(0))?;
    Ok((found != "ok").then_some(found))
}

fn is_empty(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

fn has_machines(paths: &NodePaths) -> bool {
    std::fs::read_dir(paths.machines()).is_ok_and(|mut entries| entries.next().is_some())
}

/// Refuses to go on with a damaged database.
pub(crate) fn refuse_damaged(paths: &NodePaths) -> Result<()> {
    for database in databases(paths) {
        if let Some(problem) = database.problem(paths) {
            bail!(
                "the {} {} is damaged: {problem}. What to do: {}",
                database.name,
                database.path.display(),
                database.fix()
            );
        }
    }
    Ok(())
}

/// A check of each database that is there.
pub(crate) fn examine(paths: &NodePaths) -> Vec<CheckResult> {
    let present = databases(paths)
        .into_iter()
        .filter(|each| each.path.exists());
    let check = |database: Database| {
        let path = database.path.display();
        match database.problem(paths) {
            None => CheckResult {
                name: database.name,
                status: CheckStatus::Pass,
                detail: format!("{path} is whole"),
                fix: None,
            },
            Some(problem) => CheckResult {
                name: database.name,
                status: CheckStatus::Fail,
                detail: format!("{path} is damaged: {problem}"),
                fix: Some(database.fix()),
            },
        }
    };
    present.map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::{examine, refuse_damaged};
    use crate::config::NodePaths;
    use roost_host::doctor::CheckStatus;
    use rusqlite::Connection;

    #[test]
    fn what_is_damaged_is_named_with_the_way_on_and_what_is_whole_passes() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, _) = NodePaths::of(dir.path()).unwrap();
        refuse_damaged(&paths).unwrap();
        assert!(examine(&paths).is_empty(), "nothing there, nothing damaged");

        let path = paths.worker_db();
        let connection = Connection::open(&path).unwrap();
        let statements = "PRAGMA journal_mode = WAL; CREATE TABLE t (x TEXT); \
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) \
            INSERT INTO t SELECT hex(randomblob(200)) FROM n;";
        connection.execute_batch(statements).unwrap();
        refuse_damaged(&paths).unwrap();
        connection.close().unwrap();
        let checks = examine(&paths);
        assert_eq!(checks[0].status, CheckStatus::Pass, "{checks:?}");
        let whole = std::fs::read(&path).unwrap();

        let mut holed = whole.clone();
        for page in holed.chunks_mut(4_096).skip(5).step_by(3) {
            page.fill(0xa5);
        }
        let half = whole[..whole.len() / 2].to_vec();
        let mut headless = whole;
        headless[..16].fill(b'x');
        for damaged in [holed, half, headless] {
            std::fs::write(&path, damaged).unwrap();
            let error = refuse_damaged(&paths).unwrap_err().to_string();
            for part in ["worker.db", "damaged", "move all three aside", "control.db"] {
                assert!(error.contains(part), "{part} in {error}");
            }
            let checks = examine(&paths);
            assert_eq!(checks[0].status, CheckStatus::Fail);
            assert!(checks[0].fix.is_some());
        }

        // A file that was cut to nothing looks like a new database.
        std::fs::write(&path, b"").unwrap();
        refuse_damaged(&paths).unwrap();
        std::fs::create_dir_all(paths.machines().join("00000000000001")).unwrap();
        refuse_damaged(&paths).unwrap_err();
    }
}
