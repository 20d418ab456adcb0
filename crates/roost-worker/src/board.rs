//! The board: what is known now of every machine, and the traffic table made of it.
//!
//! Owners and checks write entries; readers and the edge read. Each change
//! rebuilds the table under the lock and publishes it if it differs, so that
//! a withdrawal is visible to the edge before the drain begins. Nobody waits
//! while holding the lock.

use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_model::machine::{
    Check, MachineSpec, MachineState, Protocol, Rung, Service, StaticFolder,
};
use roost_model::name::{AppName, RegionCode};
use roost_model::split::Split;
use roost_model::time::Timestamp;
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficFeed, TrafficTable};
use roost_proto::worker::{CheckResult, CheckStatus};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

/// What is known now of one machine.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) app: AppName,
    pub(crate) region: RegionCode,
    pub(crate) release: Option<u64>,
    pub(crate) split: Option<Arc<Split>>,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) statics: Arc<[StaticFolder]>,
    pub(crate) state: MachineState,
    pub(crate) cordoned: bool,
    /// Whether others start it, when the node of another machine is lost.
    pub(crate) is_standby: bool,
    /// Whether it is in the app's first region, where some machines may be kept awake.
    pub(crate) is_primary: bool,
    pub(crate) pid: Option<u32>,
    /// The rung that it was launched on last.
    pub(crate) rung: Option<Rung>,
    /// By position of the service: what is wrong with its port, if it has no checks.
    /// Empty until it is known that the machine runs.
    pub(crate) ports: Vec<Option<String>>,
    /// By name.
    pub(crate) checks: BTreeMap<String, CheckEntry>,
}

/// What is known now of one check.
#[derive(Debug, Clone)]
pub(crate) struct CheckEntry {
    pub(crate) status: CheckStatus,
    pub(crate) decides: Decides,
}

/// What a check decides about while it does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decides {
    /// The traffic of the service at this position.
    Service(usize),
    /// The traffic of all services.
    Machine,
    /// No traffic.
    Nothing,
}

impl Entry {
    /// The services of a spec, as the table shares them.
    pub(crate) fn services_of(spec: &MachineSpec) -> Vec<Arc<Service>> {
        spec.services.iter().cloned().map(Arc::new).collect()
    }

    /// Which services take requests.
    pub(crate) fn healthy(&self) -> Vec<bool> {
        (0..self.services.len())
            .map(|service_idx| self.fault(service_idx).is_none())
            .collect()
    }

    /// Why a service takes no requests, for people.
    fn fault(&self, service_idx: usize) -> Option<String> {
        let Some(port) = self.ports.get(service_idx) else {
            return Some("not checked yet".into());
        };
        let decides = |check: &&CheckEntry| match check.decides {
            Decides::Service(idx) => idx == service_idx,
            Decides::Machine => true,
            Decides::Nothing => false,
        };
        let mut deciding = self.checks.values().filter(decides);
        let of_checks = deciding.find_map(|check| match check.status.result {
            CheckResult::Passing => None,
            CheckResult::Waiting => Some(format!(
                "check {} has not passed yet: {}",
                check.status.name, check.status.output
            )),
            CheckResult::Critical => Some(format!(
                "check {} fails: {}",
                check.status.name, check.status.output
            )),
        });
        of_checks.or_else(|| port.clone())
    }

    /// The results of all checks, and of the port probe of each service that has none.
    pub(crate) fn check_statuses(self, now: Timestamp) -> Vec<CheckStatus> {
        let probes = self.services.iter().zip(&self.ports).enumerate();
        let probed = probes.filter(|(_, (service, _))| service.checks.is_empty());
        let mut statuses: Vec<CheckStatus> = probed
            .map(|(service_idx, (service, fault))| CheckStatus {
                name: format!(
                    "{}{service_idx:02}-port-{}",
                    Check::SERVICE_PREFIX,
                    service.internal_port
                ),
                result: match fault {
                    None => CheckResult::Passing,
                    Some(_) => CheckResult::Waiting,
                },
                output: fault.clone().unwrap_or_else(|| match service.protocol {
                    Protocol::Tcp => "the port accepts connections".into(),
                    Protocol::Udp => "a socket takes the port's datagrams".into(),
                }),
                updated_at: now,
            })
            .collect();
        statuses.extend(self.checks.into_values().map(|check| check.status));
        statuses
    }

