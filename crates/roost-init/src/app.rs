//! The app: one or more processes, their output, and their common end.

use crate::cgroup::{Cgroups, Member};
use crate::children::{Child, Children};
use crate::console::say;
use crate::descriptor::{Descriptor, OutputPipe};
use crate::failure::{Attempt as _, Failure};
use crate::limits::{OUTPUT_DRAIN_TIMEOUT, PROCESSES_STOP_TIMEOUT};
use crate::output::{Output, Source};
use crate::process::{Recipe, Terminal};
use crate::tasks::Tasks;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use roost_agent::proto::{AppExit, OutputStream};
use rustix::fs::Uid;
use rustix::process::{Pid, Signal};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// How a process ends that the kernel kills, or a shell whose command it kills.
const CODE_OF_KILLED: i32 = 128 + libc::SIGKILL;

/// What the processes of an app have in common.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// Where they live.
    pub(crate) cgroups: Arc<Cgroups>,
    /// Where their ends are told.
    pub(crate) children: Children,
    /// Where their output goes.
    pub(crate) output: Arc<Output>,
    /// Who goes on with them.
    pub(crate) tasks: Tasks,
}

/// An app that was started.
#[derive(Debug)]
pub(crate) struct App {
    /// The first process, on which commands beside the app are modelled.
    pub(crate) recipe: Recipe,
    /// The most open files of a process; zero for the kernel's own limit.
    pub(crate) open_files_max: u64,
    pids: Vec<Pid>,
    children: Children,
    stop: Arc<Stop>,
}

/// What the app and its supervision tell each other.
#[derive(Debug)]
struct Stop {
    is_asked: AtomicBool,
    ended: watch::Sender<bool>,
}

/// One process of an app that runs.
struct Running {
    name: String,
    child: Child,
    pipes: [(OutputStream, Descriptor); 2],
}

impl App {
    /// Starts all processes; when one cannot be started, ends those that were.
    ///
    /// On the event loop's thread only (see [`Children`]).
    pub(crate) fn start(
        recipes: Vec<Recipe>,
        open_files_max: u64,
        around: &Surroundings,
    ) -> Result<Self, Failure> {
        let mut running = Vec::with_capacity(recipes.len());
        for recipe in &recipes {
            match start_one(recipe, open_files_max, around) {
                Ok(process) => running.push(process),
                Err(failure) => {
                    // The failure is the news; the killing shows in nothing else.
                    let _ = around.cgroups.kill_all();
                    return Err(failure);
                }
            }
        }
        let recipe = recipes
            .into_iter()
            .next()
            .ok_or_else(|| Failure::request("no process was asked for"))?;
        let stop = Arc::new(Stop {
            is_asked: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        });
        let app = Self {
            recipe,
            open_files_max,
            pids: running.iter().map(|process| process.child.pid).collect(),
            children: around.children.clone(),
            stop: stop.clone(),
        };
        around.tasks.spawn(supervise(running, around.clone(), stop));
        Ok(app)
    }

    /// The process id of the first process.
    pub(crate) fn pid(&self) -> u32 {
        self.pids
            .first()
            .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
            .unwrap_or_default()
    }

