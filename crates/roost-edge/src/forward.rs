//! Phase 6, forward: the request to the machine and its response header back.
//! Bodies follow by themselves, piece by piece, as each side takes them.

use crate::body::{BodySlot, RequestBody};
use crate::connect::Connection;
use crate::pool::Http1Sender;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The request as it goes to the app, without its body.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) host: String,
    pub(crate) headers: HeaderMap,
}

impl Head {
    fn http1(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers.clone();
        if let Ok(host) = HeaderValue::from_str(&self.host) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    fn http2(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Authority::try_from(self.host.as_str()).ok();
        uri.path_and_query = Some(self.path.clone());
        // The parts come from a request that was read, so they fit together.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().remove(HOST);
        request
    }
}

/// Why no response header came.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// The connection did not take the request.
    Unsent(String),
    /// The connection broke before any byte of a response.
    Broken(String),
    /// The app did not answer in time.
    TooLate,
    /// The client's body broke off or stood still.
    ClientBody,
}

/// A response header, with the HTTP/1 connection that its body comes on.
pub(crate) type Answer = (Response<Incoming>, Option<Http1Sender>);

/// Sends the request and waits for the response header.
pub(crate) async fn send(
    connection: Connection,
    head: &Head,
    slot: Option<&Arc<BodySlot>>,
    body_idle: Duration,
    patience: Duration,
) -> Result<Answer, SendFailure> {
    let body = slot.map_or(RequestBody::Empty, |slot| {
        RequestBody::streamed(slot, body_idle)
    });
    match connection {
        Connection::Http1(mut sender) => {
            let response = sender.try_send_request(head.http1(body));
            let result = with_patience(response, slot, patience)
                .await
                .ok_or(SendFailure::TooLate)?;
            match result {
                Ok(response) => Ok((response, Some(sender))),
                Err(error) => Err(failure(error)),
            }
        }
        Connection::Http2(mut sender) => {
            let response = sender.try_send_request(head.http2(body));
            let result = with_patience(response, slot, patience)
                .await
                .ok_or(SendFailure::TooLate)?;
            match result {
                Ok(response) => Ok((response, None)),
                Err(error) => Err(failure(error)),
            }
        }
    }
}

fn failure<T>(error: hyper::client::conn::TrySendError<T>) -> SendFailure {
    let unsent = error.message().is_some();
    let error = error.into_error();
    let why = roost_model::error::chain(&error);
    if unsent {
        SendFailure::Unsent(why)
    } else if error.is_user() {
        // The only user of the connection that can fail is the client's body.
        SendFailure::ClientBody
    } else {
        SendFailure::Broken(why)
    }
}

/// Waits for a response header for `limit` from the last piece of the request body.
async fn with_patience<F: Future>(
    response: F,
    slot: Option<&Arc<BodySlot>>,
    limit: Duration,
) -> Option<F::Output> {
    let mut response = std::pin::pin!(response);
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(output) = tokio::time::timeout_at(deadline, response.as_mut()).await {
            return Some(output);
        }
        let moved = slot.map(|slot| Instant::from_std(slot.last_progress()) + limit);
        match moved {
            Some(moved) if moved > deadline => deadline = moved,
            _ => return None,
        }
    }
}
