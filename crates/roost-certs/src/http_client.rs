//! The HTTP under ACME: HTTPS only, with ends and bounds, and with the wait that an authority
//! asks for, which the library of the protocol drops.

use crate::limits;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// The type of the problem by which an authority says that it is too much (RFC 8555 6.7).
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

/// An answer that says that it is too much.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct TooMuch {
    pub(crate) detail: String,
    pub(crate) retry_after: Option<Duration>,
}

/// An answer with more bytes than any that makes sense.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {} bytes", limits::ANSWER_BYTES_MAX)]
struct TooLong;

/// The client could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("read {path}")]
    Root {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("set up the client")]
    Client(#[from] reqwest::Error),
}

/// See the module.
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// A client that trusts the authorities of the system, and those in this file.
    pub(crate) fn new(root: Option<&Path>) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .timeout(limits::ANSWER_TIMEOUT)
            .https_only(true)
            .no_proxy();
        if let Some(path) = root {
            let pem = std::fs::read(path).map_err(|source| ClientError::Root {
                path: path.display().to_string(),
                source,
            })?;
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        Ok(Self(builder.build()?))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move { send(&client, request).await })
    }
}

async fn send(
    client: &reqwest::Client,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Error> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await;
    let request = Request::from_parts(parts, body.to_bytes());
    let other = |error: reqwest::Error| Error::Other(Box::new(error));
    let request = reqwest::Request::try_from(request).map_err(other)?;
    let mut answer = client.execute(request).await.map_err(other)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(other)? {
        if bytes.len() + chunk.len() > limits::ANSWER_BYTES_MAX {
            return Err(Error::Other(Box::new(TooLong)));
        }
        bytes.extend_from_slice(&chunk);
    }
    if !answer.status().is_success() {
        let problem: Option<Problem> = serde_json::from_slice(&bytes).ok();
        let kind = problem
            .as_ref()
            .and_then(|problem| problem.r#type.as_deref());
        if kind == Some(RATE_LIMITED) || matches!(answer.status().as_u16(), 429 | 503) {
            let seconds = answer.headers().get(RETRY_AFTER);
            let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
            let detail = problem.and_then(|problem| problem.detail);
            return Err(Error::Other(Box::new(TooMuch {
                detail: detail.unwrap_or_else(|| format!("status {}", answer.status())),
                retry_after: seconds.map(Duration::from_secs),
            })));
        }
    }
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(BytesResponse::from(response))
}
