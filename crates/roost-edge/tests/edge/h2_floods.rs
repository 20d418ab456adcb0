//! HTTP/2 clients that send more than anybody needs.

use crate::raw::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, HOST, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, field, flood, frame, http2, next_frame, nothing_is_left,
    recorder, request_fields,
};
use crate::world::{World, backend, endpoint, full, wait_until};
use http::Response;
use http_body_util::BodyExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// The error codes of RFC 9113 7.
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 0xb;

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let n_streams = 20_000;
    let frames = (0..n_streams).step_by(50).map(|start| {
        let pair = |n: u32| {
            let id = 2 * n + 1;
            let open = frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields("/"));
            [open, frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes())].concat()
        };
        (start..start + 50).flat_map(pair).collect()
    });
    let (_, codes) = flood(&world, frames).await;
    assert!(
        codes.iter().all(|code| *code == ENHANCE_YOUR_CALM),
        "{codes:?}"
    );
    let n_seen = log.lock().len();
    assert!(n_seen < n_streams as usize / 10, "the app saw {n_seen}");
    let gauge = world.edge.gauge();
    wait_until("the machine is free", || {
        gauge.in_flight(&crate::world::machine(1)) == 0
    })
    .await;
    let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "others are served: {answer}"
    );
}

/// Each of them has reached the app, which the edge then no longer waits for.
#[tokio::test]
async fn streams_that_are_reset_before_their_answers_end_the_connection_at_some_time() {
    const BATCH: u32 = 50;
    let world = World::new().await;
    let n_asked = Arc::<AtomicUsize>::default();
    let count = n_asked.clone();
    let address = backend(&world.tasks, move |request| {
        let count = count.clone();
        async move {
            if request.uri().path() == "/" {
                count.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            Response::new(full("ok"))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = http2(&world, &[]).await;
    let flags = END_STREAM | END_HEADERS;
    let codes = async {
        for first in (0..100 * BATCH).step_by(BATCH as usize) {
            let ids = || (first..first + BATCH).map(|n| 2 * n + 1);
            let open = ids().flat_map(|id| frame(HEADERS, flags, id, &request_fields("/")));
            let ping = frame(PING, 0, 0, &[0; 8]);
            let batch: Vec<u8> = open.chain(ping).collect();
            let _ = stream.write_all(&batch).await;
            // All of them are asked for when this is answered.
            loop {
                match next_frame(&mut stream).await {
                    Some((PING, ..)) => break,
                    Some((GOAWAY, _, payload)) => {
                        return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                    }
                    Some(_) => {}
                    // A reset of the connection has swallowed it.
                    None => return Some(ENHANCE_YOUR_CALM),
                }
            }
            let reset = |id| frame(RST_STREAM, 0, id, &CANCEL.to_be_bytes());
            let resets: Vec<u8> = ids().flat_map(reset).collect();
            let _ = stream.write_all(&resets).await;
        }
        None
    };
    assert_eq!(codes.await, Some(ENHANCE_YOUR_CALM));
    let n_asked = n_asked.load(Ordering::SeqCst);
    assert!(n_asked < 2000, "the app saw {n_asked}");
    let answer = world
        .raw(format!("GET /other HTTP/1.1\r\n{HOST}\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_header_block_that_goes_on_for_ever_ends_the_connection() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let limit = 64 << 20;
    for (payload, what) in [(field("x-more", "more"), "fields"), (vec![], "nothing")] {
        let begin = frame(HEADERS, END_STREAM, 1, &request_fields("/"));
        let more = frame(CONTINUATION, 0, 1, &payload);
        let piece = more.repeat(16 * 1024 / more.len());
        let frames = std::iter::once(begin).chain(std::iter::repeat_n(piece, limit >> 14));
        let (n_written, _) = flood(&world, frames).await;
        // The rest is what sockets hold.
        assert!(
            n_written < limit / 2,
            "{what}: {n_written} bytes were taken"
        );
    }
    assert!(log.lock().is_empty());
}

/// The beginning of a request with a body.
fn post(id: u32) -> Vec<u8> {
    let fields = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":authority", "app.localhost"),
        field(":path", "/post"),
    ];
    frame(HEADERS, END_HEADERS, id, &fields.concat())
}

/// Others are served, and of the flood nothing is left.
async fn is_well(world: &World) {
    let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    nothing_is_left(world, 1).await;
}

#[tokio::test]
async fn what_makes_the_edge_reset_streams_again_and_again_ends_the_connection() {
    let world = World::new().await;
    let log = recorder(&world).await;
    // A window beyond 31 bits is the stream's error (RFC 9113 6.9.1).
    let too_much = 0x7fff_ffff_u32.to_be_bytes();
    let provoke = |n: u32| {
        let id = 2 * n + 1;
        [post(id), frame(WINDOW_UPDATE, 0, id, &too_much)].concat()
    };
    let frames = (0..20_000_u32).step_by(50);
    let frames = frames.map(|start| (start..start + 50).flat_map(provoke).collect());
    let (_, codes) = flood(&world, frames).await;
    assert_eq!(codes, [ENHANCE_YOUR_CALM]);
    let n_seen = log.lock().len();
    assert!(n_seen < 2_000, "the app saw {n_seen}");
    is_well(&world).await;
}

#[tokio::test]
async fn a_body_of_empty_frames_without_an_end_ends_the_connection() {
    let world = World::new().await;
    recorder(&world).await;
    let limit = 64 << 20;
    let empty = frame(DATA, 0, 1, b"").repeat(1024);
    let frames = std::iter::once(post(1)).chain(std::iter::repeat_n(empty, limit / 9 / 1024));
    let (n_written, codes) = flood(&world, frames).await;
    // The rest is what sockets hold; a reset may come before the code is read.
    assert!(n_written < limit / 2, "{n_written} bytes were taken");
    assert!(
        codes.iter().all(|code| *code == ENHANCE_YOUR_CALM),
        "{codes:?}"
    );
    is_well(&world).await;
}

#[tokio::test]
async fn a_long_body_of_small_frames_is_no_flood() {
    let world = World::new().await;
    let n_read = Arc::<AtomicUsize>::default();
    let counted = n_read.clone();
    let address = backend(&world.tasks, move |mut request| {
        let counted = counted.clone();
        async move {
            while let Some(Ok(piece)) = request.body_mut().frame().await {
                let n = piece.data_ref().map_or(0, bytes::Bytes::len);
                counted.fetch_add(n, Ordering::SeqCst);
            }
            Response::new(full("ok"))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = http2(&world, &[]).await;
    stream.write_all(&post(1)).await.unwrap();
    for n in 1..=20 {
        let messages = frame(DATA, 0, 1, b"0123456789").repeat(1000);
        stream.write_all(&messages).await.unwrap();
        wait_until("the app has read them", || {
            n_read.load(Ordering::SeqCst) == n * 10_000
        })
        .await;
    }
    let end = frame(DATA, END_STREAM, 1, b"");
    stream.write_all(&end).await.unwrap();
    loop {
        let (kind, id, payload) = next_frame(&mut stream).await.expect("it is answered");
        assert!(![GOAWAY, RST_STREAM].contains(&kind), "{payload:?}");
        if (kind, id) == (HEADERS, 1) {
            break;
        }
    }
    drop(stream);
    is_well(&world).await;
}

#[tokio::test]
async fn frames_that_ask_for_nothing_do_not_keep_a_connection() {
    let world = World::with(|config| {
        config.timeouts.idle = Duration::from_millis(500);
        config.timeouts.header = Duration::from_millis(200);
    })
    .await;
    recorder(&world).await;
    for (what, piece) in [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 1])),
        ("an unknown kind", frame(0xbb, 0, 0, b"x")),
    ] {
        let (mut reading, mut writing) = http2(&world, &[]).await.into_split();
        let writes = world.tasks.clone();
        writes.spawn("flooder", async move {
            while writing.write_all(&piece.repeat(10)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let code = loop {
            let (kind, _, payload) = next_frame(&mut reading).await.expect(what);
            if kind == GOAWAY {
                break u32::from_be_bytes(payload[4..8].try_into().unwrap());
            }
        };
        assert_eq!(code, NO_ERROR, "{what}");
        // Those who took no notice of it are cut off with the rest of the edge's grace.
    }
    world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
}

#[tokio::test]
async fn questions_whose_answers_nobody_reads_end_the_connection() {
    for (what, piece) in [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
    ] {
        let world = World::with(|config| {
            config.timeouts.body_idle = Duration::from_millis(500);
            // Also how often a connection is looked at.
            config.timeouts.header = Duration::from_millis(200);
        })
        .await;
        recorder(&world).await;
        // It writes and does not read, until the edge has cut it off.
        let mut stream = http2(&world, &[]).await;
        let piece = piece.repeat(4096);
        let write = async { while stream.write_all(&piece).await.is_ok() {} };
        let end = tokio::time::timeout(crate::world::LIMIT, write).await;
        end.unwrap_or_else(|_| panic!("{what}: the edge goes on"));
        is_well(&world).await;
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_the_others_are_served() {
    let world = World::new().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let address = backend(&world.tasks, move |_| {
        let mut released = released.clone();
        async move {
            let _ = released.wait_for(|released| *released).await;
            Response::new(full("done"))
        }
    })
    .await;
    world.publish(vec![endpoint(1, address)]);
    let mut stream = http2(&world, &[]).await;
    let most = roost_edge::limits::HTTP2_STREAMS_MAX;
    let ids = (0..most + 5).map(|n| 2 * n + 1);
    let open = |id| frame(HEADERS, END_STREAM | END_HEADERS, id, &request_fields("/"));
    let all: Vec<u8> = ids.flat_map(open).collect();
    stream.write_all(&all).await.unwrap();
    let gauge = world.edge.gauge();
    let machine = crate::world::machine(1);
    wait_until("all that may be are under way", || {
        gauge.in_flight(&machine) == most as usize
    })
    .await;
    release.send_replace(true);
    let mut ends = BTreeMap::new();
    while ends.len() < most as usize + 5 {
        match next_frame(&mut stream).await.expect("it goes on") {
            (RST_STREAM, id, payload) => {
                ends.insert(id, Some(u32::from_be_bytes(payload.try_into().unwrap())))
            }
            (HEADERS, id, _) => ends.insert(id, None),
            _ => None,
        };
    }
    let refused: Vec<u32> = ends.values().flatten().copied().collect();
    assert_eq!(refused, [REFUSED_STREAM; 5]);
    drop(stream);
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_small_header_block_that_stands_for_a_large_one_is_refused() {
    let world = World::new().await;
    let log = recorder(&world).await;
    // An entry of the dynamic table (RFC 7541 6.2.1), then that entry many times over.
    let entry = [&[0x40, 6], &b"x-bomb"[..], &[120], &[b'x'; 120][..]].concat();
    for n in [280, 5_000] {
        let block = [request_fields("/"), entry.clone(), vec![0xbe; n]].concat();
        let mut stream = http2(&world, &[]).await;
        let bomb = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        let good = frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            3,
            &request_fields("/good"),
        );
        stream.write_all(&[bomb, good].concat()).await.unwrap();
        let mut status = None;
        let code = loop {
            let Some((kind, id, payload)) = next_frame(&mut stream).await else {
                panic!("it ended without a word");
            };
            match (kind, id) {
                (GOAWAY, _) => break Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
                (HEADERS, 1) => status = Some(payload),
                (HEADERS, 3) => break None,
                _ => {}
            }
        };
        let lines: Vec<String> = log.lock().drain(..).map(|seen| seen.line).collect();
        assert_eq!((code, lines), (None, vec!["GET /good".to_owned()]));
        // `:status` is entry 8 of the static table; 431 has none of its own.
        let status = status.expect("it is answered first");
        assert_eq!(status, b"\x08\x03431");
    }
    is_well(&world).await;
}
