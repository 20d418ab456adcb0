//! The answer's body, as the client's connection takes it. It carries the settlement of its
//! exchange and settles it when it ends or is dropped.

use super::{AppBody, BodyError, Patience};
use crate::client_body::WrittenBody;
use crate::compress::Compressed;
use crate::settle::Settlement;
use crate::statics::FileContent;
use crate::streams;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The body of a response to a client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// A page of the edge itself.
    Page {
        content: Option<Bytes>,
        settlement: Box<Settlement>,
    },
    /// The machine's body.
    Streamed(Box<StreamedResponse>),
    /// A file of the machine.
    File(Box<FileResponse>),
    /// One of them, compressed on the way.
    Compressed(Box<Compressed>),
    /// The one direction of a tunnel.
    Tunnel(WrittenBody),
}

/// A file of a machine on its way to the client.
#[derive(Debug)]
pub(crate) struct FileResponse {
    content: FileContent,
    settlement: Settlement,
}

/// A machine's body on its way to the client.
#[derive(Debug)]
pub(crate) struct StreamedResponse {
    body: AppBody,
    patience: Patience,
    /// The codec forgets what it has not written yet when it hears of a failure: it hears of it
    /// at the next poll, after it has written that.
    failed: Option<BodyError>,
    /// Whether all of it has been given: to ask the machine's body takes a lock.
    is_ended: bool,
    settlement: Settlement,
}

impl ResponseBody {
    /// Passes on the machine's body; a body that is empty already settles when the response is dropped.
    pub(crate) fn streamed(body: AppBody, idle: Duration, mut settlement: Settlement) -> Self {
        let is_ended = body.is_end_stream();
        if is_ended {
            settlement.body_ended();
        }
        Self::Streamed(Box::new(StreamedResponse {
            body,
            patience: Patience::new(idle),
            failed: None,
            is_ended,
            settlement,
        }))
    }

    /// Sends a file, or nothing, which settles at once.
    pub(crate) fn of_file(content: Option<FileContent>, mut settlement: Settlement) -> Self {
        match content.filter(|content| content.left() > 0) {
            Some(content) => Self::File(Box::new(FileResponse {
                content,
                settlement,
            })),
            None => {
                settlement.body_ended();
                Self::Page {
                    content: None,
                    settlement: Box::new(settlement),
                }
            }
        }
    }

    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let streamed = match self {
            Self::Page {
                content,
                settlement,
            } => {
                let content = content.take();
                settlement.add_bytes(content.as_ref().map_or(0, Bytes::len));
                settlement.body_ended();
                return Poll::Ready(content.map(|content| Ok(Frame::data(content))));
            }
            Self::Streamed(streamed) => streamed,
            Self::File(file) => return file.poll_piece(cx),
            Self::Compressed(compressed) => return compressed.poll_piece(cx),
            Self::Tunnel(written) => return written.poll_piece(cx),
        };
        if let Some(error) = streamed.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut streamed.body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                streamed.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(frame) => {
                streamed.patience.progress();
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    streamed.settlement.add_bytes(data.len());
                }
                streamed.is_ended = frame.is_none() || streamed.body.is_end_stream();
                if streamed.is_ended {
                    streamed.settlement.body_ended();
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                ready!(streamed.patience.poll_over(cx));
                Poll::Ready(Some(Err(BodyError::Idle(streamed.patience.limit))))
            }
        }
    }
}

impl FileResponse {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = ready!(self.content.poll_piece(cx));
        if let Some(Ok(piece)) = &piece {
            self.settlement.add_bytes(piece.len());
        }
        if self.content.left() == 0 {
            self.settlement.body_ended();
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(BodyError::File)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.get_mut().poll_piece(cx);
        streams::body_polled(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page { content, .. } => content.is_none(),
            Self::Streamed(streamed) => streamed.is_ended,
            Self::File(file) => file.content.left() == 0,
            Self::Compressed(compressed) => compressed.is_end(),
            Self::Tunnel(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page { content, .. } => {
                SizeHint::with_exact(content.as_ref().map_or(0, |c| c.len() as u64))
            }
            Self::Streamed(streamed) => streamed.body.size_hint(),
            Self::File(file) => SizeHint::with_exact(file.content.left()),
            Self::Compressed(_) => SizeHint::default(),
            Self::Tunnel(_) => SizeHint::default(),
        }
    }
}
