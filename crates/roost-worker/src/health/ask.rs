//! One question to a machine, within bounds of time, memory and number.

mod exec;
mod grpc;
mod http;
mod text;
mod tls;

#[cfg(test)]
mod tests;

use crate::limits;
use roost_host::driver::{DriverError, MachineDriver};
use roost_model::id::MachineId;
use roost_model::machine::{Check, CheckKind, CheckTls};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tls::{TlsClient, Transport};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};

/// What was seen, for people; an error when the check failed.
pub(super) type Answer = Result<String, String>;

/// Asks machines, so many at a time.
#[derive(Debug)]
pub(crate) struct Asker {
    connections: Semaphore,
    commands: Semaphore,
    /// Made for the first check that needs it: reading the host's roots takes a while.
    tls: OnceCell<TlsClient>,
}

/// What is asked.
pub(super) struct Target {
    /// The machine.
    pub(super) id: MachineId,
    /// Its address.
    pub(super) ipv4: Ipv4Addr,
    /// What runs commands in it.
    pub(super) driver: Result<Arc<dyn MachineDriver>, DriverError>,
    /// Bounds how many of its checks run at once.
    pub(super) slots: Semaphore,
}

impl Asker {
    pub(crate) fn new() -> Self {
        Self {
            connections: Semaphore::new(limits::CHECKS_IN_FLIGHT_MAX),
            commands: Semaphore::new(limits::COMMAND_CHECKS_IN_FLIGHT_MAX),
            tls: OnceCell::new(),
        }
    }

    /// Waits for its turn, then asks once.
    pub(super) async fn ask(&self, target: &Target, check: &Check) -> Answer {
        let of_node = match check.kind {
            CheckKind::Tcp { .. } | CheckKind::Http(_) | CheckKind::Grpc(_) => &self.connections,
            CheckKind::Exec { .. } => &self.commands,
        };
        // In this order, so that a machine that answers late waits for itself
        // and takes no turns of others. Neither is ever closed.
        let _of_machine = target.slots.acquire().await;
        let _of_node = of_node.acquire().await;
        let question = self.question(target, check);
        match tokio::time::timeout(check.timeout, question).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "no answer within {}",
                text::duration(check.timeout)
            )),
        }
    }

    async fn question(&self, target: &Target, check: &Check) -> Answer {
        let at = |port| SocketAddr::new(IpAddr::V4(target.ipv4), port);
        match &check.kind {
            CheckKind::Tcp { port } => {
                connect(at(*port)).await?;
                Ok("connection accepted".into())
            }
            CheckKind::Http(http) => {
                let request = http::request(at(http.port), http)?;
                let tls = http.tls.as_ref();
                let transport = self.open(at(http.port), tls, tls::HTTP_1).await?;
                http::exchange(transport, request, &http.statuses).await
            }
            CheckKind::Grpc(grpc) => {
                let tls = grpc.tls.as_ref();
                let transport = self.open(at(grpc.port), tls, tls::HTTP_2).await?;
                grpc::exchange(transport, at(grpc.port), grpc).await
            }
            CheckKind::Exec { command } => exec::run(target, command, check.timeout).await,
        }
    }

    async fn open(
        &self,
        address: SocketAddr,
        tls: Option<&CheckTls>,
        protocol: &[u8],
    ) -> Result<Transport, String> {
        let stream = connect(address).await?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let client = self.tls.get_or_try_init(TlsClient::of_host).await?;
        client.handshake(stream, tls, protocol).await
    }
}

/// Whether a connection is accepted in time.
pub(super) async fn tcp(address: SocketAddr, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, connect(address)).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(format!("no connection within {}", text::duration(timeout))),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
            _ => error.to_string(),
        })
}
