//! The routes: an immutable snapshot derived from the worker's table.
//!
//! Readers load a pointer and take no lock. One writer at a time derives the
//! next snapshot and carries over what lives longer than a table: connection
//! pools, counts, the turn of round robin.

mod port;
mod target;

pub(crate) use port::PortRoute;
pub(crate) use target::Target;

use crate::gauge::TrafficCounter;
use crate::limits;
use crate::load::{Freed, Load, Queue};
use crate::meter::Meter;
use crate::pool::Pool;
use crate::rates::AppRates;
use crate::relay::distance::Distance;
use crate::replay_cache::ReplayCache;
use crate::retry::RetryBudget;
use crate::tally::Tallies;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use roost_model::app_map::AppMap;
use roost_model::machine::{Protocol, Service};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{
    AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficFeed, TrafficTable,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;

/// One app with its endpoints.
#[derive(Debug)]
pub(crate) struct AppRoute {
    /// Shared with what outlives the route: records of long answers.
    pub(crate) name: Arc<AppName>,
    traffic: Arc<AppTraffic>,
    freed: Arc<Freed>,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) replays: Arc<ReplayCache>,
    pub(crate) rates: Arc<AppRates>,
    pub(crate) meter: Arc<Meter>,
    /// Whether a release of it is tried out.
    pub(crate) is_split: bool,
    /// Whether requests of a session go to one machine, at one of its ports at least.
    pub(crate) has_affinity: bool,
    /// All endpoints.
    targets: Vec<Arc<Target>>,
    /// By protocol and number: the external ports that lead to one of them.
    ports: Vec<PortRoute>,
    /// Whether the app is routed in another way by now, or not at all.
    is_replaced: AtomicBool,
}

impl AppRoute {
    /// What is behind an external TCP port of the app.
    pub(crate) fn port(&self, external: u16) -> Option<&PortRoute> {
        self.port_of(Protocol::Tcp, external)
    }

    /// What is behind an external port of the app.
    pub(crate) fn port_of(&self, protocol: Protocol, external: u16) -> Option<&PortRoute> {
        let key = (protocol, external);
        let idx = self
            .ports
            .binary_search_by_key(&key, |port| (port.protocol, port.number));
        Some(&self.ports[idx.ok()?])
    }

    /// Whether the app is still routed like this.
    ///
    /// A pick asks after it has counted itself; see [`crate::gauge`].
    pub(crate) fn is_current(&self) -> bool {
        !self.is_replaced.load(Ordering::SeqCst)
    }

    /// All of its endpoints.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter()
    }

    /// What is behind each of its external ports.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &PortRoute> {
        self.ports.iter()
    }

    /// What is behind each external port that the app does not share with all others.
    pub(crate) fn own_ports(&self) -> impl Iterator<Item = &PortRoute> {
        let shared = [Service::HTTP_PORT, Service::HTTPS_PORT];
        let is_own = move |port: &&PortRoute| {
            port.protocol != Protocol::Tcp || !shared.contains(&port.number)
        };
        self.ports.iter().filter(is_own)
    }
}

/// All routes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    apps: AppMap<Arc<AppRoute>>,
    /// Those of them that ask for ports of their own.
    with_ports: AppMap<Arc<AppRoute>>,
    /// Those of them of which a release is tried out.
    split: AppMap<Arc<AppRoute>>,
}

impl Routes {
    /// The route of an app.
    pub(crate) fn app(&self, name: &str) -> Option<&Arc<AppRoute>> {
        self.apps.get(name)
    }

    /// All apps.
    pub(crate) fn apps(&self) -> impl Iterator<Item = &AppRoute> {
        self.apps.values().map(AsRef::as_ref)
    }

    /// The apps that ask for ports of their own.
    pub(crate) fn with_ports(&self) -> impl Iterator<Item = &AppRoute> {
        self.with_ports.values().map(AsRef::as_ref)
    }

    /// The apps of which a release is tried out.
    pub(crate) fn split(&self) -> impl Iterator<Item = &AppRoute> {
        self.split.values().map(AsRef::as_ref)
    }

    fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.apps.values().flat_map(|app| &app.targets)
    }

    /// Routes an app in another way, or not at all; how it was routed.
    fn set(&mut self, name: &AppName, app: Option<Arc<AppRoute>>) -> Option<Arc<AppRoute>> {
        let has_ports = |app: &&Arc<AppRoute>| app.own_ports().next().is_some();
        match app.as_ref().filter(has_ports) {
            Some(app) => self.with_ports.insert(name.clone(), app.clone()),
            None => self.with_ports.remove(name.as_str()),
        };
        match app.as_ref().filter(|app| app.is_split) {
            Some(app) => self.split.insert(name.clone(), app.clone()),
            None => self.split.remove(name.as_str()),
        };
        match app {
            Some(app) => self.apps.insert(name.clone(), app),
            None => self.apps.remove(name.as_str()),
        }
    }
}

/// What is known of machines.
#[derive(Debug, Default)]
struct Tables {
    own: Arc<TrafficTable>,
    /// By node: what edges of other nodes have told.
    learned: BTreeMap<String, TrafficTable>,
    /// By node: how far it is.
    distances: BTreeMap<String, Distance>,
}

impl Tables {
    /// How far the node of an endpoint is.
    fn distance(&self, endpoint: &Endpoint) -> Option<Distance> {
        let Some(node) = &endpoint.node else {
            return Some(0);
        };
        self.distances.get(node.id.as_str()).copied()
    }

    /// Apps that have machines at a node.
    fn apps_at(&self, node: &PeerNode) -> Vec<&AppName> {
        let is_there = |traffic: &AppTraffic| {
            let mut endpoints = traffic.endpoints.iter();
            endpoints.any(|it| it.node.as_ref().is_some_and(|it| it.id == node.id))
        };
        let learned = self.learned.get(node.id.as_str());
        let all = self
            .own
            .iter()
            .chain(learned.into_iter().flat_map(AppMap::iter));
        let there = all.filter(|(_, traffic)| is_there(traffic));
        there.map(|(name, _)| name).collect()
    }

    /// All machines of an app.
    fn traffic(&self, name: &AppName) -> Option<Arc<AppTraffic>> {
        let own = self.own.get(name.as_str());
        let mut all = own.cloned();
        let learned = self.learned.values();
        for traffic in learned.filter_map(|table| table.get(name.as_str())) {
            let Some(all) = &mut all else {
                all = Some(traffic.clone());
                continue;
            };
            // Who has a machine itself knows better.
            let is_new = |it: &&Endpoint| {
                let mut own = own.into_iter().flat_map(|own| &own.endpoints);
                own.all(|own| own.machine_id != it.machine_id)
            };
            let new = traffic.endpoints.iter().filter(is_new).cloned();
            Arc::make_mut(all).endpoints.extend(new);
        }
        all
    }
}

/// Keeps the newest snapshot.
#[derive(Debug)]
pub(crate) struct Router {
    region: RegionCode,
    routes: ArcSwap<Routes>,
    feed: Mutex<TrafficFeed>,
    /// What the routes are made of. Who changes them holds it.
    tables: Mutex<Tables>,
    counter: Arc<TrafficCounter>,
    changes: watch::Sender<u64>,
    /// How many tables have been applied.
    n_applied: AtomicU64,
}

impl Router {
    /// Routes of an edge in this region from the feed's present table.
    pub(crate) fn new(
        region: RegionCode,
        mut feed: TrafficFeed,
        counter: Arc<TrafficCounter>,
    ) -> Arc<Self> {
        feed.mark_changed();
        let router = Arc::new(Self {
            region,
            routes: ArcSwap::default(),
            feed: Mutex::new(feed),
            tables: Mutex::default(),
            counter: counter.clone(),
            changes: watch::Sender::new(0),
            n_applied: AtomicU64::new(0),
        });
        counter.attach(&router);
        router.refresh();
        router
    }

    /// Where requests are counted.
    pub(crate) fn counter(&self) -> &TrafficCounter {
        &self.counter
    }

