//! Commands beside the app, and files in and out.

use crate::guest::{Guest, boot_request, within};
use roost_agent::proto::exec_input::Input;
use roost_agent::proto::exec_output::Output;
use roost_agent::proto::{
    ExecExit, ExecInput, ExecStart, ReadFileRequest, ShutdownRequest, TerminalSize, WriteFilePart,
    WriteFileStart, write_file_part,
};
use tokio_stream::Stream;

/// Runs a command to its end.
pub(crate) async fn exec(
    guest: &mut Guest,
    start: ExecStart,
    more: Vec<Input>,
) -> (String, ExecExit) {
    let outputs = guest.agent.exec(inputs(start, more)).await.unwrap();
    let mut outputs = outputs.into_inner();
    let mut text = Vec::new();
    loop {
        match outputs.message().await.unwrap().unwrap().output.unwrap() {
            Output::Stdout(data) | Output::Stderr(data) => text.extend_from_slice(&data),
            Output::Exit(exit) => return (String::from_utf8_lossy(&text).into_owned(), exit),
        }
    }
}

pub(crate) fn inputs(
    start: ExecStart,
    more: Vec<Input>,
) -> impl Stream<Item = ExecInput> + Send + 'static {
    let inputs = std::iter::once(Input::Start(start)).chain(more);
    tokio_stream::iter(
        inputs
            .map(|input| ExecInput { input: Some(input) })
            .collect::<Vec<_>>(),
    )
}

pub(crate) fn shell(script: &str) -> ExecStart {
    ExecStart {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecStart::default()
    }
}

#[tokio::test]
async fn commands_run_beside_the_app_with_and_without_a_terminal() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    within(guest.agent.boot(boot_request(&["sleep", "100000"])))
        .await
        .unwrap();

    let input = vec![Input::Stdin("typed\n".into()), Input::StdinClosed(true)];
    let (text, exit) = within(exec(&mut guest, shell("tr a-z A-Z; exit 3"), input)).await;
    assert_eq!((text.as_str(), exit.exit_code), ("TYPED\n", 3));

    // Much more than all buffers together, both ways.
    let block = vec![b'x'; 60_000];
    let mut input: Vec<_> = (0..40)
        .map(|_| Input::Stdin(block.clone().into()))
        .collect();
    input.push(Input::StdinClosed(true));
    let (text, _) = within(exec(&mut guest, shell("cat"), input)).await;
    assert_eq!(text.len(), 40 * block.len());

    let mut start = shell("stty size; tty; read line; echo got $line; sleep 1000");
    start.terminal = Some(TerminalSize {
        rows: 33,
        columns: 101,
    });
    start.timeout_ms = 3_000;
    let input = vec![Input::Stdin("typed\r".into())];
    let (text, exit) = within(exec(&mut guest, start, input)).await;
    // What was typed is echoed between any two of these.
    assert!(
        text.contains("33 101\r\n") && text.contains("/dev/pts/0\r\n"),
        "{text}"
    );
    assert!(
        text.contains("got typed\r\n") && exit.timed_out && exit.signal == 9,
        "{text} {exit:?}"
    );

    let start = shell("trap 'exit 5' USR1; kill -0 $$; echo ready; while :; do usleep 10000; done");
    // It passes input that the command does not read.
    let mut input = vec![Input::Stdin(block.clone().into()); 4];
    input.push(Input::Signal(10));
    let (_, exit) = within(exec(&mut guest, start, input)).await;
    assert!(exit.exit_code == 5 || exit.signal == 10, "{exit:?}");

    let mut start = shell("sleep 1000 & sleep 1000");
    start.timeout_ms = 1;
    let (_, exit) = within(exec(&mut guest, start, vec![])).await;
    assert!(exit.timed_out);
    let count = shell("ps | grep -c '[s]leep 1000$' ; true");
    let (text, _) = within(exec(&mut guest, count, vec![])).await;
    assert_eq!(text, "0\n", "what a time-out ends is the whole group");

    copies(&mut guest).await;
    let request = ShutdownRequest {
        signal: 9,
        timeout_ms: 1000,
    };
    within(guest.agent.shutdown(request)).await.unwrap();
    guest.ended().await;
}

async fn copies(guest: &mut Guest) {
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let start = WriteFileStart {
        path: "/tmp-file".to_owned(),
        mode: 0o600,
    };
    let parts: Vec<_> = std::iter::once(write_file_part::Part::Start(start))
        .chain(
            data.chunks(60_000)
                .map(|part| write_file_part::Part::Data(part.to_vec().into())),
        )
        .map(|part| WriteFilePart { part: Some(part) })
        .collect();
    let written = within(guest.agent.write_file(tokio_stream::iter(parts)))
        .await
        .unwrap();
    assert_eq!(written.into_inner().bytes, data.len() as u64);
    let request = ReadFileRequest {
        path: "/tmp-file".to_owned(),
    };
    let mut parts = within(guest.agent.read_file(request))
        .await
        .unwrap()
        .into_inner();
    let first = within(parts.message()).await.unwrap().unwrap();
    assert_eq!((first.mode, first.size), (0o600, data.len() as u64));
    let mut received = Vec::new();
    while let Some(part) = within(parts.message()).await.unwrap() {
        received.extend_from_slice(&part.data);
    }
    assert!(
        received == data,
        "{} bytes came back, and not the same",
        received.len()
    );
}
