//! Accepts connections until told to stop, then drains them.

use crate::limits;
use crate::respond::Site;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Serves `site` on `listener` until `stop` is ready and the requests under way are answered.
pub(crate) async fn serve(listener: TcpListener, site: Site, stop: impl Future<Output = ()>) {
    let site = Arc::new(site);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let has_room = connections.len() < limits::CONNECTIONS_MAX;
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(connection(stream, Arc::clone(&site), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(limits::ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(limits::DRAIN_TIMEOUT, graceful.shutdown()).await;
    crate::log::stopped(match drained {
        Ok(()) => "stopped",
        Err(_) => "stopped, with requests still under way",
    });
}

async fn connection(
    stream: TcpStream,
    site: Arc<Site>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Answers are written whole; waiting to fill a packet only adds delay.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.respond(&request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // A client that goes away or speaks no HTTP is its own affair.
    drop(watcher.watch(connection).await);
}
