//! From the bytes that a machine writes to lines.

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug)]
pub struct LineCutter {
    partial: Vec<u8>,
    line_bytes_max: usize,
}

impl LineCutter {
    /// Lines that are longer than this many bytes are cut.
    pub fn new(line_bytes_max: usize) -> Self {
        Self {
            partial: Vec::new(),
            line_bytes_max,
        }
    }

    /// Takes bytes and hands on the lines that end in them, without their ends.
    pub fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = self
                .line_bytes_max
                .saturating_sub(self.partial.len())
                .max(1);
            let piece = &bytes[..bytes.len().min(room)];
            let end = piece.iter().position(|byte| *byte == b'\n');
            let n = end.map_or(piece.len(), |end| end + 1);
            self.partial.extend_from_slice(&piece[..n]);
            bytes = &bytes[n..];
            if end.is_some() || self.partial.len() >= self.line_bytes_max {
                line(self.partial.trim_ascii_end());
                self.partial.clear();
            }
        }
    }

    /// Hands on a line that has no end yet.
    pub fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LineCutter;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]], line_bytes_max: usize) -> Vec<Vec<u8>> {
        let mut cutter = LineCutter::new(line_bytes_max);
        let mut lines = Vec::new();
        for piece in pieces {
            cutter.take(piece, |line| lines.push(line.to_vec()));
        }
        cutter.flush(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let lines = cut(&[b"one\ntw", b"o\r\nthree"], 100);
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(
            cut(&[b"abcdefgh\nx"], 3),
            [
                b"abc".to_vec(),
                b"def".to_vec(),
                b"gh".to_vec(),
                b"x".to_vec()
            ]
        );
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_allowed_and_no_letter_is_lost(
            pieces in prop::collection::vec("[ab\n]{0,20}", 0..20)
        ) {
            let slices: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
            let lines = cut(&slices, 5);
            prop_assert!(lines.iter().all(|line| line.len() <= 5));
            let letters: Vec<u8> = pieces.concat().bytes().filter(|byte| *byte != b'\n').collect();
            prop_assert_eq!(lines.concat(), letters);
        }
    }
}
