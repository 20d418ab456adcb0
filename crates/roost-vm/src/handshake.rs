//! The connection to the worker until the machine runs.

use anyhow::{Context as _, Result, bail};
use roost_proto::shim::{LINE_BYTES_MAX, LaunchFault, ShimEvent};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// A start that did not succeed, and whose fault that is.
#[derive(Debug)]
pub(crate) struct LaunchError {
    pub(crate) fault: LaunchFault,
    pub(crate) message: String,
}

impl LaunchError {
    /// The machine's config or image is at fault.
    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Machine,
            message: message.into(),
        }
    }

    /// The host is at fault.
    pub(crate) fn host(message: impl Into<String>) -> Self {
        Self {
            fault: LaunchFault::Host,
            message: message.into(),
        }
    }
}

impl From<anyhow::Error> for LaunchError {
    fn from(error: anyhow::Error) -> Self {
        Self::host(format!("{error:#}"))
    }
}

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
