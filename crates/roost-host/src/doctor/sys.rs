//! System calls of the checks that have no safe wrapper.
//!
//! What begins with `try_` or `run_` is for a child made by [`fork`]: it makes
//! system calls only and allocates nothing, because other threads of the old
//! process may have held the allocator's lock.

#![expect(
    unsafe_code,
    reason = "the one place of this crate for system calls without a safe wrapper"
)]

use super::child::Failure;
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the process id of the new one.
    Parent(rustix::process::Pid),
}

/// Forks this process. The child must only make system calls, and end with [`exit_now`].
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: by the contract above, which all callers (below `doctor`) keep,
    // the child touches no lock that another thread may have held.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => rustix::process::Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::other("fork returned no process id")),
    }
}

/// Ends this process at once, without destructors or exit handlers.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Writes a few bytes to a descriptor that was opened before a fork.
pub(super) fn write_raw(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice; a bad
    // descriptor only makes the call fail, which is the other side's news.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Gives this process new namespaces of its own.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: no caller unshares the file descriptor table (`UnshareFlags::FILES`),
    // which is the unsound case.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Maps the owners of a detached mount through a user namespace.
pub(super) fn map_mount_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).unwrap_or(u64::MAX),
    };
    // SAFETY: the path is a terminated string, the attributes are a live
    // `mount_attr` of the size given, and both descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Has one system call answered with an error of choice, and makes it.
pub(super) fn try_seccomp() -> Result<(), Failure> {
    const STEP: &str = "set a system call filter";
    const REFUSED: u16 = 77;
    let statement = |code: u32, jump_true: u8, operand: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt: jump_true,
        jf: 0,
        k: operand,
    };
    let number = u32::try_from(libc::SYS_getppid).unwrap_or(u32::MAX);
    // The number of the call is the first field of `seccomp_data`.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | u32::from(REFUSED),
        ),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    rustix::thread::set_no_new_privs(true)
        .map_err(|errno| Failure::new("give up new privileges", errno))?;
    // SAFETY: the program and its four statements are alive for the call, which copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result != 0 {
        return Err(Failure::new(STEP, last_errno()));
    }
    // SAFETY: `getppid` has no arguments and no preconditions.
    let answer = unsafe { libc::syscall(libc::SYS_getppid) };
    if answer == -1 && last_errno().raw_os_error() == i32::from(REFUSED) {
        Ok(())
    } else {
        Err(Failure::new("have a system call refused", Errno::PROTO))
    }
}

/// Runs a guest of one page on an open `/dev/kvm`.
#[cfg(target_arch = "x86_64")]
pub(super) fn run_guest(device: &std::fs::File) -> Result<(), Failure> {
    guest::run(device.as_raw_fd())
}

/// There is no such guest for this kind of processor yet.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn run_guest(_device: &std::fs::File) -> Result<(), Failure> {
    Err(Failure::new(
        "run a guest on this kind of processor",
        Errno::NOSYS,
    ))
}

/// The guest: numbers and layouts are those of the kernel's `linux/kvm.h`.
#[cfg(target_arch = "x86_64")]
mod guest {
    use super::{Failure, last_errno};
    use rustix::io::Errno;
    use std::os::fd::RawFd;

    const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
    const KVM_CREATE_VM: libc::c_ulong = 0xAE01;
    const KVM_GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xAE04;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xAE41;
    const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_AE46;
    const KVM_SET_TSS_ADDR: libc::c_ulong = 0xAE47;
    const KVM_RUN: libc::c_ulong = 0xAE80;
    const KVM_SET_REGS: libc::c_ulong = 0x4090_AE82;
    const KVM_GET_SREGS: libc::c_ulong = 0x8138_AE83;
    const KVM_SET_SREGS: libc::c_ulong = 0x4138_AE84;
    /// The one version since 2007.
    const API_VERSION: libc::c_int = 12;
    const EXIT_IO: u32 = 2;
    const EXIT_HLT: u32 = 5;

    const PAGE_BYTES: usize = 4096;
    /// Below the end of the address space, where nothing is (as other users of KVM do).
    const TSS_ADDRESS: libc::c_ulong = 0xFFFB_D000;
    const CODE_ADDRESS: u64 = 0x1000;
    const PORT: u16 = 0x3F8;
    /// `mov dx, 0x3f8; add al, bl; out dx, al; hlt`
    const CODE: [u8; 7] = [0xBA, 0xF8, 0x03, 0x00, 0xD8, 0xEE, 0xF4];
    const SUMMANDS: [u64; 2] = [19, 23];
    const SUM: u8 = 42;

    /// `struct kvm_userspace_memory_region`
    #[repr(C)]
    struct Region {
        slot: u32,
        flags: u32,
        guest_address: u64,
        n_bytes: u64,
        address: u64,
    }

