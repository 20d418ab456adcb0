//! One flow: what a client sends from one address and port to one of the
//! edge's, and what comes back.

use super::former::Former;
use super::socket::{self, Path};
use super::tunnel::Outbox;
use crate::limits;
use crate::meter::Series;
use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_proto::traffic::FlowPlace;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The bounds and counts of all flows of an edge.
#[derive(Debug)]
pub(crate) struct Datagrams {
    flows: Arc<Semaphore>,
    /// Bytes of datagrams that wait until their flow has a machine.
    early: Arc<Semaphore>,
    /// Flows that may be handed over to other edges.
    there: Arc<Semaphore>,
    /// Bytes of datagrams that wait to be sent to other edges.
    out: Arc<Semaphore>,
    dropped: AtomicU64,
    /// Those of each open port, by its number.
    open: Mutex<Vec<(u16, Weak<Flows>)>>,
    /// Where those were that have ended and may go on.
    pub(super) former: Former,
    /// Fires when no other edge takes datagrams from the sockets.
    alone: CancellationToken,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            flows: Arc::new(Semaphore::new(limits::FLOWS_MAX)),
            early: Arc::new(Semaphore::new(limits::EARLY_DATAGRAM_BYTES_MAX)),
            there: Arc::new(Semaphore::new(limits::RELAY_FLOWS_MAX)),
            out: Arc::new(Semaphore::new(limits::FLOWS_OUT_BYTES_MAX)),
            dropped: AtomicU64::new(0),
            open: Mutex::default(),
            former: Former::default(),
            alone: CancellationToken::new(),
        }
    }
}

impl Datagrams {
    /// The flows of one more port.
    pub(super) fn open(&self, port: u16) -> Arc<Flows> {
        let flows = Arc::<Flows>::default();
        let mut open = self.open.lock();
        open.retain(|(_, flows)| flows.strong_count() > 0);
        open.push((port, Arc::downgrade(&flows)));
        flows
    }

    /// The machine of each flow that has one.
    pub(crate) fn places(&self) -> Vec<FlowPlace> {
        let open = self.open.lock();
        let open = open.iter();
        let open = open.filter_map(|(port, flows)| Some((*port, flows.upgrade()?)));
        open.flat_map(|(port, flows)| flows.places(port)).collect()
    }

    /// Begins to take datagrams: no other edge does from here on. Those of these flows go to
    /// the same machines.
    pub(crate) fn begin(&self, places: Vec<FlowPlace>, idle: Duration) {
        let until = Instant::now() + idle;
        for place in places {
            let path = Path {
                client: place.client,
                local: place.local,
            };
            self.former.note(place.port, path, place.machine_id, until);
        }
        self.alone.cancel();
    }

    /// Waits until no other edge takes datagrams from the sockets.
    pub(super) async fn is_alone(&self) {
        self.alone.cancelled().await;
    }

    /// Room for one more flow to another edge, if there is any.
    pub(super) fn flow_there(&self) -> Option<OwnedSemaphorePermit> {
        self.there.clone().try_acquire_owned().ok()
    }

    /// Where datagrams of a flow wait to be sent to another edge.
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(self.out.clone())
    }

    /// Room for one more flow, if there is any.
    pub(super) fn flow(&self) -> Option<OwnedSemaphorePermit> {
        self.flows.clone().try_acquire_owned().ok()
    }

    /// Counts datagrams that went nowhere.
    pub(super) fn drops(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many flows there are.
    pub(crate) fn n_flows(&self) -> usize {
        limits::FLOWS_MAX - self.flows.available_permits()
    }

    /// How many datagrams went nowhere.
    pub(crate) fn n_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A datagram that came before its flow had a machine.
#[derive(Debug)]
struct Early {
    bytes: Box<[u8]>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Stage {
    /// No machine yet.
    Waits(Vec<Early>),
    /// There is a way to the machine.
    Runs(Machine),
    /// Nothing more goes through it.
    Over,
}

/// Where a flow leads.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) id: MachineId,
    pub(super) towards: Towards,
    /// Where its datagrams are counted; nowhere if its client is at another edge, which counts.
    pub(super) series: Option<Arc<Series>>,
}

/// The way to a machine.
#[derive(Debug, Clone)]
pub(super) enum Towards {
    Socket(Arc<UdpSocket>),
    /// By the edge of its node.
    Edge(Arc<Outbox>),
}

impl Machine {
    fn send(&self, bytes: &[u8]) -> Fate {
        let sent = match &self.towards {
            Towards::Socket(socket) => socket::try_send(socket, bytes),
            Towards::Edge(outbox) => outbox.push(bytes),
        };
        match sent {
            Ok(()) => {
                if let Some(series) = &self.series {
                    series.datagrams.came(bytes.len());
                }
                Fate::Sent
            }
            // Of an earlier datagram: nobody listens there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Fate::Refused,
            // The queue is full, or the datagram is larger than what leads there.
            Err(_) => Fate::Dropped,
        }
    }

    /// Counts a datagram that went back to the client.
    pub(super) fn answered(&self, n_bytes: usize) {
        if let Some(series) = &self.series {
            series.datagrams.answered(n_bytes);
        }
    }
}

/// What became of a client's datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is on its way.
    Sent,
    /// It waits for a machine.
    Kept,
    /// There is no room for it, here or in the kernel.
    Dropped,
    /// The flow has ended: another one may take it.
    Refused,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) path: Path,
    stage: Mutex<Stage>,
    /// Told when the machine has refused.
    refused: Notify,
    origin: Instant,
    /// When something last went through it, in milliseconds since the origin.
    moved: AtomicU64,
}

