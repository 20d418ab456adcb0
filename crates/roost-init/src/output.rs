//! What the app and init have written, kept until the node has it.
//!
//! Each piece has a number. A watcher begins at the number that it lacks; pieces
//! that were given to some watcher are kept a while, for one whose session breaks
//! before they arrive. When nobody fetches, the app waits in its next write: what
//! it says is not lost. Only init's own lines are dropped then, and counted.

use crate::clock;
use crate::limits::{
    OUTPUT_EVENT_COST_BYTES, OUTPUT_INIT_BYTES_MAX, OUTPUT_SENT_BYTES_MAX, OUTPUT_UNSENT_BYTES_MAX,
};
use bytes::Bytes;
use parking_lot::Mutex;
use roost_agent::proto::{AppExit, Output as OutputPiece, OutputStream, WatchEvent, watch_event};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// The output of the guest.
#[derive(Debug)]
pub(crate) struct Output {
    kept: Mutex<Kept>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    /// Number of the newest piece; the first has number 1.
    newest: u64,
    /// Number of the newest piece that was given to some watcher.
    sent_through: u64,
    sent_bytes: usize,
    unsent_bytes: usize,
    /// Bytes of init's lines that found no room.
    lost_bytes: u64,
    exit: Option<AppExit>,
    is_exit_sent: bool,
}

/// Who wrote a piece.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) stream: OutputStream,
    /// Name of the app's process; empty for the only one, and for init.
    pub(crate) process: Arc<str>,
}

#[derive(Debug)]
struct Piece {
    sequence: u64,
    source: Source,
    data: Bytes,
    time_unix_ns: i64,
}

impl Piece {
    fn cost(&self) -> usize {
        self.data.len() + OUTPUT_EVENT_COST_BYTES
    }
}

/// Where a watcher is.
#[derive(Debug)]
pub(crate) struct Cursor {
    next: u64,
    lost_bytes_told: u64,
    is_over: bool,
    changed: watch::Receiver<()>,
}

impl Output {
    /// Nothing written yet.
    pub(crate) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Keeps what the app has written; waits while there is no room.
    pub(crate) async fn write(&self, source: &Source, data: Bytes) {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut kept = self.kept.lock();
                if kept.unsent_bytes < OUTPUT_UNSENT_BYTES_MAX {
                    kept.push(source.clone(), data);
                    break;
                }
            }
            if changed.changed().await.is_err() {
                // The sender is in `self`.
                return;
            }
        }
        self.changed.send_replace(());
    }

    /// Keeps a line of init, if there is room.
    pub(crate) fn say(&self, line: &str) {
        {
            let mut kept = self.kept.lock();
            if kept.unsent_bytes < OUTPUT_UNSENT_BYTES_MAX + OUTPUT_INIT_BYTES_MAX {
                let line = Bytes::from(format!("{line}\n"));
                let source = Source {
                    stream: OutputStream::Init,
                    process: "".into(),
                };
                kept.push(source, line);
            } else {
                kept.lost_bytes += line.len() as u64 + 1;
            }
        }
        self.changed.send_replace(());
    }

    /// Keeps the end of the app: nothing of it follows.
    pub(crate) fn finish(&self, exit: AppExit) {
        self.kept.lock().exit = Some(exit);
        self.changed.send_replace(());
    }

    /// Begins to watch from this number on; those before it were received.
    pub(crate) fn watch(&self, from_sequence: u64) -> Cursor {
        self.kept.lock().mark_sent(from_sequence.saturating_sub(1));
        let cursor = Cursor {
            next: from_sequence.max(1),
            lost_bytes_told: 0,
            is_over: false,
            changed: self.changed.subscribe(),
        };
        self.changed.send_replace(());
        cursor
    }

    /// The next event for a watcher; `None` after the end of the app was told.
    ///
    /// Cancel-safe: an event is taken and given out without a pause between.
    pub(crate) async fn next(&self, cursor: &mut Cursor) -> Option<WatchEvent> {
        loop {
            if cursor.is_over {
                return None;
            }
            cursor.changed.mark_unchanged();
            let event = self.kept.lock().take(cursor);
            if let Some(event) = event {
                // There may be room now.
                self.changed.send_replace(());
                return Some(event);
            }
            cursor.changed.changed().await.ok()?;
        }
    }

    /// Waits until the end of the app, which comes after all output, was given to
    /// some watcher.
    pub(crate) async fn all_fetched(&self) {
        let mut changed = self.changed.subscribe();
        while !self.kept.lock().is_exit_sent {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Kept {
    fn push(&mut self, source: Source, data: Bytes) {
        self.newest += 1;
        let piece = Piece {
            sequence: self.newest,
            source,
            data,
            time_unix_ns: clock::now_unix_ns(),
        };
        self.unsent_bytes += piece.cost();
        self.pieces.push_back(piece);
    }

    fn take(&mut self, cursor: &mut Cursor) -> Option<WatchEvent> {
        // Pieces that were forgotten before this watcher came have no size any more.
        let oldest = self
            .pieces
            .front()
            .map_or(self.newest + 1, |piece| piece.sequence);
        cursor.next = cursor.next.clamp(oldest, self.newest + 1);
        if self.lost_bytes > cursor.lost_bytes_told {
            let lost_bytes = self.lost_bytes - cursor.lost_bytes_told;
            cursor.lost_bytes_told = self.lost_bytes;
            return Some(event(0, watch_event::Event::LostBytes(lost_bytes)));
        }
        let idx = usize::try_from(cursor.next - oldest).ok()?;
        if let Some(piece) = self.pieces.get(idx) {
            let output = OutputPiece {
                stream: piece.source.stream.into(),
                data: piece.data.clone(),
                time_unix_ns: piece.time_unix_ns,
                process: piece.source.process.to_string(),
            };
            let sequence = piece.sequence;
            cursor.next += 1;
            self.mark_sent(sequence);
            return Some(event(sequence, watch_event::Event::Output(output)));
        }
        let exit = self.exit.clone()?;
        cursor.is_over = true;
        self.is_exit_sent = true;
        Some(event(0, watch_event::Event::Exit(exit)))
    }

    fn mark_sent(&mut self, sequence: u64) {
        let sequence = sequence.min(self.newest);
        while self.sent_through < sequence {
            // Pieces that were not sent are kept, so they lie at the back.
            let n_unsent = self.newest - self.sent_through;
            let idx = usize::try_from(n_unsent).map(|n_unsent| self.pieces.len() - n_unsent);
            let cost = idx
                .ok()
                .and_then(|idx| self.pieces.get(idx))
                .map_or(0, Piece::cost);
            self.unsent_bytes -= cost;
            self.sent_bytes += cost;
            self.sent_through += 1;
        }
        while self.sent_bytes > OUTPUT_SENT_BYTES_MAX {
            let Some(piece) = self.pieces.pop_front() else {
                return;
            };
            self.sent_bytes -= piece.cost();
        }
    }
}

fn event(sequence: u64, event: watch_event::Event) -> WatchEvent {
    WatchEvent {
        sequence,
        event: Some(event),
    }
}

#[cfg(test)]
mod tests;
