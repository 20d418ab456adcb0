//! Content that is in use right now and must not be collected.

use parking_lot::{Mutex, MutexGuard};
use roost_model::digest::Digest;
use std::collections::HashMap;
use std::sync::Arc;

/// How many pins each digest has. Bounded by the operations in flight.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins {
    counts: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Pins {
    pub(super) fn pin(&self, digest: &Digest) -> Pin {
        *self.counts.lock().entry(digest.clone()).or_insert(0) += 1;
        Pin {
            pins: self.clone(),
            digest: digest.clone(),
        }
    }

    /// No pin is added or removed while the guard lives.
    pub(super) fn freeze(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.counts.lock()
    }
}

/// Keeps one digest from being collected until dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.pins.counts.lock();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}
