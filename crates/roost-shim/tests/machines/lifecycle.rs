//! How machines end, and what outlives what.

use crate::host::{Host, PATIENCE, until};
use roost_host::driver::{Adoption, DriverError, MachineDriver as _, Running};
use roost_proto::logs::LogStream;
use roost_proto::shim::lock_path;
use roost_proto::worker::ExecCommand;
use roost_testkit::logs::lines;
use std::time::Duration;

with_both_runtimes!(
    exit_codes_and_signals_are_reported,
    a_signal_reaches_the_first_process,
    a_machine_outlives_its_driver_and_keeps_its_log,
    an_end_that_nobody_watched_is_known_later,
    nothing_is_left_when_the_shim_was_killed,
    nothing_is_left_when_the_shim_was_killed_and_somebody_waits,
    output_without_a_line_end_is_kept,
    commands_have_input_output_and_an_exit_code,
    a_command_ends_when_its_time_is_up,
    a_missing_command_is_refused_by_name,
    long_output_of_a_command_is_cut,
    listening_sockets_are_listed_with_their_process,
    processes_are_listed_as_the_machine_sees_them,
    a_machine_that_is_not_there_does_not_run,
    a_launch_that_is_given_up_at_any_time_leaves_nothing,
    machines_start_side_by_side,
);

async fn exit_codes_and_signals_are_reported(host: &Host) {
    let (exit, _) = host.run(host.machine("exit 7")).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (7, None, false)
    );
    let config = host.machine("sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    host.driver.signal(&id, 9).await.unwrap();
    let exit = host.wait(&id).await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    assert_eq!(host.wait(&id).await, exit, "may be asked again");
    host.remove(&id).await;
}

