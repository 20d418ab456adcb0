//! Bytes carried both ways between a client and a machine, until both have
//! ended or both are silent for too long.

use crate::limits;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::io::{InspectReader, InspectWriter};

/// Carries bytes both ways. The end of one direction is passed on, and the other goes on.
pub(crate) async fn carry<C, A>(client: C, mut app: A, idle: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let last = Last::new();
    // All bytes pass through the client's side, so watching one side watches both directions.
    let client = InspectWriter::new(client, |_: &[u8]| last.note());
    let mut client = InspectReader::new(client, |_: &[u8]| last.note());
    let size = limits::TUNNEL_BUFFER_BYTES;
    let copy = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut app, size, size);
    let mut copy = pin!(copy);
    // Beside the copy: when one direction has ended, that polls the other one only.
    loop {
        let over = last.at() + idle;
        tokio::select! {
            // An error is the end of one of the two connections; both are closed by dropping them.
            _ = &mut copy => return,
            () = sleep_until(over) => if last.at() + idle <= Instant::now() {
                return;
            }
        }
    }
}

/// When bytes were carried last.
struct Last {
    began: Instant,
    /// Milliseconds from then on.
    after: AtomicU64,
}

impl Last {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            after: AtomicU64::new(0),
        }
    }

    fn at(&self) -> Instant {
        self.began + Duration::from_millis(self.after.load(Ordering::Relaxed))
    }

    fn note(&self) {
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after.store(after, Ordering::Relaxed);
    }
}
