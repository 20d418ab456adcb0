//! How the machines of a release answer: what a judge of a new release compares.
//!
//! While a release of an app is tried out, each edge keeps a [tally](Tally) for each
//! release of the app: what became of all requests to the machines of its own node,
//! whichever edge they came by. So every request is counted once, and all edges
//! together have counted all. A tally begins at zero and only grows; one that began
//! anew, as after a restart of its edge, has another id. A judge takes [readings](Reading)
//! of all of them, and adds up what has come since the first ([`Watch`]).

use crate::latencies::{Latencies, to_f64};
use roost_model::id::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Requests to the machines of a release, and what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReleaseTraffic {
    /// Answers by class of their status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub answers: [u64; 5],
    /// Requests that the machine did not answer: it could not be reached, hung up, or took
    /// too long.
    pub unanswered: u64,
    /// How long the answers took that are no 5xx, from the request sent to the answer's header:
    /// errors that come at once say nothing of how fast a release is.
    pub latencies: Latencies,
}

impl ReleaseTraffic {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.answers
            .iter()
            .fold(self.unanswered, |all, n| all.saturating_add(*n))
    }

    /// Requests that were answered with a 5xx, or not at all.
    pub fn errors(&self) -> u64 {
        self.answers[4].saturating_add(self.unanswered)
    }

    /// The share of errors, 0 to 1; `None` without requests.
    pub fn error_rate(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0).then(|| to_f64(self.errors()) / to_f64(requests))
    }

    /// With those of another as well.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.answers.iter_mut().zip(other.answers) {
            *own = own.saturating_add(more);
        }
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
        self.latencies.add(&other.latencies);
    }

    /// What has come since an earlier reading of the same counts.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut answers = self.answers;
        for (own, earlier) in answers.iter_mut().zip(earlier.answers) {
            *own = own.saturating_sub(earlier);
        }
        Self {
            answers,
            unanswered: self.unanswered.saturating_sub(earlier.unanswered),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

/// What one edge has counted of the requests to its node's machines of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Another number for each time that an edge began to count.
    pub id: u64,
    /// The release.
    pub release: u64,
    /// What it has counted since then.
    #[serde(flatten)]
    pub traffic: ReleaseTraffic,
}

/// The tallies of an app at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Those of the edge that is asked.
    pub own: Vec<Tally>,
    /// Those of the other nodes with machines of the app, as their edges have told last.
    pub others: BTreeMap<NodeId, Vec<Tally>>,
    /// Nodes with machines of the app whose edges do not tell, or cannot be reached.
    pub silent: Vec<NodeId>,
}

impl Reading {
    /// Whether other edges have counted, too, of which one hears late.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty() || !self.silent.is_empty()
    }
}

/// Adds up what has come since a first reading, at all edges.
///
/// What an edge has told stays when nothing more comes of it, and when it begins anew.
#[derive(Debug, Default)]
pub struct Watch {
    followed: BTreeMap<(Option<NodeId>, u64), Followed>,
    /// Nodes that were silent when it began, and still are: what their first word says may have
    /// been counted long before.
    unheard: BTreeSet<NodeId>,
}

/// What is known of the tallies of one release at one edge.
#[derive(Debug)]
struct Followed {
    id: u64,
    /// When it was seen first.
    from: ReleaseTraffic,
    last: ReleaseTraffic,
    /// What the tallies before it had counted.
    before: ReleaseTraffic,
}

impl Watch {
    /// Watches what comes from now on.
    pub fn begin(reading: &Reading) -> Self {
        let all = reading.all();
        Self {
            followed: all
                .map(|(key, tally)| (key, Followed::from_now(tally)))
                .collect(),
            unheard: reading.silent.iter().cloned().collect(),
        }
    }

    /// Takes another reading.
    pub fn look(&mut self, reading: &Reading) {
        for (key, tally) in reading.all() {
            let node = key.0.as_ref();
            let is_first_word = node.is_some_and(|node| self.unheard.contains(node));
            let followed = self.followed.entry(key).or_insert_with(|| {
                if is_first_word {
                    Followed::from_now(tally)
                } else {
                    // It has begun after this watch.
                    Followed::new(tally.id)
                }
            });
            if followed.id != tally.id {
                let before = followed.so_far();
                *followed = Followed::new(tally.id);
                followed.before = before;
            }
            followed.last.clone_from(&tally.traffic);
        }
        let is_silent = |node: &NodeId| !reading.others.contains_key(node);
        self.unheard.retain(is_silent);
    }

    /// What has come to two releases since this watch began.
    pub fn side_by_side(&self, a: u64, b: u64) -> SideBySide {
        let of = |release: u64| {
            let mut all = ReleaseTraffic::default();
            let followed = self.followed.iter().filter(|((_, it), _)| *it == release);
            followed.for_each(|(_, followed)| all.add(&followed.so_far()));
            all
        };
        SideBySide { a: of(a), b: of(b) }
    }
}

impl Followed {
    /// A tally that has begun from zero.
    fn new(id: u64) -> Self {
        Self {
            id,
            from: ReleaseTraffic::default(),
            last: ReleaseTraffic::default(),
            before: ReleaseTraffic::default(),
        }
    }

    /// One of which only what it counts from now on counts.
    fn from_now(tally: &Tally) -> Self {
        Self {
            from: tally.traffic.clone(),
            last: tally.traffic.clone(),
            ..Self::new(tally.id)
        }
    }

    fn so_far(&self) -> ReleaseTraffic {
        let mut all = self.before.clone();
        all.add(&self.last.since(&self.from));
        all
    }
}