    /// Whether a request to this service may have the machine started.
    fn may_wake(&self, service_idx: usize) -> bool {
        let service = self.services.get(service_idx);
        !self.cordoned && !self.is_standby && service.is_some_and(|service| service.autostart)
    }

    /// Whether it rests until a request, or the minimum of its app, has it started.
    pub(crate) fn is_asleep(&self) -> bool {
        matches!(self.state, MachineState::Stopped | MachineState::Suspended)
            && (0..self.services.len()).any(|service_idx| self.may_wake(service_idx))
    }

    fn service_health(&self, service_idx: usize) -> EndpointHealth {
        match self.state {
            MachineState::Started if self.cordoned => EndpointHealth::Draining,
            MachineState::Started => match self.fault(service_idx) {
                None => EndpointHealth::Passing,
                Some(fault) => EndpointHealth::Failing(fault),
            },
            MachineState::Stopping
            | MachineState::Suspending
            | MachineState::Stopped
            | MachineState::Suspended
                if self.may_wake(service_idx) =>
            {
                EndpointHealth::Asleep(self.state.as_str().to_owned())
            }
            MachineState::Stopping | MachineState::Suspending => EndpointHealth::Draining,
            MachineState::Created
            | MachineState::Starting
            | MachineState::Stopped
            | MachineState::Suspended
            | MachineState::Failed
            | MachineState::Destroying
            | MachineState::Destroyed => EndpointHealth::Down(self.state.as_str().to_owned()),
        }
    }
}

/// All entries. Shared by reference counting.
#[derive(Debug)]
pub(crate) struct Board {
    entries: Mutex<BTreeMap<MachineId, Entry>>,
    table: watch::Sender<Arc<TrafficTable>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::default(),
            table: watch::Sender::new(Arc::default()),
        }
    }

    /// The edge's subscription.
    pub(crate) fn feed(&self) -> TrafficFeed {
        self.table.subscribe()
    }

    /// What is known of a machine.
    pub(crate) fn get(&self, id: &MachineId) -> Option<Entry> {
        self.entries.lock().get(id).cloned()
    }

    /// What is known of each machine.
    pub(crate) fn all(&self) -> Vec<(MachineId, Entry)> {
        let entries = self.entries.lock();
        let all = entries
            .iter()
            .map(|(id, entry)| (id.clone(), entry.clone()));
        all.collect()
    }

    /// Adds or replaces entries and publishes once.
    pub(crate) fn put(&self, new: impl IntoIterator<Item = (MachineId, Entry)>) {
        let mut entries = self.entries.lock();
        entries.extend(new);
        self.publish(&entries);
    }

    /// Removes a machine.
    pub(crate) fn remove(&self, id: &MachineId) {
        let mut entries = self.entries.lock();
        entries.remove(id);
        self.publish(&entries);
    }

    /// Changes what is known of a machine, if it is known.
    pub(crate) fn update<R>(
        &self,
        id: &MachineId,
        change: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(id)?;
        // Most checks find what they found before: the table of all machines
        // is made anew only when this one looks different.
        let before = as_published(id, entry);
        let value = change(entry);
        if as_published(id, entry) != before {
            self.publish(&entries);
        }
        Some(value)
    }

    fn publish(&self, entries: &BTreeMap<MachineId, Entry>) {
        let mut table = build_table(entries);
        self.table.send_if_modified(|published| {
            table.share(published);
            let is_new = **published != table;
            if is_new {
                *published = Arc::new(table);
            }
            is_new
        });
    }
}

fn build_table(entries: &BTreeMap<MachineId, Entry>) -> TrafficTable {
    let mut table = TrafficTable::new();
    for (id, entry) in entries {
        // An app without services is not in the table.
        if entry.services.is_empty() {
            continue;
        }
        let app: &mut AppTraffic = Arc::make_mut(table.get_or_default(entry.app.clone()));
        app.endpoints.extend(as_published(id, entry));
    }
    table
}

