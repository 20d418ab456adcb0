//! Machines whose guests misbehave, each with a whole session over a stream in memory.

use super::{Machine, Outcome};
use crate::control::Control;
use crate::launch::Guest;
use crate::limits::AGENT_LOST_TIMEOUT;
use crate::output::MachineLog;
use crate::session::Session;
use guest::{Snapshots, TestGuest};
use roost_agent::proto::{Output, OutputStream};
use roost_host::vmm::console::Console;
use roost_host::vmm::snapshot::SnapshotTags;
use roost_host::vmm::{Accelerator, HypervisorFacts, HypervisorKind, Vm};
use roost_proto::logs::{LogRecord, LogStream};
use roost_proto::shim::{ShimCommand, ShimEvent, ShimExit, ShimExitCause, ShimLimits, socket_path};
use roost_proto::vm::{VmDiskRate, VmHypervisor, VmKernel, VmLaunch, VmNetwork, VmProgram};
use roost_runtime::tasks::Tasks;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

mod guest;

/// Time for anything that is waited for; most of it takes a moment.
const PATIENCE: Duration = AGENT_LOST_TIMEOUT.saturating_mul(2);

/// A machine that runs.
struct Run {
    dir: tempfile::TempDir,
    guest: TestGuest,
    outcome: oneshot::Receiver<Outcome>,
    tasks: Tasks,
}

