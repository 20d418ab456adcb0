//! What a flow does once it has begun: pick → way to the machine, as a
//! connection, then datagrams both ways until either side ends it.

use super::flow::{Flow, Machine, Towards};
use super::socket::{self, Path};
use super::{BUFFER, Port, tunnel};
use crate::accept::Ends;
use crate::datagram_frames::Frame;
use crate::eject::Outcome;
use crate::limits;
use crate::pick::{self, Asked, Picked, Tried};
use crate::relay::client::{self, Tunnel};
use crate::relay::wire::{Block, Reason, Verdict};
use crate::shared::Shared;
use crate::split::Side;
use crate::wants::Wants;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use roost_model::machine::Protocol;
use roost_model::name::AppName;
use roost_proto::traffic::EndpointHealth;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

/// When flows end with the edge.
pub(super) async fn ended(shared: &Shared) {
    tokio::select! {
        () = shared.graceful.cancelled() => {}
        () = shared.retired.cancelled() => {}
        () = shared.kill.cancelled() => {}
    }
}

/// How a machine was reached.
enum Reached {
    Here(Arc<UdpSocket>),
    /// By the edge of its node; one of the flows that may be.
    There(Box<Tunnel>, OwnedSemaphorePermit),
}

/// Leads a flow of this edge's client to a machine, and carries it.
pub(super) async fn of_client(port: &Port, flow: &Flow, app: &AppName) {
    let shared = &*port.shared;
    let client = flow.path.client;
    let former = shared.datagrams.former.take(port.door.external, flow.path);
    let mut wants = Wants::default();
    if let Some(former) = &former {
        wants = Wants::preferring(former.as_str());
        wants.then_any();
    }
    let mut asked = Asked {
        app: app.as_str(),
        protocol: Protocol::Udp,
        external: port.door.external,
        wants: &wants,
        side: None,
        affinity: None,
    };
    asked.side = Side::of_stream(shared, &asked, client);
    let (picked, reached) = match reach(shared, asked, flow.path).await {
        Ok(reached) => reached,
        Err(why) => {
            tracing::debug!(%app, port = asked.external, %client, why, "a flow came to nothing");
            return;
        }
    };
    let carried = Carried {
        shared,
        asked,
        picked: &picked,
        flow,
    };
    let series = Some(picked.target.series.clone());
    let back = |bytes: &[u8]| socket::try_answer(&port.socket, flow.path, bytes);
    match reached {
        Reached::Here(socket) => {
            let towards = Towards::Socket(socket.clone());
            let id = picked.target.endpoint.machine_id.clone();
            let machine = Machine {
                id,
                towards,
                series,
            };
            carried.begin(&machine);
            carried.by_socket(&socket, &machine, back).await;
        }
        Reached::There(tunnel, _one_of_those) => {
            carried.by_edge(*tunnel, series, back).await;
        }
    }
}

/// Finds a way to one machine after another.
async fn reach(shared: &Shared, asked: Asked<'_>, path: Path) -> Result<(Picked, Reached), String> {
    let ends = Ends {
        client: path.client,
        local: SocketAddr::new(path.local, asked.external),
        is_tls: false,
        handshake: Duration::ZERO,
        external: asked.external,
        own: None,
    };
    let mut tried = Tried::default();
    let mut n_attempts: u8 = 0;
    loop {
        let picked = pick::pick(shared, None, asked, &mut tried).await;
        let mut picked = picked.map_err(|page| page.title)?;
        let Some(node) = picked.target.endpoint.node.clone() else {
            let socket = socket::towards(picked.target.endpoint.address, path.client);
            let socket = socket.map_err(|error| {
                tracing::warn!(client = %path.client, %error, "there is no socket for a flow");
                format!("there is no socket for it: {error}")
            })?;
            return Ok((picked, Reached::Here(Arc::new(socket))));
        };
        let Some(place) = shared.datagrams.flow_there() else {
            let why = "too many flows go to other nodes".to_owned();
            tried.refused(shared, &picked.target.endpoint, why);
            continue;
        };
        n_attempts = n_attempts.saturating_add(1);
        let (it, tried) = (&mut picked, &mut tried);
        let opened = client::hand_over(shared, asked, it, &node, tried, n_attempts, ends);
        if let Some(tunnel) = opened.await? {
            return Ok((picked, Reached::There(Box::new(tunnel), place)));
        }
    }
}

