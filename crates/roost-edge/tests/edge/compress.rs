//! Answers that the edge compresses, for services that ask for it.

use crate::world::{AnyBody, LIMIT, World, backend, endpoint, full};
use bytes::Bytes;
use flate2::write::GzDecoder;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use roost_proto::traffic::Endpoint;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

/// Header lines of an app's answer.
type Lines = &'static [(&'static str, &'static str)];

fn compressing(address: SocketAddr) -> Endpoint {
    let mut endpoint = endpoint(1, address);
    for port in &mut Arc::make_mut(&mut endpoint.service).ports {
        port.http.compress = true;
    }
    endpoint
}

/// Text of which much is alike, and something is not.
fn text(length: usize) -> Bytes {
    let words = (0..).flat_map(|n: u64| format!("word {} ", n * n % 9973).into_bytes());
    words.take(length).collect::<Vec<u8>>().into()
}

/// An edge before an app that answers everything with this body and these header lines.
async fn world(status: u16, lines: Lines, body: Bytes) -> World {
    let world = World::new().await;
    let address = backend(&world.tasks, move |_| {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let response = response.body(full(body.clone())).unwrap();
        async move { response }
    })
    .await;
    world.publish(vec![compressing(address)]);
    world
}

async fn get(world: &World, is_http2: bool, accept: &str) -> reqwest::Response {
    try_get(world, is_http2, accept).await.unwrap()
}

