//! The end of what a guest wrote to its console.
//!
//! The guest may write without end; only the tail is kept, in memory.

use super::Vm;
use super::limits::{CONSOLE_QUOTE_BYTES, CONSOLE_TAIL_BYTES};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a guest kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic";

/// The kept tail. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Console {
    /// The console of a VM, and what has to be polled to read it; that ends
    /// with the console.
    pub fn of(vm: &mut dyn Vm) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let console = Self::default();
        let (source, reader) = (vm.take_console(), console.clone());
        let reading = async move {
            if let Some(source) = source {
                reader.read(source).await;
            }
        };
        (console, reading)
    }

    async fn read(&self, mut source: Box<dyn AsyncRead + Send + Unpin>) {
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
    pub fn has_panic(&self) -> bool {
        let mut tail = self.tail.lock();
        let bytes = tail.make_contiguous();
        bytes.windows(PANIC.len()).any(|window| window == PANIC)
    }

    /// The last lines for an error: printable, bounded, on one line.
    pub fn quote(&self) -> String {
        let mut tail = self.tail.lock();
        let skipped = tail.len().saturating_sub(CONSOLE_QUOTE_BYTES);
        let text = String::from_utf8_lossy(&tail.make_contiguous()[skipped..]).into_owned();
        let printable = |line: &str| line.chars().filter(|char| !char.is_control()).collect();
        let lines = text.lines().map(printable);
        let lines: Vec<String> = lines.filter(|line: &String| !line.is_empty()).collect();
        if lines.is_empty() {
            "its console is empty".to_owned()
        } else {
            format!("its console ends: {}", lines.join(" | "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CONSOLE_TAIL_BYTES, Console};

    #[test]
    fn a_flood_leaves_the_tail() {
        let console = Console::default();
        for _ in 0..100 {
            console.push(&[b'x'; 5_000]);
        }
        console.push(b"\r\n\r\nnearly\r\nthe end\x1b[0m\r\n");
        assert_eq!(console.tail.lock().len(), CONSOLE_TAIL_BYTES);
        let quote = console.quote();
        assert!(quote.ends_with("x | nearly | the end[0m"), "{quote}");
        assert!(!console.has_panic());
        console.push(b"Kernel panic - not syncing");
        assert!(console.has_panic());
    }
}
