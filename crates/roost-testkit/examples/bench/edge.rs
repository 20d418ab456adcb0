//! The edge beside nginx and HAProxy: processor time per request.
//!
//! Each proxy is one process with one worker on core 0; the load and the
//! one back end that they share are on core 1. They run together and are
//! measured in turns of [`WINDOW`]; shown is the median of [`ROUNDS`] turns, as
//! a ratio to nginx; of the p99, that of the turns in which it was lowest. A proxy's time is what the scheduler gave it:
//! strangers on the cores make turns longer, not dearer. The edge logs one request in a
//! hundred; the peers write no log. `ROWS` chooses rows: those whose name has one of its words,
//! parted by commas.

mod clients;
mod pauses;
mod peers;
mod routes;
mod serve;

pub(crate) use serve::role;

use crate::process;
use clients::Loaded;
use peers::{Bench, Proxy};
use roost_testkit::program::run;
use std::process::Command;
use std::time::Duration;

/// Turns of each proxy in each row.
const ROUNDS: usize = 5;
/// How long a turn takes.
const WINDOW: Duration = Duration::from_secs(2);
/// Idle connections whose memory is measured.
const IDLE_CONNECTIONS: usize = 2_000;

/// The most of p99 at saturation beside nginx.
const P99_TARGET: f64 = 1.5;

/// One kind of work.
struct Row {
    name: &'static str,
    /// Loads a proxy for [`WINDOW`]; how many requests were answered.
    load: fn(&Bench, &Proxy) -> Loaded,
    /// The most CPU per request beside nginx.
    target: f64,
}

/// A row of plain or encrypted GETs.
const fn row(name: &'static str, target: f64, load: fn(&Bench, &Proxy) -> Loaded) -> Row {
    Row { name, load, target }
}

const ROWS: [Row; 8] = [
    row("HTTP/1.1 keep-alive, 1 KiB", 1.25, |_, proxy| {
        clients::wrk(proxy, 64, "/1k", &[])
    }),
    row("new connection per request", 1.4, |_, proxy| {
        clients::wrk(proxy, 32, "/1k", &["-H", "Connection: close"])
    }),
    row("64 KiB bodies", 0.8, |_, proxy| {
        clients::wrk(proxy, 32, "/64k", &[])
    }),
    row("TLS 1.3 keep-alive", 1.05, |_, proxy| {
        clients::h2load(proxy, "plain", &["--h1", "-c64", "-m1"])
    }),
    row("full TLS 1.3 handshake", 0.6, |bench, proxy| {
        clients::handshakes(bench, proxy)
    }),
    row("HTTP/2 over TLS", 1.3, |_, proxy| {
        clients::h2load(proxy, "plain", &["-c8", "-m16"])
    }),
    row("gRPC to an h2c backend", 0.5, |bench, proxy| {
        let message = bench.message.to_str().expect("a path in UTF-8");
        let args = ["-c8", "-m16", "-d", message, "-H", "te: trailers"];
        clients::h2load(proxy, "grpc", &args)
    }),
    row("WebSocket echo", 1.15, |bench, proxy| {
        clients::echoes(bench, proxy)
    }),
];

/// All rows, then the memory of idle connections.
pub(crate) fn beside_peers() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        println!("skipped: the proxies and their load need a core each");
        return;
    }
    pauses::show(cores);
    pin_self("1");
    let bench = Bench::start();
    let words = std::env::var("ROWS").unwrap_or_default();
    let is_chosen =
        |name: &str| words.is_empty() || words.split(',').any(|word| name.contains(word));
    for row in ROWS.into_iter().filter(|row| is_chosen(row.name)) {
        let mut samples = vec![Vec::new(); bench.proxies.len()];
        for round in 0..ROUNDS {
            for turn in 0..bench.proxies.len() {
                let number = (turn + round) % bench.proxies.len();
                samples[number].push(sample(&bench, &row, &bench.proxies[number]));
            }
        }
        show(&bench, &row, &samples);
    }
    drop(bench);
    // Each on proxies that have served nobody: memory that was given back would be used first.
    for (kind, target, is_tls) in [("plain", 15.0, false), ("TLS", 24.0, true)] {
        if is_chosen("idle") {
            idle_memory(&Bench::start(), kind, target, is_tls);
        }
    }
    if is_chosen("routes") {
        routes::many();
    }
    pin_self(&format!("0-{}", cores - 1));
}

