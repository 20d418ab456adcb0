//! HTTP/1.1, HTTP/2, TLS, streaming, WebSocket, and the headers on the way.

use crate::world::{World, backend, endpoint, full, says};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use roost_model::machine::Service;
use tokio_tungstenite::tungstenite::{self, Message};

/// Answers with the request line, version and headers that the app sees.
async fn mirror(world: &World) -> std::net::SocketAddr {
    backend(&world.tasks, |request| async move {
        let mut text = format!(
            "{} {} {:?}\n",
            request.method(),
            request.uri(),
            request.version()
        );
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        Response::builder()
            .header("keep-alive", "timeout=5")
            .header("x-app", "1")
            .body(full(text))
            .unwrap()
    })
    .await
}

#[tokio::test]
async fn the_app_sees_who_asks_and_a_client_cannot_pretend() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, mirror(&world).await)]);
    let response = world
        .client()
        .get(world.url("/a%2Fb//../c?q=1"))
        .header("fly-client-ip", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-for", "6.6.6.6")
        .header("roost-request-id", "mine")
        .header("proxy-authorization", "secret")
        .send()
        .await
        .unwrap();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    let port = world.http().port();
    for line in [
        "x-forwarded-for: 6.6.6.6, 127.0.0.1, 127.0.0.1\n".to_owned(),
        "fly-client-ip: 127.0.0.1\n".to_owned(),
        "x-forwarded-proto: http\n".to_owned(),
        "x-forwarded-ssl: off\n".to_owned(),
        format!("fly-forwarded-port: {port}\n"),
        format!("host: app.localhost:{port}\n"),
        "fly-region: local\n".to_owned(),
        "roost-region: local\n".to_owned(),
        "roost-client-ip: 127.0.0.1\n".to_owned(),
        "via: 1.1 roost\n".to_owned(),
        "x-request-start: t=".to_owned(),
        format!(
            "roost-request-id: {}\n",
            headers["roost-request-id"].to_str().unwrap()
        ),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(
        !text.contains("proxy-authorization") && !text.contains("mine"),
        "{text}"
    );
    assert_eq!(headers["roost-request-id"], headers["fly-request-id"]);
    let id = headers["fly-request-id"].to_str().unwrap();
    assert!(id.len() == 32 && id.ends_with("-local"), "{id}");
    assert_eq!(headers["x-app"], "1");
    assert_eq!(headers["server"], "roost");
    assert!(!headers.contains_key("keep-alive"));
}

#[tokio::test]
async fn a_trace_context_is_continued_or_begun() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, mirror(&world).await)]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = world.client().get(world.url("/"));
    let text = request.header("traceparent", trace).send().await.unwrap();
    let text = text.text().await.unwrap();
    assert!(text.contains(&format!("traceparent: {trace}\n")), "{text}");
    let begun = world.client().get(world.url("/")).send().await.unwrap();
    let text = begun.text().await.unwrap();
    assert!(text.contains("traceparent: 00-0"), "{text}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_and_http1_share_a_port() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, mirror(&world).await)]);
    let http2 = world
        .client_builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let response = http2.get(world.url("/x")).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let text = response.text().await.unwrap();
    assert!(
        text.starts_with("GET /x HTTP/1.1\n") && text.contains("via: 2 roost\n"),
        "{text}"
    );
    let response = world
        .client()
        .post(world.url("/y"))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn https_is_trusted_through_the_authority_with_both_protocols() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, mirror(&world).await)]);
    let response = world.client().get(world.tls_url("/")).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2, "by ALPN");
    assert!(
        response
            .text()
            .await
            .unwrap()
            .contains("x-forwarded-proto: https\n")
    );
    let http1 = world.client_builder().http1_only().build().unwrap();
    let response = http1.get(world.tls_url("/")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, http::Version::HTTP_11)
    );
    let stranger = world
        .client_builder()
        .resolve("app.example.com", world.https())
        .build()
        .unwrap();
    let url = format!("https://app.example.com:{}/", world.https().port());
    assert!(
        stranger.get(url).send().await.is_err(),
        "no certificate for names that are not ours"
    );
}

