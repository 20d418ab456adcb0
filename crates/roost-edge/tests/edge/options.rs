//! What a service wants of HTTP at its ports, and how long the edge waits unless it wants otherwise.

use crate::raw::{HOST, nothing_is_left, status};
use crate::world::{LIMIT, World, backend, endpoint, full};
use http::Response;
use http_body_util::BodyExt;
use roost_edge::EdgeTimeouts;
use roost_model::machine::HttpOptions;
use roost_proto::traffic::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn with(number: u8, address: SocketAddr, options: &HttpOptions) -> Endpoint {
    let mut endpoint = endpoint(number, address);
    for port in &mut Arc::make_mut(&mut endpoint.service).ports {
        port.http = options.clone();
    }
    endpoint
}

fn idle(timeout: Duration) -> HttpOptions {
    HttpOptions {
        idle_timeout: Some(timeout),
        ..HttpOptions::default()
    }
}

#[tokio::test]
async fn response_headers_of_a_service_replace_those_of_the_app_and_of_the_edge() {
    let world = World::new().await;
    let address = backend(&world.tasks, |_| async {
        Response::builder()
            .header("server", "secret/1.2")
            .header("x-powered-by", "secret")
            .header("x-frame-options", "ALLOWALL")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(full("ok"))
            .unwrap()
    })
    .await;
    let headers = [
        ("x-frame-options", vec!["DENY"]),
        ("x-powered-by", vec![]),
        ("server", vec![]),
        ("via", vec![]),
        ("link", vec!["</a>", "</b>"]),
    ];
    let text = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect();
    let options = HttpOptions {
        response_headers: headers
            .map(|(name, values)| (name.to_owned(), text(values)))
            .into(),
        ..HttpOptions::default()
    };
    world.publish(vec![with(1, address, &options)]);
    for client in [
        world.client_builder(),
        world.client_builder().http2_prior_knowledge(),
    ] {
        let request = client.build().unwrap().get(world.url("/"));
        let answer = request.send().await.unwrap();
        let all = |name: &str| {
            let values = answer.headers().get_all(name).iter();
            values.map(|v| v.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("x-frame-options"), ["DENY"]);
        assert_eq!(all("link"), ["</a>", "</b>"]);
        assert_eq!(all("set-cookie"), ["a=1", "b=2"], "others stay");
        for gone in ["x-powered-by", "server", "via"] {
            assert!(all(gone).is_empty(), "{gone}");
        }
        assert_eq!(all("fly-request-id").len(), 1);
        assert_eq!(answer.text().await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_pristine_response_has_nothing_of_the_edge() {
    let world = World::new().await;
    let address = backend(&world.tasks, |_| async {
        let response = Response::builder().header("via", "1.1 app");
        response
            .header("fly-request-id", "own")
            .body(full("ok"))
            .unwrap()
    })
    .await;
    let options = HttpOptions {
        pristine: true,
        ..HttpOptions::default()
    };
    world.publish(vec![with(1, address, &options)]);
    let answer = world.client().get(world.url("/")).send().await.unwrap();
    let headers = answer.headers();
    assert_eq!(headers["via"], "1.1 app");
    assert!(!headers.contains_key("server"));
    assert_eq!(headers["fly-request-id"], "own");
    assert!(!headers.contains_key("roost-request-id"), "{headers:?}");
}

/// A machine that is silent for a while before its header, or in its body, or for ever.
async fn slow(world: &World, pause: Duration) -> SocketAddr {
    backend(&world.tasks, move |request| async move {
        let is_in_body = request.uri().path() == "/body";
        if !is_in_body {
            tokio::time::sleep(pause).await;
            return Response::new(full("late"));
        }
        let first = futures_util::stream::iter([Ok(http_body::Frame::data("part, ".into()))]);
        let second = futures_util::stream::once(async move {
            tokio::time::sleep(pause).await;
            Ok(http_body::Frame::data("late".into()))
        });
        let body = futures_util::StreamExt::chain(first, second);
        Response::new(BodyExt::boxed(http_body_util::StreamBody::new(SyncStream(
            Box::pin(body),
        ))))
    })
    .await
}

type Pieces = dyn futures_util::Stream<Item = Result<http_body::Frame<bytes::Bytes>, hyper::Error>>
    + Send
    + Sync;

struct SyncStream(std::pin::Pin<Box<Pieces>>);

impl futures_util::Stream for SyncStream {
    type Item = Result<http_body::Frame<bytes::Bytes>, hyper::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

#[tokio::test]
async fn a_service_is_waited_for_as_long_as_it_says() {
    let get = async |world: &World, path: &str| {
        let answer = world
            .raw(format!("GET {path} HTTP/1.1\r\n{HOST}\r\n"))
            .await;
        (status(&answer).to_owned(), answer.contains("late"))
    };
    // Less patient than the edge.
    let world = World::new().await;
    let never = slow(&world, LIMIT * 10).await;
    world.publish(vec![with(1, never, &idle(Duration::from_secs(2)))]);
    assert_eq!(get(&world, "/").await, ("504".to_owned(), false));
    assert_eq!(get(&world, "/body").await, ("200".to_owned(), false));
    let half = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\nhalf");
    assert_eq!(status(&world.raw(half).await), "400");
    nothing_is_left(&world, 1).await;
    // More patient than the edge.
    let world = World::with(|config| {
        config.timeouts.response_header = Duration::from_millis(100);
        config.timeouts.body_idle = Duration::from_millis(100);
    })
    .await;
    let late = slow(&world, Duration::from_secs(1)).await;
    world.publish(vec![with(1, late, &idle(LIMIT))]);
    assert_eq!(get(&world, "/").await, ("200".to_owned(), true));
    assert_eq!(get(&world, "/body").await, ("200".to_owned(), true));
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_silent_websocket_is_closed_when_its_service_says_so() {
    let world = World::new().await;
    let address = crate::hardening::echo(&world).await;
    world.publish(vec![with(1, address, &idle(Duration::from_secs(2)))]);
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer));
    let _ = read.await.expect("the edge closes it");
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    nothing_is_left(&world, 1).await;
}

#[test]
fn the_documented_waits_are_those_of_the_edge() {
    let t = EdgeTimeouts::default();
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/edge.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for (what, wait) in [
        ("TLS handshake", t.handshake),
        ("header of a request", t.header),
        ("client connection without a request", t.idle),
        ("connection to a machine", t.connect),
        ("machine that takes the request", t.machine),
        ("machine that is woken", t.wake),
        ("response header", t.response_header),
        ("next piece of a body", t.body_idle),
        ("word on a WebSocket or raw connection", t.tunnel_idle),
        (
            "kept connection to a machine without a request",
            t.pool_idle,
        ),
        ("requests under way when the edge ends", t.drain),
    ] {
        let row = format!("| {what} | {} s |", wait.as_secs());
        assert!(docs.contains(&row), "docs/edge.md has no row {row}");
    }
}
