//! PostgreSQL's way into TLS: the client asks in plain text, and TLS begins
//! once it was told that it may.
//!
//! A client that begins with anything else gets an error in PostgreSQL's own
//! words and is closed: its password would go in plain text. The requests are
//! those of "Message Formats" in PostgreSQL's documentation of its protocol.

use crate::limits;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The ALPN name of PostgreSQL's protocol.
pub(crate) const PROTOCOL: &str = "postgresql";

/// What every message at the beginning has: its length and a code.
const HEAD_BYTES: usize = 8;
/// SSLRequest.
const TLS_WANTED: u32 = 80_877_103;
/// GSSENCRequest.
const GSS_WANTED: u32 = 80_877_104;
/// The first byte of a TLS record with a handshake (RFC 8446 5.1): a client
/// that begins so does not ask, as from PostgreSQL 17 on it may.
const TLS_HANDSHAKE: u8 = 22;

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Tls,
    Gss,
    Other,
}

fn wish(head: [u8; HEAD_BYTES]) -> Wish {
    let [a, b, c, d, e, f, g, h] = head;
    let n_bytes = u32::from_be_bytes([a, b, c, d]);
    match (n_bytes, u32::from_be_bytes([e, f, g, h])) {
        (8, TLS_WANTED) => Wish::Tls,
        (8, GSS_WANTED) => Wish::Gss,
        _ => Wish::Other,
    }
}

/// Leads a client to the first byte of TLS. The error says what it did
/// instead; it has been told.
pub(crate) async fn begin(stream: &mut TcpStream) -> io::Result<()> {
    for _ in 0..limits::PG_REQUESTS_MAX {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE {
            return Ok(());
        }
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        match wish(head) {
            // What the client sent along with its request is read as TLS, and fails as such.
            Wish::Tls => return stream.write_all(b"S").await,
            Wish::Gss => stream.write_all(b"N").await?,
            Wish::Other => break,
        }
    }
    stream.write_all(&refusal()).await?;
    stream.shutdown().await?;
    let problem = "a client of a pg_tls port did not ask for TLS";
    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// An ErrorResponse: severity, the code of `invalid_authorization_specification`, and why.
fn refusal() -> Vec<u8> {
    let mut fields = Vec::new();
    for (field, text) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', "28000"),
        (b'M', "this server takes connections with TLS only"),
        (b'H', "Connect with sslmode=require, or a stricter one."),
    ] {
        fields.push(field);
        fields.extend(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let n_bytes = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![b'E'];
    message.extend(n_bytes.to_be_bytes());
    message.extend(fields);
    message
}

#[cfg(test)]
mod tests {
    use super::{Wish, wish};

    #[test]
    fn only_a_whole_request_for_tls_is_one() {
        for (head, expected) in [
            (*b"\0\0\0\x08\x04\xd2\x16\x2f", Wish::Tls),
            (*b"\0\0\0\x08\x04\xd2\x16\x30", Wish::Gss),
            (*b"\0\0\0\x09\x04\xd2\x16\x2f", Wish::Other),
            // A cancellation, and the start-up message of version 3.0.
            (*b"\0\0\0\x10\x04\xd2\x16\x2e", Wish::Other),
            (*b"\0\0\0\x29\x00\x03\x00\x00", Wish::Other),
            (*b"GET / HT", Wish::Other),
        ] {
            assert_eq!(wish(head), expected, "{head:?}");
        }
    }
}
