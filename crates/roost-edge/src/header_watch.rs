//! Looks at the lines of an HTTP/1 header on their way to the codec, for what the codec does
//! not tell: whether a length stands beside a transfer coding (RFC 9112 6.3).
//!
//! It sees headers that begin after the request before them has been answered. One that
//! comes earlier (pipelining) is read as the codec reads it: the coding counts, and the
//! connection ends.

/// Bytes of a line that are kept when it comes in pieces: the longer name and a colon.
const KEPT: usize = TRANSFER_ENCODING.len() + 1;
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// What is known of one header.
#[derive(Debug, Default)]
pub(crate) struct HeaderWatch {
    /// The beginning of a line that has not ended.
    line: [u8; KEPT],
    n_kept: usize,
    has_line: bool,
    has_length: bool,
    has_coding: bool,
    is_over: bool,
}

impl HeaderWatch {
    /// More of the header, and what may follow it; whether it has both by now.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !self.is_over {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.keep(rest);
                break;
            };
            if self.n_kept == 0 {
                self.line(&rest[..end]);
            } else {
                self.keep(&rest[..end]);
                let (line, n_kept) = (self.line, std::mem::take(&mut self.n_kept));
                self.line(&line[..n_kept]);
            }
            rest = &rest[end + 1..];
        }
        self.has_length && self.has_coding
    }

    fn keep(&mut self, part: &[u8]) {
        let n = part.len().min(KEPT - self.n_kept);
        self.line[self.n_kept..][..n].copy_from_slice(&part[..n]);
        self.n_kept += n;
    }

    fn line(&mut self, line: &[u8]) {
        match line.first() {
            // Empty lines may come before a request (RFC 9112 2.2).
            None | Some(b'\r') => {
                self.is_over = self.has_line;
                return;
            }
            Some(b'c' | b'C') => self.has_length |= is_of(line, CONTENT_LENGTH),
            Some(b't' | b'T') => self.has_coding |= is_of(line, TRANSFER_ENCODING),
            Some(_) => {}
        }
        self.has_line = true;
    }
}

/// Whether a line has this name.
fn is_of(line: &[u8], name: &[u8]) -> bool {
    line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::HeaderWatch;

    #[test]
    fn both_are_found_in_whatever_pieces_they_come() {
        for (text, expected) in [
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nTRANSFER-encoding:x\r\n\r\n",
                true,
            ),
            (
                "\r\n\nPOST / HTTP/1.1\nTransfer-Encoding: x\ncontent-length: 5\n\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nTransfer-Encoding: x\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Lengths: 5\r\nTransfer-Encoding: x\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nX-Content-Length: 5\r\nTransfer-Encoding: x\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nX: Content-Length: 5\r\nTransfer-Encoding: x\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length\r\nTransfer-Encoding: x\r\n\r\n",
                false,
            ),
        ] {
            for size in 1..text.len() + 1 {
                let mut watch = HeaderWatch::default();
                let seen = text
                    .as_bytes()
                    .chunks(size)
                    .fold(false, |_, piece| watch.see(piece));
                assert_eq!(seen, expected, "{text:?} in pieces of {size}");
            }
        }
    }
}
