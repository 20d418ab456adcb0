//! `roost-shim exec`: one command in a machine that runs.
//!
//! The command gets the machine's namespaces, cgroup, user, environment,
//! capabilities and system call filter. Standard input and output are those of
//! this process; the outcome goes to a file that was opened before the host's
//! file system went out of sight. The command leads a session of its own, and
//! all that stays in it is killed when its time is up or this process dies.

use crate::failure::{Attempt as _, LaunchError};
use crate::runtime;
use crate::seccomp;
use crate::spec::{self, CAPABILITIES, UMASK};
use crate::sys::{self, Fork};
use libcontainer::oci_spec::runtime::LinuxSeccomp;
use roost_host::cgroup::{self, Cgroup};
use roost_proto::shim::{ShimExecOutcome, ShimMachine, machine_path};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, Gid, ThreadNameSpaceType, Uid};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs `RUN_DIR OUTCOME_FILE TIMEOUT_MS COMMAND...`.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let [run_dir, outcome_path, timeout_ms, command @ ..] = args else {
        anyhow::bail!("usage: roost-shim exec RUN_DIR OUTCOME_FILE TIMEOUT_MS COMMAND...");
    };
    let timeout = Duration::from_millis(timeout_ms.parse()?);
    let mut outcome_file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(outcome_path)?;
    let outcome = match run_command(Path::new(run_dir), command, timeout) {
        Ok(outcome) => outcome,
        Err(error) => ShimExecOutcome::Failed {
            fault: error.fault,
            message: error.message,
        },
    };
    serde_json::to_writer(&mut outcome_file, &outcome)?;
    Ok(outcome_file.flush()?)
}

fn run_command(
    run_dir: &Path,
    command: &[String],
    timeout: Duration,
) -> Result<ShimExecOutcome, LaunchError> {
    if command.is_empty() {
        return Err(LaunchError::machine("no command was given"));
    }
    let machine = std::fs::read(machine_path(run_dir)).attempt("read what the machine is")?;
    let machine: ShimMachine =
        serde_json::from_slice(&machine).attempt("understand what the machine is")?;
    let filter: LinuxSeccomp =
        serde_json::from_value(seccomp::filter()).attempt("build a system call filter")?;
    join(&machine)?;

    let (mut status, report) = io::pipe().attempt("make a pipe")?;
    let child = match sys::fork().attempt("fork")? {
        Fork::Child => {
            let message = become_command(&machine, command, &filter);
            sys::write_raw(report.as_raw_fd(), message.as_bytes());
            sys::exit_now(127);
        }
        Fork::Parent(pid) => pid,
    };
    drop(report);
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty())
        .attempt("open the command's process")?;
    let mut message = String::new();
    // The other end is closed by a successful exec.
    status
        .read_to_string(&mut message)
        .attempt("hear of the command")?;
    if !message.is_empty() {
        let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        return Err(LaunchError::machine(message));
    }
    wait(child, &process, timeout)
}

/// Enters the machine's cgroup and namespaces.
fn join(machine: &ShimMachine) -> Result<(), LaunchError> {
    let gone = || LaunchError::host("the machine has just ended");
    let pid = i32::try_from(machine.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(gone)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    // The handle pins the process; its cgroup proves that it is the machine's.
    if !cgroup::is_member(machine.pid, &machine.cgroup) {
        return Err(gone());
    }
    // Nobody in the machine may look into this process before it is the command.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt("hide this process")?;
    Cgroup::at(&machine.cgroup)
        .and_then(|cgroup| cgroup.enter())
        .attempt("enter the machine's cgroup")?;
    let all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), all)
        .attempt("enter the machine's namespaces")
}

/// In the new process: gives up what the machine's program does not have either,
/// and becomes the command. Returns why it could not.
fn become_command(machine: &ShimMachine, command: &[String], filter: &LinuxSeccomp) -> String {
    match restrict(machine, filter) {
        Ok(()) => {
            let env: Vec<String> = machine
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            runtime::execute(&command[0], command, &env, &machine.env, &machine.workdir)
        }
        Err(error) => format!("enter the machine: {}", error.message),
    }
}

fn restrict(machine: &ShimMachine, filter: &LinuxSeccomp) -> Result<(), LaunchError> {
    rustix::process::setsid().attempt("begin a session")?;
    // What roostd was started with may be open here: it must not get in.
    sys::close_others_on_exec().attempt("close what is open")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    spec::set_limits(machine.open_files_max)?;
    let kept: CapabilitySet = CAPABILITIES
        .iter()
        .filter_map(|name| CapabilitySet::from_name(name.strip_prefix("CAP_")?))
        .collect();
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know cannot be had.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error).attempt("give up capabilities"),
        }
    }
    let groups: Vec<Gid> = machine
        .additional_gids
        .iter()
        .copied()
        .map(Gid::from_raw)
        .collect();
    let (user, group) = (Uid::from_raw(machine.uid), Gid::from_raw(machine.gid));
    rustix::thread::set_thread_groups(&groups).attempt("set groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).attempt("set the group")?;
    rustix::thread::set_thread_res_uid(user, user, user).attempt("set the user")?;
    rustix::process::chdir(machine.workdir.as_str())
        .attempt(format_args!("enter {}", machine.workdir))?;
    // After the change of user, which clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .attempt("tie the command to its caller")?;
    rustix::thread::set_no_new_privs(true).attempt("give up new privileges")?;
    libcontainer::seccomp::initialize_seccomp(filter).attempt("set the system call filter")?;
    Ok(())
}

fn wait(child: Pid, process: &OwnedFd, timeout: Duration) -> Result<ShimExecOutcome, LaunchError> {
    let deadline = Instant::now() + timeout;
    let timed_out = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).attempt("compute a deadline")?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Ok(0) => break true,
            Ok(_) => break false,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).attempt("wait for the command"),
        }
    };
    if timed_out {
        let _ = rustix::process::kill_process_group(child, Signal::KILL);
    }
    let status = rustix::process::waitpid(Some(child), WaitOptions::empty())
        .attempt("wait for the command")?
        .map(|(_, status)| status);
    let exit_code = status.map_or(-1, |status| {
        status
            .terminating_signal()
            .map_or_else(|| status.exit_status().unwrap_or(-1), |signal| 128 + signal)
    });
    Ok(ShimExecOutcome::Ended {
        exit_code,
        timed_out,
    })
}