impl Run {
    async fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let launch = launch(dir.path());
        for path in [&launch.run_dir, &launch.data_dir] {
            std::fs::create_dir(path).unwrap();
        }
        let guest = TestGuest::new(&tasks);
        let mut vm: Box<dyn Vm> = Box::new(guest.clone());
        let session = Session::open(&mut vm, PATIENCE, &tasks).await.unwrap();
        let held = Guest {
            vm,
            console: Console::default(),
            session,
        };
        let log = MachineLog::open(&launch).unwrap();
        let control = Control::listen(&launch, &tasks).unwrap();
        let mut machine = Machine::new(launch, tags(), held, log, control, tasks.clone());
        let (sender, outcome) = oneshot::channel();
        tasks.spawn("machine", async move {
            let _ = sender.send(machine.run().await);
        });
        Self {
            dir,
            guest,
            outcome,
            tasks,
        }
    }

    /// What the machine's log has of a stream.
    fn lines(&self, stream: LogStream) -> Vec<String> {
        let records = records(self.dir.path()).into_iter();
        let records = records.filter(|record| record.stream == stream);
        records.map(|record| record.message).collect()
    }

    async fn until_lines(&self, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.lines(LogStream::Stdout).len() < n {
            assert!(Instant::now() < deadline, "waited in vain for {n} lines");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a command, as a worker does; returns who greets and what it answers.
    fn ask(&self, command: ShimCommand) -> oneshot::Receiver<(ShimEvent, ShimEvent)> {
        let (sender, answer) = oneshot::channel();
        let path = socket_path(&self.dir.path().join("run"));
        self.tasks.spawn("worker", async move {
            let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
            let greeting = event(&mut stream).await;
            let mut line = serde_json::to_vec(&command).unwrap();
            line.push(b'\n');
            stream.get_mut().write_all(&line).await.unwrap();
            let _ = sender.send((greeting, event(&mut stream).await));
        });
        answer
    }

    async fn exit(&mut self) -> ShimExit {
        let ended = tokio::time::timeout(PATIENCE, &mut self.outcome);
        match ended.await.expect("it runs on").unwrap() {
            Outcome::Exited(exit) => exit,
            Outcome::Suspended(_) => panic!("it is suspended"),
        }
    }

    /// That nothing is left of a snapshot.
    fn assert_no_snapshot(&self) {
        let mut left = std::fs::read_dir(self.dir.path().join("data")).unwrap();
        assert!(left.next().is_none());
    }
}

async fn event(stream: &mut BufReader<UnixStream>) -> ShimEvent {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

fn launch(dir: &Path) -> VmLaunch {
    VmLaunch {
        machine_id: "00000000000001".into(),
        instance_id: "1".into(),
        app: "app".into(),
        region: "fra".into(),
        run_dir: dir.join("run"),
        data_dir: dir.join("data"),
        log_dir: dir.join("logs"),
        hypervisor: VmHypervisor::Qemu {
            program: PathBuf::new(),
            emulated: true,
        },
        kernel: VmKernel {
            store: PathBuf::new(),
            id: String::new(),
        },
        root_image: PathBuf::new(),
        scratch_bytes: 0,
        n_cpus: 1,
        limits: limits(),
        owner: 0,
        cgroup: "/roost-none-such".into(),
        disk_rate: VmDiskRate {
            bytes: 0,
            operations: 0,
        },
        network: VmNetwork {
            hardware_address: [0; 6],
            ipv4: Ipv4Addr::LOCALHOST,
            ipv6: Ipv6Addr::LOCALHOST,
            gateway_ipv4: Ipv4Addr::LOCALHOST,
            gateway_ipv6: Ipv6Addr::LOCALHOST,
            mtu: 0,
            bytes_per_second: NonZero::<u64>::MIN,
            nameservers: Vec::new(),
        },
        args: Vec::new(),
        env: Vec::new(),
        workdir: String::new(),
        user: String::new(),
        beside: Vec::new(),
        files: Vec::new(),
        resume: false,
        boot_timeout_ms: 0,
    }
}

/// What the log of the machine in this directory has.
fn records(dir: &Path) -> Vec<LogRecord> {
    let files = std::fs::read_dir(dir.join("logs")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    let text: String = texts.collect();
    let records = text.lines().map(serde_json::from_str);
    records.filter_map(Result::ok).collect()
}

/// None that matters here, whatever there are.
fn limits() -> ShimLimits {
    let limits = serde_json::json!({
        "memory_bytes": 0,
        "swap_bytes": 0,
        "cpu_shares": 0,
        "cpu_quota_us": 0,
        "cpu_period_us": 0,
        "cpu_burst_us": 0,
        "pids_max": 0,
        "open_files_max": 0,
    });
    serde_json::from_value(limits).unwrap()
}

fn tags() -> SnapshotTags {
    SnapshotTags {
        hypervisor: HypervisorFacts {
            kind: HypervisorKind::Qemu,
            version: String::new(),
            accelerator: Accelerator::Emulation,
        },
        kernel: String::new(),
        cpu: String::new(),
        config: String::new(),
    }
}

#[tokio::test]
async fn output_goes_on_after_a_lost_session_without_a_gap_or_a_repetition() {
    let mut run = Run::begin().await;
    run.guest.say("one");
    run.guest.say("two");
    run.until_lines(2).await;
    run.guest.cut();
    run.guest.say("three");
    run.until_lines(3).await;
    run.guest.cut();
    run.guest.say("four");
    run.guest.exit(7);
    let exit = run.exit().await;
    assert_eq!((exit.exit_code, exit.cause), (7, ShimExitCause::App));
    let lines = run.lines(LogStream::Stdout);
    assert_eq!(lines, ["one", "two", "three", "four"]);
    assert_eq!(run.guest.n_calls("open_agent"), 3, "one for each session");
}

#[tokio::test]
async fn lines_of_several_programs_stay_whole_and_say_whose_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut launch = launch(dir.path());
    launch.beside.push(VmProgram {
        args: Vec::new(),
        env: Vec::new(),
        workdir: String::new(),
        user: String::new(),
    });
    let mut log = MachineLog::open(&launch).unwrap();
    let pieces = [
        ("1", OutputStream::Stdout, "fir"),
        ("2", OutputStream::Stdout, "sec"),
        ("2", OutputStream::Stderr, "bad\n"),
        ("1", OutputStream::Stdout, "st\n"),
        ("2", OutputStream::Stdout, "ond"),
        // Names that no program was given.
        ("3", OutputStream::Stdout, "lie\n"),
        ("", OutputStream::Init, "init\n"),
    ];
    for (process, stream, text) in pieces {
        let piece = Output {
            stream: stream.into(),
            data: text.into(),
            process: process.to_owned(),
            ..Output::default()
        };
        log.take(&piece).await;
    }
    log.flush();
    let records = records(dir.path());
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.program, record.stream, record.message.as_str()))
        .collect();
    let expected = [
        (Some(2), LogStream::Stderr, "bad"),
        (Some(1), LogStream::Stdout, "first"),
        (None, LogStream::Stdout, "lie"),
        (None, LogStream::Stderr, "init"),
        (Some(2), LogStream::Stdout, "second"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_again_is_given_up() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.is_silent = true);
    run.guest.cut();
    let lost = Instant::now();
    let exit = run.exit().await;
    assert_eq!(
        (exit.signal, exit.cause),
        (Some(9), ShimExitCause::AgentLost)
    );
    assert!(lost.elapsed() >= AGENT_LOST_TIMEOUT, "{:?}", lost.elapsed());
    let said = run.lines(LogStream::System).join("\n");
    assert!(
        said.contains("its agent did not answer within 90 s"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_only_greets_is_given_up() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.refuses_to_work = true);
    run.guest.cut();
    let lost = Instant::now();
    let exit = run.exit().await;
    assert_eq!(exit.cause, ShimExitCause::AgentLost);
    assert!(lost.elapsed() >= AGENT_LOST_TIMEOUT, "{:?}", lost.elapsed());
    assert!(run.guest.n_calls("open_agent") > 2, "it is tried again");
}

#[tokio::test]
async fn a_guest_that_does_not_answer_can_be_killed() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.is_silent = true);
    run.guest.cut();
    run.guest.until(|state| state.calls.len() > 2).await;
    let suspend = run.ask(ShimCommand::Suspend).await.unwrap().1;
    assert!(
        matches!(suspend, ShimEvent::SuspendFailed { .. }),
        "{suspend:?}"
    );
    let answer = run.ask(super::KILL).await.unwrap().1;
    assert!(matches!(answer, ShimEvent::Signalled), "{answer:?}");
    let exit = run.exit().await;
    assert_eq!((exit.signal, exit.cause), (Some(9), ShimExitCause::App));
}

