//! What idle connections cost. Alone in its process, whose memory is looked at.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use roost_auth::authority::LocalAuthority;
use roost_auth::tickets::TicketKeys;
use roost_edge::{Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use roost_model::name::RegionCode;
use roost_runtime::tasks::Tasks;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a connection may cost; the clients' sockets are in it, their TLS is not.
const BYTES_MAX: u64 = 20 * 1024;
const CONNECTIONS: u64 = 300;
/// Not counted: what is there for the first ones is there for all.
const WARM_UP: u64 = 100;

#[tokio::test]
async fn a_tls_connection_that_is_idle_holds_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
    let mut config = EdgeConfig::new(RegionCode::parse("local").unwrap());
    config.https = vec!["127.0.0.1:0".parse().unwrap()];
    let keys = TicketKeys::of_this_process(roost_runtime::clock::now());
    config.tickets = Some(Arc::new(keys.unwrap()));
    let certificates = LocalCertificates::new(authority.clone(), &config.domains);
    let (_table, feed) = tokio::sync::watch::channel(Arc::default());
    let tasks = Tasks::new();
    let edge = Edge::bind(config, feed, TrafficCounter::new(), certificates, &tasks);
    let edge = edge.await.unwrap();
    let client = client(&authority);

    let mut idle = Vec::new();
    for _ in 0..WARM_UP {
        idle.push(ask(&client, &edge).await);
    }
    let before = memory();
    for _ in 0..CONNECTIONS {
        idle.push(ask(&client, &edge).await);
    }
    let each = memory().saturating_sub(before) / CONNECTIONS;
    assert!(each <= BYTES_MAX, "{each} bytes for each connection");
}

fn client(authority: &LocalAuthority) -> TlsConnector {
    let pem = authority.certificate_pem().as_bytes();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(pem).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Has one request answered, and keeps nothing but the socket.
async fn ask(client: &TlsConnector, edge: &Edge) -> TcpStream {
    let stream = TcpStream::connect(edge.https_addrs()[0]).await.unwrap();
    let name = ServerName::try_from("app.localhost").unwrap();
    let mut stream = client.connect(name, stream).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = vec![0; 4096];
    let n_bytes = stream.read(&mut answer).await.unwrap();
    assert!(answer[..n_bytes].starts_with(b"HTTP/1.1 404"));
    stream.into_inner().0
}

/// Bytes that this process has written to and no file has.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kb = line.unwrap().trim().trim_end_matches(" kB");
    kb.parse::<u64>().unwrap() * 1024
}
