//! What comes before HTTP and is none of it: TLS and PROXY headers that are cut off, too large or wrong.

use crate::raw::{nothing_is_left, recorder, status};
use crate::world::{LIMIT, World};
use roost_edge::Network;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The kind of a TLS record with an alert (RFC 8446 5.1).
const ALERT: u8 = 21;

/// What a client of TLS says first, to this name.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends these bytes, with or without an end after them, and returns all that comes.
async fn all(address: SocketAddr, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The edge may refuse before it has taken all.
    let _ = stream.write_all(bytes).await;
    if ends {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer));
    // A reset is as good an end as a close.
    let _ = read.await.expect("the edge closes");
    answer
}

/// The same as `from` with something else, of the same length, in the place of the name.
fn renamed(from: &[u8], name: &[u8]) -> Vec<u8> {
    let old = b"app.localhost";
    assert_eq!(old.len(), name.len());
    let at = from
        .windows(old.len())
        .position(|part| part == old)
        .unwrap();
    [&from[..at], name, &from[at + name.len()..]].concat()
}

/// The same with another byte somewhere.
fn changed(from: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = from.to_vec();
    bytes[at] = byte;
    bytes
}

async fn hasty() -> World {
    World::with(|config| config.timeouts.handshake = Duration::from_secs(3)).await
}