/// Asks for a suspend that fails; the machine then runs to its end.
async fn runs_on_after(run: &mut Run, reason: &str) {
    let (_, answer) = run.ask(ShimCommand::Suspend).await.unwrap();
    let ShimEvent::SuspendFailed { message } = answer else {
        panic!("{answer:?}");
    };
    assert!(message.contains(reason), "{message}");
    run.guest.say("and on");
    run.guest.exit(0);
    let exit = run.exit().await;
    assert_eq!((exit.exit_code, exit.cause), (0, ShimExitCause::App));
    assert_eq!(run.lines(LogStream::Stdout), ["and on"]);
    run.assert_no_snapshot();
}

#[tokio::test]
async fn an_app_runs_on_when_its_state_cannot_be_written() {
    let mut run = Run::begin().await;
    runs_on_after(&mut run, "the disk is full").await;
    let done = ["pause", "snapshot", "resume"].map(|call| run.guest.n_calls(call));
    assert_eq!(done, [1, 1, 1]);
    assert_eq!(run.guest.n_calls("open_agent"), 1, "in the same session");
}

#[tokio::test]
async fn an_app_runs_on_when_it_cannot_be_frozen() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.refuses_to_freeze = true);
    runs_on_after(&mut run, "a file system cannot be written").await;
    assert_eq!(run.guest.n_calls("snapshot"), 0);
}

#[tokio::test]
async fn an_app_that_stays_frozen_is_thawed_in_another_session() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.n_refusals_to_thaw = 1);
    runs_on_after(&mut run, "the disk is full").await;
    assert_eq!(run.guest.n_calls("open_agent"), 2);
}

#[tokio::test]
async fn a_kill_is_heard_while_the_state_is_written() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.snapshots = Snapshots::Hang);
    let suspend = run.ask(ShimCommand::Suspend);
    let is_writing = |state: &guest::State| state.calls.contains(&"snapshot");
    run.guest.until(is_writing).await;
    let (greeting, answer) = run.ask(super::KILL).await.unwrap();
    assert!(matches!(greeting, ShimEvent::Suspending), "{greeting:?}");
    assert!(matches!(answer, ShimEvent::Signalled), "{answer:?}");
    let suspended = suspend.await.unwrap().1;
    assert!(
        matches!(suspended, ShimEvent::SuspendFailed { .. }),
        "{suspended:?}"
    );
    let exit = run.exit().await;
    assert_eq!((exit.signal, exit.cause), (Some(9), ShimExitCause::App));
    assert_eq!(run.guest.n_calls("kill"), 1);
    run.assert_no_snapshot();
}

#[tokio::test]
async fn a_signal_during_a_suspend_reaches_the_app_when_that_fails() {
    let mut run = Run::begin().await;
    run.guest.change(|state| state.snapshots = Snapshots::Hang);
    let suspend = run.ask(ShimCommand::Suspend);
    let is_writing = |state: &guest::State| state.calls.contains(&"snapshot");
    run.guest.until(is_writing).await;
    let mut signal = run.ask(ShimCommand::Signal { number: 10 });
    let unanswered = tokio::time::timeout(Duration::from_millis(100), &mut signal).await;
    assert!(unanswered.is_err(), "the app is frozen: {unanswered:?}");
    run.guest.change(|state| state.snapshots = Snapshots::Fail);
    let suspended = suspend.await.unwrap().1;
    assert!(
        matches!(suspended, ShimEvent::SuspendFailed { .. }),
        "{suspended:?}"
    );
    let answer = signal.await.unwrap().1;
    assert!(matches!(answer, ShimEvent::Signalled), "{answer:?}");
    run.guest.until(|state| state.signals == [10]).await;
    run.guest.exit(0);
    run.exit().await;
}
