//! Phase 6, forward: the request to the machine and its response header back.
//! Bodies follow by themselves, piece by piece, as each side takes them.

use crate::arrival::{self, Arrival};
use crate::body::{AppBody, RequestBody, Slot};
use crate::config::EdgeTimeouts;
use crate::connect::Connection;
use crate::eject::Outcome;
use crate::http1::response::write_line;
use crate::http1::spare;
use crate::pool::{Http1Sender, Http2Sender};
use crate::relay::{self, wire::Elsewhere};
use crate::table::Target;
use http::header::{HOST, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use hyper::client::conn::TrySendError;
use roost_http2::client::Error;
use roost_http2::fields::is_of_connection;
use roost_http2::hpack::Block;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::Instant;

/// The request as it goes to the app, without its body.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) host: String,
    /// Those of the client that go on, and what a replay has made of them.
    pub(crate) headers: HeaderMap,
    /// What the edge adds to them.
    pub(crate) arrival: Arrival,
}

impl Head {
    fn http1(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.all_headers();
        // One that is there is the same.
        if !self.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(&self.host)
        {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    /// The same as bytes, for a request without a body.
    fn write_http1(&self, bytes: &mut Vec<u8>) {
        // A client that asks for `http://name?query` has left the slash out (RFC 9112 3.2.1).
        let path = self.path.as_str();
        let slash = if path.starts_with('?') { "/" } else { "" };
        for part in [self.method.as_str(), " ", slash, path, " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        if !self.headers.contains_key(HOST) {
            write_line(HOST.as_str(), self.host.as_bytes(), bytes);
        }
        self.arrival.write_http1(&self.headers, bytes);
        bytes.extend_from_slice(b"\r\n");
    }

    /// The same as fields, for HTTP/2.
    fn write_http2(&self, block: &mut Block<'_>) {
        block.field(":method", self.method.as_str().as_bytes());
        block.field(":scheme", b"http");
        block.field(":authority", self.host.as_bytes());
        let path = self.path.as_str();
        // As in HTTP/1 above.
        if path.starts_with('?') {
            block.field(":path", format!("/{path}").as_bytes());
        } else {
            block.field(":path", path.as_bytes());
        }
        self.arrival
            .write_http2(&self.headers, block, |name, value| {
                let is_of_hop = *name == HOST
                    || is_of_connection(name)
                    || (*name == TE && value != b"trailers");
                !is_of_hop
            });
    }

    /// Made for each attempt: the head itself stays, for another or for a replay.
    fn all_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + arrival::LINES + 1);
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        self.arrival.tell(&mut headers);
        headers
    }
}

/// Why no response header came.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// The connection did not take the request.
    Unsent(String),
    /// The connection had no room for the request for as long as it waited.
    Full,
    /// The connection broke before any byte of a response.
    Broken(String),
    /// The app did not answer in time.
    TooLate,
    /// The header of the app's answer is beyond what the edge takes. Another one would be as well.
    TooLarge,
    /// The client's body broke off or stood still.
    ClientBody,
    /// The edge of the machine's node has not sent it on.
    Elsewhere(Box<Elsewhere>),
}

/// A response header, with the HTTP/1 connection that its body comes on if hyper has it. On the
/// heap, as it is handed on many times.
pub(crate) type Answer = Box<(Response<AppBody>, Option<Http1Sender>)>;

/// Sends the request and waits for the response header. `idle` is how long the app lets an
/// exchange stand still, if it says so; `now` is when the connection was there.
pub(crate) async fn send(
    connection: Connection,
    head: &Head,
    slot: Slot<'_>,
    target: &Target,
    timeouts: &EdgeTimeouts,
    idle: Option<Duration>,
    now: Instant,
) -> Result<Answer, SendFailure> {
    let patience = idle.unwrap_or(timeouts.response_header);
    let body = slot.map_or(RequestBody::Empty, |slot| {
        RequestBody::streamed(slot, idle.unwrap_or(timeouts.body_idle))
    });
    match connection {
        Connection::Plain(connection) => {
            let mut request = spare::take();
            head.write_http1(&mut request);
            let answer = connection.ask(request, &head.method, &target.pool, patience);
            Ok(Box::new((answer.await?.map(AppBody::Http1), None)))
        }
        // On the heap: a request without a body has no need of its place.
        Connection::Http1(sender) => {
            Box::pin(send_by_hyper(sender, head.http1(body), slot, patience)).await
        }
        Connection::Http2(sender) => {
            let is_head = head.method == Method::HEAD;
            let write = |block: &mut Block<'_>| head.write_http2(block);
            let until = || {
                let moved = slot.map(|slot| Instant::from_std(slot.last_progress()));
                moved.map_or(now, |moved| moved.max(now)) + patience
            };
            match sender.send(write, is_head, body, until).await {
                Ok(response) => Ok(Box::new((response.map(AppBody::Http2), None))),
                Err(error) if error.is_late() => Err(late(&sender, slot, target, &error)),
                Err(error) => Err(http2_failure(error, slot)),
            }
        }
        // On the heap: a request to a machine of this node has no need of its place.
        Connection::Peer(stream) => {
            Box::pin(relay::client::send(*stream, head, body, slot, patience)).await
        }
    }
}

