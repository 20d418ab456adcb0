//! How often the machine stands still while all of its cores are busy: a virtual one may get less
//! time than it has cores, and its kernel does not always know.

use std::time::{Duration, Instant};

/// How long all cores are busy for this.
const WINDOW: Duration = Duration::from_secs(2);
/// A shorter gap between two looks at the clock is none.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Shows how many pauses there were, and how long they were at most. What a proxy was doing then
/// took as much longer.
pub(crate) fn show(cores: usize) {
    let pauses: Vec<Duration> = std::thread::scope(|scope| {
        let busy: Vec<_> = (0..cores).map(|_| scope.spawn(watch)).collect();
        let seen = busy
            .into_iter()
            .map(|it| it.join().expect("it only counts"));
        seen.flatten().collect()
    });
    println!(
        "machine: {} pauses in {} s with {cores} cores busy, the longest {:.1} ms",
        pauses.len(),
        WINDOW.as_secs(),
        pauses
            .iter()
            .max()
            .copied()
            .unwrap_or_default()
            .as_secs_f64()
            * 1e3,
    );
}

fn watch() -> Vec<Duration> {
    let (begun, mut last) = (Instant::now(), Instant::now());
    let mut pauses = Vec::new();
    while begun.elapsed() < WINDOW {
        let now = Instant::now();
        let gap = now - last;
        if gap >= PAUSE_MIN {
            pauses.push(gap);
        }
        last = now;
    }
    pauses
}
