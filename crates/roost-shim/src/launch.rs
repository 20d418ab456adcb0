//! `roost-shim run`: from a launch message to the end of the machine.

use crate::account;
use crate::failure::{Attempt as _, LaunchError};
use crate::guest_files;
use crate::limits::CGROUP_EMPTY_TIMEOUT;
use crate::output::OutputPipe;
use crate::program;
use crate::root::{self, Root};
use crate::runtime::{self, Created, Output};
use crate::spec;
use crate::supervise::{Supervised, send};
use crate::sys;
use anyhow::anyhow;
use roost_host::cgroup::Cgroup;
use roost_observe::writer::{LogIdentity, LogLimits, LogWriter};
use roost_proto::logs::LogStream;
use roost_proto::shim::{
    LINE_BYTES_MAX, ShimCommand, ShimEvent, ShimExit, ShimExitCause, ShimLaunch, ShimMachine,
    ShimOrigin, exit_path, machine_path, socket_path,
};
use roost_runtime::fs::write_atomic;
use rustix::fs::OFlags;
use rustix::process::{Signal, WaitStatus};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// How a process ends that the kernel kills, or a shell whose command it kills.
const CODE_OF_KILLED: i32 = 128 + Signal::KILL.as_raw();

/// The connection to the worker until the machine runs.
struct Handshake {
    reader: BufReader<UnixStream>,
}

impl Handshake {
    fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, LaunchError> {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut line)
            .attempt("hear from the worker")?;
        if line.is_empty() {
            return Err(LaunchError::host("the worker went away"));
        }
        serde_json::from_slice(&line).attempt("understand the worker")
    }

    fn send(&mut self, event: &ShimEvent) -> io::Result<()> {
        send(self.reader.get_mut(), event)
    }
}

/// Runs one machine from its start to its end.
pub(crate) fn run() -> anyhow::Result<()> {
    // Signals to roostd's group or terminal are not for this machine. It
    // fails when this process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    // The lock is held until this process ends; its content is for people.
    let (stream, lock) = sys::take_standard_streams()?;
    let mut lock = File::from(lock);
    write!(lock, "{}", std::process::id())?;
    let mut handshake = Handshake {
        reader: BufReader::new(UnixStream::from(stream)),
    };
    let launch: ShimLaunch = handshake
        .receive()
        .map_err(|error| anyhow!(error.message))?;
    match start(&launch, &mut handshake) {
        Ok((machine, log)) => {
            let started = ShimEvent::Started {
                origin: ShimOrigin::Cold,
            };
            if handshake.send(&started).is_err() {
                // The worker died at the last moment; it will adopt the machine.
            }
            drop(handshake);
            supervise(&launch, machine, log)
        }
        Err(error) => {
            clean_up(&launch);
            handshake.send(&ShimEvent::Failed {
                fault: error.fault,
                message: error.message,
            })?;
            Ok(())
        }
    }
}

fn start(
    launch: &ShimLaunch,
    handshake: &mut Handshake,
) -> Result<(Supervised, LogWriter), LaunchError> {
    let Some(program) = launch.args.first() else {
        return Err(LaunchError::machine(
            "the image names no program to run, and neither does the machine",
        ));
    };
    let mut log = open_log(launch)?;
    let root = root::assemble(launch)?;
    let account = account::resolve(&root, &launch.user, launch.id_size)?;
    let env = spec::environment(launch, &account);
    let workdir = spec::workdir(launch);
    if workdir.split('/').find(|name| !matches!(*name, "" | ".")) == Some("proc") {
        // Below it are ways to what other processes have open.
        return Err(LaunchError::machine(format!(
            "the working directory `{workdir}` is in /proc"
        )));
    }
    program::check(&root, program, workdir, &env)?;
    guest_files::ensure_dir_inside(&root, workdir, launch.id_base)?;
    guest_files::write_all(&root, launch)?;
    let config = spec::build(launch, &root, &account, &env)?;

    let (pipes, output) = open_output(launch.id_base + account.uid)?;
    let open_files_max = Some(spec::open_files(launch));
    spec::set_limits(open_files_max)?;
    let (created, pid) = create(launch, &config, root, output)?;
    // Not all runtime programs know of it.
    Cgroup::at(&launch.cgroup)
        .and_then(|cgroup| cgroup.set_cpu_burst(launch.limits.cpu_burst_us))
        .attempt("set the burst of processor time")?;
    handshake
        .send(&ShimEvent::Created { pid })
        .attempt("report to the worker")?;
    match handshake.receive()? {
        ShimCommand::Start => {}
        ShimCommand::Signal { .. } | ShimCommand::Suspend => {
            return Err(LaunchError::host("the worker sent a command too early"));
        }
    }
    let listener = listen(&launch.run_dir)?;
    let machine = Supervised::new(pid, pipes, listener)?;
    created.start()?;
    log.system(&format!("machine started: {}", launch.args.join(" ")));
    if launch.limits.swap_bytes > 0 && !host_swaps() {
        log.system("this host has no swap, so the machine has its memory only");
    }
    let record = ShimMachine {
        pid,
        cgroup: launch.cgroup.clone(),
        env,
        workdir: workdir.to_owned(),
        uid: account.uid,
        gid: account.gid,
        additional_gids: account.additional_gids,
        open_files_max,
    };
    write_secret(&machine_path(&launch.run_dir), &record)?;
    Ok((machine, log))
}

fn host_swaps() -> bool {
    // A heading, and a line for each device.
    let devices = std::fs::read_to_string("/proc/swaps");
    devices.is_ok_and(|devices| devices.lines().count() > 1)
}

