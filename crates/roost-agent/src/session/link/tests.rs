//! Tests of the pump that need a look inside.

use std::time::Duration;

use tokio::io::duplex;

use super::*;
use crate::session::preamble;

fn id(byte: u8) -> SessionId {
    SessionId::new([byte; 16]).unwrap()
}

/// A user who reads nothing must not hide the next session for ever.
#[tokio::test]
async fn a_session_that_is_not_read_is_dropped_for_the_next() {
    let (mut host, guest) = duplex(1024);
    let mut link = Link::new(guest, StreamKind::Connection, Decoder::guest());
    host.write_all(&preamble(id(1))).await.unwrap();
    let event = link.step().await.unwrap();
    assert!(matches!(event, LinkEvent::Opened(opened) if opened == id(1)));
    let mut unread = link.open(id(1));

    let mut frames = BytesMut::new();
    let mut encoder = Encoder::new(id(1));
    encoder.data(&vec![7; 3 * SESSION_BUFFER_BYTES], &mut frames);
    let sending = async {
        host.write_all(&frames).await.unwrap();
        host.write_all(&preamble(id(2))).await.unwrap();
        // What the guest has to say about it is not read here.
        pending::<()>().await;
    };
    let receiving = async {
        // Until its buffer is full; the limit is then reached without the wait.
        while link.inbound.is_empty() {
            let _ = tokio::time::timeout(Duration::from_millis(20), link.step()).await;
        }
        assert!(link.stalls_at.is_some());
        link.stalls_at = Some(Instant::now());
        let event = link.step().await.unwrap();
        assert!(
            matches!(event, LinkEvent::Ended(SessionEnd::Stalled)),
            "{event:?}"
        );
        let event = link.step().await.unwrap();
        assert!(
            matches!(event, LinkEvent::Opened(opened) if opened == id(2)),
            "{event:?}"
        );
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
    let mut rest = Vec::new();
    let error = unread.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert!(rest.len() >= SESSION_BUFFER_BYTES && rest.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn what_waits_to_be_written_is_bounded() {
    let (_host, guest) = duplex(64);
    let mut link = Link::new(guest, StreamKind::Connection, Decoder::guest());
    let mut user = link.open(id(1));
    for _ in 0..10_000 {
        link.greet(&crate::session::answer(id(1)));
    }
    let chatter = async {
        let _ = user.write_all(&vec![7; 1024 * 1024]).await;
    };
    tokio::select! {
        () = chatter => panic!("nobody took it"),
        event = link.step() => panic!("nothing happened: {event:?}"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    assert!(link.outgoing.len() < OUTGOING_BYTES_MAX + 2 * FRAME_PAYLOAD_BYTES_MAX);
}
