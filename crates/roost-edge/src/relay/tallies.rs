//! What edges tell each other of the releases that are tried out, on the stream
//! of their tables.
//!
//! An edge tells all that its [tallies](crate::tally) have counted, at most once a
//! second and when something has changed. What it told counts as long as the stream
//! stands; whoever reads it ([`reading`]) keeps what he has read, and hears who does not tell.

use crate::limits;
use crate::shared::Shared;
use crate::table::Router;
use crate::tally;
use parking_lot::Mutex;
use roost_model::id::NodeId;
use roost_model::name::AppName;
use roost_proto::peer_tallies::{self, AppTally};
use roost_proto::release_traffic::Reading;
use std::collections::{BTreeSet, HashMap};

/// What those edges have told last whose streams stand, by node.
#[derive(Debug, Default)]
pub(crate) struct PeerTallies(Mutex<HashMap<NodeId, Vec<AppTally>>>);

/// What one stream tells; forgotten when it is dropped.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    all: &'a PeerTallies,
    node: &'a NodeId,
}

impl PeerTallies {
    /// A stream of this node's edge begins.
    pub(crate) fn of<'a>(&'a self, node: &'a NodeId) -> Told<'a> {
        Told { all: self, node }
    }
}

impl Told<'_> {
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

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

fn rows(line: &str) -> Result<Vec<AppTally>, String> {
    if line.len() > limits::RELAY_TALLIES_BYTES_MAX {
        let n_bytes = line.len();
        return Err(format!(
            "its tallies have {n_bytes} bytes, which is too much"
        ));
    }
    peer_tallies::from_line(line, limits::RELAY_TALLIES_MAX)
}

/// The line to tell: empty apps and all, so that who hears it knows that this edge tells.
pub(crate) fn line(router: &Router) -> String {
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
    use super::PeerTallies;
    use crate::limits;
    use roost_model::id::NodeId;
    use ulid::Ulid;

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
