//! Archives that a kernel unpacks as its first file system: cpio in the
//! "newc" format (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Reproducible: entries in the order given, no times, owned by root.

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Parents have to come before what is in them.
#[derive(Debug, Default)]
pub(in crate::vmm) struct Cpio {
    bytes: Vec<u8>,
    n_entries: u32,
}

/// The variable fields of an entry's header.
#[derive(Debug, Default)]
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    content: &'a [u8],
    device: (u32, u32),
}

impl Cpio {
    /// Adds a directory of mode 0755.
    pub(in crate::vmm) fn add_directory(&mut self, name: &str) {
        self.add(&Entry {
            name,
            mode: DIRECTORY | 0o755,
            ..Entry::default()
        });
    }

    /// Adds a file; at most 4 GiB, which the limits of its readers are far below.
    pub(in crate::vmm) fn add_file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.add(&Entry {
            name,
            mode: FILE | permissions,
            content,
            ..Entry::default()
        });
    }

    /// Adds a character device of mode 0600.
    pub(in crate::vmm) fn add_device(&mut self, name: &str, major: u32, minor: u32) {
        self.add(&Entry {
            name,
            mode: CHARACTER_DEVICE | 0o600,
            device: (major, minor),
            ..Entry::default()
        });
    }

    /// The whole archive.
    pub(in crate::vmm) fn finish(mut self) -> Vec<u8> {
        self.add(&Entry {
            name: TRAILER,
            ..Entry::default()
        });
        self.bytes
    }

    fn add(&mut self, entry: &Entry<'_>) {
        let content_len = u32::try_from(entry.content.len()).expect("files are below 4 GiB");
        let name_len = u32::try_from(entry.name.len() + 1).expect("names are short");
        self.n_entries += 1;
        let (inode, n_links) = (self.n_entries, 1);
        let (uid, gid, mtime, checksum) = (0, 0, 0, 0);
        let fields = [
            inode,
            entry.mode,
            uid,
            gid,
            n_links,
            mtime,
            content_len,
            0,
            0,
            entry.device.0,
            entry.device.1,
            name_len,
            checksum,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn archive() -> Vec<u8> {
        let mut cpio = Cpio::default();
        cpio.add_directory("dev");
        cpio.add_device("dev/console", 5, 1);
        cpio.add_file("init", 0o755, b"hello");
        cpio.finish()
    }

    #[test]
    fn the_same_entries_give_the_same_bytes_in_multiples_of_four() {
        assert_eq!(archive(), archive());
        assert_eq!(archive().len() % 4, 0);
        let text = String::from_utf8_lossy(&archive()).into_owned();
        // Inode 3, a file of mode 0755, one link, five bytes, a name of five.
        assert!(text.contains(concat!(
            "070701", "00000003", "000081ed", "00000000", "00000000", "00000001", "00000000",
            "00000005", "00000000", "00000000", "00000000", "00000000", "00000005", "00000000",
            "init\0"
        )));
    }

    #[test]
    fn another_cpio_lists_what_was_written() {
        let spawned = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = spawned else {
            println!("skipped: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = listing
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert_eq!((lines[0][0], lines[0].last()), ("drwxr-xr-x", Some(&"dev")));
        assert_eq!(
            (lines[1][0], lines[1][4], lines[1][5]),
            ("crw-------", "5,", "1")
        );
        assert_eq!((lines[2][0], lines[2][4]), ("-rwxr-xr-x", "5"));
    }
}
