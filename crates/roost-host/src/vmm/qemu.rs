//! QEMU as a hypervisor.
//!
//! - [`command`]: the command line;
//! - [`qmp`]: the control channel;
//! - [`vm`]: a VM that runs;
//! - [`jail`]: what the process may do.
//!
//! The process opens nothing by path but its own programs, the kernel and the
//! kernel's initial file system. Sockets, disks and the tap device are
//! descriptors that it inherits.

use super::jail::{self, JailConfig, JailDevice, JailFile, Jailed};
use super::{Accelerator, Hypervisor, HypervisorFacts, HypervisorKind, Vm, VmConfig, VmmError};
use crate::net::tap::Tap;
use async_trait::async_trait;
use command::{Begin, Numbers};
use limits::{DRIVES_MAX, FILE_BYTES_MARGIN, START_TIMEOUT, VERSION_TIMEOUT};
use qmp::Qmp;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use vm::{AgentSocket, QemuVm};

mod command;
mod limits;
mod qmp;
mod vm;

/// The name of the program.
const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package that has it.
const DEBIAN_PACKAGE: &str = "qemu-system-x86";
/// The oldest version that is known to work: the one of Debian 12.
const VERSION_MIN: (u32, u32) = (7, 2);
/// The processor that guests see under emulation, whatever the host's.
pub const EMULATED_CPU: &str = "max";

/// QEMU, as it is installed.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: Option<PathBuf>,
    accelerator: Accelerator,
}

impl Qemu {
    /// With this program, or the one that is installed in a usual place.
    pub fn new(program: Option<PathBuf>, accelerator: Accelerator) -> Self {
        Self {
            program,
            accelerator,
        }
    }

    fn program(&self) -> Result<PathBuf, VmmError> {
        let found = match &self.program {
            Some(program) => program.is_file().then(|| program.clone()),
            None => jail::find_program(PROGRAM),
        };
        found.ok_or_else(|| {
            let program = self.program.as_deref().unwrap_or(Path::new(PROGRAM));
            VmmError::Unusable(format!(
                "program `{}` is missing; install the Debian package `{DEBIAN_PACKAGE}`",
                program.display()
            ))
        })
    }