fn open_log(launch: &ShimLaunch) -> Result<LogWriter, LaunchError> {
    let identity = LogIdentity {
        app: launch.app.clone(),
        machine: launch.machine_id.clone(),
        region: launch.region.clone(),
    };
    LogWriter::open(&launch.log_dir, identity, LogLimits::default())
        .attempt("open the machine's log")
}

/// The machine's output pipes, owned by its user on the host: programs that open
/// `/dev/stdout` by name open the pipe anew and need to own it.
fn open_output(host_uid: u32) -> Result<(Vec<OutputPipe>, Output), LaunchError> {
    let (stdout_reader, stdout) = io::pipe().attempt("make a pipe")?;
    let (stderr_reader, stderr) = io::pipe().attempt("make a pipe")?;
    let owner = Some(rustix::fs::Uid::from_raw(host_uid));
    for pipe in [&stdout, &stderr] {
        rustix::fs::fchown(pipe, owner, None).attempt("hand over a pipe")?;
    }
    let pipes = vec![
        OutputPipe::new(stdout_reader.into(), LogStream::Stdout).attempt("set up a pipe")?,
        OutputPipe::new(stderr_reader.into(), LogStream::Stderr).attempt("set up a pipe")?,
    ];
    Ok((
        pipes,
        Output {
            stdout: stdout.into(),
            stderr: stderr.into(),
        },
    ))
}

fn create(
    launch: &ShimLaunch,
    config: &serde_json::Value,
    root: Root,
    output: Output,
) -> Result<(Created, u32), LaunchError> {
    let bundle = launch.run_dir.join("bundle");
    let state = launch.run_dir.join("state");
    for dir in [&bundle, &state] {
        std::fs::create_dir_all(dir).attempt(format_args!("create {}", dir.display()))?;
    }
    let path = bundle.join("config.json");
    write_secret(&path, config)?;
    let Root {
        dir,
        user_namespace,
        ..
    } = root;
    // An open directory would be a way out of the machine.
    drop(dir);
    let created = runtime::create(
        launch.runtime.as_deref(),
        &launch.machine_id,
        &bundle,
        &state,
        output,
    );
    // The bundle names it by its descriptor.
    drop(user_namespace);
    created
}

/// Makes the control socket. Its path may be longer than a socket address may be.
fn listen(run_dir: &Path) -> Result<UnixListener, LaunchError> {
    let dir = rustix::fs::open(
        run_dir,
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .attempt(format_args!("open {}", run_dir.display()))?;
    let path = socket_path(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())));
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(path).attempt(format_args!(
        "make the control socket in {}",
        run_dir.display()
    ))
}

fn supervise(
    launch: &ShimLaunch,
    mut machine: Supervised,
    mut log: LogWriter,
) -> anyhow::Result<()> {
    let status = machine.run(&mut log)?;
    let cgroup = Cgroup::at(&launch.cgroup)?;
    let exit = describe(status, cgroup.oom_kills());
    log.system(&match exit {
        ShimExit {
            oom_killed: true,
            exit_code,
            ..
        } => {
            format!("machine ran out of memory: exit code {exit_code}")
        }
        ShimExit {
            signal: Some(signal),
            ..
        } => format!("machine was ended by signal {signal}"),
        ShimExit { exit_code, .. } => format!("machine exited with code {exit_code}"),
    });
    drop(log);
    clean_up(launch);
    let text = serde_json::to_vec(&exit)?;
    write_atomic(&exit_path(&launch.run_dir), &text, 0o600)?;
    machine.announce(&ShimEvent::Exited(exit));
    Ok(())
}

fn describe(status: WaitStatus, oom_kills: u64) -> ShimExit {
    let signal = status.terminating_signal();
    let exit_code =
        signal.map_or_else(|| status.exit_status().unwrap_or(-1), |signal| 128 + signal);
    ShimExit {
        exit_code,
        signal,
        oom_killed: ran_out_of_memory(exit_code, oom_kills),
        cause: ShimExitCause::App,
    }
}

/// Whether a machine's end was one of the kernel's kills for want of memory:
/// such a kill may also have ended a process that the program lived on without.
fn ran_out_of_memory(exit_code: i32, oom_kills: u64) -> bool {
    oom_kills > 0 && exit_code == CODE_OF_KILLED
}

/// Ends what is left of the machine and removes its records and cgroup.
fn clean_up(launch: &ShimLaunch) {
    let state = launch.run_dir.join("state");
    let cgroup = Cgroup::at(&launch.cgroup);
    let ended = cgroup.and_then(|cgroup| {
        cgroup.kill_all(CGROUP_EMPTY_TIMEOUT)?;
        // Those that became ours must be reaped before the cgroup is empty.
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        cgroup.remove(CGROUP_EMPTY_TIMEOUT)
    });
    if let Err(error) = ended {
        eprintln!(
            "remove the cgroup of machine {}: {error}",
            launch.machine_id
        );
    }
    if let Some(runtime) = &launch.runtime {
        runtime::forget(runtime, &state, &launch.machine_id);
    }
    for dir in [state, launch.run_dir.join("bundle")] {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Writes a file that nobody else may read; it holds the machine's environment.
///
/// Not synced: it is of no use after a crash of the host, and a sync is slow.
fn write_secret(path: &Path, value: &impl serde::Serialize) -> Result<(), LaunchError> {
    let text = serde_json::to_vec(value).attempt("write JSON")?;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(&text))
        .attempt(format_args!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::ran_out_of_memory;

    #[test]
    fn only_a_kill_is_for_want_of_memory() {
        assert!(ran_out_of_memory(137, 1));
        assert!(!ran_out_of_memory(137, 0), "somebody else killed it");
        for exit_code in [0, 1, 143] {
            assert!(!ran_out_of_memory(exit_code, 1), "{exit_code}");
        }
    }
}
