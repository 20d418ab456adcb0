//! Others on the host use the connection too.

use std::path::PathBuf;

use roost_agent::limits::{
    PASSTHROUGH_CONNECTIONS_MAX, PASSTHROUGH_REQUESTS_MAX, STREAM_WINDOW_BYTES,
};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::*;

/// A guest, its owner, and the socket through which others reach it.
struct House {
    agent: TestAgent,
    socket: PathBuf,
    /// The owner's.
    client: AgentClient<Channel>,
    closed: host::Closed,
    guest: JoinSet<()>,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let agent = TestAgent::default();
        let mut guest_tasks = JoinSet::new();
        let mut tasks = JoinSet::new();
        let (host, guest) = UnixStream::pair().unwrap();
        agent.serve(&mut guest_tasks, guest, StreamKind::Connection);
        let connection = within(host::connect(host, &ConnectOptions::default()))
            .await
            .unwrap();
        tasks.spawn(async move {
            connection.driver.await;
        });
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let channel = connection.channel.clone();
        tasks.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            host::passthrough::serve(listener, channel, stopped).await;
        });
        Self {
            agent,
            socket,
            client: host::client(connection.channel),
            closed: connection.closed,
            guest: guest_tasks,
            stop,
            tasks,
            _folder: folder,
        }
    }

    async fn dial(&self) -> AgentClient<Channel> {
        within(host::dial(&self.socket)).await.unwrap()
    }

    fn n_commands(&self) -> usize {
        self.agent.n_commands.load(Ordering::SeqCst)
    }

    fn n_parts(&self) -> usize {
        self.agent.n_parts.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn calls_streams_and_refusals_pass_through() {
    let mut house = House::new().await;
    let mut client = house.dial().await;
    let hello = within(client.hello(HelloRequest {})).await.unwrap();
    assert_eq!(hello.into_inner().init_version, "test");
    echo(&mut client, &bytes_of(300_000)).await;
    let error = exec(&mut client, "no such program").await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "no such program")
    );
    let request = proto::ListeningSocketsRequest {};
    let error = within(client.listening_sockets(request)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    // The owner's own calls go on beside it.
    echo(&mut house.client, &bytes_of(1000)).await;
}

#[tokio::test]
async fn each_input_is_answered_before_the_next_is_sent() {
    let house = House::new().await;
    let (inputs, mut outputs) = exec(&mut house.dial().await, "cat").await.unwrap();
    for line in ["one", "two", "three"] {
        inputs.send(input(Input::Stdin(line.into()))).await.unwrap();
        let output = within(outputs.message()).await.unwrap().unwrap().output;
        assert_eq!(output, Some(Output::Stdout(line.into())));
    }
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_command() {
    let house = House::new().await;
    let mut client = house.dial().await;
    for program in ["cat", "yes"] {
        let streams = exec(&mut client, program).await.unwrap();
        until(|| house.n_commands() == 1).await;
        drop(streams);
        until(|| house.n_commands() == 0).await;
    }
    // So does one whose process ends.
    let streams = exec(&mut client, "yes").await.unwrap();
    until(|| house.n_commands() == 1).await;
    let mut other = house.dial().await;
    drop((client, streams));
    until(|| house.n_commands() == 0).await;
    within(other.hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_answer_ends_the_command() {
    let house = House::new().await;
    let mut client = house.dial().await;
    tokio::select! {
        _ = exec(&mut client, "brood") => panic!("it never answers"),
        () = until(|| house.n_commands() == 1) => {}
    }
    until(|| house.n_commands() == 0).await;
    within(client.hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_dies_ends_the_call() {
    let mut house = House::new().await;
    let mut client = house.dial().await;
    let (_inputs, mut outputs) = exec(&mut client, "cat").await.unwrap();
    house.guest.shutdown().await;
    let error = within(outputs.message()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert_eq!(within(house.closed.wait()).await, SessionEnd::StreamEnded);
    let error = within(client.hello(HelloRequest {})).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
}

#[tokio::test]
async fn output_that_nobody_reads_holds_the_command_and_nobody_else() {
    let house = House::new().await;
    let mut client = house.dial().await;
    let (_inputs, mut outputs) = exec(&mut client, "yes").await.unwrap();
    // Windows and buffers fill; then the guest makes no more.
    let mut made = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = house.n_parts();
        if now == made {
            break;
        }
        made = now;
    }
    let held = made * 16 * 1024;
    assert!(
        held < 32 * STREAM_WINDOW_BYTES as usize,
        "{held} bytes are held"
    );
    within(client.hello(HelloRequest {})).await.unwrap();
    within(house.dial().await.hello(HelloRequest {}))
        .await
        .unwrap();
    // Read again, it goes on.
    for _ in 0..=made {
        within(outputs.message()).await.unwrap().unwrap();
    }
    until(|| house.n_parts() > made).await;
}

#[tokio::test]
async fn input_that_the_command_does_not_read_holds_the_caller_and_nobody_else() {
    let house = House::new().await;
    let mut client = house.dial().await;
    let (inputs, outputs) = exec(&mut client, "hang").await.unwrap();
    let piece = input(Input::Stdin(vec![1; 16 * 1024].into()));
    let mut n_sent = 0;
    while let Ok(sent) =
        tokio::time::timeout(Duration::from_millis(300), inputs.send(piece.clone())).await
    {
        sent.unwrap();
        n_sent += 1;
        assert!(
            n_sent * 16 * 1024 < 64 * STREAM_WINDOW_BYTES,
            "no end of room"
        );
    }
    within(client.hello(HelloRequest {})).await.unwrap();
    drop((inputs, outputs));
    until(|| house.n_commands() == 0).await;
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_wait() {
    let house = House::new().await;
    let mut callers = Vec::new();
    for _ in 0..PASSTHROUGH_CONNECTIONS_MAX {
        let mut caller = house.dial().await;
        within(caller.hello(HelloRequest {})).await.unwrap();
        callers.push(caller);
    }
    let mut late = house.dial().await;
    let mut call = std::pin::pin!(late.hello(HelloRequest {}));
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut call).await;
    waited.unwrap_err();
    callers.pop();
    within(call).await.unwrap();
}

#[tokio::test]
async fn more_requests_than_there_is_room_for_are_refused() {
    let mut house = House::new().await;
    let mut client = house.dial().await;
    let mut running = Vec::new();
    for _ in 0..PASSTHROUGH_REQUESTS_MAX {
        running.push(exec(&mut client, "yes").await.unwrap());
    }
    let error = exec(&mut client, "cat").await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    within(house.client.hello(HelloRequest {})).await.unwrap();
    running.pop();
    until(|| house.n_commands() < PASSTHROUGH_REQUESTS_MAX).await;
    within(client.hello(HelloRequest {})).await.unwrap();
}

#[tokio::test]
async fn the_socket_is_closed_when_told() {
    let House {
        socket,
        stop,
        mut tasks,
        client,
        _folder,
        ..
    } = House::new().await;
    let mut caller = within(host::dial(&socket)).await.unwrap();
    stop.send(()).unwrap();
    drop(client);
    within(async { while tasks.join_next().await.is_some() {} }).await;
    within(caller.hello(HelloRequest {})).await.unwrap_err();
}
