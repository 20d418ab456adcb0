//! HTTP/1 as RFC 9112 has it, and as attackers write it.

use crate::raw::{HOST, nothing_is_left, recorder, status};
use crate::world::World;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn what_cannot_be_read_in_one_way_only_is_refused() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{HOST}{headers}\r\n{body}");
    let get = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let cases = [
        (post("Content-Length: 2, 2\r\n", "ab"), "a list of lengths"),
        (post("Content-Length: +2\r\n", "ab"), "a signed length"),
        (post("Content-Length: -2\r\n", "ab"), "a negative length"),
        (
            post("Content-Length: 0x2\r\n", "ab"),
            "a hexadecimal length",
        ),
        (post("Content-Length: 2 2\r\n", "ab"), "two lengths in one"),
        (post("Content-Length: \r\n", ""), "an empty length"),
        (
            post("Content-Length: 18446744073709551616\r\n", ""),
            "a length above 64 bits",
        ),
        (
            post("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"),
            "two lengths",
        ),
        (
            post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            "chunked not last",
        ),
        (
            post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
            "chunked twice",
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                "0\r\n\r\n",
            ),
            "two codings",
        ),
        (
            post("Transfer-Encoding: \u{b}chunked\r\n", "0\r\n\r\n"),
            "a coding with a control",
        ),
        (
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            "space before the colon",
        ),
        (get("Host: user@app.localhost\r\n"), "a user in Host"),
        (get("Host: app.localhost/path\r\n"), "a path in Host"),
        (
            get("Host: app.localhost:99999999\r\n"),
            "a port that is none",
        ),
        (
            get("Host: app.localhost, other.localhost\r\n"),
            "a list of hosts",
        ),
        (get("Host: \r\n"), "an empty host"),
        (get("Host: app.localhost\u{e9}\r\n"), "a host beyond ASCII"),
        (
            get("Host: app.localhost\r\nA: b\rc\r\n"),
            "a lone CR in a value",
        ),
        (get("Host: app.localhost\r\n\tA: b\r\n"), "a folded line"),
        (
            get("Host: app.localhost\r\nA(b): c\r\n"),
            "a name that is none",
        ),
        (
            get("Host: app.localhost\r\nno colon\r\n"),
            "a line without a colon",
        ),
        (
            format!("GET http://user@app.localhost/ HTTP/1.1\r\n{HOST}\r\n"),
            "a user in the address",
        ),
        (format!("GET  / HTTP/1.1\r\n{HOST}\r\n"), "two spaces"),
        (
            format!("GET / HTTP/1.1 x\r\n{HOST}\r\n"),
            "more after the version",
        ),
        (
            format!("GET /a b HTTP/1.1\r\n{HOST}\r\n"),
            "a space in the address",
        ),
        (format!("GET / HTTP/2.0\r\n{HOST}\r\n"), "another version"),
        ("GET /\r\n\r\n".to_owned(), "HTTP/0.9"),
        (format!("GET / HTTP/1.2\r\n{HOST}\r\n"), "HTTP/1.2"),
        (format!("GET / HTTP/1.10\r\n{HOST}\r\n"), "HTTP/1.10"),
        (
            format!("GET / http/1.1\r\n{HOST}\r\n"),
            "a version in lower case",
        ),
        (
            format!("GET\t/\tHTTP/1.1\r\n{HOST}\r\n"),
            "tabs between the words",
        ),
        (
            format!(" GET / HTTP/1.1\r\n{HOST}\r\n"),
            "a space before the method",
        ),
        (
            format!("G@T / HTTP/1.1\r\n{HOST}\r\n"),
            "a method that is none",
        ),
        (
            format!("GET / HTTP/1.1\r{HOST}\r\n"),
            "a line that ends with CR",
        ),
        (
            format!("GET /a\0b HTTP/1.1\r\n{HOST}\r\n"),
            "NUL in the address",
        ),
        (
            format!("GET path HTTP/1.1\r\n{HOST}\r\n"),
            "an address without a slash",
        ),
        (
            format!("GET app.localhost:80 HTTP/1.1\r\n{HOST}\r\n"),
            "an authority as the address",
        ),
        (
            format!("GET * HTTP/1.1\r\n{HOST}\r\n"),
            "a star that asks for nothing",
        ),
        (
            format!("GET http:// HTTP/1.1\r\n{HOST}\r\n"),
            "an address without a host",
        ),
        (get("Host: app.localhost\r\n: empty\r\n"), "an empty name"),
        (get("Host: app.localhost\r\nA\0: b\r\n"), "NUL in a name"),
        (
            get("Host: app.localhost\r\nA: b\u{7f}\r\n"),
            "DEL in a value",
        ),
        (
            post(
                "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            "a length and then a coding",
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\ncontent-length : 2\r\n",
                "0\r\n\r\n",
            ),
            "a coding and then a length with a space",
        ),
        (
            post(
                "Transfer-Encoding: chunked\r\nCONTENT-LENGTH: 2\r\n",
                "0\r\n\r\n",
            ),
            "a coding and then a length",
        ),
        (
            post("Transfer-Encoding: identity\r\n", ""),
            "another coding alone",
        ),
        (post("Transfer-Encoding:\r\n", ""), "an empty coding"),
    ];
    let mut wrong = Vec::new();
    for (request, what) in cases {
        let answer = world.raw(&request).await;
        // A coding that the edge could take away, and does not know (RFC 9112 6.1).
        let expected = if what == "chunked twice" {
            "501"
        } else {
            "400"
        };
        let n_answers = answer.matches("HTTP/1.").count();
        if (status(&answer), n_answers) != (expected, 1) {
            wrong.push(format!("{what}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(log.lock().is_empty(), "the app saw none of them");
    nothing_is_left(&world, 1).await;
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn what_may_be_written_in_several_ways_reaches_the_app_in_one() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let long = "x".repeat(900);
    let cases = [
        // A lone LF ends a line (RFC 9112 2.2); the app gets CRLF like everybody's.
        (
            format!("GET /lf HTTP/1.1\n{}\n", HOST.replace('\r', "")),
            "GET /lf",
            "",
        ),
        (
            format!("GET http://app.localhost?x HTTP/1.1\r\n{HOST}\r\n"),
            "GET /?x",
            "",
        ),
        (
            format!(
                "POST /twice HTTP/1.1\r\n{HOST}Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"
            ),
            "POST /twice",
            "ab",
        ),
        (
            format!(
                "POST /extended HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n\
                 2;a=b;c=\"d\"\r\nab\r\n1 ;{long}\r\nc\r\n0;last\r\n\r\n"
            ),
            "POST /extended",
            "abc",
        ),
        (
            format!(
                "POST /trailers HTTP/1.1\r\n{HOST}Transfer-Encoding: CHUNKED\r\n\r\n\
                 2\r\nab\r\n0\r\nHost: other.localhost\r\nContent-Length: 9\r\nFly-Client-IP: 6.6.6.6\r\n\r\n"
            ),
            "POST /trailers",
            "ab",
        ),
        (
            format!(
                "POST /named HTTP/1.1\r\n{HOST}Connection: Content-Length, Host, Fly-Client-IP, X-Gone\r\nX-Gone: 1\r\nContent-Length: 2\r\n\r\nab"
            ),
            "POST /named",
            "ab",
        ),
        (
            format!(
                "POST /named-coding HTTP/1.1\r\n{HOST}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            ),
            "POST /named-coding",
            "ab",
        ),
        (
            "GET http://APP.localhost/absolute?q HTTP/1.1\r\nHost: app.LOCALHOST\r\nConnection: close\r\n\r\n".to_owned(),
            "GET /absolute?q",
            "",
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n"), "OPTIONS *", ""),
        // Empty lines before a request are passed over (RFC 9112 2.2).
        (format!("\r\n\r\nGET /later HTTP/1.1\r\n{HOST}\r\n"), "GET /later", ""),
        // The path is the app's to read.
        (
            format!("GET //a/../%2e%00/?q=%zz HTTP/1.1\r\n{HOST}\r\n"),
            "GET //a/../%2e%00/?q=%zz",
            "",
        ),
        (format!("POST /nothing HTTP/1.1\r\n{HOST}\r\n"), "POST /nothing", ""),
        (
            format!("GET /with HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\nab"),
            "GET /with",
            "ab",
        ),
        (
            format!("POST /zeros HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0002\r\nab\r\n000\r\n\r\n"),
            "POST /zeros",
            "ab",
        ),
        (
            format!("GET /h2c HTTP/1.1\r\n{HOST}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
            "GET /h2c",
            "",
        ),
        (
            "GET /old HTTP/1.0\r\nHost: app.localhost\r\n\r\n".to_owned(),
            "GET /old",
            "",
        ),
    ];
    for (request, line, body) in cases {
        let answer = world.raw(&request).await;
        assert_eq!(answer.split(' ').nth(1), Some("200"), "{line}: {answer}");
        let seen = log.lock().pop().expect(line);
        assert_eq!(
            (seen.line.as_str(), seen.body.as_deref()),
            (line, Ok(body.as_bytes()))
        );
        let headers = &seen.headers;
        let n_lengths = headers.get_all("content-length").iter().count();
        let n_codings = headers.get_all("transfer-encoding").iter().count();
        assert!(n_lengths + n_codings <= 1, "{line}: {headers:?}");
        assert!(
            headers["host"]
                .as_bytes()
                .eq_ignore_ascii_case(b"app.localhost"),
            "{line}"
        );
        assert_eq!(headers["fly-client-ip"], "127.0.0.1", "{line}");
        for gone in [
            "x-gone",
            "connection",
            "expect",
            "upgrade",
            "http2-settings",
        ] {
            assert!(!headers.contains_key(gone), "{line}: {headers:?}");
        }
        assert!(log.lock().is_empty(), "{line} arrives once");
    }
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_order_and_nothing_after_a_refusal() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let host = "Host: app.localhost\r\n";
    let answer = world
        .raw(format!(
            "POST /1 HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\n{host}\r\n\
             GET /3 HTTP/1.1\r\n{host}{host}\r\nGET /4 HTTP/1.1\r\n{host}\r\n"
        ))
        .await;
    let statuses: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["200", "200", "400"], "{answer}");
    let lines: Vec<String> = log.lock().iter().map(|seen| seen.line.clone()).collect();
    assert_eq!(lines, ["POST /1", "GET /2"]);
}

#[tokio::test]
async fn a_broken_chunk_ends_the_request_and_the_app_sees_no_whole_body() {
    let world = World::with(|config| config.timeouts.body_idle = Duration::from_millis(300)).await;
    let log = recorder(&world).await;
    let endless = format!("2;{}", "x".repeat(200_000));
    let mut wrong = Vec::new();
    for (body, what) in [
        ("FFFFFFFFFFFFFFFFF\r\nab", "a size above 64 bits"),
        ("-2\r\nab\r\n0\r\n\r\n", "a negative size"),
        ("0x2\r\nab\r\n0\r\n\r\n", "a size with a prefix"),
        ("2\r\nabc\r\n0\r\n\r\n", "more than the size says"),
        ("2\r\nab0\r\n\r\n", "no end of line after the chunk"),
        ("2\r\nab\r\n", "no last chunk"),
        ("", "no chunk"),
        ("\r\nab\r\n0\r\n\r\n", "no size"),
        ("2\nab\r\n0\r\n\r\n", "a size that ends with LF"),
        ("2\rab\r\n0\r\n\r\n", "a size that ends with CR"),
        ("2;a\nb\r\nab\r\n0\r\n\r\n", "LF in an extension"),
        ("2\r\nab\n0\r\n\r\n", "a chunk that ends with LF"),
        ("0\r\nA: b", "trailers without an end"),
        ("0\r\nA b\r\n\r\n", "a trailer without a colon"),
        (endless.as_str(), "an extension without an end"),
    ] {
        let head = format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
        let answer = world.raw(head + body).await;
        nothing_is_left(&world, 1).await;
        let seen = log.lock().pop();
        if status(&answer) != "400" || seen.is_some_and(|seen| seen.body.is_ok()) {
            wrong.push(format!("{what}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn headers_are_taken_up_to_their_bounds_and_refused_beyond() {
    use roost_edge::limits::{HEADER_BYTES_MAX, HEADER_LINES_MAX, URI_BYTES_MAX};
    let world = World::new().await;
    recorder(&world).await;
    let lines = |n: usize| format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "A: b\r\n".repeat(n - 2));
    // Of each line four bytes are not of its name and value.
    let others = "HostConnection".len() + "app.localhostclose".len() + 3 * 4 + "A".len();
    let bytes = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\n{HOST}A: {}\r\n\r\n",
            "b".repeat(n - others)
        )
    };
    let uri = |n: usize| format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(n - 1));
    let mut wrong = Vec::new();
    for (what, request, expected) in [
        ("lines", lines(HEADER_LINES_MAX), "200"),
        ("lines", lines(HEADER_LINES_MAX + 1), "431"),
        ("bytes", bytes(HEADER_BYTES_MAX), "200"),
        ("bytes", bytes(HEADER_BYTES_MAX + 1), "431"),
        ("bytes", bytes(20 * HEADER_BYTES_MAX), "431"),
        ("address", uri(URI_BYTES_MAX), "200"),
        ("address", uri(URI_BYTES_MAX + 1), "414"),
        ("address", uri(4 * URI_BYTES_MAX), "431"),
        ("address", uri(70_000), "431"),
    ] {
        let answer = world.raw(&request).await;
        if status(&answer) != expected {
            wrong.push(format!("{what}, {} bytes: {answer}", request.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn a_length_beside_a_coding_is_found_however_it_comes() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let request = "POST /pair HTTP/1.1\r\nHost: app.localhost\r\nX-Transfer-Encoding: x\r\n\
                   Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for cut in 1..request.len() - 5 {
        let mut stream = TcpStream::connect(world.http()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&request.as_bytes()[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        // The edge may have refused it before it has all.
        let _ = stream.write_all(&request.as_bytes()[cut..]).await;
        let mut answer = Vec::new();
        // A reset after the answer is as good an end as a close.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("code ambiguous-length"), "{cut}: {answer}");
    }
    assert!(log.lock().is_empty());
    // What the body says is no header, and neither is what came before.
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    for request in [
        "POST /1 HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         18\r\n\r\nContent-Length: 5\r\n\r\nx\r\n0\r\n\r\n",
        "POST /2 HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 2\r\n\r\nab",
        "POST /3 HTTP/1.1\r\nHost: app.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /4 HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\nContent-Length: 27\r\n\r\n\
         Transfer-Encoding: chunked\n",
    ] {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let n_read = stream.read_buf(&mut answer).await.unwrap();
            assert!(
                n_read > 0,
                "{request}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    assert_eq!(log.lock().len(), 4);
    drop(stream);
    nothing_is_left(&world, 1).await;
}

#[tokio::test]
async fn nothing_of_a_second_request_is_served_after_the_last_one() {
    let world = World::new().await;
    let log = recorder(&world).await;
    let host = "Host: app.localhost\r\n";
    let second = format!("GET /second HTTP/1.1\r\n{host}\r\n");
    for (what, first) in [
        ("close", format!("GET /first HTTP/1.1\r\n{HOST}\r\n")),
        ("HTTP/1.0", format!("GET /first HTTP/1.0\r\n{host}\r\n")),
        (
            "close among others",
            format!("GET /first HTTP/1.1\r\n{host}Connection: x, Close\r\n\r\n"),
        ),
        (
            "close and keep-alive",
            format!(
                "GET /first HTTP/1.1\r\n{host}Connection: close\r\nConnection: keep-alive\r\n\r\n"
            ),
        ),
    ] {
        let answer = world.raw(first + &second).await;
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{what}: {answer}");
        let lines: Vec<String> = log.lock().drain(..).map(|seen| seen.line).collect();
        assert_eq!(lines, ["GET /first"], "{what}");
    }
    nothing_is_left(&world, 1).await;
}
