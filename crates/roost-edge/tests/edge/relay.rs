//! From edge to edge: several edges with real mutual TLS between them.

use crate::limits::{Held, get, limited};
use crate::world::{AnyBody, World, backend, endpoint, full, machine, says, wait_until};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_auth::cluster::{ClusterAuthority, ClusterIdentity, Peer, Role};
use roost_auth::seal::SealingKey;
use roost_edge::{EdgeConfig, RelayConfig};
use roost_model::id::NodeId;
use roost_model::time::Timestamp;
use roost_proto::rest::RequestRecord;
use roost_proto::traffic::{Endpoint, PeerNode};
use roost_runtime::clock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The trust between edges.
pub(crate) struct Cluster {
    authority: ClusterAuthority,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sealer = SealingKey::from_bytes(&[3; 32]).unwrap();
        let authority = ClusterAuthority::open(dir.path(), &sealer).unwrap();
        Self {
            authority,
            _dir: dir,
        }
    }

    pub(crate) fn identity(&self, n: u8, role: Role, at: Timestamp) -> Arc<ClusterIdentity> {
        let node = node(n);
        ClusterIdentity::new(&self.authority, Peer { node, role }, at).unwrap()
    }

    /// The edge of a node.
    pub(crate) async fn edge(&self, n: u8) -> World {
        self.edge_with(n, |_| {}).await
    }

    pub(crate) async fn edge_with(&self, n: u8, change: impl FnOnce(&mut EdgeConfig)) -> World {
        let identity = self.identity(n, Role::Edge, clock::now());
        edge_as(n, identity, change).await
    }
}

async fn edge_as(
    n: u8,
    identity: Arc<ClusterIdentity>,
    change: impl FnOnce(&mut EdgeConfig),
) -> World {
    World::with(|config| {
        config.node = node(n).to_string();
        config.relay = Some(RelayConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            identity,
            peers: Vec::new(),
        });
        change(config);
    })
    .await
}

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::from_ulid(ulid::Ulid::from(u128::from(n)))
}

/// The machine as other edges see it.
pub(crate) fn at(n: u8, edge: SocketAddr, mut endpoint: Endpoint) -> Endpoint {
    endpoint.node = Some(Arc::new(PeerNode { id: node(n), edge }));
    endpoint
}

pub(crate) fn peers_of(world: &World) -> SocketAddr {
    world.edge.peer_addrs()[0]
}

/// Two edges; the machine is on the node of the second one.
pub(crate) async fn pair(cluster: &Cluster, endpoint: impl FnOnce(SocketAddr) -> Endpoint) -> Pair {
    let (near, far) = (cluster.edge(1).await, cluster.edge(2).await);
    Pair {
        near,
        far,
        endpoint: endpoint("127.0.0.1:1".parse().unwrap()),
    }
}

/// See [`pair`].
pub(crate) struct Pair {
    pub(crate) near: World,
    pub(crate) far: World,
    endpoint: Endpoint,
}

impl Pair {
    /// Gives the machine its address.
    pub(crate) fn publish(&mut self, address: SocketAddr) {
        self.endpoint.address = address;
        self.far.publish(vec![self.endpoint.clone()]);
        let seen = at(2, peers_of(&self.far), self.endpoint.clone());
        self.near.publish(vec![seen]);
    }
}

/// Answers with the headers that the app sees, and the body.
async fn mirror(world: &World) -> SocketAddr {
    backend(&world.tasks, |request| async move {
        let mut text = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text.push_str(&String::from_utf8_lossy(&body));
        Response::builder()
            .header("roost-relay", "1;is=elsewhere;reason=gone;why=")
            .body(full(text))
            .unwrap()
    })
    .await
}

pub(crate) async fn record(world: &World, response: &reqwest::Response) -> Arc<RequestRecord> {
    let id = response.headers()["roost-request-id"].to_str().unwrap();
    let records = world.edge.records();
    wait_until("the record", || records.request(id).is_some()).await;
    records.request(id).unwrap()
}

