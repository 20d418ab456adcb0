//! Clients and apps that ask for more than they may.

use crate::limits::Held;
use crate::world::{LIMIT, World, endpoint, says};
use roost_edge::{EdgeRates, Network};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An edge with these bounds, behind a proxy that says who the client is.
async fn world(rates: EdgeRates) -> World {
    let world = World::with(|config| {
        config.rates = rates;
        config.proxies = vec![Network::parse("127.0.0.1").unwrap()];
    })
    .await;
    world.publish(vec![endpoint(1, says(&world.tasks, "here").await)]);
    world
}

/// What the edge answers this client until it closes.
async fn asked(address: SocketAddr, client: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let header = format!("PROXY TCP4 {client} 192.0.2.1 1000 80\r\n");
    // A connection that is refused may be closed before it has said all.
    let _ = stream.write_all(header.as_bytes()).await;
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    // A reset is as good an end as a close.
    let _ = read.expect("the edge closes");
    answer
}

/// So many requests in one piece, of which the last one closes.
fn requests(count: usize) -> Vec<u8> {
    let request = "GET / HTTP/1.1\r\nHost: app.localhost\r\n";
    let all = format!("{request}\r\n").repeat(count - 1);
    format!("{all}{request}Connection: close\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_client_that_asks_too_often_gets_429_and_others_are_served() {
    let world = world(EdgeRates {
        client_requests: 1,
        ..EdgeRates::default()
    })
    .await;
    let answer = asked(world.http(), "192.0.2.7", &requests(100)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("retry-after: 1") && answer.contains("code client-rate"));
    let other = asked(world.http(), "192.0.2.8", &requests(1)).await;
    assert!(other.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn an_app_that_is_asked_too_often_says_429_to_all() {
    let world = world(EdgeRates {
        app_requests: 1,
        ..EdgeRates::default()
    })
    .await;
    let answer = asked(world.http(), "192.0.2.7", &requests(100)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("HTTP/1.1 429") && answer.contains("code app-rate"));
}

#[tokio::test]
async fn a_client_with_all_its_connections_gets_no_more_until_one_ends() {
    let world = world(EdgeRates {
        client_connections: 1,
        ..EdgeRates::default()
    })
    .await;
    let mut first = TcpStream::connect(world.http()).await.unwrap();
    let ask = [
        &b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n"[..],
        &requests(2),
    ]
    .concat();
    // All but the last byte: the connection stays.
    first.write_all(&ask[..ask.len() - 1]).await.unwrap();
    let mut one = [0; 12];
    timeout(LIMIT, first.read_exact(&mut one))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&one, b"HTTP/1.1 200");
    assert_eq!(asked(world.http(), "192.0.2.7", &requests(1)).await, b"");
    let other = asked(world.http(), "192.0.2.8", &requests(1)).await;
    assert!(other.starts_with(b"HTTP/1.1 200"));
    drop(first);
    let begun = std::time::Instant::now();
    while asked(world.http(), "192.0.2.7", &requests(1))
        .await
        .is_empty()
    {
        assert!(begun.elapsed() < LIMIT, "the place is free again");
    }
}

#[tokio::test]
async fn a_client_may_have_half_of_what_an_app_may_have_at_once() {
    let world = world(EdgeRates {
        app_open: 2,
        ..EdgeRates::default()
    })
    .await;
    let held = Held::new(&world).await;
    world.publish(vec![endpoint(1, held.address)]);
    let address = world.http();
    let ask = move |client| async move { asked(address, client, &requests(1)).await };
    let mut under_way = JoinSet::new();
    under_way.spawn(ask("192.0.2.7"));
    held.wait_for(1).await;
    let refused = String::from_utf8(ask("192.0.2.7").await).unwrap();
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1") && refused.contains("code client-open"));
    under_way.spawn(ask("192.0.2.8"));
    held.wait_for(2).await;
    held.release.add_permits(3);
    for answer in under_way.join_all().await {
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    // What has ended is not counted; the edge may learn of it a moment later.
    let begun = std::time::Instant::now();
    while !ask("192.0.2.7").await.starts_with(b"HTTP/1.1 200") {
        assert!(begun.elapsed() < LIMIT, "the place is free again");
    }
}

/// Whether the edge begins TLS with this client.
async fn begins_tls(address: SocketAddr, client: &'static str) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let header = format!("PROXY TCP4 {client} 192.0.2.1 1000 443\r\n");
    // One that is refused may be closed before it has said all.
    let _ = stream
        .write_all(&[header.into_bytes(), hello()].concat())
        .await;
    let read = timeout(LIMIT, stream.read(&mut [0; 1])).await;
    matches!(read.expect("the edge answers or closes"), Ok(1))
}

#[tokio::test]
async fn handshakes_are_bounded_by_client_and_by_name() {
    let by_client = EdgeRates {
        client_handshakes: 1,
        ..EdgeRates::default()
    };
    let by_name = EdgeRates {
        app_handshakes: 1,
        ..EdgeRates::default()
    };
    for rates in [by_client, by_name] {
        let world = world(rates).await;
        let mut all = JoinSet::new();
        for _ in 0..100 {
            all.spawn(begins_tls(world.https(), "192.0.2.7"));
        }
        let answered = all.join_all().await.into_iter().filter(|is| *is).count();
        assert!((1..100).contains(&answered), "{rates:?}: {answered}");
        if rates == by_client {
            assert!(begins_tls(world.https(), "192.0.2.8").await);
        }
    }
}

/// The first flight of a TLS client that asks for `app.localhost`.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "app.localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
