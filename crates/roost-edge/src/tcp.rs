//! Connections that are not HTTP: route → pick → connect as for requests, then
//! bytes both ways until both sides have ended.

use crate::accept::Ends;
use crate::connect;
use crate::eject::Outcome;
use crate::pick::{self, Asked, Picked, Tried};
use crate::proxy_protocol::{self, Told};
use crate::rates::{Open, Visit};
use crate::relay::{self, client::Tunnel};
use crate::shared::Shared;
use crate::split::Side;
use crate::table::Target;
use crate::wants::Wants;
use crate::{limits, tunnel};
use roost_model::machine::Protocol;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Carries one connection to a machine of the app; it counts as one that the
/// machine serves until both of its sides have ended.
pub(crate) async fn serve<S>(
    shared: &Arc<Shared>,
    mut client: S,
    ends: Ends,
    visit: Option<&Visit>,
    app: &str,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let route = shared.router.routes().app(app).cloned();
    let most = shared.config.rates.app_open;
    // An app that is unknown has nothing to bound; `reach` says so.
    let open = route.map(|route| Open::new(visit, &route.rates, most));
    if let Some(Err(who)) = open {
        tracing::debug!(app, ?who, "a connection too many was closed");
        return;
    }
    let mut early = Vec::new();
    let reached = reach(shared, &mut client, &mut early, ends, app).await;
    let (picked, machine) = match reached {
        Ok(reached) => reached,
        // There is nothing to say it in but the end of the connection.
        Err(why) => {
            let client = ends.client;
            tracing::debug!(app, port = ends.external, %client, why, "a connection was closed");
            return;
        }
    };
    match machine {
        Machine::Here(machine) => {
            let mut first = introduction(&picked.target, ends);
            first.append(&mut early);
            carry(shared, client, machine, &first).await;
        }
        Machine::There(machine) => carry(shared, client, *machine, &early).await,
    }
    drop((picked, open));
}

/// The way to a machine.
enum Machine {
    Here(TcpStream),
    /// By the edge of its node.
    There(Box<Tunnel>),
}

/// What a machine hears before the client, if its service wants to know who that is.
pub(crate) fn introduction(target: &Target, ends: Ends) -> Vec<u8> {
    let version = target.port(ends.external).and_then(|port| port.proxy_proto);
    let told = Told {
        source: ends.client,
        destination: ends.local,
    };
    version.map_or_else(Vec::new, |version| proxy_protocol::header(version, told))
}

/// Carries bytes both ways, these first.
pub(crate) async fn carry<C, M>(shared: &Shared, client: C, mut machine: M, first: &[u8])
where
    C: AsyncRead + AsyncWrite + Unpin,
    M: AsyncRead + AsyncWrite + Unpin,
{
    if !first.is_empty() {
        let written = timeout(shared.config.timeouts.connect, machine.write_all(first));
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
    }
    tokio::select! {
        () = tunnel::carry(client, machine, shared.config.timeouts.tunnel_idle) => {}
        () = shared.kill.cancelled() => {}
    }
}

/// Connects to one machine after another until one takes the connection. What the
/// client says while it waits is put into `early`.
async fn reach(
    shared: &Shared,
    client: &mut (impl AsyncRead + Unpin),
    early: &mut Vec<u8>,
    ends: Ends,
    app: &str,
) -> Result<(Picked, Machine), String> {
    let mut asked = Asked {
        app,
        protocol: Protocol::Tcp,
        external: ends.external,
        wants: &Wants::default(),
        side: None,
        affinity: None,
    };
    asked.side = Side::of_stream(shared, &asked, ends.client);
    let mut tried = Tried::default();
    let mut n_attempts: u8 = 0;
    loop {
        let picked = tokio::select! {
            biased;
            // Cancel-safe: who leaves loses only his place in the queue.
            picked = pick::pick(shared, None, asked, &mut tried) => picked,
            () = leaves(client, early) => return Err("the client has left".to_owned()),
        };
        let mut picked = picked.map_err(|page| page.title)?;
        if let Some(node) = picked.target.endpoint.node.clone() {
            n_attempts = n_attempts.saturating_add(1);
            let (it, tried) = (&mut picked, &mut tried);
            let opened =
                relay::client::hand_over(shared, asked, it, &node, tried, n_attempts, ends);
            match opened.await? {
                Some(tunnel) => return Ok((picked, Machine::There(Box::new(tunnel)))),
                None => continue,
            }
        }
        match connect::open(shared, &picked.target).await {
            Ok(stream) => {
                pick::note(shared, asked, &picked.target, Outcome::Answered);
                return Ok((picked, Machine::Here(stream)));
            }
            Err(error) => {
                pick::note(shared, asked, &picked.target, Outcome::NoAnswer);
                tried.unreached(shared, &picked.target.endpoint, &error);
            }
        }
    }
}

/// Ends when the client is gone: cut off, or at its end without a word. One that
/// has said something and ended its side may still wait for the answer.
async fn leaves(client: &mut (impl AsyncRead + Unpin), early: &mut Vec<u8>) {
    while early.len() < limits::EARLY_BYTES_MAX {
        let room = limits::EARLY_BYTES_MAX - early.len();
        // Cancel-safe: what was read is in `early`.
        match (&mut *client).take(room as u64).read_buf(early).await {
            Ok(0) if !early.is_empty() => break,
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;
