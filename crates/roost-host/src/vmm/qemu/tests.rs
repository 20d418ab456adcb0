//! QEMU as it is installed here, with the kernel of `scripts/guest-kernel`.

use super::{Qemu, check_version};
use crate::vmm::contract::{self, Fixture, guest};
use crate::vmm::kernel::{KernelFlavor, KernelSource};
use crate::vmm::{Accelerator, Hypervisor as _, VmOwner};
use std::path::Path;
use std::time::Duration;

/// A user that nobody else is.
const OWNER: VmOwner = VmOwner {
    uid: 1_879_048_192,
    gid: 1_879_048_192,
};
/// A boot takes 4 s of processor time.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn versions_from_7_2_on_are_taken() {
    let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright\n";
    assert_eq!(check_version(debian).unwrap(), "7.2.22");
    assert_eq!(
        check_version("QEMU emulator version 10.0.2\n").unwrap(),
        "10.0.2"
    );
}

#[test]
fn an_older_version_is_refused_with_what_to_install() {
    let error = check_version("QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg)\n").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("QEMU 5.2.0 is not supported; 7.2 or later is"),
        "{error}"
    );
    assert!(error.to_string().contains("`qemu-system-x86`"));
    check_version("BusyBox v1.35").unwrap_err();
    check_version("QEMU emulator version 7\n").unwrap_err();
}

#[test]
fn qemu_keeps_the_contract() {
    let Some(host) = Host::find() else { return };
    contract::enter_namespaces();
    host.run(async |fixture| contract::check_all(fixture).await);
}

#[test]
fn the_machine_of_a_slim_kernel_starts() {
    let Some(host) = Host::find() else { return };
    host.run(async |fixture| {
        let mut config = fixture.config("slim");
        // What would tell it of its devices is missing in this kernel: it
        // boots, but nothing can be said to it.
        config.kernel.flavor = KernelFlavor::Slim;
        let mut vm = fixture.hypervisor.launch(&config).await.unwrap();
        vm.kill().await.unwrap();
    });
}

#[test]
fn the_kvm_device_is_open_to_the_process() {
    let Some(host) = Host::find() else { return };
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: no /dev/kvm");
        return;
    }
    host.run(async |fixture| {
        let qemu = Qemu::new(None, Accelerator::Kvm);
        // Whether the guest gets anywhere is not the question here.
        let mut vm = qemu.launch(&fixture.config("kvm")).await.unwrap();
        vm.kill().await.unwrap();
    });
}

/// What these tests need of the host.
struct Host {
    qemu: Qemu,
    kernel: KernelSource,
}

impl Host {
    /// `None`, with the reason printed, where something is missing.
    fn find() -> Option<Self> {
        let skip = |reason: &str| {
            println!("skipped: {reason}");
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("not root");
        }
        let qemu = Qemu::new(None, Accelerator::Emulation);
        if let Err(error) = runtime().block_on(qemu.facts()) {
            return skip(&error.to_string());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-kernel");
        if !folder.join("vmlinuz").exists() {
            return skip("no guest kernel; run scripts/guest-kernel");
        }
        if !Path::new(guest::BUSYBOX).exists() {
            return skip("no static busybox; install the Debian package `busybox-static`");
        }
        let kernel = KernelSource::in_folder(&folder, guest::BUSYBOX.into()).unwrap();
        Some(Self { qemu, kernel })
    }

    fn run(self, check: impl AsyncFnOnce(&Fixture)) {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let fixture = Fixture {
                hypervisor: Box::new(self.qemu),
                kernel: guest::kernel(dir.path(), self.kernel, None).await,
                owner: OWNER,
                dir: dir.path().to_owned(),
                limit: LIMIT,
            };
            check(&fixture).await;
        });
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
