//! Machines that speak HTTP/2: what of a connection's state becomes of the requests on it.

use crate::raw::{
    END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame, nothing_is_left, status,
};
use crate::world::{World, endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Reads until a header of this stream has come.
async fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>, number: u32) {
    let is_there = |heard: &[u8]| {
        // Behind the preface.
        let mut rest = heard.get(24..).unwrap_or_default();
        while let [l0, l1, l2, kind, _, n @ ..] = rest {
            if *kind == HEADERS && n.get(..4) == Some(&number.to_be_bytes()) {
                return true;
            }
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        false
    };
    while !is_there(heard) {
        let n_read = stream.read_buf(heard).await.unwrap();
        assert_ne!(n_read, 0, "the edge has closed the connection");
    }
}

/// A machine that does nothing with the first request and says so, by a reset or by going away.
async fn reluctant(world: &World, goes_away: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.tasks.spawn("reluctant", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        hear(&mut stream, &mut heard, 1).await;
        let mut number = 3_u32;
        if goes_away {
            stream
                .write_all(&frame(GOAWAY, 0, 0, &[0; 8]))
                .await
                .unwrap();
            // The other connection.
            stream = listener.accept().await.unwrap().0;
            heard.clear();
            number = 1;
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        } else {
            let refused = frame(RST_STREAM, 0, 1, &7_u32.to_be_bytes());
            stream.write_all(&refused).await.unwrap();
        }
        hear(&mut stream, &mut heard, number).await;
        let answer = frame(HEADERS, END_HEADERS | END_STREAM, number, &[0x88]);
        stream.write_all(&answer).await.unwrap();
        // Until the edge is done with it.
        let _ = stream.read_to_end(&mut heard).await;
    });
    address
}

/// RFC 9113 8.7: then even a POST may be sent again.
#[tokio::test]
async fn what_a_machine_has_not_touched_is_sent_again() {
    for (number, goes_away) in [(1, false), (2, true)] {
        let world = World::new().await;
        let mut machine = endpoint(number, reluctant(&world, goes_away).await);
        for port in &mut Arc::make_mut(&mut machine.service).ports {
            port.http.h2_backend = true;
        }
        world.publish(vec![machine]);
        let request = "POST / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\
                       Content-Length: 5\r\n\r\nhello";
        let answer = world.raw(request).await;
        assert_eq!(status(&answer), "200", "{goes_away}: {answer}");
        nothing_is_left(&world, number).await;
    }
}
