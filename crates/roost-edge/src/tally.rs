//! What a canary is judged by: counts of the requests to this node's machines, by
//! release, for as long as a release of their app is tried out.
//!
//! They are made with the routes and hang on the machines, so that an app without a canary
//! has none and its requests pay nothing.

use crate::meter::{self, CLASSES};
use crate::table::{AppRoute, Target};
use crate::trail::micros;
use http::StatusCode;
use roost_proto::latencies::Latencies;
use roost_proto::release_traffic::{self, ReleaseTraffic};
use roost_proto::traffic::Endpoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the answers of class 5xx are among those of all classes.
const ERRORS: usize = 4;

/// The counts of one release.
#[derive(Debug)]
pub(crate) struct Tally {
    id: u64,
    release: u64,
    answers: [AtomicU64; CLASSES],
    unanswered: AtomicU64,
    latencies: Box<[AtomicU64]>,
}

impl Tally {
    fn new(release: u64) -> Self {
        let (_, random) = ulid::Ulid::generate().into();
        Self {
            id: random,
            release,
            answers: Default::default(),
            unanswered: AtomicU64::new(0),
            latencies: (0..Latencies::BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A machine has answered, so long after it was sent the request.
    pub(crate) fn answered(&self, status: StatusCode, latency: Duration) {
        let class = meter::class(status);
        self.answers[class].fetch_add(1, Ordering::Relaxed);
        if class < ERRORS {
            let bucket = Latencies::bucket(micros(latency));
            self.latencies[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A machine has not answered.
    pub(crate) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted.
    pub(crate) fn read(&self) -> release_traffic::Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        release_traffic::Tally {
            id: self.id,
            release: self.release,
            traffic: ReleaseTraffic {
                answers: self.answers.each_ref().map(read),
                unanswered: read(&self.unanswered),
                latencies: Latencies::of(self.latencies.iter().map(read).enumerate()),
            },
        }
    }
}

/// The tallies of an app whose routes are derived.
pub(crate) struct Tallies {
    is_split: bool,
    all: Vec<Arc<Tally>>,
}

impl Tallies {
    /// Those of the app as it is routed now go on while a release is tried out.
    pub(crate) fn going_on(is_split: bool, old: Option<&AppRoute>) -> Self {
        let old = old.filter(|_| is_split);
        Self {
            is_split,
            all: old.map_or_else(Vec::new, |old| distinct(old.targets())),
        }
    }

    /// The one that an endpoint is counted by. What is sent to another node is counted there, by
    /// the edge that sees all of it.
    pub(crate) fn of(&mut self, endpoint: &Endpoint) -> Option<Arc<Tally>> {
        let is_counted = self.is_split && endpoint.node.is_none();
        let release = endpoint.release.filter(|_| is_counted)?;
        let found = self.all.iter().find(|it| it.release == release).cloned();
        Some(found.unwrap_or_else(|| {
            let made = Arc::new(Tally::new(release));
            self.all.push(made.clone());
            made
        }))
    }
}

/// The tallies of these endpoints.
pub(crate) fn distinct<'a>(targets: impl Iterator<Item = &'a Arc<Target>>) -> Vec<Arc<Tally>> {
    let mut all = Vec::<Arc<Tally>>::new();
    for tally in targets.filter_map(|target| target.tally.as_ref()) {
        if !all.iter().any(|it| Arc::ptr_eq(it, tally)) {
            all.push(tally.clone());
        }
    }
    all
}
