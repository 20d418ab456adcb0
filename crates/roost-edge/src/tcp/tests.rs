//! Raw clients on their way to a machine, against an edge that listens nowhere.

use super::{Outcome, reach};
use crate::accept::Ends;
use crate::limits;
use crate::shared::Shared;
use crate::{Edge, EdgeConfig, LocalCertificates, TrafficCounter};
use roost_auth::authority::LocalAuthority;
use roost_model::id::MachineId;
use roost_model::machine::{Concurrency, PortHandler, PortRange, Service, ServicePort};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficTable};
use roost_runtime::tasks::Tasks;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PORT: u16 = 5000;
const LIMIT: Duration = Duration::from_secs(20);

/// What an edge lives as long as.
type Keep = (watch::Sender<Arc<TrafficTable>>, Tasks);

/// An edge that listens nowhere, with these machines behind a raw port.
async fn edge(machines: &[(SocketAddr, u32)]) -> (Edge, Keep) {
    let region = RegionCode::parse("local").unwrap();
    let endpoint = |(number, (address, hard_limit)): (usize, &(SocketAddr, u32))| Endpoint {
        machine_id: MachineId::from_bytes([u8::try_from(number).unwrap(); 7]),
        region: RegionCode::parse("local").unwrap(),
        release: None,
        split: None,
        statics: [].into(),
        address: *address,
        node: None,
        health: EndpointHealth::Passing,
        service: Service {
            ports: vec![ServicePort::new(PortRange::single(PORT), PortHandler::Raw)],
            concurrency: Concurrency {
                hard_limit: Some(*hard_limit),
                ..Concurrency::DEFAULT
            },
            ..Service::http(1)
        }
        .into(),
    };
    let endpoints = machines.iter().enumerate().map(endpoint).collect();
    let app = AppName::parse("app").unwrap();
    let table = TrafficTable::from([(app, AppTraffic { endpoints })]);
    let (sender, feed) = watch::channel(Arc::new(table));
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
    let mut config = EdgeConfig::new(region);
    config.timeouts.machine = LIMIT * 10;
    let tasks = Tasks::new();
    let certificates = LocalCertificates::new(authority, &[]);
    let edge = Edge::bind(config, feed, TrafficCounter::new(), certificates, &tasks);
    (edge.await.unwrap(), (sender, tasks))
}

/// Leads a client to a machine and gives what it said while it waited, or why not.
async fn led(shared: Arc<Shared>, mut client: DuplexStream) -> Result<Vec<u8>, String> {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let ends = Ends {
        client: address,
        local: address,
        is_tls: false,
        handshake: std::time::Duration::ZERO,
        external: PORT,
        own: None,
    };
    let mut early = Vec::new();
    let reached = reach(&shared, &mut client, &mut early, ends, "app").await;
    reached.map(|_| early)
}

#[tokio::test]
async fn a_machine_that_refuses_raw_connections_is_ejected() {
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refuses = nobody.local_addr().unwrap();
    drop(nobody);
    let (edge, _keep) = edge(&[(refuses, 100), (good.local_addr().unwrap(), 100)]).await;
    let app = edge.shared.router.routes().app("app").unwrap().clone();
    let machines = &app.port(PORT).unwrap().passing;
    for _ in 0..limits::EJECTION_FAILURES_IN_A_ROW * 4 {
        let (_client, stream) = duplex(64);
        assert_eq!(led(edge.shared.clone(), stream).await, Ok(vec![]));
    }
    // One more failure is no news of one that is out: it was ejected before.
    assert!(!machines[0].load.note(Outcome::NoAnswer));
}

#[tokio::test]
async fn a_raw_client_that_leaves_gives_up_its_place_in_the_queue() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (edge, _keep) = edge(&[(listener.local_addr().unwrap(), 1)]).await;
    let app = edge.shared.router.routes().app("app").unwrap().clone();
    let machine = &app.port(PORT).unwrap().passing[0];
    let busy = crate::gauge::InFlight::begin(machine).unwrap();
    let (client, stream) = duplex(64);
    let mut gone = JoinSet::new();
    gone.spawn(led(edge.shared.clone(), stream));
    drop(client);
    let end = timeout(LIMIT, gone.join_next()).await.expect("noticed");
    assert_eq!(end.unwrap().unwrap(), Err("the client has left".into()));
    assert_eq!(edge.queued(), 0);
    // One that has spoken and ended its side waits on, and loses nothing.
    let (mut client, stream) = duplex(64);
    client.write_all(b"a question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut waits = JoinSet::new();
    waits.spawn(led(edge.shared.clone(), stream));
    while edge.queued() == 0 {
        tokio::task::yield_now().await;
    }
    drop(busy);
    let end = timeout(LIMIT, waits.join_next()).await.expect("its turn");
    assert_eq!(end.unwrap().unwrap(), Ok(b"a question".to_vec()));
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
}
