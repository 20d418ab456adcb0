//! Whether KVM is there, proven by a guest that runs.
//!
//! A device that answers proves nothing: under some hypervisors' own KVM
//! modules every call succeeds and a stock guest hangs before its first word.
//! So a guest of one page is run: it computes, writes the result to a port,
//! and halts. It runs in a process of its own that is killed when its time is up.

use super::child::{self, Outcome};
use super::sys;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// A guest that works is done in less than a millisecond, on a busy host in some more.
const GUEST_LIMIT: Duration = Duration::from_secs(5);

/// What is known about KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// There is no device.
    Absent,
    /// It cannot run guests, for this reason.
    Unusable(String),
    /// A guest has run.
    Works,
}

/// Runs a guest. Blocks for at most [`GUEST_LIMIT`].
pub fn find_out() -> Kvm {
    let device = Path::new("/dev/kvm");
    if !device.exists() {
        return Kvm::Absent;
    }
    // Runs only guests with kernels patched for it, however well this one does.
    if Path::new("/sys/module/kvm_pvm").exists() {
        return Kvm::Unusable(
            "the kvm_pvm module runs only guests that are made for it".to_owned(),
        );
    }
    match run_guest(device, GUEST_LIMIT) {
        Ok(()) => Kvm::Works,
        Err(reason) => Kvm::Unusable(reason),
    }
}

/// Runs the guest on this device; says why it did not do what it should.
fn run_guest(device: &Path, limit: Duration) -> Result<(), String> {
    let device = File::options()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|error| format!("open {}: {error}", device.display()))?;
    match child::run(limit, || sys::run_guest(&device)) {
        Ok(Outcome::Done) => Ok(()),
        Ok(Outcome::Failed { step, error }) => Err(format!("{step}: {error}")),
        Ok(Outcome::Ended(how)) => Err(format!("the guest's process {how}")),
        Ok(Outcome::TimedOut) => Err(format!(
            "a guest of one page did not end within {} s",
            limit.as_secs()
        )),
        Err(error) => Err(format!("start a process: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kvm, find_out, run_guest};
    use std::path::Path;
    use std::time::{Duration, Instant};

    #[test]
    fn a_device_that_is_not_kvm_is_found_unusable_with_the_step_that_failed() {
        let reason = run_guest(Path::new("/dev/null"), Duration::from_secs(20)).unwrap_err();
        assert!(reason.starts_with("ask for KVM's version: "), "{reason}");
        let reason = run_guest(Path::new("/dev/none-such"), Duration::from_secs(20)).unwrap_err();
        assert!(reason.starts_with("open /dev/none-such: "), "{reason}");
    }

    #[test]
    fn the_answer_fits_the_host_and_comes_in_time() {
        let start = Instant::now();
        let found = find_out();
        assert!(start.elapsed() < Duration::from_secs(20), "it hangs");
        match found {
            Kvm::Absent => assert!(!Path::new("/dev/kvm").exists()),
            Kvm::Unusable(reason) => assert!(!reason.is_empty()),
            Kvm::Works => assert!(!Path::new("/sys/module/kvm_pvm").exists()),
        }
    }
}
