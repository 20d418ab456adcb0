//! Whether KVM is there, as far as can be told without running a guest.
//!
//! A device that answers proves nothing: under some hypervisors' own KVM
//! modules every call succeeds and a stock guest hangs before its first word.
//! So nothing here is called usable; that takes a guest that has run.

use std::path::Path;

/// What is known about KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// There is no device.
    Absent,
    /// It cannot run guests, for this reason.
    Unusable(String),
    /// Nothing speaks against it, and no guest has been run.
    Unproven,
}

/// Looks at the device and the modules behind it.
pub fn find_out() -> Kvm {
    let device = Path::new("/dev/kvm");
    if !device.exists() {
        return Kvm::Absent;
    }
    // Runs only guests with kernels patched for it.
    if Path::new("/sys/module/kvm_pvm").exists() {
        return Kvm::Unusable(
            "the kvm_pvm module runs only guests that are made for it".to_owned(),
        );
    }
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
    {
        Ok(_) => Kvm::Unproven,
        Err(error) => Kvm::Unusable(format!("open /dev/kvm: {error}")),
    }
}
