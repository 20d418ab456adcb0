//! Tests of the decoder: any chunking, any damage, any leftovers.

use proptest::prelude::*;

use super::*;
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::session::{Encoder, answer, flush, preamble};

fn id(byte: u8) -> SessionId {
    SessionId::new([byte; 16]).unwrap()
}

/// All events of `bytes`, fed in pieces of `chunk` bytes.
fn events(decoder: &mut Decoder, bytes: &[u8], chunk: usize) -> Vec<Event> {
    let mut events = Vec::new();
    for piece in bytes.chunks(chunk.max(1)) {
        decoder.feed(piece);
        events.extend(std::iter::from_fn(|| decoder.next_event()));
    }
    events
}

fn frames(id: SessionId, payloads: &[&[u8]]) -> Vec<u8> {
    let mut encoder = Encoder::new(id);
    let mut out = BytesMut::new();
    for payload in payloads {
        encoder.data(payload, &mut out);
    }
    out.to_vec()
}

fn data(bytes: &[u8]) -> Event {
    Event::Data(Bytes::copy_from_slice(bytes))
}

#[test]
fn a_session_opens_carries_data_and_closes() {
    let mut encoder = Encoder::new(id(7));
    let mut out = BytesMut::from(&preamble(id(7))[..]);
    encoder.data(b"hello", &mut out);
    encoder.close(&mut out);
    for chunk in [1, 3, 20, 1000] {
        let events = events(&mut Decoder::guest(), &out, chunk);
        assert_eq!(
            events,
            [Event::Opened(id(7)), data(b"hello"), Event::Closed]
        );
    }
}

#[test]
fn a_session_whose_tag_looks_like_something_else_is_not_named() {
    assert!(SessionId::new([0; 16]).is_none());
    let mut like_magic = [9; 16];
    like_magic[..4].copy_from_slice(&preamble(id(1))[..4]);
    assert!(SessionId::new(like_magic).is_none());
}

#[test]
fn the_host_waits_for_its_own_answer() {
    let mut stream = frames(id(1), &[b"left over"]);
    stream.extend(answer(id(1)));
    stream.extend(preamble(id(2)));
    stream.extend(&answer(id(2))[..20]);
    stream.extend(answer(id(2)));
    stream.extend(answer(id(2)));
    stream.extend(frames(id(2), &[b"new"]));
    for chunk in [1, 7, 1000] {
        let mut decoder = Decoder::host(id(2));
        let events = events(&mut decoder, &stream, chunk);
        assert_eq!(events, [Event::Opened(id(2)), data(b"new")]);
        assert!(decoder.n_discarded() > 0);
    }
}

#[test]
fn a_repeated_preamble_is_answered_again_and_opens_once() {
    let mut stream = preamble(id(3)).repeat(3);
    stream.extend(frames(id(3), &[b"x"]));
    let events = events(&mut Decoder::guest(), &stream, 11);
    let repeated = Event::Repeated(id(3));
    assert_eq!(
        events,
        [Event::Opened(id(3)), repeated.clone(), repeated, data(b"x")]
    );
}

#[test]
fn a_preamble_between_frames_begins_another_session() {
    let mut stream = preamble(id(3)).to_vec();
    stream.extend(frames(id(3), &[b"old"]));
    stream.extend(preamble(id(4)));
    stream.extend(frames(id(4), &[b"new"]));
    assert_eq!(
        events(&mut Decoder::guest(), &stream, 5),
        [
            Event::Opened(id(3)),
            data(b"old"),
            Event::Opened(id(4)),
            data(b"new")
        ]
    );
}

#[test]
fn a_payload_that_looks_like_a_preamble_is_payload() {
    let mut stream = preamble(id(3)).to_vec();
    let payload = preamble(id(4)).repeat(3);
    stream.extend(frames(id(3), &[&payload]));
    assert_eq!(
        events(&mut Decoder::guest(), &stream, 9),
        [Event::Opened(id(3)), data(&payload)]
    );
}

/// The host process died having written any part of a frame or preamble.
#[test]
fn a_new_host_gets_through_wherever_the_old_one_stopped() {
    let payload = vec![0x55; FRAME_PAYLOAD_BYTES_MAX];
    let frame = frames(id(3), &[&payload]);
    let stops = (0..100).chain([frame.len() / 2, frame.len() - 1, frame.len()]);
    for stop in stops {
        let mut stream = preamble(id(3)).to_vec();
        stream.extend(&frame[..stop]);
        stream.extend(&preamble(id(5))[..stop.min(31)]);
        stream.extend(flush());
        stream.extend(preamble(id(4)));
        stream.extend(frames(id(4), &[b"new"]));
        let events = events(&mut Decoder::guest(), &stream, 4096);
        assert_eq!(
            events[events.len() - 2..],
            [Event::Opened(id(4)), data(b"new")],
            "stopped at {stop}"
        );
        assert!(!events.contains(&Event::Opened(id(5))));
    }
}

