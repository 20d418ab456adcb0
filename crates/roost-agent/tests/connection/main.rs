//! Both ends of the connection together, over streams that fail in every way.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::cast_possible_truncation, reason = "test patterns")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use roost_agent::guest::StreamKind;
use roost_agent::host::{self, Channel, ConnectError, ConnectOptions, Connection};
use roost_agent::proto::agent_client::AgentClient;
use roost_agent::proto::exec_input::Input;
use roost_agent::proto::exec_output::Output;
use roost_agent::proto::{self, HelloRequest};
use roost_agent::session::SessionEnd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use agent::TestAgent;
use port::Port;

mod agent;
mod failures;
mod passthrough;
mod port;

/// Nothing here takes nearly as long.
const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("in time")
}

/// Waits until `claim` holds.
async fn until(claim: impl Fn() -> bool) {
    within(async {
        while !claim() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A connection whose driver runs in `tasks`.
async fn connect<S>(tasks: &mut JoinSet<()>, stream: S) -> (AgentClient<Channel>, host::Closed)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let connection = within(host::connect(stream, &ConnectOptions::default())).await;
    let Connection {
        channel,
        driver,
        closed,
    } = connection.unwrap();
    tasks.spawn(async move {
        driver.await;
    });
    (host::client(channel), closed)
}

fn start(program: &str) -> proto::ExecInput {
    input(Input::Start(proto::ExecStart {
        args: vec![program.to_owned()],
        ..Default::default()
    }))
}

fn input(input: Input) -> proto::ExecInput {
    proto::ExecInput { input: Some(input) }
}

/// A running command: its inputs and its outputs.
async fn exec(
    client: &mut AgentClient<Channel>,
    program: &str,
) -> Result<(mpsc::Sender<proto::ExecInput>, Streaming<proto::ExecOutput>), Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(start(program)).await.unwrap();
    let reply = within(client.exec(ReceiverStream::new(receiver))).await?;
    Ok((sender, reply.into_inner()))
}

/// Sends `bytes` through `cat` and takes them back.
async fn echo(client: &mut AgentClient<Channel>, bytes: &[u8]) {
    let (sender, mut outputs) = exec(client, "cat").await.unwrap();
    let sending = async {
        for piece in bytes.chunks(30_000) {
            let piece = bytes::Bytes::copy_from_slice(piece);
            sender.send(input(Input::Stdin(piece))).await.unwrap();
        }
        sender.send(input(Input::StdinClosed(true))).await.unwrap();
    };
    let mut back = Vec::new();
    let receiving = async {
        loop {
            match outputs.message().await.unwrap().unwrap().output.unwrap() {
                Output::Stdout(bytes) => back.extend_from_slice(&bytes),
                Output::Exit(exit) => return exit.exit_code,
                Output::Stderr(_) => panic!("cat complains"),
            }
        }
    };
    let ((), code) = within(async { tokio::join!(sending, receiving) }).await;
    assert_eq!(code, 7);
    assert!(back == bytes, "other bytes came back");
    assert!(within(outputs.message()).await.unwrap().is_none());
}

fn bytes_of(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[tokio::test]
async fn calls_and_streams_pass_over_a_socket() {
    let mut tasks = JoinSet::new();
    let agent = TestAgent::default();
    let (host, guest) = UnixStream::pair().unwrap();
    agent.serve(&mut tasks, guest, StreamKind::Connection);
    let (mut client, mut closed) = connect(&mut tasks, host).await;

    let hello = within(client.hello(HelloRequest {})).await.unwrap();
    assert_eq!(hello.into_inner().init_version, "test");
    echo(&mut client, &bytes_of(300_000)).await;
    let error = exec(&mut client, "no such program").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    drop(client);
    assert_eq!(within(closed.wait()).await, SessionEnd::ClosedHere);
}

#[tokio::test]
async fn a_boot_request_is_large_and_a_reply_is_not() {
    let mut tasks = JoinSet::new();
    let (host, guest) = UnixStream::pair().unwrap();
    TestAgent::default().serve(&mut tasks, guest, StreamKind::Connection);
    let (mut client, _) = connect(&mut tasks, host).await;
    let request = proto::BootRequest {
        files: vec![proto::GuestFile {
            content: vec![1; 3 * 1024 * 1024].into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let reply = within(client.boot(request)).await.unwrap().into_inner();
    assert_eq!(reply.pid, 3 * 1024 * 1024);
    let request = proto::ListeningSocketsRequest {};
    let error = within(client.listening_sockets(request)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
}
