//! One edge takes the place of another, over the same sockets.

use crate::world::{LIMIT, World, endpoint, says};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n";

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).ends_with(text) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(LIMIT, reading).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn an_edge_takes_the_place_of_another_and_no_request_fails() {
    let old = World::new().await;
    old.publish(vec![endpoint(1, says(&old.tasks, "old").await)]);
    let http1 = old.client_builder().http1_only().build().unwrap();
    let http2 = old
        .client_builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let from_new = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in [http1, http2] {
        let (url, stop, from_new) = (old.url("/"), stop.clone(), from_new.clone());
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // A POST is sent once and never again by the client.
                let answer = client.post(&url).send().await.unwrap();
                match answer.text().await.unwrap().as_str() {
                    "old" => {}
                    "new" => drop(from_new.fetch_add(1, Ordering::Relaxed)),
                    other => panic!("{other}"),
                }
            }
        });
    }
    let mut kept = TcpStream::connect(old.http()).await.unwrap();
    kept.write_all(ASK).await.unwrap();
    assert!(
        !read_until(&mut kept, "old")
            .await
            .contains("connection: close")
    );

    let machine = endpoint(2, says(&old.tasks, "new").await);
    let new = World::taking_over(&old, vec![machine]).await;
    assert_eq!((new.http(), new.https()), (old.http(), old.https()));
    let (nothing_was_cut, ()) = tokio::join!(old.edge.retire(LIMIT * 10), async {
        crate::world::wait_until("the new edge to be asked", || {
            from_new.load(Ordering::Relaxed) > 10
        })
        .await;
        kept.write_all(ASK).await.unwrap();
        let answer = read_until(&mut kept, "old").await;
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(kept.read(&mut [0]).await.unwrap(), 0);
    });
    assert!(nothing_was_cut);
    let mut fresh = TcpStream::connect(new.http()).await.unwrap();
    fresh.write_all(ASK).await.unwrap();
    read_until(&mut fresh, "new").await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}
