//! HTTP checks: one request of HTTP/1.1, one answer. Redirects are not followed.

use super::Answer;
use super::text::excerpt;
use super::tls::Transport;
use crate::limits;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use roost_model::error::chain;
use roost_model::machine::{HttpCheck, StatusRanges};
use std::net::SocketAddr;

/// What checks call themselves.
pub(super) const AGENT: &str = "roost-check";

pub(super) fn request(
    address: SocketAddr,
    check: &HttpCheck,
) -> Result<Request<Empty<Bytes>>, String> {
    let method = Method::from_bytes(check.method.as_bytes())
        .map_err(|_| format!("`{}` is not an HTTP method", check.method))?;
    let mut request = Request::builder().method(method).uri(&check.path);
    let names = |name: &str| {
        let mut given = check.headers.keys();
        given.any(|given| given.eq_ignore_ascii_case(name))
    };
    if !names(HOST.as_str()) {
        request = request.header(HOST, address.to_string());
    }
    if !names(USER_AGENT.as_str()) {
        request = request.header(USER_AGENT, AGENT);
    }
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    request
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("request cannot be made: {error}"))
}

pub(super) async fn exchange(
    transport: Transport,
    request: Request<Empty<Bytes>>,
    expected: &StatusRanges,
) -> Answer {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(limits::CHECK_HEAD_BYTES_MAX as usize)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| format!("no HTTP: {}", chain(&error)))?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no HTTP answer: {}", chain(&error)))?;
        let status = response.status();
        // The status decides; an answer that never ends is cut short.
        let body = read_start(response.into_body());
        let body = tokio::time::timeout(limits::CHECK_BODY_WAIT, body).await;
        let text = format!("{status} {}", excerpt(&body.unwrap_or_default()));
        let text = text.trim_end().to_owned();
        if expected.contains(status.as_u16()) {
            Ok(text)
        } else {
            Err(text)
        }
    };
    // The connection must be driven for the exchange to move on; it is
    // dropped with it, so nothing is left of a check that is over.
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // Cancel-safe: both live in this function and are polled until the answer is here.
        outcome = &mut exchange => outcome,
        // Cancel-safe: as above. The answer may have come with the end.
        _ = &mut connection => exchange.await,
    }
}

/// The start of a body, as much as an excerpt is made from.
async fn read_start(mut body: Incoming) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    while bytes.len() < limits::CHECK_OUTPUT_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else {
            break;
        };
        if let Some(data) = frame.data_ref() {
            let room = limits::CHECK_OUTPUT_BYTES_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    bytes
}