async fn try_get(
    world: &World,
    is_http2: bool,
    accept: &str,
) -> reqwest::Result<reqwest::Response> {
    let builder = world.client_builder();
    let client = if is_http2 {
        builder.http2_prior_knowledge()
    } else {
        builder
    };
    let request = client.build().unwrap().get(world.url("/"));
    let request = request.header("accept-encoding", accept);
    request.send().await
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut decoder = GzDecoder::new(Vec::new());
            decoder.write_all(body).unwrap();
            decoder.finish().unwrap()
        }
        "br" => {
            let mut decoder = brotli::DecompressorWriter::new(Vec::new(), 4096);
            decoder.write_all(body).unwrap();
            decoder.close().unwrap();
            decoder.get_ref().clone()
        }
        "zstd" => zstd::decode_all(body).unwrap(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn text_is_compressed_for_clients_that_take_it_and_is_the_same_afterwards() {
    let head = &[
        ("content-type", "text/html; charset=utf-8"),
        ("etag", "\"tag\""),
        ("accept-ranges", "bytes"),
        ("vary", "Cookie"),
    ];
    for length in [2_000, 700_000] {
        let body = text(length);
        let world = world(200, head, body.clone()).await;
        for is_http2 in [false, true] {
            for (accept, coding) in [
                ("gzip", "gzip"),
                ("gzip, br", "br"),
                ("gzip, br, zstd", "zstd"),
            ] {
                let answer = get(&world, is_http2, accept).await;
                let headers = answer.headers().clone();
                assert_eq!(lines(&headers, "content-encoding"), [coding]);
                assert_eq!(lines(&headers, "etag"), ["W/\"tag\""]);
                assert_eq!(lines(&headers, "vary"), ["Cookie", "accept-encoding"]);
                for gone in ["content-length", "accept-ranges"] {
                    assert_eq!(lines(&headers, gone), [""; 0]);
                }
                let sent = answer.bytes().await.unwrap();
                assert!(sent.len() < length / 2, "{} of {length}", sent.len());
                assert!(decoded(coding, &sent) == body, "{coding} {length}");
            }
            let answer = get(&world, is_http2, "deflate, gzip;q=0").await;
            let headers = answer.headers().clone();
            assert_eq!(lines(&headers, "content-encoding"), [""; 0]);
            assert_eq!(lines(&headers, "etag"), ["\"tag\""]);
            assert_eq!(lines(&headers, "vary"), ["Cookie", "accept-encoding"]);
            assert_eq!(answer.bytes().await.unwrap(), body);
        }
    }
}

#[tokio::test]
async fn what_is_no_text_small_or_not_to_be_changed_goes_as_it_is() {
    let cases: [(u16, Lines, usize); 7] = [
        (200, &[("content-type", "image/png")], 5_000),
        (200, &[], 5_000),
        (200, &[("content-type", "text/plain")], 1_000),
        (206, &[("content-type", "text/plain")], 5_000),
        (
            200,
            &[("content-type", "text/plain"), ("content-encoding", "br")],
            5_000,
        ),
        (
            200,
            &[
                ("content-type", "text/plain"),
                ("cache-control", "public, No-Transform"),
            ],
            5_000,
        ),
        (
            200,
            &[
                ("content-type", "text/plain"),
                ("repr-digest", "sha-256=:AA==:"),
            ],
            5_000,
        ),
    ];
    for (status, head, length) in cases {
        let body = text(length);
        let world = world(status, head, body.clone()).await;
        let answer = get(&world, false, "gzip, zstd").await;
        let coded = lines(answer.headers(), "content-encoding").concat();
        assert!(coded.is_empty() || coded == "br", "{head:?}");
        assert_eq!(lines(answer.headers(), "vary"), [""; 0], "{head:?}");
        assert_eq!(answer.bytes().await.unwrap(), body, "{head:?}");
    }
    // A HEAD is told what there is without it, and that there may be something else.
    let world = world(200, &[("content-type", "text/plain")], text(5_000)).await;
    let client = world.client();
    let request = client.head(world.url("/"));
    let answer = request.header("accept-encoding", "gzip").send().await;
    let headers = answer.unwrap().headers().clone();
    assert_eq!(lines(&headers, "vary"), ["accept-encoding"]);
    assert_eq!(lines(&headers, "content-encoding"), [""; 0]);
    // A service that asks for nothing gets nothing.
    let mut machine = compressing("127.0.0.1:1".parse().unwrap());
    let app = backend(&world.tasks, |_| async {
        let body = full(text(5_000));
        let response = Response::builder().header("content-type", "text/plain");
        response.body(body).unwrap()
    });
    machine.address = app.await;
    machine.service = endpoint(1, machine.address).service;
    world.publish(vec![machine]);
    let answer = get(&world, false, "gzip").await;
    assert_eq!(lines(answer.headers(), "vary"), [""; 0]);
    assert_eq!(answer.bytes().await.unwrap(), text(5_000));
}

#[tokio::test]
async fn a_304_says_what_the_200_of_a_compressing_service_says() {
    let cases: [(Lines, &str, &str, &[&str]); 4] = [
        (
            &[("etag", "\"1\"")],
            "gzip",
            "W/\"1\"",
            &["accept-encoding"],
        ),
        (
            &[("etag", "\"1\"")],
            "identity",
            "\"1\"",
            &["accept-encoding"],
        ),
        (
            &[("etag", "\"1\""), ("content-type", "image/png")],
            "gzip",
            "\"1\"",
            &[],
        ),
        (
            &[("etag", "\"1\""), ("cache-control", "no-transform")],
            "gzip",
            "\"1\"",
            &[],
        ),
    ];
    for (head, accept, tag, vary) in cases {
        let world = world(304, head, Bytes::new()).await;
        for is_http2 in [false, true] {
            let answer = get(&world, is_http2, accept).await;
            assert_eq!(answer.status().as_u16(), 304);
            assert_eq!(lines(answer.headers(), "etag"), [tag], "{head:?}");
            assert_eq!(lines(answer.headers(), "vary"), vary, "{head:?}");
            assert_eq!(lines(answer.headers(), "content-encoding"), [""; 0]);
        }
    }
}

/// A body that has these pieces, as they come, and then trailers.
fn streamed(pieces: mpsc::Receiver<Bytes>) -> AnyBody {
    let frames = stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        Some(match pieces.recv().await {
            Some(piece) => (Ok(Frame::data(piece)), Some(pieces)),
            None => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("3"));
                (Ok(Frame::trailers(trailers)), None)
            }
        })
    });
    BodyExt::boxed(StreamBody::new(frames))
}