impl Flow {
    pub(super) fn new(path: Path) -> Arc<Self> {
        Arc::new(Self {
            path,
            stage: Mutex::new(Stage::Waits(Vec::new())),
            refused: Notify::new(),
            origin: Instant::now(),
            moved: AtomicU64::new(0),
        })
    }

    /// Takes a datagram of the client.
    pub(super) fn take(&self, datagrams: &Datagrams, bytes: &[u8]) -> Fate {
        let mut stage = self.stage.lock();
        match &mut *stage {
            Stage::Waits(early) => {
                let n_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX).max(1);
                let room = || datagrams.early.clone().try_acquire_many_owned(n_bytes).ok();
                if early.len() >= limits::EARLY_DATAGRAMS_MAX {
                    return Fate::Dropped;
                }
                let Some(room) = room() else {
                    return Fate::Dropped;
                };
                early.push(Early {
                    bytes: bytes.into(),
                    _room: room,
                });
                Fate::Kept
            }
            Stage::Runs(machine) => {
                let fate = machine.send(bytes);
                match fate {
                    Fate::Sent => self.moves(),
                    Fate::Refused => self.refuse(&mut stage),
                    Fate::Kept | Fate::Dropped => {}
                }
                fate
            }
            Stage::Over => Fate::Refused,
        }
    }

    /// The same; what there is no room for, or no flow any more, is counted.
    pub(super) fn take_or_drop(&self, datagrams: &Datagrams, bytes: &[u8]) {
        if matches!(self.take(datagrams, bytes), Fate::Dropped | Fate::Refused) {
            datagrams.drops(1);
        }
    }

    /// Gives it a machine, and sends what has waited; how much of it was dropped.
    pub(super) fn begin(&self, machine: &Machine) -> usize {
        let mut stage = self.stage.lock();
        let before = std::mem::replace(&mut *stage, Stage::Runs(machine.clone()));
        let Stage::Waits(early) = before else {
            *stage = before;
            return 0;
        };
        self.moves();
        if let Some(series) = &machine.series {
            series.datagrams.begins();
        }
        // Nobody passes those that have waited: the stage is locked.
        let fates = early.iter().map(|one| machine.send(&one.bytes));
        let fates: Vec<_> = fates.filter(|fate| *fate != Fate::Sent).collect();
        if fates.contains(&Fate::Refused) {
            self.refuse(&mut stage);
        }
        fates.len()
    }

    /// The kernel tells of a refusal once: who hears of it tells the others.
    fn refuse(&self, stage: &mut Stage) {
        *stage = Stage::Over;
        self.refused.notify_one();
    }

    /// Waits until a datagram of the client has found that nobody listens at the machine.
    pub(super) async fn is_refused(&self) {
        self.refused.notified().await;
    }

    /// How many datagrams wait in it.
    pub(super) fn n_early(&self) -> usize {
        match &*self.stage.lock() {
            Stage::Waits(early) => early.len(),
            Stage::Runs(_) | Stage::Over => 0,
        }
    }

    /// The machine that it is with.
    pub(super) fn machine(&self) -> Option<MachineId> {
        match &*self.stage.lock() {
            Stage::Runs(machine) => Some(machine.id.clone()),
            Stage::Waits(_) | Stage::Over => None,
        }
    }

    /// Ends it; whoever holds it still gets no datagram into it.
    pub(super) fn end(&self) {
        *self.stage.lock() = Stage::Over;
    }

    /// Notes that something goes through it now.
    pub(super) fn moves(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// When it has been silent for so long.
    pub(super) fn idle_at(&self, limit: Duration) -> Instant {
        self.origin + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + limit
    }
}

/// The flows of one port.
#[derive(Debug, Default)]
pub(super) struct Flows(Mutex<HashMap<Path, Arc<Flow>>>);

impl Flows {
    pub(super) fn find(&self, path: Path) -> Option<Arc<Flow>> {
        self.0.lock().get(&path).cloned()
    }

    /// Adds a flow; it is found until what is returned is dropped.
    pub(super) fn add(self: &Arc<Self>, flow: &Arc<Flow>) -> Entered {
        self.0.lock().insert(flow.path, flow.clone());
        Entered {
            flows: self.clone(),
            flow: flow.clone(),
        }
    }

    /// The machine of each that has one; the port is this.
    fn places(&self, port: u16) -> Vec<FlowPlace> {
        let flows = self.0.lock();
        let place = |flow: &Arc<Flow>| {
            Some(FlowPlace {
                client: flow.path.client,
                local: flow.path.local,
                port,
                machine_id: flow.machine()?,
            })
        };
        flows.values().filter_map(place).collect()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// A flow that can be found; ended when dropped.
#[derive(Debug)]
pub(super) struct Entered {
    flows: Arc<Flows>,
    flow: Arc<Flow>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.flow.end();
        let mut flows = self.flows.0.lock();
        // Another one may have taken its place.
        let is_it = |found: &Arc<Flow>| Arc::ptr_eq(found, &self.flow);
        if flows.get(&self.flow.path).is_some_and(is_it) {
            flows.remove(&self.flow.path);
        }
    }
}

#[cfg(test)]
mod tests;
