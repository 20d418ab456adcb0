//! The new `roostd`: what it gets from the one that runs.

use super::channel::Channel;
use super::{
    BothEdges, MESSAGE_TIMEOUT, Message, Protocol, READY_TIMEOUT, SocketLabel, SocketOwner,
};
use crate::config::NodePaths;
use crate::daemon::Lock;
use anyhow::{Context as _, Result, bail, ensure};
use roost_edge::Listening;
use roost_proto::traffic::FlowPlace;
use roost_runtime::points;
use roost_runtime::tasks::Tasks;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Listening sockets of the `roostd` before.
#[derive(Debug, Default)]
pub(crate) struct Given {
    api: Vec<TcpListener>,
    edge: Listening,
}

impl Given {
    /// The API's socket of this address, if it was given.
    pub(crate) fn api(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.api, address)
    }

    /// The edge's socket of this address, if it was given.
    pub(crate) fn edge(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.edge.streams, address)
    }

    /// The other sockets of the edge: ports of apps. Those of the API are closed.
    pub(crate) fn ports(self) -> Listening {
        self.edge
    }

    fn add(&mut self, label: &SocketLabel, fd: OwnedFd) -> Result<()> {
        let address = match (label.of, label.protocol) {
            (of, Protocol::Tcp) => {
                let socket = TcpListener::from(fd);
                let address = socket.local_addr();
                match of {
                    SocketOwner::Api => self.api.push(socket),
                    SocketOwner::Edge => self.edge.streams.push(socket),
                }
                address
            }
            (SocketOwner::Edge, Protocol::Udp) => {
                let socket = UdpSocket::from(fd);
                let address = socket.local_addr();
                self.edge.datagrams.push(socket);
                address
            }
            (SocketOwner::Api, Protocol::Udp) => bail!("the API takes no datagrams"),
        };
        let address = address.context("look at a socket")?;
        ensure!(
            address == label.address,
            "the socket of {} is of {address}",
            label.address
        );
        Ok(())
    }
}

fn take(sockets: &mut Vec<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
    let is_it = |socket: &TcpListener| socket.local_addr().is_ok_and(|local| local == address);
    let idx = sockets.iter().position(is_it)?;
    Some(sockets.swap_remove(idx))
}

/// The `roostd` that is taken over from.
///
/// The connection ends with this process and not before: the old one takes its
/// end for the end of all that was begun here.
#[derive(Debug)]
pub(crate) struct Predecessor(&'static Channel);

/// A process whose end can be waited for.
///
/// A process that is killed closes what it has open one by one: its end of the
/// connection may be closed while it still has the lock or listens.
struct Process(Option<OwnedFd>);

impl Process {
    /// The other end of a connection.
    fn peer(stream: &UnixStream) -> Result<Self> {
        let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
        Self::of(pid.context("the kernel does not say which process it is")?)
    }

    fn of(pid: Pid) -> Result<Self> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self(Some(fd))),
            Err(rustix::io::Errno::SRCH) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has closed everything.
    async fn ended(self) -> Result<()> {
        let Some(fd) = self.0 else { return Ok(()) };
        let limit = Timespec::try_from(MESSAGE_TIMEOUT)?;
        let wait = move || poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
        let n_ended = tokio::task::spawn_blocking(wait).await??;
        ensure!(
            n_ended > 0,
            "the roostd that runs hung up, but does not end"
        );
        Ok(())
    }
}

/// Asks the `roostd` of this data directory for its place; `None` when none
/// runs, or when it ends before it has given anything.
pub(crate) async fn begin(paths: &NodePaths) -> Result<Option<(Predecessor, Lock, Given)>> {
    let path = paths.takeover();
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("connect to {}", path.display())),
    };
    let process = Process::peer(&stream).context("look at the roostd that runs")?;
    let channel: &Channel = Box::leak(Box::new(Channel(stream)));
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Message::Hello {
        version,
        takes_flows: true,
    };
    if channel.send(&hello, &[]).await.is_err() {
        process.ended().await?;
        return Ok(None);
    }
    points::pass("takeover-asked");
    let answer = timeout(MESSAGE_TIMEOUT, channel.receive()).await;
    let lock = match answer.context("the roostd that runs does not answer")?? {
        Some((Message::Yours { version }, fds)) => {
            tracing::info!(version, "taking over from the roostd that runs");
            let [lock] = <[OwnedFd; 1]>::try_from(fds)
                .ok()
                .context("there is no lock")?;
            Lock::given(lock.into(), paths)?
        }
        Some((Message::Refused { reason }, _)) => bail!("the roostd that runs goes on: {reason}"),
        Some((other, _)) => bail!("the roostd that runs answered {other:?}"),
        None => {
            process.ended().await?;
            return Ok(None);
        }
    };
    points::pass("takeover-yours");
    let mut given = Given::default();
    if !take_sockets(channel, &mut given).await? {
        // What it cannot give any more is opened anew.
        process.ended().await?;
    }
    points::pass("takeover-taken");
    Ok(Some((Predecessor(channel), lock, given)))
}

/// Takes all the sockets; `false` when the other one ends before.
async fn take_sockets(channel: &Channel, given: &mut Given) -> Result<bool> {
    loop {
        let received = timeout(MESSAGE_TIMEOUT, channel.receive()).await;
        let received = received.context("the roostd that runs gives no more")??;
        match received {
            Some((Message::Sockets(labels), fds)) if labels.len() == fds.len() => {
                for (label, fd) in labels.iter().zip(fds) {
                    given.add(label, fd)?;
                }
                if channel.send(&Message::Taken, &[]).await.is_err() {
                    return Ok(false);
                }
            }
            Some((Message::All, _)) => return Ok(true),
            Some((other, _)) => bail!("the roostd that runs said {other:?}"),
            None => return Ok(false),
        }
    }
}

impl Predecessor {
    /// Tells it that this process serves, and waits until it accepts no more;
    /// the gauge then follows what it still serves. When it has ended instead,
    /// that is as good. Returns where its flows of datagrams were.
    pub(crate) async fn end(self, gauge: Arc<BothEdges>, tasks: &Tasks) -> Vec<FlowPlace> {
        points::pass("takeover-serving");
        let mut flows = Vec::new();
        let left = async {
            self.0.send(&Message::Ready, &[]).await?;
            loop {
                match timeout(READY_TIMEOUT, self.0.receive()).await?? {
                    Some((Message::Flows(told), _)) => flows = told,
                    other => return anyhow::Ok(other),
                }
            }
        };
        match left.await {
            Ok(Some((Message::Leaving, _))) => {
                tracing::info!("the roostd before this one accepts no more");
                let stop = tasks.stopping();
                tasks.spawn("edge before this one", async move {
                    stop.run_until_cancelled(gauge.follow(self.0)).await;
                });
            }
            other => tracing::warn!(?other, "the roostd before this one has ended"),
        }
        points::pass("takeover-done");
        flows
    }
}

#[cfg(test)]
mod tests {
    use super::Process;
    use rustix::process::{Pid, Signal, kill_process};
    use std::time::Duration;

    #[tokio::test]
    async fn the_end_of_a_process_is_waited_for() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let process = Process::of(pid).unwrap();
        let mut ended = Box::pin(process.ended());
        let moment = Duration::from_millis(50);
        assert!(tokio::time::timeout(moment, &mut ended).await.is_err());
        kill_process(pid, Signal::KILL).unwrap();
        ended.await.unwrap();
        child.wait().unwrap();
        Process::of(pid).unwrap().ended().await.unwrap();
    }
}
