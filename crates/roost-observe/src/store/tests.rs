//! Tests of queries and followers over real files.

use super::{LogQuery, LogStore};
use crate::limits::LogLimits;
use crate::writer::{LogIdentity, LogWriter};
use futures_util::{Stream, StreamExt as _};
use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::logs::{LogRecord, LogStream};
use std::io::Write as _;
use std::pin::pin;
use std::time::Duration;

struct Fixture {
    _dir: tempfile::TempDir,
    store: LogStore,
    app: AppName,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::new(dir.path());
        Self {
            _dir: dir,
            store,
            app: AppName::parse("hello").unwrap(),
        }
    }

    fn machine(n: u8) -> MachineId {
        MachineId::from_bytes([n; 7])
    }

    fn writer(&self, n: u8, limits: LogLimits) -> LogWriter {
        let machine = Self::machine(n);
        let region = if n.is_multiple_of(2) { "even" } else { "odd" };
        let identity = LogIdentity {
            app: self.app.to_string(),
            machine: machine.to_string(),
            region: region.into(),
        };
        LogWriter::open(
            &self.store.machine_dir(&self.app, &machine),
            identity,
            limits,
        )
        .unwrap()
    }

    async fn messages(&self, query: LogQuery) -> Vec<String> {
        self.store
            .query(query)
            .await
            .unwrap()
            .into_iter()
            .map(|record| record.message)
            .collect()
    }
}

fn small_segments() -> LogLimits {
    LogLimits {
        segment_bytes: 500,
        segments_max: 1_000,
        line_bytes_max: 1_000,
        ..LogLimits::default()
    }
}

async fn next_messages(
    stream: &mut (impl Stream<Item = LogRecord> + Unpin),
    n: usize,
) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < n {
        let record = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        found.push(record.expect("a record in time").unwrap().message);
    }
    found
}

#[tokio::test]
async fn a_query_merges_machines_in_time_order_and_gives_the_newest() {
    let fixture = Fixture::new();
    let mut writers = [
        fixture.writer(1, small_segments()),
        fixture.writer(2, small_segments()),
    ];
    for number in 0..40_usize {
        let line = format!("line {number}");
        writers[number % 2].write_line(LogStream::Stdout, line.as_bytes());
        // Records carry milliseconds: this gives each its own.
        let before = roost_runtime::clock::now();
        while roost_runtime::clock::now() == before {
            std::hint::spin_loop();
        }
    }
    let newest = fixture
        .messages(LogQuery::newest(fixture.app.clone(), 10))
        .await;
    assert_eq!(
        newest,
        (30..40).map(|n| format!("line {n}")).collect::<Vec<_>>()
    );
    let all = fixture
        .messages(LogQuery::newest(fixture.app.clone(), 1_000))
        .await;
    assert_eq!(
        all,
        (0..40).map(|n| format!("line {n}")).collect::<Vec<_>>()
    );

    let one = LogQuery {
        machine: Some(Fixture::machine(1)),
        ..LogQuery::newest(fixture.app.clone(), 2)
    };
    assert_eq!(fixture.messages(one).await, ["line 36", "line 38"]);
    let region = RegionCode::parse("even").unwrap();
    let by_region = LogQuery {
        region: Some(region),
        ..LogQuery::newest(fixture.app.clone(), 1)
    };
    assert_eq!(fixture.messages(by_region).await, ["line 39"]);
    let by_text = LogQuery {
        contains: Some("ne 1".into()),
        ..LogQuery::newest(fixture.app.clone(), 3)
    };
    assert_eq!(
        fixture.messages(by_text).await,
        ["line 17", "line 18", "line 19"]
    );
}

