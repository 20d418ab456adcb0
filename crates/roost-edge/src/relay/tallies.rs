//! What edges tell each other of the releases that are tried out, on the stream
//! of their tables.
//!
//! An edge tells all that its [tallies](crate::tally) have counted, at most once a
//! second and when something has changed. What it told counts as long as the stream
//! stands; whoever reads it ([`reading`]) keeps what he has read, and hears who does not tell.

use crate::limits;
use crate::relay::lines::{OwnLine, check_size};
use crate::shared::Shared;
use crate::table::Router;
use crate::tally;
use parking_lot::Mutex;
use roost_model::id::NodeId;
use roost_model::name::AppName;
use roost_proto::peer_tallies::{self, AppTally};
use roost_proto::release_traffic::Reading;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What those edges have told last whose streams stand, by node.
#[derive(Debug, Default)]
pub(crate) struct PeerTallies(Mutex<HashMap<NodeId, Vec<AppTally>>>);

/// What one stream tells; forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct ToldTallies<'a> {
    all: &'a PeerTallies,
    node: &'a NodeId,
}

impl PeerTallies {
    /// A stream of this node's edge begins.
    pub(crate) fn of<'a>(&'a self, node: &'a NodeId) -> ToldTallies<'a> {
        ToldTallies { all: self, node }
    }
}

impl ToldTallies<'_> {
    /// Takes a line. One that is not understood leaves nothing that may be old.
    pub(crate) fn hear(&self, line: &str) -> Result<(), String> {
        let rows = rows(line).inspect_err(|_| self.forget())?;
        self.all.0.lock().insert(self.node.clone(), rows);
        Ok(())
    }

    fn forget(&self) {
        self.all.0.lock().remove(self.node);
    }
}

impl Drop for ToldTallies<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

fn rows(line: &str) -> Result<Vec<AppTally>, String> {
    check_size(line, "tallies", limits::RELAY_TALLIES_BYTES_MAX)?;
    peer_tallies::from_line(line, limits::RELAY_TALLIES_MAX)
}

/// The line that this edge tells, compared by its text.
#[derive(Debug, Default)]
pub(crate) struct OwnTallies(OwnLine<Arc<str>>);

impl OwnTallies {
    /// The line to tell: the same one as before if nothing has changed.
    pub(crate) fn line(&self, router: &Router) -> Arc<str> {
        self.0.get(|| line(router).into(), Arc::clone)
    }
}

/// Empty apps and all, so that who hears it knows that this edge tells.
fn line(router: &Router) -> String {
    let routes = router.routes();
    let tallies = routes.split().flat_map(|app| {
        let tallies = tally::distinct(app.targets()).into_iter();
        tallies.map(|tally| AppTally {
            app: AppName::clone(&app.name),
            tally: tally.read(),
        })
    });
    peer_tallies::to_line(tallies.collect(), limits::RELAY_TALLIES_MAX)
}

/// What is known of an app at all edges.
pub(crate) fn reading(shared: &Shared, name: &AppName) -> Reading {
    let mut reading = Reading::default();
    let routes = shared.router.routes();
    let Some(app) = routes.app(name.as_str()) else {
        return reading;
    };
    let own = tally::distinct(app.targets());
    reading.own = own.iter().map(|tally| tally.read()).collect();
    let nodes = app.targets().filter_map(|it| it.endpoint.node.as_ref());
    let nodes: BTreeSet<&NodeId> = nodes.map(|node| &node.id).collect();
    let told = shared.tallies.0.lock();
    for node in nodes {
        let Some(rows) = told.get(node) else {
            reading.silent.push(node.clone());
            continue;
        };
        let rows = rows.iter().filter(|row| row.app == *name);
        let tallies = rows.map(|row| row.tally.clone()).collect();
        reading.others.insert(node.clone(), tallies);
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::{OwnTallies, PeerTallies};
    use crate::gauge::TrafficCounter;
    use crate::limits;
    use crate::table::Router;
    use http::StatusCode;
    use roost_model::id::{MachineId, NodeId};
    use roost_model::machine::Service;
    use roost_model::name::{AppName, RegionCode};
    use roost_model::split::Split;
    use roost_proto::traffic::{AppTraffic, Endpoint, EndpointHealth, TrafficTable};
    use std::sync::Arc;
    use std::time::Duration;
    use ulid::Ulid;

    /// One machine of this node, of release 2, which is tried out.
    fn router() -> Arc<Router> {
        let endpoint = Endpoint {
            machine_id: MachineId::from_bytes([1; 7]),
            region: RegionCode::parse("local").unwrap(),
            release: Some(2),
            split: Some(Arc::new(Split::parse("percent=5").unwrap())),
            statics: [].into(),
            address: "127.0.0.1:1".parse().unwrap(),
            node: None,
            health: EndpointHealth::Passing,
            service: Service::http(1).into(),
        };
        let endpoints = vec![endpoint];
        let app = AppName::parse("web").unwrap();
        let table = TrafficTable::from([(app, AppTraffic { endpoints })]);
        let (_sender, feed) = tokio::sync::watch::channel(Arc::new(table));
        let region = RegionCode::parse("local").unwrap();
        Router::new(region, feed, TrafficCounter::new())
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_line_is_told_until_something_was_counted() {
        let router = router();
        let app = router.routes().app("web").unwrap().clone();
        let target = app.targets().next().unwrap();
        let tally = target.tally.as_ref().unwrap();
        let own = OwnTallies::default();
        let next = async || {
            tokio::time::advance(limits::RELAY_LOADS_PAUSE).await;
            own.line(&router)
        };
        let nothing = next().await;
        assert!(nothing.contains("\"release\":2"), "{nothing}");
        assert!(Arc::ptr_eq(&nothing, &next().await));
        tally.answered(StatusCode::OK, Duration::from_millis(1));
        // Not oftener than that, however many ask.
        assert!(Arc::ptr_eq(&nothing, &own.line(&router)));
        let one = next().await;
        assert!(one.contains("\"answers\":[0,1,0,0,0]"), "{one}");
        assert!(Arc::ptr_eq(&one, &next().await));
    }

    #[test]
    fn an_edge_counts_as_one_that_tells_while_it_does_and_is_understood() {
        let all = PeerTallies::default();
        let nodes = [1, 2].map(|n: u128| NodeId::from_ulid(Ulid::from(n)));
        let [one, two] = nodes.each_ref().map(|node| all.of(node));
        let who = || nodes.each_ref().map(|node| all.0.lock().contains_key(node));
        assert_eq!(who(), [false, false]);
        let empty = "{\"tallies\":[]}\n";
        one.hear(empty).unwrap();
        two.hear(empty).unwrap();
        assert_eq!(who(), [true, true]);
        let too_long = " ".repeat(limits::RELAY_TALLIES_BYTES_MAX + 1);
        for bad in ["{\"tallies\":1}", &too_long] {
            assert!(one.hear(bad).is_err());
            assert_eq!(who(), [false, true]);
            one.hear(empty).unwrap();
        }
        drop(two);
        assert_eq!(who(), [true, false]);
    }
}
