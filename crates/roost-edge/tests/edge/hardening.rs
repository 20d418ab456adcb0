//! What must not happen twice, not for ever, and not without an end.

use crate::world::{World, backend, endpoint, full, says, wait_until};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A machine that answers the first request of each connection, and closes the
/// connection when the second one has come, whose method it counts.
async fn dies_at_second_request(world: &World, posts: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, posts) = (world.tasks.clone(), posts.clone());
    world.tasks.spawn("closer", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let posts = posts.clone();
            tasks.spawn("closer-connection", async move {
                for turn in 0..2 {
                    let mut buffer = [0; 4096];
                    let n_read = stream.read(&mut buffer).await.unwrap_or(0);
                    if buffer[..n_read].starts_with(b"POST") {
                        posts.fetch_add(1, Ordering::SeqCst);
                    }
                    if turn == 0 && n_read > 0 {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_post_that_may_have_reached_the_app_is_not_sent_again() {
    let world = World::new().await;
    let posts = Arc::new(AtomicUsize::new(0));
    world.publish(vec![endpoint(
        1,
        dies_at_second_request(&world, &posts).await,
    )]);
    let client = world.client();
    for body in ["", "a body"] {
        posts.store(0, Ordering::SeqCst);
        let put = client.put(world.url("/")).body(body).send().await.unwrap();
        assert_eq!(put.text().await.unwrap(), "ok", "its connection is kept");
        let post = client.post(world.url("/")).body(body).send().await.unwrap();
        assert_eq!(post.status(), StatusCode::BAD_GATEWAY, "{body:?}");
        assert!(post.text().await.unwrap().contains("no-answer"));
        assert_eq!(posts.load(Ordering::SeqCst), 1, "{body:?}");
    }
}

#[tokio::test]
async fn a_post_is_moved_to_a_machine_that_takes_it_and_arrives_there_once() {
    let world = World::new().await;
    let bodies = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let good = backend(
        &world.tasks,
        move |request: Request<hyper::body::Incoming>| {
            let seen = seen.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                seen.lock().push(body);
                Response::new(full("good"))
            }
        },
    )
    .await;
    let bad = crate::world::nobody().await;
    world.publish(vec![endpoint(1, bad), endpoint(2, good)]);
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..4 {
        let post = world.client().post(world.url("/")).body(body.clone());
        assert_eq!(post.send().await.unwrap().text().await.unwrap(), "good");
    }
    let bodies = bodies.lock();
    assert_eq!(bodies.len(), 4);
    assert!(bodies.iter().all(|seen| *seen == body), "each is whole");
}

#[tokio::test]
async fn a_header_that_does_not_end_gets_a_408() {
    let world = World::with(|config| config.timeouts.header = Duration::from_secs(1)).await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let begins = [
        ("P", "HTTP/1.1 408 "),
        ("GET / HTTP/1.1\r\nHost: app.loc", "HTTP/1.1 408 "),
        ("", ""),
        ("PRI * HTTP/2.0\r\n\r\n", ""),
    ];
    let answers = join_all(begins.map(|(begin, _)| world.raw(begin))).await;
    for ((begin, status), answer) in begins.iter().zip(answers) {
        assert!(answer.starts_with(status), "{begin}: {answer}");
        assert_eq!(answer.is_empty(), status.is_empty(), "{begin}: {answer}");
        assert_eq!(
            answer.contains("header-timeout"),
            !status.is_empty(),
            "{begin}: {answer}"
        );
    }
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let whole = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    stream.write_all(whole).await.unwrap();
    let mut answer = vec![0; 4096];
    let n_read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..n_read].starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"GET / HT").await.unwrap();
    answer.clear();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 408 "),
        "also the second one of a connection: {}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_body_that_stands_still_ends_the_request_on_either_side() {
    let world = World::with(|config| config.timeouts.body_idle = Duration::from_millis(100)).await;
    let reads = backend(
        &world.tasks,
        |request: Request<hyper::body::Incoming>| async move {
            let _ = request.into_body().collect().await;
            Response::new(full("read"))
        },
    )
    .await;
    world.publish(vec![endpoint(1, reads)]);
    let answer = world
        .raw("POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("request-body"),
        "{answer}"
    );

    let stalls = backend(&world.tasks, |_| async {
        let pieces =
            futures_util::stream::once(async { Ok(hyper::body::Frame::data(Bytes::from("part"))) });
        let pieces = futures_util::StreamExt::chain(pieces, futures_util::stream::pending());
        Response::new(http_body_util::BodyExt::boxed(
            http_body_util::StreamBody::new(Box::pin(pieces) as PinnedPieces),
        ))
    })
    .await;
    world.publish(vec![endpoint(2, stalls)]);
    let response = world.client().get(world.url("/")).send().await.unwrap();
    assert!(response.text().await.is_err(), "the end is not a good one");
    let gauge = world.edge.gauge();
    wait_until("the machine is idle", || {
        gauge.in_flight(&crate::world::machine(2)) == 0
    })
    .await;
}

type PinnedPieces = std::pin::Pin<
    Box<
        dyn futures_util::Stream<Item = Result<hyper::body::Frame<Bytes>, hyper::Error>>
            + Send
            + Sync,
    >,
>;

/// A WebSocket app that sends back what it gets.
pub(crate) async fn echo(world: &World) -> std::net::SocketAddr {
    use futures_util::{SinkExt as _, StreamExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = world.tasks.clone();
    world.tasks.spawn("websocket", async move {
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn("websocket-connection", async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_websocket_over_http2_carries_messages_both_ways() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::{Message, protocol::Role};
    let world = World::new().await;
    world.publish(vec![endpoint(1, echo(&world).await)]);
    let stream = TcpStream::connect(world.http()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    world
        .tasks
        .spawn("client", async move { drop(connection.await) });
    let base = format!("http://app.localhost:{}", world.http().port());
    // The server's settings, which allow extended CONNECT, have come with any answer.
    let plain = Request::get(&base).body(Empty::<Bytes>::new()).unwrap();
    let _ = sender.send_request(plain).await.unwrap();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("{base}/chat"))
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket =
        tokio_tungstenite::WebSocketStream::from_raw_socket(tunnel, Role::Client, None).await;
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    let gauge = world.edge.gauge();
    assert_eq!(gauge.in_flight(&crate::world::machine(1)), 1);
    drop((socket, sender));
    wait_until("the machine is idle", || {
        gauge.in_flight(&crate::world::machine(1)) == 0
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_among_the_connections() {
    let world = World::with(|config| {
        config.connections_max = 1;
        // Each listener holds the place of the connection that it will take next.
        config.https.clear();
    })
    .await;
    world.publish(vec![endpoint(1, echo(&world).await)]);
    let stream = TcpStream::connect(world.http()).await.unwrap();
    let url = format!("ws://app.localhost:{}/", world.http().port());
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let mut waits = TcpStream::connect(world.http()).await.unwrap();
    waits
        .write_all(b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 8];
    let served = tokio::time::timeout(Duration::from_millis(200), waits.read_exact(&mut first));
    assert!(
        served.await.is_err(),
        "there is one place, and the tunnel has it"
    );
    drop(socket);
    let served = tokio::time::timeout(crate::world::LIMIT, waits.read_exact(&mut first));
    served.await.expect("its place is free").unwrap();
    assert_eq!(&first, b"HTTP/1.1");
}

#[test]
fn each_code_of_the_edge_has_a_page() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = root.join("../../docs/errors");
    let mut n_codes = 0;
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text: String = std::fs::read_to_string(&path)
            .unwrap()
            .split_whitespace()
            .collect();
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        // Codes are literals: the second argument after a status, the first of `bad`, or a pair in `nothing_runs`.
        let after_status = own
            .split("StatusCode::")
            .skip(1)
            .filter_map(|rest| rest.split_once(",\""))
            .filter(|(status, _)| status.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        let is_pick = path.ends_with("pick.rs");
        let pairs = own.split("{(\"").skip(1).filter(|_| is_pick);
        let codes = after_status
            .map(|(_, rest)| rest)
            .chain(own.split("bad(\"").skip(1))
            .chain(pairs)
            .filter_map(|rest| rest.split_once('"').map(|(code, _)| code));
        for code in codes {
            n_codes += 1;
            let page = pages.join(format!("{code}.md"));
            assert!(
                page.exists(),
                "{code} in {} has no page {}",
                path.display(),
                page.display()
            );
        }
    }
    assert!(
        n_codes >= 20,
        "the codes are still found where they were: {n_codes}"
    );
}
