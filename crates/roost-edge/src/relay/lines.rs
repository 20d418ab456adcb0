//! What the lines of loads and of tallies have in common, as they are told and as they are heard.

use crate::limits;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// A line that this edge tells, made once for all that follow it: at most each half pause, however
/// many ask, and as long as nothing has changed it stays the same one.
#[derive(Debug, Default)]
pub(super) struct OwnLine<K>(Mutex<Option<Made<K>>>);

#[derive(Debug)]
struct Made<K> {
    at: Instant,
    /// By which a change is known.
    key: K,
    line: Arc<str>,
}

impl<K: PartialEq> OwnLine<K> {
    /// The line to tell; `write` makes another one if `read` brings another key.
    pub(super) fn get(
        &self,
        read: impl FnOnce() -> K,
        write: impl FnOnce(&K) -> Arc<str>,
    ) -> Arc<str> {
        let mut last = self.0.lock();
        let at = Instant::now();
        if let Some(last) = &*last
            && at - last.at < limits::RELAY_LOADS_PAUSE / 2
        {
            return last.line.clone();
        }
        let key = read();
        let made = match last.take() {
            Some(last) if last.key == key => Made { at, ..last },
            _ => {
                let line = write(&key);
                Made { at, key, line }
            }
        };
        last.insert(made).line.clone()
    }
}

/// Refuses a line of another edge that is too long to be read.
pub(super) fn check_size(line: &str, what: &str, bytes_max: usize) -> Result<(), String> {
    let n_bytes = line.len();
    if n_bytes > bytes_max {
        return Err(format!(
            "its {what} have {n_bytes} bytes, which is too much"
        ));
    }
    Ok(())
}
