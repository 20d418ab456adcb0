//! How an app is routed, made of its machines as the table has them.
//!
//! Most of many apps are not asked, and a route takes ten times the room of what it is made of. So
//! it is made when somebody asks for the app first ([`Listed::route`]), and from then on at each
//! change, since it carries over what lives longer than a table.

use super::{AppRoute, PortRoute, Target};
use crate::gauge::TrafficCounter;
use crate::load::{Load, Queue};
use crate::meter::Meter;
use crate::pool::Pool;
use crate::relay::distance::Distance;
use crate::tally::Tallies;
use parking_lot::Mutex;
use roost_model::machine::{Protocol, Service};
use roost_model::name::{AppName, RegionCode};
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

/// An app of the table.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) traffic: Arc<AppTraffic>,
    route: OnceLock<Arc<AppRoute>>,
    /// Whether the app is listed in another way by now, or not at all.
    is_replaced: AtomicBool,
    /// How it was listed before, until the route is made: somebody may ask there for the first time
    /// while it is replaced, and what is counted there goes on here.
    before: Mutex<Option<Arc<Self>>>,
}

impl Listed {
    /// An app with these machines, which was listed like that before.
    pub(super) fn new(traffic: Arc<AppTraffic>, before: Option<Arc<Self>>) -> Self {
        if let Some(before) = &before {
            // No further back: whoever asks there has asked long ago.
            before.before.lock().take();
        }
        Self {
            traffic,
            route: OnceLock::new(),
            is_replaced: AtomicBool::new(false),
            before: Mutex::new(before),
        }
    }

    /// Its route, made now if there is none.
    pub(super) fn route(&self, name: &AppName, maker: &Maker) -> &Arc<AppRoute> {
        let route = self.route.get().unwrap_or_else(|| {
            let make = || {
                let before = self.before.lock().take();
                let old = before.as_ref().and_then(|before| before.made());
                Arc::new(maker.route(name, &self.traffic, old.map(AsRef::as_ref)))
            };
            let route = self.route.get_or_init(make);
            fence(Ordering::SeqCst);
            route
        });
        // Whoever has replaced it may not have seen the route that was made just now: there is a
        // full fence between the two steps of either.
        if self.is_replaced.load(Ordering::SeqCst) {
            route.is_replaced.store(true, Ordering::SeqCst);
        }
        route
    }

    /// The app is listed in another way, or not at all.
    pub(super) fn is_replaced(&self) {
        self.is_replaced.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(route) = self.route.get() {
            route.is_replaced.store(true, Ordering::SeqCst);
        }
    }

    /// Its route, if it has one.
    pub(super) fn made(&self) -> Option<&Arc<AppRoute>> {
        self.route.get()
    }

    /// Its route, or the one before, if there is one.
    pub(super) fn latest(&self) -> Option<Arc<AppRoute>> {
        let before = || self.before.lock().as_ref()?.made().cloned();
        self.made().cloned().or_else(before)
    }

    /// Whether its route is asked for by more than its name: it has ports of its own, or a release
    /// is tried out.
    pub(super) fn is_looked_for(&self) -> bool {
        let shared = [Service::HTTP_PORT, Service::HTTPS_PORT];
        let has_own_ports = |service: &Service| {
            let mut numbers = service.ports.iter().flat_map(|port| port.ports.iter());
            service.protocol != Protocol::Tcp || numbers.any(|number| !shared.contains(&number))
        };
        let mut endpoints = self.traffic.endpoints.iter();
        endpoints.any(|it| it.split.is_some() || has_own_ports(&it.service))
    }
}

/// What routes are made with.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    /// That of the edge.
    pub(super) region: RegionCode,
    /// Where requests are counted.
    pub(super) counter: Arc<TrafficCounter>,
    /// By node: how far it is.
    pub(super) distances: BTreeMap<String, Distance>,
}

impl Maker {
    /// How far the node of an endpoint is.
    pub(super) fn distance(&self, endpoint: &Endpoint) -> Option<Distance> {
        let Some(node) = &endpoint.node else {
            return Some(0);
        };
        self.distances.get(node.id.as_str()).copied()
    }

    fn route(&self, name: &AppName, traffic: &AppTraffic, old: Option<&AppRoute>) -> AppRoute {
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
                distance: self.distance(endpoint),
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
}
