//! What the edge has counted, as text for Prometheus.
//!
//! Names, labels and units are those of Fly.io's proxy where it has them, with the
//! class of a status instead of the status. Labels are apps and regions, both of a
//! number that the platform bounds, never ids.

use crate::limits;
use crate::meter::{CLASSES, Counts, DatagramCounts, LATENCY_BOUNDS_US, LatencyCounts};
use crate::relay::tallies;
use crate::shared::Shared;
use roost_model::name::{AppName, RegionCode};
use roost_proto::release_traffic::Reading;
use roost_proto::rest::RequestRecord;
use roost_proto::traffic::TrafficRecords;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// What an edge tells of its requests. It does not keep the edge.
pub(crate) struct Records(pub(crate) Weak<Shared>);

impl TrafficRecords for Records {
    fn request(&self, id: &str) -> Option<Arc<RequestRecord>> {
        self.0.upgrade()?.recent.find(Instant::now(), id)
    }

    fn metrics(&self) -> String {
        self.0.upgrade().map_or_else(String::new, |it| text(&it))
    }

    fn tallies(&self, app: &AppName) -> Reading {
        let shared = self.0.upgrade();
        shared.map_or_else(Reading::default, |it| tallies::reading(&it, app))
    }
}

/// The labels of the counts of an app in a region.
type Of = (String, String);

fn text(shared: &Shared) -> String {
    let mut counts = BTreeMap::<Of, Counts>::new();
    let mut loads = BTreeMap::<Of, usize>::new();
    let of = |app: &str, region: &RegionCode| (app.to_owned(), region.to_string());
    let nobody = &shared.nobody;
    counts.insert(of("", &nobody.region), nobody.read());
    for app in shared.router.routes().asked() {
        for series in app.meter.all() {
            let labels = of(app.name.as_str(), &series.region);
            counts.entry(labels).or_default().add(&series.read());
        }
        for target in app.targets() {
            let labels = of(app.name.as_str(), &target.endpoint.region);
            *loads.entry(labels).or_default() += target.load.now();
        }
    }
    let mut text = String::new();
    let out = &mut text;
    responses(out, "edge", "to clients", &counts, |counts| &counts.edge);
    responses(out, "app", "of machines", &counts, |counts| &counts.app);
    let name = "roost_app_unanswered_count";
    head(
        out,
        name,
        "counter",
        "requests that a machine did not answer",
    );
    for ((app, region), counts) in &counts {
        let n = counts.unanswered;
        line(
            out,
            &format!("{name}{{app=\"{app}\",region=\"{region}\"}} {n}"),
        );
    }
    datagrams(out, shared, &counts);
    round_trips(out, shared);
    let name = "fly_app_concurrency";
    head(
        out,
        name,
        "gauge",
        "requests and connections that machines are serving",
    );
    for ((app, region), load) in &loads {
        line(
            out,
            &format!("{name}{{app=\"{app}\",region=\"{region}\"}} {load}"),
        );
    }
    let name = "roost_edge_queued";
    head(out, name, "gauge", "requests that wait for a machine");
    let n_queued = limits::WAITERS_MAX - shared.waiters.available_permits();
    line(out, &format!("{name} {n_queued}"));
    let name = "roost_edge_tls_handshakes_count";
    let help = "TLS handshakes with clients that came to their end";
    head(out, name, "counter", help);
    for (kind, n) in shared.tls.handshakes.read() {
        line(out, &format!("{name}{{kind=\"{kind}\"}} {n}"));
    }
    if let Some(log) = &shared.config.access_log {
        let name = "roost_edge_access_log_dropped_count";
        head(
            out,
            name,
            "counter",
            "records that the access log has dropped",
        );
        line(out, &format!("{name} {}", log.n_dropped()));
    }
    text
}

