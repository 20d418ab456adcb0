//! `roostd`: the node daemon. Wiring only; the parts are in the crates below.

#![forbid(unsafe_code)]

mod adapters;
mod args;
mod cluster;
mod config;
mod control;
mod crash;
mod daemon;
mod databases;
mod doctor;
mod node;
mod rungs;
mod serve;
mod takeover;
mod teardown;

use anyhow::{Context as _, Result};
use args::{Cli, Command, RunArgs};
use clap::Parser as _;
use roost_runtime::telemetry::{self, LogFormat};
use std::process::ExitCode;

/// The edge allots and frees many small pieces: see docs/performance.md, "What was tried".
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => run(&args).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => doctor::run(&args),
        Command::Teardown(args) => teardown::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", roost_model::error::chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn run(args: &RunArgs) -> Result<()> {
    let format = if args.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    // What other users may read (kernels, root images) says so itself.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    telemetry::init(&args.log, format, crash::hook());
    install_crypto_provider();
    let config = config::NodeConfig::from_args(args)?;
    runtime()?.block_on(node::run(config))
}

/// One provider for every user of TLS in this process.
fn install_crypto_provider() {
    // An error says that one is installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}
