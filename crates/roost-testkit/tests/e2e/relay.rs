//! Two nodes with one authority: what comes to the edge of one is answered by
//! a machine of the other.

use crate::restart::resumes;
use roost_testkit::images::nginx;
use roost_testkit::platform::{Platform, free_port};
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(120);

/// Gives the second node the first one's authority.
pub(crate) fn share_authority(first: &Platform, second: &Platform) {
    let (from, to) = (first.data_dir(), second.data_dir());
    fs::create_dir_all(to.join("cluster")).unwrap();
    let files = ["root.pem", "root.key", "tickets"].map(|name| format!("cluster/{name}"));
    for file in files.iter().map(String::as_str).chain(["sealing.key"]) {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// Two nodes with one authority, whose edges follow each other's tables.
pub(crate) fn two_nodes() -> [Platform; 2] {
    let address = || format!("127.0.0.1:{}", free_port());
    let (of_first, of_second) = (address(), address());
    let first = Platform::prepare();
    let up = |platform: &Platform, flags: &[&str]| {
        run(platform.up_command().args(flags));
    };
    let peer = |platform: &Platform, address: &str| {
        let node = fs::read_to_string(platform.data_dir().join("node-id")).unwrap();
        format!("{node}={address}")
    };
    up(&first, &["--edge-peers-listen", &of_first]);
    let second = Platform::prepare();
    share_authority(&first, &second);
    let to_first = peer(&first, &of_first);
    let follows_first = ["--edge-peers-listen", &of_second, "--edge-peer", &to_first];
    up(&second, &follows_first);
    let to_second = peer(&second, &of_second);
    first.kill_roostd();
    let follows_second = ["--edge-peers-listen", &of_first, "--edge-peer", &to_second];
    up(&first, &follows_second);
    [first, second]
}

fn answers(platform: &Platform, said: &str) {
    wait_until("the machine's answer", MOMENT, || {
        let answer = platform.get("web", "/");
        (answer == (200, said.to_owned()))
            .then_some(())
            .ok_or(answer)
    });
}

#[test]
fn a_request_to_one_node_is_answered_by_a_machine_of_the_other() {
    skip_unless_possible!();
    let address = || format!("127.0.0.1:{}", free_port());
    let (of_far, of_near) = (address(), address());
    let far = Platform::up_with(&["--edge-peers-listen", &of_far]);
    far.push(&nginx("far"), "web:1");
    let config = "app = 'web'\n[build]\nimage = 'web:1'\n[http_service]\ninternal_port = 80\n";
    fs::write(far.scratch().join("roost.toml"), config).unwrap();
    far.roost(&["deploy", far.scratch().to_str().unwrap(), "--yes"]);

    let near = Platform::prepare();
    share_authority(&far, &near);
    let node = fs::read_to_string(far.data_dir().join("node-id")).unwrap();
    let peer = format!("{node}={of_far}");
    let mut up = near.up_command();
    run(up.args(["--edge-peers-listen", &of_near, "--edge-peer", &peer]));
    answers(&near, "far");

    // A TLS session that began at one node is resumed at the other.
    let session = far.scratch().join("session");
    assert!(!resumes(&far, "-tls1_3", &session));
    assert!(resumes(&near, "-tls1_3", &session));

    let mut curl = Command::new("curl");
    curl.args(["-sS", "--output", "/dev/null", "--max-time", "60"]);
    curl.args(["--write-out", "%header{roost-request-id}"]);
    curl.args(["--header", "Host: web.localhost"]);
    let id = run(curl.arg(near.edge_url("/"))).stdout;
    let id = String::from_utf8(id).unwrap();
    let why = wait_until("the record", MOMENT, || {
        let output = near.cli(&["why", "request", &id]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text).ok_or(output)
    });
    assert!(why.contains(&format!("by the edge of {node}")), "{why}");

    // A machine that sleeps there is woken by a request that comes here.
    let machines = far.roost_json(&["machines", "list", "-a", "web"]);
    let machine = machines[0]["id"].as_str().unwrap();
    far.roost(&["machines", "stop", machine]);
    far.roost(&["machines", "wait", machine, "--state", "stopped"]);
    answers(&near, "far");

    // A node that was killed is found again.
    far.kill_roostd();
    run(&mut far.up_command());
    answers(&near, "far");
}
