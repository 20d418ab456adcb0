//! Datagrams: each flow is led to a machine as a connection is, by the same
//! pick and the same count, and kept with it until nothing moves any more.
//!
//! ```text
//! client ──▶ socket of the port ──▶ flow of (client, address) ──▶ socket bound to the client's address ──▶ machine
//!        ◀── from the same address ◀──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A datagram that there is no room for is dropped, as everywhere on its way.

mod flow;
mod socket;

pub(crate) use flow::Datagrams;
pub(crate) use socket::open;

use crate::eject::Outcome;
use crate::limits;
use crate::pick::{self, Asked, Picked, Tried};
use crate::ports::{Door, Way};
use crate::rates::{Open, Visit};
use crate::shared::Shared;
use crate::split::Side;
use crate::wants::Wants;
use flow::{Entered, Fate, Flow, Flows, Machine};
use roost_model::machine::Protocol;
use roost_model::name::AppName;
use roost_proto::traffic::EndpointHealth;
use socket::Path;
use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

thread_local! {
    /// Of any datagram; nothing waits while it is in use.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::DATAGRAM_BYTES_MAX]);
}

/// One address of a port.
struct Port {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    door: Door,
    flows: Arc<Flows>,
}

/// What a flow holds for as long as it is there.
struct Held {
    _entered: Entered,
    _place: OwnedSemaphorePermit,
    _visit: Visit,
    _open: Option<Open>,
}

/// Takes datagrams until the port is closed, another edge has the socket, or the edge ends.
pub(crate) async fn receive_loop(shared: Arc<Shared>, socket: Arc<UdpSocket>, door: Door) {
    let _accepting = shared.accepting.token();
    let port = Arc::new(Port {
        shared: shared.clone(),
        socket,
        door: door.clone(),
        flows: Arc::default(),
    });
    loop {
        let readable = tokio::select! {
            () = shared.graceful.cancelled() => return,
            () = shared.retired.cancelled() => return,
            () = door.closed.cancelled() => return,
            readable = port.socket.readable() => readable,
        };
        let received = readable.and_then(|()| port.receive_some());
        if let Err(error) = received {
            tracing::warn!(%error, port = door.external, "datagrams could not be received");
            sleep(limits::ACCEPT_ERROR_PAUSE).await;
        }
        tokio::task::yield_now().await;
    }
}

