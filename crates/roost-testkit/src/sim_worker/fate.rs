//! What becomes of simulated machines.

use super::Inner;
use roost_model::machine::MachineSpec;

/// What becomes of a machine that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its checks pass.
    Healthy,
    /// It runs, and its checks fail; it listens on 127.0.0.1:3000.
    Unhealthy,
    /// Its process ends with exit code 1.
    Exits,
    /// It is on its way to start and stays there.
    Hangs,
}

impl Inner {
    /// By the machine's name, else by its image.
    pub(super) fn fate(&self, spec: &MachineSpec) -> Fate {
        let by_name = self.fates.get(spec.name.as_str());
        let fate = by_name.or_else(|| self.fates.get(&spec.image.repository));
        fate.copied().unwrap_or(Fate::Healthy)
    }
}
