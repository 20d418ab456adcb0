//! One small process per VM: runs its hypervisor, keeps its logs, reports its end.
//!
//! `roostd` starts `roost-vm run` for each machine on the rungs `vm` and
//! `vm-emulated` and may then die: this process holds everything that must
//! outlive it. It is not meant to be typed.
//!
//! ```text
//!   launch message ─▶ prepare ─▶ hypervisor ─▶ agent answers ─▶ Boot ─▶ supervise ─▶ exit.json
//!                        │           (or restore ─▶ agent answers ─▶ AfterRestore)     │
//!                        └── anything fails: Failed, nothing is left ◀─────────────────┘ or suspended
//! ```
//!
//! The hypervisor dies with this process, and is of no use without it.
#![forbid(unsafe_code)]

mod boot;
mod control;
mod handshake;
mod launch;
mod limits;
mod output;
mod prepare;
mod session;
mod snapshot;
mod supervise;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args != ["run"] {
        eprintln!("roost-vm is started by roostd; there is nothing to do for people");
        return ExitCode::from(2);
    }
    match launch::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
