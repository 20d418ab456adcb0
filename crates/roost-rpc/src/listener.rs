//! Connections to a worker: accepted, authenticated, bounded, served.

use crate::limits;
use crate::server::WorkerService;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use roost_auth::cluster::Role;
use roost_proto::worker::WorkerApi;
use roost_runtime::tasks::Tasks;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) worker: Arc<dyn WorkerApi>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) tasks: Tasks,
}

impl Listener {
    /// Accepts until the tasks are asked to end. More connections than the
    /// bound wait in the kernel's queue.
    pub(crate) async fn accept_from(self, listener: TcpListener) {
        let stop = self.tasks.stopping();
        loop {
            let accept = async {
                let permit = self.connections.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            // Cancel-safe: a permit goes back, a connection not taken stays in the queue.
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let this = self.clone();
                    self.tasks.spawn("worker-rpc-connection", async move {
                        match timeout(limits::CONNECT_TIMEOUT, this.handshake(stream)).await {
                            Ok(Ok(stream)) => this.serve(stream).await,
                            Ok(Err(error)) => {
                                tracing::warn!(%from, %error, "a peer was refused at the worker's API");
                            }
                            Err(_) => tracing::warn!(%from, "a peer said nothing at the worker's API"),
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the worker's API could not be accepted");
                    sleep(limits::ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        // Only a performance hint: a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
        self.tls.accept(stream).await
    }

    /// Serves one connection until either side leaves, or it is old.
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        let certificates = stream.get_ref().1.peer_certificates();
        let role = certificates
            .and_then(|chain| chain.first())
            .and_then(Role::of);
        let service = WorkerService::new(Arc::clone(&self.worker), role).into_server();
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits::PING_INTERVAL)
            .keep_alive_timeout(limits::PING_TIMEOUT)
            .max_concurrent_streams(limits::CALLS_PER_CONNECTION_MAX)
            .max_header_list_size(limits::HEADERS_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let stop = self.tasks.stopping();
        // What fails on a connection is its client's affair.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stop.cancelled() => {}
            () = sleep(limits::CONNECTION_AGE_MAX) => {
                connection.as_mut().graceful_shutdown();
                // Calls end by their own time-outs; new ones come by a new connection.
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = stop.cancelled() => {}
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits::DRAIN_TIMEOUT, connection).await;
    }
}
