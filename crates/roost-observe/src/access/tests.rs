//! What is logged, what is dropped, and how much is kept.

use super::{AccessFile, AccessShare};
use crate::segment::segments;
use crate::segment_writer::SegmentWriter;
use roost_proto::rest::RequestRecord;
use roost_runtime::tasks::Tasks;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn record(id: &str) -> Arc<RequestRecord> {
    let record = json!({
        "request_id": id, "trace_id": "", "at": 1, "edge": "n", "region": "local",
        "table_version": 1, "client": "192.0.2.1", "protocol": "HTTP/1.1", "tls": false,
        "method": "GET", "host": "a.localhost", "path": "/", "status": 200,
        "response_bytes": 1, "complete": true, "first_byte_us": 1, "total_us": 2,
        "attempts": [], "spans": [],
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

fn lines(dir: &Path) -> Vec<Value> {
    let segments = segments(dir).unwrap().into_iter();
    let texts = segments.map(|segment| std::fs::read_to_string(segment.path).unwrap());
    let lines = |text: String| {
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<_>>()
    };
    texts.flat_map(lines).collect()
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["request_id"].as_str())
        .collect()
}

#[tokio::test]
async fn what_was_recorded_before_the_end_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let log = AccessFile::open(dir.path(), &tasks).unwrap();
    for id in ["1", "2", "3"] {
        log.record(&record(id));
    }
    assert!(tasks.shutdown(Duration::from_secs(60)).await);
    assert_eq!(ids(&lines(dir.path())), ["1", "2", "3"]);
    let again = AccessFile::open(dir.path(), &tasks);
    again.expect("the log can be gone on with");
}

#[tokio::test]
async fn records_without_room_are_dropped_counted_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let segment = SegmentWriter::open(dir.path(), 1 << 20, 2).unwrap();
    let (log, writer) = AccessFile::new(segment, 2);
    // Nobody writes yet: there is room for two.
    for id in ["1", "2", "3", "4", "5"] {
        log.record(&record(id));
    }
    assert_eq!(log.n_dropped(), 3);
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(stop).await;
    let lines = lines(dir.path());
    assert_eq!(lines[0]["dropped"], 3, "{lines:?}");
    assert_eq!(ids(&lines), ["1", "2"]);
}

#[tokio::test]
async fn the_log_is_bounded_and_the_newest_records_stay() {
    let dir = tempfile::tempdir().unwrap();
    let segment = SegmentWriter::open(dir.path(), 1000, 3).unwrap();
    let (log, writer) = AccessFile::new(segment, 1);
    let stop = CancellationToken::new();
    let written = Tasks::new().spawn("access log", writer.run(stop.clone()));
    for id in 0..20 {
        // One at a time: that there is room again says that the one before is being written.
        let room = log.records.reserve().await.unwrap();
        room.send(record(&id.to_string()));
    }
    stop.cancel();
    written.await.unwrap();
    let found = segments(dir.path()).unwrap();
    assert!(found.len() <= 3, "{found:?}");
    let lines = lines(dir.path());
    let ids = ids(&lines);
    assert_eq!(ids.last(), Some(&"19"));
    assert!(!ids.contains(&"0") && ids.len() > 2, "{ids:?}");
}

#[test]
fn a_share_is_off_full_or_a_percentage() {
    for (text, share) in [
        ("off", Some(AccessShare::Off)),
        ("full", Some(AccessShare::FULL)),
        ("100%", Some(AccessShare::FULL)),
        ("1%", Some(AccessShare::PerMillion(10_000))),
        ("0.5%", Some(AccessShare::PerMillion(5_000))),
        ("12.0625%", Some(AccessShare::PerMillion(120_625))),
        ("0%", Some(AccessShare::PerMillion(0))),
        ("101%", None),
        ("1", None),
        ("-1%", None),
        (".5%", None),
        ("1.%", None),
        ("1.00001%", None),
        ("", None),
    ] {
        assert_eq!(AccessShare::parse(text), share, "{text}");
    }
}

#[test]
fn failures_are_logged_whatever_the_share_of_the_rest() {
    let share = AccessShare::parse("1%").unwrap();
    let n_logged = (0..1_000_000).filter(|n| share.wants(false, *n)).count();
    assert_eq!(n_logged, 10_000);
    assert!((0..100).all(|n| AccessShare::PerMillion(0).wants(true, n)));
    assert!((0..100).all(|n| AccessShare::FULL.wants(false, n)));
    assert!(!AccessShare::Off.wants(true, 0));
}