#[tokio::test]
async fn events_come_one_by_one_and_trailers_after_them() {
    for coding in ["gzip", "br", "zstd"] {
        let world = World::new().await;
        let (sender, pieces) = mpsc::channel(1);
        let pieces = Arc::new(Mutex::new(Some(pieces)));
        let address = backend(&world.tasks, move |_| {
            let pieces = pieces.clone();
            async move {
                let pieces = pieces.lock().await.take().expect("one request");
                let response = Response::builder()
                    .header("content-type", "text/event-stream")
                    .header("trailer", "x-sum");
                response.body(streamed(pieces)).unwrap()
            }
        })
        .await;
        let mut machine = compressing(address);
        for port in &mut Arc::make_mut(&mut machine.service).ports {
            port.http.h2_backend = true;
        }
        world.publish(vec![machine]);
        let event = |n: u8| Bytes::from(format!("data: event number {n}\n\n"));
        sender.send(event(0)).await.unwrap();
        let answer = get(&world, true, coding).await;
        assert_eq!(lines(answer.headers(), "content-encoding"), [coding]);
        let answer: Response<reqwest::Body> = answer.into();
        let mut body = answer.into_body();
        let mut out = Decoder::new(coding);
        let mut expected = Vec::new();
        for n in 0..3 {
            expected.extend_from_slice(&event(n));
            let reading = async {
                while out.seen() != expected {
                    let frame = body.frame().await.expect("more to come").unwrap();
                    out.take(&frame.into_data().unwrap());
                }
            };
            tokio::time::timeout(LIMIT, reading).await.unwrap();
            if n < 2 {
                sender.send(event(n + 1)).await.unwrap();
            }
        }
        drop(sender);
        let rest = tokio::time::timeout(LIMIT, body.collect()).await;
        let rest = rest.unwrap().unwrap();
        assert_eq!(rest.trailers().unwrap()["x-sum"], "3");
        out.take(&rest.to_bytes());
        assert_eq!(out.seen(), expected);
    }
}

#[tokio::test]
async fn what_comes_in_pieces_is_gzips_rather_than_brotlis() {
    let world = World::new().await;
    let address = backend(&world.tasks, |_| async {
        let (sender, pieces) = mpsc::channel(100);
        for _ in 0..100 {
            sender.try_send(text(100)).unwrap();
        }
        let response = Response::builder().header("content-type", "text/plain");
        response.body(streamed(pieces)).unwrap()
    })
    .await;
    world.publish(vec![compressing(address)]);
    for is_http2 in [false, true] {
        for (accept, coding) in [
            ("gzip, br", "gzip"),
            ("br", "br"),
            ("gzip, br, zstd", "zstd"),
        ] {
            let answer = get(&world, is_http2, accept).await;
            assert_eq!(lines(answer.headers(), "content-encoding"), [coding]);
            let sent = answer.bytes().await.unwrap();
            assert!(decoded(coding, &sent) == text(100).repeat(100), "{coding}");
        }
    }
}

/// Decodes what has come so far.
enum Decoder {
    Gzip(Box<GzDecoder<Vec<u8>>>),
    Brotli(Box<brotli::DecompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

impl Decoder {
    fn new(coding: &str) -> Self {
        match coding {
            "gzip" => Self::Gzip(Box::new(GzDecoder::new(Vec::new()))),
            "br" => {
                let decoder = brotli::DecompressorWriter::new(Vec::new(), 4096);
                Self::Brotli(Box::new(decoder))
            }
            _ => {
                let decoder = zstd::stream::write::Decoder::new(Vec::new());
                Self::Zstd(decoder.unwrap())
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Gzip(decoder) => {
                decoder.write_all(bytes).unwrap();
                decoder.flush().unwrap();
            }
            Self::Brotli(decoder) => {
                decoder.write_all(bytes).unwrap();
                decoder.flush().unwrap();
            }
            Self::Zstd(decoder) => {
                decoder.write_all(bytes).unwrap();
                decoder.flush().unwrap();
            }
        }
    }

    fn seen(&self) -> &[u8] {
        match self {
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Brotli(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_looks_broken_off() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.tasks.spawn("app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 90000\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&text(40_000)).await;
        }
    });
    world.publish(vec![compressing(address)]);
    for is_http2 in [false, true] {
        for coding in ["gzip", "br", "zstd"] {
            // HTTP/2 may reset the stream before its header has left.
            if let Ok(answer) = try_get(&world, is_http2, coding).await {
                assert_eq!(lines(answer.headers(), "content-encoding"), [coding]);
                assert!(answer.bytes().await.is_err(), "{coding}");
            }
        }
    }
}
