//! Kernel settings that routing needs: changed only when off, and put back.
//!
//! What was changed is recorded in one file per host (below `/run`, which a
//! reboot empties as it resets the settings), shared by all instances: the
//! last instance that leaves restores.

use roost_runtime::fs::{
    FileError, IoContext as _, ensure_dir, ensure_no_file, read_bounded, write_atomic,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where the record is, unless a test says otherwise.
pub const DEFAULT_RECORD: &str = "/run/roost-sysctl.json";

const IPV4_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_FORWARD: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const IPV6_CONF: &str = "/proc/sys/net/ipv6/conf";
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// The value of each changed setting as it was before, by path.
type Record = BTreeMap<PathBuf, String>;

/// Keeps instances from changing the host's settings at the same time.
#[derive(Debug)]
pub(crate) struct SysctlLock {
    record: PathBuf,
    _lock: File,
}

/// Waits for the lock, so this blocks.
pub(crate) fn lock(record: &Path) -> Result<SysctlLock, FileError> {
    if let Some(dir) = record.parent() {
        ensure_dir(dir)?;
    }
    let path = record.with_extension("lock");
    let file = File::create(&path).on("create", &path)?;
    file.lock().on("lock", &path)?;
    Ok(SysctlLock {
        record: record.to_owned(),
        _lock: file,
    })
}

impl SysctlLock {
    /// Turns forwarding on where it is off.
    ///
    /// With IPv6 forwarding the kernel stops to take router advertisements on
    /// interfaces whose `accept_ra` is 1, which would cost a host its own
    /// default route within minutes; 2 means "although forwarding".
    pub(crate) fn ensure_forwarding(&self) -> Result<(), FileError> {
        let mut record = self.read_record()?;
        if read(Path::new(IPV4_FORWARD))? == "0" {
            self.change(&mut record, Path::new(IPV4_FORWARD), "1")?;
        }
        let ipv6 = Path::new(IPV6_FORWARD);
        // Missing when the kernel was started without IPv6.
        if ipv6.exists() && read(ipv6)? == "0" {
            for path in accept_ra_settings()? {
                if read(&path).is_ok_and(|value| value == "1") {
                    self.change(&mut record, &path, "2")?;
                }
            }
            self.change(&mut record, ipv6, "1")?;
        }
        Ok(())
    }

    /// Puts back what was changed; settings of interfaces that are gone are skipped.
    pub(crate) fn restore(&self) -> Result<(), FileError> {
        let record = self.read_record()?;
        for (path, value) in &record {
            if path.exists() {
                write(path, value)?;
            }
        }
        ensure_no_file(&self.record)
    }

    /// Recorded before it is done, so that a crash between the two loses nothing.
    fn change(&self, record: &mut Record, path: &Path, value: &str) -> Result<(), FileError> {
        let old = read(path)?;
        record.entry(path.to_owned()).or_insert(old);
        let text = serde_json::to_vec(record)
            .map_err(io::Error::other)
            .on("encode", &self.record)?;
        write_atomic(&self.record, &text, 0o600)?;
        write(path, value)
    }

    fn read_record(&self) -> Result<Record, FileError> {
        if !self.record.exists() {
            return Ok(Record::new());
        }
        let text = read_bounded(&self.record, RECORD_BYTES_MAX)?;
        serde_json::from_slice(&text)
            .map_err(io::Error::other)
            .on("decode", &self.record)
    }
}

fn accept_ra_settings() -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(IPV6_CONF).on("list", IPV6_CONF)? {
        let entry = entry.on("list", IPV6_CONF)?;
        let name = entry.file_name();
        if name != "all" && name != "default" && name != "lo" {
            found.push(entry.path().join("accept_ra"));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, FileError> {
    Ok(std::fs::read_to_string(path)
        .on("read", path)?
        .trim()
        .to_owned())
}

fn write(path: &Path, value: &str) -> Result<(), FileError> {
    std::fs::write(path, value).on("write", path)
}
