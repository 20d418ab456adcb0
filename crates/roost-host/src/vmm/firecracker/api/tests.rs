//! The control channel with a server that answers what a test says.

use super::{Api, ApiRequest};
use crate::vmm::VmmError;
use crate::vmm::firecracker::socket::SocketPath;
use roost_runtime::tasks::Tasks;
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// For answers that come.
const LIMIT: Duration = Duration::from_secs(60);

/// Answers each request with these bytes, then closes or falls silent.
struct Server {
    dir: TempDir,
    tasks: Tasks,
}

impl Server {
    fn new(answer: &'static [u8], then_silent: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("fake api", async move {
            let serve = async {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut head = [0; 4_096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(answer).await;
                    if then_silent {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = serve => {}
                () = stop.cancelled() => {}
            }
        });
        Self { dir, tasks }
    }

    async fn ask(self, limit: Duration) -> Result<(), VmmError> {
        let api = Api::new(SocketPath::new(self.dir.path(), "api.sock").unwrap());
        let request = ApiRequest::put("/balloon", json!({ "amount_mib": 0 }));
        let result = api.send(request, limit).await;
        assert!(self.tasks.shutdown(LIMIT).await);
        result
    }
}

#[tokio::test]
async fn an_answer_without_content_is_agreement() {
    let server = Server::new(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\n", true);
    server.ask(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_shown_without_what_could_steer_a_terminal() {
    let answer =
        b"HTTP/1.1 400 \r\nContent-Length: 37\r\n\r\n{\"fault_message\":\"no \\u001b[31mroom\"}";
    let error = Server::new(answer, true).ask(LIMIT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "PUT /balloon of firecracker: no  [31mroom"
    );
    let answer = b"HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\nwhat";
    let error = Server::new(answer, true).ask(LIMIT).await.unwrap_err();
    assert!(matches!(&error, VmmError::Refused { reason, .. } if reason.contains("500")));
}

#[tokio::test]
async fn an_answer_that_is_none_or_too_long_is_an_error() {
    let answers: [&[u8]; 4] = [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 400 \r\nContent-Length: 100000000\r\n\r\n{",
        b"HTTP/1.1 400 \r\nContent-Length: 9\r\n\r\n{",
    ];
    for answer in answers {
        let error = Server::new(answer, false).ask(LIMIT).await.unwrap_err();
        assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn silence_is_not_waited_for_without_a_limit() {
    let limit = Duration::from_millis(50);
    let error = Server::new(b"HTTP/1.1 2", true)
        .ask(limit)
        .await
        .unwrap_err();
    assert!(matches!(error, VmmError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_link_in_the_place_of_the_socket_is_not_followed() {
    let server = Server::new(b"HTTP/1.1 204 \r\n\r\n", false);
    let dir = server.dir.path();
    std::os::unix::fs::symlink(dir.join("api.sock"), dir.join("link.sock")).unwrap();
    let link = SocketPath::new(dir, "link.sock").unwrap();
    let error = link.connect().await.unwrap_err();
    assert!(error.to_string().contains("not a socket"), "{error}");
}
