//! Serves a client connection as long as its requests are plain.

use super::request;
use super::response::{self, Coding};
use super::spare;
use crate::accept::Ends;
use crate::activity::Activity;
use crate::arrival::Origin;
use crate::body::ResponseBody;
use crate::client_stream::ClientStream;
use crate::exchange;
use crate::limits;
use crate::shared::Shared;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Response};
use http_body::Body as _;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How the serving of plain requests ended.
#[derive(Debug)]
pub(crate) enum Next {
    /// The connection is over.
    Nothing,
    /// With these bytes begins something else.
    Other(Bytes),
}

/// A connection whose client has ended it.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Answers plain requests until there is one that is not, or the connection ends.
pub(crate) async fn serve<S>(
    shared: &Arc<Shared>,
    stream: &mut ClientStream<S>,
    ends: Ends,
    origin: &Arc<Origin>,
    activity: &Arc<Activity>,
) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ahead = Bytes::from(stream.take_first());
    loop {
        if ahead.is_empty() {
            match poll_fn(|cx| poll_begin(stream, activity, cx)).await {
                Some(bytes) => ahead = bytes,
                None => break,
            }
        }
        let Some(plain) = request::read(&ahead) else {
            return Next::Other(ahead);
        };
        ahead = Bytes::new();
        let method = plain.parts.method.clone();
        let response = {
            let (shared, serving) = (shared.clone(), activity.begin());
            // Made where it stays: it is large, and to move it is to copy it.
            let mut answered = pin!(exchange::answered(
                shared,
                ends,
                origin.clone(),
                serving,
                plain.parts,
                None
            ));
            poll_fn(|cx| match answered.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => poll_gone(stream, &mut ahead, cx).map(|Gone| None),
            })
            .await
        };
        let Some(response) = response else {
            return Next::Nothing;
        };
        let is_last = plain.is_last || activity.is_closing();
        match respond(stream, &mut ahead, response, &method, is_last).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(Gone) => return Next::Nothing,
        }
    }
    // Whether the client hears of the end is its affair.
    let _ = stream.shutdown().await;
    Next::Nothing
}

/// Waits for the first bytes of a request; `None` when there will be none.
fn poll_begin<S: AsyncRead + Unpin>(
    stream: &mut ClientStream<S>,
    activity: &Activity,
    cx: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    match poll_read(stream, cx) {
        Poll::Ready(Ok(bytes)) => Poll::Ready((!bytes.is_empty()).then_some(bytes)),
        Poll::Ready(Err(_)) => Poll::Ready(None),
        Poll::Pending if activity.is_closing() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    }
}

/// Whether the client has left before its answer. What it says meanwhile is kept, and no more read.
fn poll_gone<S: AsyncRead + Unpin>(
    stream: &mut ClientStream<S>,
    ahead: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<Gone> {
    if !ahead.is_empty() {
        return Poll::Pending;
    }
    match ready!(poll_read(stream, cx)) {
        Ok(bytes) if !bytes.is_empty() => {
            *ahead = bytes;
            Poll::Pending
        }
        Ok(_) | Err(_) => Poll::Ready(Gone),
    }
}

/// Reads what has come. A connection that waits holds no buffer.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut ClientStream<S>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; limits::HTTP1_READ_BYTES_MIN]);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(stream.poll_read_unnoted(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}

/// Writes a response; whether another request may follow.
async fn respond<S>(
    stream: &mut ClientStream<S>,
    ahead: &mut Bytes,
    response: Response<ResponseBody>,
    method: &Method,
    is_last: bool,
) -> Result<bool, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut parts, mut body) = response.into_parts();
    let mut bytes = spare::take();
    let size = body.size_hint();
    let coding = response::write_head(&mut parts, method, &size, is_last, &mut bytes);
    let is_last = is_last || parts.headers.contains_key(CONNECTION);
    drop(parts);
    let mut left = coding.length();
    let mut is_whole = body.is_end_stream() || coding == Coding::Empty;
    while !is_whole {
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(Some(frame))),
            // What is there goes out before more is waited for.
            Poll::Pending if !bytes.is_empty() => Poll::Ready(Ok(None)),
            Poll::Pending => poll_gone(stream, ahead, cx).map(Err),
        });
        let frame = match frame.await? {
            None => {
                write(stream, &mut bytes, &Bytes::new()).await?;
                // Also out of the buffers of TLS: the app may say nothing more for long.
                stream.flush().await?;
                continue;
            }
            Some(None) => break,
            Some(Some(Err(_))) => return cut(stream, bytes).await,
            Some(Some(Ok(frame))) => frame,
        };
        is_whole = body.is_end_stream();
        // Trailers are for clients that ask for them, and their requests are not plain. A piece
        // without bytes would be the end of a chunked body.
        let Some(piece) = frame.into_data().ok().filter(|piece| !piece.is_empty()) else {
            continue;
        };
        left = match left.map(|left| left.checked_sub(piece.len() as u64)) {
            Some(None) => return cut(stream, bytes).await,
            left => left.flatten(),
        };
        if coding == Coding::Chunked || piece.len() < limits::HTTP1_COPY_BYTES_MAX {
            response::write_piece(coding, &piece, &mut bytes);
            if bytes.len() >= limits::HTTP1_READ_BYTES_MAX {
                write(stream, &mut bytes, &Bytes::new()).await?;
            }
        } else {
            write(stream, &mut bytes, &piece).await?;
        }
    }
    // An app may end a body that is shorter than it said as if it were whole.
    if left.is_some_and(|left| left > 0) {
        return cut(stream, bytes).await;
    }
    if coding == Coding::Chunked {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    write(stream, &mut bytes, &Bytes::new()).await?;
    stream.flush().await?;
    spare::give(bytes);
    Ok(!is_last)
}

/// Writes what there is of a response that breaks off; the client sees by the end of the
/// connection that it is not whole.
async fn cut<S>(stream: &mut ClientStream<S>, mut bytes: Vec<u8>) -> Result<bool, Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write(stream, &mut bytes, &Bytes::new()).await?;
    stream.flush().await?;
    Err(Gone)
}

/// Writes both; the first is empty then.
async fn write<S>(
    stream: &mut ClientStream<S>,
    first: &mut Vec<u8>,
    second: &Bytes,
) -> Result<(), Gone>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut n_written, length) = (0, first.len() + second.len());
    while n_written < length {
        let rest = second.get(n_written.saturating_sub(first.len())..);
        let slices = [
            io::IoSlice::new(first.get(n_written..).unwrap_or_default()),
            io::IoSlice::new(rest.unwrap_or_default()),
        ];
        // To write one piece costs less than a list of pieces.
        let n = match slices {
            [one, rest] if rest.is_empty() => stream.write(&one).await?,
            [none, one] if none.is_empty() => stream.write(&one).await?,
            both => stream.write_vectored(&both).await?,
        };
        if n == 0 {
            return Err(Gone);
        }
        n_written += n;
    }
    first.clear();
    Ok(())
}
