//! A UDP service, with clients that have addresses of their own.

use crate::relay::share_authority;
use roost_testkit::images::python;
use roost_testkit::outside::Outside;
use roost_testkit::platform::{Platform, free_port};
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(120);
/// How long a client waits before it asks again, as clients of datagrams do.
const AGAIN: Duration = Duration::from_millis(500);

/// Where it listens: at every address, or at the one where datagrams come.
const EVERYWHERE: &str = "0.0.0.0";
const BY_NAME: &str = "fly-global-services";
/// Says who it is, whom it has seen, and how much he has said; and that once more,
/// of its own accord, to who asks for news.
const APP: &str = r#"
import os, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("ADDRESS", 5000))
while True:
    data, (host, port) = s.recvfrom(65536)
    answer = f"{os.environ['FLY_MACHINE_ID']} {host}:{port} {len(data)}".encode()
    s.sendto(answer, (host, port))
    if data == b"news":
        time.sleep(1)
        s.sendto(answer, (host, port))
"#;

fn up() -> Platform {
    // All addresses: the answer has to leave from the one that the client knows.
    Platform::up_with(&["--listen", "0.0.0.0"])
}

/// Deploys it behind a UDP port, and waits until that is open.
fn deploy(platform: &Platform, address: &str, lines: &str) -> u16 {
    platform.push(&python(&APP.replace("ADDRESS", address)), "game:1");
    let (folder, port) = (platform.scratch(), free_port());
    let config = format!(
        "app = 'game'\n[build]\nimage = 'game:1'\n[[services]]\nprotocol = 'udp'\n\
         internal_port = 5000\n{lines}\n[[services.ports]]\nport = {port}\n"
    );
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
    wait_until("its port is open", MOMENT, || {
        let status = platform.roost_json(&["status", "-a", "game"]);
        let ports = &status["app"]["ports"];
        if ports[0]["protocol"] == "udp" && ports[0].get("problem").is_none() {
            Ok(())
        } else {
            Err(status["app"].clone())
        }
    });
    port
}

/// A client out there that sends to the port.
fn client(outside: &Outside, port: u16) -> UdpSocket {
    let target = (outside.host, port);
    let socket = outside.run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        // So that an answer from any other address or port would not arrive.
        socket.connect(target).unwrap();
        socket
    });
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

/// Asks until an answer comes, and gives it.
fn ask(client: &UdpSocket, bytes: &[u8]) -> String {
    wait_until("an answer", MOMENT, || {
        client.send(bytes).map_err(|error| error.to_string())?;
        let mut buffer = [0; 1024];
        let received = client.recv(&mut buffer);
        let n_bytes = received.map_err(|error| error.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&buffer[..n_bytes]).into_owned())
    })
}

/// The machine that answered; what it saw has to be the client.
fn ask_as(client: &UdpSocket, outside: &Outside, bytes: &[u8]) -> String {
    let answer = ask(client, bytes);
    let parts: Vec<&str> = answer.split(' ').collect();
    let port = client.local_addr().unwrap().port();
    let seen = SocketAddr::from((outside.client, port));
    assert_eq!(parts[1], seen.to_string(), "{answer}");
    parts[0].to_owned()
}

