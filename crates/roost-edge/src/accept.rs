//! Phase 1, accept: listening sockets, the bound on connections, and the life
//! of one client connection with its time-outs.

use crate::activity::Activity;
use crate::arrival::Origin;
use crate::aside::Aside;
use crate::client_body::ClientBody;
use crate::client_stream::ClientStream;
use crate::exchange;
use crate::http1::client::Next;
use crate::ports::{Door, Way};
use crate::shared::Shared;
use crate::tls::Secured;
use crate::{http1, late, limits, pg_tls, proxy_protocol, tcp, tls};
use http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roost_http2::frame::PREFACE;
use roost_http2::server::{self, RequestBody};
use roost_model::machine::PortSharing;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The two ends of a client connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) is_tls: bool,
    /// How long the handshake took, if there was one.
    pub(crate) handshake: Duration,
    /// The external port that the client has come to: 80 and 443 on the shared
    /// listeners, whatever their numbers.
    pub(crate) external: u16,
    /// The dedicated address that the client has come to; its app is the one that is meant.
    pub(crate) own: Option<IpAddr>,
}

/// Accepts until the port is closed, another edge has the socket, or the edge
/// ends. Of more connections than the bound one waits here, and the others in
/// the kernel's queue.
pub(crate) async fn accept_loop(shared: Arc<Shared>, listener: Arc<TcpListener>, door: Door) {
    let _accepting = shared.accepting.token();
    let mut complained = None::<Instant>;
    loop {
        let accepted = tokio::select! {
            () = shared.graceful.cancelled() => return,
            () = shared.retired.cancelled() => return,
            () = door.closed.cancelled() => return,
            accepted = shared.lanes.accept(&listener) => accepted,
        };
        match accepted {
            Ok((stream, client, seat)) => {
                // After the connection is there: a port that nobody uses holds no place.
                let permit = tokio::select! {
                    () = shared.graceful.cancelled() => return,
                    () = door.closed.cancelled() => return,
                    permit = shared.connections.clone().acquire_owned() => permit,
                };
                let Ok(permit) = permit else { return };
                let runtime = seat.runtime();
                let activity = Activity::new(permit, Some(seat));
                let way = door.way.load_full();
                let place = (door.external, door.own);
                let connection = serve(shared.clone(), stream, client, place, way, activity);
                // On the bare tracker: a span and a supervisor task per connection would cost more than some requests.
                shared.clients.spawn_on(connection, &runtime);
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
    mut stream: TcpStream,
    client: SocketAddr,
    (external, own): (u16, Option<IpAddr>),
    way: Arc<Way>,
    activity: Arc<Activity>,
) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let Ok(own) = place_of(&shared, own, local.ip(), &way) else {
        return;
    };
    let mut ends = Ends {
        client,
        local,
        is_tls: false,
        handshake: Duration::ZERO,
        external,
        own,
    };
    // Only a performance hint: a socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    if shared.config.is_proxy(client.ip()) {
        let limit = shared.config.timeouts.header;
        match timeout(limit, Box::pin(proxy_protocol::take(&mut stream))).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(told))) => (ends.client, ends.local) = (told.source, told.destination),
            Ok(Err(error)) => {
                tracing::debug!(%client, %error, "a proxy's connection was closed");
                return;
            }
            Err(_) => return,
        }
    }
    // Nothing is said to one that is refused: that would be work, and over TLS much.
    if *way != Way::Http && shared.is_overloaded() {
        return;
    }
    let visit = match own {
        Some(own) if shared.config.is_private(own) => shared.visitors.enter_alone(ends.client.ip()),
        _ => shared.visitors.enter(ends.client.ip()),
    };
    let Some(visit) = visit else {
        return;
    };
    if matches!(*way, Way::Tls | Way::PgTls) && !visit.may_shake_hands() {
        return;
    }
    activity.belongs_to(visit);
    match &*way {
        Way::Http => plain(shared, stream, ends, activity).await,
        Way::Tls | Way::PgTls => secured(shared, stream, ends, &way, activity).await,
        Way::Raw(app) => {
            keep_alive(&stream);
            let visit = activity.visit();
            // On the heap: a connection of HTTP need not be as large.
            Box::pin(tcp::serve(&shared, stream, ends, visit, app.as_str())).await;
        }
    }
}

/// The dedicated address that a connection has come to, also by a door of every address: its app may
/// have none of its own there now. An error when the door is another app's.
fn place_of(
    shared: &Shared,
    own: Option<IpAddr>,
    local: IpAddr,
    way: &Way,
) -> Result<Option<IpAddr>, Strange> {
    if own.is_some() {
        return Ok(own);
    }
    let local = local.to_canonical();
    let Some(app) = shared.names.app_at(local) else {
        return Ok(None);
    };
    match way {
        Way::Raw(other) if *other != app => Err(Strange),
        // What is asked for is looked for in the app of the address, and challenges are answered.
        Way::Raw(_) | Way::Http | Way::Tls | Way::PgTls => Ok(Some(local)),
    }
}

