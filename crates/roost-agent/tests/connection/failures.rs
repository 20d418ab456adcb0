//! Guests that lie and hosts that die.

use roost_agent::guest;
use roost_agent::session::{Decoder, Encoder, Event, Fault, SessionId, answer, flush, preamble};

use super::*;

fn quick() -> ConnectOptions {
    ConnectOptions {
        answer_within: Duration::from_millis(300),
        ..ConnectOptions::default()
    }
}

fn id(byte: u8) -> SessionId {
    SessionId::new([byte; 16]).unwrap()
}

fn frames(id: SessionId, payload: &[u8]) -> bytes::BytesMut {
    let mut out = bytes::BytesMut::new();
    Encoder::new(id).data(payload, &mut out);
    out
}

/// Reads the host's preamble, as a guest that is not ours.
async fn greeted(stream: &mut UnixStream) -> SessionId {
    let mut decoder = Decoder::guest();
    let mut buffer = [0; 4096];
    loop {
        let n_bytes = within(stream.read(&mut buffer)).await.unwrap();
        decoder.feed(&buffer[..n_bytes]);
        if let Some(Event::Opened(id)) = decoder.next_event() {
            return id;
        }
    }
}

/// Connects to a guest that answers the preamble and is then in the test's hands.
async fn connect_to_liar(
    tasks: &mut JoinSet<()>,
    options: &ConnectOptions,
) -> (AgentClient<Channel>, host::Closed, UnixStream, SessionId) {
    let (host, mut guest) = UnixStream::pair().unwrap();
    let answering = async {
        let id = greeted(&mut guest).await;
        guest.write_all(&answer(id)).await.unwrap();
        id
    };
    let (connection, id) = tokio::join!(host::connect(host, options), answering);
    let connection = connection.unwrap();
    tasks.spawn(async move {
        connection.driver.await;
    });
    (
        host::client(connection.channel),
        connection.closed,
        guest,
        id,
    )
}

async fn hello_fails(client: &mut AgentClient<Channel>) {
    let error = within(client.hello(HelloRequest {})).await.unwrap_err();
    assert!(
        matches!(
            error.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_guest_that_says_nothing_is_given_up() {
    let (host, _guest) = UnixStream::pair().unwrap();
    let error = within(host::connect(host, &quick())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Silent(_)), "{error}");
    // One that reads nothing either.
    let (host, _guest) = tokio::io::duplex(1);
    let error = within(host::connect(host, &quick())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Silent(_)), "{error}");
}

/// All that the host repeated while the guest booted reaches it at once.
#[tokio::test]
async fn a_guest_that_answers_late_is_waited_for() {
    let mut tasks = JoinSet::new();
    let (host, guest) = UnixStream::pair().unwrap();
    let mut guests = JoinSet::new();
    let boot = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        TestAgent::default().serve(&mut guests, guest, StreamKind::Device);
    };
    let ((mut client, mut closed), ()) = tokio::join!(connect(&mut tasks, host), boot);
    for _ in 0..3 {
        within(client.hello(HelloRequest {})).await.unwrap();
    }
    tokio::time::timeout(Duration::from_millis(100), closed.wait())
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_guest_that_floods_garbage_is_given_up() {
    let mut tasks = JoinSet::new();
    let (host, mut guest) = UnixStream::pair().unwrap();
    tasks.spawn(async move {
        let garbage: Vec<u8> = frames(id(1), &bytes_of(65_536)).to_vec();
        while guest.write_all(&garbage).await.is_ok() {}
    });
    let options = ConnectOptions::default();
    let connecting = host::connect(host, &options);
    let error = within(connecting).await.err().unwrap();
    assert!(matches!(error, ConnectError::Garbage(_)), "{error}");
}

#[tokio::test]
async fn a_guest_that_is_gone_is_noticed() {
    let (host, guest) = UnixStream::pair().unwrap();
    drop(guest);
    let options = ConnectOptions::default();
    let connecting = host::connect(host, &options);
    let error = within(connecting).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::StreamEnded | ConnectError::Stream(_)),
        "{error}"
    );
}

#[tokio::test]
async fn a_guest_that_answers_for_another_session_is_not_believed() {
    let (host, mut guest) = UnixStream::pair().unwrap();
    guest.write_all(&answer(id(1)).repeat(9)).await.unwrap();
    let error = within(host::connect(host, &quick())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Silent(_)), "{error}");
}

#[tokio::test]
async fn a_frame_of_impossible_length_ends_the_connection() {
    let mut tasks = JoinSet::new();
    let (mut client, mut closed, mut guest, id) =
        connect_to_liar(&mut tasks, &ConnectOptions::default()).await;
    let mut frame = frames(id, b"x");
    frame[5..8].copy_from_slice(&[0xFF; 3]);
    guest.write_all(&frame).await.unwrap();
    assert_eq!(
        within(closed.wait()).await,
        SessionEnd::Broken(Fault::Header)
    );
    hello_fails(&mut client).await;
}

