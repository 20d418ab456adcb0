//! The drivers of a node by rung, and which of them may start machines.
//!
//! A driver that the node has looks after every machine that was started on its
//! rung, whatever its standing; only a rung that is proven starts machines.
//! Standings change while the node runs: a rung may be proven long after the
//! start, since the proof boots a guest. Nobody waits while holding the lock.

use parking_lot::Mutex;
use roost_host::driver::{DriverError, MachineDriver};
use roost_model::machine::{Isolation, Rung};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Whether a rung may start machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The node has seen it work.
    Proven,
    /// It is being tried.
    Proving,
    /// It does not, for this reason.
    Refused(String),
}

/// A wish for isolation that the node does not grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("isolation `{isolation}` is refused on this node: {reason}; {advice}")]
pub struct IsolationRefused {
    /// What was asked for.
    isolation: &'static str,
    /// Why it is refused.
    reason: String,
    /// What to do.
    advice: String,
    /// Whether the rung is being tried, and may be granted in a moment.
    pub(crate) is_proving: bool,
}

#[derive(Debug, Clone)]
struct Slot {
    driver: Option<Arc<dyn MachineDriver>>,
    standing: Standing,
}

/// The drivers of a node. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Drivers {
    slots: Arc<Mutex<BTreeMap<Rung, Slot>>>,
    /// Told of every change.
    changed: Arc<Notify>,
}

impl Drivers {
    /// No drivers: every rung is refused as not set up.
    pub fn new() -> Self {
        let slot = Slot {
            driver: None,
            standing: Standing::Refused("it is not set up".into()),
        };
        let slots = Rung::ALL.map(|rung| (rung, slot.clone()));
        Self {
            slots: Arc::new(Mutex::new(slots.into())),
            changed: Arc::default(),
        }
    }

    /// Adds the driver of a rung, or replaces it with its standing.
    pub fn set(&self, driver: Arc<dyn MachineDriver>, standing: Standing) {
        let rung = driver.rung();
        let slot = Slot {
            driver: Some(driver),
            standing,
        };
        self.slots.lock().insert(rung, slot);
        self.changed.notify_waiters();
    }

    /// Changes what a rung may do, and keeps its driver.
    pub fn set_standing(&self, rung: Rung, standing: Standing) {
        if let Some(slot) = self.slots.lock().get_mut(&rung) {
            slot.standing = standing;
        }
        self.changed.notify_waiters();
    }

    /// Every rung, weakest first, with whether it may start machines.
    pub fn standings(&self) -> Vec<(Rung, Standing)> {
        let slots = self.slots.lock();
        slots
            .iter()
            .map(|(rung, slot)| (*rung, slot.standing.clone()))
            .collect()
    }

    /// The driver that starts a machine that asks for this.
    pub fn choose(&self, isolation: Isolation) -> Result<Arc<dyn MachineDriver>, IsolationRefused> {
        let slots = self.slots.lock();
        let mut reasons = Vec::new();
        let mut is_proving = false;
        for rung in isolation.rungs() {
            match slots.get(rung) {
                Some(Slot {
                    driver: Some(driver),
                    standing: Standing::Proven,
                }) => return Ok(Arc::clone(driver)),
                Some(Slot {
                    standing: Standing::Refused(reason),
                    ..
                }) => reasons.push(reason.clone()),
                Some(Slot {
                    driver: Some(_),
                    standing: Standing::Proving,
                }) => {
                    is_proving = true;
                    reasons.push("it is being tried with a first guest".into());
                }
                Some(_) | None => reasons.push("it is not set up".into()),
            }
        }
        let proven = slots
            .iter()
            .filter(|(_, slot)| slot.standing == Standing::Proven && slot.driver.is_some());
        let offered: Vec<String> = proven.map(|(rung, _)| format!("`{rung}`")).collect();
        let advice = match offered.as_slice() {
            [] => "no rung works here; `roost doctor` says what to change".to_owned(),
            offered => format!(
                "ask for {} instead, or see `roost doctor` for what to change",
                offered.join(" or ")
            ),
        };
        Err(IsolationRefused {
            isolation: isolation.as_str(),
            reason: reasons.join("; "),
            advice,
            is_proving,
        })
    }

