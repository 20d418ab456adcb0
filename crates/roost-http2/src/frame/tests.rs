//! Frames: what they may not be, and that what is written is read.

use super::*;
use proptest::prelude::*;

/// The bytes of a frame.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn read(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (head, payload) = split(bytes, FRAME_BYTES_MAX)?.expect("a whole frame");
    head.read(payload)
}

#[test]
fn what_a_frame_may_not_be() {
    let connection = |code| Err(FrameError::Connection(code));
    let stream = |code| Err(FrameError::Stream { stream: 1, code });
    let (protocol, size) = (Code::PROTOCOL_ERROR, Code::FRAME_SIZE_ERROR);
    for (bytes, expected) in [
        (raw(DATA, 0, 0, b"x"), connection(protocol)),
        (raw(DATA, PADDED, 1, b""), connection(size)),
        (raw(DATA, PADDED, 1, &[2, 0]), connection(protocol)),
        (raw(HEADERS, 0, 0, b"x"), connection(protocol)),
        (raw(HEADERS, PADDED, 1, &[9, 0]), connection(protocol)),
        (raw(HEADERS, PRIORITISED, 1, &[0; 4]), connection(size)),
        (raw(PRIORITY, 0, 0, &[0; 5]), connection(protocol)),
        (raw(PRIORITY, 0, 1, &[0; 4]), stream(size)),
        (raw(RST_STREAM, 0, 0, &[0; 4]), connection(protocol)),
        (raw(RST_STREAM, 0, 1, &[0; 3]), connection(size)),
        (raw(SETTINGS, 0, 1, &[]), connection(protocol)),
        (raw(SETTINGS, 0, 0, &[0; 5]), connection(size)),
        (raw(SETTINGS, ACK, 0, &[0; 6]), connection(size)),
        (
            raw(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]),
            connection(protocol),
        ),
        (
            raw(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
            connection(Code::FLOW_CONTROL_ERROR),
        ),
        (
            raw(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]),
            connection(protocol),
        ),
        (
            raw(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0]),
            connection(protocol),
        ),
        (
            raw(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 2]),
            connection(protocol),
        ),
        (raw(PING, 0, 1, &[0; 8]), connection(protocol)),
        (raw(PING, 0, 0, &[0; 7]), connection(size)),
        (raw(GOAWAY, 0, 1, &[0; 8]), connection(protocol)),
        (raw(GOAWAY, 0, 0, &[0; 7]), connection(size)),
        (raw(WINDOW_UPDATE, 0, 1, &[0; 3]), connection(size)),
        (raw(WINDOW_UPDATE, 0, 1, &[0; 4]), stream(protocol)),
        (raw(WINDOW_UPDATE, 0, 0, &[0; 4]), connection(protocol)),
        (raw(CONTINUATION, 0, 0, b""), connection(protocol)),
    ] {
        assert_eq!(read(&bytes), expected, "{bytes:?}");
    }
    let long = raw(DATA, 0, 1, &vec![0; FRAME_BYTES_MAX as usize + 1]);
    // The head alone is enough.
    assert_eq!(
        split(&long[..HEAD_BYTES], FRAME_BYTES_MAX),
        Err(FrameError::Connection(size))
    );
}

#[test]
fn what_a_frame_says() {
    let padded = raw(DATA, PADDED | END_STREAM, 1, &[2, b'x', 0, 0]);
    let data = Frame::Data {
        stream: 1,
        payload: b"x",
        flow_bytes: 4,
        is_last: true,
    };
    assert_eq!(read(&padded), Ok(data));
    let mut block = vec![1, 0, 0, 0, 0, 0];
    block.extend(b"xy\0");
    let flags = PADDED | PRIORITISED | END_HEADERS;
    // The reserved bit of the stream is ignored.
    let bytes = raw(HEADERS, flags, 0x8000_0003, &block);
    let headers = Frame::Headers {
        stream: 3,
        fragment: b"xy",
        is_whole: true,
        is_last: false,
    };
    assert_eq!(read(&bytes), Ok(headers));
    assert_eq!(read(&raw(77, 0xff, 9, b"x")), Ok(Frame::Ignored));
    let goaway = raw(GOAWAY, 0, 0, b"\0\0\0\x07\0\0\0\x02why");
    let (last, code) = (7, Code::INTERNAL_ERROR);
    assert_eq!(read(&goaway), Ok(Frame::GoAway { last, code }));
    for end in 0..goaway.len() {
        assert_eq!(split(&goaway[..end], FRAME_BYTES_MAX), Ok(None));
    }
}