#[tokio::test]
async fn an_h2_app_gets_http2_and_its_trailers_reach_the_client() {
    let world = World::new().await;
    let address = backend(&world.tasks, |request| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let frames = [Ok(Frame::data(sent)), Ok(Frame::trailers(trailers))];
        Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))))
    })
    .await;
    let mut app = endpoint(1, address);
    let mut service = Service::http(address.port());
    service.ports[0].http.h2_backend = true;
    app.service = service.into();
    world.publish(vec![app]);
    let http2 = world
        .client_builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let request = http2
        .post(world.url("/"))
        .header("te", "trailers")
        .body("hello");
    let response: http::Response<reqwest::Body> = request.send().await.unwrap().into();
    let whole = response.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "hello");
}

#[tokio::test]
async fn bodies_stream_both_ways_without_waiting_for_their_ends() {
    let world = World::new().await;
    // An echo: each piece of the answer needs the piece of the request before it.
    let address = backend(&world.tasks, |request| async move {
        Response::new(BodyExt::boxed(request.into_body()))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    for client in [
        world.client_builder().http2_prior_knowledge(),
        world.client_builder(),
    ] {
        let client = client.build().unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let pieces = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|p| (p, receiver))
        });
        sender.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
        let request = client
            .post(world.url("/"))
            .body(reqwest::Body::wrap_stream(pieces));
        let response = tokio::time::timeout(crate::world::LIMIT, request.send())
            .await
            .unwrap()
            .unwrap();
        let mut answer = response.bytes_stream();
        assert_eq!(
            answer.next().await.unwrap().unwrap(),
            "first",
            "arrives while the request goes on"
        );
        sender
            .send(Ok(Bytes::from_static(b"second")))
            .await
            .unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), "second");
        drop(sender);
        // HTTP/2 may end a body with an empty piece.
        while let Some(piece) = answer.next().await {
            assert_eq!(piece.expect("the body ends well"), "");
        }
    }
}

#[tokio::test]
async fn a_websocket_carries_messages_both_ways_and_counts_as_busy() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.tasks.spawn("websocket", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                continue;
            };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    socket.send(message).await.unwrap();
                }
            }
        }
    });
    world.publish(vec![endpoint(1, address)]);
    let stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
    let url = format!("ws://app.localhost:{}/chat", world.http().port());
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(
        response.status(),
        tungstenite::http::StatusCode::SWITCHING_PROTOCOLS
    );
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    let gauge = world.edge.gauge();
    assert_eq!(gauge.in_flight(&crate::world::machine(1)), 1);
    socket.close(None).await.unwrap();
    drop(socket);
    crate::world::wait_until("the machine is idle again", || {
        gauge.in_flight(&crate::world::machine(1)) == 0
    })
    .await;
}

#[tokio::test]
async fn other_upgrades_are_dropped_and_the_request_goes_on() {
    let world = World::new().await;
    world.publish(vec![endpoint(1, mirror(&world).await)]);
    let answer = world
        .raw("GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        !answer.contains("h2c") && !answer.contains("http2-settings"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let world = World::new().await;
    let address = backend(&world.tasks, |request| async move {
        Response::new(full(
            request.into_body().collect().await.unwrap().to_bytes(),
        ))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 25];
    tokio::time::timeout(crate::world::LIMIT, stream.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 200") && rest.ends_with("hello"),
        "{rest}"
    );
}

#[tokio::test]
async fn an_app_that_forces_https_redirects_to_the_https_port() {
    let world = World::new().await;
    let mut app = endpoint(1, says(&world.tasks, "secure").await);
    let mut service = Service::http(app.address.port());
    service.ports[0].force_https = true;
    app.service = service.into();
    world.publish(vec![app]);
    let response = world.client().get(world.url("/p?q")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 301);
    assert_eq!(
        response.headers()["location"].to_str().unwrap(),
        world.tls_url("/p?q")
    );
    assert_eq!(
        world
            .client()
            .post(world.url("/"))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        308
    );
    assert_eq!(
        world
            .client()
            .get(world.tls_url("/"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "secure"
    );
}
