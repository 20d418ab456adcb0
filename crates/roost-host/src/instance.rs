//! The tag of one `roostd` on a host, and the names made from it.
//!
//! Several instances may run on one host. Everything that they put on it
//! carries the instance's tag, which is derived from its data directory, so
//! that one never touches what another has made, and that what a dead one has
//! left can be found again.

use roost_model::id::MachineId;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Four lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceTag(u16);

impl InstanceTag {
    /// The tag of the instance with this data directory.
    ///
    /// The directory is made canonical when it exists, so that another
    /// spelling of its path gives the same tag.
    pub fn of_data_dir(data_dir: &Path) -> Self {
        let canonical = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        Self::of_bytes(canonical.as_os_str().as_bytes())
    }

    /// FNV-1a, folded: the tag has to be stable and spread, not secret.
    fn of_bytes(bytes: &[u8]) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in bytes {
            hash ^= u64::from(*byte);
            hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        }
        let folded = hash ^ (hash >> 32) ^ (hash >> 48) ^ (hash >> 16);
        Self(u16::try_from(folded & 0xffff).unwrap_or(0))
    }

    /// Reads a tag.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 4 || !text.bytes().all(is_hex) {
            return None;
        }
        u16::from_str_radix(text, 16).ok().map(Self)
    }

    /// The tag as a number, for choosing addresses.
    pub fn as_number(self) -> u16 {
        self.0
    }

    /// The nftables table, of family `inet`: `roost_1a2b`.
    pub fn nft_table(self) -> String {
        format!("{NFT_TABLE_PREFIX}{self}")
    }

    /// The mark of packets that a machine sends to a client in whose name the
    /// edge speaks to it; also the number of the routing table for them.
    pub fn edge_mark(self) -> u32 {
        // `ro`, and the tag: far from the small numbers that other programs take.
        0x726f_0000 | u32::from(self.0)
    }

    /// What the names of all its network interfaces begin with: `r1a2b-`.
    pub fn interface_prefix(self) -> String {
        format!("r{self}-")
    }

    /// The host's end of a machine's link: `r1a2b-` and the last 8 digits of
    /// the machine's id; 14 of the 15 bytes that Linux allows.
    pub fn interface_name(self, machine: &MachineId) -> String {
        let id = machine.as_str();
        format!("{}{}", self.interface_prefix(), &id[id.len() - 8..])
    }

    /// The cgroup below the root of each hierarchy: `roost-1a2b`.
    pub fn cgroup_name(self) -> String {
        format!("roost-{self}")
    }

    /// The cgroup of the machines' shims, beside that of the machines: `roost-1a2b-shims`.
    pub fn shim_cgroup_name(self) -> String {
        format!("roost-{self}-shims")
    }
}

/// What the names of all instances' nftables tables begin with.
pub const NFT_TABLE_PREFIX: &str = "roost_";

impl fmt::Display for InstanceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::InstanceTag;
    use roost_model::id::MachineId;
    use std::path::Path;

    #[test]
    fn names_carry_the_tag_and_fit() {
        let tag = InstanceTag::parse("0a2b").unwrap();
        assert_eq!(tag.nft_table(), "roost_0a2b");
        assert_eq!(tag.cgroup_name(), "roost-0a2b");
        let name = tag.interface_name(&MachineId::from_bytes([1, 2, 3, 4, 5, 6, 7]));
        assert_eq!(name, "r0a2b-04050607");
        assert!(name.len() <= 15);
        assert!(InstanceTag::parse("0A2B").is_none() && InstanceTag::parse("12345").is_none());
    }

    #[test]
    fn two_spellings_of_a_directory_have_one_tag_and_two_directories_two() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("x").join("..");
        std::fs::create_dir(dir.path().join("x")).unwrap();
        assert_eq!(
            InstanceTag::of_data_dir(dir.path()),
            InstanceTag::of_data_dir(&other)
        );
        let [a, b] =
            ["/var/lib/a", "/var/lib/b"].map(|path| InstanceTag::of_data_dir(Path::new(path)));
        assert_ne!(a, b);
    }
}