/// What became of an attempt.
fn error_of(record: &RequestRecord, number: usize) -> &str {
    record.attempts[number].error.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn a_request_goes_by_the_edge_of_the_machines_node_and_the_app_sees_no_difference() {
    let cluster = Cluster::new();
    let mut pair = pair(&cluster, |it| endpoint(1, it)).await;
    pair.publish(mirror(&pair.far).await);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = pair.near.client().post(pair.near.url("/a%2Fb?q=1"));
    let request = request.header("traceparent", trace).body("hello");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    let record = record(&pair.near, &response).await;
    let text = response.text().await.unwrap();
    let port = pair.near.http().port();
    let id = headers["roost-request-id"].to_str().unwrap();
    for line in [
        "POST /a%2Fb?q=1\n".to_owned(),
        "x-forwarded-for: 127.0.0.1, 127.0.0.1\n".to_owned(),
        "fly-client-ip: 127.0.0.1\n".to_owned(),
        "x-forwarded-proto: http\n".to_owned(),
        format!("fly-forwarded-port: {port}\n"),
        format!("host: app.localhost:{port}\n"),
        "via: 1.1 roost\n".to_owned(),
        format!("traceparent: {trace}\n"),
        format!("roost-request-id: {id}\n"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(
        text.ends_with("hello") && !text.contains("roost-relay"),
        "{text}"
    );
    assert!(!headers.contains_key("roost-relay"));
    assert_eq!(headers.get_all("via").iter().count(), 1);
    assert_eq!(record.machine.as_deref(), Some(machine(1).as_str()));
    assert_eq!(record.attempts[0].node, Some(node(2).to_string()));
    // The other edge has a record of its own under the same id.
    let theirs = pair.far.edge.records().request(id).unwrap();
    assert_eq!((theirs.status, &theirs.trace_id), (200, &record.trace_id));
    assert_eq!(theirs.edge, node(2).to_string());
}

#[tokio::test]
async fn a_client_cannot_pretend_to_be_an_edge() {
    let cluster = Cluster::new();
    let near = cluster.edge(1).await;
    near.publish(vec![endpoint(1, mirror(&near).await)]);
    let forged = format!(
        "1;kind=http;app=other;machine={};port=80;client=6.6.6.6:1;local=6.6.6.6:1;tls=1;http=2;\
         region=x;id=00000000000000000000000000;at=1;hop=1;attempt=1;wait=0",
        machine(9)
    );
    for name in ["roost-relay", "roost_relay", "ROOST-RELAY"] {
        let request = near.client().get(near.url("/")).header(name, &forged);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        assert!(
            !text.contains("6.6.6.6") && !text.contains("relay"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn only_edges_of_the_cluster_get_to_each_other_and_only_under_their_names() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let far = cluster.edge(2).await;
    let app = endpoint(1, says(&far.tasks, "here").await);
    far.publish(vec![app.clone()]);
    let now = clock::now();
    let strangers = [
        (other.identity(1, Role::Edge, now), 2),
        (cluster.identity(1, Role::Worker, now), 2),
        // Who is dialled is not who answers.
        (cluster.identity(1, Role::Edge, now), 3),
    ];
    for (identity, dialled) in strangers {
        let near = edge_as(1, identity, |_| {}).await;
        near.publish(vec![at(dialled, peers_of(&far), app.clone())]);
        let response = near.client().get(near.url("/")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let record = record(&near, &response).await;
        assert!(error_of(&record, 0).contains("the edge of"), "{record:?}");
        let page = response.text().await.unwrap();
        assert!(page.contains("code machine-unreachable"), "{page}");
    }
    let near = cluster.edge(1).await;
    near.publish(vec![at(2, peers_of(&far), app)]);
    assert_eq!(
        get(near.client(), near.url("/")).await,
        (200, "here".into())
    );
}

#[tokio::test]
async fn an_identity_that_has_ended_is_refused_until_it_is_renewed() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let long_ago = Timestamp::from_ms(clock::now().as_ms() - 3 * 24 * 3600 * 1000);
    let identity = cluster.identity(1, Role::Edge, long_ago);
    let near = edge_as(1, identity.clone(), |_| {}).await;
    let app = endpoint(1, says(&far.tasks, "here").await);
    far.publish(vec![app.clone()]);
    near.publish(vec![at(2, peers_of(&far), app)]);
    let (status, _) = get(near.client(), near.url("/")).await;
    assert_eq!(status, 502);
    identity.renew(&cluster.authority, clock::now()).unwrap();
    let mut status = 0;
    for _ in 0..20 {
        // For a moment an edge that could not be reached is left alone.
        status = get(near.client(), near.url("/")).await.0;
        if status == 200 {
            break;
        }
    }
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_full_machine_says_elsewhere_and_the_next_one_gets_the_request_with_its_body() {
    let cluster = Cluster::new();
    let (near, full_one, free) = (
        cluster.edge(1).await,
        cluster.edge(2).await,
        cluster.edge(3).await,
    );
    let held = Held::new(&full_one).await;
    let busy = limited(1, held.address, 1, 1);
    full_one.publish(vec![busy.clone()]);
    let mut under_way = JoinSet::new();
    under_way.spawn(get(full_one.client(), full_one.url("/")));
    held.wait_for(1).await;
    // The near edge does not know that it is full: the other one's word counts.
    let spare = limited(2, mirror(&free).await, 1, 1);
    free.publish(vec![spare.clone()]);
    near.publish(vec![at(2, peers_of(&full_one), busy)]);
    let body = "x".repeat(100_000);
    let wanted = near.client().post(near.url("/p"));
    let wanted = wanted.header("fly-prefer-instance-id", machine(1).as_str());
    let wanted = wanted.body(body.clone()).send();
    near.publish(vec![
        at(2, peers_of(&full_one), limited(1, held.address, 1, 1)),
        at(3, peers_of(&free), spare),
    ]);
    let response = wanted.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let record = record(&near, &response).await;
    assert!(
        error_of(&record, 0).contains("said elsewhere: hard-limit"),
        "{record:?}"
    );
    assert_eq!(record.machine.as_deref(), Some(machine(2).as_str()));
    assert!(response.text().await.unwrap().ends_with(&body));
    assert_eq!(held.arrived.load(Ordering::SeqCst), 1, "no byte reached it");
    held.release.add_permits(1);
    assert_eq!(under_way.join_next().await.unwrap().unwrap().0, 200);
}

#[tokio::test]
async fn the_edge_of_the_node_holds_to_the_hard_limit_whoever_sends() {
    let cluster = Cluster::new();
    let (a, b, far) = (
        cluster.edge(1).await,
        cluster.edge(2).await,
        cluster.edge(3).await,
    );
    let held = Held::new(&far).await;
    let app = limited(1, held.address, 1, 2);
    far.publish(vec![app.clone()]);
    let mut requests = JoinSet::new();
    for near in [&a, &b] {
        near.publish(vec![at(3, peers_of(&far), app.clone())]);
        for number in 0..3 {
            requests.spawn(get(near.client(), near.url(&format!("/{number}"))));
        }
    }
    held.wait_for(2).await;
    let gauge = far.edge.gauge();
    let (arrived, mut ended) = (held.arrived.clone(), 0);
    while ended < 6 {
        assert!(gauge.in_flight(&machine(1)) <= 2);
        assert!(
            arrived.load(Ordering::SeqCst) <= ended + 2,
            "beyond its limit"
        );
        held.release.add_permits(1);
        let (status, text) = requests.join_next().await.unwrap().unwrap();
        assert_eq!(status, 200, "{text}");
        ended += 1;
    }
    wait_until("nothing is left", || gauge.in_flight(&machine(1)) == 0).await;
}

#[tokio::test]
async fn a_node_that_dies_is_passed_over() {
    let cluster = Cluster::new();
    let near = cluster.edge(1).await;
    let (dying, living) = (cluster.edge(2).await, cluster.edge(3).await);
    let mut apps = Vec::new();
    for (n, edge) in [(2, &dying), (3, &living)] {
        let app = endpoint(n, says(&edge.tasks, "here").await);
        edge.publish(vec![app.clone()]);
        apps.push(at(n, peers_of(edge), app));
    }
    near.publish(apps);
    let client = near.client();
    for _ in 0..8 {
        assert_eq!(get(client.clone(), near.url("/")).await.0, 200);
    }
    dying.tasks.stop();
    dying.edge.drain(Duration::ZERO).await;
    dying.tasks.kill().await;
    for _ in 0..20 {
        assert_eq!(get(client.clone(), near.url("/")).await.0, 200);
    }
}

#[tokio::test]
async fn a_request_that_goes_in_a_circle_is_cut() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.edge(1).await, cluster.edge(2).await);
    let app = endpoint(1, says(&a.tasks, "nobody").await);
    a.publish(vec![at(2, peers_of(&b), app.clone())]);
    b.publish(vec![at(1, peers_of(&a), app)]);
    let response = a.client().get(a.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let record = record(&a, &response).await;
    assert!(
        error_of(&record, 0).contains("said elsewhere: loop"),
        "{record:?}"
    );
}

#[tokio::test]
async fn a_machine_that_the_node_does_not_have_is_elsewhere() {
    let cluster = Cluster::new();
    let (near, far) = (cluster.edge(1).await, cluster.edge(2).await);
    let address = says(&far.tasks, "other").await;
    far.publish(vec![endpoint(2, address)]);
    near.publish(vec![at(2, peers_of(&far), endpoint(1, address))]);
    let response = near.client().get(near.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let record = record(&near, &response).await;
    assert!(
        error_of(&record, 0).contains("said elsewhere: gone"),
        "{record:?}"
    );
    // A machine that is here takes what the other node does not.
    let here = endpoint(3, says(&near.tasks, "here").await);
    near.publish(vec![at(2, peers_of(&far), endpoint(1, address)), here]);
    for _ in 0..4 {
        assert_eq!(
            get(near.client(), near.url("/")).await,
            (200, "here".into())
        );
    }
}

/// Something that has the certificate of node 2's edge and answers otherwise.
pub(crate) async fn impostor<F>(cluster: &Cluster, world: &World, answer: F) -> SocketAddr
where
    F: Fn(usize, &mut Request<hyper::body::Incoming>) -> Response<AnyBody>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let identity = cluster.identity(2, Role::Edge, clock::now());
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(identity.server_config().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, count) = (world.tasks.clone(), Arc::new(AtomicUsize::new(0)));
    world.tasks.spawn("impostor", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, answer, count) = (tls.clone(), answer.clone(), count.clone());
            tasks.spawn("impostor-connection", async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |mut request| {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    let response = answer(number, &mut request);
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .enable_connect_protocol()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_edge_of_another_version_gets_no_request() {
    let cluster = Cluster::new();
    let near = cluster.edge(1).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let peer = impostor(&cluster, &near, move |_, request| {
        if request.method() != http::Method::OPTIONS {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let response = Response::builder().header("roost-relay", "7;is=answer");
        response.body(full("7")).unwrap()
    })
    .await;
    let here = endpoint(2, says(&near.tasks, "here").await);
    let there = endpoint(1, here.address);
    near.publish(vec![at(2, peer, there), here]);
    for _ in 0..6 {
        assert_eq!(
            get(near.client(), near.url("/")).await,
            (200, "here".into())
        );
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_is_not_understood_may_have_come_from_the_app() {
    let cluster = Cluster::new();
    let near = cluster.edge(1).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let peer = impostor(&cluster, &near, move |_, request| {
        let mut response = Response::new(full(Bytes::new()));
        if request.method() == http::Method::OPTIONS {
            let headers = response.headers_mut();
            headers.insert("roost-relay", http::HeaderValue::from_static("1;is=answer"));
        } else {
            count.fetch_add(1, Ordering::SeqCst);
        }
        response
    })
    .await;
    near.publish(vec![at(
        2,
        peer,
        endpoint(1, "127.0.0.1:1".parse().unwrap()),
    )]);
    let response = near.client().post(near.url("/")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let page = response.text().await.unwrap();
    assert!(page.contains("code no-answer"), "{page}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "a POST is not sent twice");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_passed_over() {
    let cluster = Cluster::new();
    let near = cluster.edge(1).await;
    // Connections come into its queue and no further.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = silent.local_addr().unwrap();
    let here = endpoint(2, says(&near.tasks, "here").await);
    let there = endpoint(1, here.address);
    near.publish(vec![at(2, peer, there), here]);
    let mut requests = JoinSet::new();
    for _ in 0..6 {
        requests.spawn(get(near.client(), near.url("/")));
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap(), (200, "here".into()));
    }
}

#[tokio::test]
async fn an_edge_learns_of_the_machines_of_another_and_of_each_change() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    let peer = PeerNode {
        id: node(2),
        edge: peers_of(&far),
    };
    let near = cluster
        .edge_with(1, |config| {
            config.relay.as_mut().unwrap().peers = vec![peer];
        })
        .await;
    let (one, two) = (says(&far.tasks, "one").await, says(&far.tasks, "two").await);
    let client = near.client();
    let until = async |said: &str| {
        let begun = std::time::Instant::now();
        while get(client.clone(), near.url("/")).await.1 != said {
            assert!(begun.elapsed() < crate::world::LIMIT, "not in time: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    far.publish(vec![endpoint(1, one)]);
    until("one").await;
    far.publish(vec![endpoint(2, two)]);
    until("two").await;
    // Its own machines are not forgotten when the other edge tells of others.
    near.publish(vec![endpoint(3, says(&near.tasks, "three").await)]);
    until("three").await;
    // By its id: of equals the nearer one is asked first, if the way to the other one takes long.
    let two = client.get(near.url("/"));
    let two = two.header("fly-force-instance-id", machine(2).as_str());
    assert_eq!(two.send().await.unwrap().text().await.unwrap(), "two");
    // And the other's leave with its table: when its own are gone nobody is left to answer.
    near.publish(vec![]);
    until("two").await;
    far.publish(vec![]);
    let begun = std::time::Instant::now();
    while get(client.clone(), near.url("/")).await.0 == 200 {
        assert!(begun.elapsed() < crate::world::LIMIT, "they stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_edge_knows_the_machines_of_another_before_it_serves_its_first_client() {
    let cluster = Cluster::new();
    let far = cluster.edge(2).await;
    far.publish(vec![endpoint(1, says(&far.tasks, "there").await)]);
    // One that nobody answers at holds up nothing for long.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = [(2, peers_of(&far)), (3, gone.local_addr().unwrap())];
    drop(gone);
    let peers = peers.map(|(n, edge)| PeerNode { id: node(n), edge });
    let change = |config: &mut EdgeConfig| config.relay.as_mut().unwrap().peers = peers.into();
    let near = cluster.edge_with(1, change).await;
    let answer = get(near.client(), near.url("/")).await;
    assert_eq!(answer, (200, "there".into()));
}
