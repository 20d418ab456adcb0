//! An edge on free ports, with machines that are small servers in this process.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_auth::authority::LocalAuthority;
use roost_edge::{Edge, EdgeConfig, EdgeTimeouts, Listening, LocalCertificates, TrafficCounter};
use roost_model::{id::MachineId, machine::Service, name::AppName, name::RegionCode};
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficTable};
use roost_runtime::tasks::Tasks;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) type AnyBody = BoxBody<Bytes, hyper::Error>;

pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) table: watch::Sender<Arc<TrafficTable>>,
    pub(crate) authority: Arc<LocalAuthority>,
    pub(crate) tasks: Tasks,
    pub(crate) counter: Arc<TrafficCounter>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        Self::with_sockets(change, Arc::default(), Listening::default()).await
    }

    /// An edge beside another one, at its sockets.
    pub(crate) async fn taking_over(old: &Self, endpoints: Vec<Endpoint>) -> Self {
        Self::taking_over_at(old, endpoints, vec![]).await
    }

    /// The same, with ports of apps at these addresses.
    pub(crate) async fn taking_over_at(
        old: &Self,
        endpoints: Vec<Endpoint>,
        port_ips: Vec<IpAddr>,
    ) -> Self {
        let at = |config: &mut EdgeConfig| {
            config.port_ips = port_ips;
            config.http = vec![old.http()];
            config.https = vec![old.https()];
        };
        let app = (AppName::parse("app").unwrap(), AppTraffic { endpoints });
        Self::with_sockets(at, Arc::new([app].into()), old.edge.listeners().unwrap()).await
    }

    pub(crate) async fn with_sockets(
        change: impl FnOnce(&mut EdgeConfig),
        table: Arc<TrafficTable>,
        given: Listening,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(LocalAuthority::open(dir.path()).unwrap());
        let mut config = EdgeConfig::new(RegionCode::parse("local").unwrap());
        config.http = vec!["127.0.0.1:0".parse().unwrap()];
        config.https = vec!["127.0.0.1:0".parse().unwrap()];
        config.timeouts = EdgeTimeouts {
            machine: Duration::from_secs(5),
            ..EdgeTimeouts::default()
        };
        change(&mut config);
        let (table, feed) = watch::channel(table);
        let tasks = Tasks::new();
        let certificates = LocalCertificates::new(authority.clone(), &config.domains);
        let counter = TrafficCounter::new();
        let edge = Edge::take_over(config, feed, counter.clone(), certificates, &tasks, given)
            .await
            .unwrap();
        Self {
            edge,
            table,
            authority,
            tasks,
            counter,
            _dir: dir,
        }
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.edge.http_addrs()[0]
    }

    pub(crate) fn https(&self) -> SocketAddr {
        self.edge.https_addrs()[0]
    }

    /// Publishes one app named `app` with these endpoints.
    pub(crate) fn publish(&self, endpoints: Vec<Endpoint>) {
        self.publish_app(AppTraffic { endpoints });
    }

    pub(crate) fn publish_app(&self, traffic: AppTraffic) {
        self.table
            .send_replace(Arc::new([(AppName::parse("app").unwrap(), traffic)].into()));
        // The reading applies the table, so that what follows sees it.
        self.edge.gauge().in_flight(&machine(0));
    }

    /// A client that resolves `app.localhost` to this edge and trusts its authority.
    pub(crate) fn client(&self) -> reqwest::Client {
        self.client_builder().build().unwrap()
    }

    pub(crate) fn client_builder(&self) -> reqwest::ClientBuilder {
        let pem = self.authority.certificate_pem().as_bytes();
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([reqwest::Certificate::from_pem(pem).unwrap()])
            .resolve("app.localhost", "127.0.0.1:0".parse().unwrap())
            .timeout(LIMIT)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://app.localhost:{}{path}", self.http().port())
    }

    pub(crate) fn tls_url(&self, path: &str) -> String {
        format!("https://app.localhost:{}{path}", self.https().port())
    }

    /// Sends raw bytes and returns all that comes until the edge closes.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.http()).await.unwrap();
        // The edge may refuse before it has taken all.
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer));
        // A reset after the answer is as good an end as a close.
        let _ = read.await.expect("the edge closes");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

pub(crate) fn machine(number: u8) -> MachineId {
    MachineId::from_bytes([number; 7])
}

pub(crate) fn endpoint(number: u8, address: SocketAddr) -> Endpoint {
    Endpoint {
        machine_id: machine(number),
        region: RegionCode::parse("local").unwrap(),
        release: None,
        split: None,
        statics: [].into(),
        address,
        node: None,
        health: EndpointHealth::Passing,
        service: Service::http(address.port()).into(),
    }
}

pub(crate) fn with_health(mut endpoint: Endpoint, health: EndpointHealth) -> Endpoint {
    endpoint.health = health;
    endpoint
}

/// A machine: an HTTP/1 and h2c server that answers by this function.
pub(crate) async fn backend<F, Fut>(tasks: &Tasks, answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("backend", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn("backend-connection", async move {
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let mut builder =
                    hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A client's hundred, and what the edge adds.
                builder.http1().max_headers(200);
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// A machine that answers everything with this text.
pub(crate) async fn says(tasks: &Tasks, text: &'static str) -> SocketAddr {
    backend(tasks, move |_| async move { Response::new(full(text)) }).await
}

pub(crate) fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// An address where nothing listens, and nothing else will.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // Taken, but not listened at, until the process ends.
    Box::leak(Box::new(socket));
    address
}

/// Polls until the condition holds.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
