//! What watchers get, and what is kept for them.

use super::{Cursor, Output, Source};
use crate::limits::{OUTPUT_INIT_BYTES_MAX, OUTPUT_SENT_BYTES_MAX, OUTPUT_UNSENT_BYTES_MAX};
use bytes::Bytes;
use futures_util::FutureExt as _;
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{AppExit, OutputStream, WatchEvent};

fn stdout() -> Source {
    Source {
        stream: OutputStream::Stdout,
        process: "2".into(),
    }
}

/// Writes what must find room at once.
fn write(output: &Output, data: &'static [u8]) {
    output
        .write(&stdout(), Bytes::from_static(data))
        .now_or_never()
        .unwrap();
}

fn next(output: &Output, cursor: &mut Cursor) -> Option<WatchEvent> {
    output.next(cursor).now_or_never().flatten()
}

fn data(event: &WatchEvent) -> &[u8] {
    match event.event.as_ref().unwrap() {
        Event::Output(output) => &output.data,
        Event::Exit(_) | Event::LostBytes(_) => b"",
    }
}

/// Writes until there is no room; returns how many pieces fitted.
fn fill(output: &Output) -> usize {
    let piece = Bytes::from(vec![b'x'; 1000]);
    let mut n = 0;
    while output
        .write(&stdout(), piece.clone())
        .now_or_never()
        .is_some()
    {
        n += 1;
        assert!(n < 10_000, "there is no bound");
    }
    n
}

#[test]
fn a_watcher_gets_pieces_in_order_then_the_end_and_no_more() {
    let output = Output::new();
    write(&output, b"one");
    write(&output, b"two");
    output.finish(AppExit {
        exit_code: 3,
        ..AppExit::default()
    });
    let mut cursor = output.watch(0);
    let events: Vec<_> = std::iter::from_fn(|| next(&output, &mut cursor)).collect();
    let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 0]);
    assert_eq!(
        (data(&events[0]), data(&events[1])),
        (&b"one"[..], &b"two"[..])
    );
    assert!(matches!(&events[2].event, Some(Event::Exit(exit)) if exit.exit_code == 3));
    assert!(output.all_fetched().now_or_never().is_some());
}

#[test]
fn what_was_under_way_when_a_session_broke_comes_again() {
    let output = Output::new();
    write(&output, b"one");
    write(&output, b"two");
    let mut first = output.watch(1);
    while next(&output, &mut first).is_some() {}
    let mut second = output.watch(2);
    let event = next(&output, &mut second).unwrap();
    assert_eq!((event.sequence, data(&event)), (2, &b"two"[..]));
}

#[test]
fn the_app_waits_while_nobody_fetches_and_nothing_is_lost() {
    let output = Output::new();
    let n = fill(&output);
    assert!(n * 1000 <= OUTPUT_UNSENT_BYTES_MAX + 1000);
    let mut cursor = output.watch(1);
    let event = next(&output, &mut cursor).unwrap();
    assert_eq!(event.sequence, 1);
    assert_eq!(fill(&output), 1, "one was fetched, one finds room");
    let mut n_fetched = 1;
    while let Some(event) = next(&output, &mut cursor) {
        n_fetched += 1;
        assert_eq!(event.sequence, n_fetched);
    }
    assert_eq!(n_fetched, n as u64 + 1);
}

#[test]
fn what_was_fetched_long_ago_is_forgotten() {
    let output = Output::new();
    let mut cursor = output.watch(1);
    let mut n = 0;
    for _ in 0..10 {
        n += fill(&output);
        while next(&output, &mut cursor).is_some() {}
    }
    let kept = output.kept.lock();
    assert!(kept.sent_bytes <= OUTPUT_SENT_BYTES_MAX);
    assert!(kept.pieces.len() < n);
    assert_eq!(kept.unsent_bytes, 0);
    drop(kept);
    // A watcher that asks for what is gone begins with what is left.
    let mut late = output.watch(1);
    assert!(next(&output, &mut late).unwrap().sequence > 1);
}

#[test]
fn only_lines_of_init_are_dropped_and_that_is_told() {
    let output = Output::new();
    fill(&output);
    for _ in 0..OUTPUT_INIT_BYTES_MAX {
        output.say("a line");
    }
    let mut cursor = output.watch(1);
    let first = next(&output, &mut cursor).unwrap();
    assert!(matches!(first.event, Some(Event::LostBytes(lost)) if lost > 0 && lost % 7 == 0));
    assert_eq!(next(&output, &mut cursor).unwrap().sequence, 1);
}

#[test]
fn a_number_that_never_was_is_no_harm() {
    let output = Output::new();
    write(&output, b"one");
    let mut cursor = output.watch(u64::MAX);
    assert!(next(&output, &mut cursor).is_none());
    write(&output, b"two");
    assert_eq!(next(&output, &mut cursor).unwrap().sequence, 2);
}
