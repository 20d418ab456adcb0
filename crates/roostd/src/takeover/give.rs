//! The old `roostd`: what it gives to the one that takes over.

use super::channel::Channel;
use super::gauge;
use super::{
    DESCRIPTORS_MAX, MESSAGE_TIMEOUT, Message, Protocol, READY_TIMEOUT, SocketLabel, SocketOwner,
};
use crate::config::NodePaths;
use crate::daemon::Lock;
use anyhow::{Context as _, Result, bail};
use roost_edge::{Listening, TrafficCounter};
use roost_proto::traffic::FlowPlace;
use roost_runtime::points;
use rustix::process::{Pid, Signal, getuid, kill_process};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use tokio::net::UnixListener;
use tokio::time::timeout;

/// Where a new `roostd` asks.
#[derive(Debug)]
pub(crate) struct Door(UnixListener);

impl Door {
    /// Opens the door of this data directory, in the place of the one that was there.
    pub(crate) fn open(paths: &NodePaths) -> Result<Self> {
        let path = paths.takeover();
        roost_runtime::fs::ensure_no_file(&path)?;
        let listener =
            UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        // Who may open it is not enough to be let in, see `next`.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("close {} to others", path.display()))?;
        Ok(Self(listener))
    }

    /// The next `roostd` of the same user that wants to take over.
    pub(crate) async fn next(&self) -> Successor {
        loop {
            match self.let_in().await {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "nobody takes over");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn let_in(&self) -> Result<Successor> {
        let (stream, _) = self.0.accept().await.context("accept")?;
        let peer = stream.peer_cred().context("ask who it is")?;
        let pid = peer.pid().and_then(Pid::from_raw);
        let (Some(pid), true) = (pid, peer.uid() == getuid().as_raw()) else {
            bail!("a process of user {} may not", peer.uid());
        };
        let mut successor = Successor {
            channel: Channel(stream),
            pid,
            version: String::new(),
            takes_flows: false,
        };
        match successor.expect().await? {
            Message::Hello {
                version,
                takes_flows,
            } => (successor.version, successor.takes_flows) = (version, takes_flows),
            other => bail!("it began with {other:?}"),
        }
        Ok(successor)
    }
}

/// The `roostd` that takes over.
#[derive(Debug)]
pub(crate) struct Successor {
    channel: Channel,
    pid: Pid,
    /// Its version.
    pub(crate) version: String,
    takes_flows: bool,
}

impl Successor {
    /// Tells it that it may not, and why.
    pub(crate) async fn refuse(&self, reason: String) -> Result<()> {
        self.channel.send(&Message::Refused { reason }, &[]).await
    }

    /// Gives it everything, and waits until it serves. The worker and the API
    /// of this process have ended.
    pub(crate) async fn give(
        &self,
        lock: &Lock,
        api: &[TcpListener],
        edge: &Listening,
    ) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let yours = Message::Yours { version };
        self.channel.send(&yours, &[lock.as_fd()]).await?;
        for part in labelled(api, edge)?.chunks(DESCRIPTORS_MAX) {
            let (labels, fds): (Vec<_>, Vec<_>) = part.iter().cloned().unzip();
            self.channel.send(&Message::Sockets(labels), &fds).await?;
            match self.expect().await? {
                Message::Taken => {}
                other => bail!("it answered sockets with {other:?}"),
            }
        }
        self.channel.send(&Message::All, &[]).await?;
        points::pass("takeover-given");
        self.until_ready().await
    }

    async fn until_ready(&self) -> Result<()> {
        match timeout(READY_TIMEOUT, self.channel.receive()).await {
            Ok(received) => match received? {
                Some((Message::Ready, _)) => Ok(()),
                Some((other, _)) => bail!("it said {other:?}"),
                None => bail!("it ended before it was ready"),
            },
            Err(_) => {
                // Both must not look after machines. It lives: its end of the connection is open.
                kill_process(self.pid, Signal::KILL).context("kill it")?;
                bail!("it was not ready after {} s", READY_TIMEOUT.as_secs());
            }
        }
    }

    /// Tells it that this process accepts no more, and where its flows of datagrams were.
    pub(crate) async fn leave(&self, flows: Vec<FlowPlace>) -> Result<()> {
        if self.takes_flows {
            self.channel.send(&Message::Flows(flows), &[]).await?;
        }
        self.channel.send(&Message::Leaving, &[]).await
    }

    /// Tells it what is on the way through the edge of this process, for as long as it listens.
    pub(crate) async fn tell(&self, counter: &TrafficCounter) {
        gauge::tell(&self.channel, counter).await;
    }

    async fn expect(&self) -> Result<Message> {
        let received = timeout(MESSAGE_TIMEOUT, self.channel.receive()).await;
        let received = received.context("it says nothing")??;
        received.map(|(message, _)| message).context("it ended")
    }
}

/// All sockets with what they are.
fn labelled<'a>(
    api: &'a [TcpListener],
    edge: &'a Listening,
) -> Result<Vec<(SocketLabel, BorrowedFd<'a>)>> {
    let mut sockets = Vec::new();
    let api = api.iter().map(|socket| (SocketOwner::Api, socket));
    let streams = edge.streams.iter();
    let streams = streams.map(|socket| (SocketOwner::Edge, socket));
    for (of, socket) in api.chain(streams) {
        let label = SocketLabel {
            of,
            protocol: Protocol::Tcp,
            address: socket.local_addr()?,
        };
        sockets.push((label, socket.as_fd()));
    }
    for socket in &edge.datagrams {
        let label = SocketLabel {
            of: SocketOwner::Edge,
            protocol: Protocol::Udp,
            address: socket.local_addr()?,
        };
        sockets.push((label, socket.as_fd()));
    }
    Ok(sockets)
}
