//! What streams from edge to edge: bodies, trailers, WebSockets, raw
//! connections; and machines of other nodes that sleep.

use crate::hardening::echo as websocket_echo;
use crate::relay::{Cluster, at, node, pair, peers_of};
use crate::tcp::{PORT, at_port, behind, echo, own_ip, read_all};
use crate::wake::{Control, asleep, begin, end};
use crate::world::{LIMIT, World, backend, endpoint, full, machine, says, wait_until};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_model::machine::{PortHandler, ProxyVersion, Service};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message, protocol::Role};

#[tokio::test]
async fn grpc_trailers_come_through_two_edges() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| {
        let mut app = endpoint(1, it);
        let mut service = Service::http(1);
        service.ports[0].http.h2_backend = true;
        app.service = service.into();
        app
    })
    .await;
    let address = backend(&pair.far.tasks, |request| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let frames = [Ok(Frame::data(sent)), Ok(Frame::trailers(trailers))];
        Response::new(http_body_util::BodyExt::boxed(StreamBody::new(
            stream::iter(frames),
        )))
    })
    .await;
    pair.publish(address);
    let http2 = pair.near.client_builder().http2_prior_knowledge();
    let request = http2.build().unwrap().post(pair.near.url("/"));
    let request = request.header("te", "trailers").body("hello");
    let response: Response<reqwest::Body> = request.send().await.unwrap().into();
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "hello");
}

#[tokio::test]
async fn bodies_stream_both_ways_through_two_edges() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    let address = backend(&pair.far.tasks, |request| async move {
        Response::new(request.into_body().boxed())
    })
    .await;
    pair.publish(address);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let pieces = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    sender.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let request = pair.near.client().post(pair.near.url("/"));
    let request = request.body(reqwest::Body::wrap_stream(pieces)).send();
    let response = timeout(LIMIT, request).await.unwrap().unwrap();
    let mut answer = response.bytes_stream();
    assert_eq!(answer.next().await.unwrap().unwrap(), "first");
    let piece = Bytes::from(vec![7; 64 * 1024]);
    let mut n_read = 0;
    let all = 32 * 1024 * 1024;
    let write = async {
        for _ in 0..all / piece.len() {
            sender.send(Ok(piece.clone())).await.unwrap();
        }
        drop(sender);
    };
    let read = async {
        while let Some(piece) = answer.next().await {
            n_read += piece.unwrap().len();
        }
    };
    tokio::join!(write, read);
    assert_eq!(n_read, all);
}

/// Waits until a count stands still, and returns it.
async fn stands_still(count: &AtomicUsize) -> usize {
    let mut before = 0;
    let standing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = count.load(Ordering::SeqCst);
            if now > 0 && now == before {
                return now;
            }
            before = now;
        }
    };
    timeout(LIMIT, standing).await.unwrap()
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_machine_and_neither_edges_memory_nor_other_streams() {
    const ALL: usize = 128 * 1024 * 1024;
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let address = backend(&pair.far.tasks, move |request| {
        let count = count.clone();
        async move {
            if request.uri().path() == "/small" {
                return Response::new(full("small"));
            }
            let pieces = stream::unfold(0, move |sent| {
                let count = count.clone();
                async move {
                    let piece = Bytes::from(vec![7; 64 * 1024]);
                    count.fetch_add(piece.len(), Ordering::SeqCst);
                    (sent < ALL).then(|| (Ok(Frame::data(piece)), sent + 64 * 1024))
                }
            });
            Response::new(http_body_util::BodyExt::boxed(StreamBody::new(pieces)))
        }
    })
    .await;
    pair.publish(address);
    let request = pair.near.client().get(pair.near.url("/"));
    // All of it has to come in this time: a busy machine takes long.
    let response = request.timeout(LIMIT * 6).send();
    let mut slow = response.await.unwrap().bytes_stream();
    // What the kernel's buffers of three connections hold, and windows of the edges'.
    let held_up = stands_still(&written).await;
    assert!(held_up < ALL / 2, "{held_up}");
    let client = pair.near.client();
    for _ in 0..4 {
        let (status, text) = crate::limits::get(client.clone(), pair.near.url("/small")).await;
        assert_eq!((status, text.as_str()), (200, "small"));
    }
    let mut n_read = 0;
    while let Some(piece) = slow.next().await {
        n_read += piece.unwrap().len();
    }
    assert_eq!(n_read, ALL);
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_machine_of_the_other_node() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    let held = crate::limits::Held::new(&pair.far).await;
    pair.publish(held.address);
    let asking = begin(crate::limits::get(pair.near.client(), pair.near.url("/")));
    held.wait_for(1).await;
    let gauges = [pair.near.edge.gauge(), pair.far.edge.gauge()];
    assert!(gauges.iter().all(|gauge| gauge.in_flight(&machine(1)) == 1));
    drop(asking);
    wait_until("both edges have let it go", || {
        gauges.iter().all(|gauge| gauge.in_flight(&machine(1)) == 0)
    })
    .await;
}

