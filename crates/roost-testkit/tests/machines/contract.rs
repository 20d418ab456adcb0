//! The contract of [`MachineDriver`](roost_host::driver::MachineDriver).
//!
//! Each claim is a function over a host, and a test for every kind of machine.

use crate::host::{Host, PATIENCE, until};
use roost_host::driver::{Adoption, DriverError, LaunchProcess, Origin};
use roost_model::machine::{ExitCause, MachineExit, MachineFile, Rung};
use roost_proto::logs::LogStream;
use roost_proto::worker::ExecCommand;
use roost_testkit::logs::{lines, records};
use roost_testkit::wait::wait_until_async;
use std::time::Duration;

fn exited(exit_code: i32, signal: Option<i32>) -> MachineExit {
    MachineExit {
        exit_code,
        signal,
        oom_killed: false,
        cause: ExitCause::App,
    }
}

async fn output_and_exit_code_arrive(host: &mut Host) {
    let config = host.machine("echo one; echo two >&2; printf three; exit 3");
    let running = host.launch(&config).await;
    assert_eq!(running.origin, Origin::Cold);
    assert_eq!(host.wait(&config.machine_id).await, exited(3, None));
    // As often as one asks.
    assert_eq!(host.wait(&config.machine_id).await, exited(3, None));
    assert_eq!(lines(&config.log_dir, LogStream::Stdout), ["one", "three"]);
    assert_eq!(lines(&config.log_dir, LogStream::Stderr), ["two"]);
    host.remove(&config.machine_id).await;
}

async fn the_program_finds_what_the_config_says(host: &mut Host) {
    let mut config = host.machine(
        "echo $COLOUR; pwd; id -u; id -g; cat /etc/secret; hostname; echo kept > /tmp/mine; \
         grep -c $(hostname) /etc/hosts; ulimit -n; grep -w fly-global-services /etc/hosts",
    );
    config.process.user = "www-data".to_owned();
    config.process.workdir = "/srv/app".to_owned();
    config.files.push(MachineFile {
        guest_path: "/etc/secret".to_owned(),
        content: b"sesame\n".to_vec(),
        mode: 0o444,
    });
    host.launch(&config).await;
    host.wait(&config.machine_id).await;
    let out = lines(&config.log_dir, LogStream::Stdout);
    let err = lines(&config.log_dir, LogStream::Stderr);
    let id = config.machine_id.as_str();
    assert_eq!(
        out[..7],
        ["blue", "/srv/app", "33", "33", "sesame", id, "2"],
        "{err:?}"
    );
    assert!(out[7].parse::<u64>().unwrap() >= 1024, "{out:?}");
    // Where the datagrams of its services come, and no other of its addresses.
    let found: Vec<_> = out[8..]
        .iter()
        .map(|line| line.split('\t').next())
        .collect();
    assert_eq!(found, [Some(config.addresses.ipv4.to_string().as_str())]);
    host.remove(&config.machine_id).await;
}

async fn a_config_that_cannot_work_is_refused_and_says_why(host: &mut Host) {
    let mut config = host.machine("true");
    config.process.user = "nobody-of-this-name".to_owned();
    let refused = host.driver.launch(config.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, DriverError::Refused(why) if why.contains("nobody-of-this-name")),
        "{refused:?}"
    );
    config.process.user = String::new();
    config.process.args = vec!["/bin/no-such-program".to_owned()];
    let refused = host.driver.launch(config.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, DriverError::Refused(why) if why.contains("/bin/no-such-program")),
        "{refused:?}"
    );
    host.remove(&config.machine_id).await;
}

async fn several_programs_run_in_a_vm_and_end_together(host: &mut Host) {
    let mut config = host.machine("echo first; while :; do sleep 1; done");
    let second = LaunchProcess {
        args: host.machine("echo $COLOUR; id -u; exit 7").process.args,
        env: vec![
            ("PATH".to_owned(), "/bin".to_owned()),
            ("COLOUR".to_owned(), "green".to_owned()),
        ],
        workdir: String::new(),
        user: "www-data".to_owned(),
    };
    config.beside = vec![second];
    if host.driver.rung() == Rung::Container {
        let refused = host.driver.launch(config.clone()).await.unwrap_err();
        assert!(
            matches!(&refused, DriverError::Refused(why) if why.contains("isolation vm")),
            "{refused:?}"
        );
        host.remove(&config.machine_id).await;
        return;
    }
    host.launch(&config).await;
    assert_eq!(host.wait(&config.machine_id).await, exited(7, None));
    let records = records(&config.log_dir).into_iter();
    let of_programs = records.filter(|record| record.stream == LogStream::Stdout);
    let mut out: Vec<_> = of_programs
        .map(|record| (record.program, record.message))
        .collect();
    out.sort();
    let expected = [(1, "first"), (2, "33"), (2, "green")];
    assert_eq!(out, expected.map(|(n, line)| (Some(n), line.to_owned())));
    let system = lines(&config.log_dir, LogStream::System).join(" ");
    assert!(
        system.contains("its program 2 was the first to end"),
        "{system}"
    );
    host.remove(&config.machine_id).await;
}

