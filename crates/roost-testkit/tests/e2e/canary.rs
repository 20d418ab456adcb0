//! A release that is tried out with a part of the traffic, and undone under load.

use crate::deploy::Client;
use crate::relay::two_nodes;
use roost_testkit::images::nginx;
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(120);

/// A web server that answers 500, and whose port accepts connections.
const BROKEN: &str = "user www-data;
daemon off;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 80;
        return 500;
    }
}
";

const DEPLOY: [&str; 7] = [
    "deploy",
    "-a",
    "web",
    "--yes",
    "--internal-port",
    "80",
    "--image",
];

/// What clients have got.
#[derive(Debug, Default)]
struct Answers {
    good: AtomicU64,
    broken: AtomicU64,
    is_over: AtomicBool,
}

impl Answers {
    fn good(&self) -> u64 {
        self.good.load(Ordering::SeqCst)
    }

    fn broken(&self) -> u64 {
        self.broken.load(Ordering::SeqCst)
    }

    /// Asks until it is over. The error is an answer that no release gives.
    fn collect(&self, mut client: Client) -> Result<(), String> {
        while !self.is_over.load(Ordering::SeqCst) {
            match client.get() {
                Ok(page) if page == "first release" => self.good.fetch_add(1, Ordering::SeqCst),
                Err(head) if head.starts_with("HTTP/1.1 500") => {
                    self.broken.fetch_add(1, Ordering::SeqCst)
                }
                other => return Err(format!("{other:?}")),
            };
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Clients of this node's edge that ask without end.
fn begin(platform: &Platform) -> (Arc<Answers>, Vec<JoinHandle<Result<(), String>>>) {
    let answers = Arc::new(Answers::default());
    let clients = (0..10).map(|_| {
        let (answers, client) = (answers.clone(), Client::new(platform.http_port));
        std::thread::spawn(move || answers.collect(client))
    });
    let clients = clients.collect();
    wait_until("clients to get going", MOMENT, || {
        let n = answers.good();
        if n > 100 { Ok(()) } else { Err(n) }
    });
    (answers, clients)
}

#[test]
fn a_bad_canary_is_undone_under_load_while_the_old_release_serves_on() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("first release"), "web:1");
    let broken = nginx("").files(&[("etc/nginx/nginx.conf", 0o644, BROKEN.as_bytes())]);
    platform.push(&broken, "web:2");
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&[&DEPLOY[..], &["web:1"]].concat());
    let before = platform.machine_pids("web");

    let (answers, clients) = begin(&platform);
    let canary = ["web:2", "--strategy", "canary", "--canary-percent", "20"];
    // As few as can be told: one that fails like this is soon ejected.
    let watched = ["--canary-requests", "10", "--canary-wait", "10m", "--json"];
    let output = platform
        .cli(&[&DEPLOY[..], &canary, &watched].concat())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("canary-failed"), "{text}");
    assert!(
        text.contains("100.0 % of its requests failed, 0.0 %"),
        "{text}"
    );

    // Nothing of it is left, and whoever asks gets the first release.
    assert_eq!(platform.machine_pids("web"), before);
    let (n_good, n_broken) = (answers.good(), answers.broken());
    wait_until("the first release to serve on", MOMENT, || {
        let n = answers.good();
        if n > n_good + 200 { Ok(()) } else { Err(n) }
    });
    answers.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.join().unwrap(), Ok(()));
    }
    assert!(n_broken >= 10, "it got its part: {answers:?}");
    assert!(n_broken < n_good, "and no more: {answers:?}");
    // Those were under way when the count was read, one for each client at most.
    assert!(answers.broken() <= n_broken + 10, "{answers:?}");
    let releases = platform.roost_json(&["releases", "-a", "web"]);
    let [undone, serves] = releases.as_array().unwrap().as_slice() else {
        panic!("{releases}");
    };
    assert_eq!(undone["canary"]["passed"], false, "{undone}");
    assert!(
        undone["canary"]["new"]["errors"].as_u64() >= Some(10),
        "{undone}"
    );
    assert_eq!(
        (&serves["current"], &serves["canary"]),
        (&true.into(), &Value::Null)
    );
}

/// Another node that has the app too and whose machines are all that serve: the first node's own
/// machine is cordoned, and only its canary takes requests. Clients come to the other one's edge.
#[test]
fn a_canary_is_judged_by_what_the_edge_of_another_node_has_seen() {
    skip_unless_possible!();
    let [near, far] = two_nodes();
    let broken = nginx("").files(&[("etc/nginx/nginx.conf", 0o644, BROKEN.as_bytes())]);
    near.push(&broken, "web:2");
    for platform in [&near, &far] {
        platform.push(&nginx("first release"), "web:1");
        platform.roost(&["apps", "create", "web"]);
        platform.roost(&[&DEPLOY[..], &["web:1"]].concat());
    }
    let machines = near.roost_json(&["machines", "list", "-a", "web"]);
    near.roost(&["machines", "cordon", machines[0]["id"].as_str().unwrap()]);

    let (answers, clients) = begin(&far);
    let canary = ["web:2", "--strategy", "canary", "--canary-percent", "20"];
    let watched = ["--canary-requests", "10", "--canary-wait", "10m", "--json"];
    let arguments = [&DEPLOY[..], &canary, &watched].concat();
    let output = near.cli(&arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    answers.is_over.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.join().unwrap(), Ok(()));
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("canary-failed"), "{text}");
    let releases = near.roost_json(&["releases", "-a", "web"]);
    let seen = &releases[0]["canary"];
    assert_eq!(
        (&seen["passed"], &seen["silent"]),
        (&false.into(), &Value::Null)
    );
    assert!(seen["new"]["errors"].as_u64() >= Some(10), "{seen}");
    // The only machines of the old release that have answered are at the other node.
    assert!(seen["old"]["requests"].as_u64() >= Some(20), "{seen}");
    assert_eq!(seen["old"]["errors"], 0, "{seen}");
}
