//! Clients of four kinds that ask without pause, and keep account of it.
//!
//! They follow the rules of their protocols and no more: an HTTP/1.1 client
//! opens another connection after `connection: close`, an HTTP/2 client after
//! GOAWAY, and sends again what that says was not taken (RFC 9113 6.8). All
//! else that is not the whole right answer is a failure.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Messages of one WebSocket, so that each lasts through what happens meanwhile.
const MESSAGES: usize = 40;
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Http1,
    Http1Tls,
    Http2Tls,
    WebSocket,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Http1, Self::Http1Tls, Self::Http2Tls, Self::WebSocket];
}

/// Whom they ask.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) tls: TlsConnector,
    /// Time between two questions of one client.
    pub(crate) pause: Duration,
}

/// What came of it, by [`Kind`].
#[derive(Debug, Default)]
pub(crate) struct Account {
    answers: [AtomicU64; 4],
    failures: parking_lot::Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Account {
    /// How many answers each kind has had.
    pub(crate) fn answers(&self) -> [u64; 4] {
        self.answers
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// What failed since the last time.
    pub(crate) fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut self.failures.lock())
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn answered(&self, kind: Kind) {
        self.answers[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts this many clients, each kind's turn after the other.
pub(crate) fn start(place: &Place, account: &Arc<Account>, n_clients: usize) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for (_, kind) in (0..n_clients).zip(Kind::ALL.into_iter().cycle()) {
        let (place, account) = (place.clone(), account.clone());
        clients.spawn(async move {
            while !account.is_over() {
                let life = match kind {
                    Kind::Http1 => http1(&place, &account).await,
                    Kind::Http1Tls => http1_tls(&place, &account).await,
                    Kind::Http2Tls => http2_tls(&place, &account).await,
                    Kind::WebSocket => websocket(&place, &account).await,
                };
                if let Err(why) = life {
                    account.failures.lock().push(format!("{kind:?}: {why}"));
                    sleep(place.pause).await;
                }
            }
        });
    }
    clients
}

type Life = Result<(), String>;

async fn connect(port: u16) -> Result<TcpStream, String> {
    let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    match timeout(ANSWER_LIMIT, connecting).await {
        Ok(connected) => connected.map_err(|error| format!("connect: {error}")),
        Err(_) => Err("connect: takes too long".into()),
    }
}

async fn http1(place: &Place, account: &Account) -> Life {
    let stream = connect(place.http).await?;
    ask_over(stream, Kind::Http1, place, account).await
}

async fn http1_tls(place: &Place, account: &Account) -> Life {
    let stream = tls(place, "http/1.1").await?;
    ask_over(stream, Kind::Http1Tls, place, account).await
}

async fn tls(
    place: &Place,
    protocol: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let mut config = rustls::ClientConfig::clone(place.tls.config());
    config.alpn_protocols = vec![protocol.into()];
    let stream = connect(place.https).await?;
    let name = ServerName::try_from("web.localhost").map_err(|error| error.to_string())?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match timeout(ANSWER_LIMIT, connecting).await {
        Ok(connected) => connected.map_err(|error| format!("handshake: {error}")),
        Err(_) => Err("handshake: takes too long".into()),
    }
}

/// Asks until the edge says that this was the last answer of the connection.
async fn ask_over<S>(stream: S, kind: Kind, place: &Place, account: &Account) -> Life
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufStream::new(stream);
    while !account.is_over() {
        let asking = async {
            let request = b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n";
            stream
                .write_all(request)
                .await
                .map_err(|e| format!("send: {e}"))?;
            stream.flush().await.map_err(|e| format!("send: {e}"))?;
            let head = head(&mut stream).await?;
            let length = length(&head)?;
            let mut body = vec![0; length];
            stream
                .read_exact(&mut body)
                .await
                .map_err(|error| format!("the body: {error}"))?;
            if !head.starts_with("http/1.1 200") || body.is_empty() {
                return Err(format!("{head}{}", String::from_utf8_lossy(&body)));
            }
            Ok(head.contains("\nconnection: close"))
        };
        let is_last = match timeout(ANSWER_LIMIT, asking).await {
            Ok(asked) => asked?,
            Err(_) => return Err("no answer in time".into()),
        };
        account.answered(kind);
        if is_last {
            return Ok(());
        }
        sleep(place.pause).await;
    }
    Ok(())
}

/// The head of an answer, in lower case.
async fn head<S>(stream: &mut BufStream<S>) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).await;
        match read.map_err(|error| format!("the head: {error}"))? {
            0 => return Err(format!("the connection ended after `{head}`")),
            _ if head.len() > ANSWER_BYTES_MAX => return Err("a head without end".into()),
            _ => {}
        }
    }
    Ok(head.to_ascii_lowercase())
}

fn length(head: &str) -> Result<usize, String> {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = line.and_then(|length| length.trim().parse().ok());
    length
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or_else(|| format!("an answer without a length: {head}"))
}

async fn http2_tls(place: &Place, account: &Account) -> Life {
    let stream = tls(place, "h2").await?;
    let shaking = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = shaking.await.map_err(|error| format!("begin: {error}"))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    while !account.is_over() && sender.ready().await.is_ok() {
        let request = http::Request::get("https://web.localhost/")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let asking = async {
            let answer = match sender.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut error) => {
                    // Given back: it was not taken, and is asked again by another connection.
                    if error.take_message().is_some() {
                        return Ok(false);
                    }
                    return Err(format!("send: {:?}", error.into_error()));
                }
            };
            let status = answer.status();
            let body = answer.into_body().collect().await;
            let body = body.map_err(|error| format!("the body: {error:?}"))?;
            if status == http::StatusCode::OK && !body.to_bytes().is_empty() {
                Ok(true)
            } else {
                Err(format!("{status}"))
            }
        };
        match timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok(true)) => account.answered(Kind::Http2Tls),
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err("no answer in time".into()),
        }
        sleep(place.pause).await;
    }
    Ok(())
}

/// One WebSocket, each message of which comes back.
async fn websocket(place: &Place, account: &Account) -> Life {
    let mut stream = BufStream::new(connect(place.http).await?);
    let request = "GET / HTTP/1.1\r\nHost: echo.localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let begin = async {
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|e| format!("send: {e}"))?;
        stream.flush().await.map_err(|e| format!("send: {e}"))?;
        head(&mut stream).await
    };
    let begun = timeout(ANSWER_LIMIT, begin).await;
    let head = begun.map_err(|_| "no answer in time".to_owned())??;
    if !head.starts_with("http/1.1 101") {
        return Err(head);
    }
    for number in 0..MESSAGES {
        // A masked text frame of 6 bytes (RFC 6455 5.2), masked with zeros.
        let mut frame = vec![0x81, 0x86, 0, 0, 0, 0];
        frame.extend(format!("{number:06}").bytes());
        let exchange = async {
            stream.write_all(&frame).await?;
            stream.flush().await?;
            let mut back = vec![0; frame.len()];
            stream.read_exact(&mut back).await?;
            Ok::<_, std::io::Error>(back)
        };
        match timeout(ANSWER_LIMIT, exchange).await {
            Ok(Ok(back)) if back == frame => account.answered(Kind::WebSocket),
            Ok(Ok(_)) => return Err("another message came back".into()),
            Ok(Err(error)) => return Err(format!("message {number}: {error}")),
            Err(_) => return Err(format!("message {number} does not come back")),
        }
        sleep(place.pause).await;
    }
    Ok(())
}
