//! What the connection holds to, and what it has its client hold to.

use super::*;

const KILOBYTES_200: &[u8] = &[7; 200_000];

#[tokio::test]
async fn requests_of_one_read_are_answered_in_one_write() {
    let mut world = answering(&[b"ab", b"c"]);
    let both = [world.get(1), world.get(3)].concat();
    let expected = [
        "HEADERS 1 200",
        "DATA 1 2",
        "DATA 1 1 END",
        "HEADERS 3 200",
        "DATA 3 2",
        "DATA 3 1 END",
    ];
    assert_eq!(world.say(&both), expected);
    let connection = &world.connection;
    assert!(connection.streams.is_empty() && !world.is_over);
    // It waits without buffers.
    assert_eq!(
        connection.out.bytes.capacity() + connection.partial.capacity(),
        0
    );
}

#[tokio::test]
async fn an_answer_goes_as_far_as_the_windows_have_room() {
    let mut world = answering(&[KILOBYTES_200]);
    let get = world.get(1);
    let sum = |said: &[String]| {
        let sizes = said.iter().filter_map(|it| it.strip_prefix("DATA 1 "));
        let size = |it: &str| it.trim_end_matches(" END").parse::<u32>().unwrap();
        sizes.map(size).sum::<u32>()
    };
    assert_eq!(sum(&world.say(&get)), 65_535);
    // One of the two windows alone is not enough.
    assert_eq!(sum(&world.say(&window(1, 1000))), 0);
    assert_eq!(sum(&world.say(&window(0, 600))), 600);
    assert_eq!(sum(&world.say(&window(0, 100_000))), 400);
    // A smaller initial window counts for streams that are open (RFC 9113 6.9.2).
    let initial = |bytes| {
        let settings = frame::Settings {
            initial_window_size: Some(bytes),
            ..frame::Settings::default()
        };
        written(|out| frame::write_settings(out, &settings))
    };
    assert_eq!(sum(&world.say(&initial(65_435))), 0);
    assert_eq!(sum(&world.say(&window(1, 100))), 0);
    assert_eq!(sum(&world.say(&window(1, 10))), 10);
    assert_eq!(sum(&world.say(&initial(65_440))), 5);
    let rest = world.say(&[window(1, 200_000), window(0, 200_000)].concat());
    assert_eq!(sum(&rest), 200_000 - 65_535 - 1015);
    assert!(rest.last().unwrap().ends_with(" END"));
}

#[tokio::test]
async fn a_long_answer_lets_others_have_their_turn() {
    let mut n = 0;
    let mut world = world(move |_, _| {
        n += 1;
        let is_first = n == 1;
        async move { Response::new(Pieces::of(&[if is_first { KILOBYTES_200 } else { b"x" }])) }
    });
    let frames = [
        window(0, 1_000_000),
        written(|out| {
            let settings = frame::Settings {
                initial_window_size: Some(1_000_000),
                ..frame::Settings::default()
            };
            frame::write_settings(out, &settings);
        }),
        world.get(1),
        world.get(3),
    ];
    let said = world.say(&frames.concat());
    let place = |wanted: &str| said.iter().position(|it| it == wanted).unwrap();
    assert!(place("DATA 3 1 END") < said.len() - 5, "{said:?}");
    assert!(said.last().unwrap().starts_with("DATA 1 "));
}

