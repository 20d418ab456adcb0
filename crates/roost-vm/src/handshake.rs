//! The connection to the worker until the machine runs.

use anyhow::{Context as _, Result, bail};
pub(crate) use roost_proto::shim::LaunchError;
use roost_proto::shim::{LINE_BYTES_MAX, ShimEvent};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// The worker's side is open until the machine runs or has failed.
#[derive(Debug)]
pub(crate) struct Handshake {
    stream: BufReader<UnixStream>,
}

impl Handshake {
    /// Over the socket that was this process's standard input.
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: BufReader::new(UnixStream::from_std(stream)?),
        })
    }

    /// The next message. Not cancel-safe.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await
            .context("hear from the worker")?;
        if line.is_empty() {
            bail!("the worker went away");
        }
        serde_json::from_slice(&line).context("understand the worker")
    }

    /// Tells the worker.
    pub(crate) async fn send(&mut self, event: &ShimEvent) -> Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.write_all(&line).await.context("tell the worker")
    }
}
