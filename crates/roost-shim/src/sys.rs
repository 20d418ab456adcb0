//! System calls that have no safe wrapper, each with the reason why it is sound here.
//!
//! The shim has one thread: that is what makes `fork` and `unshare` sound.

#![expect(
    unsafe_code,
    reason = "the one place of this crate for system calls without a safe wrapper"
)]

use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the process id of the new one.
    Parent(rustix::process::Pid),
}

/// Forks this process, which must have one thread.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the shim never starts a thread, so no lock can be held by one
    // that does not exist in the child, and the child may allocate.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => rustix::process::Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::other("fork returned no process id")),
    }
}

/// Ends this process at once, without destructors or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives this process new namespaces of its own.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the caller does not unshare the file descriptor table
    // (`UnshareFlags::FILES`), which is the unsound case.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Maps the owners of a detached mount through a user namespace.
pub(crate) fn map_mount_ids(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?,
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
        Err(io::Error::last_os_error())
    }
}

/// Replaces this program; returns only on failure.
///
/// Signals get their default effect back: a Rust program ignores SIGPIPE, and
/// what is ignored stays so in the next program.
pub(crate) fn execute(program: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| {
        let mut list: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let (args, env) = (pointers(args), pointers(env));
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed; the call fails for the few signals
        // whose effect cannot be changed, and that is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: both lists are terminated by a null pointer and point to
    // terminated strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Has all descriptors but the standard streams closed when a program is executed.
pub(crate) fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: no descriptor is closed now; the flag takes effect when this
    // program, and whatever owns them in it, is gone.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes over standard input and output, which become `/dev/null`.
pub(crate) fn take_standard_streams() -> io::Result<(OwnedFd, OwnedFd)> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for standard in [0, 1] {
        // SAFETY: both descriptors are open, and nothing in this program keeps
        // a standard stream as an owned descriptor.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((input, output))
}

/// Writes a few bytes to a descriptor that was opened before a fork.
pub(crate) fn write_raw(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a live slice; a bad
    // descriptor only makes the call fail, which is the other side's news.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Sends a signal by number to the process of a handle.
pub(crate) fn send_signal(process: &OwnedFd, number: i32) -> io::Result<()> {
    // SAFETY: the descriptor is an open process handle, and no extra
    // information is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