/// A connection to an app's own address by a door of another app.
struct Strange;

async fn plain(shared: Arc<Shared>, mut stream: TcpStream, ends: Ends, activity: Arc<Activity>) {
    let mut first = Vec::with_capacity(limits::HTTP1_HEAD_BYTES);
    let read = tokio::select! {
        read = timeout(shared.config.timeouts.header, read_preface(&mut stream, &mut first)) => read,
        () = shared.graceful.cancelled() => return,
    };
    match read {
        Ok(Ok(())) => {}
        // Who has said nothing, or speaks HTTP/2, would not understand an answer.
        Err(_) if !first.is_empty() && !first.starts_with(b"PRI") => {
            return Box::pin(late::answer(stream)).await;
        }
        Ok(Err(_)) | Err(_) => return,
    }
    let is_http2 = first.starts_with(PREFACE);
    let stream = ClientStream::new(stream, first, activity.clone());
    drive(shared, stream, ends, activity, is_http2).await;
}

async fn secured(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    mut ends: Ends,
    way: &Way,
    activity: Arc<Activity>,
) {
    let begun = Instant::now();
    let agree = async {
        let sharing = if *way == Way::PgTls {
            pg_tls::begin(&mut stream).await?;
            PortSharing::ByServerNameOfPostgres
        } else {
            PortSharing::ByServerName
        };
        shared.tls.accept(&shared, stream, ends, sharing).await
    };
    // On the heap and gone afterwards: the connection need not be as large as its handshake.
    let agreed = Box::pin(timeout(shared.config.timeouts.handshake, agree)).await;
    // What failed, the client was told by an alert or in PostgreSQL's words.
    let Ok(Ok(secured)) = agreed else {
        return;
    };
    (ends.is_tls, ends.handshake) = (true, begun.elapsed());
    let Secured { mut stream, app } = secured;
    if tls::is_challenge(&stream) {
        // The client has seen what it came for; whether it waits for the end is its affair.
        let _ = timeout(shared.config.timeouts.handshake, stream.shutdown()).await;
        return;
    }
    if let Some(app) = app {
        keep_alive(stream.get_ref().0);
        let served = tcp::serve(&shared, stream, ends, activity.visit(), app.name.as_str());
        return Box::pin(served).await;
    }
    let is_http2 = tls::is_http2(&stream);
    let stream = ClientStream::new(stream, Vec::new(), activity.clone());
    drive(shared, stream, ends, activity, is_http2).await;
}

