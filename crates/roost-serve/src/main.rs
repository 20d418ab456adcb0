//! `roost-serve`: the file server inside images of static sites.
//!
//! It runs as the first process of a machine, from an image that holds nothing
//! but this program and the site, so it is linked statically and kept small:
//! one thread, HTTP/1.1 without TLS (the edge speaks to the world).
//! It writes one JSON line per request to standard output and ends on SIGTERM
//! or SIGINT after the requests under way are answered.

#![forbid(unsafe_code)]

mod arguments;
mod etag;
mod limits;
mod log;
mod resolve;
mod respond;
mod server;
#[cfg(test)]
mod tests;

use arguments::{Arguments, Command};
use std::io::Write as _;
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(Command::Serve(arguments)) => arguments,
        Ok(Command::Help) => {
            // Nothing is lost when nobody reads the help.
            drop(writeln!(std::io::stdout(), "{}", arguments::USAGE));
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            log::failure(&problem);
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(limits::BLOCKING_THREADS_MAX)
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(format!("start the event loop: {error}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            log::failure(&problem);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let site = respond::Site::open(&arguments.root)?;
    // Handlers are installed before the port opens: the first process of a
    // machine ignores signals that it does not handle.
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("listen for SIGTERM: {error}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| format!("listen for SIGINT: {error}"))?;
    let listener = listen(arguments.port).await?;
    log::started(&arguments.root, arguments.port);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::serve(listener, site, stop).await;
    Ok(())
}

/// Listens on all addresses; a machine without IPv6 gets IPv4 alone.
async fn listen(port: u16) -> Result<TcpListener, String> {
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port))
            .await
            .map_err(|error| format!("listen on port {port}: {error}")),
    }
}