#[test]
fn an_app_sees_who_its_clients_are_and_its_answers_reach_them() {
    skip_unless_possible!();
    let platform = up();
    let outside = Outside::new();
    let port = deploy(&platform, BY_NAME, "");
    let clients = [client(&outside, port), client(&outside, port)];
    for bytes in [&b"hello"[..], b"", &[7; 20_000]] {
        for client in &clients {
            let answer = ask(client, bytes);
            let own = client.local_addr().unwrap().port();
            let expected = format!(" {}:{own} {}", outside.client, bytes.len());
            assert!(answer.ends_with(&expected), "{answer}, not {expected}");
        }
    }
    // The first answer of these is at once, the second after a silence.
    let news = ask_as(&clients[0], &outside, b"news");
    let mut buffer = [0; 1024];
    clients[0].set_read_timeout(Some(MOMENT)).unwrap();
    let n_bytes = clients[0].recv(&mut buffer).unwrap();
    assert!(buffer[..n_bytes].starts_with(news.as_bytes()));

    // Who is on the host itself has no address that a machine could answer to.
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_read_timeout(Some(AGAIN)).unwrap();
    here.connect(("127.0.0.1", port)).unwrap();
    let answer = ask(&here, b"x");
    assert!(!answer.contains("127.0.0.1"), "{answer}");

    // Another app is told whose port it is, and the same number is free for connections.
    let folder = platform.scratch();
    let config = |protocol: &str| {
        format!(
            "app = 'other'\n[build]\nimage = 'game:1'\n[[services]]\nprotocol = '{protocol}'\n\
             internal_port = 5000\n[[services.ports]]\nport = {port}\n"
        )
    };
    std::fs::write(folder.join("roost.toml"), config("udp")).unwrap();
    let refused = platform
        .cli(&["deploy", folder.to_str().unwrap(), "--yes"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        told.contains(&format!("udp port {port} is the app `game`'s")),
        "{told}"
    );
}

fn restart(platform: &Platform) {
    let mut restart = platform.up_command();
    run(restart.args(["--listen", "0.0.0.0", "--restart"]));
}

#[test]
fn a_hot_restart_takes_the_port_along_and_a_killed_machine_loses_its_clients_to_another() {
    skip_unless_possible!();
    let platform = up();
    let outside = Outside::new();
    let port = deploy(&platform, EVERYWHERE, "");
    let one = client(&outside, port);
    let machine = ask_as(&one, &outside, b"x");

    let old = platform.roostd_pid();
    restart(&platform);
    assert_ne!(platform.roostd_pid(), old);
    assert_eq!(ask_as(&one, &outside, b"x"), machine);
    platform.until_left();
    assert_eq!(ask_as(&one, &outside, b"x"), machine);

    // A crash is no hot restart; the machine and the way of its answers outlive it.
    platform.kill_roostd();
    run(platform.up_command().args(["--listen", "0.0.0.0"]));
    assert_eq!(ask_as(&one, &outside, b"x"), machine);

    platform.roost(&["machines", "clone", &machine]);
    let of_clients: BTreeMap<String, UdpSocket> =
        wait_until("both machines to have clients", MOMENT, || {
            let clients = [client(&outside, port), client(&outside, port)];
            let answered = clients.map(|client| (ask_as(&client, &outside, b"x"), client));
            let found: BTreeMap<_, _> = answered.into_iter().collect();
            if found.len() == 2 {
                Ok(found)
            } else {
                Err(found.into_keys().collect::<Vec<_>>())
            }
        });
    restart(&platform);
    // Each stays where it was, also while the old one ends.
    for _ in 0..2 {
        for (machine, client) in &of_clients {
            assert_eq!(&ask_as(client, &outside, b"x"), machine);
        }
        platform.until_left();
    }

    let (killed, theirs) = of_clients.iter().next().unwrap();
    let (other, _) = of_clients.iter().next_back().unwrap();
    platform.roost(&["machines", "stop", killed]);
    platform.roost(&["machines", "wait", killed, "--state", "stopped"]);
    platform.roost(&["machines", "cordon", killed]);
    assert_eq!(&ask_as(theirs, &outside, b"x"), other);
}

#[test]
fn the_first_datagram_starts_the_machine_that_is_stopped() {
    skip_unless_possible!();
    let platform = up();
    let outside = Outside::new();
    let port = deploy(&platform, BY_NAME, "auto_start_machines = true");
    let client = client(&outside, port);
    let machine = ask_as(&client, &outside, b"x");
    platform.roost(&["machines", "stop", &machine]);
    platform.roost(&["machines", "wait", &machine, "--state", "stopped"]);
    // Asked once: what comes while the machine is woken waits for it.
    client.set_read_timeout(Some(MOMENT)).unwrap();
    client.send(b"wake up").unwrap();
    let mut buffer = [0; 1024];
    let n_bytes = client.recv(&mut buffer).unwrap();
    let answer = String::from_utf8_lossy(&buffer[..n_bytes]).into_owned();
    assert!(
        answer.starts_with(&machine) && answer.ends_with(" 7"),
        "{answer}"
    );
}

#[test]
fn an_app_on_another_node_sees_who_its_clients_are_and_its_answers_reach_them() {
    skip_unless_possible!();
    let outside = Outside::new();
    let address = || format!("127.0.0.1:{}", free_port());
    let (of_far, of_near) = (address(), address());
    // Both nodes have the port, each at an address of its own.
    let far = Platform::up_with(&["--edge-peers-listen", &of_far]);
    let port = deploy(&far, EVERYWHERE, "auto_start_machines = true");
    let near = Platform::prepare();
    share_authority(&far, &near);
    let node = std::fs::read_to_string(far.data_dir().join("node-id")).unwrap();
    let (host, peer) = (outside.host.to_string(), format!("{node}={of_far}"));
    let mut up = near.up_command();
    up.args(["--listen", &host, "--edge-peers-listen", &of_near]);
    run(up.args(["--edge-peer", &peer]));

    let clients = [client(&outside, port), client(&outside, port)];
    let machine = ask_as(&clients[0], &outside, b"x");
    for bytes in [&b"hello"[..], b"", &[7; 20_000]] {
        for client in &clients {
            let answer = ask(client, bytes);
            let own = client.local_addr().unwrap().port();
            let expected = format!("{machine} {}:{own} {}", outside.client, bytes.len());
            assert_eq!(answer, expected);
        }
    }
    // A machine that sleeps there is woken by a datagram that comes here.
    far.roost(&["machines", "stop", &machine]);
    far.roost(&["machines", "wait", &machine, "--state", "stopped"]);
    assert_eq!(ask_as(&clients[0], &outside, b"x"), machine);

    // Flows that a crash of the node's edge has ended begin anew.
    far.kill_roostd();
    run(&mut far.up_command());
    assert_eq!(ask_as(&clients[1], &outside, b"x"), machine);
}
