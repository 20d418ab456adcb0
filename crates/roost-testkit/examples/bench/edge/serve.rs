//! What runs in processes of its own: the edge, and the back end of all proxies.

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use roost_auth::tickets::TicketKeys;
use roost_edge::{AccessLog, CertificateSource, Edge, EdgeConfig, TrafficCounter};
use roost_model::id::MachineId;
use roost_model::machine::Service;
use roost_model::name::{AppName, RegionCode};
use roost_observe::access::{AccessFile, AccessShare};
use roost_proto::rest::RequestRecord;
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficTable};
use roost_runtime::tasks::Tasks;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::io::{self, Cursor};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Becomes one of the servers, if the first argument names it; it ends by being killed.
pub(crate) fn role(arguments: &[String]) -> bool {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let port = |text: &str| text.parse::<u16>().expect("a port");
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["edge-proxy", http, https, back, folder] => {
            let (http, https, back) = (port(http), port(https), port(back));
            runtime().block_on(edge(http, https, back, Path::new(folder)));
        }
        ["edge-routes", http, back, count] => {
            let count = count.parse().expect("a number");
            runtime().block_on(routes(port(http), port(back), count));
        }
        ["edge-back-end", listen] => runtime().block_on(back_end(port(listen))),
        _ => return false,
    }
    true
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl CertificateSource for OneCertificate {
    fn certificate(&self, _name: &str) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// The access log, as `--access-log 1%` has it.
struct OneInHundred(AccessFile);

impl AccessLog for OneInHundred {
    fn wants(&self, is_failure: bool, random: u64) -> bool {
        AccessShare::PerMillion(10_000).wants(is_failure, random)
    }

    fn record(&self, record: &Arc<RequestRecord>) {
        self.0.record(record);
    }

    fn n_dropped(&self) -> u64 {
        self.0.n_dropped()
    }
}

async fn edge(http: u16, https: u16, back: u16, folder: &Path) {
    let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let certificates = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(chain, key))));
    let mut config = EdgeConfig::new(region());
    config.threads = 1;
    config.http = vec![local(http)];
    config.https = vec![local(https)];
    let keys = TicketKeys::of_this_process(roost_runtime::clock::now());
    config.tickets = Some(Arc::new(keys.unwrap()));
    let tasks = Tasks::new();
    let log = AccessFile::open(&folder.join("access"), &tasks).unwrap();
    config.access_log = Some(Arc::new(OneInHundred(log)));
    let mut h2c = Service::http(back);
    for port in &mut h2c.ports {
        port.http.h2_backend = true;
    }
    let plain = app("plain", 0, Service::http(back), back);
    let table: TrafficTable = [plain, app("grpc", 1, h2c, back)].into();
    let (_table, feed) = tokio::sync::watch::channel(Arc::new(table));
    let counter = TrafficCounter::new();
    let edge = Edge::bind(config, feed, counter, certificates, &tasks).await;
    let _edge = edge.unwrap();
    std::future::pending::<()>().await;
}

fn region() -> RegionCode {
    RegionCode::parse("local").unwrap()
}

/// An app with one machine, which is the back end.
fn app(name: &str, number: u64, service: Service, back: u16) -> (AppName, AppTraffic) {
    let [_, id @ ..] = number.to_be_bytes();
    let endpoint = Endpoint {
        machine_id: MachineId::from_bytes(id),
        region: region(),
        release: None,
        split: None,
        statics: [].into(),
        address: local(back),
        node: None,
        health: EndpointHealth::Passing,
        service: service.into(),
    };
    let traffic = AppTraffic {
        endpoints: vec![endpoint],
    };
    (AppName::parse(name).unwrap(), traffic)
}