/// What the table has of a machine.
fn as_published(id: &MachineId, entry: &Entry) -> Vec<Endpoint> {
    let services = entry.services.iter().enumerate();
    let endpoints = services.map(|(service_idx, service)| Endpoint {
        machine_id: id.clone(),
        region: entry.region.clone(),
        release: entry.release,
        split: entry.split.clone(),
        address: SocketAddr::new(IpAddr::V4(entry.ipv4), service.internal_port),
        node: None,
        health: entry.service_health(service_idx),
        service: service.clone(),
        statics: entry.statics.clone(),
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests {
    use super::{Board, Entry};
    use crate::tests::samples;
    use roost_model::machine::MachineState;
    use roost_proto::traffic::EndpointHealth;
    use std::collections::BTreeMap;

    fn entry(state: MachineState) -> Entry {
        let row = samples::row();
        Entry {
            app: row.spec.app,
            region: row.spec.region,
            release: None,
            split: None,
            ipv4: samples::addresses(1).ipv4,
            services: vec![samples::service(8080).into()],
            state,
            cordoned: false,
            is_standby: false,
            is_primary: true,
            statics: [].into(),
            pid: None,
            rung: None,
            ports: vec![None],
            checks: BTreeMap::new(),
        }
    }

    #[test]
    fn every_state_has_its_health_in_the_table() {
        let board = Board::new();
        let feed = board.feed();
        let row = samples::row();
        for (state, expected) in [
            (
                MachineState::Created,
                EndpointHealth::Down("created".into()),
            ),
            (
                MachineState::Starting,
                EndpointHealth::Down("starting".into()),
            ),
            (MachineState::Started, EndpointHealth::Passing),
            (MachineState::Stopping, EndpointHealth::Draining),
            (MachineState::Suspending, EndpointHealth::Draining),
            (
                MachineState::Suspended,
                EndpointHealth::Down("suspended".into()),
            ),
            (
                MachineState::Stopped,
                EndpointHealth::Down("stopped".into()),
            ),
            (MachineState::Failed, EndpointHealth::Down("failed".into())),
        ] {
            board.put([(row.id.clone(), entry(state))]);
            let table = feed.borrow();
            assert_eq!(
                table[&row.spec.app].endpoints[0].health, expected,
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_machine_that_rests_is_asleep_if_a_request_may_start_it() {
        let health = |state, change: fn(&mut Entry)| {
            let mut entry = entry(state);
            std::sync::Arc::make_mut(&mut entry.services[0]).autostart = true;
            change(&mut entry);
            entry.service_health(0)
        };
        let asleep = |state: &str| EndpointHealth::Asleep(state.to_owned());
        for (state, expected) in [
            (MachineState::Stopped, asleep("stopped")),
            (MachineState::Suspended, asleep("suspended")),
            // It is started again once it has stopped.
            (MachineState::Stopping, asleep("stopping")),
            (MachineState::Suspending, asleep("suspending")),
            (MachineState::Started, EndpointHealth::Passing),
            (
                MachineState::Created,
                EndpointHealth::Down("created".into()),
            ),
            (MachineState::Failed, EndpointHealth::Down("failed".into())),
        ] {
            assert_eq!(health(state, |_| {}), expected, "{state:?}");
        }
        let down = EndpointHealth::Down("stopped".into());
        let cordoned = health(MachineState::Stopped, |entry| entry.cordoned = true);
        assert_eq!(cordoned, down);
        let standby = health(MachineState::Stopped, |entry| entry.is_standby = true);
        assert_eq!(standby, down);
    }

    #[test]
    fn a_cordoned_machine_drains_and_a_removed_one_is_gone() {
        let board = Board::new();
        let mut feed = board.feed();
        let row = samples::row();
        board.put([(row.id.clone(), entry(MachineState::Started))]);
        board.update(&row.id, |entry| entry.cordoned = true);
        assert_eq!(
            feed.borrow_and_update()[&row.spec.app].endpoints[0].health,
            EndpointHealth::Draining
        );
        board.update(&row.id, |entry| entry.pid = Some(7));
        assert!(
            !feed.has_changed().unwrap(),
            "what the edge does not see does not wake it"
        );
        board.remove(&row.id);
        assert!(feed.borrow().is_empty());
    }
}
