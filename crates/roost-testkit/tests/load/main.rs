//! Not one request fails: while a release rolls out, while `roostd` is replaced
//! under its own feet, while a machine is killed, while the API is away.
//!
//! `make test` asks with a few clients; `make test-load` with 500.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod clients;

use clients::{Account, Kind, Place};
use roost_testkit::images::{busybox, nginx};
use roost_testkit::platform::Platform;
use roost_testkit::skip_unless_possible;
use roost_testkit::takeover::{AnotherRoostd, hand_over_to_nobody};
use roost_testkit::wait::wait_until;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// Longer than anything here takes on a busy machine.
const MOMENT: Duration = Duration::from_secs(300);
/// Answers of each kind in each phase, so that something was asked in it.
const ANSWERS_MIN: u64 = 20;
/// Takes the handshake of a WebSocket and gives back what comes then.
const ECHO: &str = "while read -r line; do test ${#line} -gt 1 || break; done
printf 'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n'
exec cat
";

fn n_clients() -> usize {
    let asked = std::env::var("ROOST_LOAD_CLIENTS").ok();
    asked.map_or(24, |text| text.parse().expect("a number of clients"))
}

fn deploy(platform: &Platform, app: &str, image: &str, port: &str, count: &str) {
    let image = ["--image", image, "--internal-port", port, "--count", count];
    let deploy = ["deploy", "-a", app, "--yes", "--wait-timeout", "5m"];
    platform.roost(&[&deploy[..], &image[..]].concat());
}

/// A platform with `web`, three servers, and `echo`, which speaks WebSocket.
fn platform() -> Platform {
    let platform = Platform::up();
    platform.push(&nginx("first release"), "web:1");
    platform.push(&nginx("second release"), "web:2");
    let echo = busybox()
        .files(&[("echo.sh", 0o755, ECHO.as_bytes())])
        .config(
            "Cmd",
            json!(["/bin/nc", "-ll", "-p", "8080", "-e", "/bin/sh", "/echo.sh"]),
        )
        .config("StopSignal", json!("SIGKILL"));
    platform.push(&echo, "echo:1");
    for app in ["web", "echo"] {
        platform.roost(&["apps", "create", app]);
    }
    deploy(&platform, "web", "web:1", "80", "3");
    deploy(&platform, "echo", "echo:1", "8080", "1");
    platform
}

fn place(platform: &Platform) -> Place {
    let mut roots = RootCertStore::empty();
    let authority = platform.data_dir().join("ca/ca.pem");
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Place {
        http: platform.http_port,
        https: platform.https_port,
        tls: TlsConnector::from(Arc::new(config)),
        pause: Duration::from_millis(50),
    }
}

/// Waits until each kind has had more answers.
fn until_answered(account: &Account, when: &str) {
    let before = account.answers();
    wait_until(&format!("answers {when}"), MOMENT, || {
        let now = account.answers();
        let had = now.iter().zip(before).map(|(now, before)| now - before);
        if had.clone().all(|n| n >= ANSWERS_MIN) {
            return Ok(());
        }
        let had: Vec<_> = Kind::ALL.into_iter().zip(had).collect();
        Err((had, account.take_failures()))
    });
}

/// Does something under load: each kind is answered before and after it, and nothing fails.
fn phase(account: &Account, name: &str, happening: impl FnOnce()) {
    until_answered(account, &format!("before {name}"));
    happening();
    until_answered(account, &format!("after {name}"));
    assert_eq!(account.take_failures(), Vec::<String>::new(), "{name}");
    eprintln!(
        "{name}: {:?} answers so far, none failed",
        account.answers()
    );
}

#[test]
fn no_request_fails_while_releases_roll_roostd_restarts_machines_die_and_the_api_is_away() {
    skip_unless_possible!();
    let platform = platform();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let account = Arc::new(Account::default());
    let place = place(&platform);
    let mut clients = {
        let _inside = runtime.enter();
        clients::start(&place, &account, n_clients())
    };
    phase(&account, "a rolling deploy", || {
        deploy(&platform, "web", "web:2", "80", "3");
    });
    for _ in 0..2 {
        phase(&account, "a hot restart", || {
            let before = platform.roostd_pid();
            platform.restart();
            assert_ne!(platform.roostd_pid(), before, "another process serves");
            platform.until_left();
        });
    }
    phase(&account, "the kill of a machine", || {
        let pid = *platform.machine_pids("web").values().next().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    phase(&account, "the absence of the API", || {
        let nobody: AnotherRoostd = hand_over_to_nobody(&platform);
        until_answered(&account, "without the API");
        drop(nobody);
        platform.roost(&["apps", "list"]);
    });
    account.stop();
    runtime.block_on(async {
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    });
    assert_eq!(account.take_failures(), Vec::<String>::new(), "at the end");
}