/// A flow that another edge hands over, for a machine of this node; or why it has to go elsewhere.
pub(crate) fn relayed(
    shared: Arc<Shared>,
    block: Block,
    picked: Picked,
    upgrade: OnUpgrade,
) -> Result<impl Future<Output = ()> + Send, Verdict> {
    let elsewhere = |reason, why: &str| Verdict::Elsewhere(reason, why.to_owned());
    let place = shared.datagrams.flow();
    let place = place.ok_or_else(|| elsewhere(Reason::Overloaded, "there are too many flows"))?;
    let socket = socket::towards(picked.target.endpoint.address, block.client);
    let socket = socket.map_err(|error| {
        let (client, error) = (block.client, error.to_string());
        tracing::warn!(%client, error, "there is no socket for a flow of another edge");
        elsewhere(Reason::Overloaded, &error)
    })?;
    Ok(async move {
        let limit = shared.config.timeouts.header;
        if let Ok(Ok(tunnel)) = timeout(limit, upgrade).await {
            let tunnel = TokioIo::new(tunnel);
            tokio::select! {
                () = ended(&shared) => {}
                () = of_edge(&shared, &block, &picked, Arc::new(socket), tunnel) => {}
            }
        }
        drop((picked, place));
    })
}

/// Carries a flow of another edge's client to a machine of this node.
async fn of_edge(
    shared: &Shared,
    block: &Block,
    picked: &Picked,
    socket: Arc<UdpSocket>,
    tunnel: Tunnel,
) {
    let flow = Flow::new(Path {
        client: block.client,
        local: block.local.ip(),
    });
    let wants = Wants::only(block.machine.as_str());
    let carried = Carried {
        shared,
        asked: block.asked(&wants),
        picked,
        flow: &flow,
    };
    let machine = Machine {
        id: block.machine.clone(),
        towards: Towards::Socket(socket.clone()),
        series: None,
    };
    // Before anything is read: what comes finds its machine.
    carried.begin(&machine);
    let outbox = shared.datagrams.outbox();
    let tunnel = tunnel::carry(tunnel, &outbox, |frame| {
        if let Frame::Datagram(bytes) = frame {
            flow.take_or_drop(&shared.datagrams, bytes);
        }
    });
    let mut tunnel = pin!(tunnel);
    let over = tokio::select! {
        // Cancel-safe: pinned, it goes on below where it was.
        _ = &mut tunnel => return,
        // Cancel-safe: the outbox keeps what it has pushed.
        over = carried.by_socket(&socket, &machine, |bytes| outbox.push(bytes)) => over,
    };
    if over == Over::Refused {
        outbox.refuse();
        // So that the other edge knows as well; it need not.
        let _ = timeout(shared.config.timeouts.connect, tunnel).await;
    }
}

/// Why a flow is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Nobody listens at the machine.
    Refused,
    /// Nothing went through it for too long, or the machine is gone.
    Done,
}

/// A flow with its machine.
struct Carried<'a> {
    shared: &'a Shared,
    asked: Asked<'a>,
    picked: &'a Picked,
    flow: &'a Flow,
}