/// An edge with so many apps. Each number on its standard input is one more, or one that
/// has a new release.
async fn routes(http: u16, back: u16, count: u64) {
    let route = move |number: u64| app(&format!("app-{number}"), number, Service::http(back), back);
    let mut table: TrafficTable = (0..count).map(route).collect();
    let mut config = EdgeConfig::new(region());
    config.threads = 1;
    config.http = vec![local(http)];
    let (sender, feed) = tokio::sync::watch::channel(Arc::new(table.clone()));
    let (counter, tasks) = (TrafficCounter::new(), Tasks::new());
    let certificates = Arc::new(NoCertificate);
    let _edge = Edge::bind(config, feed, counter, certificates, &tasks)
        .await
        .unwrap();
    let changes = std::thread::spawn(move || {
        for (release, line) in std::io::stdin().lines().enumerate() {
            let number = line.unwrap().trim().parse().expect("a number");
            let (name, mut traffic) = route(number);
            traffic.endpoints[0].release = Some(release as u64);
            table.insert(name, traffic.into());
            sender.send_replace(Arc::new(table.clone()));
        }
    });
    // Ends with the standard input, or by being killed.
    tokio::task::spawn_blocking(|| changes.join())
        .await
        .unwrap()
        .unwrap();
}

#[derive(Debug)]
struct NoCertificate;

impl CertificateSource for NoCertificate {
    fn certificate(&self, _name: &str) -> Option<Arc<CertifiedKey>> {
        None
    }
}

type AnyBody = BoxBody<Bytes, Infallible>;

async fn back_end(port: u16) {
    let listener = TcpListener::bind(local(port)).await.unwrap();
    let tasks = Tasks::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tasks.spawn("connection", async move {
            let Ok(Some(other)) = answer_gets(&mut stream).await else {
                return;
            };
            let (read, write) = stream.into_split();
            let stream = tokio::io::join(Cursor::new(other).chain(read), write);
            let service = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
            let builder = auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(stream);
            // How a connection ends is its proxy's business.
            drop(builder.serve_connection_with_upgrades(io, service).await);
        });
    }
}

/// Answers GETs over HTTP/1, until something else comes, which is given back, or the end. This
/// costs less than a proxy does: so it is the proxy that is saturated, and not the core of the
/// load and the back end, on which the two would have to wait for each other.
async fn answer_gets(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    static ANSWERS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [&KIB[..], &KIB_64].map(in_http1));
    let mut request = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
        if !request.starts_with(b"GET /") || has_line(&request, b"upgrade:") {
            return Ok(Some(request));
        }
        if request.ends_with(b"\r\n\r\n") {
            let is_large = request.starts_with(b"GET /64k ");
            stream.write_all(&ANSWERS[usize::from(is_large)]).await?;
            if has_line(&request, b"connection: close") {
                return Ok(None);
            }
            request.clear();
        }
    }
}

fn in_http1(body: &[u8]) -> Vec<u8> {
    let (length, date) = (body.len(), "Thu, 01 Jan 2026 00:00:00 GMT");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ndate: {date}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Whether a line begins with this, in whatever case.
fn has_line(request: &[u8], begin: &[u8]) -> bool {
    let mut lines = request.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let start = line.get(..begin.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(begin))
    })
}

static KIB: [u8; 1024] = [b'x'; 1024];
static KIB_64: [u8; 65536] = [b'x'; 65536];

/// 1 KiB or 64 KiB for a GET, trailers for a POST, an echo for an upgrade.
async fn answer(mut request: Request<Incoming>) -> Response<AnyBody> {
    if request.headers().contains_key(UPGRADE) {
        return echo(&mut request);
    }
    if request.method() == http::Method::POST {
        drop(request.into_body().collect().await);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = Full::from(&KIB[..100]).with_trailers(async { Some(Ok(trailers)) });
        return Response::new(body.boxed());
    }
    let bytes: &'static [u8] = match request.uri().path() {
        "/64k" => &KIB_64,
        _ => &KIB,
    };
    Response::new(Full::from(bytes).boxed())
}

/// The answer to a key of 16 zero bytes (RFC 6455 1.3), which HAProxy checks.
const ACCEPT: &str = "ICX+Yqv66kxgM0FcWaLWlFLwTAI=";

/// No proxy looks into a WebSocket: what follows is bytes.
fn echo(request: &mut Request<Incoming>) -> Response<AnyBody> {
    let upgraded = hyper::upgrade::on(request);
    Tasks::new().spawn("echo", async {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        drop(tokio::io::copy(&mut read, &mut write).await);
    });
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(ACCEPT));
    response
}
