//! Session tickets: a client that comes again resumes its session, at whichever edge.

use crate::world::{LIMIT, World, endpoint, says};
use roost_auth::seal::SealingKey;
use roost_auth::tickets::{EPOCH, TicketKeys};
use roost_model::time::Timestamp;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) const BEGIN: Timestamp = Timestamp::from_ms(1_700_000_000_000);
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n\r\n";

/// A cluster's authority, and the secret of its tickets.
pub(crate) struct Cluster(tempfile::TempDir);

impl Cluster {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The keys as a process of it has them.
    pub(crate) fn keys(&self, now: Timestamp) -> Arc<TicketKeys> {
        let path = self.0.path().join("sealing.key");
        let sealer = Arc::new(SealingKey::open_or_create(&path).unwrap());
        let path = self.0.path().join("tickets");
        Arc::new(TicketKeys::open(&path, sealer, now).unwrap())
    }

    async fn edge(&self) -> World {
        let world = World::with(|config| config.tickets = Some(self.keys(BEGIN))).await;
        world.publish(vec![endpoint(1, says(&world.tasks, "hello").await)]);
        world
    }
}

/// A client that keeps its tickets, and trusts these edges.
pub(crate) fn client(version: &'static SupportedProtocolVersion, edges: &[&World]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for edge in edges {
        let pem = edge.authority.certificate_pem().as_bytes();
        roots
            .add(CertificateDer::from_pem_slice(pem).unwrap())
            .unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    TlsConnector::from(Arc::new(config))
}

/// One request; how the handshake was.
async fn ask(client: &TlsConnector, edge: &World) -> HandshakeKind {
    let asking = async {
        let stream = TcpStream::connect(edge.https()).await.unwrap();
        let server = ServerName::try_from("app.localhost").unwrap();
        let mut stream = client.connect(server, stream).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        stream.get_ref().1.handshake_kind().unwrap()
    };
    tokio::time::timeout(LIMIT, asking).await.unwrap()
}

#[tokio::test]
async fn a_client_resumes_at_every_edge_of_the_cluster_with_either_version() {
    for version in VERSIONS {
        let cluster = Cluster::new();
        let (one, two) = (cluster.edge().await, cluster.edge().await);
        let client = client(version, &[&one, &two]);
        let first = ask(&client, &one).await;
        assert_eq!(first, HandshakeKind::Full, "{version:?}");
        for edge in [&two, &one, &one, &two] {
            let kind = ask(&client, edge).await;
            assert_eq!(kind, HandshakeKind::Resumed, "{version:?}");
        }
        let metrics = two.edge.records().metrics();
        let name = "roost_edge_tls_handshakes_count";
        for line in [r#"{kind="full"} 0"#, r#"{kind="resumed"} 2"#] {
            assert!(metrics.contains(&format!("{name}{line}")), "{metrics}");
        }
    }
}

#[tokio::test]
async fn a_client_resumes_after_another_edge_has_taken_over() {
    let cluster = Cluster::new();
    let old = cluster.edge().await;
    let client = client(&rustls::version::TLS13, &[&old]);
    ask(&client, &old).await;
    let given = old.edge.listeners().unwrap();
    let at = |config: &mut roost_edge::EdgeConfig| {
        config.http = vec![old.http()];
        config.https = vec![old.https()];
        config.tickets = Some(cluster.keys(BEGIN));
    };
    let new = World::with_sockets(at, Arc::default(), given).await;
    new.publish(vec![endpoint(1, says(&new.tasks, "hello").await)]);
    assert!(old.edge.retire(LIMIT).await);
    // It trusts the old edge's authority alone: a full handshake would fail.
    let kind = ask(&client, &new).await;
    assert_eq!(kind, HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_ticket_of_another_cluster_or_of_a_key_that_is_over_is_no_ticket() {
    for version in VERSIONS {
        let (ours, theirs) = (Cluster::new(), Cluster::new());
        let keys = ours.keys(BEGIN);
        let used = keys.clone();
        let edge = World::with(|config| config.tickets = Some(used)).await;
        edge.publish(vec![endpoint(1, says(&edge.tasks, "hello").await)]);
        let stranger = theirs.edge().await;
        let client = client(version, &[&edge, &stranger]);
        for edge in [&stranger, &edge, &stranger] {
            assert_eq!(ask(&client, edge).await, HandshakeKind::Full);
        }
        assert_eq!(ask(&client, &edge).await, HandshakeKind::Full);
        // From here on the client has a ticket of ours.
        assert_eq!(ask(&client, &edge).await, HandshakeKind::Resumed);
        keys.rotate(BEGIN.after(EPOCH)).unwrap();
        assert_eq!(ask(&client, &edge).await, HandshakeKind::Resumed);
        keys.rotate(BEGIN.after(EPOCH * 5)).unwrap();
        assert_eq!(ask(&client, &edge).await, HandshakeKind::Full);
    }
}

#[tokio::test]
async fn without_keys_there_are_no_tickets_and_each_handshake_is_a_full_one() {
    let edge = World::new().await;
    for version in VERSIONS {
        let client = client(version, &[&edge]);
        for _ in 0..2 {
            let kind = ask(&client, &edge).await;
            assert_eq!(kind, HandshakeKind::Full);
        }
    }
}
