//! Machines that do not behave.

use crate::raw::{HOST, nothing_is_left, status};
use crate::world::{World, endpoint, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a machine does about a request.
#[derive(Debug, Clone)]
enum Step {
    Say(Vec<u8>),
    /// Says the same until nobody takes it.
    Repeat(Vec<u8>),
    /// One byte after another.
    Slowly(&'static str),
    /// Waits for the header of an HTTP/2 request.
    Hear,
    Close,
    Reset,
}
use Step::{Close, Hear, Repeat, Reset, Slowly};

fn say(text: impl AsRef<[u8]>) -> Step {
    Step::Say(text.as_ref().to_vec())
}

/// A machine that does this on each connection once something has come, and then waits for its
/// end; and how many of its connections are open.
async fn acts(world: &World, steps: Vec<Step>, open: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, open) = (world.tasks.clone(), open.clone());
    world.tasks.spawn("acts", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (steps, open) = (steps.clone(), open.clone());
            open.fetch_add(1, Ordering::SeqCst);
            tasks.spawn("acts-connection", async move {
                act(stream, &steps).await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    address
}

async fn act(mut stream: TcpStream, steps: &[Step]) {
    let mut heard = Vec::with_capacity(64 * 1024);
    if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
        return;
    }
    for step in steps {
        let said = match step {
            Step::Say(bytes) => stream.write_all(bytes).await,
            Repeat(bytes) => {
                while stream.write_all(bytes).await.is_ok() {}
                return;
            }
            Slowly(text) => {
                let mut said = Ok(());
                for byte in text.bytes() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    said = said.and(stream.write_all(&[byte]).await);
                }
                said
            }
            Hear => {
                while !has_headers(&heard) {
                    if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                Ok(())
            }
            Close => return,
            Reset => {
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                return;
            }
        };
        if said.is_err() {
            return;
        }
    }
    while stream.read_buf(&mut heard).await.unwrap_or(0) > 0 {
        heard.clear();
    }
}

/// Whether the preface of HTTP/2 and a header block are among these bytes.
fn has_headers(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(24..).unwrap_or_default();
    while let [a, b, c, kind, _flags, _, _, _, _, payload @ ..] = rest {
        if *kind == crate::raw::HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        rest = payload.get(length..).unwrap_or_default();
    }
    false
}

/// Whether an answer has the whole of its body, by its own header.
fn is_whole(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let head = head.to_lowercase();
    match head.split("\r\ncontent-length: ").nth(1) {
        Some(rest) => rest.split("\r\n").next().unwrap().parse() == Ok(body.len()),
        None => body.ends_with("0\r\n\r\n"),
    }
}

/// For machines that take their time.
async fn hasty() -> World {
    World::with(|config| {
        config.timeouts.response_header = Duration::from_secs(2);
        config.timeouts.body_idle = Duration::from_secs(2);
        config.timeouts.pool_idle = Duration::from_millis(100);
    })
    .await
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn each_way_to_fail_has_its_status_and_no_connection_is_left() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let bad = |line: &str| vec![say(format!("{line}\r\n\r\n"))];
    let with = |lines: &str| vec![say(format!("{ok}{lines}\r\n\r\nab"))];
    let cases = [
        ("closes without a word", "502", vec![Close]),
        ("resets without a word", "502", vec![Reset]),
        ("says nothing", "504", vec![]),
        (
            "closes in the first line",
            "502",
            vec![say("HTTP/1.1 20"), Close],
        ),
        ("closes in the header", "502", vec![say(ok), Close]),
        ("resets in the header", "502", vec![say(ok), Reset]),
        ("stalls in the header", "504", vec![say(ok)]),
        (
            "is slow with its header",
            "504",
            vec![Slowly(
                "HTTP/1.1 200 OK\r\nX-Slow: slower than anybody waits for it",
            )],
        ),
        (
            "never ends its header",
            "502",
            vec![say(ok), Repeat(b"X-More: more of it\r\n".repeat(100))],
        ),
        (
            "never ends a line",
            "502",
            vec![say(ok), Repeat(vec![b'x'; 4096])],
        ),
        (
            "has a thousand lines",
            "502",
            vec![say(format!("{ok}{}\r\n", "X-Line: 1\r\n".repeat(1000)))],
        ),
        (
            "has early hints without end",
            "504",
            vec![Repeat(
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec(),
            )],
        ),
        ("speaks another protocol", "502", bad("SSH-2.0-OpenSSH_9.2")),
        (
            "speaks TLS",
            "502",
            vec![say(b"\x15\x03\x01\x00\x02\x02\x16")],
        ),
        ("has a status of two digits", "502", bad("HTTP/1.1 20 OK")),
        (
            "has a status of four digits",
            "502",
            bad("HTTP/1.1 2000 OK"),
        ),
        ("has a status below all", "502", bad("HTTP/1.1 099 OK")),
        ("speaks HTTP/2 in text", "502", bad("HTTP/2.0 200 OK")),
        ("speaks HTTP/3.1", "502", bad("HTTP/3.1 200 OK")),
        (
            "changes the protocol unasked",
            "502",
            bad("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade"),
        ),
        ("has NUL in a value", "502", with("X-Line: a\0b")),
        ("has a lone CR in a value", "502", with("X-Line: a\rb")),
        ("has a space in a name", "502", with("X Line: a")),
        ("has a space before the colon", "502", with("X-Line : a")),
        ("has a folded line", "502", with("X-Line: a\r\n b")),
        ("has a line without a colon", "502", with("X-Line")),
        (
            "has two lengths",
            "502",
            with("Content-Length: 2\r\nContent-Length: 1"),
        ),
        ("has a negative length", "502", with("Content-Length: -2")),
        (
            "has a length of letters",
            "502",
            with("Content-Length: two"),
        ),
        (
            "has a length above 64 bits",
            "502",
            with("Content-Length: 18446744073709551616"),
        ),
        ("has another coding", "502", with("Transfer-Encoding: gzip")),
        (
            "has another coding within chunks",
            "502",
            vec![say(format!(
                "{ok}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            ))],
        ),
        (
            "closes in the body",
            "200 cut",
            vec![say(format!("{ok}Content-Length: 10\r\n\r\nabc")), Close],
        ),
        (
            "resets in the body",
            "200 cut",
            vec![say(format!("{ok}Content-Length: 10\r\n\r\nabc")), Reset],
        ),
        (
            "stalls in the body",
            "200 cut",
            vec![say(format!("{ok}Content-Length: 10\r\n\r\nabc"))],
        ),
        (
            "closes between chunks",
            "200 cut",
            vec![
                say(format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")),
                Close,
            ],
        ),
        (
            "stalls in a chunk",
            "200 cut",
            vec![say(format!(
                "{ok}Transfer-Encoding: chunked\r\n\r\n9\r\nab"
            ))],
        ),
        (
            "has a chunk that is none",
            "200 cut",
            vec![say(format!(
                "{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n-1\r\nx"
            ))],
        ),
        (
            "resets a body that ends with the connection",
            "200 cut",
            vec![say(format!("{ok}\r\nabc")), Reset],
        ),
        (
            "ends its body by closing",
            "200",
            vec![say(format!("{ok}\r\nabc")), Close],
        ),
        (
            "says more than its length",
            "200",
            vec![say(format!("{ok}Content-Length: 2\r\n\r\nabmore"))],
        ),
        (
            "has a length twice",
            "200",
            with("Content-Length: 2\r\nContent-Length: 2"),
        ),
        (
            "ends lines with LF",
            "200",
            vec![say("HTTP/1.1 200 OK\nContent-Length: 2\n\nab")],
        ),
        (
            "gives no reason",
            "200",
            vec![say("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab")],
        ),
        (
            "speaks HTTP/1.0",
            "200",
            vec![say("HTTP/1.0 200 OK\r\n\r\nab"), Close],
        ),
        (
            "has early hints",
            "200",
            vec![say(format!(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{ok}Content-Length: 2\r\n\r\nab"
            ))],
        ),
        (
            "is a teapot",
            "418",
            vec![say(
                "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n",
            )],
        ),
        (
            "has a status that nobody knows",
            "799",
            vec![say("HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n")],
        ),
    ];
    let world = hasty().await;
    let open = Arc::<AtomicUsize>::default();
    let mut wrong = Vec::new();
    for (number, (what, expected, steps)) in (1..).zip(cases) {
        let address = acts(&world, steps, &open).await;
        world.publish(vec![endpoint(number, address)]);
        let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
        let (expected, is_cut) = match expected.strip_suffix(" cut") {
            Some(expected) => (expected, true),
            None => (expected, false),
        };
        // A page says what is wrong.
        let has_page = ["502", "504"].contains(&expected);
        if (status(&answer), !is_whole(&answer)) != (expected, is_cut)
            || answer.contains("\ncode ") != has_page
        {
            wrong.push(format!("{what}: {answer:?}"));
        }
        nothing_is_left(&world, number).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    wait_until("no connection to a machine is left", || {
        open.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_reaches_the_client() {
    let refuses = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    for (number, steps) in (1..).zip([
        vec![say(refuses)],
        vec![say(refuses), Close],
        vec![say(refuses), Reset],
    ]) {
        let world = hasty().await;
        let open = Arc::<AtomicUsize>::default();
        let address = acts(&world, steps.clone(), &open).await;
        world.publish(vec![endpoint(number, address)]);
        let begun = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 1000000\r\n\r\nbegun");
        let answer = world.raw(begun).await;
        // What a reset takes away has not come: then there was no answer.
        let is_reset = matches!(steps.last(), Some(Reset));
        let expected = ["413"].into_iter().chain(is_reset.then_some("502"));
        assert!(
            expected.into_iter().any(|e| e == status(&answer)),
            "{answer}"
        );
        nothing_is_left(&world, number).await;
        wait_until("the machine's connection has ended", || {
            open.load(Ordering::SeqCst) == 0
        })
        .await;
    }
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn a_machine_that_does_not_speak_http2_well_gets_a_502() {
    use crate::raw::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame};
    let hello = || say(frame(SETTINGS, 0, 0, &[]));
    let after = |steps: Vec<Step>| [vec![hello(), Hear], steps].concat();
    let answer = |flags| say(frame(HEADERS, flags, 1, &[0x88]));
    let reset = |code: u32| say(frame(RST_STREAM, 0, 1, &code.to_be_bytes()));
    let cases = [
        ("closes without a word", "502", vec![Close]),
        ("says nothing", "504", vec![]),
        (
            "speaks HTTP/1",
            "502",
            vec![say("HTTP/1.1 400 Bad Request\r\n\r\n")],
        ),
        ("closes after SETTINGS", "502", after(vec![Close])),
        ("answers nothing", "504", vec![hello()]),
        (
            "goes away",
            "502",
            after(vec![say(frame(GOAWAY, 0, 0, &[0; 8])), Close]),
        ),
        ("resets the stream", "502", after(vec![reset(2)])),
        (
            "has an upper case name",
            "502",
            after(vec![say(frame(
                HEADERS,
                5,
                1,
                &[&[0x88, 0, 1], &b"X"[..], &[1, b'y']].concat(),
            ))]),
        ),
        (
            "has no status",
            "502",
            after(vec![say(frame(
                HEADERS,
                5,
                1,
                &crate::raw::field("x", "y"),
            ))]),
        ),
        (
            "resets its body",
            "200 cut",
            after(vec![answer(END_HEADERS), reset(2)]),
        ),
        (
            "stalls in its body",
            "200 cut",
            after(vec![answer(END_HEADERS)]),
        ),
        (
            "answers",
            "200",
            after(vec![answer(END_HEADERS | END_STREAM)]),
        ),
    ];
    let world = hasty().await;
    let open = Arc::<AtomicUsize>::default();
    let mut wrong = Vec::new();
    for (number, (what, expected, steps)) in (1..).zip(cases) {
        let address = acts(&world, steps, &open).await;
        let mut machine = endpoint(number, address);
        for port in &mut Arc::make_mut(&mut machine.service).ports {
            port.http.h2_backend = true;
        }
        world.publish(vec![machine]);
        // A GET would be sent again, as another stream.
        let answer = world.raw(format!("POST / HTTP/1.1\r\n{HOST}\r\n")).await;
        let is_cut = expected.ends_with(" cut");
        if (status(&answer), !is_whole(&answer)) != (&expected[..3], is_cut) {
            wrong.push(format!("{what}: {answer:?}"));
        }
        nothing_is_left(&world, number).await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    wait_until("no connection to a machine is left", || {
        open.load(Ordering::SeqCst) == 0
    })
    .await;
}

/// What a body of HTTP/2 says of its end has no place in HTTP/1 (RFC 9112 7.1, RFC 9113 8.1).
#[tokio::test]
async fn the_end_of_an_http2_body_is_the_end_of_the_http1_body() {
    use crate::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, field, frame};
    let head = |fields: &[u8]| frame(HEADERS, END_HEADERS, 1, fields);
    let length = [&[0x88], &field("content-length", "5")[..]].concat();
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let no_error = frame(RST_STREAM, 0, 1, &[0; 4]);
    let get = "GET / HTTP/1.1\r\nHost: app.localhost\r\n";
    let cases = [
        (
            "an empty last frame",
            format!("{get}Connection: close\r\n\r\n"),
            [head(&[0x88]), data(0, b"ab"), data(END_STREAM, b"")],
            "2\r\nab\r\n0\r\n\r\n",
        ),
        (
            "a reset without an error, too early: the connection ends",
            format!("{get}\r\n"),
            [head(&length), data(0, b"ab"), no_error],
            "ab",
        ),
    ];
    let world = hasty().await;
    let open = Arc::<AtomicUsize>::default();
    for (number, (what, request, frames, expected)) in (1..).zip(cases) {
        let hello = say(frame(SETTINGS, 0, 0, &[]));
        let address = acts(&world, vec![hello, Hear, say(frames.concat())], &open).await;
        let mut machine = endpoint(number, address);
        for port in &mut Arc::make_mut(&mut machine.service).ports {
            port.http.h2_backend = true;
        }
        world.publish(vec![machine]);
        let answer = world.raw(request).await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        assert_eq!(body, expected, "{what}: {answer:?}");
        nothing_is_left(&world, number).await;
    }
}
