//! One question to a machine: does this port accept, does this path answer 2xx.

use crate::limits;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use roost_model::machine::{Check, CheckKind};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

/// Asks once. `Ok` and `Err` carry what was seen, for people.
pub(super) async fn ask(ipv4: Ipv4Addr, check: &Check) -> Result<String, String> {
    let address = SocketAddr::from((ipv4, check.port));
    match &check.kind {
        CheckKind::Tcp => tcp(address, check.timeout).await,
        CheckKind::Http {
            method,
            path,
            headers,
        } => {
            let request = build_request(address, method, path, headers)?;
            match tokio::time::timeout(check.timeout, http(address, request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {} ms", check.timeout.as_millis())),
            }
        }
    }
}

/// Whether a connection is accepted in time.
pub(super) async fn tcp(address: SocketAddr, timeout: Duration) -> Result<String, String> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok("connection accepted".into()),
        Ok(Err(error)) => Err(describe_connect(&error)),
        Err(_) => Err(format!("no connection within {} ms", timeout.as_millis())),
    }
}

fn describe_connect(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

fn build_request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Request<Empty<Bytes>>, String> {
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| format!("`{method}` is not an HTTP method"))?;
    let mut request = Request::builder().method(method).uri(path);
    let names = |name: &str| headers.keys().any(|given| given.eq_ignore_ascii_case(name));
    if !names(HOST.as_str()) {
        request = request.header(HOST, address.to_string());
    }
    if !names(USER_AGENT.as_str()) {
        request = request.header(USER_AGENT, "roost-check");
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("request cannot be made: {error}"))
}

async fn http(address: SocketAddr, request: Request<Empty<Bytes>>) -> Result<String, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| describe_connect(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("no HTTP: {error}"))?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no HTTP answer: {error}"))?;
        let status = response.status();
        let excerpt = read_excerpt(response.into_body()).await;
        let text = format!("{status} {excerpt}").trim_end().to_owned();
        if status.is_success() {
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

/// The first line or so of a body.
async fn read_excerpt(mut body: hyper::body::Incoming) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    while bytes.len() < limits::CHECK_OUTPUT_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let room = limits::CHECK_OUTPUT_BYTES_MAX - bytes.len();
                    bytes.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&bytes)
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}
