//! What goes out to the edge of another node: a request, a raw connection, a
//! flow of datagrams, a wish to wake a machine.

use crate::accept::Ends;
use crate::arrival::{Arrival, Origin};
use crate::body::{AppBody, RequestBody, Slot};
use crate::eject::Outcome;
use crate::forward::{self, Answer, Head, SendFailure};
use crate::limits;
use crate::pick::{self, Asked, Picked, Tried};
use crate::relay::peers::{PeerError, PeerSender, Peers, Place};
use crate::relay::wire::{Block, Elsewhere, Failed, Kind, Leg, OfFile, RELAY, Reason, Verdict};
use crate::shared::Shared;
use crate::table::Target;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_proto::traffic::{PeerNode, WakeError, Waking};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// A place on a connection to the edge of a machine's node.
#[derive(Debug)]
pub(crate) struct PeerStream {
    sender: PeerSender,
    place: Arc<Place>,
    node: Arc<PeerNode>,
    app: AppName,
    machine: MachineId,
    external: u16,
}

/// A place for what is for this machine.
pub(crate) async fn connect(
    peers: &Peers,
    target: &Target,
    node: &Arc<PeerNode>,
    external: u16,
) -> Result<PeerStream, PeerError> {
    let (sender, place) = peers.take(node).await?;
    Ok(PeerStream {
        sender,
        place: Arc::new(place),
        node: node.clone(),
        app: target.app.clone(),
        machine: target.endpoint.machine_id.clone(),
        external,
    })
}

impl PeerStream {
    /// The place, for whoever knows when the answer has ended.
    pub(crate) fn place(&self) -> Arc<Place> {
        self.place.clone()
    }

    fn block(&self, kind: Kind, arrival: &Arrival) -> Block {
        let origin = &arrival.origin;
        Block {
            kind,
            app: self.app.clone(),
            machine: self.machine.clone(),
            port: self.external,
            client: (origin.ends.0, 0).into(),
            local: origin.ends.1,
            is_tls: origin.is_tls,
            version: arrival.version,
            region: origin.region.to_str().unwrap_or_default().to_owned(),
            id: arrival.id,
            at_us: arrival.arrived_us,
            leg: Leg {
                hop: arrival.leg.hop.saturating_add(1),
                ..arrival.leg
            },
        }
    }

    /// The request as it goes to the other edge: the client's headers, and the block
    /// from which the other edge makes those that the platform adds.
    fn request(&self, head: &Head, body: RequestBody) -> Request<RequestBody> {
        let mut headers = head.headers.clone();
        let is_websocket = headers.remove(UPGRADE).is_some();
        headers.remove(CONNECTION);
        headers.remove(HOST);
        let kind = if is_websocket {
            Kind::WebSocket
        } else {
            Kind::Http
        };
        headers.insert(RELAY, self.block(kind, &head.arrival).value());
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri(&head.host, head.path.clone());
        *request.headers_mut() = headers;
        *request.version_mut() = Version::HTTP_2;
        if is_websocket {
            *request.method_mut() = Method::CONNECT;
            let protocol = Protocol::from_static("websocket");
            request.extensions_mut().insert(protocol);
        }
        request
    }

    fn read(&self, response: &mut Response<Incoming>) -> Result<(), SendFailure> {
        let node = self.node.id.as_str();
        let verdict = Verdict::of(response.headers());
        if let Some(of_file) = OfFile::of(response.headers()) {
            response.extensions_mut().insert(of_file);
        }
        response.headers_mut().remove(RELAY);
        match verdict {
            Ok(Verdict::Answer) => Ok(()),
            Ok(Verdict::Enclosed(status)) => {
                *response.status_mut() = status;
                Ok(())
            }
            Ok(Verdict::Elsewhere(reason, why)) => Err(self.elsewhere(reason, why)),
            Ok(Verdict::Failed(how, why)) => {
                self.place.count_there();
                Err(match how {
                    Failed::Broken => SendFailure::Broken(format!("at {node}: {why}")),
                    Failed::Late => SendFailure::TooLate,
                    Failed::Header => SendFailure::TooLarge,
                    Failed::Body => SendFailure::ClientBody,
                })
            }
            Err(error) => Err(SendFailure::Broken(format!(
                "the edge of {node} gave an answer that is not understood: {error}"
            ))),
        }
    }

    fn elsewhere(&self, reason: Reason, why: String) -> SendFailure {
        SendFailure::Elsewhere(Box::new(Elsewhere {
            node: self.node.id.to_string(),
            reason,
            why,
        }))
    }
}

fn uri(host: &str, path: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(host).ok();
    parts.path_and_query = Some(path);
    // The parts come from a request that was read, so they fit together.
    Uri::from_parts(parts).unwrap_or_default()
}

