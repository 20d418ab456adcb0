//! The sockets by which a machine that runs is reached.
//!
//! `shim.sock`: each connection is a task that reads commands, hands them to the
//! machine's task one by one, and writes the answers. `agent.sock` leads to the
//! agent in the guest.

use crate::limits::{COMMANDS_MAX, CONTROL_CONNECTIONS_MAX, CONTROL_LINE_BYTES_MAX};
use anyhow::{Context as _, Result};
use roost_agent::host::{Channel, passthrough};
use roost_proto::shim::{ShimCommand, ShimEvent, socket_path};
use roost_proto::vm::{VmLaunch, agent_path};
use roost_runtime::tasks::Tasks;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Time for the last words to be written.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);

/// A command, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: ShimCommand,
    pub(crate) reply: oneshot::Sender<ShimEvent>,
}

/// The sockets of one machine.
#[derive(Debug)]
pub(crate) struct Control {
    /// What is asked of the machine.
    pub(crate) requests: mpsc::Receiver<Request>,
    end: watch::Sender<Option<ShimEvent>>,
    is_suspending: Arc<AtomicBool>,
    connections: Arc<Semaphore>,
    agent_path: PathBuf,
    tasks: Tasks,
    offer: parking_lot::Mutex<CancellationToken>,
}

impl Control {
    /// Listens in the machine's run directory.
    pub(crate) fn listen(launch: &VmLaunch, tasks: &Tasks) -> Result<Self> {
        let listener = bind(&launch.run_dir, socket_path)?;
        let (sender, requests) = mpsc::channel(COMMANDS_MAX);
        let end = watch::Sender::new(None);
        let connections = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
        let is_suspending = Arc::new(AtomicBool::new(false));
        let acceptor = accept(
            listener,
            connections.clone(),
            is_suspending.clone(),
            sender,
            end.subscribe(),
            tasks.clone(),
        );
        tasks.spawn("control socket", acceptor);
        Ok(Self {
            requests,
            end,
            is_suspending,
            connections,
            agent_path: launch.run_dir.clone(),
            tasks: tasks.clone(),
            offer: parking_lot::Mutex::default(),
        })
    }

    /// Whether whoever comes now is told that the machine is being suspended:
    /// it will run on, or be gone with a snapshot left, and is neither yet.
    pub(crate) fn set_suspending(&self, is_suspending: bool) {
        self.is_suspending.store(is_suspending, Ordering::SeqCst);
    }

    /// Lets others use this connection to the agent, in place of an earlier one.
    pub(crate) fn offer_agent(&self, channel: Channel) {
        let token = CancellationToken::new();
        std::mem::replace(&mut *self.offer.lock(), token.clone()).cancel();
        match bind(&self.agent_path, agent_path) {
            Ok(listener) => {
                let serve = passthrough::serve(listener, channel, token.cancelled_owned());
                self.tasks.spawn("agent socket", serve);
            }
            Err(error) => eprintln!("offer the agent: {error:#}"),
        }
    }

    /// Tells all connections how the machine ended, and that nothing follows.
    pub(crate) async fn announce(self, event: ShimEvent) {
        self.end.send_replace(Some(event));
        self.finish().await;
    }

    /// Waits until all connections have been told what there is to tell.
    pub(crate) async fn finish(mut self) {
        self.requests.close();
        self.end.send_modify(|_| {});
        let all = u32::try_from(CONTROL_CONNECTIONS_MAX).unwrap_or(u32::MAX);
        drop(self.end);
        let _ = tokio::time::timeout(ANNOUNCE_TIMEOUT, self.connections.acquire_many(all)).await;
    }
}

/// Makes a socket in the run directory. Its path may be longer than a socket
/// address may be.
fn bind(run_dir: &Path, path: fn(&Path) -> PathBuf) -> Result<UnixListener> {
    let dir = rustix::fs::open(run_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", run_dir.display()))?;
    let path = path(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())));
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(path).with_context(|| format!("make a socket in {}", run_dir.display()))
}

async fn accept(
    listener: UnixListener,
    connections: Arc<Semaphore>,
    is_suspending: Arc<AtomicBool>,
    requests: mpsc::Sender<Request>,
    end: watch::Receiver<Option<ShimEvent>>,
    tasks: Tasks,
) {
    let mut over = end.clone();
    loop {
        // Whoever comes after the end reads `exit.json`.
        let (stream, _) = tokio::select! {
            Ok(accepted) = listener.accept() => accepted,
            _ = last_words(&mut over) => return,
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            continue;
        };
        let (requests, end) = (requests.clone(), end.clone());
        let greeting = if is_suspending.load(Ordering::SeqCst) {
            ShimEvent::Suspending
        } else {
            let pid = std::process::id();
            ShimEvent::Running { pid }
        };
        tasks.spawn("control connection", async move {
            // A connection that fails is the business of who has the other end.
            let _ = converse(stream, greeting, requests, end).await;
            drop(permit);
        });
    }
}

async fn converse(
    stream: UnixStream,
    greeting: ShimEvent,
    requests: mpsc::Sender<Request>,
    mut end: watch::Receiver<Option<ShimEvent>>,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    write(&mut stream, &greeting).await?;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(CONTROL_LINE_BYTES_MAX);
        tokio::select! {
            // Whoever sends half a command and then hears of the end does not mind.
            n = limited.read_until(b'\n', &mut line) => if n? == 0 { return Ok(()) },
            event = last_words(&mut end) => {
                if let Some(event) = event {
                    write(&mut stream, &event).await?;
                }
                return Ok(());
            }
        }
        let command = serde_json::from_slice(&line)?;
        let (reply, answer) = oneshot::channel();
        requests.send(Request { command, reply }).await?;
        // Without an answer the connection ends: whoever asked is not to wait.
        let event = answer.await?;
        write(&mut stream, &event).await?;
    }
}

/// How the machine ended, if that is told at all. Cancel-safe.
async fn last_words(end: &mut watch::Receiver<Option<ShimEvent>>) -> Option<ShimEvent> {
    end.wait_for(Option::is_some).await.ok()?.clone()
}

async fn write(stream: &mut BufReader<UnixStream>, event: &ShimEvent) -> Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(stream.get_mut().write_all(&line).await?)
}