async fn a_signal_reaches_the_first_process(host: &Host) {
    let config =
        host.machine("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    host.driver.launch(config).await.unwrap();
    until("it is ready", || {
        !lines(&log_dir, LogStream::Stdout).is_empty()
    })
    .await;
    host.driver.signal(&id, 15).await.unwrap();
    assert_eq!(host.wait(&id).await.exit_code, 3);
    assert_eq!(lines(&log_dir, LogStream::Stdout), ["ready", "bye"]);
    let said = lines(&log_dir, LogStream::System).join("\n");
    assert!(
        said.contains("started") && said.contains("exited with code 3"),
        "{said}"
    );
    assert!(matches!(
        host.driver.signal(&id, 15).await,
        Err(DriverError::NotRunning(_))
    ));
    assert!(matches!(
        host.driver.signal(&id, 900).await,
        Err(DriverError::Refused(_))
    ));
}

async fn a_machine_outlives_its_driver_and_keeps_its_log(host: &Host) {
    let config =
        host.machine("i=0; while :; do i=$((i+1)); echo line $i; echo err >&2; sleep 0.05; done");
    let (id, log_dir) = (config.machine_id.clone(), config.log_dir.clone());
    let first = host.new_driver();
    let running = first.launch(config).await.unwrap();
    drop(first);
    let before = lines(&log_dir, LogStream::Stdout).len();
    until("more is logged", || {
        lines(&log_dir, LogStream::Stdout).len() > before + 3
    })
    .await;
    let second = host.new_driver();
    let pid = running.pid;
    assert_eq!(second.adopt(&id).await.unwrap(), Adoption::Running { pid });
    let all = lines(&log_dir, LogStream::Stdout);
    let expected: Vec<String> = (1..=all.len()).map(|i| format!("line {i}")).collect();
    assert_eq!(all, expected, "no line is lost");
    assert!(!lines(&log_dir, LogStream::Stderr).is_empty());
    host.remove(&id).await;
}

async fn an_end_that_nobody_watched_is_known_later(host: &Host) {
    let config = host.machine("exit 5");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let path = roost_proto::shim::exit_path(&host.run_dir(&id));
    until("it has ended", || path.exists()).await;
    match host.new_driver().adopt(&id).await.unwrap() {
        Adoption::Exited(exit) => assert_eq!(exit.exit_code, 5),
        other => panic!("{other:?}"),
    }
    host.remove(&id).await;
}

fn kill_shim(host: &Host, id: &roost_model::id::MachineId) {
    let pid = std::fs::read_to_string(lock_path(&host.run_dir(id))).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn nothing_is_left_when_the_shim_was_killed(host: &Host) {
    let config = host.machine("sleep 600 & sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    kill_shim(host, &id);
    assert_eq!(host.new_driver().adopt(&id).await.unwrap(), Adoption::Gone);
    assert!(host.cgroup(&id).pids().is_empty());
    assert!(!host.driver.list().await.unwrap().contains(&id));
    host.remove(&id).await;
}

async fn nothing_is_left_when_the_shim_was_killed_and_somebody_waits(host: &Host) {
    let config = host.machine("sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config.clone()).await.unwrap();
    let (exit, ()) = tokio::join!(host.wait(&id), async { kill_shim(host, &id) });
    assert_eq!(exit.signal, Some(9));
    // And it can be started again.
    host.driver.launch(config).await.unwrap();
    host.remove(&id).await;
}

async fn output_without_a_line_end_is_kept(host: &Host) {
    let config = host.machine("echo -n half; (sleep 0.1; echo -n s) & wait; echo -n oops >&2");
    let log_dir = config.log_dir.clone();
    let (_, output) = host.run(config).await;
    assert_eq!(output, "halfs");
    assert_eq!(lines(&log_dir, LogStream::Stderr), ["oops"]);
}

async fn commands_have_input_output_and_an_exit_code(host: &Host) {
    let mut config = host.machine("sleep 600");
    config.process.user = "app".to_owned();
    config.process.workdir = "/data".to_owned();
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let command = ExecCommand {
        command: [
            "sh",
            "-c",
            "cat; pwd; id -un; echo $COLOUR; ps | grep -c 'sleep 600'; echo bad >&2; exit 4",
        ]
        .map(str::to_owned)
        .to_vec(),
        stdin: b"from outside\n".to_vec(),
        timeout: PATIENCE,
    };
    let outcome = host.driver.exec(&id, command).await.unwrap();
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(
        text.starts_with("from outside\n/data\napp\nblue\n"),
        "{text}"
    );
    assert_eq!(
        (outcome.exit_code, outcome.stderr.as_slice()),
        (4, b"bad\n".as_slice())
    );
    let killed = host.exec(&id, "kill -9 $$").await;
    assert_eq!(killed.exit_code, 137);
    host.remove(&id).await;
}

async fn a_command_ends_when_its_time_is_up(host: &Host) {
    let config = host.machine("sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let mut timeout = Duration::from_millis(300);
    let outcome = loop {
        let command = ExecCommand {
            command: ["sh", "-c", "echo begun; sleep 321 & sleep 321"]
                .map(str::to_owned)
                .to_vec(),
            stdin: Vec::new(),
            timeout,
        };
        let outcome = host.driver.exec(&id, command).await.unwrap();
        // On a busy host its time may be up before it has begun.
        if !outcome.stdout.is_empty() || timeout > PATIENCE {
            break outcome;
        }
        timeout *= 4;
    };
    assert_eq!(
        (outcome.exit_code, outcome.stdout.as_slice()),
        (137, b"begun\n".as_slice())
    );
    assert!(
        String::from_utf8(outcome.stderr)
            .unwrap()
            .contains("its time")
    );
    let left = host.exec(&id, "ps | grep -c '[s]leep 321'").await;
    assert_eq!(
        left.stdout, b"0\n",
        "what the command left behind was killed"
    );
    host.remove(&id).await;
}

async fn a_missing_command_is_refused_by_name(host: &Host) {
    let config = host.machine("sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let command = ExecCommand {
        command: vec!["nope".to_owned()],
        stdin: Vec::new(),
        timeout: PATIENCE,
    };
    match host.driver.exec(&id, command).await {
        Err(DriverError::Refused(message)) => assert!(message.contains("`nope`"), "{message}"),
        other => panic!("{other:?}"),
    }
    host.remove(&id).await;
}

async fn long_output_of_a_command_is_cut(host: &Host) {
    let config = host.machine("sleep 600");
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let outcome = host.exec(&id, "yes | head -c 5000000; echo done >&2").await;
    assert!(outcome.truncated);
    assert_eq!(
        outcome.stdout.len(),
        roost_model::limits::EXEC_OUTPUT_BYTES_MAX
    );
    assert_eq!(outcome.stderr, b"done\n");
    host.remove(&id).await;
}

async fn listening_sockets_are_listed_with_their_process(host: &Host) {
    let mut config = host.machine("exec nc -l -p 80");
    // Without being root, too.
    config.process.user = "app".to_owned();
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let sockets = loop {
        let sockets = host.driver.listening_sockets(&id).await.unwrap();
        if !sockets.is_empty() || std::time::Instant::now() > deadline {
            break sockets;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        (
            sockets[0].address.port(),
            sockets[0].address.ip().is_unspecified()
        ),
        (80, true)
    );
    assert_eq!(sockets[0].process.as_deref(), Some("nc"));
    host.remove(&id).await;
}

async fn processes_are_listed_as_the_machine_sees_them(host: &Host) {
    let mut config = host.machine("cd /tmp; sleep 601 & nc -l -p 80");
    config.process.user = "app".to_owned();
    let id = config.machine_id.clone();
    host.driver.launch(config).await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let processes = loop {
        let processes = host.driver.processes(&id).await.unwrap();
        let listens = processes.iter().any(|one| !one.listening.is_empty());
        // The other one may still be the shell that becomes it.
        let sleeps = processes.iter().any(|one| one.command == "sleep 601");
        if (listens && sleeps) || std::time::Instant::now() > deadline {
            break processes;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let of = |command: &str| {
        let found = processes.iter().find(|one| one.command == command);
        found.unwrap_or_else(|| panic!("{command} in {processes:#?}"))
    };
    assert_eq!(processes[0].pid, 1);
    assert!(of("sleep 601").listening.is_empty());
    assert_eq!(of("sleep 601").directory.as_deref(), Some("/tmp"));
    let server = of("nc -l -p 80");
    assert_eq!(server.listening[0].address.port(), 80);
    assert!(server.memory > 0 && server.age < PATIENCE);
    host.remove(&id).await;
    let gone = host.driver.processes(&id).await;
    assert!(matches!(gone, Err(DriverError::NotRunning(_))));
}

async fn a_machine_that_is_not_there_does_not_run(host: &Host) {
    let id = host.machine("").machine_id;
    assert_eq!(host.driver.adopt(&id).await.unwrap(), Adoption::Gone);
    assert!(matches!(
        host.driver.wait_exit(&id).await,
        Err(DriverError::NotRunning(_))
    ));
    assert!(matches!(
        host.driver.signal(&id, 15).await,
        Err(DriverError::NotRunning(_))
    ));
    assert!(matches!(
        host.driver.listening_sockets(&id).await,
        Err(DriverError::NotRunning(_))
    ));
    host.remove(&id).await;
}

async fn a_launch_that_is_given_up_at_any_time_leaves_nothing(host: &Host) {
    for wait_ms in (0..100).step_by(9) {
        let config = host.machine("sleep 600");
        let id = config.machine_id.clone();
        let driver = host.new_driver();
        // As if roostd had been killed then.
        let launched =
            tokio::time::timeout(Duration::from_millis(wait_ms), driver.launch(config)).await;
        let adopted = host.new_driver().adopt(&id).await.unwrap();
        match launched {
            Ok(Ok(Running { pid, .. })) => assert_eq!(adopted, Adoption::Running { pid }),
            // Given up while the shim was already past its last question.
            Err(_) if matches!(adopted, Adoption::Running { .. }) => {}
            _ => assert_eq!(adopted, Adoption::Gone, "after {wait_ms} ms"),
        }
        host.remove(&id).await;
    }
}

async fn machines_start_side_by_side(host: &Host) {
    let configs: Vec<_> = (0..8)
        .map(|_| host.machine("echo $COLOUR; exit 2"))
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for config in configs.clone() {
        let driver = host.new_driver();
        tasks.spawn(async move {
            let id = config.machine_id.clone();
            driver.launch(config).await.unwrap();
            driver.wait_exit(&id).await.unwrap().exit_code
        });
    }
    assert_eq!(tasks.join_all().await, [2; 8]);
    for config in configs {
        assert_eq!(lines(&config.log_dir, LogStream::Stdout), ["blue"]);
        host.remove(&config.machine_id).await;
    }
}
