//! Machines that print more than anybody reads.

use crate::host::{Host, lines, until};
use roost_host::driver::MachineDriver as _;
use roost_proto::logs::LogStream;
use std::path::Path;

with_both_runtimes!(
    every_line_of_a_flood_is_kept_or_counted,
    a_machine_that_prints_endlessly_is_cut_off_and_can_be_ended,
);

/// How many lines the log says are missing.
fn n_dropped(log_dir: &Path) -> usize {
    lines(log_dir, LogStream::System)
        .iter()
        .filter(|line| line.contains("were dropped"))
        .map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

async fn every_line_of_a_flood_is_kept_or_counted(host: &Host) {
    const LINES: usize = 200_000;
    let script = format!("yes | head -n {LINES}; sleep 600");
    let config = host.machine(&script);
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    // It is silent then: nothing but the silence brings the last count about.
    until("all are accounted for", || {
        let n_dropped = n_dropped(&log_dir);
        n_dropped > 0 && lines(&log_dir, LogStream::Stdout).len() + n_dropped == LINES
    })
    .await;
    let n_kept = lines(&log_dir, LogStream::Stdout).len();
    assert!(n_kept > 10_000, "a burst is kept: {n_kept}");
    host.remove(&id).await;
}

async fn a_machine_that_prints_endlessly_is_cut_off_and_can_be_ended(host: &Host) {
    let config = host.machine("exec yes");
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    until("lines are dropped", || n_dropped(&log_dir) > 0).await;
    host.driver.signal(&id, libc::SIGKILL).await.unwrap();
    assert_eq!(host.wait(&id).await.signal, Some(libc::SIGKILL));
    let last = lines(&log_dir, LogStream::System).pop();
    assert_eq!(last.as_deref(), Some("machine was ended by signal 9"));
    let limits = roost_observe::writer::LogLimits::default();
    let bytes: u64 = std::fs::read_dir(&log_dir)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let segments_max = u64::try_from(limits.segments_max).unwrap();
    assert!(
        bytes <= limits.segment_bytes * (segments_max + 1),
        "{bytes}"
    );
    host.remove(&id).await;
}
