//! The API's listening sockets and their connections: HTTP/1.1, with upgrades.

use crate::takeover::Given;
use anyhow::{Context as _, Result, bail};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use roost_runtime::tasks::Tasks;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// What clients of the API and the registry may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientLimits {
    /// Most connections at a time.
    pub(crate) connections_max: usize,
    /// Longest time until a request's head is there, and between two requests.
    pub(crate) header_timeout: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            header_timeout: Duration::from_secs(30),
        }
    }
}

/// Rest after a connection could not be accepted, mostly for want of descriptors.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Listens on every address of the API, or on none; with what was given where it was.
pub(crate) fn bind_api(addresses: &[SocketAddr], given: &mut Given) -> Result<Vec<TcpListener>> {
    let bind = |&address: &SocketAddr| match given.api(address) {
        Some(socket) => Ok(socket),
        None => listen(address, "the API", "--api-port"),
    };
    addresses.iter().map(bind).collect()
}

/// The same for the edge.
pub(crate) fn bind_edge(
    addresses: &[SocketAddr],
    what: &str,
    flag: &str,
    given: &mut Given,
) -> Result<Vec<TcpListener>> {
    let bind = |&address: &SocketAddr| match given.edge(address) {
        Some(socket) => Ok(socket),
        None => listen(address, what, flag),
    };
    addresses.iter().map(bind).collect()
}

fn listen(address: SocketAddr, what: &str, flag: &str) -> Result<TcpListener> {
    roost_edge::listen(address).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => bail!(
            "the address {address} for {what} is in use by another program; stop it (`ss -ltnp` shows it) or choose another port with {flag}"
        ),
        _ => Err(error).with_context(|| format!("listen on {address} for {what}")),
    })
}

/// Serves the API on the sockets until the tasks are asked to end.
pub(crate) fn start(
    listeners: Vec<TcpListener>,
    router: Router,
    limits: ClientLimits,
    tasks: &Tasks,
) {
    let server = Server {
        router,
        header_timeout: limits.header_timeout,
        connections: Arc::new(Semaphore::new(limits.connections_max)),
        tasks: tasks.clone(),
    };
    for listener in listeners {
        let server = server.clone();
        tasks.spawn("api-http", async move {
            if let Err(error) = server.accept_from(listener).await {
                tracing::error!(%error, "cannot serve the API");
            }
        });
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    tasks: Tasks,
}

impl Server {
    /// Accepts until the tasks are asked to end. More connections than the
    /// bound wait in the kernel's queue.
    async fn accept_from(self, listener: TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = self.tasks.stopping();
        loop {
            let accept = async {
                let permit = self.connections.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            // Cancel-safe: a permit goes back, a connection not taken stays in the queue.
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let served = self.clone().serve(stream);
                    self.tasks.spawn("api-connection", async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection. What fails on it is the client's affair.
    async fn serve(self, stream: TcpStream) {
        // Only a performance hint: a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
        let stop = self.tasks.stopping();
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router))
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientLimits, start};
    use axum::Router;
    use axum::routing::get;
    use roost_runtime::tasks::Tasks;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    fn served(limits: ClientLimits, tasks: &Tasks) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "hello"));
        start(vec![listener], router, limits, tasks);
        address
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn clients_that_say_nothing_lose_their_place() {
        let tasks = Tasks::new();
        let limits = ClientLimits {
            connections_max: 2,
            header_timeout: Duration::from_millis(500),
        };
        let address = served(limits, &tasks);
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        // On a busy machine the question may be cut off as well: asked again.
        let start = Instant::now();
        while !ask(address).await.is_ok_and(|text| text.ends_with("hello")) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "no place is free"
            );
        }
        let mut rest = Vec::new();
        // The end of the stream, or a reset: both are the end.
        let _ = silent.read_to_end(&mut rest).await;
        let _ = half.read_to_end(&mut rest).await;
        assert!(tasks.shutdown(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn the_end_waits_for_no_idle_client() {
        let tasks = Tasks::new();
        let limits = ClientLimits {
            header_timeout: Duration::from_secs(3_600),
            ..ClientLimits::default()
        };
        let address = served(limits, &tasks);
        let _idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(address).await.unwrap().ends_with("hello"));
        assert!(tasks.shutdown(Duration::from_secs(60)).await);
    }
}