    /// The same, once no proof is under way that could change the answer.
    pub(crate) async fn choose_when_tried(
        &self,
        isolation: Isolation,
    ) -> Result<Arc<dyn MachineDriver>, IsolationRefused> {
        loop {
            // Before the look, so that no change falls between the two.
            let changed = self.changed.notified();
            match self.choose(isolation) {
                Err(refused) if refused.is_proving => changed.await,
                chosen => return chosen,
            }
        }
    }

    /// The rung that a machine that asks for this would start on.
    pub(crate) fn rung_for(&self, isolation: Isolation) -> Rung {
        match (self.choose(isolation), isolation) {
            (Ok(driver), _) => driver.rung(),
            (Err(_), Isolation::Rung(rung)) => rung,
            (Err(_), Isolation::Default) => Rung::Container,
        }
    }

    /// The driver that looks after the machines of a rung.
    pub(crate) fn of(&self, rung: Rung) -> Result<Arc<dyn MachineDriver>, DriverError> {
        let slot = self.slots.lock().get(&rung).cloned();
        let driver = slot.and_then(|slot| slot.driver);
        driver.ok_or_else(|| DriverError::Host {
            operation: format!("look after a machine on the rung {rung}"),
            reason: "this node has no driver of that rung now".into(),
        })
    }

    /// Every driver.
    pub(crate) fn all(&self) -> Vec<Arc<dyn MachineDriver>> {
        let slots = self.slots.lock();
        slots
            .values()
            .filter_map(|slot| slot.driver.clone())
            .collect()
    }
}

impl Default for Drivers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Drivers, Standing};
    use roost_host::fake::FakeHost;
    use roost_model::machine::{Isolation, Rung};

    fn with(rungs: &[Rung]) -> Drivers {
        let drivers = Drivers::new();
        for rung in rungs {
            drivers.set(FakeHost::of_rung(*rung).driver(), Standing::Proven);
        }
        drivers
    }

    fn chosen(drivers: &Drivers, isolation: Isolation) -> Option<Rung> {
        drivers.choose(isolation).ok().map(|driver| driver.rung())
    }

    #[test]
    fn the_default_is_the_strongest_that_is_proven_and_never_emulation() {
        let drivers = with(&[Rung::Container, Rung::VmEmulated]);
        assert_eq!(chosen(&drivers, Isolation::Default), Some(Rung::Container));
        assert_eq!(chosen(&with(&[Rung::VmEmulated]), Isolation::Default), None);
        // Proven while the node runs.
        let vm = FakeHost::of_rung(Rung::Vm).driver();
        drivers.set(vm, Standing::Refused("no guest has booted yet".into()));
        assert_eq!(chosen(&drivers, Isolation::Default), Some(Rung::Container));
        drivers.set_standing(Rung::Vm, Standing::Proven);
        assert_eq!(chosen(&drivers, Isolation::Default), Some(Rung::Vm));
        assert_eq!(
            chosen(&drivers, Isolation::Rung(Rung::Container)),
            Some(Rung::Container)
        );
    }

    #[test]
    fn a_rung_asked_for_by_name_is_that_one_or_refused_with_what_to_do() {
        let drivers = with(&[Rung::Container, Rung::VmEmulated]);
        drivers.set_standing(
            Rung::Vm,
            Standing::Refused("KVM runs no stock guest".into()),
        );
        let refused = drivers.choose(Isolation::Rung(Rung::Vm)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "isolation `vm` is refused on this node: KVM runs no stock guest; ask for \
             `container` or `vm-emulated` instead, or see `roost doctor` for what to change"
        );
        assert_eq!(drivers.rung_for(Isolation::Rung(Rung::Vm)), Rung::Vm);
        let nothing = Drivers::new().choose(Isolation::Default).unwrap_err();
        assert!(nothing.to_string().contains("no rung works here"));
    }

    #[test]
    fn a_rung_that_is_refused_still_looks_after_its_machines() {
        let drivers = with(&[Rung::Vm]);
        drivers.set_standing(
            Rung::Vm,
            Standing::Refused("the kernel was replaced".into()),
        );
        assert_eq!(drivers.of(Rung::Vm).unwrap().rung(), Rung::Vm);
        assert!(drivers.of(Rung::Container).is_err());
        let refused = Standing::Refused("the kernel was replaced".into());
        assert_eq!(drivers.standings()[2], (Rung::Vm, refused));
    }
}
