//! `make bench`: roost beside its peers in one run, as ratios.
//!
//! - `idle`: what an idle `roostd` costs;
//! - `start`: a container from "start" to the first answered request, against
//!   `runc run` of the same bundle;
//! - `pull`: pulling and unpacking a 150 MB image, against `skopeo copy` and
//!   `umoci unpack`;
//! - `vm`: an emulated VM from "start" to the first answered request, against
//!   QEMU started by hand, and its resume, against its start ([`vm`]);
//! - `memory`: what idle machines cost, on each rung ([`memory`]);
//! - `placement`: what choosing a node costs ([`placement`]);
//! - `orchestrator`: what a worker costs beside its drivers ([`orchestrator`]);
//! - `edge`: CPU per request and memory of the edge, against nginx and HAProxy ([`edge`]).
//!
//! Arguments choose parts by these names; without any, all run. The two sides
//! of a ratio take turns, and the median is shown, since machines are noisy.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails ends the benchmark")]
#![expect(clippy::print_stdout, reason = "its figures are its output")]

mod bare;
mod edge;
mod memory;
mod orchestrator;
mod placement;
mod process;
mod vm;

use roost_testkit::images::{ImageBuilder, busybox, layout_dir};
use roost_testkit::platform::Platform;
use roost_testkit::program::{run, why_not};
use serde_json::{Value, json};
use std::cell::LazyCell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is asked of our machine.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: bench.localhost\r\nConnection: close\r\n\r\n";
/// Turns per side.
const ROUNDS: usize = 7;

/// A part of the benchmark.
enum Part {
    /// Needs no platform.
    Alone(fn()),
    /// Measures one, which is started for all such parts.
    On(fn(&Platform)),
}

/// As in `roostd`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    if let Some(reason) = why_not() {
        println!("skipped: {reason}");
        return;
    }
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if edge::role(&chosen) {
        return;
    }
    let parts: [(&str, Part); 8] = [
        ("idle", Part::On(idle_cost)),
        ("start", Part::On(machine_start)),
        ("pull", Part::On(pull_and_unpack)),
        ("vm", Part::On(vm::start_and_resume)),
        ("memory", Part::On(memory::idle_machines)),
        ("placement", Part::Alone(placement::decisions)),
        ("orchestrator", Part::Alone(orchestrator::worker)),
        ("edge", Part::Alone(edge::beside_peers)),
    ];
    let platform = LazyCell::new(Platform::up);
    for (name, part) in parts {
        let is_chosen = chosen.is_empty() || chosen.iter().any(|word| word == name);
        match part {
            Part::Alone(part) if is_chosen => part(),
            Part::On(part) if is_chosen => part(&platform),
            Part::Alone(_) | Part::On(_) => {}
        }
    }
}

/// The median of some durations, in milliseconds.
fn median_ms(mut samples: Vec<Duration>) -> f64 {
    samples.sort();
    samples[samples.len() / 2].as_secs_f64() * 1e3
}

fn report(what: &str, ours: f64, peer_name: &str, peer: f64, target: f64) {
    let ratio = ours / peer;
    let verdict = if ratio <= target { "ok" } else { "MISSED" };
    println!(
        "{what}: {ours:.0} ms, {peer_name}: {peer:.0} ms, ratio {ratio:.2} (target ≤ {target}) {verdict}"
    );
}

/// Resident memory and CPU of `roostd` with all roles and no app.
fn idle_cost(platform: &Platform) {
    let pid = platform.roostd_pid();
    let period = Duration::from_secs(20);
    let before = process::cpu(pid);
    std::thread::sleep(period);
    let used = process::cpu(pid) - before;
    let percent = 100.0 * used.as_secs_f64() / period.as_secs_f64();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss_kib: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let rss_mib = rss_kib / 1024;
    let verdict = if rss_mib < 64 && percent < 1.0 {
        "ok"
    } else {
        "MISSED"
    };
    println!(
        "idle roostd: {rss_mib} MiB resident (target < 64), {percent:.2} % of a core (target < 1) {verdict}"
    );
}

fn web_image() -> ImageBuilder {
    busybox()
        .files(&[("srv/index.html", 0o644, b"hello")])
        .config(
            "Cmd",
            json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/srv"]),
        )
}

/// API call to first answered request, against `runc run` to first answered request.
fn machine_start(platform: &Platform) {
    platform.push(&web_image(), "bench:1");
    platform.roost(&["apps", "create", "bench"]);
    let bundle = platform.scratch().join("bundle");
    let network = BenchNamespace::new();
    make_bundle(platform, &bundle);
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let our_time = start_with_roost(platform);
        let peer_time = start_with_runc(&bundle, &network, round);
        // The first turn warms caches on both sides.
        if round > 0 {
            ours.push(our_time);
            peers.push(peer_time);
        }
    }
    report(
        "machine start to first request",
        median_ms(ours),
        "runc run",
        median_ms(peers),
        1.5,
    );
}

