//! The seeds of the fuzz targets, run as they are: none panics, and those that are good are read.

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Empty, Full};
use roost_http2::client::{Limits, begin};
use roost_http2::frame::{self, Frame};
use roost_http2::hpack::Decoder;
use roost_http2::server::{Connection, RequestBody, Settings};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

#[test]
fn header_blocks_are_read_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/hpack");
    let mut n_seeds = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let mut decoder = Decoder::new();
        let mut rest = &bytes[..];
        let mut is_good = true;
        while let Some((length, behind)) = rest.split_first() {
            let (block, behind) = behind.split_at(usize::from(*length));
            rest = behind;
            is_good &= decoder.decode(block, 1000, drop).is_ok();
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(
            is_good,
            ["requests", "responses"].contains(&name.as_str()),
            "{name}"
        );
        n_seeds += 1;
    }
    assert_eq!(n_seeds, 4);
}

async fn answer(_: http::request::Parts, body: Option<RequestBody>) -> Response<Full<Bytes>> {
    let body = match body {
        Some(body) => body.collect().await.map(|body| body.to_bytes()),
        None => Ok(Bytes::from_static(&[7; 10_000])),
    };
    Response::new(Full::new(body.unwrap_or_default()))
}

#[tokio::test]
async fn connections_go_on_or_end_with_a_reason() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/http2_server");
    let mut ends = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut said = frame::PREFACE.to_vec();
        frame::write_settings(&mut said, &frame::Settings::default());
        // The first byte says how it is cut up.
        said.extend(&std::fs::read(&path).unwrap()[1..]);
        let settings = Settings {
            streams_max: 8,
            stream_window: 65_535,
            connection_window: 100_000,
            header_bytes_max: 4096,
            header_lines_max: 50,
            quick_resets_max: 5,
            cancels_max: 5,
            cancel_pause: Duration::from_secs(3600),
            error_resets_max: 5,
            stall_max: Duration::from_secs(60),
        };
        let (mut client, io) = tokio::io::duplex(1 << 20);
        client.write_all(&said).await.unwrap();
        client.shutdown().await.unwrap();
        Connection::new(io, settings, |head, body| Box::pin(answer(head, body))).await;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        let mut rest = &heard[..];
        let mut end = None;
        while let Some((head, payload)) = frame::split(rest, 16_384).unwrap() {
            if let Frame::GoAway { code, .. } = head.read(payload).unwrap() {
                end = Some(code.0);
            }
            rest = &rest[frame::HEAD_BYTES + payload.len()..];
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ends.push((name, end));
    }
    ends.sort();
    let ends: Vec<(&str, Option<u32>)> = ends.iter().map(|(n, end)| (&n[..], *end)).collect();
    let expected = [
        ("broken", Some(1)),
        ("cancels", Some(11)),
        ("requests", None),
        ("resets", Some(11)),
        ("windows", None),
    ];
    assert_eq!(ends, expected);
}

/// What a request of an HTTP/2 server that says this comes to: its status and its body.
async fn outcome(said: &[u8]) -> String {
    let (mut server, io) = tokio::io::duplex(1 << 20);
    server.write_all(said).await.expect("there is room for it");
    server.shutdown().await.expect("the client is there");
    let limits = Limits {
        streams_max: 8,
        stream_window: 65_535,
        connection_window: 100_000,
        header_bytes_max: 4096,
        header_lines_max: 50,
    };
    let (sender, driver) = begin::<_, Empty<Bytes>>(io, limits);
    let asking = sender.send(
        |block| {
            block.field(":method", b"GET");
            block.field(":scheme", b"http");
            block.field(":authority", b"app");
            block.field(":path", b"/");
        },
        false,
        Empty::new(),
        || Instant::now() + Duration::from_secs(3600),
    );
    let answer = async {
        let (head, body) = asking.await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let status = head.status.as_u16();
        Some(format!("{status} {}", String::from_utf8_lossy(&body)))
    };
    let (answer, ()) = tokio::join!(answer, driver);
    answer.unwrap_or_default()
}

#[tokio::test]
async fn requests_are_answered_or_fail_with_their_connection() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds/http2_client");
    let mut outcomes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut said = Vec::new();
        frame::write_settings(&mut said, &frame::Settings::default());
        // The first byte says how it is cut up.
        said.extend(&std::fs::read(&path).unwrap()[1..]);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        outcomes.push((name, outcome(&said).await));
    }
    outcomes.sort();
    let outcomes: Vec<(&str, &str)> = outcomes.iter().map(|(n, it)| (&n[..], &it[..])).collect();
    let expected = [
        ("answers", "200 hello"),
        ("breach", ""),
        ("goaway", "200 "),
        ("interim", "204 "),
        ("resets", ""),
        ("settings", "200 "),
        ("too_long", ""),
    ];
    assert_eq!(outcomes, expected);
}
