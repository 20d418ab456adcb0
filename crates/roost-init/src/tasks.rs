//! Work that goes on when the call that began it has returned.
//!
//! A guest has one owner of all of it; nothing of it is cancelled but by the
//! end of the guest.

use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The tasks of this guest. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Runs `future` to its end.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock();
        // Those that have ended need no room.
        while set.try_join_next().is_some() {}
        set.spawn(future);
    }
}