#[test]
fn what_is_written_is_read() {
    let settings = Settings {
        enable_push: Some(false),
        initial_window_size: Some(70_000),
        enable_connect_protocol: Some(true),
        ..Settings::default()
    };
    let mut out = Vec::new();
    write_settings(&mut out, &settings);
    assert_eq!(read(&out), Ok(Frame::Settings(settings)));
    let mut one = |write: &dyn Fn(&mut Vec<u8>), expected: Frame<'_>| {
        out.clear();
        write(&mut out);
        assert_eq!(read(&out), Ok(expected));
    };
    one(&|out| write_settings_ack(out), Frame::SettingsAck);
    one(&|out| write_ping(out, [7; 8], false), Frame::Ping([7; 8]));
    one(&|out| write_ping(out, [7; 8], true), Frame::PingAck([7; 8]));
    let (last, code) = (5, Code::CANCEL);
    one(
        &|out| write_goaway(out, last, code),
        Frame::GoAway { last, code },
    );
    let stream = 3;
    one(
        &|out| write_reset(out, stream, code),
        Frame::Reset { stream, code },
    );
    let increment = NUMBER_MAX;
    one(
        &|out| write_window_update(out, stream, increment),
        Frame::WindowUpdate { stream, increment },
    );
}

#[test]
fn a_long_header_block_goes_on_in_further_frames() {
    for length in [0, 10, 16_384, 16_385, 40_000] {
        let block: Vec<u8> = (0..length)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let mut out = b"before".to_vec();
        let start = begin_headers(&mut out, 5, true);
        out.extend(&block);
        end_headers(&mut out, start);
        let mut rest = out.strip_prefix(b"before").unwrap();
        let (mut block_read, mut is_ended) = (Vec::<u8>::new(), false);
        while let Some((head, payload)) = split(rest, FRAME_BYTES_MAX).unwrap() {
            assert!(!is_ended);
            is_ended = match head.read(payload).unwrap() {
                Frame::Headers {
                    stream: 5,
                    fragment,
                    is_whole,
                    is_last: true,
                } => {
                    assert!(block_read.is_empty());
                    block_read.extend(fragment);
                    is_whole
                }
                Frame::Continuation {
                    stream: 5,
                    fragment,
                    is_whole,
                } => {
                    block_read.extend(fragment);
                    is_whole
                }
                other => panic!("{other:?}"),
            };
            rest = &rest[HEAD_BYTES + payload.len()..];
        }
        assert!(is_ended && rest.is_empty());
        assert_eq!(block_read, block);
    }
}

#[test]
fn a_window_has_room_for_what_was_given_and_never_more_than_31_bits() {
    let mut window = Window::new(10);
    assert_eq!(window.take(11), Err(Overflow));
    assert_eq!(window.take(10), Ok(()));
    assert_eq!(
        (window.room(), window.take(0), window.take(1)),
        (0, Ok(()), Err(Overflow))
    );
    assert_eq!(window.shift(10, 4), Ok(()));
    // Six bytes too many are out already.
    assert_eq!((window.room(), window.take(0)), (0, Ok(())));
    assert_eq!(window.add(7), Ok(()));
    assert_eq!(window.room(), 1);
    assert_eq!(window.add(NUMBER_MAX), Err(Overflow));
    assert_eq!(window.add(NUMBER_MAX - 1), Ok(()));
    assert_eq!(window.shift(0, 1), Err(Overflow));
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut rest = &bytes[..];
        while let Ok(Some((head, payload))) = split(rest, 32) {
            let _ = head.read(payload);
            rest = &rest[HEAD_BYTES + payload.len()..];
        }
    }
}
