//! The end of what a guest wrote to its console.
//!
//! The guest may write without end; only the tail is kept, in memory.

use crate::limits::{CONSOLE_QUOTE_BYTES, CONSOLE_TAIL_BYTES};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a guest kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic";

/// The kept tail. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Console {
    /// Reads a console until it ends.
    pub(crate) async fn follow(self, mut source: Box<dyn AsyncRead + Send + Unpin>) {
        let mut buffer = vec![0; 4 * 1024];
        while let Ok(n @ 1..) = source.read(&mut buffer).await {
            self.push(&buffer[..n]);
            // A guest that never pauses must not keep others from their turn.
            tokio::task::yield_now().await;
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock();
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(CONSOLE_TAIL_BYTES);
        tail.drain(..excess);
    }

    /// Whether the kernel has given up.
    pub(crate) fn has_panic(&self) -> bool {
        let tail = self.tail.lock();
        let bytes: Vec<u8> = tail.iter().copied().collect();
        bytes.windows(PANIC.len()).any(|window| window == PANIC)
    }

    /// The last lines for an error: printable, bounded.
    pub(crate) fn quote(&self) -> String {
        let tail = self.tail.lock();
        let skipped = tail.len().saturating_sub(CONSOLE_QUOTE_BYTES);
        let bytes: Vec<u8> = tail.iter().skip(skipped).copied().collect();
        let text: String = String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|char| *char == '\n' || !char.is_control())
            .collect();
        let text = text.trim();
        if text.is_empty() {
            "its console is empty".to_owned()
        } else {
            format!("its console ends: {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Console;
    use crate::limits::CONSOLE_TAIL_BYTES;

    #[test]
    fn a_flood_leaves_the_tail() {
        let console = Console::default();
        for _ in 0..100 {
            console.push(&[b'x'; 5_000]);
        }
        console.push(b"\nthe end\x1b[0m\n");
        assert_eq!(console.tail.lock().len(), CONSOLE_TAIL_BYTES);
        assert!(
            console.quote().ends_with("the end[0m"),
            "{}",
            console.quote()
        );
        assert!(!console.has_panic());
        console.push(b"Kernel panic - not syncing");
        assert!(console.has_panic());
    }
}