/// Has the kernel find out about a client that is gone without a word, as no
/// time-out of HTTP will.
fn keep_alive(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(limits::KEEPALIVE_AFTER);
    // Without it the connection ends with its idle time.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Reads until the bytes are the HTTP/2 preface or can no longer become it.
async fn read_preface(stream: &mut TcpStream, first: &mut Vec<u8>) -> std::io::Result<()> {
    while first.len() < PREFACE.len() && PREFACE.starts_with(first) {
        if stream.read_buf(first).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn drive<S>(
    shared: Arc<Shared>,
    stream: ClientStream<S>,
    ends: Ends,
    activity: Arc<Activity>,
    is_http2: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let origin = Origin::new(
        ends.client.ip(),
        ends.local,
        ends.is_tls,
        shared.region.clone(),
    );
    if is_http2 {
        // On the heap: a connection of HTTP/1 need not be as large.
        return Box::pin(by_http2(&shared, stream, ends, &origin, &activity)).await;
    }
    let mut stream = stream;
    let next = {
        let plain = http1::client::serve(&shared, &mut stream, ends, &origin, &activity);
        let plain = pin!(plain);
        until_closed(&shared, &activity, plain, false, |_| activity.close()).await
    };
    match next {
        Some(Next::Other(first)) => {
            stream.begin_with(first.into());
            // On the heap as well.
            Box::pin(by_hyper(&shared, stream, ends, &origin, &activity)).await;
        }
        None if activity.is_late() => {
            if let Some(stream) = stream.into_inner() {
                Box::pin(late::answer(stream)).await;
            }
        }
        Some(Next::Nothing) | None => {}
    }
}

/// Serves HTTP/1 of all kinds.
async fn by_hyper<S>(
    shared: &Arc<Shared>,
    mut stream: ClientStream<S>,
    ends: Ends,
    origin: &Arc<Origin>,
    activity: &Arc<Activity>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut late = stream.comes_back();
    let service = service_fn(|request| {
        exchange::handle(
            shared.clone(),
            ends,
            origin.clone(),
            activity.begin(),
            request,
        )
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_header_size(limits::HEADER_BYTES_MAX + limits::URI_BYTES_MAX)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    {
        // Dropped at the end of this block: that is how its stream comes back.
        let connection = pin!(connection);
        until_closed(shared, activity, connection, false, |c| {
            c.graceful_shutdown();
        })
        .await;
    }
    if let Ok(stream) = late.try_recv() {
        Box::pin(late::answer(stream)).await;
    }
}

async fn by_http2<S>(
    shared: &Arc<Shared>,
    stream: ClientStream<S>,
    ends: Ends,
    origin: &Arc<Origin>,
    activity: &Arc<Activity>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    activity.is_http2();
    let service = {
        let (shared, origin, activity) = (shared.clone(), origin.clone(), activity.clone());
        move |head: Parts, body: Option<RequestBody>| {
            let body = body.map(ClientBody::Http2);
            let (shared, origin, serving) = (shared.clone(), origin.clone(), activity.begin());
            // Made where it stays: it is large, and to move it is to copy it.
            let place = Box::new_uninit();
            let answered = exchange::answered(shared, ends, origin, serving, head, body);
            Box::into_pin(Box::write(place, answered))
        }
    };
    let settings = server::Settings {
        streams_max: limits::HTTP2_STREAMS_MAX,
        stream_window: limits::HTTP2_STREAM_WINDOW_BYTES,
        connection_window: limits::HTTP2_CONNECTION_WINDOW_BYTES,
        header_bytes_max: u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX),
        header_lines_max: limits::HTTP2_HEADER_LINES_MAX,
        quick_resets_max: limits::HTTP2_QUICK_RESETS_MAX,
        cancels_max: limits::HTTP2_CANCELS_MAX,
        cancel_pause: limits::HTTP2_CANCEL_PAUSE,
        error_resets_max: limits::HTTP2_ERROR_RESETS_MAX,
        stall_max: shared.config.timeouts.body_idle,
    };
    let connection = pin!(server::Connection::new(stream, settings, service));
    until_closed(shared, activity, connection, true, |c| {
        c.get_mut().graceful_shutdown();
    })
    .await;
}

/// Runs a connection until it ends, is idle for too long, or the edge ends; `None` when it is cut.
///
/// When another edge has the sockets, HTTP/2 clients are told at once to ask no
/// more here (RFC 9113 6.8). HTTP/1 has no word for that but the next response:
/// see [`exchange::answered`].
async fn until_closed<C>(
    shared: &Shared,
    activity: &Activity,
    mut connection: Pin<&mut C>,
    is_http2: bool,
    close: impl Fn(Pin<&mut C>),
) -> Option<C::Output>
where
    C: Future,
{
    let timeouts = &shared.config.timeouts;
    let mut closing: Option<Instant> = None;
    let mut awaits_retirement = is_http2;
    loop {
        let wake = closing.unwrap_or_else(|| activity.next_look(timeouts));
        let signal = pin!(signal(shared, closing.is_none(), awaits_retirement, wake));
        let mut signal = Aside::new(signal);
        let next = poll_fn(|cx| match connection.as_mut().poll(cx) {
            // An error here is the client's doing (reset, bad bytes); hyper has answered if it could.
            Poll::Ready(end) => Poll::Ready(Err(end)),
            Poll::Pending => signal.poll(cx).map(Ok),
        });
        match next.await {
            Err(end) => return Some(end),
            Ok(Signal::Kill) => return None,
            Ok(Signal::Graceful) => {
                closing = Some(Instant::now() + timeouts.drain);
                close(connection.as_mut());
            }
            Ok(Signal::Retired) => {
                awaits_retirement = false;
                close(connection.as_mut());
            }
            Ok(Signal::Look) => {
                // What has come by now counts, however late this task runs.
                let last = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx)));
                if let Poll::Ready(end) = last.await {
                    return Some(end);
                }
                if closing.is_some() || activity.is_stuck(timeouts) {
                    return None;
                }
                if activity.header_is_late(timeouts) {
                    activity.cut_as_late();
                    return None;
                }
                if activity.is_idle(timeouts) {
                    closing = Some(Instant::now() + limits::CLOSE_GRACE);
                    close(connection.as_mut());
                }
            }
        }
    }
}

/// What a connection is told.
enum Signal {
    Kill,
    Graceful,
    Retired,
    /// It is time to look at it.
    Look,
}

async fn signal(shared: &Shared, is_open: bool, awaits_retirement: bool, look: Instant) -> Signal {
    tokio::select! {
        () = shared.kill.cancelled() => Signal::Kill,
        () = shared.graceful.cancelled(), if is_open => Signal::Graceful,
        () = shared.retired.cancelled(), if awaits_retirement => Signal::Retired,
        () = sleep_until(look) => Signal::Look,
    }
}
