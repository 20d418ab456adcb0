//! The new `roostd`: what it gets from the one that runs.

use super::channel::Channel;
use super::{BothEdges, MESSAGE_TIMEOUT, Message, READY_TIMEOUT, SocketLabel, SocketOwner};
use crate::config::NodePaths;
use crate::daemon::Lock;
use anyhow::{Context as _, Result, bail, ensure};
use roost_runtime::points;
use roost_runtime::tasks::Tasks;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Listening sockets of the `roostd` before.
#[derive(Debug, Default)]
pub(crate) struct Given {
    api: Vec<TcpListener>,
    edge: Vec<TcpListener>,
}

impl Given {
    /// The API's socket of this address, if it was given.
    pub(crate) fn api(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.api, address)
    }

    /// The edge's socket of this address, if it was given.
    pub(crate) fn edge(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take(&mut self.edge, address)
    }

    /// The other sockets of the edge: ports of apps. Those of the API are closed.
    pub(crate) fn ports(self) -> Vec<TcpListener> {
        self.edge
    }

    fn add(&mut self, label: &SocketLabel, fd: OwnedFd) -> Result<()> {
        let socket = TcpListener::from(fd);
        let address = socket.local_addr().context("look at a socket")?;
        ensure!(
            address == label.address,
            "the socket of {} is of {address}",
            label.address
        );
        match label.of {
            SocketOwner::Api => self.api.push(socket),
            SocketOwner::Edge => self.edge.push(socket),
        }
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
    let channel: &Channel = Box::leak(Box::new(Channel(stream)));
    let version = env!("CARGO_PKG_VERSION").to_owned();
    channel.send(&Message::Hello { version }, &[]).await?;
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
        None => return Ok(None),
    };
    points::pass("takeover-yours");
    let mut given = Given::default();
    // What it cannot give any more is opened anew.
    while let Some((message, fds)) = timeout(MESSAGE_TIMEOUT, channel.receive())
        .await
        .context("the roostd that runs gives no more")??
    {
        match message {
            Message::Sockets(labels) if labels.len() == fds.len() => {
                for (label, fd) in labels.iter().zip(fds) {
                    given.add(label, fd)?;
                }
                channel.send(&Message::Taken, &[]).await?;
            }
            Message::All => break,
            other => bail!("the roostd that runs said {other:?}"),
        }
    }
    points::pass("takeover-taken");
    Ok(Some((Predecessor(channel), lock, given)))
}

impl Predecessor {
    /// Tells it that this process serves, and waits until it accepts no more;
    /// the gauge then follows what it still serves. When it has ended instead,
    /// that is as good.
    pub(crate) async fn end(self, gauge: Arc<BothEdges>, tasks: &Tasks) {
        points::pass("takeover-serving");
        let left = async {
            self.0.send(&Message::Ready, &[]).await?;
            timeout(READY_TIMEOUT, self.0.receive()).await?
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
    }
}
