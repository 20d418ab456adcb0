//! Answers that do not come in time.

use super::server::*;
use crate::frame::{Code, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_as_long_as_its_request_says() {
    let (sender, mut server, _driver) = connected(Settings {
        max_concurrent_streams: Some(3),
        ..Settings::default()
    })
    .await;
    let begun = Instant::now();
    let after = move |seconds| begun + Duration::from_secs(seconds);
    let ask = |until: u64| ask_until(&sender, "GET", Scripted::whole(b""), move || after(until));
    // The first moves on before its time has come, and is waited for longer.
    let moves = Arc::new(AtomicBool::new(false));
    let has_moved = moves.clone();
    let first = ask_until(&sender, "GET", Scripted::whole(b""), move || {
        after(if has_moved.load(Ordering::Relaxed) {
            25
        } else {
            10
        })
    });
    assert_eq!(server.request().await, 1);
    let second = ask(5);
    assert_eq!(server.request().await, 3);
    let third = ask(10);
    assert_eq!(server.request().await, 5);
    // For the fourth there is no place.
    let error = ask(2).await.unwrap().unwrap_err();
    assert!(error.is_late() && error.is_unsent(), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    server.headers(5, &[(":status", "200")], true).await;
    assert_eq!(outcome(third).await.unwrap(), "200 ");
    moves.store(true, Ordering::Relaxed);
    for (asked, seconds, stream) in [(second, 5, 3), (first, 25, 1)] {
        let error = asked.await.unwrap().unwrap_err();
        assert!(error.is_late() && !error.is_unsent(), "{error}");
        assert!((after(seconds)..after(seconds + 1)).contains(&Instant::now()));
        let seen = within(server.next()).await;
        assert_eq!(seen, Seen::Reset(stream, Code::CANCEL));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_header_nobody_is_late() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let until = Instant::now() + Duration::from_secs(5);
    let asked = ask_until(&sender, "GET", Scripted::whole(b""), move || until);
    server.request().await;
    server.headers(1, &[(":status", "200")], false).await;
    let answer = asked.await.unwrap().unwrap();
    sleep_until(until + Duration::from_secs(5)).await;
    server.data(1, b"at last", true).await;
    let (data, _) = frames(&mut answer.into_body()).await.unwrap();
    assert_eq!(data, b"at last");
}
