//! Tests of the writer alone.

use super::{LogIdentity, LogLimits, LogWriter};
use crate::segment::segments;
use roost_proto::logs::{LogRecord, LogStream};
use std::path::Path;

fn identity() -> LogIdentity {
    LogIdentity {
        app: "hello".into(),
        machine: "00000000000001".into(),
        region: "local".into(),
    }
}

fn open(dir: &Path, limits: LogLimits) -> LogWriter {
    LogWriter::open(dir, identity(), limits).unwrap()
}

fn messages(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for segment in segments(dir).unwrap() {
        let text = std::fs::read_to_string(segment.path).unwrap();
        for line in text.lines() {
            found.push(serde_json::from_str::<LogRecord>(line).unwrap().message);
        }
    }
    found
}

#[test]
fn a_line_is_in_the_file_as_soon_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), LogLimits::default());
    writer.write_line(LogStream::Stdout, b"one\r\n");
    writer.write_line(LogStream::Stderr, b"t\xff\nwo");
    assert_eq!(messages(dir.path()), ["one", "t\u{fffd}\nwo"]);
}

#[test]
fn a_line_of_a_megabyte_is_cut_and_marked() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), LogLimits::default());
    writer.write_line(LogStream::Stdout, &vec![b'x'; 1024 * 1024]);
    let text = std::fs::read_to_string(segments(dir.path()).unwrap()[0].path.clone()).unwrap();
    let record: LogRecord = serde_json::from_str(text.trim_end()).unwrap();
    assert!(record.truncated);
    assert_eq!(record.message.len(), LogLimits::default().line_bytes_max);
}

#[test]
fn segments_are_bounded_in_size_and_number_and_the_newest_lines_stay() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        segment_bytes: 1_000,
        segments_max: 3,
        line_bytes_max: 100,
        ..LogLimits::default()
    };
    let mut writer = open(dir.path(), limits);
    for number in 0..200 {
        writer.write_line(LogStream::Stdout, format!("line {number}").as_bytes());
    }
    let found = segments(dir.path()).unwrap();
    assert_eq!(found.len(), 3);
    assert!(
        found.iter().all(|segment| segment.bytes < 1_400),
        "{found:?}"
    );
    let messages = messages(dir.path());
    assert_eq!(messages.last().unwrap(), "line 199");
    let first = 200 - messages.len();
    assert!(
        messages
            .iter()
            .enumerate()
            .all(|(idx, text)| *text == format!("line {}", first + idx))
    );
}

#[test]
fn a_torn_line_is_cut_away_by_the_next_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), LogLimits::default());
    writer.write_line(LogStream::Stdout, b"whole");
    let path = writer.segment.path.clone();
    drop(writer);
    let mut content = std::fs::read(&path).unwrap();
    content.extend_from_slice(br#"{"time":"2026-01-01T00:0"#);
    std::fs::write(&path, content).unwrap();
    let mut writer = open(dir.path(), LogLimits::default());
    writer.write_line(LogStream::Stdout, b"next");
    assert_eq!(messages(dir.path()), ["whole", "next"]);
    assert_eq!(
        segments(dir.path()).unwrap().len(),
        1,
        "a restart begins no new segment"
    );
}

#[test]
fn two_writers_of_one_machine_do_not_share_a_segment_and_do_not_lose_lines() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        segment_bytes: 400,
        segments_max: 1,
        line_bytes_max: 100,
        ..LogLimits::default()
    };
    let mut old = open(dir.path(), limits);
    let mut new = open(dir.path(), limits);
    old.write_line(LogStream::Stdout, b"from old");
    new.write_line(LogStream::System, b"from new");
    assert_ne!(old.segment.path, new.segment.path);
    assert_eq!(
        messages(dir.path()),
        ["from old", "from new"],
        "a held segment is not removed"
    );
}

#[test]
fn dropped_lines_are_counted_and_reported_by_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path(), LogLimits::default());
    writer.write_line(LogStream::Stdout, b"before");
    let path = writer.segment.path.clone();
    // Every write to this device fails as on a full disk.
    let full = std::fs::OpenOptions::new()
        .append(true)
        .open("/dev/full")
        .unwrap();
    let healthy = std::mem::replace(&mut writer.segment.file, full);
    for _ in 0..5 {
        writer.write_line(LogStream::Stdout, b"lost");
    }
    assert_eq!(writer.n_dropped(), 5);
    writer.segment.file = healthy;
    writer.segment.bytes = std::fs::metadata(&path).unwrap().len();
    writer.write_line(LogStream::Stdout, b"after");
    assert_eq!(writer.n_dropped(), 0);
    let messages = messages(dir.path());
    assert_eq!(messages.len(), 3);
    assert!(
        messages[1].starts_with("5 log lines were dropped"),
        "{messages:?}"
    );
}

#[test]
fn a_flood_is_cut_off_and_one_record_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        bytes_per_second: 1,
        burst_bytes: 2_000,
        ..LogLimits::default()
    };
    let mut writer = open(dir.path(), limits);
    for _ in 0..1_000 {
        writer.write_line(LogStream::Stdout, b"four");
    }
    assert!(writer.is_flooded());
    let n_kept = u64::try_from(messages(dir.path()).len()).unwrap();
    assert!((2..=20).contains(&n_kept), "{n_kept}");
    assert_eq!(writer.n_dropped(), 1_000 - n_kept);

    writer.write_line(LogStream::System, b"it ended");
    let found = messages(dir.path());
    let [.., report, last] = found.as_slice() else {
        panic!("{found:?}");
    };
    let (n_lines, n_bytes) = (1_000 - n_kept, 4 * (1_000 - n_kept));
    let expected = format!("{n_lines} log lines ({n_bytes} bytes) were dropped");
    assert!(report.starts_with(&expected), "{report}");
    assert_eq!(last, "it ended");
    writer.report_dropped();
    assert_eq!(messages(dir.path()).len(), found.len(), "it is said once");
}

#[test]
fn bytes_that_take_more_room_on_the_disk_than_in_the_line_are_charged_for_it() {
    let limits = LogLimits {
        bytes_per_second: 1,
        burst_bytes: 100_000,
        ..LogLimits::default()
    };
    // Escaped with six bytes; replaced with three; escaped with two; as it is.
    for (byte, n_kept_most) in [(1, 16), (0xff, 33), (b'"', 50), (b'x', 100)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = open(dir.path(), limits);
        for _ in 0..200 {
            writer.write_line(LogStream::Stdout, &[byte; 1_000]);
        }
        let n_kept = messages(dir.path()).len();
        assert!(
            n_kept <= n_kept_most && n_kept >= n_kept_most * 3 / 4,
            "{byte}: {n_kept}"
        );
        let n_bytes: u64 = segments(dir.path())
            .unwrap()
            .iter()
            .map(|segment| segment.bytes)
            .sum();
        assert!(n_bytes <= limits.burst_bytes, "{byte}: {n_bytes}");
    }
}
