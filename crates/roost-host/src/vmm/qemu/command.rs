//! The command line of QEMU: from a VM's config to arguments.
//!
//! The guest sees the same devices on every machine type, in this order: the
//! agent's serial port, entropy, balloon, drives, network. A snapshot is
//! restored with the command line that it was made under.

use super::limits::TRANSLATION_CACHE_MIB;
use crate::vmm::kernel::KernelFlavor;
use crate::vmm::{Accelerator, Drive, DriveAccess, Nic, VmConfig};
use roost_agent::SERIAL_PORT;
use std::fmt::Write as _;
use std::os::fd::RawFd;

/// Where the kernel is in the jail.
pub(super) const KERNEL: &str = "/vm/vmlinux";
/// Where its initial file system is in the jail.
pub(super) const INITRAMFS: &str = "/vm/initramfs";

/// What QEMU must not do, by its own system call filter.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The descriptors that QEMU inherits, by their numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    /// A connected socket for the control channel.
    pub(super) control: RawFd,
    /// A connected socket for the console.
    pub(super) console: RawFd,
    /// A listening socket for the agent's stream.
    pub(super) agent: RawFd,
    /// The files of the drives.
    pub(super) drives: Vec<RawFd>,
    /// The queue of the tap device.
    pub(super) tap: Option<RawFd>,
}

/// How the guest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// By booting.
    Boot,
    /// From a stream that comes later; it stands still then.
    Incoming,
}

/// The machine types, each with the devices that the kernel finds on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// A PC with PCI. Debian's kernel finds devices by PCI and ACPI only, and
    /// `microvm` with ACPI hangs under emulation: it hides the clocks by which
    /// the guest calibrates its own.
    Q35,
    /// No PCI; devices by ACPI.
    MicrovmAcpi,
    /// No PCI; devices by the kernel command line.
    Microvm,
}

impl Machine {
    fn of(flavor: KernelFlavor, accelerator: Accelerator) -> Self {
        match (flavor, accelerator) {
            (KernelFlavor::Debian, Accelerator::Emulation) => Self::Q35,
            (KernelFlavor::Debian, Accelerator::Kvm) => Self::MicrovmAcpi,
            (KernelFlavor::Slim, Accelerator::Emulation | Accelerator::Kvm) => Self::Microvm,
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Q35 => "q35,usb=off,smm=off,vmport=off,i8042=off",
            Self::MicrovmAcpi => "microvm,acpi=on,isa-serial=on",
            Self::Microvm => "microvm,acpi=off,isa-serial=on",
        }
    }

    /// The name of a virtio device on its bus.
    fn device(self, kind: &str) -> String {
        match self {
            Self::Q35 => format!("virtio-{kind}-pci"),
            Self::MicrovmAcpi | Self::Microvm => format!("virtio-{kind}-device"),
        }
    }
}

/// The arguments for this VM.
pub(super) fn arguments(
    config: &VmConfig,
    accelerator: Accelerator,
    numbers: &Numbers,
    begin: Begin,
) -> Vec<String> {
    let machine = Machine::of(config.kernel.flavor, accelerator);
    let mut args = Arguments::default();
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.flag("-no-reboot");
    args.add("-display", "none");
    args.add("-sandbox", SANDBOX);
    args.add("-name", format!("{},debug-threads=on", config.name));
    add_board(&mut args, config, machine, accelerator);
    add_channels(&mut args, machine, numbers);
    for (position, (drive, number)) in config.drives.iter().zip(&numbers.drives).enumerate() {
        add_drive(&mut args, machine, position, drive, *number);
    }
    if let (Some(nic), Some(tap)) = (&config.nic, numbers.tap) {
        add_nic(&mut args, machine, nic, tap);
    }
    if begin == Begin::Incoming {
        args.add("-incoming", "defer");
        args.flag("-S");
    }
    args.0
}

/// What the kernel is told.
pub(super) fn kernel_arguments(accelerator: Accelerator) -> String {
    // A guest that panics or reboots is one that ends: the fault ends QEMU.
    let mut line = "console=ttyS0 quiet reboot=t panic=1".to_owned();
    // Free memory goes back to the host in pieces of 2 to this many pages. By
    // itself a kernel gives back pieces of 2 MiB, and none at all while less
    // than 32 of them are free: a guest of 128 MiB never would.
    line += " page_reporting.page_reporting_order=5";
    if accelerator == Accelerator::Emulation {
        // On a busy host the timer check misfires, and the guest panics. The
        // rest saves a quarter of the boot: there is no processor whose faults
        // could be mitigated, and a guest that only its owner attacks needs no
        // secret addresses.
        line += " no_timer_check tsc=reliable mitigations=off nokaslr cryptomgr.notests";
    }
    line
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }
}

