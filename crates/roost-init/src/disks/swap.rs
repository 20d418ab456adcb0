//! Swap on the scratch disk.

use crate::failure::{Attempt as _, Failure};
use crate::sys;
use rustix::fs::FallocateFlags;
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Smallest swap that the kernel takes, in pages.
const PAGES_MIN: u64 = 10;
/// Place of the header's fields, after room for a boot block.
const HEADER_OFFSET: usize = 1024;
/// What ends the first page.
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";

/// Makes a swap file and turns it on.
pub(super) fn make(path: &Path, bytes: u64) -> Result<(), Failure> {
    let page_bytes = rustix::param::page_size();
    let n_pages = bytes / page_bytes as u64;
    let last_page = u32::try_from(n_pages.saturating_sub(1))
        .ok()
        .filter(|_| n_pages >= PAGES_MIN)
        .ok_or_else(|| Failure::request(format!("{bytes} bytes are no size for swap")))?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .attempt("make the swap file")?;
    let length = n_pages * page_bytes as u64;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length).attempt_for_machine(
        format_args!("find {length} bytes for swap on the machine's disk"),
    )?;
    file.write_all(&header(page_bytes, last_page))
        .attempt("write the swap file")?;
    drop(file);
    let path = CString::new(path.as_os_str().as_bytes()).attempt("name the swap file")?;
    sys::swap_on(&path).attempt("turn on swap")
}

/// The first page: `union swap_header` of `linux/swap.h`, version 1, nothing bad.
fn header(page_bytes: usize, last_page: u32) -> Vec<u8> {
    let mut page = vec![0; page_bytes];
    let version: u32 = 1;
    page[HEADER_OFFSET..HEADER_OFFSET + 4].copy_from_slice(&version.to_ne_bytes());
    page[HEADER_OFFSET + 4..HEADER_OFFSET + 8].copy_from_slice(&last_page.to_ne_bytes());
    page[page_bytes - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    page
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn the_header_says_how_many_pages_there_are() {
        let page = header(4096, 0x0102_0304);
        assert_eq!(&page[4086..], b"SWAPSPACE2");
        assert_eq!(&page[1024..1028], &1_u32.to_ne_bytes());
        assert_eq!(&page[1028..1032], &0x0102_0304_u32.to_ne_bytes());
        assert!(page[..1024].iter().all(|byte| *byte == 0));
    }
}
