//! What waits for a slow way is bounded, and what is dropped leaves the rest whole.

use super::{Outbox, carry};
use crate::datagram_frames::Frame;
use crate::limits;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::Semaphore;

fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits::FLOWS_OUT_BYTES_MAX))
}

/// Pushes datagrams of so many bytes until there is no room; how many there were.
fn fill(outbox: &Outbox, n_bytes: usize) -> usize {
    let datagram = vec![7; n_bytes];
    (0..).take_while(|_| outbox.push(&datagram).is_ok()).count()
}

#[tokio::test]
async fn what_waits_is_bounded_for_each_flow_and_for_all() {
    let room = room();
    let outbox = Outbox::new(room.clone());
    assert_eq!(fill(&outbox, 1022), limits::FLOW_OUT_BYTES_MAX / 1024);
    assert!(outbox.push(b"").is_err());
    let mut others = Vec::new();
    let full = limits::FLOWS_OUT_BYTES_MAX / limits::FLOW_OUT_BYTES_MAX;
    for _ in 1..full {
        let other = Outbox::new(room.clone());
        assert_eq!(fill(&other, 1022), limits::FLOW_OUT_BYTES_MAX / 1024);
        others.push(other);
    }
    let left = u32::try_from(room.available_permits()).unwrap();
    let rest = room.clone().try_acquire_many_owned(left).unwrap();
    let last = Outbox::new(room.clone());
    let own = limits::FLOW_OUT_OWN_BYTES / 1024;
    assert_eq!(fill(&last, 1022), own, "what is its own, and no more");
    // What is on its way holds its room until it is written.
    let sending = others.pop().unwrap().next().await;
    assert_eq!(fill(&last, 1022), 0);
    drop(sending);
    assert_eq!(fill(&last, 1022), limits::FLOW_OUT_BYTES_MAX / 1024 - own);
    drop((outbox, others, last, rest));
    assert_eq!(room.available_permits(), limits::FLOWS_OUT_BYTES_MAX);
}

#[tokio::test]
async fn a_datagram_that_is_too_long_is_dropped_alone() {
    let room = room();
    let outbox = Outbox::new(room.clone());
    assert!(
        outbox
            .push(&vec![0; limits::DATAGRAM_PAYLOAD_BYTES_MAX + 1])
            .is_err()
    );
    assert_eq!(room.available_permits(), limits::FLOWS_OUT_BYTES_MAX);
    assert!(outbox.push(b"x").is_ok());
    assert_eq!(outbox.next().await.frames, b"\0\x01x");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_holds_up_nobody_and_gets_whole_datagrams_later() {
    let outbox = Outbox::new(room());
    let (stream, mut peer) = duplex(1000);
    let (are_frames, ()) = tokio::join!(
        carry(stream, &outbox, |_| panic!("it says nothing")),
        async {
            for number in 0..5000_u32 {
                // What there is no room for is gone; nothing waits here.
                drop(outbox.push(&[number.to_be_bytes().as_slice(), &[0; 996]].concat()));
                tokio::task::yield_now().await;
            }
            outbox.refuse();
            assert!(outbox.push(b"after the end").is_err());
            let (mut last, mut n_read) = (None, 0);
            loop {
                let mut head = [0; 2];
                peer.read_exact(&mut head).await.unwrap();
                if head == [0xff; 2] {
                    break;
                }
                let mut datagram = vec![0; usize::from(u16::from_be_bytes(head))];
                peer.read_exact(&mut datagram).await.unwrap();
                assert_eq!(datagram.len(), 1000);
                let number = u32::from_be_bytes(datagram[..4].try_into().unwrap());
                assert!(last.is_none_or(|last| last < number), "in order");
                (last, n_read) = (Some(number), n_read + 1);
            }
            assert_eq!(
                peer.read(&mut [0; 1]).await.unwrap(),
                0,
                "nothing is behind it"
            );
            // Those that wait, and those that were being written.
            assert!(n_read <= 2 * limits::FLOW_OUT_BYTES_MAX / 1000, "{n_read}");
            assert!(n_read >= limits::FLOW_OUT_BYTES_MAX / 1002, "{n_read}");
        }
    );
    assert!(are_frames);
}

#[tokio::test]
async fn what_comes_is_given_until_the_end_or_what_is_no_frame() {
    for (sent, expected, are_frames) in [
        (&b"\0\x01a\0\0\0\x02bc"[..], &["a", "", "bc"][..], true),
        // It may have been cut off anywhere.
        (b"\0\x01a\0\x05bc", &["a"], true),
        (b"\0\x01a\xff\xfe\0\0\0\0", &["a"], false),
    ] {
        let outbox = Outbox::new(room());
        let (stream, mut peer) = duplex(64);
        let mut taken = Vec::new();
        let carried = carry(stream, &outbox, |frame| match frame {
            Frame::Datagram(bytes) => taken.push(String::from_utf8(bytes.to_vec()).unwrap()),
            Frame::Refused => panic!("that was not said"),
        });
        let said = async {
            peer.write_all(sent).await?;
            peer.shutdown().await?;
            io::Result::Ok(())
        };
        let (were_frames, said) = tokio::join!(carried, said);
        said.unwrap();
        assert_eq!(taken, expected);
        assert_eq!(were_frames, are_frames);
    }
}
