//! `roost-init`: the first process of a guest.
//!
//! It loads what the kernel lacks, opens a byte stream to the node, and waits
//! for the boot message; environment and secrets come only that way. Then it
//! sets the guest up, starts the app, hands its output and its end to the node,
//! runs commands beside it, and turns the machine off when it is told to. The
//! node owns the end: when the app is over, init stays and answers.
//!
//! Linked statically; one thread, and a few for calls that may block. A panic
//! ends it, and with it the guest: the kernel does not run without it.

mod account;
mod agent;
mod app;
mod boot;
mod cgroup;
mod children;
mod clock;
mod console;
mod copy;
mod descriptor;
mod disks;
mod early;
mod exec;
mod failure;
mod guest_files;
mod limits;
mod modules;
mod network;
mod output;
mod process;
mod processes;
mod program;
mod shutdown;
mod sockets;
mod stats;
mod stream;
mod sys;
mod tasks;

use agent::Guest;
use children::Children;
use console::say;
use failure::{Attempt as _, Failure};
use modules::Modules;
use roost_agent::guest;
use std::process::ExitCode;
use tasks::Tasks;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        say("this is the first process of a guest, and nothing else");
        return ExitCode::from(2);
    }
    // Without a backtrace, which would be of little use, and with our name.
    std::panic::set_hook(Box::new(|panic| say(panic)));
    let Err(failure) = run();
    say(failure.message);
    // The kernel would panic when its first process ends.
    shutdown::power_off();
    ExitCode::FAILURE
}

fn run() -> Result<std::convert::Infallible, Failure> {
    let started = clock::since_kernel_start();
    early::mount_kernel_files()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(limits::BLOCKING_THREADS_MAX)
        .thread_keep_alive(limits::BLOCKING_THREADS_KEEP_ALIVE)
        .build()
        .attempt("start the event loop")?
        .block_on(async {
            let (children, tasks) = (Children::default(), Tasks::default());
            reap(&children, &tasks)?;
            let (loaded, modules) = watch::channel(false);
            let guest = Guest::new(started, children, tasks.clone(), modules);
            tasks.spawn(load_modules(loaded, guest.clone()));
            serve(guest).await
        })
}

/// Reaps whatever ends, from now on.
fn reap(children: &Children, tasks: &Tasks) -> Result<(), Failure> {
    let reaper = children.reaper().attempt("listen for ends of processes")?;
    tasks.spawn(reaper);
    Ok(())
}

/// Loads the modules beside everything else: the node may be there already.
///
/// This starts the first thread for calls that may block, long before there is
/// an app: whenever no further one can be started, calls wait for this one.
async fn load_modules(loaded: watch::Sender<bool>, guest: Guest) {
    let Modules { first, later } = modules::find();
    // A panic of it would have ended this process.
    let _ = spawn_blocking(move || modules::load_all(&first)).await;
    loaded.send_replace(true);
    if stream::has_serial_port() {
        guest.boot_carried_out().await;
    }
    let _ = spawn_blocking(move || modules::load_all(&later)).await;
}

/// Serves the node until there is no way to it any more.
async fn serve(guest: Guest) -> Result<std::convert::Infallible, Failure> {
    let channel = stream::open().await?;
    let (acceptor, sessions) = guest::sessions();
    let server = guest::server()
        .add_service(guest::service(guest))
        .serve_with_incoming(sessions);
    tokio::select! {
        // Cancel-safe: either end is the end of this function.
        failure = stream::drive(channel, &acceptor) => Err(failure),
        result = server => match result {
            Ok(()) => Err(Failure::guest("the server has ended")),
            Err(error) => Err(error).attempt("serve the node"),
        },
    }
}
