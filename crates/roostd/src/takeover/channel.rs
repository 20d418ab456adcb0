//! Messages with descriptors over a Unix socket: a length, then JSON.

use super::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, Message};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes of the length, which comes first.
const LENGTH_BYTES: usize = 4;

/// One end of the connection between two `roostd`.
#[derive(Debug)]
pub(super) struct Channel(pub(super) UnixStream);

impl Channel {
    /// Sends a message; the descriptors go with its first byte.
    pub(super) async fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let json = serde_json::to_vec(message).context("write a message")?;
        ensure!(
            json.len() <= MESSAGE_BYTES_MAX && fds.len() <= DESCRIPTORS_MAX,
            "a message is too large"
        );
        let length = u32::try_from(json.len()).context("a message is too large")?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(json);
        let mut sent = 0;
        while sent < bytes.len() {
            let fds = if sent == 0 { fds } else { &[] };
            let rest = &bytes[sent..];
            let written = self
                .0
                .async_io(Interest::WRITABLE, || send_part(&self.0, rest, fds));
            sent += written.await.context("send to the other roostd")?;
        }
        Ok(())
    }

    /// The next message; `None` when the other process has ended.
    pub(super) async fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut fds = Vec::new();
        let mut length = [0; LENGTH_BYTES];
        if !self.fill(&mut length, &mut fds).await? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_be_bytes(length))?;
        if length > MESSAGE_BYTES_MAX {
            bail!("the other roostd sent a message of {length} bytes");
        }
        let mut json = vec![0; length];
        if !self.fill(&mut json, &mut fds).await? {
            return Ok(None);
        }
        let message = serde_json::from_slice(&json).context("read a message")?;
        Ok(Some((message, fds)))
    }

    /// Reads until the buffer is full; `false` at the end of the stream.
    async fn fill(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = self
                .0
                .async_io(Interest::READABLE, || receive_part(&self.0, rest, fds));
            match read.await {
                Ok(0) => return Ok(false),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error).context("receive from the other roostd"),
            }
        }
        Ok(true)
    }
}

fn send_part(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
}

fn receive_part(
    stream: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [IoSliceMut::new(buffer)];
    let received = recvmsg(stream, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "descriptors were lost; is the limit of open files too low?",
        ));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::{Channel, Message};
    use crate::takeover::DESCRIPTORS_MAX;
    use std::os::fd::AsFd as _;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn descriptors_arrive_with_their_message_and_an_end_is_an_end() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = (Channel(one), Channel(other));
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX];
        let hello = Message::Hello {
            version: "1".to_owned(),
            takes_flows: true,
        };
        let messages = [
            (hello, &many[..0]),
            (Message::Sockets(Vec::new()), &many[..]),
            (Message::Ready, &many[..1]),
        ];
        for (message, fds) in &messages {
            one.send(message, fds).await.unwrap();
        }
        for (message, fds) in &messages {
            let (received, received_fds) = other.receive().await.unwrap().unwrap();
            assert_eq!((&received, received_fds.len()), (message, fds.len()));
        }
        drop(one);
        assert!(other.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_not_read() {
        use tokio::io::AsyncWriteExt as _;
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert!(Channel(other).receive().await.is_err());
    }
}
