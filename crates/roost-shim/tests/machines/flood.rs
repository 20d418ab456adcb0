//! Machines that print more than anybody reads.

use crate::host::{Host, until};
use roost_host::driver::MachineDriver as _;
use roost_proto::logs::LogStream;
use roost_testkit::logs::lines;
use std::path::{Path, PathBuf};

with_both_runtimes!(
    every_line_of_a_flood_is_kept_or_counted,
    a_machine_that_prints_endlessly_is_cut_off_and_can_be_ended,
);

/// Prints lines of 1 KiB for ever. Of such lines no more than 1,000 a second are
/// kept after the burst, which is less than the slowest shim reads.
const FLOOD: &str = "yes $(printf %01000d 1)";

fn segments(log_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(log_dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Whether the log says that lines are missing. Cheap: the shim needs the processor.
fn says_dropped(log_dir: &Path) -> bool {
    segments(log_dir)
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .any(|text| text.contains(" were dropped: "))
}

/// How many lines the log says are missing.
fn n_dropped(log_dir: &Path) -> usize {
    lines(log_dir, LogStream::System)
        .iter()
        .filter(|line| line.contains("were dropped"))
        .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

async fn every_line_of_a_flood_is_kept_or_counted(host: &Host) {
    const LINES: usize = 20_000;
    let script = format!("{FLOOD} | head -n {LINES}; touch /told; sleep 600");
    let config = host.machine(&script);
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    let told = host.dir.path().join("data").join(id.as_str());
    let told = told.join("root/upper/told");
    until("all is printed", || told.exists()).await;
    // It is silent now: nothing but the silence brings the last count about.
    until("all are accounted for", || {
        let n_dropped = n_dropped(&log_dir);
        n_dropped > 0 && lines(&log_dir, LogStream::Stdout).len() + n_dropped == LINES
    })
    .await;
    let n_kept = lines(&log_dir, LogStream::Stdout).len();
    assert!(n_kept > 5_000, "a burst is kept: {n_kept}");
    host.remove(&id).await;
}

async fn a_machine_that_prints_endlessly_is_cut_off_and_can_be_ended(host: &Host) {
    let config = host.machine(&format!("exec {FLOOD}"));
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    until("lines are dropped", || says_dropped(&log_dir)).await;
    host.driver.signal(&id, libc::SIGKILL).await.unwrap();
    assert_eq!(host.wait(&id).await.signal, Some(libc::SIGKILL));
    let last = lines(&log_dir, LogStream::System).pop();
    assert_eq!(last.as_deref(), Some("machine was ended by signal 9"));
    let limits = roost_observe::writer::LogLimits::default();
    let bytes: u64 = segments(&log_dir)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    let segments_max = u64::try_from(limits.segments_max).unwrap();
    assert!(
        bytes <= limits.segment_bytes * (segments_max + 1),
        "{bytes}"
    );
    host.remove(&id).await;
}
