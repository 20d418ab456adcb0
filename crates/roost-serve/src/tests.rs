//! The server as a client sees it, over a real socket.

use crate::respond::Site;
use crate::server;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A running server; it ends when this is dropped or stopped.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

/// An answer, parsed just enough.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

async fn start(root: &Path) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let site = Site::open(root).unwrap();
    let (stop, stopped) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(server::serve(listener, site, async move {
        drop(stopped.await);
    }));
    Running {
        address,
        stop,
        tasks,
    }
}

impl Running {
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head,
            body: answer[end + 4..].to_vec(),
        }
    }
}

fn site() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("index.html"), "<h1>home</h1>").unwrap();
    fs::create_dir(dir.path().join("docs")).unwrap();
    fs::write(dir.path().join("docs/index.html"), "docs").unwrap();
    fs::write(dir.path().join("style.css"), "body{}").unwrap();
    fs::write(dir.path().join("with space.txt"), "0123456789").unwrap();
    dir
}

#[tokio::test]
async fn folders_have_an_index_and_a_slash() {
    let site = site();
    let server = start(site.path()).await;
    let home = server.get("/", &[]).await;
    assert_eq!(
        (home.status, home.body.as_slice()),
        (200, &b"<h1>home</h1>"[..])
    );
    assert_eq!(
        home.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(home.header("cache-control"), Some("no-cache"));
    assert_eq!(server.get("/docs/", &[]).await.body, b"docs");
    let redirect = server.get("/docs?a=b", &[]).await;
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (301, Some("/docs/?a=b"))
    );
    let other_site = server.get("//docs", &[]).await;
    assert_eq!(other_site.header("location"), Some("/docs/"));
    let spaced = server.get("/with%20space.txt", &[]).await;
    assert_eq!(spaced.body, b"0123456789");
}

#[tokio::test]
async fn a_missing_file_gets_the_sites_own_page_with_status_404() {
    let site = site();
    let server = start(site.path()).await;
    assert_eq!(server.get("/none", &[]).await.body, b"not found\n");
    fs::write(site.path().join("404.html"), "lost?").unwrap();
    let missing = server.get("/none", &[]).await;
    assert_eq!(
        (missing.status, missing.body.as_slice()),
        (404, &b"lost?"[..])
    );
    assert_eq!(
        server.get("/%2e%2e/%2e%2e/etc/passwd", &[]).await.status,
        404
    );
}

#[tokio::test]
async fn an_unchanged_file_is_not_sent_again_and_a_changed_one_of_the_same_size_is() {
    let site = site();
    let path = site.path().join("style.css");
    let epoch = std::time::UNIX_EPOCH;
    fs::File::open(&path).unwrap().set_modified(epoch).unwrap();
    let server = start(site.path()).await;
    let first = server.get("/style.css", &[]).await;
    assert_eq!(first.header("last-modified"), None, "the epoch is no date");
    let etag = first.header("etag").unwrap().to_owned();
    let again = server.get("/style.css", &[("if-none-match", &etag)]).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    fs::write(&path, "body()").unwrap();
    fs::File::open(&path).unwrap().set_modified(epoch).unwrap();
    let changed = server.get("/style.css", &[("if-none-match", &etag)]).await;
    assert_eq!(
        (changed.status, changed.body.as_slice()),
        (200, &b"body()"[..])
    );
}

#[tokio::test]
async fn dates_work_where_files_have_them() {
    let site = site();
    let server = start(site.path()).await;
    let first = server.get("/style.css", &[]).await;
    let date = first.header("last-modified").unwrap();
    assert_eq!(
        server
            .get("/style.css", &[("if-modified-since", date)])
            .await
            .status,
        304
    );
    let other = [("if-modified-since", date), ("if-none-match", "\"other\"")];
    assert_eq!(
        server.get("/style.css", &other).await.status,
        200,
        "the tag wins"
    );
}

#[tokio::test]
async fn one_range_is_cut_out() {
    let site = site();
    let server = start(site.path()).await;
    let part = server
        .get("/with%20space.txt", &[("range", "bytes=2-4")])
        .await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let beyond = server
        .get("/with%20space.txt", &[("range", "bytes=10-")])
        .await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some("bytes */10"))
    );
    let stale = [("range", "bytes=2-4"), ("if-range", "\"other\"")];
    assert_eq!(
        server.get("/with%20space.txt", &stale).await.body,
        b"0123456789"
    );
}

#[tokio::test]
async fn a_head_request_gets_the_same_head_and_other_methods_are_refused() {
    let site = site();
    let server = start(site.path()).await;
    let head = server.send("HEAD", "/", &[]).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("13"))
    );
    assert!(head.body.is_empty());
    let post = server.send("POST", "/", &[("content-length", "0")]).await;
    assert_eq!(
        (post.status, post.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[tokio::test]
async fn a_compressed_sibling_is_sent_to_those_who_accept_it() {
    let site = site();
    fs::write(site.path().join("style.css.gz"), "packed").unwrap();
    let server = start(site.path()).await;
    let packed = server
        .get("/style.css", &[("accept-encoding", "br, gzip;q=0.5")])
        .await;
    assert_eq!(packed.body, b"packed");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(
        packed.header("content-type"),
        Some("text/css; charset=utf-8")
    );
    let plain = server
        .get("/style.css", &[("accept-encoding", "gzip;q=0")])
        .await;
    assert_eq!(plain.body, b"body{}");
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    assert_ne!(plain.header("etag"), packed.header("etag"));
}

#[tokio::test]
async fn a_file_larger_than_one_chunk_arrives_whole() {
    let site = site();
    let content: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    fs::write(site.path().join("big.bin"), &content).unwrap();
    let server = start(site.path()).await;
    assert!(server.get("/big.bin", &[]).await.body == content);
    let tail = server.get("/big.bin", &[("range", "bytes=-100000")]).await;
    assert!(tail.body == content[900_000..]);
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_the_server() {
    let site = site();
    let mut server = start(site.path()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut start_of_answer = [0; 12];
    idle.read_exact(&mut start_of_answer).await.unwrap();
    assert_eq!(&start_of_answer, b"HTTP/1.1 200");
    server.stop.send(()).unwrap();
    server.tasks.join_next().await.unwrap().unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"<h1>home</h1>"));
}
