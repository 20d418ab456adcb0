//! The first process of a guest, in a guest: emulated, with Debian's kernel.
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod guest;

use guest::{Guest, boot_request, within};
use roost_agent::proto::exec_output::Output as ExecEvent;
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{
    AppExit, ExecExit, ExecInput, ExecStart, HelloRequest, ShutdownRequest, WatchRequest,
    exec_input,
};

/// Watches to the end of the app; returns what it wrote and how it ended.
async fn watch_to_end(guest: &mut Guest) -> (String, AppExit) {
    let mut events = guest
        .agent
        .watch(WatchRequest { from_sequence: 1 })
        .await
        .unwrap()
        .into_inner();
    let mut text = Vec::new();
    loop {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Output(output) => text.extend_from_slice(&output.data),
            Event::Exit(exit) => return (String::from_utf8_lossy(&text).into_owned(), exit),
            Event::LostBytes(lost) => panic!("{lost} bytes were lost"),
        }
    }
}

/// Runs a command to its end.
async fn exec(
    guest: &mut Guest,
    start: ExecStart,
    more: Vec<exec_input::Input>,
) -> (String, ExecExit) {
    let inputs: Vec<_> = std::iter::once(exec_input::Input::Start(start))
        .chain(more)
        .map(|input| ExecInput { input: Some(input) })
        .collect();
    let mut outputs = guest
        .agent
        .exec(tokio_stream::iter(inputs))
        .await
        .unwrap()
        .into_inner();
    let mut text = Vec::new();
    loop {
        match outputs.message().await.unwrap().unwrap().output.unwrap() {
            ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => text.extend_from_slice(&data),
            ExecEvent::Exit(exit) => return (String::from_utf8_lossy(&text).into_owned(), exit),
        }
    }
}

fn shell(script: &str) -> ExecStart {
    ExecStart {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecStart::default()
    }
}

#[tokio::test]
async fn an_app_runs_in_a_guest_until_it_is_stopped() {
    let Some(mut guest) = within(Guest::start()).await else {
        return;
    };
    let hello = within(guest.agent.hello(HelloRequest {})).await.unwrap();
    println!("hello: {hello:?}");
    let script =
        "trap 'echo stopping; exit 7' TERM; echo up $(hostname); while :; do sleep 1; done";
    let request = boot_request(&["sh", "-c", script]);
    let booted = within(guest.agent.boot(request))
        .await
        .unwrap()
        .into_inner();
    println!("booted: {booted:?}");
    let (text, exit) = within(exec(
        &mut guest,
        shell("date +%Y; uname -r; mount; ps; exit 3"),
        vec![],
    ))
    .await;
    println!("{text}");
    assert_eq!(exit.exit_code, 3);
    let shutdown = guest.agent.clone();
    let request = ShutdownRequest {
        signal: 15,
        timeout_ms: 20_000,
    };
    let stop = async {
        let mut agent = shutdown;
        agent.shutdown(request).await.unwrap();
    };
    let ((text, exit), ()) = within(async { tokio::join!(watch_to_end(&mut guest), stop) }).await;
    assert_eq!(text, "started sh\nup mch-1\nstopping\n");
    assert_eq!((exit.exit_code, exit.requested), (7, true));
    guest.ended().await;
    println!("{}", guest.console());
    assert!(!guest.console().contains("s3cr3t"));
}