/// It serves whoever speaks TLS, and of the others nothing is left.
async fn is_well(world: &World) {
    let client = world.client();
    let answer = client.get(world.tls_url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    drop((answer, client));
    nothing_is_left(world, 1).await;
}

#[tokio::test]
async fn bytes_that_are_no_tls_get_an_alert_or_nothing() {
    let world = hasty().await;
    recorder(&world).await;
    let good = hello("app.localhost");
    let record = |kind: u8, length: u16, rest: &[u8]| {
        [&[kind, 3, 1], &length.to_be_bytes()[..], rest].concat()
    };
    let split: Vec<u8> = good[5..]
        .chunks(1)
        .flat_map(|byte| record(22, 1, byte))
        .collect();
    // Whether the client hears why.
    let cases = [
        ("nothing", false, vec![]),
        ("one byte", false, vec![22]),
        ("a record's head", false, record(22, 200, b"")),
        ("half a hello", false, good[..good.len() / 2].to_vec()),
        ("all but one byte", false, good[..good.len() - 1].to_vec()),
        (
            "a record above the most",
            true,
            record(22, 0xffff, &[1; 70_000]),
        ),
        ("an empty record", true, record(22, 0, b"")),
        ("application data", false, record(23, 20, &[0; 20])),
        ("an alert", false, record(21, 2, &[2, 40])),
        ("a record of no kind", true, record(99, 20, &[0; 20])),
        (
            "another handshake message",
            true,
            record(22, 4, &[2, 0, 0, 0]),
        ),
        (
            "a hello of 16 MiB",
            false,
            record(22, 1000, &[&[1, 0xff, 0xff, 0xff], &[0; 996][..]].concat()),
        ),
        ("a hello of nothing", true, record(22, 4, &[1, 0, 0, 0])),
        (
            "a hello in single bytes",
            false,
            split[..split.len() / 2].to_vec(),
        ),
        (
            "HTTP",
            true,
            b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n".to_vec(),
        ),
        (
            "SSLv2",
            true,
            [&[0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16], &[7; 37][..]].concat(),
        ),
        (
            "a hello and then garbage",
            true,
            [&good[..], &[0xff; 100]].concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, hears, bytes) in cases {
        for ends in [false, true] {
            let answer = all(world.https(), &bytes, ends).await;
            let is_alert = answer.first() == Some(&ALERT) || what == "a hello and then garbage";
            if !(answer.is_empty() || is_alert) || (hears && answer.is_empty()) {
                wrong.push(format!("{what}: {answer:x?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    is_well(&world).await;
}

#[tokio::test]
async fn a_hello_with_one_wrong_byte_does_no_harm() {
    let world = hasty().await;
    let log = recorder(&world).await;
    let good = hello("app.localhost");
    let mut cases = tokio::task::JoinSet::new();
    for at in (0..good.len()).step_by(7) {
        let (address, bytes) = (world.https(), changed(&good, at, good[at] ^ 0x55));
        cases.spawn(async move { all(address, &bytes, true).await });
    }
    cases.join_all().await;
    assert!(log.lock().is_empty());
    is_well(&world).await;
}

#[tokio::test]
async fn names_that_are_none_get_an_alert() {
    let world = hasty().await;
    recorder(&world).await;
    let good = hello("app.localhost");
    for name in [
        &b"app localhost"[..],
        b"app\0localhost",
        b"app.localhos\xe9",
        b".............",
        b".pp.localhost",
        b"app..ocalhost",
        b"app/localhost",
        b"127.127.0.001",
        b"[::1]:1234567",
        b"-------------",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let answer = all(world.https(), &renamed(&good, name), true).await;
        assert_eq!(answer.first(), Some(&ALERT), "{name:?}: {answer:x?}");
    }
    // The lengths before the name: of the extension's list, and of the name.
    let at = good.windows(13).position(|part| part == b"app.localhost");
    let at = at.unwrap();
    for (before, byte) in [
        (1, 0),
        (1, 255),
        (2, 255),
        (3, 7),
        (4, 0),
        (4, 255),
        (6, 0),
        (6, 255),
    ] {
        let answer = all(world.https(), &changed(&good, at - before, byte), true).await;
        assert_eq!(answer.first(), Some(&ALERT), "{before} {byte}: {answer:x?}");
    }
    is_well(&world).await;
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn proxy_headers_that_are_none_are_closed_in_time() {
    let world = World::with(|config| {
        config.proxies = vec![Network::parse("127.0.0.1").unwrap()];
        config.timeouts.header = Duration::from_millis(500);
    })
    .await;
    let log = recorder(&world).await;
    let request = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
    let binary = |head: [u8; 4], rest: &[u8]| [&b"\r\n\r\n\0\r\nQUIT\n"[..], &head, rest].concat();
    let cases = [
        ("no header", vec![]),
        (
            "a lower case one",
            b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        ),
        (
            "another family",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        ),
        (
            "an address that is none",
            b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n".to_vec(),
        ),
        (
            "addresses of the other family",
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
        ),
        (
            "a port above all",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n".to_vec(),
        ),
        (
            "a port with a sign",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n".to_vec(),
        ),
        (
            "two spaces",
            b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        ),
        (
            "a line that ends with LF",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec(),
        ),
        (
            "a line that is too long",
            [&b"PROXY UNKNOWN "[..], &[b'x'; 100], b"\r\n"].concat(),
        ),
        (
            "bytes beyond ASCII",
            b"PROXY TCP4 \xff\xff\xff\xff 192.0.2.2 1 2\r\n".to_vec(),
        ),
        ("another version", binary([0x11, 0x11, 0, 12], &[1; 12])),
        ("another command", binary([0x22, 0x11, 0, 12], &[1; 12])),
        ("a family of none", binary([0x21, 0x41, 0, 12], &[1; 12])),
        (
            "addresses that are cut off",
            binary([0x21, 0x21, 0, 12], &[1; 12]),
        ),
        (
            "a header above the most",
            binary([0x21, 0x11, 0xff, 0xff], &[1; 2000]),
        ),
    ];
    for (what, header) in cases {
        // Behind what is too short the request is read as the rest of it, which it is not.
        let answer = world.raw([&header[..], request].concat()).await;
        assert_eq!(answer, "", "{what}");
    }
    for (what, beginning) in [
        ("nothing", &b""[..]),
        ("half a line", b"PROXY TCP4 192.0"),
        ("half a signature", b"\r\n\r\n\0\r\nQU"),
        ("half a header", &binary([0x21, 0x11, 0, 12], &[1; 6])),
    ] {
        assert_eq!(world.raw(beginning).await, "", "{what}");
    }
    assert!(log.lock().is_empty());
    let good = [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..], request].concat();
    assert_eq!(status(&world.raw(good).await), "200");
    nothing_is_left(&world, 1).await;
}