    /// `struct kvm_run` as far as it is looked at here.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Run {
        request: [u8; 8],
        exit_reason: u32,
        flags: [u8; 20],
        io_direction: u8,
        io_size: u8,
        io_port: u16,
        io_count: u32,
        io_offset: u64,
    }

    fn check(step: &'static str, result: libc::c_int) -> Result<libc::c_int, Failure> {
        if result < 0 {
            Err(Failure::new(step, last_errno()))
        } else {
            Ok(result)
        }
    }

    fn map(step: &'static str, n_bytes: usize, flags: i32, fd: RawFd) -> Result<*mut u8, Failure> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice replaces no other.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), n_bytes, protection, flags, fd, 0) };
        if place == libc::MAP_FAILED {
            return Err(Failure::new(step, last_errno()));
        }
        Ok(place.cast())
    }

    /// Descriptors and mappings stay as they are: the process ends next.
    pub(super) fn run(kvm: RawFd) -> Result<(), Failure> {
        // SAFETY: takes no argument; a descriptor that is not KVM's makes it fail.
        let version = unsafe { libc::ioctl(kvm, KVM_GET_API_VERSION, 0) };
        if check("ask for KVM's version", version)? != API_VERSION {
            return Err(Failure::new("ask for KVM's version", Errno::NOSYS));
        }
        // SAFETY: the argument is a number, the default type of machine.
        let vm = check("make a guest", unsafe {
            libc::ioctl(kvm, KVM_CREATE_VM, 0)
        })?;
        // SAFETY: the argument is a number. Needed by some processors and
        // refused by others, so the result is of no interest.
        unsafe { libc::ioctl(vm, KVM_SET_TSS_ADDR, TSS_ADDRESS) };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = map("make the guest's memory", PAGE_BYTES, flags, -1)?;
        // SAFETY: the page is mapped, writable, and longer than the code.
        unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), page, CODE.len()) };
        let region = Region {
            slot: 0,
            flags: 0,
            guest_address: CODE_ADDRESS,
            n_bytes: PAGE_BYTES as u64,
            address: page.addr() as u64,
        };
        // SAFETY: the region is alive for the call; its page stays mapped as long as the guest is.
        let result = unsafe { libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &raw const region) };
        check("give the guest memory", result)?;
        // SAFETY: the argument is a number.
        let vcpu = unsafe { libc::ioctl(vm, KVM_CREATE_VCPU, 0) };
        let vcpu = check("make a processor", vcpu)?;
        set_registers(vcpu)?;
        // SAFETY: takes no argument.
        let n_bytes = unsafe { libc::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0) };
        let n_bytes = check("ask for the size of a processor", n_bytes)?;
        let n_bytes = usize::try_from(n_bytes).unwrap_or_default();
        if n_bytes < size_of::<Run>() {
            return Err(Failure::new(
                "ask for the size of a processor",
                Errno::PROTO,
            ));
        }
        let state = map("map the processor", n_bytes, libc::MAP_SHARED, vcpu)?;
        watch(vcpu, state, n_bytes)
    }

    fn set_registers(vcpu: RawFd) -> Result<(), Failure> {
        // `struct kvm_sregs`; the code segment is the first of it: base, limit, selector.
        let mut special = [0_u64; 39];
        // SAFETY: the array has the size of the structure that the kernel writes.
        let result = unsafe { libc::ioctl(vcpu, KVM_GET_SREGS, special.as_mut_ptr()) };
        check("read the processor's registers", result)?;
        special[0] = 0;
        // The selector is the third pair of bytes of its word; the limit before it stays.
        special[1] &= !(0xFFFF << 32);
        // SAFETY: as above; the kernel reads.
        let result = unsafe { libc::ioctl(vcpu, KVM_SET_SREGS, special.as_ptr()) };
        check("set the processor's registers", result)?;
        // `struct kvm_regs`: rax, rbx, ... (16 of them), rip, rflags (bit 1 is always set).
        let mut general = [0_u64; 18];
        general[0] = SUMMANDS[0];
        general[1] = SUMMANDS[1];
        general[16] = CODE_ADDRESS;
        general[17] = 2;
        // SAFETY: the array has the size of the structure that the kernel reads.
        let result = unsafe { libc::ioctl(vcpu, KVM_SET_REGS, general.as_ptr()) };
        check("set the processor's registers", result).map(drop)
    }

    /// Runs the processor until it halts, which it must after it wrote the sum.
    fn watch(vcpu: RawFd, state: *mut u8, n_bytes: usize) -> Result<(), Failure> {
        let wrong = Err(Failure::new("have the guest add two numbers", Errno::PROTO));
        let mut sum = None;
        // One exit for the port and one for the halt; a few more for signals.
        for _ in 0..16 {
            // SAFETY: takes no argument; the state of the processor is mapped.
            if unsafe { libc::ioctl(vcpu, KVM_RUN, 0) } < 0 {
                match last_errno() {
                    Errno::INTR | Errno::AGAIN => continue,
                    errno => return Err(Failure::new("run the guest", errno)),
                }
            }
            // SAFETY: the mapping is page-aligned, longer than `Run`, and not
            // written by the kernel while the processor does not run.
            let run = unsafe { state.cast::<Run>().read_volatile() };
            match run.exit_reason {
                EXIT_IO if run.io_port == PORT && run.io_size == 1 => {
                    let offset = usize::try_from(run.io_offset).unwrap_or(usize::MAX);
                    if offset >= n_bytes {
                        return wrong;
                    }
                    // SAFETY: the offset lies within the mapping.
                    sum = Some(unsafe { state.add(offset).read_volatile() });
                }
                EXIT_HLT if sum == Some(SUM) => return Ok(()),
                _ => return wrong,
            }
        }
        wrong
    }
}
