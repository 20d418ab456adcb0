//! What the fuzz target `agent_session` runs: streams that are mostly right.

use bytes::BytesMut;

use super::wire::HEADER_BYTES;
use super::{Decoder, Encoder, Event, SessionId, answer, flush, preamble};
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;

/// Longest stream that a script writes.
const STREAM_BYTES_MAX: usize = 512 * 1024;

/// Reads `script` as instructions that write a stream of greetings, frames,
/// garbage and damage, and reads that stream as a guest and as a host.
///
/// # Panics
///
/// When the size of the pieces matters, when more is kept than one frame, when
/// there is data outside a session, or when a new host does not get through.
pub fn run(script: &[u8]) {
    let Some((chunk, script)) = script.split_first() else {
        return;
    };
    let stream = write(script);
    for make in [Decoder::guest, || Decoder::host(session(1))] {
        let mut in_pieces = make();
        let mut whole = make();
        let events = read(&mut in_pieces, &stream, usize::from(*chunk) + 1);
        assert_eq!(events, read(&mut whole, &stream, stream.len() + 1));
        check(&events, stream.len());
    }
    let mut guest = Decoder::guest();
    let _ = read(&mut guest, &stream, 4096);
    let fresh = session(254);
    let mut new_host = flush().to_vec();
    new_host.extend(preamble(fresh));
    let events = read(&mut guest, &new_host, 4096 + usize::from(*chunk));
    assert_eq!(events.last(), Some(&Event::Opened(fresh)));
}

fn session(byte: u8) -> SessionId {
    SessionId::new([byte.max(1); 16]).unwrap_or_else(|| session(1))
}

fn read(decoder: &mut Decoder, stream: &[u8], chunk: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for piece in stream.chunks(chunk) {
        decoder.feed(piece);
        events.extend(std::iter::from_fn(|| decoder.next_event()));
        assert!(decoder.n_buffered() < HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX);
    }
    events
}

fn check(events: &[Event], n_bytes: usize) {
    let mut is_open = false;
    let mut n_data = 0;
    for event in events {
        match event {
            Event::Opened(_) => is_open = true,
            Event::Repeated(_) => assert!(is_open),
            Event::Data(payload) => {
                assert!(is_open);
                assert!((1..=FRAME_PAYLOAD_BYTES_MAX).contains(&payload.len()));
                n_data += payload.len();
            }
            Event::Closed | Event::Broken(_) => {
                assert!(is_open);
                is_open = false;
            }
            Event::OtherVersion { .. } => is_open = false,
        }
    }
    assert!(n_data <= n_bytes);
}

/// The stream that a script describes.
fn write(script: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(session(1));
    let mut script = script.iter().copied();
    let mut next = || script.next();
    while let (Some(instruction), true) = (next(), out.len() < STREAM_BYTES_MAX) {
        let argument = next().unwrap_or_default();
        match instruction % 8 {
            0 => out.extend((0..argument % 64).map_while(|_| next())),
            1 => {
                out.extend_from_slice(&preamble(session(argument)));
                encoder = Encoder::new(session(argument));
            }
            2 => {
                out.extend_from_slice(&answer(session(argument)));
                encoder = Encoder::new(session(argument));
            }
            3 => encoder.data(
                &vec![argument; usize::from(argument) << (instruction >> 5)],
                &mut out,
            ),
            // A payload that holds a greeting.
            4 => encoder.data(&preamble(session(argument)), &mut out),
            5 => encoder.close(&mut out),
            6 => {
                let at = out.len().saturating_sub(usize::from(argument));
                if let Some(byte) = out.get_mut(at) {
                    *byte ^= 1 << (instruction >> 5);
                }
            }
            _ => out.truncate(out.len().saturating_sub(usize::from(argument))),
        }
    }
    out.to_vec()
}