#[tokio::test]
async fn endless_frames_of_no_http_end_the_connection() {
    let mut tasks = JoinSet::new();
    let (mut client, mut closed, mut guest, id) =
        connect_to_liar(&mut tasks, &ConnectOptions::default()).await;
    tasks.spawn(async move {
        let mut encoder = Encoder::new(id);
        loop {
            let mut out = bytes::BytesMut::new();
            encoder.data(&bytes_of(65_536), &mut out);
            if guest.write_all(&out).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(within(closed.wait()).await, SessionEnd::ClosedHere);
    hello_fails(&mut client).await;
}

#[tokio::test]
async fn a_guest_that_hangs_is_noticed_by_its_pings() {
    let mut tasks = JoinSet::new();
    let options = ConnectOptions {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(200),
        ..ConnectOptions::default()
    };
    let (mut client, mut closed, _guest, _) = connect_to_liar(&mut tasks, &options).await;
    hello_fails(&mut client).await;
    assert_eq!(within(closed.wait()).await, SessionEnd::ClosedHere);
}

#[tokio::test]
async fn a_guest_that_dies_in_a_call_fails_the_call() {
    let mut tasks = JoinSet::new();
    let (mut client, mut closed, guest, _) =
        connect_to_liar(&mut tasks, &ConnectOptions::default()).await;
    let call = client.hello(HelloRequest {});
    let dying = async {
        tokio::task::yield_now().await;
        drop(guest);
    };
    let (reply, ()) = within(async { tokio::join!(call, dying) }).await;
    reply.unwrap_err();
    let end = within(closed.wait()).await;
    assert!(
        matches!(end, SessionEnd::StreamEnded | SessionEnd::StreamFailed(_)),
        "{end}"
    );
}

/// What the guest of an older session said is delivered to the next host, and
/// what the older host half said precedes what the next one says.
#[tokio::test]
async fn a_new_host_is_served_on_the_port_of_a_dead_one() {
    let mut tasks = JoinSet::new();
    let agent = TestAgent::default();
    let (port, guest) = Port::new();
    agent.serve(&mut tasks, guest, StreamKind::Device);

    let mut half_said = flush()[..99].to_vec();
    half_said.extend(&preamble(id(1))[..17]);
    let long = frames(id(2), &bytes_of(30_000));
    let leftovers: [&[u8]; 5] = [
        b"",
        &preamble(id(1))[..17],
        &half_said,
        &[&preamble(id(2))[..], &long[..10_000]].concat(),
        &[&preamble(id(2))[..], &long, &preamble(id(3))].concat(),
    ];
    for left in leftovers {
        let mut drivers = JoinSet::new();
        let (mut client, mut closed) = connect(&mut drivers, port.connect()).await;
        within(client.hello(HelloRequest {})).await.unwrap();
        let (_inputs, mut outputs) = exec(&mut client, "yes").await.unwrap();
        within(outputs.message()).await.unwrap().unwrap();
        until(|| agent.n_commands.load(Ordering::SeqCst) == 1).await;
        // The process dies: nobody moves bytes any more, none is taken back.
        drivers.shutdown().await;
        assert_eq!(within(closed.wait()).await, SessionEnd::ClosedHere);
        let mut dying = port.connect();
        let writing = dying.write_all(left);
        let draining = drain(&port);
        within(async {
            tokio::select! {
                result = writing => result.unwrap(),
                () = draining => unreachable!("drains for ever"),
            }
        })
        .await;
    }
    let (mut client, _) = connect(&mut tasks, port.connect()).await;
    echo(&mut client, &bytes_of(200_000)).await;
    until(|| agent.n_commands.load(Ordering::SeqCst) == 0).await;
}

/// Takes a little of what the guest says, now and then, as a host does that is
/// about to die.
async fn drain(port: &Port) {
    let mut port = port.connect();
    loop {
        let mut some = [0; 100];
        port.read_exact(&mut some).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_new_session_ends_the_old_one_with_an_error() {
    let mut tasks = JoinSet::new();
    let (mut host, guest) = UnixStream::pair().unwrap();
    let (acceptor, mut sessions) = guest::sessions();
    tasks.spawn(async move {
        acceptor.run(guest, StreamKind::Device).await;
    });
    host.write_all(&preamble(id(1))).await.unwrap();
    host.write_all(&frames(id(1), b"whole")).await.unwrap();
    host.write_all(&frames(id(1), b"half")[..22]).await.unwrap();
    host.write_all(flush()).await.unwrap();
    host.write_all(&preamble(id(2))).await.unwrap();
    host.write_all(&frames(id(2), b"other")).await.unwrap();

    let mut old = within(sessions.next()).await.unwrap();
    let mut new = within(sessions.next()).await.unwrap();
    let mut buffer = [0; 5];
    within(new.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"other");
    let mut rest = Vec::new();
    let error = within(old.read_to_end(&mut rest)).await.unwrap_err();
    assert_eq!(rest, b"whole");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    within(old.write_all(&[0; 1000])).await.unwrap_err();
}

#[tokio::test]
async fn a_session_that_cannot_be_accepted_is_not_answered() {
    let mut tasks = JoinSet::new();
    let (mut host, guest) = UnixStream::pair().unwrap();
    let (acceptor, mut sessions) = guest::sessions();
    tasks.spawn(async move {
        acceptor.run(guest, StreamKind::Device).await;
    });
    let n_places = u8::try_from(roost_agent::limits::PENDING_SESSIONS_MAX).unwrap();
    for byte in 1..=n_places {
        host.write_all(&preamble(id(byte))).await.unwrap();
        let mut answered = [0; 32];
        within(host.read_exact(&mut answered)).await.unwrap();
    }
    // Not now; as soon as there is room, since a host repeats itself.
    let options = ConnectOptions::default();
    let connecting = host::connect(host, &options);
    let accepting = async {
        for _ in 1..=n_places {
            tokio::time::sleep(Duration::from_millis(30)).await;
            within(sessions.next()).await.unwrap();
        }
        within(sessions.next()).await.unwrap()
    };
    let (connection, _session) = within(async { tokio::join!(connecting, accepting) }).await;
    connection.unwrap();
}

/// A stream that is damaged once, and a device that has no peer at first.
mod damage {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// Changes, drops or doubles one byte of what is read.
    struct Damaged<S> {
        stream: S,
        /// Bytes until the damage.
        left: usize,
        how: fn(u8) -> Vec<u8>,
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Damaged<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            loop {
                let mut byte = [0];
                // One by one up to the damage, which is slow and exact.
                let mut one = ReadBuf::new(&mut byte);
                if self.left == 0 {
                    return Pin::new(&mut self.stream).poll_read(context, buffer);
                }
                std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut one))?;
                if one.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.left -= 1;
                let damaged = if self.left == 0 {
                    (self.how)(byte[0])
                } else {
                    byte.to_vec()
                };
                if !damaged.is_empty() {
                    buffer.put_slice(&damaged);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Damaged<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    #[tokio::test]
    async fn a_damaged_byte_ends_the_session_and_the_next_one_works() {
        let ways: [fn(u8) -> Vec<u8>; 3] = [|byte| vec![!byte], |_| vec![], |byte| vec![byte, 9]];
        for how in ways {
            for left in [33, 36, 50, 60, 40_000, 100_000] {
                let mut tasks = JoinSet::new();
                let (port, guest) = Port::new();
                TestAgent::default().serve(&mut tasks, guest, StreamKind::Device);
                let stream = Damaged {
                    stream: port.connect(),
                    left,
                    how,
                };
                let mut drivers = JoinSet::new();
                let connection = within(host::connect(stream, &ConnectOptions::default())).await;
                if let Ok(connection) = connection {
                    let mut closed = connection.closed.clone();
                    drivers.spawn(async move {
                        connection.driver.await;
                    });
                    let mut client = host::client(connection.channel);
                    if let Ok((_inputs, mut outputs)) = exec(&mut client, "yes").await {
                        while let Ok(Some(_)) = within(outputs.message()).await {}
                    }
                    let end = within(closed.wait()).await;
                    assert!(matches!(end, SessionEnd::Broken(_)), "{end}");
                }
                let (mut client, _) = connect(&mut tasks, port.connect()).await;
                within(client.hello(HelloRequest {})).await.unwrap();
            }
        }
    }

    /// Fails a few times in each direction, as a port does without a host.
    struct NoPeerYet<S> {
        stream: S,
        n_reads: u32,
        n_writes: u32,
    }

    impl<S: AsyncRead + Unpin> AsyncRead for NoPeerYet<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.n_reads += 1;
            match self.n_reads {
                1 => Poll::Ready(Ok(())),
                2 => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                _ => Pin::new(&mut self.stream).poll_read(context, buffer),
            }
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for NoPeerYet<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.n_writes += 1;
            match self.n_writes {
                1 => Poll::Ready(Ok(0)),
                2 => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                _ => Pin::new(&mut self.stream).poll_write(context, bytes),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_device_waits_for_its_peer() {
        let mut tasks = JoinSet::new();
        let (port, stream) = Port::new();
        let device = NoPeerYet {
            stream,
            n_reads: 0,
            n_writes: 0,
        };
        TestAgent::default().serve(&mut tasks, device, StreamKind::Device);
        let (mut client, _) = connect(&mut tasks, port.connect()).await;
        within(client.hello(HelloRequest {})).await.unwrap();
    }
}
