//! The reader of all machines' logs on a node: query, follow, remove.
//!
//! All file work runs on the blocking pool. A reader takes no lock and keeps
//! no index; it reads the newest segments first and stops when it has enough.

use crate::follow;
use crate::limits;
use crate::line::time_text;
use crate::segment::{self, Segment};
use futures_util::Stream;
use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::logs::LogRecord;
use roost_runtime::fs::FileError;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Which records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Of this app.
    pub app: AppName,
    /// Of this machine only.
    pub machine: Option<MachineId>,
    /// Of machines in this region only.
    pub region: Option<RegionCode>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// The newest this many; cut at [`limits::QUERY_RECORDS_MAX`].
    pub limit: usize,
    /// Whose message contains this text.
    pub contains: Option<String>,
}

impl LogQuery {
    /// The newest `limit` records of an app.
    pub fn newest(app: AppName, limit: usize) -> Self {
        Self {
            app,
            machine: None,
            region: None,
            since: None,
            until: None,
            limit,
            contains: None,
        }
    }
}

/// Logs could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read the logs of app {app}")]
pub struct QueryLogError {
    /// The app.
    pub app: AppName,
    /// Why.
    #[source]
    pub source: FileError,
}

/// The logs of all machines on a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore {
    pub(crate) root: PathBuf,
}

impl LogStore {
    /// The logs below `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the segments of a machine are.
    pub fn machine_dir(&self, app: &AppName, machine: &MachineId) -> PathBuf {
        self.root.join(app.as_str()).join(machine.as_str())
    }

    /// The newest records that match, oldest first, merged over machines.
    pub async fn query(&self, query: LogQuery) -> Result<Vec<LogRecord>, QueryLogError> {
        let root = self.root.clone();
        let app = query.app.clone();
        blocking(move || query_blocking(&root, &query))
            .await
            .map_err(|source| QueryLogError { app, source })
    }

    /// The newest `limit` records that match, and then new ones as they are
    /// written, of machines and segments that appear later as well.
    ///
    /// Never ends by itself, but for `until`. A slow consumer slows the
    /// reading, and misses only what rotation has removed meanwhile. Files
    /// that cannot be read are logged and skipped.
    pub fn follow(&self, query: LogQuery) -> impl Stream<Item = LogRecord> + Send + use<> {
        follow::follow(self.root.clone(), query)
    }

    /// Removes the logs of an app; none is fine.
    pub async fn remove_app(&self, app: &AppName) -> Result<(), FileError> {
        let dir = self.root.join(app.as_str());
        blocking(move || roost_runtime::fs::ensure_no_dir(&dir)).await
    }

    /// Removes the logs of a machine; none is fine.
    pub async fn remove_machine(
        &self,
        app: &AppName,
        machine: &MachineId,
    ) -> Result<(), FileError> {
        let dir = self.machine_dir(app, machine);
        blocking(move || roost_runtime::fs::ensure_no_dir(&dir)).await
    }
}

/// Runs file work on the blocking pool; a panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("file work was cancelled, which nobody does: {error}"),
        },
    }
}

/// A query made ready for comparing with records.
#[derive(Debug)]
pub(crate) struct Filter {
    region: Option<String>,
    since: Option<String>,
    until: Option<String>,
    contains: Option<String>,
}

impl Filter {
    pub(crate) fn new(query: &LogQuery) -> Self {
        Self {
            region: query
                .region
                .as_ref()
                .map(|region| region.as_str().to_owned()),
            since: query.since.map(time_text),
            until: query.until.map(time_text),
            contains: query.contains.clone(),
        }
    }

    pub(crate) fn matches(&self, record: &LogRecord) -> bool {
        self.region
            .as_ref()
            .is_none_or(|region| record.region == *region)
            && !self.is_before(record)
            && !self.is_after(record)
            && self
                .contains
                .as_ref()
                .is_none_or(|text| record.message.contains(text.as_str()))
    }

    fn is_before(&self, record: &LogRecord) -> bool {
        self.since
            .as_ref()
            .is_some_and(|since| record.time < *since)
    }

    pub(crate) fn is_after(&self, record: &LogRecord) -> bool {
        self.until
            .as_ref()
            .is_some_and(|until| record.time > *until)
    }
}

/// The directories of the machines that a query is about.
pub(crate) fn machine_dirs(root: &Path, query: &LogQuery) -> Result<Vec<PathBuf>, FileError> {
    let app_dir = root.join(query.app.as_str());
    match &query.machine {
        Some(machine) => Ok(vec![app_dir.join(machine.as_str())]),
        None => {
            let names = segment::directory_names(&app_dir)?;
            Ok(names.into_iter().map(|name| app_dir.join(name)).collect())
        }
    }
}

fn query_blocking(root: &Path, query: &LogQuery) -> Result<Vec<LogRecord>, FileError> {
    let filter = Filter::new(query);
    let limit = query.limit.min(limits::QUERY_RECORDS_MAX);
    let mut newest = Newest {
        limit,
        records: Vec::new(),
    };
    for dir in machine_dirs(root, query)? {
        let mut found = segment::segments(&dir)?;
        found.sort_by_key(|segment| std::cmp::Reverse((segment.modified, segment.number)));
        for segment in found {
            if newest.has_no_use_for(&segment) {
                break;
            }
            let content =
                segment::complete_lines(&segment.path, 0, limits::SEGMENT_READ_BYTES_MAX)?;
            take_newest(&content, &filter, &mut newest);
        }
    }
    Ok(newest.oldest_first())
}

/// Collects the newest records of lines, which are in time order within one segment.
///
/// Newer segments come first: that is the order of lines of one millisecond.
pub(crate) fn take_newest(content: &[u8], filter: &Filter, newest: &mut Newest) {
    let mut n_taken = 0;
    for line in content.rsplit(|byte| *byte == b'\n') {
        if n_taken == newest.limit {
            break;
        }
        // What is no record was damaged; it is skipped.
        let Ok(record) = serde_json::from_slice::<LogRecord>(line) else {
            continue;
        };
        if filter.matches(&record) {
            newest.records.push(record);
            n_taken += 1;
        } else if filter.is_before(&record) {
            break;
        }
    }
    newest.trim();
}

/// The newest records so far, newest first.
#[derive(Debug)]
pub(crate) struct Newest {
    pub(crate) limit: usize,
    pub(crate) records: Vec<LogRecord>,
}

impl Newest {
    fn trim(&mut self) {
        // Stable: lines of one millisecond keep the order of their segment.
        self.records.sort_by(|a, b| b.time.cmp(&a.time));
        self.records.truncate(self.limit);
    }

    /// Whether nothing in the segment can be newer than what there is.
    fn has_no_use_for(&self, segment: &Segment) -> bool {
        if self.records.len() < self.limit {
            return false;
        }
        let Some(oldest) = self.records.last() else {
            return true;
        };
        // File times come from a coarser clock than record times.
        let modified = segment
            .modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let latest = modified + Duration::from_secs(1);
        let latest = Timestamp::from_ms(u64::try_from(latest.as_millis()).unwrap_or(u64::MAX));
        time_text(latest) < oldest.time
    }

    pub(crate) fn oldest_first(mut self) -> Vec<LogRecord> {
        self.records.reverse();
        self.records
    }
}

#[cfg(test)]
mod tests;
