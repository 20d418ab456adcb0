//! A node that has no more room says so, node by node, and what runs goes on.

use roost_testkit::images::nginx;
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use std::time::Duration;

const MOMENT: Duration = Duration::from_secs(30);

#[test]
fn a_node_that_is_full_refuses_with_the_reason_and_serves_on() {
    skip_unless_possible!();
    let platform = Platform::prepare();
    let room = ["--memory", "768MiB", "--overcommit-memory", "100"];
    run(platform.up_command().args(room));
    platform.push(&nginx("one"), "web:1");
    platform.push(&nginx("two"), "web:2");
    platform.roost(&["apps", "create", "web"]);
    let deploy = |image: &str, count: &str| {
        let mut command = platform.cli(&["deploy", "-a", "web", "--image", image, "--yes"]);
        command.args(["--internal-port", "80", "--count", count]);
        command.output().unwrap()
    };
    let first = deploy("web:1", "2");
    assert!(first.status.success(), "{first:?}");

    let second = deploy("web:2", "4");
    assert!(!second.status.success(), "{second:?}");
    let text = String::from_utf8_lossy(&second.stderr).into_owned()
        + &String::from_utf8_lossy(&second.stdout);
    for word in [
        "no node takes the machine: node_",
        "memory for shared machines: 256 MiB wanted, 0 B free",
        "smaller size",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(platform.get("web", "/"), (200, "one".into()));
    // The machine that was made for the second release is on its way out when the deploy ends.
    wait_until("the two machines of before are left", MOMENT, || {
        let machines = platform.roost_json(&["machines", "list", "-a", "web"]);
        if machines.as_array().unwrap().len() == 2 {
            Ok(())
        } else {
            Err(machines)
        }
    });

    // With more room for the same machines the same deploy goes through. What a
    // node has to give is looked at when it starts.
    platform.kill_roostd();
    run(platform.up_command().args(["--memory", "2GiB"]));
    let third = deploy("web:2", "4");
    assert!(third.status.success(), "{third:?}");
    assert_eq!(platform.get("web", "/"), (200, "two".into()));
}
