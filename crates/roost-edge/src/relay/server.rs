//! The listener for other edges: only those of the cluster, and only edges,
//! get as far as to ask for something.

use crate::activity::{Activity, Serving};
use crate::body::ResponseBody;
use crate::eject::Outcome;
use crate::exchange::relayed;
use crate::pick::{self, Asked, Picked, Tried};
use crate::rates::{Clients, EdgeRates};
use crate::relay::beside::Beside;
use crate::relay::tables;
use crate::relay::wire::{Block, Kind, Reason, Verdict};
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::streams::StreamExecutor;
use crate::wants::Wants;
use crate::{connect, limits, tcp, udp};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::ext::Protocol as StreamProtocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use roost_auth::cluster::Role;
use roost_model::machine::Protocol;
use roost_proto::traffic::WakeError;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What is let in before it has shown who it is.
struct Gate {
    /// Those that are at the handshake, by address.
    knocking: Clients,
    /// When somebody was last refused aloud.
    complained: Mutex<Option<Instant>>,
}

impl Gate {
    fn new() -> Self {
        let rates = EdgeRates {
            client_connections: limits::RELAY_HANDSHAKES_MAX,
            ..EdgeRates::default()
        };
        Self {
            knocking: Clients::new(rates),
            complained: Mutex::default(),
        }
    }

    /// Anybody may come to the port as often as he likes: not each refusal gets a line.
    fn may_complain(&self) -> bool {
        let mut complained = self.complained.lock();
        let may = complained.is_none_or(|at| at.elapsed() >= limits::RELAY_COMPLAINT_INTERVAL);
        if may {
            *complained = Some(Instant::now());
        }
        may
    }

    fn refuse(&self, from: SocketAddr, why: &str) {
        if self.may_complain() {
            tracing::warn!(%from, why, "a peer was refused at the port for other edges");
        }
    }
}

/// Accepts until another edge has the socket or this one ends.
pub(crate) async fn accept_loop(shared: Arc<Shared>, listener: Arc<TcpListener>, tls: TlsAcceptor) {
    let _accepting = shared.accepting.token();
    let gate = Arc::new(Gate::new());
    let places = Arc::new(Semaphore::new(limits::RELAY_CONNECTIONS_MAX));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        // Cancel-safe: a place goes back, a connection not taken stays in the queue.
        let (place, accepted) = tokio::select! {
            () = shared.graceful.cancelled() => return,
            () = shared.retired.cancelled() => return,
            accepted = accept => accepted,
        };
        let Ok(place) = place else { return };
        match accepted {
            Ok((stream, from)) => {
                let (shared, gate, tls) = (shared.clone(), gate.clone(), tls.clone());
                let clients = shared.clients.clone();
                clients.spawn(async move {
                    if let Some(stream) = let_in(&shared, &gate, stream, from, tls).await {
                        Box::pin(drive(shared, stream, Activity::new(place, None))).await;
                    }
                });
            }
            Err(error) => {
                if gate.may_complain() {
                    tracing::warn!(%error, "a connection of another edge could not be accepted");
                }
                sleep(limits::ACCEPT_ERROR_PAUSE).await;
            }
        }
    }
}

