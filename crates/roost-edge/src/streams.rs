//! The streams of other edges, a task each. One whose edge takes nothing is reset.
//!
//! Over HTTP/1 such a client stops the writing to its connection, which
//! [`crate::activity`] sees. Over HTTP/2 it need only keep a window shut (RFC
//! 9113 5.2): hyper then holds a piece of the body, writes nothing, and polls
//! neither the body nor its timer until there is room. So the body notes here
//! that it gave a piece, and the task of the stream gives up when that note
//! grows old. Its end drops the body, which settles the exchange, and resets
//! the stream; the other streams of the connection go on.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

tokio::task_local! {
    /// When the body of this task's stream gave the piece that still waits for room.
    static WAITS_SINCE: Cell<Option<Instant>>;
}

/// The body of a response was polled; whether it gave a piece, which now waits
/// for room at the client until the next poll. Without effect over HTTP/1.
pub(crate) fn body_polled(gave_piece: bool) {
    // Over HTTP/1 there is no such task, and `Activity` watches the writing.
    let _ = WAITS_SINCE.try_with(|waits_since| waits_since.set(gave_piece.then(Instant::now)));
}

/// Runs the streams of a connection of another edge on a tracker.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) tracker: TaskTracker,
    /// For a client to take a piece of a body.
    pub(crate) body_idle: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let task = while_taken(stream, self.body_idle);
        self.tracker.spawn(WAITS_SINCE.scope(Cell::new(None), task));
    }
}

/// Runs a stream to its end, or until a piece of its body has waited for `limit`.
async fn while_taken(stream: impl Future, limit: Duration) {
    let mut stream = pin!(stream);
    let mut timer = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = WAITS_SINCE.with(Cell::get) else {
            timer = None;
            return Poll::Pending;
        };
        let deadline = since + limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn only_a_piece_that_waits_too_long_ends_a_stream() {
        let limit = Duration::from_secs(60);
        let stream = async {
            for _ in 0..10 {
                body_polled(true);
                sleep(limit / 2).await;
            }
            // The app is silent; its own limit is not this one's business.
            body_polled(false);
            sleep(limit * 10).await;
            body_polled(true);
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        let task = while_taken(stream, limit);
        WAITS_SINCE.scope(Cell::new(None), task).await;
        assert_eq!(begun.elapsed(), limit * (5 + 10 + 1));
    }
}