    /// The snapshot now.
    pub(crate) fn routes(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// A wake-up at each change of the routes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Has those that wait look again.
    pub(crate) fn nudge(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    /// How many tables have been applied.
    pub(crate) fn version(&self) -> u64 {
        self.n_applied.load(Ordering::Relaxed)
    }

    /// A receiver of the feed for the task that waits for changes.
    pub(crate) fn feed(&self) -> TrafficFeed {
        self.feed.lock().clone()
    }

    /// The endpoints of this node's machines.
    pub(crate) fn own_targets(&self) -> Vec<Arc<Target>> {
        let own = self.tables.lock().own.clone();
        let routes = self.routes.load();
        let apps = own.iter().filter_map(|(name, _)| routes.app(name.as_str()));
        let targets = apps.flat_map(|app| app.targets());
        let own = targets.filter(|target| target.endpoint.node.is_none());
        own.cloned().collect()
    }

    /// Takes the tables of another feed from here on, beginning with its present one.
    pub(crate) fn follow(&self, mut feed: TrafficFeed) {
        feed.mark_changed();
        *self.feed.lock() = feed;
        self.refresh();
    }

    /// Applies the newest table, if it has not been applied yet.
    pub(crate) fn refresh(&self) {
        let mut feed = self.feed.lock();
        // An error means that the worker is gone: the last table stays.
        if !feed.has_changed().unwrap_or(false) {
            return;
        }
        let table = feed.borrow_and_update().clone();
        let mut tables = self.tables.lock();
        let before = std::mem::replace(&mut tables.own, table.clone());
        self.apply(&tables, &before.changed(&table));
    }

    /// Takes the machines of another node, as its edge tells of them.
    pub(crate) fn learn(&self, node: &PeerNode, table: TrafficTable) {
        let mut tables = self.tables.lock();
        let before = tables.learned.insert(node.id.to_string(), table.clone());
        self.apply(&tables, &before.unwrap_or_default().changed(&table));
    }

    /// Takes that a node is so far from here from now on.
    pub(crate) fn is_at(&self, node: &PeerNode, distance: Distance) {
        let mut tables = self.tables.lock();
        tables.distances.insert(node.id.to_string(), distance);
        self.apply(&tables, &tables.apps_at(node));
    }

    /// Derives the routes of these apps anew.
    fn apply(&self, tables: &Tables, changed: &[&AppName]) {
        let mut routes = Routes::clone(&self.routes.load());
        let mut replaced = Vec::new();
        for &name in changed {
            let old = routes.app(name.as_str());
            let traffic = tables.traffic(name);
            let is_moved = |old: &Arc<AppRoute>| {
                let mut targets = old.targets.iter();
                targets.any(|it| it.distance != tables.distance(&it.endpoint))
            };
            // A table may change in what others know better.
            if old.map(|old| &old.traffic) == traffic.as_ref() && !old.is_some_and(is_moved) {
                continue;
            }
            let derive = |traffic| self.derive_app(tables, name, &traffic, old.map(AsRef::as_ref));
            let new = traffic.map(|traffic| Arc::new(derive(traffic)));
            let old = routes.set(name, new.clone());
            replaced.push((old, new));
        }
        self.routes.store(Arc::new(routes));
        for old in replaced.iter().filter_map(|(old, _)| old.as_ref()) {
            old.is_replaced.store(true, Ordering::SeqCst);
        }
        for (old, new) in &replaced {
            let new = new.iter().flat_map(|app| &app.targets);
            for target in new.clone() {
                let takes_nothing_new = matches!(
                    target.endpoint.health,
                    EndpointHealth::Draining | EndpointHealth::Asleep(_)
                );
                target.pool.set_open(!takes_nothing_new);
            }
            for gone in old.iter().flat_map(|app| &app.targets) {
                if !new.clone().any(|new| Arc::ptr_eq(&new.pool, &gone.pool)) {
                    gone.pool.set_open(false);
                }
            }
        }
        drop(replaced);
        self.counter.prune();
        self.n_applied.fetch_add(1, Ordering::Relaxed);
        self.nudge();
    }

    fn derive_app(
        &self,
        tables: &Tables,
        name: &AppName,
        traffic: &Arc<AppTraffic>,
        old: Option<&AppRoute>,
    ) -> AppRoute {
        let freed = old.map_or_else(Arc::default, |old| old.freed.clone());
        let meter = old.map_or_else(Arc::<Meter>::default, |old| old.meter.clone());
        let is_split = traffic.endpoints.iter().any(|it| it.split.is_some());
        let mut tallies = Tallies::going_on(is_split, old);
        let target = |endpoint: &Endpoint| {
            let same = |target: &&Arc<Target>| {
                target.endpoint.machine_id == endpoint.machine_id
                    && target.endpoint.address == endpoint.address
                    // Two services may lead to the same port of the machine.
                    && target.endpoint.service.ports == endpoint.service.ports
                    && target.endpoint.service.protocol == endpoint.service.protocol
            };
            let old = old.and_then(|old| old.targets.iter().find(same));
            let load = old.map_or_else(|| Load::new(&freed), |old| old.load.clone());
            if old.is_none_or(|old| old.endpoint.health != EndpointHealth::Passing) {
                load.begins();
            }
            load.wake.seen(&endpoint.health);
            Arc::new(Target {
                app: name.clone(),
                endpoint: endpoint.clone(),
                pool: old.map_or_else(Pool::new, |old| old.pool.clone()),
                in_flight: self.counter.counter(&endpoint.machine_id),
                load,
                series: meter.series(&endpoint.region),
                tally: tallies.of(endpoint),
                distance: tables.distance(endpoint),
                is_near: endpoint.region == self.region,
            })
        };
        let targets: Vec<Arc<Target>> = traffic.endpoints.iter().map(target).collect();
        let services = traffic.endpoints.iter().map(|endpoint| &endpoint.service);
        let numbers: BTreeSet<(Protocol, u16)> = services
            .flat_map(|service| {
                let numbers = service.ports.iter().flat_map(|port| port.ports.iter());
                numbers.map(|number| (service.protocol, number))
            })
            .collect();
        // Ports of one service share a queue: whoever came first is served first by either.
        let mut queues: HashMap<*const Target, Arc<Queue>> = HashMap::new();
        let route = |(protocol, number)| {
            let old = old.and_then(|old| old.port_of(protocol, number));
            let first = targets
                .iter()
                .find(|t| t.port_of(protocol, number).is_some())?;
            let queue = queues
                .entry(Arc::as_ptr(first))
                .or_insert_with(|| old.map_or_else(|| Queue::new(&freed), |old| old.queue.clone()));
            let queue = old.map_or(&*queue, |old| &old.queue).clone();
            PortRoute::new((protocol, number), &targets, queue, old)
        };
        let ports: Vec<PortRoute> = numbers.into_iter().filter_map(route).collect();
        let mut rules = ports.iter().map(|port| &port.rule.http);
        AppRoute {
            has_affinity: rules.any(|http| http.session_affinity.is_some()),
            name: old.map_or_else(|| Arc::new(name.clone()), |old| old.name.clone()),
            is_split,
            traffic: traffic.clone(),
            budget: old.map_or_else(Arc::default, |old| old.budget.clone()),
            replays: old.map_or_else(Arc::default, |old| old.replays.clone()),
            rates: old.map_or_else(Arc::default, |old| old.rates.clone()),
            meter,
            ports,
            freed,
            targets,
            is_replaced: AtomicBool::new(false),
        }
    }

    /// Closes back-end connections that have been idle for longer than `limit`.
    pub(crate) fn reap(&self, limit: std::time::Duration) {
        for target in self.routes.load().targets() {
            target.pool.reap(limit, target.in_flight.is_idle());
        }
    }
}

/// The app label of a host name in lower case, when the rest is one of the domains.
pub(crate) fn app_of_host<'a>(host: &'a str, domains: &[String]) -> Option<&'a str> {
    let (app, rest) = host.split_once('.')?;
    let is_label = !app.is_empty()
        && app
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (is_label && host.len() < limits::HOST_BYTES_MAX && domains.iter().any(|domain| domain == rest))
        .then_some(app)
}

#[cfg(test)]
mod tests;
