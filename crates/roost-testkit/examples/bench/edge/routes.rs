//! Many routes: what 100,000 apps cost the edge beside ten, and what one change costs.

use super::clients::wrk_to;
use super::peers::{free_port, on_core_0, start};
use super::{ROUNDS, lowest, median};
use crate::process;
use roost_testkit::program::Running;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Few and many.
const COUNTS: [u64; 2] = [10, 100_000];
/// Changes that are measured, and the time between two: 1,000 in a minute.
const CHANGES: u64 = 200;
const PAUSE: Duration = Duration::from_millis(60);
/// Connections of the load.
const CONNECTIONS: usize = 64;

/// What requests cost, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu: f64,
    p99: f64,
}

/// An edge with some apps.
struct Routes {
    count: u64,
    port: u16,
    running: Running,
    changes: ChildStdin,
}

impl Routes {
    fn start(count: u64, back: u16) -> Self {
        let port = free_port();
        let mut command = on_core_0(&std::env::current_exe().unwrap());
        command
            .args(["edge-routes", &port.to_string(), &back.to_string()])
            .arg(count.to_string());
        let mut running = start(command.stdin(Stdio::piped()), &[port]);
        let changes = running.take_stdin().expect("its standard input");
        Self {
            count,
            port,
            running,
            changes,
        }
    }

    fn change(&mut self, number: u64) {
        writeln!(self.changes, "{number}").unwrap();
    }

    /// Requests to the last app.
    fn load(&self) -> Cost {
        let before = process::scheduled(self.running.pid());
        let app = format!("app-{}", self.count - 1);
        let loaded = wrk_to(self.port, &app, CONNECTIONS, "/1k", &[]);
        let used = process::scheduled(self.running.pid()) - before;
        let p99 = loaded.p99.expect("wrk tells it");
        let cpu = used.as_secs_f64() * 1e6 / loaded.requests as f64;
        Cost { cpu, p99 }
    }

    fn megabytes(&self) -> f64 {
        process::memory(self.running.pid(), 0).own_kib as f64 * 1.024 / 1e3
    }

    /// CPU of some time with a change in each pause, or none.
    fn cpu_of_changes(&mut self, is_changing: bool) -> Duration {
        let before = process::scheduled(self.running.pid());
        for turn in 0..CHANGES {
            if is_changing {
                self.change(turn * 7 % self.count);
            }
            std::thread::sleep(PAUSE);
        }
        process::scheduled(self.running.pid()) - before
    }

    /// How long after its line a new app answers.
    fn effect_of_new(&mut self, number: u64) -> Duration {
        let since = Instant::now();
        self.change(number);
        while !self.answers(number) {
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "app-{number} never answers"
            );
        }
        since.elapsed()
    }

    fn answers(&self, number: u64) -> bool {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = format!("app-{number}.localhost");
        write!(
            stream,
            "GET /1k HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.contains(" 200 ")
    }
}

/// All of it.
pub(super) fn many() {
    let back = free_port();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let _back_end = start(
        command
            .args(["edge-back-end", &back.to_string()])
            .stdin(Stdio::null()),
        &[back],
    );
    let [few, mut many] = COUNTS.map(|count| Routes::start(count, back));
    let mut turns = Vec::new();
    for _ in 0..ROUNDS {
        turns.push((few.load(), many.load()));
    }
    // Not before: its port is open before it knows all of them.
    tell("memory, MB", many.megabytes(), 100.0);
    let of_few = median(turns.iter().map(|turn| turn.0.cpu));
    let of_many = median(turns.iter().map(|turn| turn.1.cpu));
    tell("CPU per request to that with 10", of_many / of_few, 1.05);
    // A route that was made is made anew at each change.
    for number in (0..CHANGES).map(|turn| turn * 7 % COUNTS[1]) {
        assert!(many.answers(number), "app-{number}");
    }
    let quiet = many.cpu_of_changes(false);
    let changing = many.cpu_of_changes(true).saturating_sub(quiet);
    tell(
        "CPU of a change, ms",
        changing.as_secs_f64() * 1e3 / CHANGES as f64,
        1.0,
    );
    let new = 0..50;
    let effects = new.map(|idx| many.effect_of_new(COUNTS[1] + idx).as_secs_f64() * 1e3);
    tell(
        "a change takes effect within, ms",
        effects.fold(0.0, f64::max),
        50.0,
    );
    let turns: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| (many.load().p99, p99_beside_changes(&mut many)))
        .collect();
    let still = lowest(turns.iter().map(|turn| turn.0));
    let moving = lowest(turns.iter().map(|turn| turn.1));
    tell(
        "p99 with 1,000 changes a minute to that without",
        moving / still,
        1.1,
    );
    for number in 0..COUNTS[1] {
        assert!(many.answers(number), "app-{number}");
    }
    println!(
        "edge, 100,000 routes: memory when each was asked for, with a connection to each machine, MB {:.0}",
        many.megabytes()
    );
}

/// The p99 while routes change.
fn p99_beside_changes(routes: &mut Routes) -> f64 {
    let app = format!("app-{}", routes.count - 1);
    let port = routes.port;
    std::thread::scope(|scope| {
        let load = scope.spawn(move || wrk_to(port, &app, CONNECTIONS, "/1k", &[]));
        let mut number = 0;
        while !load.is_finished() {
            routes.change(number % routes.count);
            number += 7;
            std::thread::sleep(PAUSE);
        }
        load.join().unwrap().p99.expect("wrk tells it")
    })
}

fn tell(what: &str, figure: f64, target: f64) {
    let verdict = if figure <= target { "ok" } else { "MISSED" };
    println!("edge, 100,000 routes: {what} {figure:.2} (target ≤ {target}) {verdict}");
}
