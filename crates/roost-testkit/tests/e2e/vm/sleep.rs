//! A guest that goes to sleep for want of traffic, with its memory.

use super::{BOOT, MOMENT, answer, event, only_machine, status, text, ticker, ticks, turn};
use roost_testkit::platform::Platform;
use roost_testkit::wait::wait_until;
use serde_json::Value;

fn deploy(platform: &Platform) {
    platform.push(&ticker(), "ticker:1");
    let folder = platform.scratch();
    let config = "app = 'ticker'\n[build]\nimage = 'ticker:1'\n\
                  [http_service]\ninternal_port = 80\nauto_stop_machines = 'suspend'\n";
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    let mut command = platform.cli(&["deploy", folder.to_str().unwrap(), "--yes"]);
    command.args(["--isolation", "vm-emulated", "--wait-timeout", "3m"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn an_idle_guest_is_suspended_and_the_next_request_finds_its_memory() {
    let Some(_turn) = turn() else { return };
    let platform = Platform::up_with(&["--autostop-after", "20s"]);
    deploy(&platform);
    let machine = only_machine(&platform, "ticker");
    let asleep = wait_until("the guest to sleep", BOOT, || {
        let seen = status(&platform, &machine);
        if seen["state"] == "suspended" {
            Ok(seen)
        } else {
            Err(seen)
        }
    });
    let suspend = event(&asleep, "suspend");
    assert_eq!(suspend["source"], "proxy", "{asleep}");
    assert_eq!(suspend["request"]["reason"], "autosuspend", "{asleep}");
    let before = *ticks(&platform, "ticker").last().expect("it has ticked");

    answer(&platform, "ticker", "/", 404);
    let all = wait_until("more ticks", MOMENT, || {
        // So that it stays awake meanwhile.
        platform.get("ticker", "/");
        let ticks = ticks(&platform, "ticker");
        if ticks.last() > Some(&before) {
            Ok(ticks)
        } else {
            Err(ticks)
        }
    });
    let expected: Vec<u64> = (1..=all.len() as u64).collect();
    assert_eq!(all, expected, "it counts on where it was");
    let woken = status(&platform, &machine);
    let is_resumed = |event: &&Value| event["request"]["resumed"] == true;
    let mut events = woken["events"].as_array().unwrap().iter();
    assert!(events.any(|event| is_resumed(&event)), "{woken}");
}
