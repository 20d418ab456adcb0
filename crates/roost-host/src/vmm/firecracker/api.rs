//! The control channel: HTTP/1.1 with JSON over a Unix socket.
//!
//! One connection a request: they are few, and none can be left over from
//! another. The other side counts as hostile: an answer that is too long or makes
//! no sense is an error, and none is waited for without a limit.

use super::limits::{ANSWER_BYTES_MAX, REASON_BYTES_MAX};
use crate::vmm::VmmError;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::net::UnixStream;

use super::socket::SocketPath;

/// What is asked of Firecracker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

impl ApiRequest {
    /// Asks for something.
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
        }
    }

    /// Sets something.
    pub(super) fn put(path: impl Into<String>, body: Value) -> Self {
        Self {
            method: Method::PUT,
            path: path.into(),
            body: Some(body),
        }
    }

    /// Changes something of a running VM.
    pub(super) fn patch(path: impl Into<String>, body: Value) -> Self {
        Self {
            method: Method::PATCH,
            path: path.into(),
            body: Some(body),
        }
    }

    fn operation(&self) -> String {
        format!("{} {} of firecracker", self.method, self.path)
    }
}

/// How an error is told.
#[derive(Debug, Deserialize)]
struct Fault {
    fault_message: String,
}

/// The API of one process.
#[derive(Debug)]
pub(super) struct Api {
    socket: SocketPath,
}

impl Api {
    pub(super) fn new(socket: SocketPath) -> Self {
        Self { socket }
    }

    /// Opens a connection, for nothing but to see who answers.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        self.socket.connect().await
    }

    /// Sends a request. Not cancel-safe: Firecracker goes on with it.
    pub(super) async fn send(&self, request: ApiRequest, limit: Duration) -> Result<(), VmmError> {
        let operation = request.operation();
        let answer = tokio::time::timeout(limit, self.exchange(request)).await;
        let answer = answer.map_err(|_| VmmError::TimedOut {
            operation: operation.clone(),
            limit,
        })?;
        let (status, body) = answer.map_err(|source| VmmError::Io {
            operation: operation.clone(),
            source,
        })?;
        if status.is_success() {
            return Ok(());
        }
        Err(VmmError::Refused {
            operation,
            reason: reason(status, &body),
        })
    }

    async fn exchange(&self, request: ApiRequest) -> io::Result<(StatusCode, Bytes)> {
        let stream = self.socket.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)?;
        let mut builder = Request::builder()
            .method(request.method)
            .uri(request.path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/json");
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        let body = request.body.map(|body| body.to_string());
        let request = builder
            .body(Full::from(body.unwrap_or_default()))
            .map_err(io::Error::other)?;
        let answer = async move {
            let answer = sender
                .send_request(request)
                .await
                .map_err(io::Error::other)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        // The connection is what moves the bytes; it ends after the answer or with an
        // error, of which the answer tells too.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }
}

/// What Firecracker says of a refusal, as far as it can be shown.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => format!("{status} {}", String::from_utf8_lossy(body)),
    };
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim().to_owned()
}

#[cfg(test)]
mod tests;
