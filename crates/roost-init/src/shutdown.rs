//! The end of the guest: the app stops, disks are let go, the machine goes off.

use crate::boot::Booted;
use crate::console::say;
use crate::limits::{
    CGROUP_TIMEOUT, FETCH_TIMEOUT, POWER_OFF_DELAY, STOP_TIMEOUT_MAX, SYNC_TIMEOUT,
    UNMOUNT_INTERVAL, UNMOUNT_TRIES,
};
use crate::output::Output;
use crate::stats::Disk;
use crate::tasks::Tasks;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Begins the end, whatever becomes of the call that asked for it; the receiver
/// hears when nothing runs and all was fetched, a moment before the machine goes off.
pub(crate) fn begin(
    booted: Option<Arc<Booted>>,
    output: Arc<Output>,
    signal: Signal,
    stop_timeout: Duration,
    tasks: &Tasks,
) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    tasks.spawn(async move {
        if let Some(booted) = &booted {
            stop(booted, signal, stop_timeout.min(STOP_TIMEOUT_MAX)).await;
            // A node that does not fetch it does not want it.
            let _ = timeout(FETCH_TIMEOUT, output.all_fetched()).await;
            unmount_volumes(&booted.disks).await;
        }
        sync().await;
        let _ = sender.send(());
        tokio::time::sleep(POWER_OFF_DELAY).await;
        power_off();
    });
    receiver
}

/// Ends the app: with the signal, or for certain when its time is up.
async fn stop(booted: &Booted, signal: Signal, stop_timeout: Duration) {
    let app = &booted.app;
    app.expect_end();
    // What is frozen for a snapshot cannot stop.
    if let Err(failure) = booted.around.cgroups.thaw() {
        say(failure.message);
    }
    app.signal(signal);
    if timeout(stop_timeout, app.ended()).await.is_ok() {
        return;
    }
    say("the app did not stop in time and is killed");
    if let Err(failure) = booted.around.cgroups.kill_all() {
        say(failure.message);
    }
    if timeout(CGROUP_TIMEOUT, app.ended()).await.is_err() {
        say("the app cannot be killed");
    }
}

/// Writes what is buffered to the disks, as long as they take it.
pub(crate) async fn sync() {
    let synced = tokio::task::spawn_blocking(rustix::fs::sync);
    if timeout(SYNC_TIMEOUT, synced).await.is_err() {
        say("the disks do not take what is buffered");
    }
}

/// All but the root, which does not outlive the machine.
async fn unmount_volumes(disks: &[Disk]) {
    for volume in disks.iter().skip(1).rev().map(|disk| disk.path.as_str()) {
        let mut n_tries = 0;
        while let Err(error) = unmount(volume, UnmountFlags::empty()) {
            n_tries += 1;
            if n_tries >= UNMOUNT_TRIES {
                say(format_args!("unmount {volume}: {error}"));
                break;
            }
            tokio::time::sleep(UNMOUNT_INTERVAL).await;
        }
    }
}

/// Ends the machine. Hypervisors run guests such that a reboot is the end: that
/// works on all of them, with and without ACPI.
pub(crate) fn power_off() {
    if let Err(error) = reboot(RebootCommand::Restart) {
        say(format_args!("reboot: {error}"));
    }
}