impl Reading {
    /// All tallies with the edge, `None` for the one that was asked, and the release.
    fn all(&self) -> impl Iterator<Item = ((Option<NodeId>, u64), &Tally)> {
        let own = self.own.iter().map(|tally| (None, tally));
        let others = self.others.iter().flat_map(|(node, tallies)| {
            let all = tallies.iter();
            all.map(|tally| (Some(node.clone()), tally))
        });
        own.chain(others)
            .map(|(node, tally)| ((node, tally.release), tally))
    }
}

/// Two releases of an app beside each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SideBySide {
    /// The release that serves, say.
    pub a: ReleaseTraffic,
    /// The one that is tried out.
    pub b: ReleaseTraffic,
}

#[cfg(test)]
mod tests {
    use super::{Reading, ReleaseTraffic, Tally, Watch};
    use crate::latencies::Latencies;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use roost_model::id::NodeId;

    fn traffic(good: u64, bad: u64) -> ReleaseTraffic {
        ReleaseTraffic {
            answers: [0, good, 0, 0, bad],
            unanswered: 0,
            latencies: Latencies::of([(Latencies::bucket(4_000), good)]),
        }
    }

    fn tally(id: u64, good: u64, bad: u64) -> Tally {
        Tally {
            id,
            release: 2,
            traffic: traffic(good, bad),
        }
    }

    fn node(n: u8) -> NodeId {
        NodeId::parse(&format!("node_0000000000000000000000000{n}")).unwrap()
    }

    /// What this edge has counted, and that of another node.
    fn reading(own: Vec<Tally>, other: Option<Tally>) -> Reading {
        Reading {
            own,
            others: other.map(|it| (node(1), vec![it])).into_iter().collect(),
            silent: vec![],
        }
    }

    /// Requests and errors so far.
    fn counted(watch: &Watch) -> (u64, u64) {
        let seen = watch.side_by_side(1, 2);
        assert_eq!(seen.a, ReleaseTraffic::default());
        assert_eq!(seen.b.latencies.count(), seen.b.answers[1]);
        (seen.b.requests(), seen.b.errors())
    }

    #[test]
    fn errors_are_5xx_and_what_is_not_answered() {
        let mut all = traffic(7, 1);
        all.unanswered = 2;
        assert_eq!((all.requests(), all.errors()), (10, 3));
        assert_eq!(all.error_rate(), Some(0.3));
        assert_eq!(ReleaseTraffic::default().error_rate(), None);
    }

    #[test]
    fn an_edge_that_begins_anew_or_falls_silent_keeps_what_it_has_told() {
        let mut watch = Watch::begin(&reading(vec![tally(1, 100, 9)], Some(tally(2, 50, 5))));
        assert_eq!(counted(&watch), (0, 0), "what was before does not count");
        watch.look(&reading(vec![tally(1, 110, 9)], Some(tally(2, 50, 7))));
        assert_eq!(counted(&watch), (12, 2));
        // The other edge was restarted, and had forgotten.
        watch.look(&reading(vec![tally(1, 110, 9)], None));
        assert_eq!(counted(&watch), (12, 2));
        watch.look(&reading(vec![tally(1, 110, 9)], Some(tally(3, 0, 1))));
        assert_eq!(counted(&watch), (13, 3));
        watch.look(&reading(vec![tally(1, 111, 9)], Some(tally(3, 10, 2))));
        assert_eq!(counted(&watch), (25, 4));
    }

    #[test]
    fn an_edge_that_is_silent_at_first_counts_from_its_first_word() {
        let mut watch = Watch::begin(&Reading {
            silent: vec![node(1)],
            ..Reading::default()
        });
        watch.look(&reading(vec![], Some(tally(2, 80, 40))));
        assert_eq!(counted(&watch), (0, 0), "who knows how old that is");
        watch.look(&reading(vec![], Some(tally(2, 90, 41))));
        assert_eq!(counted(&watch), (11, 1));
    }

    proptest! {
        /// Edges count, are restarted, and cannot be heard, as it comes.
        #[test]
        fn what_was_told_counts_once_whatever_happens_to_edges(
            steps in vec((0_usize..3, 0_u64..50, 0_u64..5, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let mut ids = 3..;
            let mut edges = [0, 1, 2].map(|id| tally(id, 1_000, 100));
            let reading = |edges: &[Tally; 3], deaf: Option<usize>| Reading {
                own: vec![edges[0].clone()],
                others: [1_u8, 2].into_iter().filter(|n| Some(usize::from(*n)) != deaf)
                    .map(|n| (node(n), vec![edges[usize::from(n)].clone()]))
                    .collect(),
                silent: vec![],
            };
            let mut watch = Watch::begin(&reading(&edges, None));
            let (mut real, mut at_least) = (0, 0);
            for (n, good, bad, restarts, is_deaf) in steps {
                if restarts {
                    edges[n] = tally(ids.next().unwrap(), 0, 0);
                }
                edges[n].traffic.add(&traffic(good, bad));
                real += good + bad;
                watch.look(&reading(&edges, is_deaf.then_some(n)));
                let seen = watch.side_by_side(1, 2).b;
                prop_assert!(seen.requests() <= real, "never more than there were");
                prop_assert!(seen.requests() >= at_least, "never less than before");
                if !is_deaf {
                    // Who is heard has told all of this step, restarted or not.
                    prop_assert!(seen.requests() >= at_least + good + bad);
                }
                at_least = seen.requests();
            }
        }
    }
}