async fn send_by_hyper(
    mut sender: Http1Sender,
    request: Request<RequestBody>,
    slot: Slot<'_>,
    patience: Duration,
) -> Result<Answer, SendFailure> {
    let response = pin!(sender.try_send_request(request));
    let response = with_patience(response, slot, patience, failure).await?;
    Ok(Box::new((response.map(AppBody::Hyper), Some(sender))))
}

/// How the machine has done; `None` when this says nothing about it.
pub(crate) fn judge(sent: &Result<Answer, SendFailure>) -> Option<Outcome> {
    match sent {
        Ok(answer) if answer.0.status().is_server_error() => Some(Outcome::Error),
        Ok(_) => Some(Outcome::Answered),
        // It has answered, if in a way that is no use to anybody.
        Err(SendFailure::TooLarge) => Some(Outcome::Error),
        Err(SendFailure::Broken(_) | SendFailure::TooLate) => Some(Outcome::NoAnswer),
        Err(
            SendFailure::Unsent(_)
            | SendFailure::Full
            | SendFailure::ClientBody
            | SendFailure::Elsewhere(_),
        ) => None,
    }
}

pub(crate) fn failure<T>(error: TrySendError<T>, slot: Slot<'_>) -> SendFailure {
    let unsent = error.message().is_some();
    let error = error.into_error();
    if error.is_parse_too_large() {
        return SendFailure::TooLarge;
    }
    let why = roost_model::error::chain(&error);
    if unsent {
        SendFailure::Unsent(why)
    } else if slot.is_some_and(|slot| slot.broke_off()) {
        SendFailure::ClientBody
    } else {
        SendFailure::Broken(why)
    }
}

/// No answer in time.
fn late(sender: &Http2Sender, slot: Slot<'_>, target: &Target, error: &Error) -> SendFailure {
    if slot.is_some_and(|slot| slot.awaits_client()) {
        return SendFailure::ClientBody;
    }
    // Whether the machine is slow or the connection is dead, nobody knows.
    target.pool.forget_http2(sender);
    if error.is_unsent() && sender.is_full() {
        return SendFailure::Full;
    }
    SendFailure::TooLate
}

fn http2_failure(error: Error, slot: Slot<'_>) -> SendFailure {
    if error.is_too_large() {
        SendFailure::TooLarge
    } else if error.is_unsent() {
        SendFailure::Unsent(error.to_string())
    } else if slot.is_some_and(|slot| slot.broke_off()) {
        SendFailure::ClientBody
    } else {
        SendFailure::Broken(error.to_string())
    }
}

/// Waits for a response header for `limit` from the last piece of the request body.
pub(crate) async fn with_patience<R, E>(
    mut response: Pin<&mut impl Future<Output = Result<R, E>>>,
    slot: Slot<'_>,
    limit: Duration,
    failure: impl FnOnce(E, Slot<'_>) -> SendFailure,
) -> Result<R, SendFailure> {
    let mut deadline = Instant::now() + limit;
    loop {
        if let Ok(result) = tokio::time::timeout_at(deadline, response.as_mut()).await {
            return result.map_err(|error| failure(error, slot));
        }
        let moved = slot.map(|slot| Instant::from_std(slot.last_progress()) + limit);
        match moved {
            Some(moved) if moved > deadline => deadline = moved,
            _ if slot.is_some_and(|slot| slot.awaits_client()) => {
                return Err(SendFailure::ClientBody);
            }
            _ => return Err(SendFailure::TooLate),
        }
    }
}
