//! The death of this process at a chosen point, for `make test-crash`.
//!
//! Debug builds only. The variable `ROOST_CRASH_DIR` names a folder. While a
//! file `plan` is in it, each point that is passed is appended to its file
//! `passed`, with how often it was passed since that file was begun, as in
//! `link-made:1`; at the one that `plan` names this process kills itself with
//! SIGKILL. An empty plan only records. No file is removed here.

use roost_runtime::points::Hook;

/// What is done at each point.
#[cfg(not(debug_assertions))]
pub(crate) fn hook() -> Option<Hook> {
    None
}

/// What is done at each point.
#[cfg(debug_assertions)]
pub(crate) fn hook() -> Option<Hook> {
    let dir = std::path::PathBuf::from(std::env::var_os("ROOST_CRASH_DIR")?);
    let one_at_a_time = parking_lot::Mutex::new(());
    Some(Box::new(move |point| {
        let _one = one_at_a_time.lock();
        if let Err(error) = pass(&dir, point) {
            // Not by the log, which this is called by.
            eprintln!("cannot record point {point}: {error}");
        }
    }))
}

#[cfg(debug_assertions)]
fn pass(dir: &std::path::Path, point: &str) -> std::io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};
    use std::io::Write as _;
    let Ok(plan) = std::fs::read_to_string(dir.join("plan")) else {
        return Ok(());
    };
    let path = dir.join("passed");
    let passed = std::fs::read_to_string(&path).unwrap_or_default();
    let names = passed.lines().filter_map(|line| line.rsplit_once(':'));
    let n = 1 + names.filter(|(name, _)| *name == point).count();
    let name = format!("{point}:{n}");
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)?;
    file.write_all(format!("{name}\n").as_bytes())?;
    if plan == name {
        kill_process(getpid(), Signal::KILL)?;
    }
    Ok(())
}
