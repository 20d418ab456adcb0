//! Whether a Firecracker process filters its system calls, by the kernel's record (proc(5)).

use crate::vmm::stats::read_record;
use std::io;

/// `Seccomp:` of a thread that has a filter.
const FILTERED: &str = "2";
/// How Firecracker's own threads are called, beside the first one; others are the kernel's.
const THREAD_PREFIX: &str = "fc_";

/// Which threads have a filter of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filtered {
    /// All of Firecracker's own.
    All,
    /// Some of them, as before the start of the guest.
    Some,
    /// None.
    None,
}

/// Looks at all threads of a process. Blocks.
pub(super) fn filtered(pid: u32) -> io::Result<Filtered> {
    let (mut n_filtered, mut n_open) = (0, 0);
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let dir = entry?.path();
        let text = match read_record(&dir.join("status").to_string_lossy()) {
            Ok(text) => text,
            // It has ended since the directory was read.
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let is_first = dir.ends_with(pid.to_string());
        let is_own = field(&text, "Name:").is_some_and(|name| name.starts_with(THREAD_PREFIX));
        match field(&text, "Seccomp:") {
            Some(FILTERED) => n_filtered += 1,
            _ if is_first || is_own => n_open += 1,
            _ => {}
        }
    }
    Ok(match (n_filtered, n_open) {
        (0, _) => Filtered::None,
        (_, 0) => Filtered::All,
        _ => Filtered::Some,
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.trim()))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
