//! A part of a file as the body of an answer, read chunk by chunk.

use crate::limits::CHUNK_BYTES;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use roost_model::web::range::Slice;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};

/// The bytes of a file from where it stands.
#[derive(Debug)]
pub(crate) struct FileBody {
    file: tokio::fs::File,
    left: u64,
    buffer: Vec<u8>,
}

impl FileBody {
    /// Sends `slice` of the file, which must stand at the slice's start.
    pub(crate) fn new(file: File, slice: Slice) -> Self {
        Self {
            file: tokio::fs::File::from_std(file),
            left: slice.length,
            buffer: Vec::new(),
        }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let wanted = usize::try_from(this.left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        this.buffer.resize(wanted, 0);
        let mut read = ReadBuf::new(&mut this.buffer);
        ready!(Pin::new(&mut this.file).poll_read(context, &mut read))?;
        let filled = read.filled();
        if filled.is_empty() {
            // The head promised more: the connection must break, not look complete.
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
            return Poll::Ready(Some(Err(error)));
        }
        this.left -= filled.len() as u64;
        let chunk = BytesMut::from(filled).freeze();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
