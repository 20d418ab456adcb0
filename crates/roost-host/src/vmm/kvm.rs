//! The contract on KVM, for both hypervisors.
//!
//! Run by `scripts/test-kvm` inside an emulated machine, which has a KVM that
//! works, and which says so by `ROOST_TEST_KVM=1`. A `/dev/kvm` that is merely
//! there proves nothing.

use super::contract::{self, Fixture, guest};
use super::firecracker::{FilterPolicy, Firecracker, FirecrackerOptions};
use super::kernel::KernelSource;
use super::qemu::Qemu;
use super::{Accelerator, Hypervisor, VmOwner};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A user that nobody else is.
const OWNER: VmOwner = VmOwner {
    uid: 1_879_048_195,
    gid: 1_879_048_195,
};
/// A boot takes 20 s where KVM itself is emulated, on an idle host.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn qemu_keeps_the_contract_on_kvm() {
    if let Some(folder) = guest_folder() {
        check(&folder, Box::new(Qemu::new(None, Accelerator::Kvm)), None);
    }
}

#[test]
fn firecracker_keeps_the_contract() {
    let Some(program) = std::env::var_os("ROOST_FIRECRACKER").map(PathBuf::from) else {
        println!("skipped: no Firecracker given as ROOST_FIRECRACKER");
        return;
    };
    let Some(folder) = guest_folder() else { return };
    let firecracker = Firecracker::new(FirecrackerOptions {
        jailer: std::env::var_os("ROOST_JAILER").map(PathBuf::from),
        firecracker: Some(program),
        filter: FilterPolicy::Required,
        region: "test".to_owned(),
    });
    let vsock_serve = folder.join("vsock-serve");
    check(&folder, Box::new(firecracker), Some(&vsock_serve));
}

/// Where the guest's kernel is; `None`, with the reason printed, where KVM is not
/// known to work.
fn guest_folder() -> Option<PathBuf> {
    if std::env::var_os("ROOST_TEST_KVM").is_none() {
        println!("skipped: KVM is tested inside an emulated machine, by make test-kvm");
        return None;
    }
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-kernel"))
}

fn check(folder: &Path, hypervisor: Box<dyn Hypervisor>, vsock_serve: Option<&Path>) {
    let dir = tempfile::tempdir().unwrap();
    let source = KernelSource::in_folder(folder, guest::BUSYBOX.into()).unwrap();
    contract::enter_namespaces();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let fixture = Fixture {
            hypervisor,
            kernel: guest::kernel(dir.path(), source, vsock_serve).await,
            owner: OWNER,
            dir: dir.path().to_owned(),
            limit: LIMIT,
        };
        contract::check_all(&fixture).await;
    });
}
