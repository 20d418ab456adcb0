//! What edges tell each other of the load of their machines, on the stream of
//! their tables.
//!
//! An edge counts what it sends to a machine; what others send there only the
//! edge of the machine's node knows. That one tells all that its machines are
//! serving, and who hears it takes off the most that it had there itself since
//! the time before, since some of that may have ended while the line was on its
//! way: the rest is served for others ([`crate::load::Load::told`]). That may be
//! too few, until the next time. An edge tells when a request has begun or
//! ended, at most once a second, and every few seconds in any case. What it told
//! counts as long as the stream stands: an edge that is silent loses it, by the
//! PING of its connection.

use crate::limits;
use crate::load::Load;
use crate::relay::lines::{OwnLine, check_size};
use crate::table::{Router, Routes, Target};
use roost_model::machine::Protocol;
use roost_proto::peer_loads::{self, ServiceLoad};
use roost_proto::traffic::PeerNode;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The loads of this node's machines, read once for all that follow them.
#[derive(Debug, Default)]
pub(crate) struct OwnLoads(OwnLine<Vec<(ServiceLoad, u64)>>);

impl OwnLoads {
    /// The line to tell: the same one as before if nothing has changed.
    pub(crate) fn line(&self, router: &Router) -> Arc<str> {
        let read = || read(router);
        self.0.get(read, |seen| {
            let loads = seen.iter().map(|(load, _)| load.clone()).collect();
            peer_loads::to_line(loads, limits::RELAY_LOADS_MAX).into()
        })
    }
}

/// What is serving something, with a number that another request changes: of as many requests
/// there may be fewer of the edge that asks.
fn read(router: &Router) -> Vec<(ServiceLoad, u64)> {
    let targets = router.own_targets();
    let busy = targets.iter().filter_map(|target| {
        let load = target.load.now();
        let (protocol, port) = target.first_port().filter(|_| load > 0)?;
        let service = ServiceLoad {
            app: target.app.clone(),
            machine: target.endpoint.machine_id.clone(),
            protocol,
            port,
            load: u32::try_from(load).unwrap_or(u32::MAX),
        };
        Some((service, target.in_flight.n_begun()))
    });
    busy.collect()
}

/// What a stream has told of the machines of a node; forgotten when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Told(Vec<Arc<Load>>);

