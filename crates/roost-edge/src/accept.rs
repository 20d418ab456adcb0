//! Phase 1, accept: listening sockets, the bound on connections, and the life
//! of one client connection with its time-outs.

use crate::activity::Activity;
use crate::client_stream::ClientStream;
use crate::exchange::{self, Shared};
use crate::streams::StreamExecutor;
use crate::{late, limits, tls};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

/// The preface of an HTTP/2 connection (RFC 9113 3.4).
const PREFACE: &[u8; limits::PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The two ends of a client connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) is_tls: bool,
}

/// Opens a listening socket.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::ACCEPT_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the edge ends. More connections than the bound wait in the kernel's queue.
pub(crate) async fn accept_loop(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) {
    let mut complained = None::<Instant>;
    loop {
        let accepted = tokio::select! {
            () = shared.graceful.cancelled() => return,
            accepted = async {
                let permit = shared.connections.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (Ok(permit), accepted) = accepted else {
            return;
        };
        match accepted {
            Ok((stream, client)) => {
                let activity = Activity::new(permit);
                let connection = serve(shared.clone(), stream, client, tls.clone(), activity);
                // On the bare tracker: a span and a supervisor task per connection would cost more than some requests.
                shared.clients.spawn(connection);
            }
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed().as_secs() >= 10) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, "a connection could not be accepted");
                }
                sleep(limits::ACCEPT_ERROR_PAUSE).await;
            }
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    client: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    activity: Arc<Activity>,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Only a performance hint: a socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => {
            let ends = Ends {
                client,
                local,
                is_tls: false,
            };
            let mut stream = stream;
            let mut first = Vec::with_capacity(limits::PREFACE_BYTES);
            let read = tokio::select! {
                read = timeout(shared.config.timeouts.header, read_preface(&mut stream, &mut first)) => read,
                () = shared.graceful.cancelled() => return,
            };
            match read {
                Ok(Ok(())) => {}
                // Who has said nothing, or speaks HTTP/2, would not understand an answer.
                Err(_) if !first.is_empty() && !first.starts_with(b"PRI") => {
                    return late::answer(stream).await;
                }
                Ok(Err(_)) | Err(_) => return,
            }
            let is_http2 = first.as_slice() == PREFACE;
            let stream = ClientStream::new(stream, first, activity.clone());
            drive(shared, stream, ends, activity, is_http2).await;
        }
        Some(acceptor) => {
            let ends = Ends {
                client,
                local,
                is_tls: true,
            };
            let limit = shared.config.timeouts.handshake;
            let Ok(Ok(stream)) = timeout(limit, acceptor.accept(stream)).await else {
                return;
            };
            let is_http2 = tls::is_http2(&stream);
            let stream = ClientStream::new(stream, Vec::new(), activity.clone());
            drive(shared, stream, ends, activity, is_http2).await;
        }
    }
}

/// Reads until the bytes are the HTTP/2 preface or can no longer become it.
async fn read_preface(stream: &mut TcpStream, first: &mut Vec<u8>) -> std::io::Result<()> {
    while first.len() < PREFACE.len() && PREFACE.starts_with(first) {
        let mut rest = (&mut *stream).take((PREFACE.len() - first.len()) as u64);
        if rest.read_buf(first).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn drive<S>(
    shared: Arc<Shared>,
    mut stream: ClientStream<S>,
    ends: Ends,
    activity: Arc<Activity>,
    is_http2: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn({
        let (shared, activity) = (shared.clone(), activity.clone());
        move |request| {
            let exchange = exchange::handle(shared.clone(), ends, activity.begin(), request);
            async move { Ok::<_, std::convert::Infallible>(exchange.await) }
        }
    });
    if is_http2 {
        let io = TokioIo::new(stream);
        activity.is_http2();
        let executor = StreamExecutor {
            tracker: shared.clients.clone(),
            body_idle: shared.config.timeouts.body_idle,
        };
        let connection = hyper::server::conn::http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
            .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(limits::HTTP2_ERROR_RESETS_MAX)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX))
            .enable_connect_protocol()
            .serve_connection(io, service);
        until_closed(&shared, &activity, connection, |c| c.graceful_shutdown()).await;
    } else {
        let mut late = stream.comes_back();
        let io = TokioIo::new(stream);
        let connection = hyper::server::conn::http1::Builder::new()
            .max_headers(limits::HEADER_LINES_MAX)
            .max_header_size(limits::HEADER_BYTES_MAX + limits::URI_BYTES_MAX)
            .max_buf_size(limits::HTTP1_BUFFER_BYTES_MAX)
            .header_read_timeout(None)
            .serve_connection(io, service)
            .with_upgrades();
        until_closed(&shared, &activity, connection, |c| c.graceful_shutdown()).await;
        if let Ok(stream) = late.try_recv() {
            late::answer(stream).await;
        }
    }
}

/// Runs a connection until it ends, is idle for too long, or the edge ends.
async fn until_closed<C>(
    shared: &Shared,
    activity: &Activity,
    connection: C,
    close: fn(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let timeouts = &shared.config.timeouts;
    let mut closing: Option<Instant> = None;
    loop {
        let wake = closing.unwrap_or_else(|| activity.next_look(timeouts));
        tokio::select! {
            // An error here is the client's doing (reset, bad bytes); hyper has answered if it could.
            _ = connection.as_mut() => return,
            () = shared.kill.cancelled() => return,
            () = shared.graceful.cancelled(), if closing.is_none() => {
                closing = Some(Instant::now() + timeouts.drain);
                close(connection.as_mut());
            }
            () = sleep_until(wake) => {
                // What has come by now counts, however late this task runs.
                let last = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx)));
                if last.await.is_ready() {
                    return;
                }
                if closing.is_some() || activity.is_stuck(timeouts) {
                    return;
                }
                if activity.header_is_late(timeouts) {
                    activity.cut_as_late();
                    return;
                }
                if activity.is_idle(timeouts) {
                    closing = Some(Instant::now() + limits::CLOSE_GRACE);
                    close(connection.as_mut());
                }
            }
        }
    }
}
