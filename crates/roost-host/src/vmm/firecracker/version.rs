//! Which Firecracker is installed, and whether it is one that this driver knows.

use super::limits::{VERSION_BYTES_MAX, VERSION_TIMEOUT};
use crate::vmm::VmmError;
use crate::vmm::jail::find_program;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The oldest version that is used: the first that tells a guest of its devices
/// by ACPI, without which Debian's kernels find none.
const OLDEST: Version = Version::new(1, 8);
/// The newest one whose interface was compared with what this driver sends.
const NEWEST: Version = Version::new(1, 17);

/// The first two numbers of a version: within them the interface stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    pub(super) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-']).map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        // `1.8` alone is none.
        numbers.next()?.ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The two programs, of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) firecracker: PathBuf,
    pub(super) jailer: PathBuf,
    pub(super) version: Version,
    /// In full, such as `1.10.1`.
    pub(super) version_text: String,
}

/// Finds both programs and asks them.
pub(super) async fn find(
    firecracker: Option<&Path>,
    jailer: Option<&Path>,
) -> Result<Installed, VmmError> {
    let firecracker = locate("firecracker", firecracker)?;
    let jailer = locate("jailer", jailer)?;
    let version_text = ask(&firecracker, "Firecracker v").await?;
    let jailer_version = ask(&jailer, "Jailer v").await?;
    if version_text != jailer_version {
        return Err(VmmError::Unusable(format!(
            "firecracker has version {version_text} and its jailer {jailer_version}; \
             install both from one release"
        )));
    }
    let version = Version::parse(&version_text);
    let version = version.filter(|version| (OLDEST..=NEWEST).contains(version));
    let Some(version) = version else {
        return Err(VmmError::Unusable(format!(
            "firecracker {version_text} is not supported; versions {OLDEST} to {NEWEST} are"
        )));
    };
    Ok(Installed {
        firecracker,
        jailer,
        version,
        version_text,
    })
}

fn locate(name: &str, configured: Option<&Path>) -> Result<PathBuf, VmmError> {
    let path = match configured {
        Some(path) => path.to_owned(),
        None => find_program(name).ok_or_else(|| {
            VmmError::Unusable(format!(
                "program `{name}` is missing; install it from a release of Firecracker"
            ))
        })?,
    };
    // As the jailer does: its directory is named after the file behind all links.
    std::fs::canonicalize(&path).map_err(|source| VmmError::Io {
        operation: format!("find {}", path.display()),
        source,
    })
}

/// What a program says of its version, after `prefix`, on the first line that has it.
async fn ask(program: &Path, prefix: &str) -> Result<String, VmmError> {
    let operation = || format!("ask {} for its version", program.display());
    let output = tokio::time::timeout(VERSION_TIMEOUT, first_output(program));
    let output = output.await.map_err(|_| VmmError::TimedOut {
        operation: operation(),
        limit: VERSION_TIMEOUT,
    })?;
    let output = output.map_err(|source| VmmError::Io {
        operation: operation(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output);
    let version = text.lines().find_map(|line| line.strip_prefix(prefix));
    version
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .ok_or_else(|| {
            VmmError::Unusable(format!(
                "{} does not say a version as `{prefix}1.2.3`",
                program.display()
            ))
        })
}

async fn first_output(program: &Path) -> std::io::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(VERSION_BYTES_MAX)
            .read_to_end(&mut output)
            .await?;
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::{NEWEST, OLDEST, Version};

    #[test]
    fn versions_are_read_with_and_without_a_suffix_and_compared_as_numbers() {
        assert_eq!(Version::parse("1.10.1"), Some(Version::new(1, 10)));
        assert_eq!(Version::parse("1.17.0-dev"), Some(Version::new(1, 17)));
        for text in ["", "1", "1.8", "1.x.0", "one.two.three", "v1.8.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert!((OLDEST..=NEWEST).contains(&Version::new(1, 10)));
        assert!(Version::new(1, 7) < OLDEST && Version::new(2, 0) > NEWEST);
    }
}
