//! `roostd teardown`: the end of a node, with every trace of it on the host.

use crate::args::TeardownArgs;
use crate::config::NodePaths;
use crate::daemon;
use anyhow::{Context as _, Result};
use roost_host::net::sysctl::DEFAULT_RECORD;
use roost_host::teardown::{Remains, TeardownReport, teardown};
use serde_json::json;

/// Stops the daemon, removes what it made on the host, and, unless asked to keep it, its data.
#[expect(clippy::print_stdout, reason = "the answer of a command")]
pub(crate) fn run(args: &TeardownArgs) -> Result<()> {
    let (paths, tag) = NodePaths::of(&args.data_dir)?;
    let mut removed = Vec::new();
    if daemon::stop(&paths)? {
        removed.push("roostd".to_owned());
    }
    let remains = Remains {
        tag,
        run_dir: paths.run.join("machines"),
        data_dir: paths.data.clone(),
        sysctl_record: DEFAULT_RECORD.into(),
    };
    let report = crate::runtime()?
        .block_on(teardown(remains))
        .with_context(|| format!("remove what instance {tag} left on this host"))?;
    describe(&report, &mut removed);
    roost_runtime::fs::ensure_no_dir(&paths.run)?;
    daemon::withdraw(&paths)?;
    if !args.keep_data {
        roost_runtime::fs::ensure_no_dir(&paths.data)?;
        removed.push(format!("data directory {}", paths.data.display()));
    }
    if args.json {
        println!("{}", json!({ "removed": removed }));
    } else if removed.is_empty() {
        println!("nothing to do");
    } else {
        println!("removed {}", removed.join(", "));
    }
    Ok(())
}

fn describe(report: &TeardownReport, removed: &mut Vec<String>) {
    let counts = [
        (report.cgroups.len(), "machines' cgroups"),
        (report.processes.len(), "processes of machines"),
        (report.mounts.len(), "mounts"),
        (report.interfaces.len(), "network interfaces"),
    ];
    for (n, what) in counts {
        if n > 0 {
            removed.push(format!("{what} ({n})"));
        }
    }
}