/// Sends the request and waits for the answer of the app, or for "elsewhere".
pub(crate) async fn send(
    mut stream: PeerStream,
    head: &Head,
    body: RequestBody,
    slot: Slot<'_>,
    patience: Duration,
) -> Result<Answer, SendFailure> {
    // The other edge knows better what it waits for, and is heard first.
    let patience = patience + head.arrival.leg.wait + limits::RELAY_MARGIN;
    let request = stream.request(head, body);
    let is_tunnel = request.method() == Method::CONNECT;
    let response = pin!(stream.sender.try_send_request(request));
    let response = forward::with_patience(response, slot, patience, forward::failure).await;
    let mut response = response.inspect_err(|failure| {
        if matches!(failure, SendFailure::Unsent(_) | SendFailure::Broken(_)) {
            stream.place.blame();
        }
    })?;
    let is_open = is_tunnel && response.status() == StatusCode::OK;
    stream.read(&mut response)?;
    if is_open {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(Box::new((response.map(AppBody::Hyper), None)))
}

/// A raw connection to a machine of another node, or a flow of datagrams.
pub(crate) type Tunnel = TokioIo<Upgraded>;

/// Why a tunnel did not come about.
#[derive(Debug)]
enum TunnelError {
    Unreached(String),
    /// This edge had nothing left to reach the other one with.
    NoRoom(String),
    Elsewhere(Box<Elsewhere>),
}

/// Has the edge of the picked machine's node open a tunnel to it. `None` when another machine is to
/// be picked; an error when too many have not taken it.
pub(crate) async fn hand_over(
    shared: &Shared,
    asked: Asked<'_>,
    picked: &mut Picked,
    node: &Arc<PeerNode>,
    tried: &mut Tried,
    attempt: u8,
    ends: Ends,
) -> Result<Option<Tunnel>, String> {
    let kind = match asked.protocol {
        roost_model::machine::Protocol::Tcp => Kind::Raw,
        roost_model::machine::Protocol::Udp => Kind::Datagrams,
    };
    let leg = Leg {
        hop: 0,
        attempt,
        wait: tried.patience(shared),
    };
    let target = &picked.target;
    match open(shared, target, node, (kind, ends), leg).await {
        Ok((tunnel, place)) => {
            picked.in_flight.takes(place);
            return Ok(Some(tunnel));
        }
        Err(TunnelError::Unreached(why)) => {
            pick::note(shared, asked, target, Outcome::NoAnswer);
            tried.refused(shared, &target.endpoint, why);
        }
        Err(TunnelError::NoRoom(why)) => tried.refused(shared, &target.endpoint, why),
        Err(TunnelError::Elsewhere(elsewhere)) => {
            if !tried.elsewhere(shared, target, &elsewhere) {
                return Err(elsewhere.to_string());
            }
        }
    }
    Ok(None)
}

async fn open(
    shared: &Shared,
    target: &Target,
    node: &Arc<PeerNode>,
    (kind, ends): (Kind, Ends),
    leg: Leg,
) -> Result<(Tunnel, Arc<Place>), TunnelError> {
    let unreached = |why: String| TunnelError::Unreached(why);
    let mut stream = connect(&shared.peers, target, node, ends.external)
        .await
        .map_err(|error| {
            if error.blames_them() {
                unreached(error.to_string())
            } else {
                TunnelError::NoRoom(error.to_string())
            }
        })?;
    let block = Block {
        kind,
        app: stream.app.clone(),
        machine: stream.machine.clone(),
        port: ends.external,
        client: ends.client,
        local: ends.local,
        is_tls: ends.is_tls,
        version: Version::HTTP_11,
        region: shared.config.region.to_string(),
        id: ulid::Ulid::generate(),
        at_us: roost_runtime::clock::now().as_ms().saturating_mul(1000),
        leg: Leg {
            hop: leg.hop.saturating_add(1),
            ..leg
        },
    };
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri("machine", PathAndQuery::from_static("/"));
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(RELAY, block.value());
    let protocol = Protocol::from_static(kind.as_str());
    request.extensions_mut().insert(protocol);
    let patience = shared.config.timeouts.connect + leg.wait + limits::RELAY_MARGIN;
    let response = pin!(stream.sender.try_send_request(request));
    let response = forward::with_patience(response, None, patience, forward::failure).await;
    let mut response = response.map_err(|failure| unreached(format!("{failure:?}")))?;
    match stream.read(&mut response) {
        Ok(()) => {}
        Err(SendFailure::Elsewhere(elsewhere)) => return Err(TunnelError::Elsewhere(elsewhere)),
        Err(failure) => return Err(unreached(format!("{failure:?}"))),
    }
    let tunnel = hyper::upgrade::on(response).await;
    let tunnel = tunnel.map_err(|error| unreached(roost_model::error::chain(&error)))?;
    Ok((TokioIo::new(tunnel), stream.place()))
}

/// Has the edge of the machine's node wake it. Ends once the wake is recorded there.
pub(crate) fn wake(shared: &Shared, target: &Target, node: &Arc<PeerNode>) -> Waking {
    let external = target.endpoint.service.ports.first();
    let external = external.map_or(0, |port| port.ports.first);
    let local = (Ipv4Addr::UNSPECIFIED, external).into();
    let origin = Origin::new(
        Ipv4Addr::LOCALHOST.into(),
        local,
        false,
        shared.region.clone(),
    );
    let id = ulid::Ulid::generate();
    let arrival = Arrival::new(origin, Version::HTTP_2, id, 0);
    let (peers, node) = (shared.peers.clone(), node.clone());
    let (app, machine) = (target.app.clone(), target.endpoint.machine_id.clone());
    Box::pin(async move {
        let refused = |why: String| WakeError::Refused(why);
        let taken = peers.take(&node).await;
        let (sender, place) = taken.map_err(|error| refused(error.to_string()))?;
        let mut stream = PeerStream {
            sender,
            place: Arc::new(place),
            node,
            app,
            machine,
            external,
        };
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = uri("machine", PathAndQuery::from_static("/"));
        *request.version_mut() = Version::HTTP_2;
        let block = stream.block(Kind::Wake, &arrival);
        request.headers_mut().insert(RELAY, block.value());
        let response = pin!(stream.sender.try_send_request(request));
        let response =
            forward::with_patience(response, None, limits::WAKE_ASK_TIMEOUT, forward::failure)
                .await;
        let mut response = response.map_err(|failure| refused(format!("{failure:?}")))?;
        match stream.read(&mut response) {
            Ok(()) => Ok(()),
            Err(SendFailure::Elsewhere(elsewhere)) => Err(refused(elsewhere.to_string())),
            Err(failure) => Err(refused(format!("{failure:?}"))),
        }
    })
}
