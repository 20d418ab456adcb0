//! The client against a server that is played frame by frame.

mod breaches;
mod late;
mod server;

use crate::frame::{
    Code, FRAME_BYTES_MAX, Frame, HEAD_BYTES, Settings, split, write_goaway, write_ping,
    write_reset, write_settings, write_window_update,
};
use http::HeaderMap;
use http_body::Body as _;
use server::*;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

#[tokio::test]
async fn requests_and_answers_of_every_shape_pass() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    // Header only, both ways; what is not the last word is passed over.
    let asked = get(&sender).await;
    let Seen::Headers(1, lines, true) = within(server.next()).await else {
        panic!("no request");
    };
    let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(lines[0], line("Method", "GET"));
    assert_eq!(lines[3], line("Path", "/"));
    server.headers(1, &[(":status", "100")], false).await;
    server
        .headers(1, &[(":status", "103"), ("link", "x")], false)
        .await;
    server
        .headers(1, &[(":status", "404"), ("x-a", "b")], true)
        .await;
    assert_eq!(outcome(asked).await.unwrap(), "404 ");
    // Bodies and trailers, both ways.
    let body = Scripted::default();
    body.give(b"hello");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    body.push(Ok(http_body::Frame::trailers(trailers)));
    let asked = ask(&sender, "POST", body);
    assert!(matches!(
        within(server.next()).await,
        Seen::Headers(3, _, false)
    ));
    assert_eq!(within(server.next()).await, Seen::Data(3, 5, false));
    let sum = vec![line("x-sum", "1")];
    assert_eq!(within(server.next()).await, Seen::Headers(3, sum, true));
    server.write_headers(3, &[(":status", "200")], false);
    server.write_data(3, b"ab", false);
    server.write_data(3, b"", false);
    server.write_data(3, b"c", false);
    server.headers(3, &[("grpc-status", "0")], true).await;
    assert_eq!(
        outcome(asked).await.unwrap(),
        r#"200 abc {"grpc-status": "0"}"#
    );
    // A whole body has its end in its last frame.
    let asked = ask(&sender, "POST", Scripted::whole(b"hello"));
    assert!(matches!(
        within(server.next()).await,
        Seen::Headers(5, _, false)
    ));
    assert_eq!(within(server.next()).await, Seen::Data(5, 5, true));
    server.write_headers(5, &[(":status", "200"), ("content-length", "2")], false);
    server.data(5, b"ok", true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ok");
    // An answer without a body, whatever its length says.
    let asked = ask(&sender, "HEAD", Scripted::whole(b""));
    server.request().await;
    server
        .headers(7, &[(":status", "200"), ("content-length", "5")], true)
        .await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
    let asked = get(&sender).await;
    server.request().await;
    server
        .headers(9, &[(":status", "304"), ("content-length", "5")], true)
        .await;
    assert_eq!(outcome(asked).await.unwrap(), "304 ");
}

#[tokio::test]
async fn blanks_at_the_ends_of_values_are_taken_away() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let (value, other) = (" \ta b \t", "  ");
    // The second answer has them from the table, the size of which counts what was sent.
    for stream in [1, 3] {
        let asked = get(&sender).await;
        assert_eq!(server.request().await, stream);
        let lines = [(":status", "200"), ("x-a", value), ("x-b", other)];
        server.headers(stream, &lines, true).await;
        let response = within(asked).await.unwrap().unwrap();
        assert_eq!(response.headers()["x-a"], "a b");
        assert_eq!(response.headers()["x-b"], "");
    }
}

