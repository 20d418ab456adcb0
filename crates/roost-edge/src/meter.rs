//! Counts of requests: atomics that a request adds to, read when somebody asks.
//!
//! One set for each app and region. What is counted of releases while one of them is
//! tried out is in [`crate::tally`].

use crate::trail::micros;
use http::StatusCode;
use parking_lot::Mutex;
use roost_model::name::RegionCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the buckets of latencies, in microseconds; the last bucket has none.
pub(crate) const LATENCY_BOUNDS_US: [u64; 13] = [
    1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000,
];

/// How many buckets there are.
const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// The bucket of a latency.
fn latency_bucket(us: u64) -> usize {
    LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)
}

/// How long answers took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LatencyCounts {
    /// Answers by bucket.
    pub(crate) buckets: [u64; LATENCY_BUCKETS],
    /// All of them together, in microseconds.
    pub(crate) sum_us: u64,
}

impl LatencyCounts {
    /// How many answers.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// With those of another as well.
    fn add(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own += others;
        }
        self.sum_us += other.sum_us;
    }
}

/// Counts of latencies.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    fn note(&self, latency: Duration) {
        let us = micros(latency);
        self.buckets[latency_bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn read(&self) -> LatencyCounts {
        let mut read = LatencyCounts {
            sum_us: self.sum_us.load(Ordering::Relaxed),
            ..LatencyCounts::default()
        };
        for (to, from) in read.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        read
    }
}

/// How many classes of status there are, 1xx to 5xx.
pub(crate) const CLASSES: usize = 5;

/// A histogram that is made when something is noted: of most apps an edge sees little.
#[derive(Debug, Default)]
struct Lazy(OnceLock<Box<Histogram>>);

impl Lazy {
    fn get(&self) -> &Histogram {
        self.0.get_or_init(Box::default)
    }

    fn read(&self) -> LatencyCounts {
        self.0.get().map(|it| it.read()).unwrap_or_default()
    }
}

/// Which class a status is of, beginning at 0.
pub(crate) fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

/// The counts of an app's requests in one region.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) region: RegionCode,
    /// Responses to clients, by class.
    edge: [Lazy; CLASSES],
    /// Answers of machines, by class.
    app: [Lazy; CLASSES],
    unanswered: AtomicU64,
    pub(crate) datagrams: DatagramMeter,
}

/// Counts of datagrams.
#[derive(Debug, Default)]
pub(crate) struct DatagramMeter {
    flows: AtomicU64,
    in_count: AtomicU64,
    in_bytes: AtomicU64,
    out_count: AtomicU64,
    out_bytes: AtomicU64,
}

impl DatagramMeter {
    /// A flow has got a machine.
    pub(crate) fn begins(&self) {
        self.flows.fetch_add(1, Ordering::Relaxed);
    }

    /// A client's datagram of this length went to a machine.
    pub(crate) fn came(&self, n_bytes: usize) {
        self.in_count.fetch_add(1, Ordering::Relaxed);
        self.in_bytes.fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    /// A machine's datagram of this length went to its client.
    pub(crate) fn answered(&self, n_bytes: usize) {
        self.out_count.fetch_add(1, Ordering::Relaxed);
        self.out_bytes.fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> DatagramCounts {
        DatagramCounts {
            flows: self.flows.load(Ordering::Relaxed),
            in_count: self.in_count.load(Ordering::Relaxed),
            in_bytes: self.in_bytes.load(Ordering::Relaxed),
            out_count: self.out_count.load(Ordering::Relaxed),
            out_bytes: self.out_bytes.load(Ordering::Relaxed),
        }
    }
}

/// A reading of a [`DatagramMeter`].
#[derive(Debug, Clone, Default)]
pub(crate) struct DatagramCounts {
    pub(crate) flows: u64,
    pub(crate) in_count: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_count: u64,
    pub(crate) out_bytes: u64,
}

impl DatagramCounts {
    fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.in_count += other.in_count;
        self.in_bytes += other.in_bytes;
        self.out_count += other.out_count;
        self.out_bytes += other.out_bytes;
    }
}

impl Series {
    /// Nothing yet.
    pub(crate) fn new(region: RegionCode) -> Self {
        Self {
            region,
            edge: Default::default(),
            app: Default::default(),
            unanswered: AtomicU64::new(0),
            datagrams: DatagramMeter::default(),
        }
    }

    /// A client gets a response's header, so long after its request's.
    pub(crate) fn responded(&self, status: StatusCode, latency: Duration) {
        self.edge[class(status)].get().note(latency);
    }

    /// A machine has answered, so long after it was sent the request.
    pub(crate) fn answered(&self, status: StatusCode, latency: Duration) {
        self.app[class(status)].get().note(latency);
    }

    /// A machine has not answered.
    pub(crate) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been counted.
    pub(crate) fn read(&self) -> Counts {
        Counts {
            edge: self.edge.each_ref().map(Lazy::read),
            app: self.app.each_ref().map(Lazy::read),
            unanswered: self.unanswered.load(Ordering::Relaxed),
            datagrams: self.datagrams.read(),
        }
    }
}

/// A reading of a [`Series`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) edge: [LatencyCounts; CLASSES],
    pub(crate) app: [LatencyCounts; CLASSES],
    pub(crate) unanswered: u64,
    pub(crate) datagrams: DatagramCounts,
}

impl Counts {
    /// With those of another as well.
    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in self.edge.iter_mut().zip(&other.edge) {
            to.add(from);
        }
        for (to, from) in self.app.iter_mut().zip(&other.app) {
            to.add(from);
        }
        self.unanswered += other.unanswered;
        self.datagrams.add(&other.datagrams);
    }
}

/// The counts of one app.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    series: Mutex<Vec<Arc<Series>>>,
}

impl Meter {
    /// The counts of a region; made when there are none.
    pub(crate) fn series(&self, region: &RegionCode) -> Arc<Series> {
        let mut all = self.series.lock();
        if let Some(found) = all.iter().find(|one| one.region == *region) {
            return found.clone();
        }
        let made = Arc::new(Series::new(region.clone()));
        all.push(made.clone());
        made
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Series>> {
        self.series.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{LatencyCounts, Meter, latency_bucket};
    use http::StatusCode;
    use roost_model::name::RegionCode;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_region_has_one_set_of_counts() {
        let meter = Meter::default();
        let region = |code| RegionCode::parse(code).unwrap();
        let here = meter.series(&region("fra"));
        assert!(Arc::ptr_eq(&here, &meter.series(&region("fra"))));
        here.responded(StatusCode::OK, Duration::from_millis(1));
        here.answered(StatusCode::INTERNAL_SERVER_ERROR, Duration::from_millis(4));
        meter.series(&region("ams")).unanswered();
        let [fra, ams] = &meter.all()[..] else {
            panic!("one for each region");
        };
        let (fra, ams) = (fra.read(), ams.read());
        assert_eq!((fra.edge[1].count(), fra.app[4].count()), (1, 1));
        assert_eq!((fra.app[4].sum_us, fra.unanswered), (4_000, 0));
        assert_eq!((ams.edge[1].count(), ams.unanswered), (0, 1));
        let mut both = LatencyCounts::default();
        both.add(&fra.edge[1]);
        both.add(&fra.app[4]);
        assert_eq!((both.count(), both.sum_us), (2, 5_000));
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let found = [0, 1_000, 1_001, 10_000_000, 10_000_001].map(latency_bucket);
        assert_eq!(found, [0, 0, 1, 12, 13]);
    }
}