    /// Sends a signal to each process that still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if [Signal::INT, Signal::TERM, Signal::QUIT, Signal::KILL].contains(&signal) {
            self.expect_end();
        }
        for pid in &self.pids {
            self.children.signal(*pid, signal);
        }
    }

    /// From now on an end of the app is one that was asked for.
    pub(crate) fn expect_end(&self) {
        self.stop.is_asked.store(true, Ordering::Relaxed);
    }

    /// Whether no process of it runs any more.
    pub(crate) fn has_ended(&self) -> bool {
        *self.stop.ended.borrow()
    }

    /// Waits until no process of it runs any more.
    pub(crate) async fn ended(&self) {
        // The sender is in `self`.
        let _ = self.stop.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

fn start_one(
    recipe: &Recipe,
    open_files_max: u64,
    around: &Surroundings,
) -> Result<Running, Failure> {
    let (stdout_reader, stdout) = output_pipe(recipe)?;
    let (stderr_reader, stderr) = output_pipe(recipe)?;
    let mut command = recipe.command(
        (&around.cgroups, Member::App),
        open_files_max,
        Terminal::None,
    )?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let child = around
        .children
        .spawn(&mut command)
        .map_err(|error| recipe.explain(&error))?;
    Ok(Running {
        name: recipe.name.clone(),
        child,
        pipes: [
            (OutputStream::Stdout, stdout_reader),
            (OutputStream::Stderr, stderr_reader),
        ],
    })
}

/// A pipe for output.
pub(crate) fn output_pipe(recipe: &Recipe) -> Result<(Descriptor, OwnedFd), Failure> {
    let make = || -> io::Result<_> {
        let (reader, writer) = pipe(recipe)?;
        Ok((Descriptor::new(reader.into())?, writer.into()))
    };
    make().attempt("make a pipe")
}

/// A pipe owned by the process's user: programs that open `/dev/stdin` or
/// `/dev/stdout` by name open the pipe anew and need to own it.
pub(crate) fn pipe(recipe: &Recipe) -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // Both ends are one file.
    rustix::fs::fchown(&writer, Some(Uid::from_raw(recipe.account.uid)), None)?;
    Ok((reader, writer))
}

/// From the start of the processes to the report of their end.
async fn supervise(running: Vec<Running>, around: Surroundings, stop: Arc<Stop>) {
    let (ended, _) = watch::channel(false);
    let mut ends = Vec::with_capacity(running.len());
    let mut pumps = FuturesUnordered::new();
    for process in running {
        for (stream, pipe) in process.pipes {
            let pipe = OutputPipe::new(pipe, ended.subscribe(), OUTPUT_DRAIN_TIMEOUT);
            let process = process.name.as_str().into();
            let source = Source { stream, process };
            pumps.push(pump(source, pipe, around.output.clone()));
        }
        ends.push((process.name, process.child));
    }
    let exit = async {
        let exit = end_all(ends, &around, &stop).await;
        ended.send_replace(true);
        stop.ended.send_replace(true);
        exit
    };
    let drain = async { while pumps.next().await.is_some() {} };
    // Neither is ever cancelled: this task runs to its end.
    let (exit, ()) = tokio::join!(exit, drain);
    if let Some(exit) = exit {
        around.output.finish(exit);
    }
}

/// Waits until the app is over, and ends what is left of it.
async fn end_all(
    processes: Vec<(String, Child)>,
    around: &Surroundings,
    stop: &Stop,
) -> Option<AppExit> {
    let pids: Vec<Pid> = processes.iter().map(|(_, child)| child.pid).collect();
    let mut ends: FuturesUnordered<_> = processes
        .into_iter()
        .map(|(name, child)| async move { (name, child.exit.await) })
        .collect();
    // As on Fly.io: the end of any is the end of all, be it a good one.
    let first = match ends.next().await {
        Some((name, Ok(exit))) => Some((name, exit)),
        // The guest goes down.
        Some((_, Err(_))) | None => None,
    };
    let requested = stop.is_asked.load(Ordering::Relaxed);
    for pid in &pids {
        around.children.signal(*pid, Signal::TERM);
    }
    let rest = async { while ends.next().await.is_some() {} };
    // Whoever is late is killed with what else is left.
    let _ = tokio::time::timeout(PROCESSES_STOP_TIMEOUT, rest).await;
    let oom_kills = around.cgroups.oom_kills();
    if let Err(failure) = around.cgroups.kill_all() {
        say(failure.message);
    }
    first.map(|(process, exit)| AppExit {
        exit_code: exit.code,
        signal: exit.signal,
        oom_killed: oom_kills > 0 && exit.code == CODE_OF_KILLED && !requested,
        requested,
        process,
    })
}

/// Moves what a process writes to the output, until nobody can write any more.
async fn pump(source: Source, mut pipe: OutputPipe, output: Arc<Output>) {
    while let Some(data) = pipe.next().await {
        output.write(&source, data).await;
    }
}

#[cfg(test)]
mod tests;