#[test]
fn zeros_that_complete_a_frame_do_not_hide_the_preamble() {
    let frame = frames(id(3), &[&[0; FRAME_PAYLOAD_BYTES_MAX]]);
    let mut stream = preamble(id(3)).to_vec();
    stream.extend(&frame[..1000]);
    stream.extend(flush());
    stream.extend(preamble(id(4)));
    let events = events(&mut Decoder::guest(), &stream, 4096);
    assert_eq!(events.last(), Some(&Event::Opened(id(4))));
}

#[test]
fn another_version_is_told_and_opens_nothing() {
    let mut other = preamble(id(3));
    other[8] = 9;
    let checksum = super::super::crc32c::crc32c(&other[..28]);
    other[28..].copy_from_slice(&checksum.to_le_bytes());
    let told = Event::OtherVersion {
        id: id(3),
        version: 9,
    };
    let mut decoder = Decoder::guest();
    assert_eq!(
        events(&mut decoder, &other, 32),
        std::slice::from_ref(&told)
    );
    assert_eq!(
        events(&mut decoder, &preamble(id(4)), 32),
        [Event::Opened(id(4))]
    );
    assert_eq!(events(&mut decoder, &other, 32), [told]);
}

#[test]
fn each_damage_is_named() {
    let good = frames(id(3), &[b"payload", b"second"]);
    let first = frames(id(3), &[b"payload"]).len();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let mut huge = good[..16].to_vec();
    huge[5..8].copy_from_slice(&[0xFF; 3]);
    huge.extend(super::super::crc32c::crc32c(&huge).to_le_bytes());
    let cases = [
        (with(0, 99), Fault::NotAFrame),
        (with(5, 99), Fault::Header),
        (with(24, 99), Fault::Payload),
        (good[first..].to_vec(), Fault::Sequence),
        (good[..first].repeat(2), Fault::Sequence),
        (huge, Fault::Kind),
        (answer(id(3)).to_vec(), Fault::NotAFrame),
    ];
    for (bytes, fault) in cases {
        let mut decoder = Decoder::guest();
        decoder.feed(&preamble(id(3)));
        let events = events(&mut decoder, &bytes, 7);
        assert!(
            events.contains(&Event::Broken(fault)),
            "{fault:?}: {events:?}"
        );
    }
}

#[test]
fn garbage_is_not_kept() {
    let mut decoder = Decoder::guest();
    for _ in 0..100 {
        decoder.feed(&[0xF5; 10_000]);
        assert_eq!(decoder.next_event(), None);
        assert!(decoder.buffer.len() < GREETING_BYTES);
    }
    assert_eq!(
        events(&mut decoder, &preamble(id(3)), 1),
        [Event::Opened(id(3))]
    );
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..12)
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events(payloads in payloads(), garbage: Vec<u8>, chunk in 1_usize..700) {
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let mut stream = garbage;
        stream.extend(preamble(id(8)));
        stream.extend(frames(id(8), &slices));
        let found = events(&mut Decoder::guest(), &stream, chunk);
        let mut expected = vec![Event::Opened(id(8))];
        expected.extend(payloads.iter().map(|payload| data(payload)));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_was_sent_arrives_or_the_session_breaks(
        payloads in payloads(),
        at in any::<prop::sample::Index>(),
        change in 0_u8..3,
        chunk in 1_usize..700,
    ) {
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let mut stream = frames(id(8), &slices);
        prop_assume!(!stream.is_empty());
        let at = at.index(stream.len());
        match change {
            0 => stream[at] ^= 0x10,
            1 => { stream.remove(at); }
            _ => stream.insert(at, 0xAA),
        }
        let mut decoder = Decoder::guest();
        decoder.feed(&preamble(id(8)));
        let mut sent = payloads.iter();
        for event in events(&mut decoder, &stream, chunk).into_iter().skip(1) {
            match event {
                Event::Data(bytes) => prop_assert_eq!(Some(&bytes.to_vec()), sent.next()),
                Event::Broken(_) => break,
                other => prop_assert!(false, "{:?}", other),
            }
        }
        // Whatever happened, a new host gets through.
        let mut again = flush().to_vec();
        again.extend(preamble(id(9)));
        prop_assert_eq!(events(&mut decoder, &again, chunk).pop(), Some(Event::Opened(id(9))));
    }

    #[test]
    fn garbage_never_opens_a_session(garbage in prop::collection::vec(any::<u8>(), 0..4000), chunk in 1_usize..700) {
        prop_assert_eq!(events(&mut Decoder::host(id(8)), &garbage, chunk), []);
    }
}