impl Port {
    /// Takes what is there, but leaves others their turn.
    fn receive_some(self: &Arc<Self>) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..limits::DATAGRAMS_IN_A_ROW {
                match socket::try_receive(&self.socket, buffer) {
                    Ok((n_bytes, path)) => self.take(path, &buffer[..n_bytes]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    fn take(self: &Arc<Self>, path: Path, bytes: &[u8]) {
        let datagrams = &self.shared.datagrams;
        let found = self.flows.find(path);
        let fate = found.map_or(Fate::Refused, |flow| flow.take(datagrams, bytes));
        let fate = match fate {
            Fate::Refused => self.begin(path, bytes).unwrap_or(Fate::Dropped),
            fate => fate,
        };
        if fate == Fate::Dropped {
            datagrams.drops(1);
        }
    }

    /// Begins a flow with its first datagram; `None` when there may not be one more.
    fn begin(self: &Arc<Self>, path: Path, bytes: &[u8]) -> Option<Fate> {
        let shared = &self.shared;
        let way = self.door.way.load();
        let Way::Raw(app) = &**way else { return None };
        // By a door of every address, where the app of the address has none of its own now.
        let is_shared = self.door.own.is_none();
        if is_shared
            && shared
                .names
                .app_at(path.local)
                .is_some_and(|own| own != *app)
        {
            return None;
        }
        if shared.is_overloaded() {
            return None;
        }
        let visit = shared.visitors.enter(path.client.ip())?;
        if !visit.may_ask() {
            return None;
        }
        let place = shared.datagrams.flow()?;
        let route = shared.router.routes().app(app.as_str()).cloned();
        let most = shared.config.rates.app_open;
        let open = match route {
            Some(route) => Some(Open::new(Some(&visit), &route.rates, most).ok()?),
            // There is nothing to bound; the pick says so.
            None => None,
        };
        let flow = Flow::new(path);
        let fate = flow.take(&shared.datagrams, bytes);
        let held = Held {
            _entered: self.flows.add(&flow),
            _place: place,
            _visit: visit,
            _open: open,
        };
        let carried = carry(self.clone(), flow, app.clone(), held);
        shared.clients.spawn(carried);
        Some(fate)
    }

    /// Sends on what a machine has answered, if it has: whether it did. An error is the end of
    /// the flow.
    fn answer_some(&self, flow: &Flow, machine: &UdpSocket, picked: &Picked) -> io::Result<bool> {
        let series = &picked.target.series;
        let address = picked.target.endpoint.address;
        let mut has_answered = false;
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..limits::DATAGRAMS_IN_A_ROW {
                match socket::try_receive_from(machine, address, buffer) {
                    Ok(Some(n_bytes)) => {
                        has_answered = true;
                        match socket::try_answer(&self.socket, flow.path, &buffer[..n_bytes]) {
                            Ok(()) => {
                                flow.moves();
                                series.datagrams.answered(n_bytes);
                            }
                            Err(_) => self.shared.datagrams.drops(1),
                        }
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
}

/// Leads a flow to a machine, and carries what comes back until it ends.
async fn carry(port: Arc<Port>, flow: Arc<Flow>, app: AppName, held: Held) {
    let shared = &port.shared;
    let ended = async {
        tokio::select! {
            () = shared.graceful.cancelled() => {}
            () = shared.retired.cancelled() => {}
            () = port.door.closed.cancelled() => {}
            () = shared.kill.cancelled() => {}
        }
    };
    tokio::select! {
        () = ended => {}
        () = carried(&port, &flow, &app) => {}
    }
    shared.datagrams.drops(flow.n_early());
    drop(held);
}

async fn carried(port: &Port, flow: &Flow, app: &AppName) {
    let shared = &port.shared;
    let client = flow.path.client;
    let mut asked = Asked {
        app: app.as_str(),
        protocol: Protocol::Udp,
        external: port.door.external,
        wants: &Wants::default(),
        side: None,
        affinity: None,
    };
    asked.side = Side::of_stream(shared, &asked, client);
    // Before the pick: no change between the two is missed.
    let mut changes = shared.router.changes();
    let picked = match pick::pick(shared, asked, &mut Tried::default()).await {
        Ok(picked) => picked,
        Err(page) => {
            let why = page.title;
            tracing::debug!(%app, port = asked.external, %client, why, "a flow came to nothing");
            return;
        }
    };
    let machine = match socket::towards(picked.target.endpoint.address, client) {
        Ok(machine) => Arc::new(machine),
        Err(error) => {
            tracing::warn!(%app, %client, %error, "there is no socket for a flow");
            return;
        }
    };
    let n_dropped = flow.begin(&Machine {
        socket: machine.clone(),
        series: picked.target.series.clone(),
    });
    shared.datagrams.drops(n_dropped);
    let limit = shared.config.timeouts.flow_idle;
    let mut idle = pin!(sleep_until(flow.idle_at(limit)));
    let mut has_answered = false;
    loop {
        tokio::select! {
            answers = socket::answers(&machine) => {
                match answers.and_then(|()| port.answer_some(flow, &machine, &picked)) {
                    Ok(true) if !has_answered => {
                        has_answered = true;
                        pick::note(shared, asked, &picked.target, Outcome::Answered);
                    }
                    Ok(_) => {}
                    // Nobody listens there: the next datagram may find another machine.
                    Err(_) => {
                        pick::note(shared, asked, &picked.target, Outcome::NoAnswer);
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
            () = flow.is_refused() => {
                pick::note(shared, asked, &picked.target, Outcome::NoAnswer);
                return;
            }
            changed = changes.changed() => if changed.is_err() || !still_serves(shared, asked, &picked) {
                return;
            },
            () = idle.as_mut() => {
                let idle_at = flow.idle_at(limit);
                if idle_at <= Instant::now() {
                    return;
                }
                idle.as_mut().reset(idle_at);
            }
        }
    }
}

/// Whether the machine still takes traffic, or finishes what it has.
fn still_serves(shared: &Shared, asked: Asked<'_>, picked: &Picked) -> bool {
    let routes = shared.router.routes();
    let app = routes.app(asked.app);
    let port = app.and_then(|app| app.port_of(asked.protocol, asked.external));
    let endpoint = &picked.target.endpoint;
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