#[tokio::test]
async fn a_query_between_two_times_gives_only_those_records() {
    let fixture = Fixture::new();
    let mut writer = fixture.writer(1, small_segments());
    writer.write_line(LogStream::Stdout, b"then");
    let now = roost_runtime::clock::now();
    let query = LogQuery::newest(fixture.app.clone(), 10);
    let future = LogQuery {
        since: Some(now.after(Duration::from_secs(60))),
        ..query.clone()
    };
    let past = LogQuery {
        until: Some(Timestamp::from_ms(now.as_ms() - 60_000)),
        ..query.clone()
    };
    let around = LogQuery {
        since: Some(Timestamp::from_ms(now.as_ms() - 60_000)),
        until: Some(now.after(Duration::from_secs(60))),
        ..query
    };
    assert!(fixture.messages(future).await.is_empty());
    assert!(fixture.messages(past).await.is_empty());
    assert_eq!(fixture.messages(around).await, ["then"]);
}

#[tokio::test]
async fn a_torn_last_line_and_damage_in_the_middle_are_skipped() {
    let fixture = Fixture::new();
    let mut writer = fixture.writer(1, LogLimits::default());
    writer.write_line(LogStream::Stdout, b"good");
    let dir = fixture
        .store
        .machine_dir(&fixture.app, &Fixture::machine(1));
    let path = crate::segment::segments(&dir).unwrap()[0].path.clone();
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"\x00\x01 no record\n").unwrap();
    writer.write_line(LogStream::Stdout, b"also good");
    file.write_all(b"{\"time\":\"20").unwrap();
    let messages = fixture
        .messages(LogQuery::newest(fixture.app.clone(), 10))
        .await;
    assert_eq!(messages, ["good", "also good"]);
}

#[tokio::test]
async fn an_app_without_logs_has_none_and_removing_them_is_fine() {
    let fixture = Fixture::new();
    assert!(
        fixture
            .messages(LogQuery::newest(fixture.app.clone(), 10))
            .await
            .is_empty()
    );
    fixture.store.remove_app(&fixture.app).await.unwrap();
    let mut writer = fixture.writer(1, LogLimits::default());
    writer.write_line(LogStream::Stdout, b"x");
    fixture
        .store
        .remove_machine(&fixture.app, &Fixture::machine(1))
        .await
        .unwrap();
    assert!(
        fixture
            .messages(LogQuery::newest(fixture.app.clone(), 10))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_follower_gets_the_newest_then_everything_across_rotation_and_new_machines() {
    let fixture = Fixture::new();
    let mut writer = fixture.writer(1, small_segments());
    for number in 0..10 {
        writer.write_line(LogStream::Stdout, format!("old {number}").as_bytes());
    }
    let mut stream = pin!(
        fixture
            .store
            .follow(LogQuery::newest(fixture.app.clone(), 2))
    );
    assert_eq!(next_messages(&mut stream, 2).await, ["old 8", "old 9"]);
    for number in 0..50 {
        writer.write_line(LogStream::Stdout, format!("new {number}").as_bytes());
    }
    let expected: Vec<String> = (0..50).map(|n| format!("new {n}")).collect();
    assert_eq!(next_messages(&mut stream, 50).await, expected);
    let mut other = fixture.writer(2, small_segments());
    other.write_line(LogStream::Stdout, b"of a new machine");
    assert_eq!(next_messages(&mut stream, 1).await, ["of a new machine"]);
}

#[tokio::test]
async fn a_follower_never_gives_half_a_line() {
    let fixture = Fixture::new();
    let mut writer = fixture.writer(1, LogLimits::default());
    writer.write_line(LogStream::Stdout, b"first");
    let mut stream = pin!(
        fixture
            .store
            .follow(LogQuery::newest(fixture.app.clone(), 1))
    );
    assert_eq!(next_messages(&mut stream, 1).await, ["first"]);
    let dir = fixture
        .store
        .machine_dir(&fixture.app, &Fixture::machine(1));
    let path = crate::segment::segments(&dir).unwrap()[0].path.clone();
    let line = std::fs::read(&path).unwrap();
    let (head, tail) = line.split_at(30);
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(head).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
    assert!(early.is_err(), "half a line was given out");
    file.write_all(tail).unwrap();
    assert_eq!(next_messages(&mut stream, 1).await, ["first"]);
}
