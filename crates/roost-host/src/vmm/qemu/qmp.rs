//! The control channel: QEMU's machine protocol (`docs/interop/qmp-spec.txt`).
//!
//! One JSON object a line. QEMU greets, and sends events at any time between
//! the answers. A task reads all the time, so that a guest that causes events
//! does not fill QEMU's memory with them. The other side counts as hostile: a
//! line that is too long or makes no sense ends the channel.

use super::limits::{COMMAND_TIMEOUT, QMP_LINE_BYTES_MAX, QMP_REPLIES_MAX};
use crate::vmm::VmmError;
use roost_runtime::tasks::Tasks;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// The channel of one process. Commands go one after the other.
#[derive(Debug)]
pub(super) struct Qmp {
    output: OwnedWriteHalf,
    replies: mpsc::Receiver<Reply>,
    next_id: u64,
}

/// A line from QEMU, as far as it is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Line {
    id: Option<u64>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Debug)]
enum Reply {
    Greeting,
    Answer {
        id: u64,
        result: Result<Value, String>,
    },
}

impl Qmp {
    /// Waits for the greeting and enters the mode in which commands are taken.
    pub(super) async fn connect(stream: UnixStream, limit: Duration) -> Result<Self, VmmError> {
        let (input, output) = stream.into_split();
        let (sender, replies) = mpsc::channel(QMP_REPLIES_MAX);
        // Ends with the process: the channel is the last thing that it closes.
        Tasks::new().spawn("qemu control channel", async move {
            if let Err(error) = read_lines(BufReader::new(input), &sender).await {
                tracing::warn!(%error, "control channel of QEMU broke");
            }
        });
        let mut qmp = Self {
            output,
            replies,
            next_id: 1,
        };
        match tokio::time::timeout(limit, qmp.replies.recv()).await {
            Ok(Some(Reply::Greeting)) => {}
            Ok(Some(Reply::Answer { .. })) => {
                return Err(broken("greet", "an answer to no question"));
            }
            Ok(None) => return Err(VmmError::Ended(String::new())),
            Err(_) => return Err(timed_out("greet", limit)),
        }
        qmp.request("qmp_capabilities", Value::Null, None, limit)
            .await?;
        Ok(qmp)
    }

    /// Runs a command without arguments.
    pub(super) async fn run(&mut self, command: &str) -> Result<Value, VmmError> {
        self.request(command, Value::Null, None, COMMAND_TIMEOUT)
            .await
    }

    /// Runs a command with arguments.
    pub(super) async fn run_with(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, VmmError> {
        self.request(command, arguments, None, COMMAND_TIMEOUT)
            .await
    }

    /// Hands a descriptor over, under a name for later commands.
    pub(super) async fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), VmmError> {
        let arguments = json!({ "fdname": name });
        self.request("getfd", arguments, Some(fd), COMMAND_TIMEOUT)
            .await
            .map(drop)
    }

    async fn request(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Value, VmmError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        let exchange = async {
            self.send(line.as_bytes(), fd)
                .await
                .map_err(|source| VmmError::Io {
                    operation: format!("send `{command}` to QEMU"),
                    source,
                })?;
            self.answer(command, id).await
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(timed_out(command, limit)))
    }

    async fn send(&self, mut line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let socket: &UnixStream = self.output.as_ref();
        let mut fd = fd.as_slice();
        while !line.is_empty() {
            socket.writable().await?;
            match socket.try_io(Interest::WRITABLE, || send_part(socket, line, fd)) {
                Ok(n) => {
                    line = line.get(n..).unwrap_or_default();
                    // It went with the first bytes.
                    fd = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn answer(&mut self, command: &str, wanted: u64) -> Result<Value, VmmError> {
        loop {
            match self.replies.recv().await {
                None => return Err(VmmError::Ended(String::new())),
                Some(Reply::Greeting) => return Err(broken(command, "a second greeting")),
                // Of a command whose time was up.
                Some(Reply::Answer { id, .. }) if id < wanted => {}
                Some(Reply::Answer { result, .. }) => {
                    return result.map_err(|reason| broken(command, &reason));
                }
            }
        }
    }
}

fn send_part(socket: &UnixStream, line: &[u8], fd: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fd.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fd)) {
        return Err(io::Error::other("too many descriptors"));
    }
    Ok(sendmsg(
        socket,
        &[IoSlice::new(line)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

async fn read_lines(
    mut input: impl AsyncBufRead + Unpin,
    replies: &mpsc::Sender<Reply>,
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = (&mut input)
            .take(QMP_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        if n == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::other("a line is too long or cut off"));
        }
        let line: Line = serde_json::from_slice(&line)?;
        let Some(reply) = reply_of(line) else {
            continue;
        };
        match replies.try_send(reply) {
            // Closed: nobody asks any more, but events still have to be read.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                return Err(io::Error::other("more answers than questions"));
            }
        }
    }
}

fn reply_of(line: Line) -> Option<Reply> {
    if let Some(event) = line.event {
        tracing::debug!(event, "event of QEMU");
        return None;
    }
    if line.greeting.is_some() {
        return Some(Reply::Greeting);
    }
    let result = match line.error {
        Some(refusal) => Err(refusal.desc),
        None => Ok(line.value.unwrap_or(Value::Null)),
    };
    Some(Reply::Answer {
        id: line.id?,
        result,
    })
}

fn broken(command: &str, reason: &str) -> VmmError {
    VmmError::Refused {
        operation: format!("QEMU command `{command}`"),
        reason: reason.to_owned(),
    }
}

fn timed_out(command: &str, limit: Duration) -> VmmError {
    VmmError::TimedOut {
        operation: format!("QEMU command `{command}`"),
        limit,
    }
}

#[cfg(test)]
mod tests {
    use super::Qmp;
    use crate::vmm::VmmError;
    use serde_json::Value;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    const LIMIT: Duration = Duration::from_secs(20);
    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    /// A channel whose other side has greeted and said yes once.
    async fn connected() -> (Qmp, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(GREETING.as_bytes()).await.unwrap();
        theirs
            .write_all(b"{\"return\": {}, \"id\": 1}\r\n")
            .await
            .unwrap();
        (Qmp::connect(ours, LIMIT).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn events_and_late_answers_are_passed_over() {
        let (mut qmp, mut theirs) = connected().await;
        let lines = "{\"event\": \"STOP\", \"timestamp\": {}}\r\n\
            {\"return\": {\"late\": 1}, \"id\": 1}\r\n\
            {\"return\": {\"status\": \"paused\"}, \"id\": 2}\r\n";
        theirs.write_all(lines.as_bytes()).await.unwrap();
        let answer = qmp.run("query-status").await.unwrap();
        assert_eq!(answer["status"], Value::from("paused"));
    }

    #[tokio::test]
    async fn a_refusal_tells_the_command_and_the_reason() {
        let (mut qmp, mut theirs) = connected().await;
        let line = b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 2}\n";
        theirs.write_all(line).await.unwrap();
        let error = qmp.run("cont").await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU command `cont`: no");
    }

    #[tokio::test]
    async fn a_line_without_an_end_ends_the_channel() {
        let (mut qmp, mut theirs) = connected().await;
        theirs.write_all(&vec![b'x'; 70_000]).await.unwrap();
        let error = qmp.run("cont").await.unwrap_err();
        assert!(matches!(error, VmmError::Ended(_)), "{error}");
    }

    #[tokio::test]
    async fn one_that_never_greets_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Qmp::connect(ours, Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(matches!(error, VmmError::TimedOut { .. }), "{error}");
    }
}