    async fn start(&self, config: &VmConfig, begin: Begin) -> Result<QemuVm, VmmError> {
        let program = self.program()?;
        let Wiring {
            numbers,
            descriptors,
            control,
            console,
        } = wire(config)?;
        let args = command::arguments(config, self.accelerator, &numbers, begin);
        let mut process = Jailed::start(JailConfig {
            name: &config.name,
            dir: &config.dir,
            owner: config.owner,
            cgroup: config.cgroup.as_deref(),
            program: &program,
            args: args.into_iter().map(OsString::from).collect(),
            files: vec![
                JailFile {
                    source: config.kernel.vmlinux.clone(),
                    target: command::KERNEL,
                },
                JailFile {
                    source: config.kernel.initramfs.clone(),
                    target: command::INITRAMFS,
                },
            ],
            devices: match self.accelerator {
                Accelerator::Kvm => vec![JailDevice { path: "/dev/kvm" }],
                Accelerator::Emulation => Vec::new(),
            },
            descriptors,
            file_size_max: file_size_max(config),
            // Emulation has no use for them, and idle guests would have a
            // third more memory.
            uses_huge_pages: self.accelerator == Accelerator::Kvm,
        })
        .await?;
        match Qmp::connect(control, START_TIMEOUT).await {
            Ok(qmp) => Ok(QemuVm::new(
                process,
                qmp,
                AgentSocket::in_dir(&config.dir),
                console,
                config.memory,
            )),
            Err(error) => {
                let error = vm::explain(&mut process, error).await;
                process.kill().await?;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn facts(&self) -> Result<HypervisorFacts, VmmError> {
        let program = self.program()?;
        let operation = format!("run `{} --version`", program.display());
        let run = tokio::process::Command::new(&program)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(VERSION_TIMEOUT, run).await {
            Ok(output) => output.map_err(|source| VmmError::Io { operation, source })?,
            Err(_) => {
                return Err(VmmError::TimedOut {
                    operation,
                    limit: VERSION_TIMEOUT,
                });
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(HypervisorFacts {
            kind: HypervisorKind::Qemu,
            version: check_version(&text)?,
            accelerator: self.accelerator,
        })
    }

    async fn launch(&self, config: &VmConfig) -> Result<Box<dyn Vm>, VmmError> {
        Ok(Box::new(self.start(config, Begin::Boot).await?))
    }

    async fn restore(&self, config: &VmConfig, files: &Path) -> Result<Box<dyn Vm>, VmmError> {
        let mut vm = self.start(config, Begin::Incoming).await?;
        match vm.load(files).await {
            Ok(()) => Ok(Box::new(vm)),
            Err(error) => {
                vm.kill().await?;
                Err(error)
            }
        }
    }
}

/// The version in what `--version` says, if it is one that works.
fn check_version(text: &str) -> Result<String, VmmError> {
    let unusable = |reason: String| Err(VmmError::Unusable(reason));
    let (major, minor) = VERSION_MIN;
    let version = text
        .strip_prefix("QEMU emulator version ")
        .and_then(|rest| rest.split([' ', '\n']).next());
    let Some(version) = version else {
        return unusable("the program does not say the version of a QEMU".into());
    };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(found_major), Some(found_minor)) if (found_major, found_minor) >= VERSION_MIN => {
            Ok(version.to_owned())
        }
        _ => unusable(format!(
            "QEMU {version} is not supported; {major}.{minor} or later is, which is in the \
             Debian package `{DEBIAN_PACKAGE}` since Debian 12"
        )),
    }
}

/// The ends of a VM's channels.
struct Wiring {
    numbers: Numbers,
    /// Those for the process.
    descriptors: Vec<OwnedFd>,
    control: tokio::net::UnixStream,
    console: tokio::net::UnixStream,
}

fn wire(config: &VmConfig) -> Result<Wiring, VmmError> {
    let io_error = |operation: String| move |source| VmmError::Io { operation, source };
    if config.drives.len() > DRIVES_MAX {
        return Err(VmmError::Unusable(format!(
            "a VM has at most {DRIVES_MAX} drives"
        )));
    }
    let mut descriptors = Vec::new();
    let mut keep = |descriptor: OwnedFd| -> RawFd {
        let number = descriptor.as_raw_fd();
        descriptors.push(descriptor);
        number
    };
    let channels = io_error("make the channels of a VM".into());
    let (control, theirs) = socket_pair().map_err(channels)?;
    let control_number = keep(theirs);
    let channels = io_error("make the channels of a VM".into());
    let (console, theirs) = socket_pair().map_err(channels)?;
    let console_number = keep(theirs);
    let socket = AgentSocket::in_dir(&config.dir);
    let listener = socket
        .listen()
        .map_err(io_error(format!("listen on {}", socket.path().display())))?;
    let agent = keep(UnixListener::into(listener));
    let mut drives = Vec::new();
    for drive in &config.drives {
        let file = jail::open_for(&drive.path, drive.access)
            .map_err(io_error(format!("open drive {}", drive.path.display())))?;
        drives.push(keep(file.into()));
    }
    let tap = match &config.nic {
        Some(nic) => Some(keep(open_tap(&nic.tap, config.owner.uid)?)),
        None => None,
    };
    Ok(Wiring {
        numbers: Numbers {
            control: control_number,
            console: console_number,
            agent,
            drives,
            tap,
        },
        descriptors,
        control,
        console,
    })
}

/// Our end, for the runtime, and the other one.
fn socket_pair() -> io::Result<(tokio::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs.into()))
}

fn open_tap(name: &str, owner: u32) -> Result<OwnedFd, VmmError> {
    Tap::create(name, owner)
        .and_then(|tap| tap.open_queue())
        .map_err(|source| VmmError::Io {
            operation: format!("open tap device {name}"),
            source: io::Error::other(source),
        })
}

/// A limit that no honest QEMU meets: it writes to its drives, within their
/// size, and its memory into a snapshot.
fn file_size_max(config: &VmConfig) -> u64 {
    let drives = config.drives.iter();
    let largest = drives
        .filter_map(|drive| std::fs::metadata(&drive.path).ok())
        .map(|data| data.len())
        .max()
        .unwrap_or(0);
    // The stream has some bytes of its own for each page of memory.
    let memory = config.memory.bytes();
    largest.max(memory + memory / 64) + FILE_BYTES_MARGIN
}

#[cfg(test)]
mod tests;
