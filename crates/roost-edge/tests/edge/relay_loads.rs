//! From edge to edge: what an edge hears of the load of machines of other nodes.

use crate::limits::{Held, get, limited};
use crate::relay::{Cluster, node, peers_of, record};
use crate::wire::wire;
use crate::world::{LIMIT, World, backend, full, machine, says, wait_until};
use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_auth::cluster::{Peer, Role};
use roost_proto::rest::{RequestRecord, SkippedMachine};
use roost_proto::traffic::PeerNode;
use roost_runtime::clock;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The edge of node 1, which follows the edges of nodes 2, 3, … at these addresses.
pub(crate) async fn following(cluster: &Cluster, addresses: &[SocketAddr]) -> World {
    let peers = addresses.iter().zip(2..);
    let peers = peers.map(|(&edge, n)| PeerNode { id: node(n), edge });
    let peers = peers.collect();
    let change = |config: &mut roost_edge::EdgeConfig| {
        config.relay.as_mut().unwrap().peers = peers;
    };
    cluster.edge_with(1, change).await
}

/// A machine that holds requests for `/held` until they are released.
struct Busy {
    address: SocketAddr,
    arrived: Arc<AtomicUsize>,
    release: Arc<Semaphore>,
    under_way: JoinSet<(u16, String)>,
}

impl Busy {
    async fn new(world: &World) -> Self {
        let (arrived, release) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let parts = (arrived.clone(), release.clone());
        let address = backend(&world.tasks, move |request| {
            let (arrived, release) = parts.clone();
            async move {
                if request.uri().path() == "/held" {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    release.acquire().await.unwrap().forget();
                }
                Response::new(full("busy"))
            }
        });
        Self {
            address: address.await,
            arrived,
            release,
            under_way: JoinSet::new(),
        }
    }

    /// Clients of this edge have it serve so many requests more.
    async fn serve(&mut self, world: &World, count: usize) {
        let before = self.arrived.load(Ordering::SeqCst);
        for _ in 0..count {
            self.under_way
                .spawn(get(world.client(), world.url("/held")));
        }
        wait_until("requests have arrived", || {
            self.arrived.load(Ordering::SeqCst) == before + count
        })
        .await;
    }

    /// All of them end.
    async fn end(&mut self) {
        self.release.add_permits(self.under_way.len());
        while let Some(answer) = self.under_way.join_next().await {
            assert_eq!(answer.unwrap(), (200, "busy".to_owned()));
        }
    }
}

/// Asks, and says what the last attempt had against a machine.
pub(crate) async fn skipped(
    world: &World,
    client: &reqwest::Client,
    number: u8,
) -> Option<SkippedMachine> {
    let response = client.get(world.url("/")).send().await.unwrap();
    let record = record(world, &response).await;
    of_machine(&record, number).cloned()
}

pub(crate) fn of_machine(record: &RequestRecord, number: u8) -> Option<&SkippedMachine> {
    let last = record.attempts.last()?;
    let mut skipped = last.skipped.iter();
    skipped.find(|it| it.machine == machine(number).as_str())
}

/// Asks until a machine is skipped for this reason, with so much that it serves.
pub(crate) async fn until_skipped(world: &World, number: u8, reason: &str, load: u64) {
    until_seen(world, number, |it| {
        (it.reason.as_str(), it.load) == (reason, load)
    })
    .await;
}

/// Asks until a machine is skipped like this.
async fn until_seen(world: &World, number: u8, is_it: impl Fn(&SkippedMachine) -> bool) {
    let (client, begun) = (world.client(), Instant::now());
    loop {
        let seen = skipped(world, &client, number).await;
        if seen.as_ref().is_some_and(&is_it) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "this is not seen: {seen:?}");
        // Of few requests in a second each has a record.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_machine_that_clients_of_its_node_keep_busy_gets_fewer_requests_from_here() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let near = following(&cluster, &[peers_of(&far)]).await;
    let mut busy = Busy::new(&far).await;
    far.publish(vec![limited(1, busy.address, 20, 100)]);
    near.publish(vec![limited(2, says(&near.tasks, "idle").await, 20, 100)]);
    busy.serve(&far, 15).await;
    until_skipped(&near, 1, "other-chosen", 15).await;
    let client = near.client();
    for _ in 0..20 {
        let answer = get(client.clone(), near.url("/")).await;
        assert_eq!(answer, (200, "idle".to_owned()));
    }
    busy.end().await;
    until_skipped(&near, 1, "other-chosen", 0).await;
}

