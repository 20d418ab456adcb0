//! From boot to the end of the machine.

use crate::commands::{exec, shell};
use crate::guest::{Guest, boot_request, variable, within};
use roost_agent::proto::exec_input::Input;
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{
    Address, AfterRestoreRequest, AppExit, BootRequest, GuestFile, HelloRequest, HostEntry,
    ListeningSocketsRequest, Network, PrepareSnapshotRequest, Process, ShutdownRequest,
    SignalRequest, StatsRequest, WatchRequest,
};

/// Watches to the end of the app; returns what it wrote and how it ended.
async fn watch_to_end(guest: &mut Guest, from_sequence: u64) -> (String, AppExit) {
    let mut events = guest
        .agent
        .watch(WatchRequest { from_sequence })
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

/// Waits until the app has written something: it is ready for signals then.
async fn wait_for_output(guest: &mut Guest, wanted: &str) {
    let request = WatchRequest { from_sequence: 1 };
    let mut events = guest.agent.watch(request).await.unwrap().into_inner();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(wanted) {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Output(output) => text.extend_from_slice(&output.data),
            end @ (Event::Exit(_) | Event::LostBytes(_)) => panic!("{end:?} after {text:?}"),
        }
    }
}

/// Stops the machine while the end of its app is watched, and waits until it is off.
async fn stop(guest: &mut Guest, timeout_ms: u64) -> (String, AppExit) {
    let mut agent = guest.agent.clone();
    let request = ShutdownRequest {
        signal: 15,
        timeout_ms,
    };
    let shutdown = async { agent.shutdown(request).await.unwrap() };
    let (end, _) = within(async { tokio::join!(watch_to_end(guest, 1), shutdown) }).await;
    guest.ended().await;
    end
}

#[tokio::test]
async fn an_app_runs_in_a_guest_until_it_is_stopped() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    let hello = within(guest.agent.hello(HelloRequest {})).await.unwrap();
    let hello = hello.into_inner();
    assert!(!hello.booted && !hello.kernel_release.is_empty());
    let script = "trap 'echo stopping; exit 7' TERM; echo up $(hostname); echo bad >&2; \
                  while :; do sleep 1; done";
    let request = boot_request(&["sh", "-c", script]);
    let booted = within(guest.agent.boot(request.clone())).await.unwrap();
    let again = within(guest.agent.boot(request)).await.unwrap();
    assert_eq!(
        booted.get_ref(),
        again.get_ref(),
        "a repetition answers as the first did"
    );
    let times = booted.into_inner();
    println!(
        "init to app {} ms, boot message to app {} ms",
        times.init_to_app_us / 1000,
        times.boot_to_app_us / 1000
    );
    within(wait_for_output(&mut guest, "up mch-1\n")).await;
    let (text, exit) = stop(&mut guest, 60_000).await;
    assert!(
        text.contains("up mch-1\n") && text.contains("bad\n"),
        "{text}"
    );
    assert!(text.ends_with("stopping\n"), "{text}");
    assert_eq!(
        (exit.exit_code, exit.requested, exit.oom_killed),
        (7, true, false)
    );
    assert!(
        !guest.console().contains("s3cr3t"),
        "a secret is on the console"
    );
}

/// What shows inside that it was obeyed.
const PARTS: [&str; 13] = [
    "2033\n777\n127.0.0.1\tlocalhost\n",
    "192.0.2.9 of-image\nfdaa::5\tmch-1\n",
    "nameserver fdaa::53\nsearch internal\nmch-1\nof the config",
    "mtu 1400",
    "inet 172.19.0.5/32",
    "inet6 fdaa::5/128",
    "default via 169.254.0.1 dev eth0",
    "default via fe80::1 dev eth0",
    "file",
    "memory",
    "overlay on / type overlay",
    "drwxrwxrwt",
    "/proc/self/fd",
];

/// A boot message with all that there can be.
fn full_request() -> BootRequest {
    let mut request = boot_request(&["httpd", "-f", "-p", "8080"]);
    let address = |address: &str, prefix, gateway: &str| Address {
        address: address.to_owned(),
        prefix,
        gateway: gateway.to_owned(),
    };
    request.network = Some(Network {
        link: "eth0".to_owned(),
        mtu: 1400,
        addresses: vec![
            address("172.19.0.5", 32, "169.254.0.1"),
            address("fdaa::5", 128, "fe80::1"),
        ],
        nameservers: vec!["fdaa::53".to_owned()],
        search_domains: vec!["internal".to_owned()],
        hosts: vec![HostEntry {
            address: "fdaa::5".to_owned(),
            names: vec!["mch-1".to_owned()],
        }],
    });
    let (name, value) = ("net.core.somaxconn".to_owned(), "777".to_owned());
    request.sysctls.insert(name, value);
    request.swap_bytes = 32 << 20;
    request.open_files_max = 1000;
    request.files.push(GuestFile {
        path: "/etc/app/config".to_owned(),
        content: "of the config".into(),
        mode: 0o640,
    });
    let process = request.processes.first_mut().unwrap();
    process.user = "www".to_owned();
    process.workdir = "/made/for/app".to_owned();
    process.env.insert(0, variable("ZEBRA", "first"));
    request
}

