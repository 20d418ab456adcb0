//! The edge beside nginx and HAProxy: processor time per request.
//!
//! Each proxy is one process with one worker on core 0; the load and the
//! one back end that they share are on core 1. They run together and are
//! measured in turns of [`WINDOW`]; shown is the median of [`ROUNDS`] turns, as
//! a ratio to nginx. A proxy's time is what the scheduler gave it:
//! strangers on the cores make turns longer, not dearer. Nobody writes a log.

mod clients;
mod peers;
mod serve;

pub(crate) use serve::role;

use crate::process;
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

/// One kind of work.
struct Row {
    name: &'static str,
    /// Loads a proxy for [`WINDOW`]; how many requests were answered.
    load: fn(&Bench, &Proxy) -> u64,
    /// The most CPU per request beside nginx.
    target: f64,
}

/// A row of plain or encrypted GETs.
const fn row(name: &'static str, target: f64, load: fn(&Bench, &Proxy) -> u64) -> Row {
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
    pin_self("1");
    let bench = Bench::start();
    for row in ROWS {
        let mut samples = vec![Vec::new(); bench.proxies.len()];
        for round in 0..ROUNDS {
            for turn in 0..bench.proxies.len() {
                let number = (turn + round) % bench.proxies.len();
                samples[number].push(sample(&bench, &row, &bench.proxies[number]));
            }
        }
        show(&bench, &row, samples.into_iter().map(median).collect());
    }
    idle_memory(&bench, "plain", 15.0, false);
    idle_memory(&bench, "TLS", 24.0, true);
    pin_self(&format!("0-{}", cores - 1));
}

/// Binds this process, and what it starts, to some cores.
fn pin_self(cores: &str) {
    let pid = std::process::id().to_string();
    run(Command::new("taskset").args(["-a", "-c", "-p", cores, &pid]));
}

/// CPU and p99 of one turn.
fn sample(bench: &Bench, row: &Row, proxy: &Proxy) -> f64 {
    let before = process::scheduled(proxy.pid);
    let requests = (row.load)(bench, proxy);
    let used = process::scheduled(proxy.pid) - before;
    assert!(
        requests > 0,
        "{}: {} answered nothing",
        row.name,
        proxy.name
    );
    used.as_secs_f64() * 1e6 / requests as f64
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// One line: microseconds of each proxy, and the ratio of the first to the second, nginx.
fn show(bench: &Bench, row: &Row, medians: Vec<f64>) {
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
