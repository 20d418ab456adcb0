//! The edges of other nodes, and the kept connections to them.
//!
//! One connection carries all requests to a node; there is another one when its
//! streams are all taken. Connections that are old or idle get no more requests
//! and end with the last one, so that every connection was begun with a
//! certificate of late.

use crate::body::RequestBody;
use crate::connect::Executor;
use crate::limits;
use crate::relay::{RelayConfig, wire::Verdict};
use http::{Method, Request, Uri, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use roost_auth::cluster::{IdentityError, Peer, Role};
use roost_model::id::NodeId;
use roost_proto::traffic::PeerNode;
use rustls::pki_types::ServerName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

/// A sender of requests on a connection to another edge.
pub(crate) type PeerSender = http2::SendRequest<RequestBody>;

/// Why the edge of another node was not reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the edge of {node} at {address}: {why}")]
pub(crate) struct PeerError {
    node: String,
    address: std::net::SocketAddr,
    why: String,
    /// Whether it is this edge that had nothing left to reach it with.
    is_ours: bool,
}

impl PeerError {
    /// Whether it says something of the other edge or of the machine behind it.
    pub(crate) fn blames_them(&self) -> bool {
        !self.is_ours
    }
}

/// What is known of a connection beside it.
#[derive(Debug, Default)]
struct State {
    /// Streams that are taken.
    taken: AtomicUsize,
    /// Whether it has failed a request.
    is_bad: AtomicBool,
}

/// One of the streams of a connection; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<State>,
    /// Whether the other edge has counted the request as one that was not answered.
    is_counted: AtomicBool,
}

impl Place {
    /// The connection gets no more requests.
    pub(crate) fn blame(&self) {
        self.state.is_bad.store(true, Ordering::Relaxed);
    }

