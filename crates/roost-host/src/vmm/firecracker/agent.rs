//! The stream to the guest's agent: a vsock, which Firecracker gives as a Unix socket.
//!
//! Who connects there says `CONNECT <port>`, and is told `OK <some number>` when
//! the guest has taken the connection (Firecracker, `docs/vsock.md`). Without a
//! listener in the guest the connection is closed.

use super::limits::{CONNECT_LINE_BYTES_MAX, CONNECT_TIMEOUT};
use super::socket::SocketPath;
use crate::vmm::VmmError;
use roost_agent::VSOCK_PORT;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Opens the stream.
pub(super) async fn open(socket: &SocketPath) -> Result<UnixStream, VmmError> {
    let operation = || format!("connect to port {VSOCK_PORT} of the guest");
    match tokio::time::timeout(CONNECT_TIMEOUT, shake_hands(socket)).await {
        Ok(result) => result.map_err(|source| VmmError::Io {
            operation: operation(),
            source,
        }),
        Err(_) => Err(VmmError::TimedOut {
            operation: operation(),
            limit: CONNECT_TIMEOUT,
        }),
    }
}

async fn shake_hands(socket: &SocketPath) -> io::Result<UnixStream> {
    let mut stream = socket.connect().await?;
    let request = format!("CONNECT {VSOCK_PORT}\n");
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte: what follows the line is the guest's.
    let mut line = Vec::with_capacity(CONNECT_LINE_BYTES_MAX);
    loop {
        let byte = match stream.read_u8().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = "nobody in the guest listens there";
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
            }
            byte => byte?,
        };
        if byte == b'\n' {
            break;
        }
        if line.len() == CONNECT_LINE_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        line.push(byte);
    }
    let number = line.strip_prefix(b"OK ").unwrap_or_default();
    let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    if !is_number {
        let text = format!("unexpected answer {:?}", String::from_utf8_lossy(&line));
        return Err(io::Error::other(text));
    }
    Ok(stream)
}