impl Carried<'_> {
    fn note(&self, outcome: Outcome) {
        pick::note(self.shared, self.asked, &self.picked.target, outcome);
    }

    /// From here on the machine has the client's datagrams.
    fn begin(&self, machine: &Machine) {
        self.shared.datagrams.drops(self.flow.begin(machine));
    }

    /// Takes an answer of the machine back towards the client.
    fn answer(&self, machine: &Machine, bytes: &[u8], back: impl Fn(&[u8]) -> io::Result<()>) {
        match back(bytes) {
            Ok(()) => {
                self.flow.moves();
                machine.answered(bytes.len());
            }
            Err(_) => self.shared.datagrams.drops(1),
        }
    }

    /// Carries it by a socket of this node, once it has begun.
    async fn by_socket(
        &self,
        socket: &UdpSocket,
        machine: &Machine,
        back: impl Fn(&[u8]) -> io::Result<()>,
    ) -> Over {
        let answers = async {
            let mut has_answered = false;
            // An error says that nobody listens there: the next datagram may find another machine.
            while let Ok(()) = socket::answers(socket).await {
                match self.answer_some(socket, machine, &back) {
                    Ok(true) if !has_answered => {
                        has_answered = true;
                        self.note(Outcome::Answered);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = answers => {}
            () = self.flow.is_refused() => {}
            () = self.until_done() => return Over::Done,
        }
        self.note(Outcome::NoAnswer);
        Over::Refused
    }

    /// Sends on what a machine has answered, if it has: whether it did. An error is the end of
    /// the flow.
    fn answer_some(
        &self,
        socket: &UdpSocket,
        machine: &Machine,
        back: impl Fn(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let address = self.picked.target.endpoint.address;
        let mut has_answered = false;
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..limits::DATAGRAMS_IN_A_ROW {
                match socket::try_receive_from(socket, address, buffer) {
                    Ok(Some(n_bytes)) => {
                        has_answered = true;
                        self.answer(machine, &buffer[..n_bytes], &back);
                    }
                    // Of somebody else, who has no part in this flow.
                    Ok(None) => self.shared.datagrams.drops(1),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(has_answered)
        })
    }

    /// Carries it by the edge of the machine's node.
    async fn by_edge(
        &self,
        tunnel: Tunnel,
        series: Option<Arc<crate::meter::Series>>,
        back: impl Fn(&[u8]) -> io::Result<()>,
    ) {
        let outbox = self.shared.datagrams.outbox();
        let machine = Machine {
            id: self.picked.target.endpoint.machine_id.clone(),
            towards: Towards::Edge(outbox.clone()),
            series,
        };
        self.begin(&machine);
        let mut has_answered = false;
        let tunnel = tunnel::carry(tunnel, &outbox, |frame| match frame {
            Frame::Datagram(bytes) => {
                if !std::mem::replace(&mut has_answered, true) {
                    self.note(Outcome::Answered);
                }
                self.answer(&machine, bytes, &back);
            }
            Frame::Refused => {
                self.note(Outcome::NoAnswer);
                // The next datagram picks anew; it need not wait for the end of the stream.
                self.flow.end();
            }
        });
        tokio::select! {
            are_frames = tunnel => if are_frames {
                self.will_go_on();
            },
            () = self.until_done() => {}
        }
    }

    /// Notes its machine for the next datagram, unless that has refused: the other edge, if it
    /// spoke as an edge does, may only have been replaced.
    fn will_go_on(&self) {
        if let Some(machine) = self.flow.machine() {
            let until = Instant::now() + self.shared.config.timeouts.flow_idle;
            let (port, path) = (self.asked.external, self.flow.path);
            let former = &self.shared.datagrams.former;
            former.note(port, path, machine, until);
        }
    }

    /// Waits until the machine serves it no longer, or nothing has gone through it for too long.
    async fn until_done(&self) {
        let limit = self.shared.config.timeouts.flow_idle;
        let mut changes = self.shared.router.changes();
        let mut idle = pin!(sleep_until(self.flow.idle_at(limit)));
        // What has changed since the pick is seen by the first look.
        while self.still_serves() {
            tokio::select! {
                // Cancel-safe: each only says that another look is due.
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = idle.as_mut() => {
                    let idle_at = self.flow.idle_at(limit);
                    if idle_at <= Instant::now() {
                        return;
                    }
                    idle.as_mut().reset(idle_at);
                }
            }
        }
    }

    /// Whether the machine still takes traffic, or finishes what it has.
    fn still_serves(&self) -> bool {
        let asked = self.asked;
        let routes = self.shared.router.routes();
        let app = routes.app(asked.app);
        let port = app.and_then(|app| app.port_of(asked.protocol, asked.external));
        let endpoint = &self.picked.target.endpoint;
        let serves = |now: &roost_proto::traffic::Endpoint| {
            now.machine_id == endpoint.machine_id
                && now.address == endpoint.address
                && matches!(
                    now.health,
                    EndpointHealth::Passing | EndpointHealth::Draining
                )
        };
        port.is_some_and(|port| port.targets.iter().any(|target| serves(&target.endpoint)))
    }
}
