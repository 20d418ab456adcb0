//! The load: wrk and h2load where they can do it, else a few lines of our own.

use super::WINDOW;
use super::peers::{Bench, Proxy};
use roost_testkit::program::run;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::process::Command;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Handshakes at once.
const HANDSHAKES: usize = 16;
/// WebSockets at once.
const WEBSOCKETS: usize = 64;
/// Bytes of a WebSocket message.
const MESSAGE_BYTES: usize = 125;

/// The number before a word in a tool's output.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    let number = before.split_whitespace().last();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number before `{word}` in:\n{text}"))
}

/// What a load has got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// What 99 of 100 were faster than, in microseconds, if the tool tells.
    pub(crate) p99: Option<f64>,
}

impl From<u64> for Loaded {
    fn from(requests: u64) -> Self {
        Self {
            requests,
            p99: None,
        }
    }
}

/// The latency behind `99%`, in microseconds.
fn p99(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("99%"))?;
    let number = line.trim().trim_end_matches(char::is_alphabetic);
    let micros = match line.trim().strip_prefix(number)? {
        "us" => 1.0,
        "ms" => 1e3,
        _ => 1e6,
    };
    Some(number.parse::<f64>().ok()? * micros)
}

/// Plain HTTP/1.1.
pub(crate) fn wrk(proxy: &Proxy, connections: usize, path: &str, more: &[&str]) -> Loaded {
    wrk_to(proxy.http, "plain", connections, path, more)
}

/// The same to an app at a port.
pub(crate) fn wrk_to(
    port: u16,
    app: &str,
    connections: usize,
    path: &str,
    more: &[&str],
) -> Loaded {
    let output = run(Command::new("wrk")
        .args(["-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", WINDOW.as_secs()))
        .args(["-H", &format!("Host: {app}.localhost")])
        .args(more)
        .arg(format!("http://127.0.0.1:{port}{path}")));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx"), "{app} at port {port}: {text}");
    Loaded {
        requests: number_before(&text, " requests in"),
        p99: p99(&text),
    }
}

/// HTTP/1.1 or HTTP/2 over TLS.
pub(crate) fn h2load(proxy: &Proxy, app: &str, more: &[&str]) -> Loaded {
    let output = run(Command::new("h2load")
        .args(["-t1", &format!("-D{}", WINDOW.as_secs())])
        .arg(format!("--connect-to=127.0.0.1:{}", proxy.https))
        .args(more)
        .arg(format!("https://{app}.localhost/1k")));
    let text = String::from_utf8_lossy(&output.stdout);
    let (good, bad) = (
        number_before(&text, " succeeded"),
        number_before(&text, " failed,"),
    );
    // Peers lose a few requests when they change connections to the back end.
    assert!(bad * 100 <= good, "{}: {text}", proxy.name);
    (good + bad).into()
}

fn connector(bench: &Bench) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(bench.certificate.clone()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // The same work for all: the peers' OpenSSL knows no ML-KEM.
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

async fn connect_tls(connector: &TlsConnector, port: u16) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("plain.localhost").unwrap();
    connector.connect(name, stream).await.unwrap()
}

/// Asks once and reads to the end of the answer's 1 KiB.
async fn get<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let request = b"GET /1k HTTP/1.1\r\nHost: plain.localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(4096);
    while answer.len() < 1024 || !answer.ends_with(b"xxx") || body_length(&answer) < 1024 {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "cut off");
    }
}

fn body_length(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(0, |end| answer.len() - end - 4)
}

/// Runs this many loops side by side until the window is over; how many turns they made.
fn for_window<F, Fut>(clients: usize, client: F) -> Loaded
where
    F: Fn(Instant) -> Fut,
    Fut: Future<Output = u64> + Send + 'static,
{
    Runtime::new().unwrap().block_on(async {
        let end = Instant::now() + WINDOW;
        let loops: JoinSet<u64> = (0..clients).map(|_| client(end)).collect();
        loops.join_all().await.into_iter().sum::<u64>().into()
    })
}

/// A connection with a full handshake and one GET, again and again.
pub(crate) fn handshakes(bench: &Bench, proxy: &Proxy) -> Loaded {
    let (connector, port) = (connector(bench), proxy.https);
    for_window(HANDSHAKES, |end| {
        let connector = connector.clone();
        async move {
            let mut done = 0;
            while Instant::now() < end {
                get(&mut connect_tls(&connector, port).await).await;
                done += 1;
            }
            done
        }
    })
}

/// One message in flight on each WebSocket.
pub(crate) fn echoes(_bench: &Bench, proxy: &Proxy) -> Loaded {
    let (name, port) = (proxy.name, proxy.http);
    for_window(WEBSOCKETS, |end| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: plain.localhost\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = stream.read_buf(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer);
            assert!(read > 0, "{name} does not open a WebSocket: {text}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        let mut message = [0; MESSAGE_BYTES];
        let mut done = 0;
        while Instant::now() < end {
            stream.write_all(&message).await.unwrap();
            stream.read_exact(&mut message).await.unwrap();
            done += 1;
        }
        done
    })
}

/// Connections that were answered once; they stay until the value is dropped.
pub(crate) fn idle_connections(
    bench: &Bench,
    proxy: &Proxy,
    count: usize,
    is_tls: bool,
) -> (Vec<Box<dyn Send>>, Runtime) {
    let connector = connector(bench);
    let runtime = Runtime::new().unwrap();
    let connections = runtime.block_on(async {
        let mut connections: Vec<Box<dyn Send>> = Vec::new();
        for _ in 0..count {
            if is_tls {
                let mut stream = connect_tls(&connector, proxy.https).await;
                get(&mut stream).await;
                connections.push(Box::new(stream));
            } else {
                let mut stream = TcpStream::connect(("127.0.0.1", proxy.http)).await.unwrap();
                get(&mut stream).await;
                connections.push(Box::new(stream));
            }
        }
        connections
    });
    // Streams need their runtime until they are dropped.
    (connections, runtime)
}
