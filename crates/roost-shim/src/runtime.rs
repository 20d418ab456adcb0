//! The two OCI runtimes that can run a bundle: the library, and a program.

use crate::failure::{Attempt as _, LaunchError};
use crate::limits::RUNTIME_OUTPUT_BYTES_MAX;
use crate::sys;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use roost_model::program;
use rustix::process::Signal;
use std::ffi::CString;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The ends of the pipes that become a machine's output.
pub(crate) struct Output {
    /// Its standard output.
    pub(crate) stdout: OwnedFd,
    /// Its standard error.
    pub(crate) stderr: OwnedFd,
}

/// A machine that was created and whose program does not run yet.
pub(crate) enum Created {
    /// By the library; the pipe says what became of the program.
    Library {
        container: Box<Container>,
        status: PipeReader,
    },
    /// By an outside runtime.
    External {
        runtime: PathBuf,
        state: PathBuf,
        id: String,
    },
}

/// Creates the machine of a bundle; returns the host process id of its first process.
pub(crate) fn create(
    runtime: Option<&Path>,
    id: &str,
    bundle: &Path,
    state: &Path,
    output: Output,
) -> Result<(Created, u32), LaunchError> {
    match runtime {
        None => create_by_library(id, bundle, state, output),
        Some(runtime) => create_by_program(runtime, id, bundle, state, output),
    }
}

impl Created {
    /// Starts its program; returns once it runs or could not be run.
    pub(crate) fn start(self) -> Result<(), LaunchError> {
        match self {
            Self::Library {
                mut container,
                mut status,
            } => {
                container.start().attempt("start the machine's program")?;
                let mut message = String::new();
                // The other end is closed by a successful exec.
                status
                    .read_to_string(&mut message)
                    .attempt("hear of the machine's program")?;
                if message.is_empty() {
                    Ok(())
                } else {
                    Err(LaunchError::machine(message))
                }
            }
            Self::External { runtime, state, id } => {
                run_program(&runtime, &state, &["start", &id], None)
            }
        }
    }
}

/// Removes the records that an outside runtime keeps of an ended machine.
pub(crate) fn forget(runtime: &Path, state: &Path, id: &str) {
    // The records lie in the machine's run directory and go with it.
    let _ = run_program(runtime, state, &["delete", "--force", id], None);
}

fn create_by_library(
    id: &str,
    bundle: &Path,
    state: &Path,
    output: Output,
) -> Result<(Created, u32), LaunchError> {
    let (mut status, report) = io::pipe().attempt("make a pipe")?;
    let executor = ReportingExecutor {
        report: report.as_raw_fd(),
    };
    let built = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(executor)
        .with_stdin(std::fs::File::open("/dev/null").attempt("open /dev/null")?)
        .with_stdout(output.stdout)
        .with_stderr(output.stderr)
        .with_root_path(state)
        .attempt("name the state directory")?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build();
    drop(report);
    let container = match built {
        Ok(container) => container,
        Err(error) => {
            let mut message = String::new();
            // A report of the machine's own process is clearer than the library's.
            let _ = status.read_to_string(&mut message);
            if !message.is_empty() {
                return Err(LaunchError::machine(message));
            }
            return Err(error).attempt("create the machine");
        }
    };
    let pid = container
        .pid()
        .and_then(|pid| u32::try_from(pid.as_raw()).ok())
        .ok_or_else(|| LaunchError::host("create the machine: it has no process"))?;
    Ok((
        Created::Library {
            container: Box::new(container),
            status,
        },
        pid,
    ))
}

/// Runs the program, and reports on a pipe when it cannot be run.
#[derive(Clone)]
struct ReportingExecutor {
    /// Closed by the kernel when a program is executed.
    report: RawFd,
}

impl ReportingExecutor {
    fn fail(&self, message: String) -> ExecutorError {
        sys::write_raw(self.report, message.as_bytes());
        ExecutorError::Other(message)
    }
}

impl Executor for ReportingExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let program = args.first().ok_or(ExecutorError::InvalidArg)?;
        let pairs: Vec<(String, String)> = env
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let workdir = process.cwd().to_string_lossy().into_owned();
        // The machine must not outlive its shim: nobody would keep its output,
        // or know how it ended.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        Err(self.fail(execute(program, args, env, &pairs, &workdir)))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The program was looked up in the image before, for both runtimes.
        Ok(())
    }
}

/// Replaces this process by a program found as `execvp` would; returns why it could not.
pub(crate) fn execute(
    name: &str,
    args: &[String],
    env: &[String],
    pairs: &[(String, String)],
    workdir: &str,
) -> String {
    let strings = |texts: &[String]| {
        texts
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, _>>()
    };
    let (Ok(args), Ok(env)) = (strings(args), strings(env)) else {
        return format!("an argument or variable of program `{name}` has a zero byte");
    };
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in program::candidates(name, workdir, pairs) {
        let Ok(path) = CString::new(candidate) else {
            continue;
        };
        let error = sys::execute(&path, &args, &env);
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            worst = error;
        }
    }
    program::explain(name, &worst)
}

fn create_by_program(
    runtime: &Path,
    id: &str,
    bundle: &Path,
    state: &Path,
    output: Output,
) -> Result<(Created, u32), LaunchError> {
    // The runtime ends after the creation; its child must become ours.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .attempt("adopt the machine's processes")?;
    let pid_file = state.join("pid");
    let pid_file_text = pid_file.to_string_lossy();
    let bundle = bundle.to_string_lossy();
    let args = [
        "create",
        "--bundle",
        &bundle,
        "--pid-file",
        &pid_file_text,
        id,
    ];
    run_program(runtime, state, &args, Some(output))?;
    let pid = std::fs::read_to_string(&pid_file)
        .attempt(format_args!("read {}", pid_file.display()))?
        .trim()
        .parse::<u32>()
        .attempt(format_args!("read {}", pid_file.display()))?;
    let (runtime, state, id) = (runtime.to_owned(), state.to_owned(), id.to_owned());
    Ok((Created::External { runtime, state, id }, pid))
}

fn run_program(
    runtime: &Path,
    state: &Path,
    args: &[&str],
    output: Option<Output>,
) -> Result<(), LaunchError> {
    let log = state.join("runtime.log");
    let what = format!("{} {}", runtime.display(), args[0]);
    let mut command = Command::new(runtime);
    command
        .arg("--root")
        .arg(state)
        .arg("--log")
        .arg(&log)
        .args(args)
        .stdin(Stdio::null());
    match output {
        Some(output) => command.stdout(output.stdout).stderr(output.stderr),
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    let status = command.status().attempt(&what)?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let tail: String = text
        .trim()
        .chars()
        .rev()
        .take(RUNTIME_OUTPUT_BYTES_MAX)
        .collect();
    let tail: String = tail.chars().rev().collect();
    Err(LaunchError::host(format!("{what}: {status}: {tail}")))
}
