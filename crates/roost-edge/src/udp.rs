//! Datagrams: each flow is led to a machine as a connection is, by the same
//! pick and the same count, and kept with it until nothing moves any more.
//!
//! ```text
//! client ──▶ socket of the port ──▶ flow of (client, address) ──▶ socket bound to the client's address ──▶ machine
//!        ◀── from the same address ◀──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A machine of another node is reached by the edge of that node, which has such a flow and such a
//! socket too; between the two is a stream of frames ([`tunnel`]).
//!
//! A datagram that there is no room for is dropped, as everywhere on its way.

mod carry;
mod flow;
mod former;
mod socket;
mod tunnel;

pub(crate) use carry::relayed;
pub(crate) use flow::Datagrams;
pub(crate) use socket::open;

use crate::limits;
use crate::ports::{Door, Way};
use crate::rates::{Open, Visit};
use crate::shared::Shared;
use flow::{Entered, Fate, Flow, Flows};
use roost_model::name::AppName;
use socket::Path;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

thread_local! {
    /// Of any datagram, or what comes of another edge; nothing waits while it is in use.
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
        flows: shared.datagrams.open(door.external),
    });
    tokio::select! {
        () = shared.graceful.cancelled() => return,
        () = shared.retired.cancelled() => return,
        () = door.closed.cancelled() => return,
        () = shared.datagrams.is_alone() => {}
    }
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
}

/// Leads a flow to a machine, and carries what comes back until it ends.
async fn carry(port: Arc<Port>, flow: Arc<Flow>, app: AppName, held: Held) {
    let shared = &port.shared;
    tokio::select! {
        () = carry::ended(shared) => {}
        () = port.door.closed.cancelled() => {}
        () = carry::of_client(&port, &flow, &app) => {}
    }
    shared.datagrams.drops(flow.n_early());
    drop(held);
}