#[tokio::test]
async fn a_request_is_not_given_to_a_connection_that_was_closed_before() {
    let (sender, mut server, mut driver) = unpolled();
    let write = |block: &mut crate::hpack::Block<'_>| block.field(":method", b"POST");
    let mut sent = pin!(sender.send(write, false, Scripted::whole(b"hello"), never));
    server
        .raw(|out| write_settings(out, &Settings::default()))
        .await;
    drop(server);
    // Both before the driver has its turn.
    let is_waiting = poll_fn(|cx| Poll::Ready(sent.as_mut().poll(cx).is_pending())).await;
    assert!(is_waiting);
    within(&mut driver).await;
    let error = within(sent).await.unwrap_err();
    assert!(error.is_unsent(), "{error}");
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_is_sent_as_it_comes() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let body = Scripted::default();
    let asked = ask(&sender, "POST", body.clone());
    assert!(matches!(
        within(server.next()).await,
        Seen::Headers(1, _, false)
    ));
    body.give(b"one");
    assert_eq!(within(server.next()).await, Seen::Data(1, 3, false));
    // The answer may come first.
    server.write_headers(1, &[(":status", "200")], false);
    server.data(1, b"early", false).await;
    body.give(b"three");
    assert_eq!(within(server.next()).await, Seen::Data(1, 5, false));
    body.end();
    assert_eq!(within(server.next()).await, Seen::Data(1, 0, true));
    server.data(1, b"", true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 early");
    // It may also end first, and the request goes on.
    let body = Scripted::default();
    let asked = ask(&sender, "POST", body.clone());
    assert_eq!(server.request().await, 3);
    server.headers(3, &[(":status", "200")], true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
    body.give(b"late");
    assert_eq!(within(server.next()).await, Seen::Data(3, 4, false));
    // Until the server has enough of it.
    server.raw(|out| write_reset(out, 3, Code::NO_ERROR)).await;
    within(async {
        while Arc::strong_count(&body.0) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_waits_for_room_in_both_windows() {
    let (sender, mut server, _driver) = connected(Settings {
        initial_window_size: Some(10),
        ..Settings::default()
    })
    .await;
    let first = ask(&sender, "POST", Scripted::whole(&[b'x'; 100_000]));
    assert_eq!(server.request().await, 1);
    assert_eq!(within(server.next()).await, Seen::Data(1, 10, false));
    server.raw(|out| write_window_update(out, 1, 20_000)).await;
    assert_eq!(within(server.next()).await, Seen::Data(1, 16_384, false));
    assert_eq!(within(server.next()).await, Seen::Data(1, 3616, false));
    // A larger initial window is one for open streams as well.
    let settings = Settings {
        initial_window_size: Some(1_000_000),
        ..Settings::default()
    };
    server.raw(|out| write_settings(out, &settings)).await;
    let mut n_sent = 20_010;
    while n_sent < 65_535 {
        match within(server.next()).await {
            Seen::Data(1, n, false) => n_sent += n,
            Seen::SettingsAck => {}
            other => panic!("{other:?}"),
        }
    }
    // Now the connection's is used up; a request without a body passes all the same.
    assert_eq!(n_sent, 65_535);
    let second = get(&sender).await;
    assert_eq!(server.request().await, 3);
    server.headers(3, &[(":status", "200")], true).await;
    assert_eq!(outcome(second).await.unwrap(), "200 ");
    server
        .raw(|out| write_window_update(out, 0, 1_000_000))
        .await;
    while n_sent < 100_000 {
        let Seen::Data(1, n, is_last) = within(server.next()).await else {
            panic!("no data");
        };
        n_sent += n;
        assert_eq!(is_last, n_sent == 100_000);
    }
    server.headers(1, &[(":status", "200")], true).await;
    assert_eq!(outcome(first).await.unwrap(), "200 ");
}

#[tokio::test]
async fn a_body_is_read_no_faster_than_it_is_sent() {
    let (sender, mut server, _driver) = connected(Settings {
        initial_window_size: Some(0),
        ..Settings::default()
    })
    .await;
    let body = Scripted::default();
    for _ in 0..100 {
        body.give(&[0; 4096]);
    }
    let _asked = ask(&sender, "POST", body.clone());
    server.request().await;
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    server.until(|seen| *seen == Seen::PingAck).await;
    let n_given = 100 - body.0.lock().pieces.len();
    assert!((1..=9).contains(&n_given), "{n_given} pieces are in memory");
}

#[tokio::test]
async fn an_answer_is_not_read_faster_than_it_is_taken() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let asked = get(&sender).await;
    server.request().await;
    server.headers(1, &[(":status", "200")], false).await;
    let mut body = within(asked).await.unwrap().unwrap().into_body();
    for _ in 0..3 {
        server.data(1, &[b'x'; 16_000], false).await;
    }
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    assert_eq!(within(server.next()).await, Seen::PingAck);
    let mut n_taken = 0;
    while n_taken < 48_000 {
        let frame = within(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await;
        n_taken += frame.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(within(server.next()).await, Seen::Window(1, 48_000));
    // One byte more than there is room for.
    for _ in 0..4 {
        server.data(1, &[b'x'; 16_000], false).await;
    }
    server.data(1, &[b'x'; 1536], false).await;
    assert_eq!(server.reset().await, (1, Code::FLOW_CONTROL_ERROR));
    assert!(frames(&mut body).await.is_err());
    // The connection goes on.
    let asked = get(&sender).await;
    assert_eq!(server.request().await, 3);
    server.headers(3, &[(":status", "200")], true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
}

#[tokio::test]
async fn readers_who_stand_still_hold_up_nobody_else() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    // More than the window of the connection has room for, and nobody takes it.
    let mut standing = Vec::new();
    for _ in 0..20 {
        let asked = get(&sender).await;
        let stream = server.request().await;
        server.headers(stream, &[(":status", "200")], false).await;
        standing.push((stream, within(asked).await.unwrap().unwrap()));
    }
    let (mut n_sent, mut n_room) = (0, 1 << 20);
    for (stream, _) in &standing {
        for _ in 0..4 {
            n_sent += 16_000;
            if n_sent > n_room {
                let Seen::Window(0, more) = within(server.next()).await else {
                    panic!("no room");
                };
                n_room += more;
            }
            server.data(*stream, &[b'x'; 16_000], false).await;
        }
    }
    let asked = get(&sender).await;
    server.request().await;
    server.headers(41, &[(":status", "200")], true).await;
    assert_eq!(outcome(asked).await.unwrap(), "200 ");
}

#[tokio::test]
async fn who_leaves_resets_the_stream_and_frees_its_place() {
    let (sender, mut server, _driver) = connected(Settings {
        max_concurrent_streams: Some(1),
        ..Settings::default()
    })
    .await;
    // Before the header, and before the end of the body.
    let asked = get(&sender).await;
    assert_eq!(server.request().await, 1);
    asked.abort();
    assert_eq!(server.reset().await, (1, Code::CANCEL));
    let upload = Scripted::default();
    let asked = ask(&sender, "POST", upload.clone());
    assert_eq!(server.request().await, 3);
    server.write_headers(3, &[(":status", "200")], false);
    server.data(3, b"x", false).await;
    let response = within(asked).await.unwrap().unwrap();
    // One that waits for a place takes it then, one that has left takes none.
    let (gone, next) = (get(&sender).await, get(&sender).await);
    tokio::task::yield_now().await;
    gone.abort();
    drop(response);
    assert_eq!(server.reset().await, (3, Code::CANCEL));
    assert_eq!(Arc::strong_count(&upload.0), 1);
    assert_eq!(server.request().await, 5);
    // What was on its way to them is passed over.
    server.write_data(3, b"more", true);
    server.write_headers(1, &[(":status", "200")], true);
    server.headers(5, &[(":status", "200")], true).await;
    assert_eq!(outcome(next).await.unwrap(), "200 ");
}

#[tokio::test]
async fn what_may_be_sent_again_is_said() {
    for (case, expected) in [
        (0, "unsent: it reset the stream (code 7)"),
        (1, "it reset the stream (code 8)"),
        (
            2,
            "unsent: it takes no more requests on this connection (code 0)",
        ),
        (3, "it closed the connection before its answer was complete"),
        (4, "later: it reset the stream (code 7)"),
        (
            5,
            "later: it closed the connection before its answer was complete",
        ),
    ] {
        let (sender, mut server, driver) = connected(Settings::default()).await;
        let asked = get(&sender).await;
        server.request().await;
        if case >= 4 {
            server.headers(1, &[(":status", "200")], false).await;
        }
        match case {
            0 | 4 => {
                server
                    .raw(|out| write_reset(out, 1, Code::REFUSED_STREAM))
                    .await
            }
            1 => server.raw(|out| write_reset(out, 1, Code::CANCEL)).await,
            2 => server.raw(|out| write_goaway(out, 0, Code::NO_ERROR)).await,
            _ => {
                drop(server);
                assert_eq!(outcome(asked).await.unwrap_err(), expected);
                within(driver).await.unwrap();
                let error = outcome(get(&sender).await).await.unwrap_err();
                assert!(error.starts_with("unsent: "), "{error}");
                continue;
            }
        }
        assert_eq!(outcome(asked).await.unwrap_err(), expected, "{case}");
        assert_eq!(sender.takes_more(), case != 2);
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_finishes_what_it_has() {
    let (sender, mut server, driver) = connected(Settings {
        max_concurrent_streams: Some(2),
        ..Settings::default()
    })
    .await;
    let (first, second) = (get(&sender).await, get(&sender).await);
    server.request().await;
    server.request().await;
    let waiting = get(&sender).await;
    tokio::task::yield_now().await;
    server.raw(|out| write_goaway(out, 1, Code::NO_ERROR)).await;
    let second = outcome(second).await.unwrap_err();
    assert!(second.starts_with("unsent: "), "{second}");
    let waiting = outcome(waiting).await.unwrap_err();
    assert!(waiting.starts_with("unsent: "), "{waiting}");
    server.headers(1, &[(":status", "200")], true).await;
    assert_eq!(outcome(first).await.unwrap(), "200 ");
    assert_eq!(server.goaway().await, Code::NO_ERROR);
    within(driver).await.unwrap();
}

#[tokio::test]
async fn the_driver_ends_with_the_last_request_after_the_last_sender() {
    let (sender, mut server, driver) = connected(Settings::default()).await;
    let asked = get(&sender).await;
    server.request().await;
    drop(sender);
    server.headers(1, &[(":status", "200")], false).await;
    let response = within(asked).await.unwrap().unwrap();
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    assert_eq!(within(server.next()).await, Seen::PingAck);
    server.data(1, b"end", true).await;
    let (data, _) = frames(&mut response.into_body()).await.unwrap();
    assert_eq!(data, b"end");
    assert_eq!(server.goaway().await, Code::NO_ERROR);
    assert_eq!(within(server.next()).await, Seen::Closed);
    within(driver).await.unwrap();
}

#[tokio::test]
async fn a_body_that_breaks_off_resets_the_stream() {
    let (sender, mut server, _driver) = connected(Settings::default()).await;
    let body = Scripted::default();
    let asked = ask(&sender, "POST", body.clone());
    server.request().await;
    body.push(Err(io::ErrorKind::BrokenPipe.into()));
    assert_eq!(server.reset().await, (1, Code::CANCEL));
    let error = within(asked).await.unwrap().unwrap_err();
    assert!(error.is_of_request_body() && !error.is_unsent());
    // Nothing is sent of one that is broken from the beginning.
    let body = Scripted::default();
    body.push(Err(io::ErrorKind::BrokenPipe.into()));
    let error = within(ask(&sender, "POST", body))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_of_request_body());
    server.raw(|out| write_ping(out, [0; 8], false)).await;
    assert_eq!(within(server.next()).await, Seen::PingAck);
}