fn add_board(args: &mut Arguments, config: &VmConfig, machine: Machine, accelerator: Accelerator) {
    let common = "memory-backend=ram,dump-guest-core=off,mem-merge=off";
    args.add("-machine", format!("{},{common}", machine.option()));
    if machine == Machine::Q35 {
        // Half the guest's time to its kernel's first instruction, against SeaBIOS.
        args.add("-bios", "qboot.rom");
    }
    match accelerator {
        Accelerator::Emulation => {
            let cache = TRANSLATION_CACHE_MIB;
            args.add("-accel", format!("tcg,thread=multi,tb-size={cache}"));
            args.add("-cpu", super::EMULATED_CPU);
        }
        Accelerator::Kvm => {
            args.add("-accel", "kvm");
            args.add("-cpu", "host");
        }
    }
    args.add("-smp", config.n_cpus.to_string());
    let bytes = config.memory.bytes();
    args.add("-m", format!("size={bytes}B"));
    // Memory without a name: of a shared file, what a restore finds to be zero
    // would have pages all the same.
    args.add(
        "-object",
        format!("memory-backend-ram,id=ram,size={bytes}B"),
    );
    args.add("-kernel", KERNEL);
    args.add("-initrd", INITRAMFS);
    args.add("-append", kernel_arguments(accelerator));
}

fn add_channels(args: &mut Arguments, machine: Machine, numbers: &Numbers) {
    args.add(
        "-chardev",
        format!("socket,id=control,fd={}", numbers.control),
    );
    args.add("-mon", "chardev=control,mode=control");
    args.add(
        "-chardev",
        format!("socket,id=console,fd={}", numbers.console),
    );
    args.add("-serial", "chardev:console");
    args.add(
        "-chardev",
        format!("socket,id=agent,fd={},server=on,wait=off", numbers.agent),
    );
    args.add(
        "-device",
        format!("{},max_ports=2", machine.device("serial")),
    );
    args.add(
        "-device",
        format!("virtserialport,chardev=agent,name={SERIAL_PORT}"),
    );
    args.add("-object", "rng-builtin,id=entropy");
    args.add("-device", format!("{},rng=entropy", machine.device("rng")));
    // Memory that the guest has freed goes back to the host.
    args.add(
        "-device",
        format!(
            "{},free-page-reporting=on,deflate-on-oom=on",
            machine.device("balloon")
        ),
    );
}

fn add_drive(
    args: &mut Arguments,
    machine: Machine,
    position: usize,
    drive: &Drive,
    number: RawFd,
) {
    // A set of descriptors stands for a path: sets are numbered from 1.
    let set = position + 1;
    args.add("-add-fd", format!("fd={number},set={set}"));
    let mut option =
        format!("if=none,id=drive{position},file=/dev/fdset/{set},format=raw,file.locking=off");
    option += match drive.access {
        DriveAccess::ReadOnly => ",readonly=on",
        // What the guest discards is a hole in the file again.
        DriveAccess::ReadWrite => ",auto-read-only=off,discard=unmap",
    };
    if let Some(limit) = drive.limit {
        let (bytes, operations) = (limit.bytes_per_second, limit.operations_per_second);
        let burst = u64::from(limit.burst_seconds.max(1));
        let (bytes_max, operations_max) = (
            bytes.saturating_mul(burst),
            operations.saturating_mul(burst),
        );
        // Writing to a `String` cannot fail.
        let _ = write!(
            option,
            ",throttling.bps-total={bytes},throttling.bps-total-max={bytes_max}\
             ,throttling.iops-total={operations},throttling.iops-total-max={operations_max}"
        );
    }
    args.add("-drive", option);
    // A full host disk is an error for the guest to see; by itself QEMU would
    // stop the guest until somebody lets it go on.
    args.add(
        "-device",
        format!(
            "{},drive=drive{position},werror=report,rerror=report",
            machine.device("blk")
        ),
    );
}

fn add_nic(args: &mut Arguments, machine: Machine, nic: &Nic, tap: RawFd) {
    args.add("-netdev", format!("tap,id=net0,fd={tap}"));
    let address = nic.hardware_address.map(|byte| format!("{byte:02x}"));
    let mut option = format!(
        "{},netdev=net0,mac={}",
        machine.device("net"),
        address.join(":")
    );
    if machine == Machine::Q35 {
        // No boot code of its own, which is in another package too.
        option += ",romfile=";
    }
    args.add("-device", option);
}