/// The handshake: `None` for whoever is no edge of the cluster.
async fn let_in(
    shared: &Shared,
    gate: &Gate,
    stream: TcpStream,
    from: SocketAddr,
    tls: TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    // Until the handshake is done: one address with silent sockets must not hold all places.
    let Some(_knocking) = gate.knocking.enter(from.ip()) else {
        gate.refuse(from, "its address has too many handshakes under way");
        return None;
    };
    // Only a performance hint: a socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    let limit = shared.config.timeouts.handshake;
    let stream = match timeout(limit, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            gate.refuse(from, &error.to_string());
            return None;
        }
        Err(_) => {
            gate.refuse(from, "it said nothing in time");
            return None;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let role = certificates
        .and_then(|chain| chain.first())
        .and_then(Role::of);
    if role != Some(Role::Edge) {
        let role = role.map_or("none", Role::as_str);
        gate.refuse(from, &format!("it is no edge: its role is {role}"));
        return None;
    }
    Some(stream)
}

/// Serves one connection until either side leaves, or it is old.
async fn drive(shared: Arc<Shared>, stream: TlsStream<TcpStream>, activity: Arc<Activity>) {
    activity.is_http2();
    let service = service_fn({
        let shared = shared.clone();
        move |request| {
            let answer = answer(shared.clone(), activity.begin(), request);
            async move { Ok::<_, Infallible>(Box::pin(answer).await) }
        }
    });
    let executor = StreamExecutor {
        tracker: shared.clients.clone(),
        body_idle: shared.config.timeouts.body_idle,
    };
    let streams = limits::RELAY_STREAMS_MAX;
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::RELAY_PING_INTERVAL)
        .keep_alive_timeout(limits::RELAY_PING_TIMEOUT)
        // Two more than requests: the stream of tables and the round trips that are measured are none
        // of those that the other edge counts, and one request would wait for its end without a bound.
        .max_concurrent_streams(streams + 2)
        // Clients of the other edge leave all at once at times: that is no attack of it.
        .max_pending_accept_reset_streams(streams as usize)
        .max_local_error_reset_streams(None)
        .initial_stream_window_size(limits::RELAY_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::RELAY_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(limits::RELAY_HEADER_BYTES_MAX)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What fails on a connection is the other side's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shared.kill.cancelled() => return,
        () = shared.graceful.cancelled() => {}
        () = shared.retired.cancelled() => {}
        () = sleep(limits::RELAY_AGE_MAX + limits::RELAY_IDLE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = shared.kill.cancelled() => {}
    }
}

async fn answer(
    shared: Arc<Shared>,
    serving: Serving,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    if request.method() == Method::OPTIONS && !request.headers().contains_key(super::wire::RELAY) {
        // Another edge that finds out whether this one takes it.
        return say(&Verdict::Answer);
    }
    if let Some(upgrade) = wants_tables(&mut request) {
        let beside = Beside::of(request.headers());
        let tell = tables::tell(shared.clone(), upgrade, beside);
        shared.clients.spawn(tell);
        return say(&Verdict::Answer);
    }
    let block = match Block::of(request.headers()) {
        Ok(block) => block,
        Err(error) => {
            // The other edge is told, and asks again and again.
            tracing::debug!(%error, "a request of another edge is not understood");
            return say(&Verdict::Elsewhere(Reason::Version, error.to_string()));
        }
    };
    if block.leg.hop >= limits::RELAY_EDGES_MAX {
        return say(&Verdict::Elsewhere(Reason::Loop, String::new()));
    }
    match block.kind {
        Kind::Http | Kind::WebSocket => relayed::handle(shared, block, serving, request).await,
        Kind::Raw | Kind::Datagrams => tunnel(shared, block, serving, request)
            .await
            .unwrap_or_else(|verdict| say(&verdict)),
        Kind::Wake => say(&wake(&shared, &block).await),
    }
}

/// Whether another edge asks for the machines of this node.
fn wants_tables(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let protocol = request.extensions().get::<StreamProtocol>()?;
    let is_it = protocol.as_str() == tables::PROTOCOL;
    is_it.then(|| request.extensions_mut().remove::<OnUpgrade>())?
}

fn say(verdict: &Verdict) -> Response<ResponseBody> {
    relayed::with_verdict(verdict, Settlement::default())
}

/// Wakes a machine of this node.
async fn wake(shared: &Shared, block: &Block) -> Verdict {
    let control = shared.sleep.lock().clone();
    let woken = match control {
        Some(control) => control.wake(block.machine.clone()).await,
        None => Err(WakeError::Away),
    };
    match woken {
        Ok(()) => Verdict::Answer,
        Err(error) => Verdict::Elsewhere(Reason::WakeFailed, error.to_string()),
    }
}

/// Opens a way to a machine of this node, and carries both ways from then on.
async fn tunnel(
    shared: Arc<Shared>,
    block: Block,
    serving: Serving,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Verdict> {
    let gone = |why: &str| Verdict::Elsewhere(Reason::Gone, why.to_owned());
    if shared.is_overloaded() {
        return Err(Verdict::Elsewhere(Reason::Overloaded, String::new()));
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or(Verdict::Elsewhere(Reason::Version, String::new()))?;
    let app = shared.router.routes().app(block.app.as_str()).cloned();
    let app = app.ok_or_else(|| gone("there is no such app"))?;
    let wants = Wants::only(block.machine.as_str());
    let asked = block.asked(&wants);
    let mut tried = Tried::waits_at_most(block.leg.wait);
    let picked = pick::pick(&shared, None, asked, &mut tried).await;
    let picked = picked.map_err(|page| relayed::refusal(&page, &app, &block))?;
    if picked.target.endpoint.node.is_some() {
        return Err(gone("it is on another node by now"));
    }
    match asked.protocol {
        Protocol::Tcp => raw(&shared, asked, &block, picked, (upgrade, serving)).await?,
        Protocol::Udp => {
            let carried = udp::relayed(shared.clone(), block, picked, upgrade)?;
            shared.clients.spawn(async move {
                carried.await;
                drop(serving);
            });
        }
    }
    Ok(say(&Verdict::Answer))
}

/// Connects to a machine, and carries bytes.
async fn raw(
    shared: &Arc<Shared>,
    asked: Asked<'_>,
    block: &Block,
    picked: Picked,
    (upgrade, serving): (OnUpgrade, Serving),
) -> Result<(), Verdict> {
    let ends = block.ends();
    let opened = connect::open(shared, &picked.target).await;
    let machine = opened.map_err(|error| {
        pick::note(shared, asked, &picked.target, Outcome::NoAnswer);
        Verdict::Elsewhere(Reason::Unreachable, error.to_string())
    })?;
    pick::note(shared, asked, &picked.target, Outcome::Answered);
    let edge = shared.clone();
    shared.clients.spawn(async move {
        let limit = edge.config.timeouts.header;
        if let Ok(Ok(client)) = timeout(limit, upgrade).await {
            let first = tcp::introduction(&picked.target, ends);
            tcp::carry(&edge, TokioIo::new(client), machine, &first).await;
        }
        drop((picked, serving));
    });
    Ok(())
}
