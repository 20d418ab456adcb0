//! An edge with threads of its own.

use crate::world::{LIMIT, World, endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A machine that counts the connections to it.
async fn counting(world: &World) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (
        listener.local_addr().unwrap(),
        Arc::new(AtomicUsize::new(0)),
    );
    let (counted, connections) = (count.clone(), world.tasks.clone());
    world.tasks.spawn("counting", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            connections.spawn("counting-connection", async move {
                let mut heard = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut heard).await {
                    if heard.ends_with(b"\r\n\r\n") {
                        heard.clear();
                        stream.write_all(ANSWER).await.unwrap();
                    }
                }
            });
        }
    });
    (address, count)
}

async fn ask(client: &mut TcpStream) {
    let request = "GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        let read = timeout(LIMIT, client.read_buf(&mut answer)).await;
        let n_read = read.expect("an answer comes").unwrap();
        let so_far = String::from_utf8_lossy(&answer);
        assert!(n_read > 0 && so_far.starts_with("HTTP/1.1 200"), "{so_far}");
    }
}

#[tokio::test]
async fn an_idle_connection_to_a_machine_goes_to_the_thread_that_needs_it() {
    for n_threads in [0, 1, 2] {
        let world = World::with(|config| {
            config.threads = n_threads;
            // However slow this is, what is kept stays.
            config.timeouts.pool_idle = LIMIT;
        })
        .await;
        let (address, count) = counting(&world).await;
        world.publish(vec![endpoint(1, address)]);
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(world.http()).await.unwrap());
        }
        for _ in 0..3 {
            for client in &mut clients {
                // One at a time, of one thread and of the other: one connection is enough, and
                // a machine that serves one at a time keeps nobody waiting.
                ask(client).await;
            }
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        world.tasks.kill().await;
    }
}
