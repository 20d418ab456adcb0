//! Nodes that go away, and apps that take all they can get.

use crate::commands::{exec, shell};
use crate::guest::{Guest, boot_request, within};
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{ShutdownRequest, StatsRequest, WatchRequest};

/// Lines that an app writes: far more than all buffers hold.
const N_LINES: u64 = 300_000;

/// Takes output from a number on, until so many bytes or the end; returns the next number.
async fn take(guest: &mut Guest, from: u64, text: &mut Vec<u8>, bytes_max: usize) -> u64 {
    let request = WatchRequest {
        from_sequence: from,
    };
    let mut events = guest.agent.watch(request).await.unwrap().into_inner();
    let mut next = from;
    while text.len() < bytes_max {
        let event = within(events.message()).await.unwrap().unwrap();
        match event.event.unwrap() {
            Event::Output(output) => {
                assert_eq!(event.sequence, next, "a number is missing or twice");
                next += 1;
                text.extend_from_slice(&output.data);
            }
            Event::Exit(_) => break,
            Event::LostBytes(lost) => panic!("{lost} bytes were lost"),
        }
    }
    next
}

#[tokio::test]
async fn a_node_that_comes_back_gets_every_byte_that_it_missed() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    let script = format!("seq 1 {N_LINES}; sleep 100000");
    let request = boot_request(&["sh", "-c", script.as_str()]);
    within(guest.agent.boot(request)).await.unwrap();
    let expected: String = (1..=N_LINES).map(|n| format!("{n}\n")).collect();
    let mut text = Vec::new();
    let mut next = 1;
    for part in 1..=4 {
        next = take(&mut guest, next, &mut text, expected.len() * part / 4).await;
        within(guest.reconnect()).await;
    }
    assert!(
        text == expected.as_bytes(),
        "{} of {} bytes",
        text.len(),
        expected.len()
    );
    let request = ShutdownRequest {
        signal: 9,
        timeout_ms: 1000,
    };
    within(guest.agent.shutdown(request)).await.unwrap();
    guest.ended().await;
}

#[tokio::test]
async fn a_fork_bomb_leaves_a_guest_that_answers_and_goes_off() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    let script = "bomb() { bomb | bomb & }; sleep 1; bomb; while :; do sleep 1; done";
    let request = boot_request(&["sh", "-c", script]);
    within(guest.agent.boot(request)).await.unwrap();
    // Until it has grown.
    loop {
        let stats = within(guest.agent.stats(StatsRequest {})).await.unwrap();
        if stats.into_inner().n_processes > 300 {
            break;
        }
    }
    let (text, exit) = within(exec(&mut guest, shell("echo alive"), vec![])).await;
    assert_eq!((text.as_str(), exit.exit_code), ("alive\n", 0), "{exit:?}");
    let request = ShutdownRequest {
        signal: 15,
        timeout_ms: 100,
    };
    within(guest.agent.shutdown(request)).await.unwrap();
    guest.ended().await;
}