/// Binds this process, and what it starts, to some cores.
fn pin_self(cores: &str) {
    let pid = std::process::id().to_string();
    run(Command::new("taskset").args(["-a", "-c", "-p", cores, &pid]));
}

/// One turn: CPU per request, in microseconds, and the p99 of its latency, if known.
fn sample(bench: &Bench, row: &Row, proxy: &Proxy) -> (f64, Option<f64>) {
    let before = process::scheduled(proxy.pid);
    let Loaded { requests, p99 } = (row.load)(bench, proxy);
    let used = process::scheduled(proxy.pid) - before;
    assert!(
        requests > 0,
        "{}: {} answered nothing",
        row.name,
        proxy.name
    );
    (used.as_secs_f64() * 1e6 / requests as f64, p99)
}

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// One line: microseconds of each proxy, and the ratio of the first to the second, nginx.
fn show(bench: &Bench, row: &Row, samples: &[Vec<(f64, Option<f64>)>]) {
    let cpu = |turns: &Vec<(f64, Option<f64>)>| median(turns.iter().map(|turn| turn.0));
    let medians: Vec<f64> = samples.iter().map(cpu).collect();
    let of_each: Vec<String> = bench
        .proxies
        .iter()
        .zip(&medians)
        .map(|(proxy, micros)| format!("{} {micros:.1}", proxy.name))
        .collect();
    let ratio = medians[0] / medians[1];
    let verdict = if ratio <= row.target { "ok" } else { "MISSED" };
    println!(
        "edge, {}: {} µs of CPU per request, ratio to nginx {ratio:.2} (target ≤ {}) {verdict}",
        row.name,
        of_each.join(", "),
        row.target,
    );
    if samples[0].iter().all(|turn| turn.1.is_some()) {
        show_p99(row, samples);
    }
}

/// Of latencies: the machine's pauses only add to them, and more to those of who keeps more of the
/// machine busy.
fn lowest(samples: impl Iterator<Item = f64>) -> f64 {
    samples.min_by(f64::total_cmp).unwrap_or(f64::NAN)
}

/// The p99 of the first, as a ratio to that of the second, of the best turn of each.
fn show_p99(row: &Row, samples: &[Vec<(f64, Option<f64>)>]) {
    let p99s = |proxy: usize| samples[proxy].iter().filter_map(|turn| turn.1);
    let ratio = lowest(p99s(0)) / lowest(p99s(1));
    let of_medians = median(p99s(0)) / median(p99s(1));
    let verdict = if ratio <= P99_TARGET { "ok" } else { "MISSED" };
    println!(
        "edge, {}: p99 to nginx's {ratio:.2} in the best turns, {of_medians:.2} in the middle ones (target ≤ {P99_TARGET}) {verdict}",
        row.name
    );
}

/// What each of many connections costs that has been answered once and is idle.
fn idle_memory(bench: &Bench, kind: &str, target: f64, is_tls: bool) {
    let mut of_each = Vec::new();
    let mut ours = f64::NAN;
    for proxy in &bench.proxies {
        let before = process::memory(proxy.pid, 0).own_kib;
        let connections = clients::idle_connections(bench, proxy, IDLE_CONNECTIONS, is_tls);
        let after = process::memory(proxy.pid, 0).own_kib;
        drop(connections);
        let each = (after as f64 - before as f64) * 1.024 / IDLE_CONNECTIONS as f64;
        if of_each.is_empty() {
            ours = each;
        }
        of_each.push(format!("{} {each:.1}", proxy.name));
    }
    let verdict = if ours <= target { "ok" } else { "MISSED" };
    println!(
        "edge, idle {kind} connection: {} kB (target ≤ {target}) {verdict}",
        of_each.join(", ")
    );
}