impl Told {
    /// Takes a line of them. After one that is not understood nothing is known any more: what was
    /// told before may have changed with it.
    pub(crate) fn hear(
        &mut self,
        router: &Router,
        node: &PeerNode,
        line: &str,
    ) -> Result<(), String> {
        let told = rows(line).inspect_err(|_| self.forget())?;
        let routes = router.routes();
        let loads = loads_of(&routes, node, &told);
        let take = |told: &ServiceLoad| {
            let (app, machine) = (told.app.as_str(), told.machine.as_str());
            let key: Key<'_> = (app, machine, told.protocol, told.port);
            let load: &Arc<Load> = loads.get(&key)?;
            let count = told.load.min(limits::RELAY_LOAD_MAX);
            load.told(usize::try_from(count).unwrap_or(usize::MAX));
            Some(load.clone())
        };
        let now: Vec<Arc<Load>> = told.iter().filter_map(take).collect();
        let named: HashSet<*const Load> = now.iter().map(Arc::as_ptr).collect();
        for before in std::mem::replace(&mut self.0, now) {
            if !named.contains(&Arc::as_ptr(&before)) {
                before.told(0);
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        for load in self.0.drain(..) {
            load.told(0);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.forget();
    }
}

/// App, machine, protocol and port: how a row names a service.
type Key<'a> = (&'a str, &'a str, Protocol, u16);

/// By what rows name them: the services of a node's machines, of the apps
/// that these rows name. Of the machines of others the node has nothing to say.
fn loads_of<'a>(
    routes: &'a Routes,
    node: &PeerNode,
    told: &'a [ServiceLoad],
) -> HashMap<Key<'a>, &'a Arc<Load>> {
    let apps: HashSet<&str> = told.iter().map(|it| it.app.as_str()).collect();
    let apps = apps.into_iter().filter_map(|name| routes.app(name));
    let is_there = |target: &&Arc<Target>| {
        let at = target.endpoint.node.as_ref();
        at.is_some_and(|it| it.id == node.id)
    };
    let targets = apps.flat_map(|app| app.targets()).filter(is_there);
    let by_name = targets.filter_map(|target| {
        let (protocol, port) = target.first_port()?;
        let machine = target.endpoint.machine_id.as_str();
        let key = (target.app.as_str(), machine, protocol, port);
        Some((key, &target.load))
    });
    by_name.collect()
}

fn rows(line: &str) -> Result<Vec<ServiceLoad>, String> {
    check_size(line, "loads", limits::RELAY_LOADS_BYTES_MAX)?;
    peer_loads::from_line(line, limits::RELAY_LOADS_MAX)
}

#[cfg(test)]
mod tests {
    use super::{OwnLoads, Told};
    use crate::gauge::{InFlight, TrafficCounter};
    use crate::limits;
    use crate::table::{Router, Target};
    use roost_model::id::{MachineId, NodeId};
    use roost_model::machine::Service;
    use roost_model::name::{AppName, RegionCode};
    use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, PeerNode, TrafficTable};
    use std::sync::Arc;

    fn node(number: u128) -> Arc<PeerNode> {
        Arc::new(PeerNode {
            id: NodeId::from_ulid(ulid::Ulid::from(number)),
            edge: "192.0.2.1:4282".parse().unwrap(),
        })
    }

    /// Machines 1, 2, … of these nodes; 0 is the edge's own.
    fn router(nodes: &[u128]) -> Arc<Router> {
        let endpoints = nodes.iter().zip(1..).map(|(&at, number)| Endpoint {
            machine_id: MachineId::from_bytes([number; 7]),
            region: RegionCode::parse("local").unwrap(),
            release: None,
            split: None,
            statics: [].into(),
            address: "127.0.0.1:1".parse().unwrap(),
            node: (at > 0).then(|| node(at)),
            health: EndpointHealth::Passing,
            service: Service::http(1).into(),
        });
        let endpoints = endpoints.collect();
        let app = AppName::parse("web").unwrap();
        let table = TrafficTable::from([(app, AppTraffic { endpoints })]);
        let (_sender, feed) = tokio::sync::watch::channel(Arc::new(table));
        let region = RegionCode::parse("local").unwrap();
        Router::new(region, feed, TrafficCounter::new())
    }

    fn target(router: &Router, number: usize) -> Arc<Target> {
        let app = router.routes().app("web").unwrap().clone();
        app.targets().nth(number - 1).unwrap().clone()
    }

    fn line(loads: &[(u8, u32)]) -> String {
        let row = |(machine, load): &(u8, u32)| {
            let machine = MachineId::from_bytes([*machine; 7]);
            format!("{{\"app\":\"web\",\"machine\":\"{machine}\",\"port\":80,\"load\":{load}}}")
        };
        let rows: Vec<String> = loads.iter().map(row).collect();
        format!("{{\"loads\":[{}]}}\n", rows.join(","))
    }

    #[test]
    fn the_share_of_others_is_what_is_told_without_ones_own() {
        let router = router(&[2, 2]);
        let (one, two) = (target(&router, 1), target(&router, 2));
        let busy = [
            InFlight::begin(&one).unwrap(),
            InFlight::begin(&one).unwrap(),
        ];
        let mut told = Told::default();
        told.hear(&router, &node(2), &line(&[(1, 7), (2, 3)]))
            .unwrap();
        assert_eq!((one.load.everywhere(), two.load.everywhere()), (7, 3));
        assert_eq!(one.load.now(), 2);
        // What ends and begins here is known at once.
        drop(busy);
        let busy = InFlight::begin(&two).unwrap();
        assert_eq!((one.load.everywhere(), two.load.everywhere()), (5, 4));
        // One's own are on the way, and not counted there yet.
        told.hear(&router, &node(2), &line(&[])).unwrap();
        assert_eq!((one.load.everywhere(), two.load.everywhere()), (0, 1));
        drop(busy);
    }

    #[test]
    fn what_ended_while_the_line_was_on_its_way_is_not_served_for_others() {
        let router = router(&[2]);
        let one = target(&router, 1);
        let mut told = Told::default();
        let busy = [
            InFlight::begin(&one).unwrap(),
            InFlight::begin(&one).unwrap(),
        ];
        drop(busy);
        told.hear(&router, &node(2), &line(&[(1, 3)])).unwrap();
        assert_eq!((one.load.now(), one.load.everywhere()), (0, 1));
        // When the next one was written they had ended.
        told.hear(&router, &node(2), &line(&[(1, 3)])).unwrap();
        assert_eq!((one.load.now(), one.load.everywhere()), (0, 3));
        // What it has not taken is not in what it tells of.
        drop(InFlight::begin(&one).unwrap());
        one.load.was_not_taken();
        told.hear(&router, &node(2), &line(&[(1, 3)])).unwrap();
        assert_eq!(one.load.everywhere(), 3);
        // What is under way all the time is taken off each time.
        let _busy = InFlight::begin(&one).unwrap();
        for _ in 0..2 {
            told.hear(&router, &node(2), &line(&[(1, 3)])).unwrap();
            assert_eq!(one.load.everywhere(), 3);
        }
    }

    #[test]
    fn an_edge_is_believed_of_its_own_machines_as_long_as_it_tells() {
        let router = router(&[2, 3, 0]);
        let loads = || [1, 2, 3].map(|number| target(&router, number).load.everywhere());
        let mut told = Told::default();
        let all = line(&[(1, 7), (2, 8), (3, 9), (4, 10)]);
        told.hear(&router, &node(2), &all).unwrap();
        assert_eq!(loads(), [7, 0, 0]);
        let mut other = Told::default();
        other.hear(&router, &node(3), &all).unwrap();
        assert_eq!(loads(), [7, 8, 0]);
        // After what is not understood nothing is known, until the next line that is.
        let too_long = " ".repeat(limits::RELAY_LOADS_BYTES_MAX + 1);
        for bad in ["{}", "{\"loads\":1}", &too_long] {
            assert!(told.hear(&router, &node(2), bad).is_err());
            assert_eq!(loads(), [0, 8, 0]);
            told.hear(&router, &node(2), &all).unwrap();
            assert_eq!(loads(), [7, 8, 0]);
        }
        drop(told);
        assert_eq!(loads(), [0, 8, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_line_is_told_until_a_request_has_begun_or_ended() {
        let router = router(&[0, 2]);
        let (own, other) = (target(&router, 1), target(&router, 2));
        let loads = OwnLoads::default();
        let next = async || {
            tokio::time::advance(limits::RELAY_LOADS_PAUSE).await;
            loads.line(&router)
        };
        let nothing = next().await;
        assert_eq!(*nothing, line(&[]));
        // What is sent to a machine of another node is for that one to tell.
        let _other = InFlight::begin(&other).unwrap();
        assert!(Arc::ptr_eq(&nothing, &next().await));
        let busy = InFlight::begin(&own).unwrap();
        let one = next().await;
        assert_eq!(*one, line(&[(1, 1)]));
        assert!(Arc::ptr_eq(&one, &next().await));
        // As many, but not the same ones: the shares of those who hear it are other ones.
        drop(busy);
        let _busy = InFlight::begin(&own).unwrap();
        let same = next().await;
        assert!(*same == *one && !Arc::ptr_eq(&same, &one));
        // Not oftener than that, however many ask.
        let _more = InFlight::begin(&own).unwrap();
        assert!(Arc::ptr_eq(&same, &loads.line(&router)));
        assert_eq!(*next().await, line(&[(1, 2)]));
    }
}
