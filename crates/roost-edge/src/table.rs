//! The routes: an immutable snapshot derived from the worker's table.
//!
//! Readers load a pointer and take no lock. One writer at a time derives the
//! next snapshot and carries over what lives longer than a table: connection
//! pools, counts, the turn of round robin.

use crate::gauge::TrafficCounter;
use crate::limits;
use crate::pool::Pool;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use roost_model::name::AppName;
use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficFeed, TrafficTable};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use tokio::sync::watch;

/// One endpoint with what the edge keeps about it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) pool: Arc<Pool>,
    pub(crate) in_flight: Arc<AtomicUsize>,
}

/// One app with its endpoints.
#[derive(Debug)]
pub(crate) struct AppRoute {
    pub(crate) name: AppName,
    pub(crate) traffic: AppTraffic,
    /// All endpoints.
    pub(crate) targets: Vec<Arc<Target>>,
    /// Those that take new requests.
    pub(crate) passing: Vec<Arc<Target>>,
    turn: Arc<AtomicUsize>,
}

impl AppRoute {
    /// The position in `passing` at which the next request begins.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// All routes at one moment.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    apps: HashMap<String, Arc<AppRoute>>,
}

impl Routes {
    /// The route of an app.
    pub(crate) fn app(&self, name: &str) -> Option<&Arc<AppRoute>> {
        self.apps.get(name)
    }

    fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.apps.values().flat_map(|app| &app.targets)
    }
}

/// Keeps the newest snapshot.
#[derive(Debug)]
pub(crate) struct Router {
    routes: ArcSwap<Routes>,
    feed: Mutex<TrafficFeed>,
    counter: Arc<TrafficCounter>,
    changes: watch::Sender<u64>,
}

impl Router {
    /// Routes from the feed's present table.
    pub(crate) fn new(mut feed: TrafficFeed, counter: Arc<TrafficCounter>) -> Arc<Self> {
        feed.mark_changed();
        let router = Arc::new(Self {
            routes: ArcSwap::default(),
            feed: Mutex::new(feed),
            counter: counter.clone(),
            changes: watch::Sender::new(0),
        });
        counter.attach(&router);
        router.refresh();
        router
    }

