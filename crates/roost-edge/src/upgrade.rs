//! WebSocket: over HTTP/1.1 by `Upgrade` (RFC 6455), over HTTP/2 by extended
//! CONNECT (RFC 8441). Towards the app it is always the HTTP/1.1 form. Other
//! upgrades are dropped: the request goes on without them.

use crate::body::ResponseBody;
use crate::client_body::{ClientBody, ClientStreams};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::tunnel;
use base64::Engine as _;
use futures_util::TryFutureExt as _;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use roost_http2::server::{Protocol, RequestBody};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// A client's wish for a WebSocket.
#[derive(Debug)]
pub(crate) struct Wish {
    client: Client,
    form: Form,
}

/// Where the client's side of the tunnel comes from.
#[derive(Debug)]
enum Client {
    /// From hyper, once the client has the answer.
    Upgrade(OnUpgrade),
    /// It is the stream of the request.
    Stream(RequestBody),
}

/// How a client asks for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Http1,
    Http2,
    /// As another edge does: over HTTP/2, with the headers of HTTP/1.1 for the handshake.
    Relayed,
}

/// Whether this is RFC 8441's way to ask for a WebSocket.
pub(crate) fn is_websocket_over_http2(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
        && parts.method == Method::CONNECT
        && parts
            .extensions
            .get::<Protocol>()
            .is_some_and(|protocol| protocol.0 == "websocket")
}

/// Takes the wish out of a request, which becomes a GET for the app.
pub(crate) fn take_wish(parts: &mut Parts, body: &mut Option<ClientBody>) -> Option<Wish> {
    let over_http2 = is_websocket_over_http2(parts);
    if !over_http2 && !is_websocket_over_http1(parts) {
        return None;
    }
    let (client, form) = if over_http2 {
        let Some(ClientBody::Http2(body)) = body.take() else {
            return None;
        };
        (Client::Stream(body), Form::Http2)
    } else {
        let upgrade = parts.extensions.remove::<OnUpgrade>()?;
        (Client::Upgrade(upgrade), Form::Http1)
    };
    parts.method = Method::GET;
    Some(Wish { client, form })
}

fn is_websocket_over_http1(parts: &Parts) -> bool {
    let has = |name: HeaderName, token: &str| {
        let values = parts.headers.get_all(name);
        let mut tokens = values
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','));
        tokens.any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    // A body would be sent before the app has agreed to the upgrade.
    let no_body = !parts.headers.contains_key(TRANSFER_ENCODING)
        && parts
            .headers
            .get(CONTENT_LENGTH)
            .is_none_or(|length| length == "0");
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && no_body
        && has(CONNECTION, "upgrade")
        && has(UPGRADE, "websocket")
}

impl Wish {
    /// That of another edge.
    pub(crate) fn relayed(client: OnUpgrade) -> Self {
        Self {
            client: Client::Upgrade(client),
            form: Form::Relayed,
        }
    }

    /// Puts the wish into the headers for the app, after the hop-by-hop ones were taken away.
    pub(crate) fn towards_app(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if self.form == Form::Http2 {
            let nonce = ulid::Ulid::generate().to_bytes();
            let key = base64::engine::general_purpose::STANDARD.encode(nonce);
            headers.insert(
                SEC_WEBSOCKET_KEY,
                HeaderValue::from_str(&key).expect("base64 is a valid value"),
            );
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
    }

    /// Puts the app's agreement into the headers for the client; returns the status for it.
    pub(crate) fn towards_client(&self, headers: &mut HeaderMap) -> http::StatusCode {
        match self.form {
            Form::Http1 => {}
            Form::Http2 => {
                headers.remove(SEC_WEBSOCKET_ACCEPT);
                // RFC 9110 9.3.6: the answer to a CONNECT has none.
                headers.remove(CONTENT_LENGTH);
                return http::StatusCode::OK;
            }
            Form::Relayed => return http::StatusCode::OK,
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        http::StatusCode::SWITCHING_PROTOCOLS
    }

    /// Carries bytes both ways until either side ends, both are silent for `idle`, or the edge
    /// ends. Returns the body of the answer.
    pub(crate) fn tunnel(
        self,
        shared: &Arc<Shared>,
        app: OnUpgrade,
        settlement: Settlement,
        idle: Duration,
    ) -> ResponseBody {
        match self.client {
            Client::Upgrade(client) => {
                let client = client.map_ok(TokioIo::new);
                spawn_tunnel(shared, client, app, settlement, idle);
                ResponseBody::Page {
                    content: None,
                    settlement: Box::default(),
                }
            }
            Client::Stream(body) => {
                let (client, written) = ClientStreams::new(body);
                spawn_tunnel(shared, ready(Ok(client)), app, settlement, idle);
                ResponseBody::Tunnel(written)
            }
        }
    }
}

fn spawn_tunnel<C>(
    shared: &Arc<Shared>,
    client: impl Future<Output = hyper::Result<C>> + Send + 'static,
    app: OnUpgrade,
    mut settlement: Settlement,
    idle: Duration,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let edge = shared.clone();
    shared.clients.spawn(async move {
        let opened = async { tokio::try_join!(client, app) };
        let limit = edge.config.timeouts.header;
        let Ok(Ok((client, app))) = tokio::time::timeout(limit, opened).await else {
            return;
        };
        tokio::select! {
            () = tunnel::carry(client, TokioIo::new(app), idle) => settlement.body_ended(),
            () = edge.kill.cancelled() => {}
        }
    });
}
