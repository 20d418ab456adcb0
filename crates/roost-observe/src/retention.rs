//! How long the logs of destroyed machines are kept.

use crate::segment::{directory_names, segments};
use crate::store::{LogStore, blocking};
use roost_model::id::MachineId;
use roost_model::time::Timestamp;
use roost_runtime::fs::{FileError, ensure_no_dir};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Bounds of the logs of machines that are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Removed when the last line is older.
    pub age_max: Duration,
    /// All of them together; the oldest go first.
    pub bytes_max: u64,
}

impl Default for RetentionLimits {
    fn default() -> Self {
        Self {
            age_max: Duration::from_secs(7 * 24 * 3_600),
            bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// What one pass removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionReport {
    /// Machines whose logs were removed.
    pub n_machines: usize,
    /// Bytes of them.
    pub bytes: u64,
}

#[derive(Debug)]
struct DeadLogs {
    dir: PathBuf,
    last_ms: u64,
    bytes: u64,
}

impl LogStore {
    /// One pass over the logs of machines that are not in `live`.
    pub async fn retain_once(
        &self,
        live: HashSet<MachineId>,
        limits: RetentionLimits,
        now: Timestamp,
    ) -> Result<RetentionReport, FileError> {
        let root = self.root.clone();
        blocking(move || {
            let plan = plan_removal(dead_logs(&root, &live)?, limits, now);
            let mut report = RetentionReport::default();
            for dead in plan {
                ensure_no_dir(&dead.dir)?;
                report.n_machines += 1;
                report.bytes += dead.bytes;
                // The app's directory goes with its last machine.
                if let Some(app_dir) = dead.dir.parent() {
                    drop(std::fs::remove_dir(app_dir));
                }
            }
            Ok(report)
        })
        .await
    }
}

fn dead_logs(root: &Path, live: &HashSet<MachineId>) -> Result<Vec<DeadLogs>, FileError> {
    let mut dead = Vec::new();
    for app in directory_names(root)? {
        let app_dir = root.join(app);
        for name in directory_names(&app_dir)? {
            // What is no machine's directory is not ours to remove.
            let Ok(machine) = MachineId::parse(&name) else {
                continue;
            };
            if live.contains(&machine) {
                continue;
            }
            let dir = app_dir.join(name);
            let found = segments(&dir)?;
            let last = found
                .iter()
                .map(|segment| segment.modified)
                .max()
                .unwrap_or(UNIX_EPOCH);
            let last_ms = last
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis();
            dead.push(DeadLogs {
                dir,
                last_ms: u64::try_from(last_ms).unwrap_or(u64::MAX),
                bytes: found.iter().map(|segment| segment.bytes).sum(),
            });
        }
    }
    Ok(dead)
}

/// Which logs go: those that are too old, then the oldest until the rest fits.
fn plan_removal(mut dead: Vec<DeadLogs>, limits: RetentionLimits, now: Timestamp) -> Vec<DeadLogs> {
    dead.sort_by_key(|logs| logs.last_ms);
    let mut bytes_left: u64 = dead.iter().map(|logs| logs.bytes).sum();
    dead.into_iter()
        .take_while(|logs| {
            let is_old = now.since(Timestamp::from_ms(logs.last_ms)) > limits.age_max;
            let goes = is_old || bytes_left > limits.bytes_max;
            bytes_left -= logs.bytes;
            goes
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{RetentionLimits, RetentionReport};
    use crate::limits::LogLimits;
    use crate::store::LogStore;
    use crate::writer::{LogIdentity, LogWriter};
    use roost_model::id::MachineId;
    use roost_model::name::AppName;
    use roost_proto::logs::LogStream;
    use std::collections::HashSet;
    use std::time::Duration;

    fn write(store: &LogStore, app: &AppName, machine: &MachineId) {
        let identity = LogIdentity {
            app: app.to_string(),
            machine: machine.to_string(),
            region: "r".into(),
        };
        let mut writer = LogWriter::open(
            &store.machine_dir(app, machine),
            identity,
            LogLimits::default(),
        )
        .unwrap();
        writer.write_line(LogStream::Stdout, b"hello");
    }

    #[tokio::test]
    async fn logs_of_dead_machines_go_by_age_and_by_size_and_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::new(dir.path());
        let app = AppName::parse("hello").unwrap();
        let [live, dead] = [1, 2].map(|n| MachineId::from_bytes([n; 7]));
        write(&store, &app, &live);
        write(&store, &app, &dead);
        let now = roost_runtime::clock::now();
        let only_live = HashSet::from([live.clone()]);
        let kept = store
            .retain_once(only_live.clone(), RetentionLimits::default(), now)
            .await
            .unwrap();
        assert_eq!(kept, RetentionReport::default());

        let small = RetentionLimits {
            bytes_max: 0,
            ..RetentionLimits::default()
        };
        let report = store
            .retain_once(only_live.clone(), small, now)
            .await
            .unwrap();
        assert_eq!(report.n_machines, 1);
        assert!(!store.machine_dir(&app, &dead).exists());

        write(&store, &app, &dead);
        let later = now.after(Duration::from_secs(8 * 24 * 3_600));
        let report = store
            .retain_once(only_live, RetentionLimits::default(), later)
            .await
            .unwrap();
        assert_eq!(report.n_machines, 1);
        assert!(store.machine_dir(&app, &live).exists());
    }
}
