//! One small process per machine: starts it, keeps its logs, reports its end.
//!
//! `roostd` starts `roost-shim run` for each machine and may then die: the shim
//! holds everything that must outlive it. `roost-shim exec` runs a command in
//! a machine that a shim has started. Neither is meant to be typed.
//!
//! The program has one thread throughout, because it forks.

mod account;
mod exec;
mod failure;
mod guest_files;
mod launch;
mod limits;
mod output;
mod program;
mod root;
mod runtime;
mod seccomp;
mod spec;
mod supervise;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("run") => launch::run(),
        Some("exec") => exec::run(&args[1..]),
        _ => {
            eprintln!("roost-shim is started by roostd; there is nothing to do for people");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
