//! What machines have logged, read from their segment files.

use roost_proto::logs::{LogRecord, LogStream};
use std::path::{Path, PathBuf};

/// The lines of one stream in a machine's log directory, oldest first.
pub fn lines(log_dir: &Path, stream: LogStream) -> Vec<String> {
    let records = records(log_dir).into_iter();
    let of_stream = records.filter(|record| record.stream == stream);
    of_stream.map(|record| record.message).collect()
}

/// The records in a machine's log directory, oldest first.
pub fn records(log_dir: &Path) -> Vec<LogRecord> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(log_dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let text: String = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
