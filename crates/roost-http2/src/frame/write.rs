//! Frames to the end of a buffer.

use super::{
    ACK, CONTINUATION, Code, DATA, END_HEADERS, END_STREAM, FRAME_BYTES_MAX, GOAWAY, HEAD_BYTES,
    HEADERS, PING, RST_STREAM, SETTINGS, Settings, WINDOW_UPDATE,
};

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [l0, l1, l2] = length_bytes(length);
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

/// The lower 24 bits; no frame is longer.
fn length_bytes(length: usize) -> [u8; 3] {
    debug_assert!(length < 1 << 24, "a frame is too long");
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let [_, l0, l1, l2] = length.to_be_bytes();
    [l0, l1, l2]
}

/// Writes settings.
pub fn write_settings(out: &mut Vec<u8>, settings: &Settings) {
    head(out, settings.entries().count() * 6, SETTINGS, 0, 0);
    for (id, value) in settings.entries() {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Says that settings were seen.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    head(out, 0, SETTINGS, ACK, 0);
}

/// Asks whether the other side is there, or answers that.
pub fn write_ping(out: &mut Vec<u8>, data: [u8; 8], is_ack: bool) {
    head(out, 8, PING, if is_ack { ACK } else { 0 }, 0);
    out.extend_from_slice(&data);
}

/// Says that no streams after `last` are taken.
pub fn write_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    head(out, 8, GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Ends a stream before its end.
pub fn write_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    head(out, 4, RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Makes room in a window.
pub fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    head(out, 4, WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Writes the head of a DATA frame; so many bytes have to follow.
pub fn write_data_head(out: &mut Vec<u8>, stream: u32, length: usize, is_last: bool) {
    let flags = if is_last { END_STREAM } else { 0 };
    head(out, length, DATA, flags, stream);
}

/// Where a header block has begun.
#[derive(Debug)]
#[must_use]
pub struct BlockStart {
    at: usize,
    stream: u32,
    is_last: bool,
}

/// Begins a header block, which is to be written after it.
pub fn begin_headers(out: &mut Vec<u8>, stream: u32, is_last: bool) -> BlockStart {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    BlockStart {
        at,
        stream,
        is_last,
    }
}

/// Ends a header block: all of `out` since its beginning. A long one goes on in CONTINUATION
/// frames.
pub fn end_headers(out: &mut Vec<u8>, start: BlockStart) {
    let frame_max = FRAME_BYTES_MAX as usize;
    let BlockStart {
        at,
        stream,
        is_last,
    } = start;
    let flags = if is_last { END_STREAM } else { 0 };
    let body_at = at + HEAD_BYTES;
    let length = out.len().saturating_sub(body_at);
    if length <= frame_max {
        let [l0, l1, l2] = length_bytes(length);
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        let head = [l0, l1, l2, HEADERS, flags | END_HEADERS, s0, s1, s2, s3];
        if let Some(place) = out.get_mut(at..body_at) {
            place.copy_from_slice(&head);
        }
        return;
    }
    let block = out.split_off(body_at);
    out.truncate(at);
    let mut pieces = block.chunks(frame_max).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        let first_flags = if kind == HEADERS { flags } else { 0 };
        head(out, piece.len(), kind, end | first_flags, stream);
        out.extend_from_slice(piece);
        kind = CONTINUATION;
    }
}