    /// The snapshot now.
    pub(crate) fn routes(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Whether these are still the routes of this app.
    ///
    /// A pick asks after it has counted itself; see [`crate::gauge`].
    pub(crate) fn is_current(&self, app: &Arc<AppRoute>) -> bool {
        fence(Ordering::SeqCst);
        self.routes
            .load()
            .app(app.name.as_str())
            .is_some_and(|now| Arc::ptr_eq(now, app))
    }

    /// A wake-up at each change of the routes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A receiver of the feed for the task that waits for changes.
    pub(crate) fn feed(&self) -> TrafficFeed {
        self.feed.lock().clone()
    }

    /// Applies the newest table, if it has not been applied yet.
    pub(crate) fn refresh(&self) {
        let mut feed = self.feed.lock();
        // An error means that the worker is gone: the last table stays.
        if !feed.has_changed().unwrap_or(false) {
            return;
        }
        let table = feed.borrow_and_update().clone();
        let old = self.routes.load_full();
        let new = Arc::new(self.derive(&old, &table));
        self.routes.store(new.clone());
        fence(Ordering::SeqCst);
        for target in new.targets() {
            target
                .pool
                .set_open(target.endpoint.health != EndpointHealth::Draining);
        }
        let kept: std::collections::HashSet<*const Pool> = new
            .targets()
            .map(|target| Arc::as_ptr(&target.pool))
            .collect();
        for gone in old
            .targets()
            .filter(|target| !kept.contains(&Arc::as_ptr(&target.pool)))
        {
            gone.pool.set_open(false);
        }
        drop(old);
        self.counter.prune();
        self.changes.send_modify(|version| *version += 1);
    }

    fn derive(&self, old: &Routes, table: &TrafficTable) -> Routes {
        let apps = table.iter().map(|(name, traffic)| {
            let old = old.apps.get(name.as_str());
            let route = match old {
                Some(old) if old.traffic == *traffic => old.clone(),
                _ => Arc::new(self.derive_app(name, traffic, old.map(AsRef::as_ref))),
            };
            (name.as_str().to_owned(), route)
        });
        Routes {
            apps: apps.collect(),
        }
    }

    fn derive_app(&self, name: &AppName, traffic: &AppTraffic, old: Option<&AppRoute>) -> AppRoute {
        let targets: Vec<Arc<Target>> = traffic
            .endpoints
            .iter()
            .map(|endpoint| {
                let same = |target: &&Arc<Target>| {
                    target.endpoint.machine_id == endpoint.machine_id
                        && target.endpoint.address == endpoint.address
                        && target.endpoint.h2_backend == endpoint.h2_backend
                };
                let pool = old
                    .and_then(|old| old.targets.iter().find(same))
                    .map_or_else(Pool::new, |target| target.pool.clone());
                let in_flight = self.counter.counter(&endpoint.machine_id);
                Arc::new(Target {
                    endpoint: endpoint.clone(),
                    pool,
                    in_flight,
                })
            })
            .collect();
        let passing = targets
            .iter()
            .filter(|t| t.endpoint.health == EndpointHealth::Passing)
            .cloned()
            .collect();
        let turn = old.map_or_else(Arc::default, |old| old.turn.clone());
        AppRoute {
            name: name.clone(),
            traffic: traffic.clone(),
            targets,
            passing,
            turn,
        }
    }

    /// Closes back-end connections that have been idle for longer than `limit`.
    pub(crate) fn reap(&self, limit: std::time::Duration) {
        for target in self.routes.load().targets() {
            target
                .pool
                .reap(limit, target.in_flight.load(Ordering::Relaxed) == 0);
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
mod tests {
    use super::{Router, app_of_host};
    use crate::gauge::{InFlight, TrafficCounter};
    use roost_model::{id::MachineId, name::AppName, name::RegionCode};
    use roost_proto::traffic::{
        AppTraffic, Endpoint, EndpointHealth, TrafficGauge as _, TrafficTable,
    };
    use std::sync::Arc;

    fn table(health: EndpointHealth) -> Arc<TrafficTable> {
        let endpoint = Endpoint {
            machine_id: MachineId::from_bytes([1; 7]),
            region: RegionCode::parse("local").unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            health,
            h2_backend: false,
        };
        let traffic = AppTraffic {
            endpoints: vec![endpoint],
            force_https: false,
        };
        Arc::new([(AppName::parse("a").unwrap(), traffic)].into())
    }

    #[test]
    fn only_one_label_under_a_domain_is_an_app() {
        let domains = ["localhost".to_owned(), "apps.example.com".to_owned()];
        assert_eq!(app_of_host("a.localhost", &domains), Some("a"));
        assert_eq!(app_of_host("a-1.apps.example.com", &domains), Some("a-1"));
        for none in [
            "localhost",
            ".localhost",
            "a.b.localhost",
            "a.example.com",
            "a",
            "",
            "a/.localhost",
        ] {
            assert_eq!(app_of_host(none, &domains), None, "{none}");
        }
    }

    #[test]
    fn a_reading_of_the_gauge_applies_the_newest_table_first() {
        let (sender, feed) = tokio::sync::watch::channel(table(EndpointHealth::Passing));
        let counter = TrafficCounter::new();
        let router = Router::new(feed, counter.clone());
        let app = router.routes().app("a").unwrap().clone();
        let guard = InFlight::begin(&app.passing[0].in_flight);
        assert!(router.is_current(&app));
        sender.send(table(EndpointHealth::Draining)).unwrap();
        let machine = MachineId::from_bytes([1; 7]);
        assert_eq!(counter.in_flight(&machine), 1);
        assert!(!router.is_current(&app), "the pick has to look again");
        assert!(router.routes().app("a").unwrap().passing.is_empty());
        sender.send(Arc::default()).unwrap();
        assert_eq!(
            counter.in_flight(&machine),
            1,
            "a machine that left the table still has its request"
        );
        drop((guard, app));
        assert_eq!(counter.in_flight(&machine), 0);
    }
}
