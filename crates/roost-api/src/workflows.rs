//! Work that goes on after the answer and survives a crash.

pub(crate) mod deploy;

/// Ends a workflow as a crash would: just before its n-th journal write.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct KillSwitch {
    writes_left: parking_lot::Mutex<Option<u32>>,
    pub(crate) fired: tokio::sync::Notify,
    /// Told whenever a deployment found the disk full.
    pub(crate) found_full: tokio::sync::Notify,
}

#[cfg(test)]
impl KillSwitch {
    /// Lets `n` journal writes through; the next one never happens.
    pub(crate) fn after(&self, n: u32) {
        *self.writes_left.lock() = Some(n);
    }

    /// Called before each journal write; never returns once the switch has fired.
    pub(crate) async fn pass(&self) {
        let fire = match &mut *self.writes_left.lock() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if fire {
            self.fired.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
