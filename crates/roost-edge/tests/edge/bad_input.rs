//! Requests that are ambiguous, too large or too slow, and an edge that
//! cannot begin or has to end.

use crate::world::{LIMIT, World, backend, endpoint, full, says, wait_until};
use futures_util::future::join_all;
use http::Response;
use roost_edge::{BindError, Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn what_is_ambiguous_is_refused_before_the_app_sees_it() {
    let world = World::new().await;
    let hits = Arc::new(AtomicUsize::new(0));
    let address = {
        let hits = hits.clone();
        backend(&world.tasks, move |_| {
            hits.fetch_add(1, Ordering::SeqCst);
            async { Response::new(full("app")) }
        })
        .await
    };
    world.publish(vec![endpoint(1, address)]);
    let host = "Host: app.localhost\r\n";
    let cases = [
        (
            format!("GET / HTTP/1.1\r\n{host}{host}\r\n"),
            "400",
            "two hosts",
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400", "no host"),
        (
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
            "400",
            "a host that is none",
        ),
        (
            format!("GET http://other.localhost/ HTTP/1.1\r\n{host}\r\n"),
            "400",
            "absolute form of another host",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            "501",
            "another coding",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            "400",
            "two lengths",
        ),
        (
            format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "400",
            "chunked in 1.0",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}A : b\r\n\r\n"),
            "400",
            "space before the colon",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"),
            "400",
            "folded line",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}A: b\0c\r\n\r\n"),
            "400",
            "NUL in a value",
        ),
        (
            format!("CONNECT app.localhost:80 HTTP/1.1\r\n{host}\r\n"),
            "405",
            "CONNECT",
        ),
        (format!("TRACE / HTTP/1.1\r\n{host}\r\n"), "405", "TRACE"),
        (
            format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", "x".repeat(40_000)),
            "431",
            "large header",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}{}\r\n", "A: b\r\n".repeat(150)),
            "431",
            "many header lines",
        ),
        (
            format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(17_000)),
            "414",
            "long address",
        ),
        (
            format!(
                "GET / HTTP/1.1\r\n{host}Via: {}\r\n\r\n",
                "1.1 roost, ".repeat(9)
            ),
            "508",
            "loop",
        ),
    ];
    for (request, status, what) in cases {
        let answer = world.raw(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}"))
                || answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{what}: {answer}"
        );
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0, "the app saw none of them");
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_smuggle_a_second_request() {
    let world = World::new().await;
    let hits = Arc::new(AtomicUsize::new(0));
    let address = {
        let hits = hits.clone();
        backend(&world.tasks, move |request| {
            hits.fetch_add(1, Ordering::SeqCst);
            assert_ne!(request.uri().path(), "/smuggled");
            async { Response::new(full("app")) }
        })
        .await
    };
    world.publish(vec![endpoint(1, address)]);
    let request = "POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
                   0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    let answer = world.raw(request).await;
    assert_eq!(
        answer.matches("HTTP/1.1 ").count(),
        1,
        "one answer, then the end: {answer}"
    );
    assert!(hits.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn slow_headers_and_silent_clients_are_cut_off() {
    let world = World::with(|config| {
        config.timeouts.header = Duration::from_secs(1);
        config.timeouts.idle = Duration::from_secs(1);
    })
    .await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let begins = [
        "",
        "P",
        "GET / HTTP/1.1\r\nHost: app.loc",
        "PRI * HTTP/2.0\r\n\r\n",
    ];
    for answer in join_all(begins.map(|begin| world.raw(begin))).await {
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let answer = world
        .raw("GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "served, then closed for idleness: {answer}"
    );
}

#[tokio::test]
async fn an_app_that_does_not_answer_or_breaks_off_gets_its_own_status() {
    let world =
        World::with(|config| config.timeouts.response_header = Duration::from_millis(100)).await;
    let silent = backend(&world.tasks, |_| std::future::pending()).await;
    world.publish(vec![endpoint(1, silent)]);
    let response = world.client().get(world.url("/")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 504);

    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.tasks.spawn("closer", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    world.publish(vec![endpoint(2, address)]);
    let response = world
        .client()
        .post(world.url("/"))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 502);
    assert!(response.text().await.unwrap().contains("no-answer"));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let world = World::new().await;
    let mut config = EdgeConfig::new(roost_model::name::RegionCode::parse("local").unwrap());
    config.http = vec![world.http()];
    let (_table, feed) = tokio::sync::watch::channel(Arc::default());
    let certificates = LocalCertificates::new(world.authority.clone(), &config.domains);
    let result = Edge::bind(
        config,
        feed,
        TrafficCounter::new(),
        certificates,
        &world.tasks,
    )
    .await;
    let error = result.expect_err("the port is in use");
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(
        error.to_string().contains(&world.http().to_string())
            && error.to_string().contains("in use"),
        "{error}"
    );
}

#[tokio::test]
async fn a_draining_edge_finishes_what_it_has_and_closes_idle_connections() {
    let world = World::new().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let address = backend(&world.tasks, move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Response::new(full("done"))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = tokio::net::TcpStream::connect(world.http()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n")
        .await
        .unwrap();
    let gauge = world.edge.gauge();
    wait_until("the request is under way", || {
        gauge.in_flight(&crate::world::machine(1)) == 1
    })
    .await;
    let drain = async { world.edge.drain(LIMIT).await };
    let finish = async {
        release.send(true).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (in_time, answer) = tokio::join!(drain, finish);
    assert!(in_time);
    assert!(
        answer.ends_with("done") && answer.contains("connection: close"),
        "{answer}"
    );
    wait_until("nobody listens any more", || {
        std::net::TcpStream::connect(world.http()).is_err()
    })
    .await;
}
