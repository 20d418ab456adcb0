//! Datagrams in a stream from edge to edge: each is its length in two bytes, the
//! higher one first, and then itself.
//!
//! A length of 65,535, which no datagram has, is a word of its own: nobody
//! listens at the machine, and the flow is over. Every other length above that
//! of the longest datagram is an error.

use crate::limits::DATAGRAM_PAYLOAD_BYTES_MAX;

/// Bytes before a datagram.
pub(crate) const HEAD_BYTES: usize = 2;
/// The length that stands for [`Frame::Refused`].
const REFUSED: u16 = u16::MAX;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// A datagram.
    Datagram(&'a [u8]),
    /// Nobody listens at the machine; said by the edge of its node.
    Refused,
}

/// What came is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {0} bytes is longer than any can be")]
pub(crate) struct FrameError(usize);

impl From<FrameError> for std::io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Writes a datagram behind others; `false` if it is too long to be one.
pub(crate) fn write(out: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let length = u16::try_from(datagram.len()).unwrap_or(REFUSED);
    if datagram.len() > DATAGRAM_PAYLOAD_BYTES_MAX {
        return false;
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
    true
}

/// Writes that nobody listens at the machine.
pub(crate) fn write_refused(out: &mut Vec<u8>) {
    out.extend_from_slice(&REFUSED.to_be_bytes());
}

/// What bytes begin with.
enum Split<'a> {
    /// A frame, and what is behind it.
    Whole(Frame<'a>, &'a [u8]),
    /// A part of one, for the rest of which so many bytes are missing at least.
    Missing(usize),
}

fn split(bytes: &[u8]) -> Result<Split<'_>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(Split::Missing(HEAD_BYTES - bytes.len()));
    };
    let length = u16::from_be_bytes(*head);
    if length == REFUSED {
        return Ok(Split::Whole(Frame::Refused, rest));
    }
    let n_bytes = usize::from(length);
    if n_bytes > DATAGRAM_PAYLOAD_BYTES_MAX {
        return Err(FrameError(n_bytes));
    }
    Ok(match rest.split_at_checked(n_bytes) {
        Some((datagram, rest)) => Split::Whole(Frame::Datagram(datagram), rest),
        None => Split::Missing(n_bytes - rest.len()),
    })
}

/// Takes frames out of a stream, in whatever pieces it comes. Keeps one frame that has not come
/// to its end, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    begun: Vec<u8>,
}

impl Frames {
    /// Gives each frame that comes to its end with these bytes.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<(), FrameError> {
        while !self.begun.is_empty() {
            match split(&self.begun)? {
                Split::Whole(frame, _) => {
                    each(frame);
                    // Not cleared: a flow that is idle holds nothing.
                    self.begun = Vec::new();
                }
                Split::Missing(_) if bytes.is_empty() => return Ok(()),
                // Never more than is missing, so nothing is behind the frame.
                Split::Missing(n_missing) => {
                    let (now, later) = bytes.split_at(n_missing.min(bytes.len()));
                    self.begun.extend_from_slice(now);
                    bytes = later;
                }
            }
        }
        while let Split::Whole(frame, rest) = split(bytes)? {
            each(frame);
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }
}

/// For the fuzz target `datagram_frames`: the first byte says in what pieces the others come.
/// However they are cut they are the same frames, and no more is kept than one of them.
pub fn fuzz(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let read = |piece: usize| {
        let (mut frames, mut again) = (Frames::default(), Vec::new());
        let mut error = None;
        for piece in bytes.chunks(piece) {
            let each = |frame: Frame<'_>| match frame {
                Frame::Datagram(datagram) => assert!(write(&mut again, datagram)),
                Frame::Refused => write_refused(&mut again),
            };
            error = frames.take(piece, each).err();
            assert!(frames.begun.len() < HEAD_BYTES + DATAGRAM_PAYLOAD_BYTES_MAX);
            if error.is_some() {
                break;
            }
        }
        (again, error, frames.begun)
    };
    let whole = read(bytes.len().max(1));
    let (again, error, begun) = read(usize::from(*piece) + 1);
    assert_eq!((&again, error), (&whole.0, whole.1));
    assert!(bytes.starts_with(&again));
    if error.is_none() {
        assert_eq!(begun, whole.2);
        assert_eq!([again, begun].concat(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{DATAGRAM_PAYLOAD_BYTES_MAX, Frame, FrameError, Frames, fuzz, write};

    fn taken(pieces: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, FrameError> {
        let (mut frames, mut taken) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.take(piece, |frame| {
                taken.push(match frame {
                    Frame::Datagram(datagram) => Some(datagram.to_vec()),
                    Frame::Refused => None,
                });
            })?;
        }
        Ok(taken)
    }

    #[test]
    fn datagrams_of_every_length_are_read_as_they_were_written() {
        let largest = vec![7; DATAGRAM_PAYLOAD_BYTES_MAX];
        let all = [&b""[..], b"x", &largest, b"", b"last"];
        let mut stream = Vec::new();
        for datagram in all {
            assert!(write(&mut stream, datagram));
        }
        super::write_refused(&mut stream);
        let expected = all.map(|it| Some(it.to_vec()));
        let expected = [&expected[..], &[None]].concat();
        assert_eq!(taken(&[&stream]), Ok(expected.clone()));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(taken(&bytes), Ok(expected));
    }

    #[test]
    fn what_is_too_long_is_neither_written_nor_read() {
        let mut stream = Vec::new();
        assert!(!write(
            &mut stream,
            &vec![0; DATAGRAM_PAYLOAD_BYTES_MAX + 1]
        ));
        assert!(!write(&mut stream, &vec![0; 100_000]));
        assert_eq!(stream, b"");
        for length in [DATAGRAM_PAYLOAD_BYTES_MAX + 1, usize::from(u16::MAX) - 1] {
            let head = u16::try_from(length).unwrap().to_be_bytes();
            assert_eq!(taken(&[&head]), Err(FrameError(length)));
            assert_eq!(taken(&[&head[..1], &head[1..]]), Err(FrameError(length)));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_same_frames(
            bytes in proptest::collection::vec(0..4_u8, 0..400),
        ) {
            fuzz(&bytes);
        }

        #[test]
        fn nothing_that_is_sent_is_more_than_refused(
            bytes in proptest::prelude::any::<Vec<u8>>(),
        ) {
            fuzz(&bytes);
        }
    }
}
