//! Machines that speak HTTP/2: what of a connection's state becomes of the requests on it.

use crate::raw::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, field, frame,
    nothing_is_left, status,
};
use crate::world::{World, endpoint, machine, says, wait_until};
use roost_proto::traffic::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const ACK: u8 = 1;
/// The setting MAX_CONCURRENT_STREAMS (RFC 9113 6.5.2).
const ONE_AT_ONCE: [u8; 6] = [0, 3, 0, 0, 0, 1];
const POST: &str = "POST / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";

fn speaks_http2(number: u8, address: SocketAddr) -> Endpoint {
    let mut machine = endpoint(number, address);
    for port in &mut Arc::make_mut(&mut machine.service).ports {
        port.http.h2_backend = true;
    }
    machine
}

/// Answers the first request of a connection.
async fn answer(stream: &mut TcpStream) {
    let mut heard = Vec::new();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    hear(stream, &mut heard, 1).await;
    let whole = END_HEADERS | END_STREAM;
    let answer = frame(HEADERS, whole, 1, &[0x88]);
    stream.write_all(&answer).await.unwrap();
    // Until the edge is done with it.
    let _ = stream.read_to_end(&mut heard).await;
}

/// Reads until a header of this stream has come.
async fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>, number: u32) {
    hear_frame(stream, heard, HEADERS, number).await;
}