async fn signals_reach_the_program_and_sigkill_ends_all(host: &mut Host) {
    let config =
        host.machine("trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    host.launch(&config).await;
    let is_ready = || lines(&config.log_dir, LogStream::Stdout) == ["ready"];
    until("the program is ready", is_ready).await;
    host.driver.signal(&config.machine_id, 15).await.unwrap();
    assert_eq!(host.wait(&config.machine_id).await, exited(7, None));
    assert_eq!(
        lines(&config.log_dir, LogStream::Stdout),
        ["ready", "asked"]
    );
    let late = host.driver.signal(&config.machine_id, 15).await;
    assert!(matches!(late, Err(DriverError::NotRunning(_))), "{late:?}");

    let config = host.machine("trap '' TERM INT; echo ready; while :; do sleep 1; done");
    host.launch(&config).await;
    until("the program is ready", || {
        lines(&config.log_dir, LogStream::Stdout) == ["ready"]
    })
    .await;
    host.driver.signal(&config.machine_id, 15).await.unwrap();
    host.driver.signal(&config.machine_id, 9).await.unwrap();
    assert_eq!(host.wait(&config.machine_id).await, exited(137, Some(9)));
    host.driver.remove(&config.machine_id).await.unwrap();
}

async fn commands_run_beside_the_program(host: &mut Host) {
    let config = host.machine("while :; do sleep 1; done");
    let id = &config.machine_id;
    host.launch(&config).await;
    let outcome = host.exec(id, "echo out; echo err >&2; exit 5").await;
    assert_eq!(outcome.exit_code, 5);
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(host.ask(id, "echo $COLOUR").await, "blue");

    let command = |words: &[&str], stdin: &[u8], timeout| ExecCommand {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        stdin: stdin.to_vec(),
        timeout,
    };
    let minute = Duration::from_secs(60);
    let input = vec![b'x'; 300_000];
    let echoed = command(&["cat"], &input, minute);
    let echoed = host.driver.exec(id, echoed).await.unwrap();
    assert_eq!(echoed.stdout.len(), input.len());
    assert!(!echoed.truncated);

    let slow = command(&["sleep", "1000"], b"", Duration::from_millis(500));
    let slow = host.driver.exec(id, slow).await.unwrap();
    assert_eq!(slow.exit_code, 137);
    assert!(String::from_utf8_lossy(&slow.stderr).contains("its time"));

    let unknown = command(&["no-such-command"], b"", minute);
    let unknown = host.driver.exec(id, unknown).await;
    assert!(
        matches!(&unknown, Err(DriverError::Refused(why)) if why.contains("no-such-command")),
        "{unknown:?}"
    );
    let stats = host.driver.stats(id).await.unwrap();
    assert!(stats.memory_bytes > 0 && stats.cpu_us > 0, "{stats:?}");
    host.remove(id).await;
    let gone = host.driver.exec(id, command(&["true"], b"", minute)).await;
    assert!(matches!(gone, Err(DriverError::NotRunning(_))), "{gone:?}");
}

async fn machines_are_on_the_network_and_show_their_sockets(host: &mut Host) {
    let config = host.machine("echo page > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
    let id = &config.machine_id;
    host.launch(&config).await;
    let addresses = [
        std::net::SocketAddr::from((config.addresses.ipv4, 8080)),
        std::net::SocketAddr::from((config.addresses.ipv6, 8080)),
    ];
    for address in addresses {
        until("the page is served", || {
            fetch(address).is_ok_and(|page| page.ends_with("page\n"))
        })
        .await;
    }
    let sockets = host.driver.listening_sockets(id).await.unwrap();
    let socket = sockets.iter().find(|socket| socket.address.port() == 8080);
    let socket = socket.unwrap_or_else(|| panic!("{sockets:?}"));
    assert!(socket.protocol.starts_with("tcp"));
    assert_eq!(socket.process.as_deref(), Some("httpd"));
    host.remove(id).await;
    assert!(fetch(addresses[0]).is_err());
}

async fn processes_are_listed_with_what_they_listen_on(host: &mut Host) {
    let config = host.machine("cd /tmp; sleep 601 & exec httpd -f -p 8080");
    let id = &config.machine_id;
    host.launch(&config).await;
    let processes = wait_until_async("both to run and one to listen", PATIENCE, async || {
        let processes = host.driver.processes(id).await.unwrap();
        let listens = processes.iter().any(|one| !one.listening.is_empty());
        let sleeps = processes.iter().any(|one| one.command == "sleep 601");
        if listens && sleeps {
            Ok(processes)
        } else {
            Err(processes)
        }
    })
    .await;
    let commands: Vec<&str> = processes.iter().map(|one| one.command.as_str()).collect();
    assert_eq!(commands.len(), 2, "the app's and no other: {commands:?}");
    let server = processes
        .iter()
        .find(|one| one.command == "httpd -f -p 8080");
    let server = server.unwrap_or_else(|| panic!("{commands:?}"));
    assert_eq!(server.listening[0].address.port(), 8080);
    assert_eq!(server.listening[0].process.as_deref(), Some("httpd"));
    assert_eq!(server.directory.as_deref(), Some("/tmp"));
    assert!(server.memory > 0 && server.pid > 0);
    host.remove(id).await;
    let gone = host.driver.processes(id).await;
    assert!(matches!(gone, Err(DriverError::NotRunning(_))), "{gone:?}");
}

fn fetch(address: std::net::SocketAddr) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let limit = Duration::from_secs(5);
    let mut stream = std::net::TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

async fn a_new_driver_adopts_what_runs(host: &mut Host) {
    let config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    host.launch(&config).await;
    host.restart();
    let adopted = host.driver.adopt(&id).await.unwrap();
    assert!(matches!(adopted, Adoption::Running { .. }), "{adopted:?}");
    assert_eq!(host.ask(&id, "echo there").await, "there");
    host.driver.signal(&id, 9).await.unwrap();
    let exit = host.wait(&id).await;
    host.restart();
    assert_eq!(
        host.driver.adopt(&id).await.unwrap(),
        Adoption::Exited(exit)
    );
    host.remove(&id).await;
    assert_eq!(host.driver.adopt(&id).await.unwrap(), Adoption::Gone);
}

async fn a_killed_shim_takes_its_machine_along(host: &mut Host) {
    let config = host.machine("while :; do sleep 1; done");
    let id = config.machine_id.clone();
    host.launch(&config).await;
    let lock = std::fs::read_to_string(host.run_dir(&id).join("shim.lock")).unwrap();
    let pid = nix::unistd::Pid::from_raw(lock.trim().parse().unwrap());
    let driver = host.driver.clone();
    let waiting = {
        let id = id.clone();
        async move { driver.wait_exit(&id).await.unwrap() }
    };
    let (exit, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    assert_eq!(exit.cause, ExitCause::Shim);
    host.remove(&id).await;
}

async fn a_machine_that_takes_too_much_memory_is_ended_for_that(host: &mut Host) {
    let config = host.machine("x=12345678; while :; do x=$x$x; done");
    host.launch(&config).await;
    let exit = host.wait(&config.machine_id).await;
    assert!(exit.oom_killed, "{exit:?}");
    host.remove(&config.machine_id).await;
}

async fn each_start_begins_with_the_image(host: &mut Host) {
    let config = host.machine("ls /tmp; echo dirt > /tmp/dirt; rm /etc/group; exit 0");
    for _ in 0..2 {
        host.launch(&config).await;
        assert_eq!(host.wait(&config.machine_id).await.exit_code, 0);
    }
    assert_eq!(lines(&config.log_dir, LogStream::Stdout), [""; 0]);
    assert_eq!(lines(&config.log_dir, LogStream::Stderr), [""; 0]);
    host.remove(&config.machine_id).await;
}

with_kinds!(
    [
        Container container,
        Emulated vm_emulated,
        QemuKvm vm_qemu,
        Firecracker vm_firecracker,
    ],
    [
        output_and_exit_code_arrive,
        the_program_finds_what_the_config_says,
        a_config_that_cannot_work_is_refused_and_says_why,
        several_programs_run_in_a_vm_and_end_together,
        signals_reach_the_program_and_sigkill_ends_all,
        commands_run_beside_the_program,
        machines_are_on_the_network_and_show_their_sockets,
        processes_are_listed_with_what_they_listen_on,
        a_new_driver_adopts_what_runs,
        a_killed_shim_takes_its_machine_along,
        a_machine_that_takes_too_much_memory_is_ended_for_that,
        each_start_begins_with_the_image,
    ]
);