/// How long the way to each edge of another node is.
fn round_trips(out: &mut String, shared: &Shared) {
    let name = "roost_edge_round_trip_seconds";
    let help = "shortest of the last round trips to the edges of other nodes";
    head(out, name, "gauge", help);
    for (node, time) in shared.peers.round_trips() {
        let time = seconds(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        line(out, &format!("{name}{{node=\"{node}\"}} {time}"));
    }
}

/// Counts of datagrams, and how many flows there are.
fn datagrams(out: &mut String, shared: &Shared, counts: &BTreeMap<Of, Counts>) {
    for (what, help, of) in DATAGRAMS {
        let name = format!("roost_edge_{what}_count");
        head(out, &name, "counter", help);
        for ((app, region), counts) in counts {
            let n = of(&counts.datagrams);
            if counts.datagrams.flows > 0 {
                line(
                    out,
                    &format!("{name}{{app=\"{app}\",region=\"{region}\"}} {n}"),
                );
            }
        }
    }
    let name = "roost_edge_flows";
    head(out, name, "gauge", "flows of datagrams");
    line(out, &format!("{name} {}", shared.datagrams.n_flows()));
    let name = "roost_edge_datagrams_dropped_count";
    let help = "datagrams for which there was no room or no machine";
    head(out, name, "counter", help);
    line(out, &format!("{name} {}", shared.datagrams.n_dropped()));
}

/// What is counted of the datagrams of an app.
type OfDatagrams = (&'static str, &'static str, fn(&DatagramCounts) -> u64);

const DATAGRAMS: [OfDatagrams; 5] = [
    (
        "flows_begun",
        "flows of datagrams that got a machine",
        |of| of.flows,
    ),
    ("datagrams_in", "datagrams to machines", |of| of.in_count),
    (
        "datagrams_in_bytes",
        "bytes of datagrams to machines",
        |of| of.in_bytes,
    ),
    ("datagrams_out", "datagrams of machines", |of| of.out_count),
    (
        "datagrams_out_bytes",
        "bytes of datagrams of machines",
        |of| of.out_bytes,
    ),
];

/// Counts and latencies of responses by class of status.
fn responses(
    out: &mut String,
    of: &str,
    whose: &str,
    counts: &BTreeMap<Of, Counts>,
    classes: fn(&Counts) -> &[LatencyCounts; CLASSES],
) {
    // Classes that never came are left out.
    let all = || {
        counts.iter().flat_map(|((app, region), counts)| {
            let classes = classes(counts).iter().enumerate();
            let came = classes.filter(|(_, latencies)| latencies.count() > 0);
            came.map(move |(idx, latencies)| {
                let status = idx + 1;
                let labels = format!("app=\"{app}\",region=\"{region}\",status=\"{status}xx\"");
                (labels, latencies)
            })
        })
    };
    let name = format!("fly_{of}_http_responses_count");
    head(out, &name, "counter", &format!("responses {whose}"));
    for (labels, latencies) in all() {
        line(out, &format!("{name}{{{labels}}} {}", latencies.count()));
    }
    let name = format!("fly_{of}_http_response_time_seconds");
    let help = format!("time until the header of responses {whose}");
    head(out, &name, "histogram", &help);
    for (labels, latencies) in all() {
        let mut so_far = 0;
        for (n, bound) in latencies.buckets.iter().zip(LATENCY_BOUNDS_US) {
            so_far += n;
            let le = seconds(bound);
            line(
                out,
                &format!("{name}_bucket{{{labels},le=\"{le}\"}} {so_far}"),
            );
        }
        let count = latencies.count();
        line(
            out,
            &format!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"),
        );
        line(
            out,
            &format!("{name}_sum{{{labels}}} {}", seconds(latencies.sum_us)),
        );
        line(out, &format!("{name}_count{{{labels}}} {count}"));
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, &format!("# HELP {name} {help}"));
    line(out, &format!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: &str) {
    // Writing to memory that grows does not fail.
    let _ = writeln!(out, "{text}");
}

/// Microseconds as seconds, without a trailing zero.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn seconds_have_the_digits_that_they_need() {
        let shown = [0, 1_000, 2_500_000, 10_000_000, 1].map(seconds);
        assert_eq!(shown, ["0", "0.001", "2.5", "10", "0.000001"]);
    }
}
