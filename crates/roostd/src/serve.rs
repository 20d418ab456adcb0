//! The API's listening sockets.

use anyhow::{Context as _, Result, bail};
use axum::Router;
use roost_runtime::tasks::Tasks;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Listens on every address, or on none.
pub(crate) fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    addresses
        .iter()
        .map(|address| {
            let listener = listen(address, "the API", "--api-port")?;
            listener
                .set_nonblocking(true)
                .context("prepare the API's socket")?;
            Ok(listener)
        })
        .collect()
}

/// Fails when something else listens on one of the addresses.
pub(crate) fn check_free(addresses: &[SocketAddr], what: &str, flag: &str) -> Result<()> {
    addresses
        .iter()
        .try_for_each(|address| listen(address, what, flag).map(drop))
}

fn listen(address: &SocketAddr, what: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => bail!(
            "the address {address} for {what} is in use by another program; stop it (`ss -ltnp` shows it) or choose another port with {flag}"
        ),
        _ => Err(error).with_context(|| format!("listen on {address} for {what}")),
    })
}

/// Serves the API on the sockets until the tasks are asked to end.
pub(crate) fn start(listeners: Vec<TcpListener>, router: Router, tasks: &Tasks) {
    for listener in listeners {
        let router = router.clone();
        let stop = tasks.stopping();
        tasks.spawn("api-http", async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "cannot serve the API"),
            };
            let served =
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the API's server ended");
            }
        });
    }
}