    /// The other edge has counted the request as one that was not answered.
    pub(crate) fn count_there(&self) {
        self.is_counted.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(crate) fn is_counted(&self) -> bool {
        self.is_counted.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection.
#[derive(Debug)]
struct Line {
    sender: PeerSender,
    state: Arc<State>,
    began: Instant,
    used: Instant,
}

impl Line {
    fn is_over(&self, now: Instant, idle: Duration) -> bool {
        let n_taken = self.state.taken.load(Ordering::Relaxed);
        let is_idle = n_taken == 0 && now - self.used >= idle;
        let is_bad = self.state.is_bad.load(Ordering::Relaxed);
        is_bad || self.sender.is_closed() || is_idle || now - self.began >= limits::RELAY_AGE_MAX
    }

    fn take(&mut self) -> Option<(PeerSender, Place)> {
        let n_before = self.state.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            state: self.state.clone(),
            is_counted: AtomicBool::new(false),
        };
        if n_before >= limits::RELAY_STREAMS_MAX as usize {
            // The place that was one too many is given back.
            return None;
        }
        self.used = Instant::now();
        Some((self.sender.clone(), place))
    }
}

/// The edge of one node.
#[derive(Debug, Default)]
struct PeerEdge {
    lines: Mutex<Vec<Line>>,
    /// One at a time opens a connection; the others wait for it.
    opening: tokio::sync::Mutex<()>,
    /// When the last one could not be opened, and why.
    failed: Mutex<Option<(Instant, PeerError)>>,
}

impl PeerEdge {
    fn take(&self) -> Option<(PeerSender, Place)> {
        let mut lines = self.lines.lock();
        let now = Instant::now();
        // Requests under way hold their own senders.
        lines.retain(|line| !line.is_over(now, limits::RELAY_IDLE_MAX));
        lines.iter_mut().find_map(Line::take)
    }
}

/// The edges of all other nodes.
pub(crate) struct Peers {
    tls: Option<TlsConnector>,
    tasks: TaskTracker,
    edges: Mutex<HashMap<PeerKey, Arc<PeerEdge>>>,
    /// Round trips to those whose tables are followed just now.
    round_trips: Mutex<BTreeMap<NodeId, Duration>>,
    /// Those whose newest table was understood, on a stream that stands.
    telling: Mutex<BTreeSet<NodeId>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

type PeerKey = (String, std::net::SocketAddr);

impl Peers {
    /// Those that this identity may ask; nobody without one.
    pub(crate) fn new(
        relay: Option<&RelayConfig>,
        tasks: TaskTracker,
    ) -> Result<Arc<Self>, IdentityError> {
        let tls = relay.map(|relay| relay.identity.client_config());
        let tls = tls.transpose()?;
        Ok(Arc::new(Self {
            tls: tls.map(|config| TlsConnector::from(Arc::new(config))),
            tasks,
            edges: Mutex::default(),
            round_trips: Mutex::default(),
            telling: Mutex::default(),
        }))
    }

    /// A place on a connection to the edge of a node.
    pub(crate) async fn take(&self, node: &PeerNode) -> Result<(PeerSender, Place), PeerError> {
        let error = |why: &str| PeerError {
            node: node.id.to_string(),
            address: node.edge,
            why: why.to_owned(),
            is_ours: false,
        };
        let ours = |why: &str| PeerError {
            is_ours: true,
            ..error(why)
        };
        let tls = self.tls.as_ref();
        let tls = tls.ok_or_else(|| ours("this edge has no identity to show to others"))?;
        let edge = self.edge(node);
        if let Some(taken) = edge.take() {
            return Ok(taken);
        }
        let _one_at_a_time = edge.opening.lock().await;
        if let Some(taken) = edge.take() {
            return Ok(taken);
        }
        if let Some((at, error)) = &*edge.failed.lock()
            && at.elapsed() < limits::RELAY_REDIAL_PAUSE
        {
            return Err(error.clone());
        }
        if edge.lines.lock().len() >= limits::RELAY_LINES_MAX {
            return Err(ours("all streams of all connections to it are taken"));
        }
        match timeout(limits::RELAY_CONNECT_TIMEOUT, open(tls, node, &self.tasks)).await {
            Ok(Ok(sender)) => {
                let now = Instant::now();
                let mut line = Line {
                    sender,
                    state: Arc::default(),
                    began: now,
                    used: now,
                };
                let taken = line.take().ok_or_else(|| error("it has no streams"))?;
                edge.lines.lock().push(line);
                *edge.failed.lock() = None;
                Ok(taken)
            }
            Ok(Err(why)) => Err(failed(&edge, error(&why))),
            Err(_) => Err(failed(
                &edge,
                error("it did not take the connection in time"),
            )),
        }
    }

    /// Keeps how long a round trip to the edge of a node takes; nothing if nobody knows any more.
    pub(crate) fn keep_round_trip(&self, node: &NodeId, time: Option<Duration>) {
        let mut all = self.round_trips.lock();
        match time {
            Some(time) => all.insert(node.clone(), time),
            None => all.remove(node),
        };
    }

    /// How long round trips to the edges of nodes take.
    pub(crate) fn round_trips(&self) -> BTreeMap<NodeId, Duration> {
        self.round_trips.lock().clone()
    }

    /// Notes whether a node tells of its machines just now.
    pub(crate) fn keep_telling(&self, node: &NodeId, tells: bool) {
        let mut all = self.telling.lock();
        if tells {
            all.insert(node.clone());
        } else {
            all.remove(node);
        }
    }

    /// Whether it does.
    pub(crate) fn is_telling(&self, node: &NodeId) -> bool {
        self.telling.lock().contains(node)
    }

    fn edge(&self, node: &PeerNode) -> Arc<PeerEdge> {
        let mut edges = self.edges.lock();
        let key = (node.id.to_string(), node.edge);
        edges.entry(key).or_default().clone()
    }

    /// Ends connections that are idle or old, and forgets edges without any.
    pub(crate) fn reap(&self) {
        let now = Instant::now();
        self.edges.lock().retain(|_, edge| {
            let mut lines = edge.lines.lock();
            lines.retain(|line| !line.is_over(now, limits::RELAY_IDLE_MAX));
            let failed = edge.failed.lock();
            let is_down = failed
                .as_ref()
                .is_some_and(|(at, _)| at.elapsed() < limits::RELAY_IDLE_MAX);
            !lines.is_empty() || is_down || Arc::strong_count(edge) > 1
        });
    }
}

fn failed(edge: &PeerEdge, error: PeerError) -> PeerError {
    let before = edge.failed.lock().replace((Instant::now(), error.clone()));
    // Once for each time that it goes away, however many ask.
    if before.is_none() {
        let (node, why) = (&error.node, &error.why);
        tracing::warn!(node, address = %error.address, why, "the edge of another node cannot be reached");
    }
    error
}

async fn open(
    tls: &TlsConnector,
    node: &PeerNode,
    tasks: &TaskTracker,
) -> Result<PeerSender, String> {
    let peer = Peer {
        node: node.id.clone(),
        role: Role::Edge,
    };
    let name = ServerName::try_from(peer.name()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(node.edge).await;
    let stream = stream.map_err(|error| error.to_string())?;
    // Only a performance hint: a socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    let stream = tls.connect(name, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http2::Builder::new(Executor(tasks.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::RELAY_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::RELAY_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(limits::RELAY_HEADER_BYTES_MAX)
        .keep_alive_interval(limits::RELAY_PING_INTERVAL)
        .keep_alive_timeout(limits::RELAY_PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| roost_model::error::chain(&error))?;
    // The request that fails with the connection gets the error; here there is nobody to tell.
    tasks.spawn(async move { drop(connection.await) });
    // The other side may still refuse this one's certificate: nothing of a client is sent
    // before it has answered.
    hello(&mut sender).await.map(|()| sender)
}

/// Asks the other edge for nothing but an answer.
pub(crate) async fn hello(sender: &mut PeerSender) -> Result<(), String> {
    let mut hello = Request::new(RequestBody::Empty);
    *hello.method_mut() = Method::OPTIONS;
    *hello.uri_mut() = Uri::from_static("http://edge/");
    *hello.version_mut() = Version::HTTP_2;
    let answer = sender.send_request(hello).await;
    let answer = answer.map_err(|error| roost_model::error::chain(&error))?;
    match Verdict::of(answer.headers()) {
        Ok(Verdict::Answer) => Ok(()),
        Ok(verdict) => Err(format!("it answered {verdict:?}")),
        Err(error) => Err(format!("its answer is not understood: {error}")),
    }
}