/// Reads until such a frame of this stream has come; settings only if they are an answer.
async fn hear_frame(stream: &mut TcpStream, heard: &mut Vec<u8>, wanted: u8, number: u32) {
    let is_there = |heard: &[u8]| {
        // Behind the preface.
        let mut rest = heard.get(24..).unwrap_or_default();
        while let [l0, l1, l2, kind, flags, n @ ..] = rest {
            let is_wanted = *kind == wanted && (*kind != SETTINGS || *flags == ACK);
            if is_wanted && n.get(..4) == Some(&number.to_be_bytes()) {
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
        let address = reluctant(&world, goes_away).await;
        world.publish(vec![speaks_http2(number, address)]);
        let request = "POST / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\
                       Content-Length: 5\r\n\r\nhello";
        let answer = world.raw(request).await;
        assert_eq!(status(&answer), "200", "{goes_away}: {answer}");
        nothing_is_left(&world, number).await;
    }
}

/// A machine that takes one request on each connection at once.
#[tokio::test]
async fn what_one_connection_has_no_room_for_gets_another() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (is_full, full) = oneshot::channel();
    let (goes_on, going_on) = oneshot::channel();
    world.tasks.spawn("one-at-once", async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let settings = frame(SETTINGS, 0, 0, &ONE_AT_ONCE);
        first.write_all(&settings).await.unwrap();
        hear(&mut first, &mut heard, 1).await;
        hear_frame(&mut first, &mut heard, SETTINGS, 0).await;
        is_full.send(()).unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let first = async {
            going_on.await.unwrap();
            let whole = END_HEADERS | END_STREAM;
            let answer = frame(HEADERS, whole, 1, &[0x88]);
            first.write_all(&answer).await.unwrap();
            let _ = first.read_to_end(&mut heard).await;
        };
        tokio::join!(first, answer(&mut second));
    });
    world.publish(vec![speaks_http2(1, address)]);
    let first = world.raw(POST);
    let second = async {
        full.await.unwrap();
        let answer = world.raw(POST).await;
        goes_on.send(()).unwrap();
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((status(&first), status(&second)), ("200", "200"));
    nothing_is_left(&world, 1).await;
}

/// Takes a connection, tells when it is asked, and says only when it may go on that it takes one
/// request at once; the answer to the first has no end.
async fn becomes_full(
    listener: &TcpListener,
    is_asked: oneshot::Sender<()>,
    going_on: oneshot::Receiver<()>,
) -> (TcpStream, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    hear(&mut stream, &mut heard, 1).await;
    is_asked.send(()).unwrap();
    going_on.await.unwrap();
    let settings = frame(SETTINGS, 0, 0, &ONE_AT_ONCE);
    let head = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    stream.write_all(&[settings, head].concat()).await.unwrap();
    (stream, heard)
}

/// What has waited in vain for others on its connection has reached nobody.
#[tokio::test]
async fn what_a_connection_never_had_room_for_goes_elsewhere() {
    let world = World::with(|config| {
        config.timeouts.response_header = Duration::from_secs(3);
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (is_asked, asked) = oneshot::channel();
    let (goes_on, going_on) = oneshot::channel();
    world.tasks.spawn("one-at-once", async move {
        let (mut stream, mut heard) = becomes_full(&listener, is_asked, going_on).await;
        let others = async {
            // One that has seen in time that there is no room.
            if let Ok((mut other, _)) = listener.accept().await {
                answer(&mut other).await;
            }
        };
        let rest = async { drop(stream.read_to_end(&mut heard).await) };
        tokio::select! {
            () = others => {}
            () = rest => {}
        }
    });
    let other = says(&world.tasks, "other").await;
    world.publish(vec![speaks_http2(1, address), endpoint(2, other)]);
    let at_first = POST.replace(
        "\r\n\r\n",
        &format!("\r\nfly-prefer-instance-id: {}\r\n\r\n", machine(1)),
    );
    let mut first = TcpStream::connect(world.http()).await.unwrap();
    first.write_all(at_first.as_bytes()).await.unwrap();
    asked.await.unwrap();
    let second = world.raw(at_first.as_bytes());
    let say = async {
        let gauge = world.edge.gauge();
        wait_until("both are at the machine", || {
            gauge.in_flight(&machine(1)) == 2
        })
        .await;
        goes_on.send(()).unwrap();
    };
    let (second, ()) = tokio::join!(second, say);
    assert_eq!(status(&second), "200", "{second}");
    drop(first);
    nothing_is_left(&world, 1).await;
}

/// The same when nothing is left of the budget for trying elsewhere.
#[tokio::test]
async fn who_waited_in_vain_for_room_and_may_not_try_elsewhere_hears_that_the_app_is_full() {
    // More than the budget has, and earns in the time.
    const N_WAITING: usize = 320;
    let world = World::with(|config| {
        config.timeouts.response_header = Duration::from_secs(8);
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (is_asked, asked) = oneshot::channel();
    let (goes_on, going_on) = oneshot::channel();
    world.tasks.spawn("one-at-once", async move {
        let (mut stream, mut heard) = becomes_full(&listener, is_asked, going_on).await;
        // Who tries another connection finds nobody.
        drop(listener);
        let _ = stream.read_to_end(&mut heard).await;
    });
    let other = says(&world.tasks, "other").await;
    world.publish(vec![speaks_http2(1, address), endpoint(2, other)]);
    let at_first = POST.replace(
        "\r\n\r\n",
        &format!("\r\nfly-prefer-instance-id: {}\r\n\r\n", machine(1)),
    );
    let mut first = TcpStream::connect(world.http()).await.unwrap();
    first.write_all(at_first.as_bytes()).await.unwrap();
    asked.await.unwrap();
    let waiting = (0..N_WAITING).map(|_| world.raw(at_first.as_bytes()));
    let waiting = futures_util::future::join_all(waiting);
    let say = async {
        let gauge = world.edge.gauge();
        wait_until("all are at the machine", || {
            gauge.in_flight(&machine(1)) == N_WAITING + 1
        })
        .await;
        goes_on.send(()).unwrap();
    };
    let (answers, ()) = tokio::join!(waiting, say);
    let mut n_full = 0;
    for answer in answers {
        if status(&answer) == "503" {
            assert!(answer.contains("hard-limit"), "{answer}");
            assert!(answer.contains("retry-after: 1"), "{answer}");
            assert!(answer.contains("concurrent streams"), "{answer}");
            n_full += 1;
        } else {
            assert_eq!(status(&answer), "200", "{answer}");
        }
    }
    assert!(n_full > 0, "the budget was enough for all");
    drop(first);
    nothing_is_left(&world, 1).await;
}

/// Another machine of the app, or the same one, would answer alike.
#[tokio::test]
async fn an_answer_with_too_large_a_header_is_not_asked_for_again() {
    let lines = |n: usize| field("x-more", &"y".repeat(100)).repeat(n);
    for fields in [lines(101), lines(600)] {
        let world = World::new().await;
        let n_asked = Arc::<AtomicUsize>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = n_asked.clone();
        world.tasks.spawn("verbose", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut heard = Vec::new();
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                hear(&mut stream, &mut heard, 1).await;
                count.fetch_add(1, Ordering::SeqCst);
                let block = [vec![0x88], fields.clone()].concat();
                let mut pieces = block.chunks(16_000).peekable();
                let mut kind = HEADERS;
                let mut answer = Vec::new();
                while let Some(piece) = pieces.next() {
                    let last = if pieces.peek().is_none() {
                        END_HEADERS
                    } else {
                        0
                    };
                    answer.extend(frame(kind, last, 1, piece));
                    kind = CONTINUATION;
                }
                stream.write_all(&answer).await.unwrap();
                // Until the edge is done with it.
                let _ = stream.read_to_end(&mut heard).await;
            }
        });
        world.publish(vec![speaks_http2(1, address), speaks_http2(2, address)]);
        let answer = world.raw(POST.replace("POST", "GET")).await;
        assert_eq!(status(&answer), "502", "{answer}");
        assert!(answer.contains("answer-header"), "{answer}");
        assert_eq!(n_asked.load(Ordering::SeqCst), 1);
    }
}

/// Nobody knows whether it is only slow.
#[tokio::test]
async fn a_connection_without_an_answer_in_time_is_not_shared_any_more() {
    let world = World::with(|config| {
        config.timeouts.response_header = Duration::from_secs(2);
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.tasks.spawn("silent-at-first", async move {
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        answer(&mut second).await;
    });
    world.publish(vec![speaks_http2(1, address)]);
    for expected in ["504", "200"] {
        let answer = world.raw(POST).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }
    nothing_is_left(&world, 1).await;
}