#[tokio::test]
async fn a_body_comes_with_its_trailers_however_it_is_cut_up() {
    let mut world = counting();
    let bytes = [
        world.post(1),
        data(1, b"hello", false),
        world.fields(1, true, &[("a", "b")]),
    ]
    .concat();
    let mut said = Vec::new();
    for byte in bytes {
        said.extend(world.say(&[byte]));
    }
    assert_eq!(said, [r#"HEADERS 1 200 x-read=5 Some({"a": "b"}) END"#]);
}

#[tokio::test]
async fn windows_open_by_what_was_read() {
    let mut world = counting();
    let frames = [world.post(1), data(1, &[0; 40_000], false)].concat();
    assert_eq!(world.say(&frames), ["WINDOW 1 40000"]);
    // The connection's: when half of it was read.
    let said = world.say(&data(1, &[0; 20_000], false));
    assert_eq!(said, ["WINDOW 0 60000"]);
    // Padding counts, and is given back (RFC 9113 6.1).
    let mut padded = data(1, &[0; 16_000], false);
    (padded[4], padded[9]) = (8, 255);
    assert_eq!(world.say(&padded), ["WINDOW 1 36000"]);
    let said = world.say(&data(1, b"", true));
    assert_eq!(said, ["HEADERS 1 200 x-read=75744 END"]);
}

#[tokio::test]
async fn what_is_not_read_holds_the_window_and_too_much_is_an_error() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut world = world({
        let kept = kept.clone();
        move |_, body| {
            kept.lock().push(body);
            std::future::pending()
        }
    });
    let frames = [world.post(1), data(1, &[0; 65_535], false)].concat();
    assert!(world.say(&frames).is_empty());
    // What it held is given back to the connection.
    let expected = ["RESET 1 3", "WINDOW 0 65536"];
    assert_eq!(world.say(&data(1, b"x", false)), expected);
    let body = kept.lock().remove(0);
    assert_eq!(count(body).await, "0, then 3");
    // Beyond the window of the connection.
    let frames = [
        world.post(3),
        data(3, &[0; 60_000], false),
        world.post(5),
        data(5, &[0; 40_001], false),
    ];
    assert_eq!(world.say(&frames.concat()), ["GOAWAY 5 3"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn many_small_pieces_are_two_for_the_reader() {
    let kept = Arc::new(Mutex::new(None));
    let mut world = world({
        let kept = kept.clone();
        move |_, body| {
            *kept.lock() = body;
            std::future::pending()
        }
    });
    let frames = [world.post(1), data(1, b"x", false).repeat(10_000)].concat();
    world.say(&frames);
    let mut body = kept.lock().take().unwrap();
    for expected in [1, 9_999] {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap().len(), expected);
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_costs_the_connection_nothing() {
    let mut world = world(|_, body| {
        drop(body);
        std::future::pending()
    });
    let frames = [world.post(1), data(1, &[0; 60_000], false)].concat();
    assert_eq!(world.say(&frames), ["WINDOW 0 60000"]);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_ends_the_stream() {
    let mut world = answering(&[b"no"]);
    let post = world.post(1);
    let expected = ["HEADERS 1 200", "DATA 1 2 END", "RESET 1 0"];
    assert_eq!(world.say(&post), expected);
    // What was on its way is ignored, trailers as well.
    let late = [
        data(1, b"more", false),
        window(1, 5),
        world.fields(1, true, &[("a", "b")]),
    ];
    assert!(world.say(&late.concat()).is_empty());
}

/// The pieces of an answer, the length that it says, and what the client hears.
type Case = (
    &'static [&'static [u8]],
    Option<&'static str>,
    &'static [&'static str],
);

#[tokio::test]
async fn answers_have_the_length_that_they_say() {
    let cases: [Case; 5] = [
        (
            &[b"abc"],
            Some("3"),
            &["HEADERS 1 200 content-length=3", "DATA 1 3 END"],
        ),
        (
            &[b"abc"],
            Some("4"),
            &["HEADERS 1 200 content-length=4", "DATA 1 3", "RESET 1 2"],
        ),
        (
            &[b"abc"],
            Some("2"),
            &["HEADERS 1 200 content-length=2", "RESET 1 2"],
        ),
        (&[b"", b"a"], None, &["HEADERS 1 200", "DATA 1 1 END"]),
        (
            &[b"a", b""],
            None,
            &["HEADERS 1 200", "DATA 1 1", "DATA 1 0 END"],
        ),
    ];
    for (pieces, length, expected) in cases {
        let mut world = world(move |_, _| async move {
            let mut response = Response::new(Pieces::of(pieces));
            if let Some(length) = length {
                let value = length.parse().unwrap();
                response.headers_mut().insert("content-length", value);
            }
            response
        });
        let get = world.get(1);
        assert_eq!(world.say(&get), expected);
    }
}

#[tokio::test]
async fn the_length_of_a_body_is_told_and_lines_of_http1_are_not() {
    let answer = |status: u16, length| {
        world(move |_, _| async move {
            let mut pieces = Pieces::of(&[b"abc"]);
            pieces.length = length;
            let builder = Response::builder().status(status);
            let builder = builder.header("connection", "x").header("keep-alive", "1");
            builder.body(pieces).unwrap()
        })
    };
    let mut world = answer(200, Some(3));
    let get = world.get(1);
    assert_eq!(
        world.say(&get),
        ["HEADERS 1 200 content-length=3", "DATA 1 3 END"]
    );
    let head = world.request(3, "HEAD", &[]);
    assert_eq!(world.say(&head), ["HEADERS 3 200 END"]);
    for (status, expected) in [
        (204, "HEADERS 1 204 END"),
        (304, "HEADERS 1 304 END"),
        (101, "RESET 1 2"),
    ] {
        let mut world = answer(status, None);
        let get = world.get(1);
        assert_eq!(world.say(&get), [expected]);
    }
}

#[tokio::test]
async fn an_answer_has_its_trailers() {
    let mut world = world(|_, _| async {
        let mut pieces = Pieces::of(&[b"abc"]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        pieces
            .frames
            .push_back(http_body::Frame::trailers(trailers));
        Response::new(pieces)
    });
    let get = world.get(1);
    let expected = ["HEADERS 1 200", "DATA 1 3", "HEADERS 1 grpc-status=0 END"];
    assert_eq!(world.say(&get), expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_an_answer_loses_it() {
    let mut world = answering(&[KILOBYTES_200]);
    let get = world.get(1);
    world.say(&get);
    tokio::time::advance(Duration::from_secs(50)).await;
    let get = world.get(3);
    world.say(&get);
    assert!(world.heard().is_empty());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(world.heard(), ["RESET 1 8"]);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert_eq!(world.heard(), ["RESET 3 8"]);
    // One that waits for its app is not of that kind.
    let mut world = self::world(|_, _| async {
        let mut pieces = Pieces::of(&[b"abc"]);
        pieces.is_open = true;
        Response::new(pieces)
    });
    let get = world.get(1);
    world.say(&get);
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(world.heard().is_empty());
}

#[tokio::test]
async fn a_shutdown_answers_what_was_asked_and_takes_nothing_after_it() {
    let mut world = counting();
    let post = world.post(1);
    world.say(&post);
    world.connection.graceful_shutdown();
    assert_eq!(world.heard(), ["GOAWAY 2147483647 0", "PING"]);
    // It was on its way.
    let get = world.get(3);
    assert_eq!(world.say(&get), ["HEADERS 3 200 x-read=no body END"]);
    let pong = written(|out| frame::write_ping(out, CLOSING, true));
    assert_eq!(world.say(&pong), ["GOAWAY 3 0"]);
    let late = [world.post(5), data(5, b"x", true), reset(5)].concat();
    assert!(world.say(&late).is_empty());
    world.connection.graceful_shutdown();
    assert!(world.heard().is_empty() && !world.is_over);
    let end = data(1, b"x", true);
    assert_eq!(world.say(&end), ["HEADERS 1 200 x-read=1 END"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_are_too_many_at_some_time() {
    let mut world = answering(&[b"x"]);
    let mut said = Vec::new();
    for n in 0..10 {
        // Those that come to an end make up for others.
        let (one, other) = (4 * n + 1, 4 * n + 3);
        let frames = [world.get(one), reset(one), world.get(other)].concat();
        said.extend(world.say(&frames));
    }
    assert!(said.iter().all(|it| !it.starts_with("GOAWAY")), "{said:?}");
    let frames: Vec<u8> = (100..106)
        .flat_map(|n| [world.get(2 * n + 1), reset(2 * n + 1)].concat())
        .collect();
    assert_eq!(world.say(&frames), ["GOAWAY 211 11"]);
    assert!(world.is_over);
}

#[tokio::test]
async fn streams_that_are_reset_while_they_are_answered_are_too_many_at_some_time() {
    let unanswered = || world(|_, _| std::future::pending::<Response<Pieces>>());
    let cancel = |world: &mut World, stream: u32| {
        let asked = world.get(stream);
        assert!(world.say(&asked).is_empty(), "it is being answered");
        world.say(&reset(stream))
    };
    let mut world = unanswered();
    for n in 0..5 {
        assert!(cancel(&mut world, 2 * n + 1).is_empty(), "{n}");
    }
    assert_eq!(cancel(&mut world, 11), ["GOAWAY 11 11"]);
    assert!(world.is_over);
    // Time gives them back.
    let mut world = unanswered();
    world.connection.settings.cancel_pause = Duration::from_millis(1);
    for n in 0..20 {
        assert!(cancel(&mut world, 2 * n + 1).is_empty(), "{n}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pause_counts_for_the_next_cancel() {
    let mut world = world(|_, _| std::future::pending::<Response<Pieces>>());
    world.connection.settings.cancel_pause = Duration::from_millis(10);
    for n in 0..20 {
        for stream in [4 * n + 1, 4 * n + 3] {
            let asked = world.get(stream);
            assert!(world.say(&asked).is_empty(), "it is being answered");
            assert!(world.say(&reset(stream)).is_empty(), "{n}");
        }
        // Two pauses, nearly.
        tokio::time::advance(Duration::from_millis(19)).await;
    }
}

#[tokio::test]
async fn a_client_that_lets_as_many_streams_end_as_it_cancels_goes_on() {
    let mut world = world(|head, _| async move {
        if head.method == Method::PUT {
            std::future::pending().await
        }
        Response::new(Pieces::default())
    });
    for n in 0..200 {
        let asked = world.request(4 * n + 1, "PUT", &[]);
        assert!(world.say(&asked).is_empty());
        assert!(world.say(&reset(4 * n + 1)).is_empty(), "{n}");
        let asked = world.get(4 * n + 3);
        let answered = world.say(&asked);
        assert_eq!(answered, [format!("HEADERS {} 200 END", 4 * n + 3)]);
        // Who polls by hand uses up what the runtime lets a task do at once.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_that_panics_ends_its_stream_and_no_other() {
    let mut world = world(|head, _| async move {
        assert_ne!(head.method, Method::PUT, "on purpose");
        let is_open = head.method == Method::DELETE;
        Response::new(Pieces {
            panics: is_open,
            is_open,
            ..Pieces::default()
        })
    });
    for (n, method) in (0..).zip(["PUT", "DELETE", "PUT", "DELETE"]) {
        let (bad, good) = (4 * n + 1, 4 * n + 3);
        let asked = [world.request(bad, method, &[]), world.get(good)].concat();
        let mut said = world.say(&asked);
        // The turns of streams begin anywhere.
        said.sort();
        let head = (method == "DELETE").then(|| format!("HEADERS {bad} 200"));
        let rest = [format!("RESET {bad} 2"), format!("HEADERS {good} 200 END")];
        let mut expected: Vec<String> = head.into_iter().chain(rest).collect();
        expected.sort();
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn a_service_that_panics_ends_the_stream_and_no_other() {
    let mut world = world(|head, _| {
        assert_ne!(head.method, Method::PUT, "on purpose");
        async { Response::new(Pieces::default()) }
    });
    // More than may be open at once.
    for n in 0..20 {
        let (bad, good) = (4 * n + 1, 4 * n + 3);
        let asked = [world.request(bad, "PUT", &[]), world.get(good)].concat();
        let expected = [format!("RESET {bad} 2"), format!("HEADERS {good} 200 END")];
        assert_eq!(world.say(&asked), expected);
        // Who polls by hand uses up what the runtime lets a task do at once.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_a_slot_is_used_again() {
    let mut world = world(|_, _| std::future::pending());
    let frames: Vec<u8> = (0..9).flat_map(|n| world.get(2 * n + 1)).collect();
    assert_eq!(world.say(&frames), ["RESET 17 7"]);
    let frames = [reset(5), world.get(19), world.get(21)].concat();
    assert_eq!(world.say(&frames), ["RESET 21 7"]);
}

#[tokio::test]
async fn a_client_that_leaves_ends_answers_and_bodies() {
    let kept = Arc::new(Mutex::new(None));
    let dropped = Arc::new(());
    let mut world = world({
        let (kept, dropped) = (kept.clone(), dropped.clone());
        move |_, body| {
            *kept.lock() = body;
            let held = dropped.clone();
            async move {
                let _held = held;
                std::future::pending().await
            }
        }
    });
    let frames = [world.post(1), data(1, b"abc", false)].concat();
    world.say(&frames);
    assert_eq!(Arc::strong_count(&dropped), 3);
    let (client, _) = tokio::io::duplex(1);
    drop(std::mem::replace(&mut world.client, client));
    world.heard();
    assert!(world.is_over);
    assert_eq!(Arc::strong_count(&dropped), 2);
    let body = kept.lock().take();
    assert_eq!(count(body).await, "0, then 8");
}

#[tokio::test]
async fn nothing_more_is_read_while_answers_to_questions_are_not_taken() {
    let (mut client, io) = tokio::io::duplex(1000);
    let handler =
        |_: Parts, _: Option<RequestBody>| Box::pin(std::future::pending::<Response<Pieces>>());
    let mut connection = Connection::new(io, settings(), handler);
    let ping = written(|out| frame::write_ping(out, [1; 8], false));
    let mut flood = PREFACE.to_vec();
    frame::write_settings(&mut flood, &frame::Settings::default());
    flood.extend(ping.repeat(100_000));
    let mut cx = Context::from_waker(Waker::noop());
    let mut n_written = 0;
    while let Poll::Ready(Ok(n)) = Pin::new(&mut client).poll_write(&mut cx, &flood[n_written..]) {
        n_written += n;
        assert!(Pin::new(&mut connection).poll(&mut cx).is_pending());
    }
    assert!(n_written < 200_000, "{n_written}");
    assert!(connection.out.bytes.len() < 2 * OUT_BYTES_MAX);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..300), kinds in proptest::collection::vec((0..10_u8, any::<u8>(), 0..4_u32, 0..40_u8), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = counting();
            let get = world.get(1);
            world.say(&get);
            let mut at = 0;
            for (kind, flags, stream, length) in kinds {
                let payload: Vec<u8> = bytes.iter().copied().cycle().skip(at).take(usize::from(length).min(bytes.len())).collect();
                at += 7;
                let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
                frame.extend([kind, flags]);
                frame.extend(stream.to_be_bytes());
                frame.extend(payload);
                world.say(&frame);
            }
            world.say(&bytes);
        });
    }
}
