//! Machines that this process is changing or removing just now. What their nodes list of them may
//! be from before that, so reconcilers leave them alone.

use super::Fleet;
use roost_model::id::MachineId;

/// A change or removal of a machine, until it is dropped.
pub(super) struct UnderWay<'a> {
    fleet: &'a Fleet,
    machine: &'a MachineId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let under_way = &mut self.fleet.nodes.lock().under_way;
        if let Some(n_begun) = under_way.get_mut(self.machine) {
            *n_begun -= 1;
            if *n_begun == 0 {
                under_way.remove(self.machine);
            }
        }
    }
}

impl Fleet {
    /// Notes that a machine is being changed or removed.
    pub(super) fn begin<'a>(&'a self, machine: &'a MachineId) -> UnderWay<'a> {
        let mut nodes = self.nodes.lock();
        *nodes.under_way.entry(machine.clone()).or_default() += 1;
        UnderWay {
            fleet: self,
            machine,
        }
    }

    /// Whether a change or the removal of a machine is under way in this process.
    pub(crate) fn is_under_way(&self, machine: &MachineId) -> bool {
        self.nodes.lock().under_way.contains_key(machine)
    }
}
