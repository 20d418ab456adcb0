//! System calls that have no safe wrapper, each with the reason why it is sound here.

#![expect(
    unsafe_code,
    reason = "the one place of this crate for system calls without a safe wrapper"
)]

use rustix::process::Signal;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// Most bytes of entropy in one call.
const ENTROPY_BYTES_MAX: usize = 512;

/// Real-time signals that programs may use: the C library keeps 32 and 33 (signal(7)).
const REAL_TIME_SIGNALS: RangeInclusive<i32> = 34..=64;

/// `RNDADDENTROPY` of `linux/random.h`: `_IOW('R', 0x03, int [2])`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG` of `linux/random.h`: `_IO('R', 0x07)`.
const RESEED: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` of `linux/random.h`, with room for the bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    n_bytes: libc::c_int,
    bytes: [u8; ENTROPY_BYTES_MAX],
}

/// Mixes bytes into the kernel's random number generator, credits them, and
/// makes the generator use them at once.
pub(crate) fn add_entropy(generator: &File, bytes: &[u8]) -> io::Result<()> {
    let mut info = RandPoolInfo {
        entropy_bits: libc::c_int::try_from(bytes.len() * 8).map_err(io::Error::other)?,
        n_bytes: libc::c_int::try_from(bytes.len()).map_err(io::Error::other)?,
        bytes: [0; ENTROPY_BYTES_MAX],
    };
    info.bytes
        .get_mut(..bytes.len())
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(bytes);
    // SAFETY: the structure lives during the call and holds the `n_bytes` bytes it speaks of.
    let added = unsafe { libc::ioctl(generator.as_raw_fd(), ADD_ENTROPY, &raw const info) };
    if added != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    match unsafe { libc::ioctl(generator.as_raw_fd(), RESEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Turns a file with a swap header into swap space.
pub(crate) fn swap_on(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is a terminated string that outlives the call.
    match unsafe { libc::swapon(path.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A real-time signal by number, to be sent to other processes.
pub(crate) fn real_time_signal(number: i32) -> Option<Signal> {
    REAL_TIME_SIGNALS.contains(&number).then(|| {
        // SAFETY: the number is that of a signal, and none that the C library
        // uses within this process.
        unsafe { Signal::from_raw_unchecked(number) }
    })
}

/// A program image that a forked child becomes: everything is allocated before the fork.
pub(crate) struct Image {
    /// The file.
    pub(crate) path: CString,
    /// The arguments, beginning with the name.
    pub(crate) args: Vec<CString>,
    /// The whole environment, as `NAME=value`.
    pub(crate) env: Vec<CString>,
}

/// Terminated lists of pointers into an [`Image`].
struct Pointers {
    image: Image,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into heap memory that `image` owns and that nobody changes.
unsafe impl Send for Pointers {}
// SAFETY: as above; they are only read.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(image: Image) -> Self {
        let list = |texts: &[CString]| {
            texts
                .iter()
                .map(|text| text.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let (args, env) = (list(&image.args), list(&image.env));
        Self { image, args, env }
    }

    /// Becomes the program; returns only on failure.
    fn execute(&self) -> io::Error {
        // SAFETY: both lists end with a null pointer and point to terminated
        // strings that `self.image` keeps alive.
        unsafe {
            libc::execve(
                self.image.path.as_ptr(),
                self.args.as_ptr(),
                self.env.as_ptr(),
            )
        };
        io::Error::last_os_error()
    }
}

/// A command that is `prepare`d in the child and then becomes `image`.
///
/// The standard library would sort the environment; here it stays as given.
/// `prepare` runs between fork and exec, where other threads of the parent do
/// not exist: it must make system calls only, without allocating.
pub(crate) fn command(
    image: Image,
    prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Command {
    let mut command = Command::new("roost-init-child");
    let pointers = Pointers::new(image);
    // SAFETY: the closure and `prepare`, by its contract, make system calls only.
    unsafe {
        command.pre_exec(move || {
            prepare()?;
            Err(pointers.execute())
        });
    }
    command
}

/// The address of this guest on its vsock; `VMADDR_CID_ANY` when it has none.
pub(crate) fn vsock_address(device: &File) -> io::Result<u32> {
    /// `IOCTL_VM_SOCKETS_GET_LOCAL_CID` of `linux/vm_sockets.h`: `_IO(7, 0xb9)`.
    const GET_LOCAL_CID: libc::Ioctl = 0x7b9;
    let mut address: libc::c_uint = libc::VMADDR_CID_ANY;
    // SAFETY: the kernel writes one unsigned int to the address, which is live.
    match unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &raw mut address) } {
        0 => Ok(address),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor in the event loop.
pub(crate) type Registered = AsyncFd<Arc<OwnedFd>>;

/// Puts a descriptor into the event loop.
pub(crate) fn register(fd: Arc<OwnedFd>) -> io::Result<Registered> {
    // SAFETY: an `OwnedFd` is open and names the same file as long as it lives,
    // and a shared one cannot be taken out while the result holds it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
