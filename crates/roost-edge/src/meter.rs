//! Counts of requests: atomics that a request adds to, read when somebody asks.
//!
//! One set for each app, region and release. An app keeps few of them: those of
//! its machines, and of its last releases; older ones are added up in one, so
//! that no count ever goes down and none stays for good.

use crate::limits;
use crate::trail::micros;
use http::StatusCode;
use parking_lot::Mutex;
use roost_model::name::RegionCode;
use roost_proto::release_traffic::{LATENCY_BUCKETS, Latencies, ReleaseTraffic, latency_bucket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where the answers of class 5xx are among those of all classes.
const ERRORS: usize = 4;

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

    fn read(&self) -> Latencies {
        let mut read = Latencies {
            sum_us: self.sum_us.load(Ordering::Relaxed),
            ..Latencies::default()
        };
        for (to, from) in read.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        read
    }

    fn add(&self, other: &Latencies) {
        for (to, from) in self.buckets.iter().zip(other.buckets) {
            to.fetch_add(from, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(other.sum_us, Ordering::Relaxed);
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

    fn read(&self) -> Latencies {
        self.0.get().map(|it| it.read()).unwrap_or_default()
    }
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

/// The counts of an app's requests in one region, to one release.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) region: RegionCode,
    pub(crate) release: Option<u64>,
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

    fn add(&self, counts: &DatagramCounts) {
        self.flows.fetch_add(counts.flows, Ordering::Relaxed);
        self.in_count.fetch_add(counts.in_count, Ordering::Relaxed);
        self.in_bytes.fetch_add(counts.in_bytes, Ordering::Relaxed);
        self.out_count
            .fetch_add(counts.out_count, Ordering::Relaxed);
        self.out_bytes
            .fetch_add(counts.out_bytes, Ordering::Relaxed);
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
    pub(crate) fn new(region: RegionCode, release: Option<u64>) -> Self {
        Self {
            region,
            release,
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

    fn add(&self, counts: &Counts) {
        for (to, from) in self.edge.iter().zip(&counts.edge) {
            to.get().add(from);
        }
        for (to, from) in self.app.iter().zip(&counts.app) {
            to.get().add(from);
        }
        self.unanswered
            .fetch_add(counts.unanswered, Ordering::Relaxed);
        self.datagrams.add(&counts.datagrams);
    }
}

/// A reading of a [`Series`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) edge: [Latencies; CLASSES],
    pub(crate) app: [Latencies; CLASSES],
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
    /// The counts of a region and a release; made when there are none.
    pub(crate) fn series(&self, region: &RegionCode, release: Option<u64>) -> Arc<Series> {
        let mut all = self.series.lock();
        let found = |all: &[Arc<Series>], release: Option<u64>| {
            let mut all = all.iter();
            let found = all.find(|one| one.region == *region && one.release == release);
            found.cloned()
        };
        if let Some(found) = found(&all, release) {
            return found;
        }
        if all.len() >= limits::SERIES_MAX {
            fold(&mut all);
        }
        let made = Arc::new(Series::new(region.clone(), release));
        all.push(made.clone());
        made
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Series>> {
        self.series.lock().clone()
    }

    /// How the machines of a release have answered.
    pub(crate) fn release(&self, release: u64) -> ReleaseTraffic {
        let mut traffic = ReleaseTraffic::default();
        for series in self.all() {
            if series.release != Some(release) {
                continue;
            }
            let counts = series.read();
            traffic.unanswered += counts.unanswered;
            for (idx, latencies) in counts.app.iter().enumerate() {
                traffic.answers[idx] += latencies.count();
                if idx < ERRORS {
                    traffic.latencies.add(latencies);
                }
            }
        }
        traffic
    }
}

/// Adds the series of the oldest releases that no machine is of to those of no release, one for
/// each region, until half of the room is free or none is left that can be.
fn fold(all: &mut Vec<Arc<Series>>) {
    let is_over = |one: &Arc<Series>| one.release.is_some() && Arc::strong_count(one) == 1;
    while all.len() > limits::SERIES_MAX / 2 {
        let over = all.iter().enumerate().filter(|(_, one)| is_over(one));
        let Some((idx, _)) = over.min_by_key(|(_, one)| one.release) else {
            return;
        };
        let gone = all.remove(idx);
        let rest = |one: &&Arc<Series>| one.region == gone.region && one.release.is_none();
        if let Some(rest) = all.iter().find(rest) {
            rest.add(&gone.read());
        } else {
            let rest = Series::new(gone.region.clone(), None);
            rest.add(&gone.read());
            all.push(Arc::new(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Meter;
    use crate::limits;
    use http::StatusCode;
    use roost_model::name::RegionCode;
    use std::time::Duration;

    #[test]
    fn an_app_that_is_released_again_and_again_keeps_its_counts_and_few_series() {
        let meter = Meter::default();
        let region = RegionCode::parse("local").unwrap();
        let held = meter.series(&region, Some(0));
        let n_releases = 10 * limits::SERIES_MAX as u64;
        for release in 0..n_releases {
            let series = meter.series(&region, Some(release));
            series.responded(StatusCode::OK, Duration::from_millis(1));
            series.answered(StatusCode::INTERNAL_SERVER_ERROR, Duration::from_millis(1));
            series.unanswered();
        }
        let all = meter.all();
        assert!(all.len() <= limits::SERIES_MAX, "{}", all.len());
        let sum = |of: fn(&super::Counts) -> u64| -> u64 {
            all.iter().map(|series| of(&series.read())).sum()
        };
        assert_eq!(sum(|counts| counts.edge[1].count()), n_releases);
        assert_eq!(sum(|counts| counts.app[4].count()), n_releases);
        assert_eq!(sum(|counts| counts.unanswered), n_releases);
        assert_eq!(meter.release(0).requests(), 2, "a machine is of it");
        let last = meter.release(n_releases - 1);
        assert_eq!(last.errors(), 2);
        assert_eq!(last.latencies.count(), 0, "not those of errors");
        assert_eq!(held.read().unanswered, 1);
    }
}
