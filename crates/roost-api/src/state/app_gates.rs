//! One gate for each app.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::RwLock;

/// The gates that somebody holds or waits for, by the ids of their apps.
#[derive(Debug, Default)]
pub(crate) struct AppGates(Mutex<HashMap<String, Arc<RwLock<()>>>>);

impl AppGates {
    /// The gate of an app, the same for all who have it at a time.
    pub(crate) fn of(&self, app_id: &str) -> Arc<RwLock<()>> {
        let mut gates = self.0.lock();
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(gates.entry(app_id.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::AppGates;

    #[test]
    fn an_app_has_one_gate_which_is_forgotten_when_nobody_has_it() {
        let gates = AppGates::default();
        let web = gates.of("app_1");
        let _deletion = web.try_write().unwrap();
        assert!(gates.of("app_1").try_read().is_err());
        assert!(gates.of("app_2").try_read().is_ok());
        let _third = gates.of("app_3");
        assert_eq!(gates.0.lock().len(), 2, "nobody has that of app_2");
    }
}