#[tokio::test]
async fn the_guest_is_what_the_boot_message_says() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    within(guest.agent.boot(full_request())).await.unwrap();

    let script =
        "id -u; id -g; pwd; ulimit -n; tr '\\0' '\\n' </proc/self/environ; echo x >/dev/stderr";
    let (text, _) = within(exec(&mut guest, shell(script), vec![])).await;
    let expected =
        "33\n33\n/made/for/app\n1000\nZEBRA=first\nPATH=/bin\nSECRET=s3cr3t-value\nHOME=/www\n";
    assert!(text.starts_with(expected), "{text}");

    let mut start = shell(
        "date -u +%Y; cat /proc/sys/net/core/somaxconn /etc/hosts /etc/resolv.conf /etc/hostname \
         /etc/app/config; ip addr show eth0; ip route; ip -6 route; cat /proc/swaps; \
         cat /sys/fs/cgroup/cgroup.controllers; mount; ls -ld /dev/shm /dev/fd; ls /",
    );
    start.user = "root".to_owned();
    let (text, _) = within(exec(&mut guest, start, vec![])).await;
    for part in PARTS {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(!text.contains("tentative"), "{text}");

    let sockets = within(guest.agent.listening_sockets(ListeningSocketsRequest {}));
    let sockets = sockets.await.unwrap().into_inner().sockets;
    assert!(
        sockets
            .iter()
            .any(|s| s.port == 8080 && s.process == "httpd"),
        "{sockets:?}"
    );
    let stats = within(guest.agent.stats(StatsRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert!(
        stats.memory_total_bytes > 100 << 20 && stats.disks[0].read_bytes > 0,
        "{stats:?}"
    );
    // Whoever is not root can open by name what root has made for him.
    let input = vec![Input::Stdin("typed".into()), Input::StdinClosed(true)];
    let (text, exit) = within(exec(&mut guest, shell("cat /dev/stdin"), input)).await;
    assert_eq!((text.as_str(), exit.exit_code), ("typed", 0));
    // `httpd` ignores nothing: the signal is its end.
    let (_, exit) = stop(&mut guest, 60_000).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.requested),
        (143, 15, true)
    );
}

#[tokio::test]
async fn an_app_that_ends_by_itself_leaves_a_guest_that_answers() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    // An orphan of the app, an app that is killed for want of memory, a helper that goes with it.
    let script = "(sleep 1000 &) ; echo more than memory; tail /dev/zero";
    let mut request = boot_request(&["sh", "-c", script]);
    request.processes[0].name = "web".to_owned();
    request.processes.push(Process {
        name: "helper".to_owned(),
        args: ["sleep", "100000"].map(str::to_owned).to_vec(),
        ..request.processes[0].clone()
    });
    within(guest.agent.boot(request)).await.unwrap();
    let (text, exit) = within(watch_to_end(&mut guest, 1)).await;
    assert!(text.contains("more than memory\n"), "{text}");
    assert!(exit.oom_killed && !exit.requested, "{exit:?}");
    assert_eq!(exit.process, "web");
    // What was said is said again to whoever asks again.
    let again = within(watch_to_end(&mut guest, 1)).await;
    assert_eq!(again, (text, exit));
    let status = within(guest.agent.signal(SignalRequest { signal: 15 }))
        .await
        .unwrap_err();
    assert_eq!(status.message(), "the app has ended");
    within(guest.agent.stats(StatsRequest {})).await.unwrap();
    stop(&mut guest, 0).await;
}

#[tokio::test]
async fn an_app_stands_still_from_before_a_snapshot_until_the_clock_is_right() {
    let Some(mut guest) = Guest::start().await else {
        return;
    };
    // A template: a guest that is frozen before it has an app.
    within(guest.agent.prepare_snapshot(PrepareSnapshotRequest {}))
        .await
        .unwrap();
    let request = AfterRestoreRequest {
        clock_unix_ns: 1_000_000_000_000_000_000,
        random_seed: vec![8; 32].into(),
    };
    within(guest.agent.after_restore(request)).await.unwrap();
    let script = "trap '' TERM; while :; do date +%Y; usleep 10000; done";
    within(guest.agent.boot(boot_request(&["sh", "-c", script])))
        .await
        .unwrap();
    within(wait_for_output(&mut guest, "2033\n")).await;
    within(guest.agent.prepare_snapshot(PrepareSnapshotRequest {}))
        .await
        .unwrap();
    let mut refused = guest.agent.clone();
    let status = within(refused.exec(crate::commands::inputs(shell("true"), vec![])));
    assert_eq!(status.await.unwrap_err().code(), tonic::Code::Unavailable);
    let request = AfterRestoreRequest {
        // In the year 2065.
        clock_unix_ns: 3_000_000_000_000_000_000,
        random_seed: vec![9; 32].into(),
    };
    within(guest.agent.after_restore(request)).await.unwrap();
    // It ignores the signal, so it is killed when its time is up.
    let (text, exit) = stop(&mut guest, 300).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.requested),
        (137, 9, true)
    );
    let years: Vec<_> = text.lines().filter(|line| line.starts_with("20")).collect();
    let n_before = years.iter().take_while(|year| **year == "2033").count();
    assert!(
        years[n_before..].iter().all(|year| *year == "2065"),
        "{years:?}"
    );
    assert!(years.len() > n_before, "it did not run on: {years:?}");
}
