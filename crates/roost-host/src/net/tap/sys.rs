//! System calls of tap devices (`Documentation/networking/tuntap.rst`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

/// Where tap devices are made and opened.
const DEVICE: &str = "/dev/net/tun";

/// Opens the only queue of a tap device of the calling thread's network
/// namespace, and makes the device when there is none. With a virtio network
/// header before each frame, as hypervisors want.
///
/// The descriptor does not block. It fails with `EBUSY` while another one is open.
pub(super) fn open_queue(name: &str) -> io::Result<File> {
    let queue = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)?;
    let mut request = request_for(name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the command reads and writes one `struct ifreq`, which this is.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(queue)
}

/// Lets a user without capabilities open the queue, in the namespace it is in.
pub(super) fn set_owner(queue: &File, uid: u32) -> io::Result<()> {
    set(queue, libc::TUNSETOWNER, uid)
}

/// Keeps the device when its queue is closed.
pub(super) fn set_persistent(queue: &File) -> io::Result<()> {
    set(queue, libc::TUNSETPERSIST, 1)
}

/// Says that this end of the queue takes large frames and frames without
/// checksums, as a guest with virtio does.
#[cfg(test)]
pub(super) fn offer_offloads(queue: &File) -> io::Result<()> {
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    set(queue, libc::TUNSETOFFLOAD, offloads)
}

fn set(queue: &File, command: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the commands that are given here take a number, not a pointer.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), command, libc::c_ulong::from(value)) })
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if name.is_empty() || name.len() >= ifr_name.len() || !name.is_ascii() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    })
}