/// Creates a machine by the API and asks through the edge until it answers.
fn start_with_roost(platform: &Platform) -> Duration {
    let body = json!({"config": {"image": "bench:1", "services": [{"internal_port": 8080}]}});
    let token = platform.token();
    let start = Instant::now();
    let machine = api(platform, &token, "POST", "/v1/apps/bench/machines", &body);
    while !http(platform.http_port, REQUEST).contains("hello") {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no answer; create said {machine}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    let id = machine["id"].as_str().expect("an id");
    platform.roost(&["machines", "destroy", id, "-a", "bench", "--force", "--yes"]);
    // The next turn must be answered by its own machine.
    let gone = Instant::now();
    while http(platform.http_port, REQUEST).contains("hello") {
        assert!(
            gone.elapsed() < Duration::from_secs(60),
            "a destroyed machine answers"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    took
}

/// One request to the API; the answer has to be JSON.
fn api(platform: &Platform, token: &str, method: &str, path: &str, body: &Value) -> Value {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = http(
        platform.api_port,
        &format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    );
    let json = answer.split_once("\r\n\r\n").expect("an HTTP answer").1;
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{method} {path}: {error}: {answer}"))
}

/// One request on a connection of its own; an empty text when nothing answers.
fn http(port: u16, request: &str) -> String {
    exchange(("127.0.0.1", port), request)
}

fn exchange(address: (&str, u16), request: &str) -> String {
    let mut text = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        drop(stream.write_all(request.as_bytes()));
        drop(stream.read_to_end(&mut text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A network namespace with a veth pair, for the peer's container.
struct BenchNamespace;

impl BenchNamespace {
    const NAME: &str = "roost-bench";

    fn new() -> Self {
        let ip = |args: &str| {
            run(Command::new("ip").args(args.split(' ')));
        };
        ip(&format!("netns add {}", Self::NAME));
        ip(&format!(
            "link add rbench0 type veth peer name eth0 netns {}",
            Self::NAME
        ));
        ip("addr add 10.254.254.1/30 dev rbench0");
        ip("link set rbench0 up");
        ip(&format!(
            "-n {} addr add 10.254.254.2/30 dev eth0",
            Self::NAME
        ));
        ip(&format!("-n {} link set eth0 up", Self::NAME));
        ip(&format!("-n {} link set lo up", Self::NAME));
        Self
    }
}

impl Drop for BenchNamespace {
    fn drop(&mut self) {
        drop(
            Command::new("ip")
                .args(["netns", "del", Self::NAME])
                .status(),
        );
    }
}

/// Unpacks the same image with umoci and points its bundle at the namespace.
fn make_bundle(platform: &Platform, bundle: &Path) {
    let layout = layout_dir(&platform.scratch(), "bench");
    web_image().write_layout(&layout);
    run(Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", layout.display()))
        .arg(bundle));
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    // runc would raise limits that this host may not allow.
    config["process"]["rlimits"] = json!([]);
    for namespace in config["linux"]["namespaces"]
        .as_array_mut()
        .expect("umoci lists namespaces")
    {
        if namespace["type"] == "network" {
            namespace["path"] = json!(format!("/var/run/netns/{}", BenchNamespace::NAME));
        }
    }
    fs::write(&path, config.to_string()).unwrap();
}

fn start_with_runc(bundle: &Path, _network: &BenchNamespace, round: usize) -> Duration {
    let id = format!("roost-bench-{}-{round}", std::process::id());
    let start = Instant::now();
    let mut child: Child = Command::new("runc")
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(&id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("runc starts");
    let request = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    while !exchange(("10.254.254.2", 8080), request).contains("hello") {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "runc's container does not answer"
        );
        assert!(child.try_wait().expect("our child").is_none(), "runc ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    drop(Command::new("runc").args(["kill", &id, "KILL"]).status());
    drop(child.wait());
    drop(
        Command::new("runc")
            .args(["delete", "-f", &id])
            .stderr(Stdio::null())
            .status(),
    );
    took
}

/// An image of 150 MB in eight layers, half of it incompressible.
fn large_image() -> ImageBuilder {
    let mut image = ImageBuilder::new().config("Cmd", json!(["/none"]));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for layer in 0..8 {
        let mut files = Vec::new();
        for file in 0..40 {
            let mut content = Vec::with_capacity(480_000);
            while content.len() < 480_000 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                content.extend_from_slice(&state.to_le_bytes());
                content.extend_from_slice(b"the same");
            }
            files.push((format!("data/{layer}/{file}"), content));
        }
        let borrowed: Vec<(&str, u32, &[u8])> = files
            .iter()
            .map(|(path, content)| (path.as_str(), 0o644, content.as_slice()))
            .collect();
        image = image.files(&borrowed);
    }
    image
}

/// The library's pull and unpack, against `skopeo copy` and `umoci unpack`, from the same registry.
fn pull_and_unpack(platform: &Platform) {
    platform.push(&large_image(), "large:1");
    let registry = format!("127.0.0.1:{}", platform.api_port);
    let token = platform.token();
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let folder = platform.scratch().join(format!("pull-{round}"));
        fs::create_dir_all(&folder).unwrap();
        let our_time = pull_with_roost(&folder.join("ours"), &registry, &token);
        let peer_time = pull_with_peers(&folder, &registry, &token);
        fs::remove_dir_all(&folder).unwrap();
        if round > 0 {
            ours.push(our_time);
            peers.push(peer_time);
        }
    }
    report(
        "pull and unpack 150 MB",
        median_ms(ours),
        "skopeo copy + umoci unpack",
        median_ms(peers),
        0.7,
    );
}

fn pull_with_roost(root: &Path, registry: &str, token: &str) -> Duration {
    let start = Instant::now();
    let program = roost_testkit::program::build_dir().join("examples/pull");
    run(Command::new(program)
        .arg(root)
        .arg(format!("{registry}/large:1"))
        .arg(token));
    start.elapsed()
}

fn pull_with_peers(folder: &Path, registry: &str, token: &str) -> Duration {
    let layout = format!("{}:latest", folder.join("layout").display());
    let start = Instant::now();
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false"])
        .arg(format!("--src-creds=roost:{token}"))
        .arg(format!("docker://{registry}/large:1"))
        .arg(format!("oci:{layout}")));
    run(Command::new("umoci")
        .args(["unpack", "--image", &layout])
        .arg(folder.join("bundle")));
    start.elapsed()
}
