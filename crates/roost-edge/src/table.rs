//! The routes: an immutable snapshot derived from the worker's table.
//!
//! Readers load a pointer and take no lock. One writer at a time derives the
//! next snapshot and carries over what lives longer than a table: connection
//! pools, counts, the turn of round robin. An app that nobody has asked for is
//! only listed; its route is made by who asks first ([`derive::Listed`]).

mod derive;
mod port;
mod target;

pub(crate) use port::PortRoute;
pub(crate) use target::Target;

use derive::{Listed, Maker};

use crate::gauge::TrafficCounter;
use crate::limits;
use crate::load::Freed;
use crate::meter::Meter;
use crate::rates::AppRates;
use crate::relay::distance::Distance;
use crate::replay_cache::ReplayCache;
use crate::retry::RetryBudget;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use roost_model::app_map::AppMap;
use roost_model::machine::{Protocol, Service};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{
    AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficFeed, TrafficTable,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;

/// One app with its endpoints.
#[derive(Debug)]
pub(crate) struct AppRoute {
    /// Shared with what outlives the route: records of long answers.
    pub(crate) name: Arc<AppName>,
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
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    apps: AppMap<Arc<Listed>>,
    /// Those of them that ask for ports of their own.
    with_ports: AppMap<Arc<AppRoute>>,
    /// Those of them of which a release is tried out.
    split: AppMap<Arc<AppRoute>>,
    maker: Arc<Maker>,
}

impl Routes {
    /// The route of an app.
    pub(crate) fn app(&self, name: &str) -> Option<&Arc<AppRoute>> {
        let (name, listed) = self.apps.get_key_value(name)?;
        Some(listed.route(name, &self.maker))
    }

    /// The machines of an app.
    pub(crate) fn endpoints(&self, name: &str) -> &[Endpoint] {
        let listed = self.apps.get(name);
        listed.map_or(&[], |listed| &listed.traffic.endpoints)
    }

    /// All apps that somebody has asked for.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &AppRoute> {
        let made = self.apps.values().filter_map(|listed| listed.made());
        made.map(AsRef::as_ref)
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
        self.asked().flat_map(|app| &app.targets)
    }

    /// Lists an app in another way, or not at all; how it was listed.
    fn set(&mut self, name: &AppName, app: Option<Arc<Listed>>) -> Option<Arc<Listed>> {
        let route = app.as_ref().and_then(|app| app.made());
        let has_ports = |app: &&Arc<AppRoute>| app.own_ports().next().is_some();
        match route.filter(has_ports) {
            Some(app) => self.with_ports.insert(name.clone(), app.clone()),
            None => self.with_ports.remove(name.as_str()),
        };
        match route.filter(|app| app.is_split) {
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
}

impl Tables {
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
        let routes = Routes {
            apps: AppMap::new(),
            with_ports: AppMap::new(),
            split: AppMap::new(),
            maker: Arc::new(Maker {
                region,
                counter: counter.clone(),
                distances: BTreeMap::new(),
            }),
        };
        let router = Arc::new(Self {
            routes: ArcSwap::from_pointee(routes),
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

    /// The endpoints of this node's machines, of apps that somebody has asked for.
    pub(crate) fn own_targets(&self) -> Vec<Arc<Target>> {
        let own = self.tables.lock().own.clone();
        let routes = self.routes.load();
        let listed = own
            .iter()
            .filter_map(|(name, _)| routes.apps.get(name.as_str()));
        let apps = listed.filter_map(|listed| listed.made());
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
    pub(crate) fn learn(&self, node: &PeerNode, mut table: TrafficTable) {
        let mut tables = self.tables.lock();
        let before = tables.learned.remove(node.id.as_str()).unwrap_or_default();
        table.share(&before);
        tables.learned.insert(node.id.to_string(), table.clone());
        self.apply(&tables, &before.changed(&table));
    }

    /// Takes that a node is so far from here from now on.
    pub(crate) fn is_at(&self, node: &PeerNode, distance: Distance) {
        let tables = self.tables.lock();
        let mut maker = Maker::clone(&self.routes.load().maker);
        maker.distances.insert(node.id.to_string(), distance);
        self.apply_with(Arc::new(maker), &tables, &tables.apps_at(node));
    }

    /// Lists these apps anew.
    fn apply(&self, tables: &Tables, changed: &[&AppName]) {
        let maker = self.routes.load().maker.clone();
        self.apply_with(maker, tables, changed);
    }

    fn apply_with(&self, maker: Arc<Maker>, tables: &Tables, changed: &[&AppName]) {
        let mut routes = Routes::clone(&self.routes.load());
        routes.maker = maker.clone();
        let mut replaced = Vec::new();
        for &name in changed {
            let old = routes.apps.get(name.as_str());
            let route = old.and_then(|old| old.latest());
            let traffic = tables.traffic(name);
            let is_moved = |route: &Arc<AppRoute>| {
                let mut targets = route.targets.iter();
                targets.any(|it| it.distance != maker.distance(&it.endpoint))
            };
            // A table may change in what others know better. Of an app that nobody has asked for
            // somebody may make a route just now, by what was known before.
            let is_same = old.map(|old| &old.traffic) == traffic.as_ref();
            if is_same && route.as_ref().is_some_and(|route| !is_moved(route)) {
                continue;
            }
            let new = traffic.map(|traffic| {
                let listed = Arc::new(Listed::new(traffic, old.cloned()));
                if route.is_some() || listed.is_looked_for() {
                    listed.route(name, &maker);
                }
                listed
            });
            let old = routes.set(name, new.clone());
            replaced.push((old, new));
        }
        self.routes.store(Arc::new(routes));
        for old in replaced.iter().filter_map(|(old, _)| old.as_ref()) {
            old.is_replaced();
        }
        for (old, new) in &replaced {
            let targets_of = |listed: &Option<Arc<Listed>>| {
                let route = listed.as_ref().and_then(|listed| listed.latest());
                route.map_or_else(Vec::new, |route| route.targets.clone())
            };
            let new = targets_of(new);
            for target in &new {
                let takes_nothing_new = matches!(
                    target.endpoint.health,
                    EndpointHealth::Draining | EndpointHealth::Asleep(_)
                );
                target.pool.set_open(!takes_nothing_new);
            }
            for gone in targets_of(old) {
                if !new.iter().any(|new| Arc::ptr_eq(&new.pool, &gone.pool)) {
                    gone.pool.set_open(false);
                }
            }
        }
        drop(replaced);
        self.counter.prune();
        self.n_applied.fetch_add(1, Ordering::Relaxed);
        self.nudge();
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
