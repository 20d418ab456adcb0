//! The chunked transfer coding (RFC 9112 7.1), read piece by piece.

use crate::limits;
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What the bytes so far say.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// A piece of the content, not empty.
    Data(Bytes),
    /// The trailer section, if it has lines; the message ends with it.
    Trailers(HeaderMap),
    /// The message has ended.
    End,
    /// The bytes are used up.
    More,
}

/// Chunks that are none.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("its chunks cannot be read: {0}")]
pub(crate) struct BadChunks(&'static str);

#[derive(Debug)]
enum State {
    /// In the size of a chunk, after so many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// In what may follow it up to the end of the line; so many bytes of it.
    Extension {
        size: u64,
        length: usize,
    },
    /// Before the LF of that line.
    SizeEnd(u64),
    /// In the content of a chunk, before so many bytes.
    Data(u64),
    /// Before the CR and before the LF behind it.
    DataCr,
    DataLf,
    /// In the trailer section, which is kept until its end.
    Trailer(Vec<u8>),
    Done,
}

/// The place in a chunked message.
#[derive(Debug)]
pub(crate) struct Chunks(State);

impl Chunks {
    /// Before the first chunk.
    pub(crate) fn new() -> Self {
        Self(State::Size { size: 0, digits: 0 })
    }

    /// Takes from the bytes up to the next event.
    pub(crate) fn next(&mut self, bytes: &mut Bytes) -> Result<Event, BadChunks> {
        while let Some(&byte) = bytes.first() {
            self.0 = match &mut self.0 {
                State::Data(left) => {
                    let length = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= length as u64;
                    if *left == 0 {
                        self.0 = State::DataCr;
                    }
                    return Ok(Event::Data(bytes.split_to(length)));
                }
                State::Trailer(kept) => {
                    kept.push(byte);
                    bytes.advance(1);
                    if kept.len() > limits::TRAILER_BYTES_MAX {
                        return Err(BadChunks("the trailers are too long"));
                    }
                    if !(kept == b"\r\n" || kept.ends_with(b"\r\n\r\n")) {
                        continue;
                    }
                    let trailers = trailers(kept)?;
                    self.0 = State::Done;
                    return Ok(trailers.map_or(Event::End, Event::Trailers));
                }
                State::Done => return Ok(Event::End),
                State::Size { size, digits } => size_byte(*size, *digits, byte)?,
                State::Extension { size, length } => match byte {
                    b'\r' => State::SizeEnd(*size),
                    b'\n' => return Err(BadChunks("a lone LF")),
                    _ if *length >= limits::CHUNK_EXTENSION_BYTES_MAX => {
                        return Err(BadChunks("an extension is too long"));
                    }
                    _ => State::Extension {
                        size: *size,
                        length: *length + 1,
                    },
                },
                State::SizeEnd(_) if byte != b'\n' => return Err(BadChunks("a lone CR")),
                State::SizeEnd(0) => State::Trailer(Vec::new()),
                State::SizeEnd(size) => State::Data(*size),
                State::DataCr if byte == b'\r' => State::DataLf,
                State::DataLf if byte == b'\n' => State::Size { size: 0, digits: 0 },
                State::DataCr | State::DataLf => return Err(BadChunks("a chunk has no end")),
            };
            bytes.advance(1);
        }
        if matches!(self.0, State::Done) {
            return Ok(Event::End);
        }
        Ok(Event::More)
    }
}

/// One byte of the line with the size.
fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, BadChunks> {
    let Some(digit) = char::from(byte).to_digit(16) else {
        let state = match byte {
            _ if digits == 0 => return Err(BadChunks("a chunk has no size")),
            b'\r' => State::SizeEnd(size),
            b';' | b' ' | b'\t' => State::Extension { size, length: 0 },
            _ => return Err(BadChunks("a size is no number")),
        };
        return Ok(state);
    };
    if digits == 16 {
        return Err(BadChunks("a size is too large"));
    }
    Ok(State::Size {
        size: size << 4 | u64::from(digit),
        digits: digits + 1,
    })
}

/// The lines of a trailer section that ends.
fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, BadChunks> {
    const BAD: BadChunks = BadChunks("the trailers are no header lines");
    let mut lines = [httparse::EMPTY_HEADER; limits::TRAILER_LINES_MAX];
    let parsed = httparse::parse_headers(section, &mut lines).map_err(|_| BAD)?;
    let httparse::Status::Complete((length, lines)) = parsed else {
        return Err(BAD);
    };
    // Two lone LF end it for others earlier than here.
    if length != section.len() {
        return Err(BAD);
    }
    let mut map = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BAD)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| BAD)?;
        map.append(name, value);
    }
    Ok((!map.is_empty()).then_some(map))
}

#[cfg(test)]
mod tests {
    use super::{Chunks, Event};
    use bytes::Bytes;
    use http::HeaderMap;

    /// The content, the trailers, and what is left behind the end.
    type Read = (Vec<u8>, HeaderMap, Option<Vec<u8>>);

    fn read(text: &[u8], size: usize) -> Result<Read, String> {
        let (mut content, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut chunks = Chunks::new();
        let mut at = 0;
        while at < text.len() {
            let end = text.len().min(at + size);
            let mut piece = Bytes::copy_from_slice(&text[at..end]);
            at = end;
            loop {
                match chunks.next(&mut piece).map_err(|error| error.to_string())? {
                    Event::Data(data) => content.extend_from_slice(&data),
                    Event::Trailers(map) => trailers = map,
                    Event::More => break,
                    Event::End => {
                        let mut rest = piece.to_vec();
                        rest.extend_from_slice(&text[at..]);
                        return Ok((content, trailers, Some(rest)));
                    }
                }
            }
        }
        Ok((content, trailers, None))
    }

    #[test]
    fn chunks_are_the_same_in_whatever_pieces_they_come() {
        let text = b"2\r\nab\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nX-A: 1\r\n\r\nnext";
        for size in 1..=text.len() {
            let (content, trailers, rest) = read(text, size).unwrap();
            assert_eq!(content, b"ab0123456789", "pieces of {size}");
            assert_eq!(trailers["x-a"], "1");
            assert_eq!(rest.unwrap(), b"next");
        }
        let (content, trailers, rest) = read(b"0\r\n\r\n", 1).unwrap();
        assert!(content.is_empty() && trailers.is_empty() && rest.is_some());
        assert_eq!(read(b"3\r\nab", 2).unwrap().2, None, "it goes on");
    }

    #[test]
    fn what_is_no_chunk_is_refused_in_whatever_pieces_it_comes() {
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(10_000));
        let long_trailers = format!("0\r\n{}\r\n", "X-A: 1\r\n".repeat(10_000));
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\na\r\n",
            "+1\r\na\r\n",
            "0x1\r\na\r\n",
            "1\na\r\n",
            "1\ra",
            "1;x\na",
            "1\r\nab\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\na\r0",
            "11111111111111111\r\n",
            "0\r\nX A: 1\r\n\r\n",
            "0\r\nX-A\r\n\r\n",
            "0\r\nX-A: 1\n\nX-B: 2\r\n\r\n",
            &long_extension,
            &long_trailers,
        ] {
            for size in [1, 2, 3, text.len()] {
                let read = read(text.as_bytes(), size);
                assert!(read.is_err(), "{text:.40?} in pieces of {size}: {read:?}");
            }
        }
    }
}
