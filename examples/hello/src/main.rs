//! The example app: a web server in one static program that counts its requests.
//!
//! It answers `/` with a page, `/json` with the same as JSON, `/healthz` with
//! `ok`. It uses the standard library alone (and a thin layer over system calls
//! for signals), as a small app may: a thread per connection, at most
//! [`CONNECTIONS_MAX`]. Build it for an image with
//!
//! ```text
//! RUSTFLAGS="-C target-feature=+crt-static" \
//!   cargo build --profile guest -p hello --target x86_64-unknown-linux-gnu
//! ```
//!
//! The first process of a machine ignores SIGTERM unless it handles it, so the
//! signals are blocked in all threads and the main thread waits for them.

#![forbid(unsafe_code)]

mod facts;
mod page;
mod request;

use facts::Facts;
use nix::sys::signal::{SigSet, Signal};
use request::{Request, read_request};
use std::io::{self, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most connections at once; further ones are told to come back.
const CONNECTIONS_MAX: usize = 256;
/// Longest wait for a request on an open connection, and for one write.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest wait for requests under way after a stop signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What all connections share.
struct App {
    facts: Facts,
    n_connections: AtomicUsize,
    n_busy: AtomicUsize,
    stopping: AtomicBool,
}

fn main() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    // Blocked before the first thread starts, which inherits it.
    if let Err(error) = signals.thread_block() {
        return fail(&format!("block signals: {error}"));
    }
    let port = match std::env::var("PORT").as_deref() {
        Err(_) => 8080,
        Ok(text) => match text.parse() {
            Ok(port) => port,
            Err(_) => return fail(&format!("PORT is `{text}`, which is not a port number")),
        },
    };
    let listener = match listen(port) {
        Ok(listener) => listener,
        Err(error) => return fail(&format!("listen on port {port}: {error}")),
    };
    let app = Arc::new(App {
        facts: Facts::gather(),
        n_connections: AtomicUsize::new(0),
        n_busy: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
    });
    log("info", &format!("hello listens on port {port}"), "");
    let for_accept = Arc::clone(&app);
    let accept = std::thread::Builder::new().name("accept".into());
    if let Err(error) = accept.spawn(move || accept_all(&listener, &for_accept)) {
        return fail(&format!("start a thread: {error}"));
    }
    match signals.wait() {
        Ok(signal) => log(
            "info",
            &format!("{signal} came, finishing requests under way"),
            "",
        ),
        Err(error) => return fail(&format!("wait for a signal: {error}")),
    }
    app.stopping.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while app.n_busy.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    ExitCode::SUCCESS
}

/// Listens on all addresses; a machine without IPv6 gets IPv4 alone.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn accept_all(listener: &TcpListener, app: &Arc<App>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Most likely too many open files: wait for some to close.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let app = Arc::clone(app);
        if app.n_connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            app.n_connections.fetch_sub(1, Ordering::SeqCst);
            refuse(stream);
            continue;
        }
        let for_thread = Arc::clone(&app);
        let spawned = std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                // A client that goes away is no news.
                drop(serve(&stream, &for_thread));
                for_thread.n_connections.fetch_sub(1, Ordering::SeqCst);
            });
        if spawned.is_err() {
            app.n_connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn refuse(mut stream: TcpStream) {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\
                  connection: close\r\n\r\n";
    // The client may be gone already.
    drop(stream.write_all(answer.as_bytes()));
}

/// Answers the requests of one connection, one after the other.
fn serve(stream: &TcpStream, app: &App) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(IDLE_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        app.n_busy.fetch_add(1, Ordering::SeqCst);
        let result = answer(stream, app, &request);
        app.n_busy.fetch_sub(1, Ordering::SeqCst);
        if !result? {
            break;
        }
    }
    Ok(())
}

/// Writes the answer; returns whether the connection stays open.
fn answer(mut stream: &TcpStream, app: &App, request: &Request) -> io::Result<bool> {
    let started = Instant::now();
    let (status, content_type, body) = match (request.method.as_str(), request.path.as_str()) {
        ("BAD", _) => ("400 Bad Request", "text/plain", "bad request\n".to_owned()),
        ("GET" | "HEAD", "/healthz") => ("200 OK", "text/plain", "ok\n".to_owned()),
        ("GET" | "HEAD", "/json") => (
            "200 OK",
            "application/json",
            page::json(&app.facts.at_request()),
        ),
        ("GET" | "HEAD", "/") => (
            "200 OK",
            "text/html; charset=utf-8",
            page::html(&app.facts.at_request()),
        ),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "not found\n".to_owned()),
        _ => (
            "405 Method Not Allowed",
            "text/plain",
            "only GET works here\n".to_owned(),
        ),
    };
    let keeps_open = request.keep_alive && !app.stopping.load(Ordering::SeqCst);
    let connection = if keeps_open { "keep-alive" } else { "close" };
    let mut out = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: {connection}\r\n\r\n",
        body.len()
    );
    if request.method != "HEAD" {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes())?;
    // Health checks come every few seconds and would drown the rest.
    if request.path != "/healthz" {
        let took = started.elapsed().as_secs_f64() * 1_000.0;
        let code = &status[..3];
        let fields = format!(
            r#","method":{},"path":{},"status":{code},"ms":{took:.3}"#,
            page::quoted(&request.method),
            page::quoted(&request.path),
        );
        log(
            "info",
            &format!("{} {} {code}", request.method, request.path),
            &fields,
        );
    }
    Ok(keeps_open)
}

/// Writes one JSON line; `fields` is more JSON, with a comma in front.
fn log(level: &str, message: &str, fields: &str) {
    let message = page::quoted(message);
    let line = format!(r#"{{"level":"{level}","message":{message}{fields}}}"#);
    // A closed standard output must not end the app.
    drop(writeln!(io::stdout().lock(), "{line}"));
}

fn fail(problem: &str) -> ExitCode {
    log("error", problem, "");
    ExitCode::FAILURE
}
