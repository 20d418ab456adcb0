//! Following logs: the newest records first, then new ones as they come.
//!
//! A follower remembers how far it has read in each segment. Every pass lists
//! the machines and their segments anew, so rotation and new machines need no
//! special case: a segment that was not there is read from its beginning.

use crate::limits;
use crate::segment::{complete_lines, segments};
use crate::store::{Filter, LogQuery, Newest, blocking, machine_dirs, take_newest};
use futures_util::Stream;
use futures_util::stream;
use roost_proto::logs::LogRecord;
use roost_runtime::fs::FileError;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

#[derive(Debug)]
struct Follower {
    root: PathBuf,
    query: LogQuery,
    filter: Filter,
    /// The end of what was read, by segment.
    offsets: HashMap<PathBuf, u64>,
    is_first_pass: bool,
    /// Whether the last pass left something to read.
    has_more: bool,
    is_past_end: bool,
    ready: VecDeque<LogRecord>,
}

pub(crate) fn follow(root: PathBuf, query: LogQuery) -> impl Stream<Item = LogRecord> + Send {
    let follower = Follower {
        filter: Filter::new(&query),
        root,
        query,
        offsets: HashMap::new(),
        is_first_pass: true,
        has_more: false,
        is_past_end: false,
        ready: VecDeque::new(),
    };
    stream::unfold(follower, next_record)
}

async fn next_record(mut follower: Follower) -> Option<(LogRecord, Follower)> {
    loop {
        if let Some(record) = follower.ready.pop_front() {
            return Some((record, follower));
        }
        if follower.is_past_end {
            return None;
        }
        if !follower.is_first_pass && !follower.has_more {
            tokio::time::sleep(limits::FOLLOW_INTERVAL).await;
        }
        follower = blocking(move || {
            follower.pass_and_log();
            follower
        })
        .await;
    }
}

impl Follower {
    fn pass_and_log(&mut self) {
        let result = if self.is_first_pass {
            self.first_pass()
        } else {
            self.pass()
        };
        self.is_first_pass = false;
        if let Err(error) = result {
            self.has_more = false;
            tracing::debug!(app = %self.query.app, error = &error as &dyn std::error::Error, "follow logs");
        }
    }

    /// Reads what is there: the newest records are given out, the ends remembered.
    fn first_pass(&mut self) -> Result<(), FileError> {
        let limit = self.query.limit.min(limits::QUERY_RECORDS_MAX);
        let mut newest = Newest {
            limit,
            records: Vec::new(),
        };
        for dir in machine_dirs(&self.root, &self.query)? {
            for segment in segments(&dir)?.into_iter().rev() {
                let content = complete_lines(&segment.path, 0, limits::SEGMENT_READ_BYTES_MAX)?;
                take_newest(&content, &self.filter, &mut newest);
                self.offsets.insert(segment.path, len(&content));
            }
        }
        self.ready = newest.oldest_first().into();
        Ok(())
    }

    fn pass(&mut self) -> Result<(), FileError> {
        self.has_more = false;
        let mut offsets = HashMap::new();
        let mut batch = Vec::new();
        for dir in machine_dirs(&self.root, &self.query)? {
            for segment in segments(&dir)? {
                // A segment shrinks only when an unfinished line is cut away,
                // and that was never read.
                let offset = self.offsets.get(&segment.path).copied().unwrap_or(0);
                let mut end = offset;
                if segment.bytes > offset {
                    let content =
                        complete_lines(&segment.path, offset, limits::FOLLOW_BYTES_PER_PASS_MAX)?;
                    end += len(&content);
                    self.has_more |= !content.is_empty() && end < segment.bytes;
                    self.take_all(&content, &mut batch);
                }
                offsets.insert(segment.path, end);
            }
        }
        self.offsets = offsets;
        // Stable: lines of one machine stay in their order within a millisecond.
        batch.sort_by(|a, b| a.time.cmp(&b.time));
        self.ready.extend(batch);
        Ok(())
    }

    fn take_all(&mut self, content: &[u8], batch: &mut Vec<LogRecord>) {
        for line in content.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<LogRecord>(line) else {
                continue;
            };
            self.is_past_end |= self.filter.is_after(&record);
            if self.filter.matches(&record) {
                batch.push(record);
            }
        }
    }
}

fn len(content: &[u8]) -> u64 {
    u64::try_from(content.len()).unwrap_or(u64::MAX)
}