#[tokio::test]
async fn a_machine_that_others_have_filled_is_asked_only_when_nobody_else_has_room() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.edge(2).await, cluster.edge(3).await);
    let near = following(&cluster, &[peers_of(&one), peers_of(&two)]).await;
    let mut busy = Busy::new(&one).await;
    let other = Held::new(&two).await;
    one.publish(vec![limited(1, busy.address, 1, 2)]);
    busy.serve(&one, 2).await;
    two.publish(vec![limited(2, says(&two.tasks, "room").await, 20, 100)]);
    until_skipped(&near, 1, "hard-limit", 2).await;
    let client = near.client();
    for _ in 0..10 {
        let response = client.get(near.url("/")).send().await.unwrap();
        let record = record(&near, &response).await;
        assert_eq!(record.attempts.len(), 1, "it was asked in vain: {record:?}");
        assert_eq!(response.text().await.unwrap(), "room");
    }
    // Of a machine that is asked for its edge is asked: it may have room by now.
    let wanted = client.get(near.url("/"));
    let wanted = wanted.header("fly-prefer-instance-id", machine(1).as_str());
    let response = wanted.send().await.unwrap();
    let attempts = record(&near, &response).await.attempts.len();
    assert_eq!(
        (attempts, response.text().await.unwrap().as_str()),
        (2, "room")
    );
    // Now all are full. A place that becomes free is found before it is told of.
    two.publish(vec![limited(3, other.address, 1, 1)]);
    let mut filling = JoinSet::new();
    filling.spawn(get(two.client(), two.url("/")));
    other.wait_for(1).await;
    let mut waiting = JoinSet::new();
    waiting.spawn(get(client, near.url("/")));
    busy.end().await;
    let answer = timeout(LIMIT, waiting.join_next()).await.unwrap();
    assert_eq!(answer.unwrap().unwrap(), (200, "busy".to_owned()));
    other.release.add_permits(1);
    filling.join_all().await;
}

#[tokio::test]
async fn a_load_that_is_no_longer_told_does_not_count() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let (address, cut) = wire(&far, peers_of(&far), Duration::ZERO).await;
    let near = following(&cluster, &[address]).await;
    let mut busy = Busy::new(&far).await;
    far.publish(vec![limited(1, busy.address, 20, 100)]);
    near.publish(vec![limited(2, says(&near.tasks, "idle").await, 20, 100)]);
    busy.serve(&far, 15).await;
    until_skipped(&near, 1, "other-chosen", 15).await;
    cut.cancel();
    // The machine stays in the table, and what was told of it does not. Whether it has its turn
    // then, in vain, is a matter of the way to it.
    until_seen(&near, 1, |it| it.load == 0).await;
    busy.end().await;
}

type Lines = tokio::io::Lines<BufReader<TokioIo<hyper::upgrade::Upgraded>>>;

/// Sends to an edge what an edge of node 1 could.
pub(crate) async fn sender(
    cluster: &Cluster,
    far: &World,
) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let identity = cluster.identity(1, Role::Edge, clock::now());
    let tls = tokio_rustls::TlsConnector::from(Arc::new(identity.client_config().unwrap()));
    let peer = Peer {
        node: node(2),
        role: Role::Edge,
    };
    let name = ServerName::try_from(peer.name()).unwrap();
    let stream = TcpStream::connect(peers_of(far)).await.unwrap();
    let stream = TokioIo::new(tls.connect(name, stream).await.unwrap());
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = client.await.unwrap();
    far.tasks
        .spawn("follower", async move { drop(connection.await) });
    // The settings of the other side say that it takes this kind of request.
    let hello = Request::options("http://edge/").body(Empty::<Bytes>::new());
    sender.send_request(hello.unwrap()).await.unwrap();
    sender
}

/// A request for a stream.
pub(crate) fn wish(protocol: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_static("http://edge/");
    *request.version_mut() = Version::HTTP_2;
    let protocol = Protocol::from_static(protocol);
    request.extensions_mut().insert(protocol);
    request
}

/// Streams of tables, as an edge of node 1 gets them that asks with these headers.
async fn streams(cluster: &Cluster, far: &World, asks: [Option<&'static str>; 2]) -> [Lines; 2] {
    let mut sender = sender(cluster, far).await;
    let mut streams = Vec::new();
    for asked in asks {
        let mut request = wish("table");
        if let Some(asked) = asked {
            let value = http::HeaderValue::from_static(asked);
            request.headers_mut().insert("roost-relay", value);
        }
        let response = sender.send_request(request).await.unwrap();
        let stream = hyper::upgrade::on(response).await.unwrap();
        streams.push(BufReader::new(TokioIo::new(stream)).lines());
    }
    streams
        .try_into()
        .unwrap_or_else(|_| unreachable!("two were asked for"))
}

async fn next(lines: &mut Lines) -> String {
    let line = timeout(LIMIT, lines.next_line()).await.unwrap();
    line.unwrap().unwrap()
}

#[tokio::test]
async fn an_edge_that_does_not_ask_for_loads_hears_of_tables_only() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let mut busy = Busy::new(&far).await;
    far.publish(vec![limited(1, busy.address, 20, 100)]);
    let asks = [None, Some("1;with=loads")];
    let [mut older, mut newer] = streams(&cluster, &far, asks).await;
    // Each count is told at a tick of its own: the older edge would have heard the first.
    for count in 1..=2 {
        busy.serve(&far, 1).await;
        let told = format!("\"load\":{count}}}");
        while !next(&mut newer).await.contains(&told) {}
    }
    far.publish(vec![limited(7, busy.address, 20, 100)]);
    let (first, second) = (next(&mut older).await, next(&mut older).await);
    for (line, number) in [(first, 1), (second, 7)] {
        let it = machine(number);
        assert!(
            line.starts_with('[') && line.contains(it.as_str()),
            "{line}"
        );
    }
    busy.end().await;
}