#[cfg(test)]
mod tests {
    use super::{Begin, Machine, Numbers, arguments, kernel_arguments};
    use crate::vmm::kernel::{GuestKernel, KernelFlavor};
    use crate::vmm::{Accelerator, Drive, DriveAccess, DriveLimit, Nic, VmConfig, VmOwner};
    use roost_model::size::ByteSize;

    fn config(flavor: KernelFlavor) -> VmConfig {
        VmConfig {
            name: "mch_1".into(),
            dir: "/run/vm".into(),
            owner: VmOwner {
                uid: 70_000,
                gid: 70_000,
            },
            cgroup: None,
            n_cpus: 2,
            memory: ByteSize::mib(256),
            kernel: GuestKernel {
                id: "k".into(),
                release: "6.12".into(),
                flavor,
                vmlinux: "/k/vmlinux".into(),
                initramfs: "/k/initramfs".into(),
            },
            drives: vec![
                Drive {
                    path: "/root.erofs".into(),
                    access: DriveAccess::ReadOnly,
                    limit: None,
                },
                Drive {
                    path: "/scratch".into(),
                    access: DriveAccess::ReadWrite,
                    limit: Some(DriveLimit {
                        bytes_per_second: 1_000_000,
                        operations_per_second: 500,
                        burst_seconds: 3,
                    }),
                },
            ],
            nic: Some(Nic {
                tap: "tap0".into(),
                hardware_address: [2, 0, 0, 0, 0xab, 1],
            }),
        }
    }

    fn line(flavor: KernelFlavor, accelerator: Accelerator, begin: Begin) -> String {
        let numbers = Numbers {
            control: 10,
            console: 11,
            agent: 12,
            drives: vec![13, 14],
            tap: Some(15),
        };
        arguments(&config(flavor), accelerator, &numbers, begin).join(" ")
    }

    #[test]
    fn each_kernel_gets_a_machine_on_which_it_finds_its_devices() {
        use Accelerator::{Emulation, Kvm};
        let machine = |flavor, accelerator| Machine::of(flavor, accelerator);
        assert_eq!(machine(KernelFlavor::Debian, Emulation), Machine::Q35);
        assert_eq!(machine(KernelFlavor::Debian, Kvm), Machine::MicrovmAcpi);
        assert_eq!(machine(KernelFlavor::Slim, Emulation), Machine::Microvm);
        let debian = line(KernelFlavor::Debian, Emulation, Begin::Boot);
        assert!(debian.contains("-device virtio-blk-pci,drive=drive0"));
        let slim = line(KernelFlavor::Slim, Emulation, Begin::Boot);
        assert!(slim.contains("-device virtio-blk-device,drive=drive0"));
        assert!(!slim.contains("qboot.rom") && !slim.contains("-pci"));
    }

    #[test]
    fn a_shared_drive_cannot_be_written_and_a_limit_is_passed_on() {
        let line = line(KernelFlavor::Debian, Accelerator::Emulation, Begin::Boot);
        assert!(line.contains("/dev/fdset/1,format=raw,file.locking=off,readonly=on -device"));
        assert!(line.contains("throttling.bps-total=1000000,throttling.bps-total-max=3000000"));
        assert!(line.contains("throttling.iops-total=500,throttling.iops-total-max=1500"));
        assert!(line.contains("-add-fd fd=14,set=2"));
        assert!(line.contains("mac=02:00:00:00:ab:01,romfile="));
    }

    #[test]
    fn what_is_only_safe_without_a_processor_is_for_emulation_only() {
        assert!(kernel_arguments(Accelerator::Emulation).contains("mitigations=off"));
        let kvm = kernel_arguments(Accelerator::Kvm);
        assert!(!kvm.contains("mitigations") && !kvm.contains("nokaslr"));
        assert!(!kvm.contains("tsc=") && !kvm.contains("no_timer_check"));
    }

    #[test]
    fn a_restored_guest_stands_still_and_has_the_same_devices() {
        let boot = line(KernelFlavor::Debian, Accelerator::Emulation, Begin::Boot);
        let restored = line(
            KernelFlavor::Debian,
            Accelerator::Emulation,
            Begin::Incoming,
        );
        assert_eq!(restored, format!("{boot} -incoming defer -S"));
    }
}