async fn websocket_says<S>(mut socket: tokio_tungstenite::WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        let answer = timeout(LIMIT, socket.next()).await.unwrap();
        assert_eq!(answer.unwrap().unwrap(), Message::text(text));
    }
}

#[tokio::test]
async fn a_websocket_goes_through_two_edges_over_either_protocol() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    pair.publish(websocket_echo(&pair.far).await);
    let port = pair.near.http().port();
    let stream = TcpStream::connect(pair.near.http()).await.unwrap();
    let url = format!("ws://app.localhost:{port}/chat");
    let (socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let switching = tungstenite::http::StatusCode::SWITCHING_PROTOCOLS;
    assert_eq!(response.status(), switching);
    let gauge = pair.far.edge.gauge();
    assert_eq!(gauge.in_flight(&machine(1)), 1);
    websocket_says(socket).await;

    let stream = TcpStream::connect(pair.near.http()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let client = async move { drop(connection.await) };
    pair.near.tasks.spawn("client", client);
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://app.localhost:{port}/chat"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(tunnel, Role::Client, None);
    websocket_says(socket.await).await;
    drop(sender);
    wait_until("the machine is idle", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn an_app_that_wants_no_websocket_says_so_through_two_edges() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    let address = backend(&pair.far.tasks, |request| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let response = Response::builder().status(status);
        response.body(full("a page")).unwrap()
    })
    .await;
    pair.publish(address);
    for status in [200_u16, 403, 426] {
        let request = format!(
            "GET /{status} HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut stream = TcpStream::connect(pair.near.http()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let whole = async {
            while !answer.ends_with(b"a page") && !answer.ends_with(b"0\r\n\r\n") {
                use tokio::io::AsyncReadExt as _;
                assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
            }
        };
        timeout(LIMIT, whole).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains("a page") && !answer.contains("roost-relay"));
    }
}

/// Two edges with a raw port; the machine is on the node of the second one.
async fn raw_pair(cluster: &Cluster) -> (World, World, std::net::IpAddr) {
    let ip = own_ip();
    let near = cluster.edge_with(1, |config| config.port_ips = vec![ip]);
    (near.await, cluster.edge(2).await, ip)
}

#[tokio::test]
async fn a_raw_connection_goes_through_two_edges_and_the_app_hears_who_it_is() {
    let cluster = Cluster::new();
    let (near, far, ip) = raw_pair(&cluster).await;
    let (address, _) = echo(&far.tasks, "got ").await;
    let mut port = at_port(PortHandler::Raw);
    port.proxy_proto = Some(ProxyVersion::V1);
    let app = behind(port, 1, address);
    far.publish(vec![app.clone()]);
    near.publish(vec![at(2, peers_of(&far), app)]);
    near.port_problem("app", |problem| problem.is_none()).await;
    let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
    let own = stream.local_addr().unwrap();
    let gauge = far.edge.gauge();
    wait_until("it is counted", || gauge.in_flight(&machine(1)) == 1).await;
    let piece = vec![b'x'; 1024 * 1024];
    stream.write_all(&piece).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_all(stream).await.unwrap();
    let header = format!("got PROXY TCP4 {} {ip} {} {PORT}\r\n", own.ip(), own.port());
    assert!(answer.starts_with(header.as_bytes()));
    assert_eq!(answer.len(), header.len() + piece.len());
    wait_until("it is over", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_raw_connection_goes_on_to_a_node_that_takes_it() {
    let cluster = Cluster::new();
    let (near, far, ip) = raw_pair(&cluster).await;
    let (address, _) = echo(&near.tasks, "here ").await;
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let gone = behind(at_port(PortHandler::Raw), 1, nowhere);
    let here = behind(at_port(PortHandler::Raw), 2, address);
    near.publish(vec![at(2, peers_of(&far), gone), here]);
    near.port_problem("app", |problem| problem.is_none()).await;
    for _ in 0..4 {
        let mut stream = TcpStream::connect((ip, PORT)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_all(stream).await.unwrap(), b"here x");
    }
}

#[tokio::test]
async fn a_machine_of_another_node_is_woken_there() {
    let cluster = Cluster::new();
    let control = Arc::<Control>::default();
    let theirs = control.clone();
    let near = cluster.edge(1).await;
    let far = cluster
        .edge_with(2, |config| config.sleep = Some(theirs))
        .await;
    let address = says(&far.tasks, "awake").await;
    let publish = |app: roost_proto::traffic::Endpoint| {
        far.publish(vec![app.clone()]);
        near.publish(vec![at(2, peers_of(&far), app)]);
    };
    publish(asleep(1, address));
    let request = begin(crate::limits::get(near.client(), near.url("/")));
    control.wait_for(&[1]).await;
    publish(endpoint(1, address));
    assert_eq!(end(request).await, (200, "awake".to_owned()));
    assert_ne!(node(1), node(2));
}
