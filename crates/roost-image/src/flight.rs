//! One piece of work at a time per digest: who comes second waits and finds it done.

use parking_lot::Mutex;
use roost_model::digest::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Held by whoever works on a digest. May be moved into a blocking task.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// The digests that are being worked on. Bounded by the work in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    locks: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

impl Flights {
    /// Waits until nobody else works on `digest`.
    ///
    /// Who takes several turns takes them in the order of the digests.
    pub(crate) async fn turn(&self, digest: &Digest) -> Turn {
        self.lock_of(digest).lock_owned().await
    }

    /// The turn for `digest`, unless somebody else works on it.
    pub(crate) fn try_turn(&self, digest: &Digest) -> Option<Turn> {
        self.lock_of(digest).try_lock_owned().ok()
    }

    fn lock_of(&self, digest: &Digest) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::new(AsyncMutex::new(()));
            locks.insert(digest.clone(), Arc::downgrade(&lock));
            lock
        })
    }
}
