//! Clients that are slow on purpose.

use crate::raw::{
    CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, HOST, INITIAL_WINDOW_SIZE, RST_STREAM, frame,
    http2, next_frame, nothing_is_left, request_fields,
};
use crate::world::{LIMIT, World, backend, endpoint, full, says, wait_until};
use http::Response;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_cut_off_all_the_same() {
    let world = World::with(|config| config.timeouts.header = Duration::from_millis(200)).await;
    world.publish(vec![endpoint(1, says(&world.tasks, "ok").await)]);
    let stream = TcpStream::connect(world.http()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    world.tasks.spawn("slow-client", async move {
        let head = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nX-Slow: ";
        if writing.write_all(head).await.is_err() {
            return;
        }
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, reading.read_to_end(&mut answer));
    let _ = read.await.expect("the edge ends it");
    // The client's later bytes may reset the connection before the answer is read.
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    let world = World::with(|config| {
        // Also how often a connection is looked at.
        config.timeouts.header = Duration::from_secs(1);
        config.timeouts.body_idle = Duration::from_millis(300);
    })
    .await;
    let address = backend(&world.tasks, |_| async {
        Response::new(full(vec![7; 64 << 20]))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    stream
        .write_all(format!("GET / HTTP/1.1\r\n{HOST}\r\n").as_bytes())
        .await
        .unwrap();
    stream.read_exact(&mut [0; 1024]).await.unwrap();
    let gauge = world.edge.gauge();
    let machine = crate::world::machine(1);
    assert_eq!(gauge.in_flight(&machine), 1);
    wait_until("the machine is free again", || {
        gauge.in_flight(&machine) == 0
    })
    .await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 << 20, "it did not get all of it");
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_http2_stream_loses_that_stream() {
    let world = World::with(|config| config.timeouts.body_idle = Duration::from_secs(1)).await;
    let address = backend(&world.tasks, |request| async move {
        let is_large = request.uri().path() == "/large";
        Response::new(full(vec![7; if is_large { 1 << 20 } else { 0 }]))
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let gauge = world.edge.gauge();
    let shut = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &[0; 4]].concat();
    for (settings, what) in [(&shut[..], "no window"), (&[], "never opened again")] {
        let mut stream = http2(&world, settings).await;
        let open = |id, path| frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields(path));
        stream.write_all(&open(1, "/large")).await.unwrap();
        let mut kinds = Vec::new();
        while !kinds.contains(&RST_STREAM) {
            let (kind, id, payload) = next_frame(&mut stream).await.expect(what);
            if id == 1 {
                kinds.push(kind);
            }
            if kind == RST_STREAM {
                assert_eq!((id, payload), (1, CANCEL.to_be_bytes().to_vec()), "{what}");
            }
        }
        assert_eq!(kinds[0], HEADERS, "{what}: the answer had begun");
        assert_eq!(kinds.contains(&DATA), what != "no window", "{what}");
        wait_until("the machine is free again", || {
            gauge.in_flight(&crate::world::machine(1)) == 0
        })
        .await;
        stream.write_all(&open(3, "/empty")).await.unwrap();
        let mut answered = false;
        while !answered {
            let (kind, id, _) = next_frame(&mut stream).await.expect("it goes on");
            answered = (kind, id) == (HEADERS, 3);
        }
    }
}
