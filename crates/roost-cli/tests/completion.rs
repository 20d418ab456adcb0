//! Completion in a real bash: the script of `roost completion bash`, driven as a shell does.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Time for the offers that are expected, with all presses of the tab key.
const OFFERS_TIMEOUT: Duration = Duration::from_secs(30);

async fn serve() -> (String, JoinSet<()>) {
    let machine = |id: &str, app: &str| {
        json!({"id": id, "name": format!("{app}-1"), "app": app, "state": "started", "region": "local",
            "instance_id": "i", "private_ip": "::1", "private_ipv4": "10.0.0.1",
            "image_ref": {"repository": "x"}, "config": {"image": "x"}, "rung": "container",
            "checks": [], "cordoned": false, "created_at": "", "updated_at": ""})
    };
    let app = |name: &str| {
        json!({"id": "a1", "name": name, "status": "deployed", "machine_count": 1,
            "current_release": 1, "urls": [], "created_at": 0})
    };
    let release = |version: u64| {
        json!({"id": "r", "version": version, "image": "x", "status": "succeeded", "current": false,
            "config": {"image": "x"}, "created_at": 0})
    };
    let apps = json!({"apps": [app("web"), app("worker"), app("db")], "total_apps": 3});
    let releases = json!([release(12), release(11)]);
    let machines = move |Path(app): Path<String>| async move {
        let id = if app == "web" { "148e01" } else { "9f2c02" };
        Json(json!([machine(id, &app)]))
    };
    let secrets = json!({"secrets": [{"name": "DATABASE_URL", "digest": "d", "created_at": 0, "updated_at": 0}], "version": 1});
    let get_json = |value: Value| get(move || async move { Json(value) });
    let router = Router::new()
        .route("/v1/apps", get_json(apps))
        .route("/v1/apps/{app}/machines", get(machines))
        .route("/v1/apps/web/releases", get_json(releases))
        .route("/v1/apps/web/secrets", get_json(secrets));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, tasks)
}

/// Presses the tab key after `words`, of which the last may be unfinished; gives what bash offers.
async fn complete(url: &str, words: &[&str]) -> Vec<String> {
    let url = url.to_owned();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let run = move || {
        let home = tempfile::tempdir().unwrap();
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_roost"));
        let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
        // As bash calls a completion function: the command, the word, the word before.
        let script = "source <(roost completion bash)\nCOMP_WORDS=(\"$@\")\nCOMP_CWORD=$(($# - 1))\nCOMP_TYPE=9\n\
            _clap_complete_roost roost \"${@: -1}\" \"${COMP_WORDS[COMP_CWORD-1]}\"\nprintf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Command::new("bash")
            .args(["-c", script, "bash"])
            .args(words)
            .env_clear()
            .env("PATH", path)
            .env("HOME", home.path())
            .env("ROOST_API_URL", url)
            .current_dir(home.path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Presses the tab key until bash offers what is expected: on a busy machine the platform's names may
/// come too late for the first press.
async fn complete_in_time(url: &str, words: &[&str], expected: &[&str]) -> Vec<String> {
    let since = Instant::now();
    loop {
        let offers = complete(url, words).await;
        if offers == expected || since.elapsed() > OFFERS_TIMEOUT {
            return offers;
        }
    }
}

#[tokio::test]
async fn bash_completes_commands_and_the_names_that_the_platform_knows() {
    let (url, _tasks) = serve().await;
    for (words, offers) in [
        (&["roost", "machi"][..], &["machines"][..]),
        (&["roost", "status", "--dry"], &["--dry-run"]),
        (&["roost", "status", "-a", "w"], &["web", "worker"]),
        (&["roost", "apps", "destroy", "d"], &["db"]),
        (&["roost", "machines", "stop", "-a", "web", ""], &["148e01"]),
        (&["roost", "machines", "stop", "148"], &["148e01"]),
        (
            &["roost", "logs", "-a", "web", "--machine", ""],
            &["148e01"],
        ),
        (&["roost", "rollback", "-a", "web", "1"], &["12", "11"]),
        (
            &["roost", "secrets", "unset", "-a", "web", "D"],
            &["DATABASE_URL"],
        ),
        (&["roost", "completion", "z"], &["zsh"]),
        (
            &["roost", "deploy", "--isolation", "vm"],
            &["vm-emulated", "vm"],
        ),
    ] {
        assert_eq!(
            complete_in_time(&url, words, offers).await,
            offers,
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn a_platform_that_is_away_or_silent_keeps_the_shell_neither_waiting_nor_talking() {
    // Nothing listens here.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    // This one takes connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    for url in [away, silent] {
        let since = Instant::now();
        let offers = complete(&url, &["roost", "apps", "destroy", "w"]).await;
        assert_eq!(offers, Vec::<String>::new(), "{url}");
        // One second and the start of bash and two programs, on a busy machine.
        assert!(since.elapsed() < Duration::from_secs(30), "{url}");
    }
}

#[test]
fn every_shell_has_a_script_that_asks_the_program() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = Command::new(env!("CARGO_BIN_EXE_roost"))
            .args(["completion", shell])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("ROOST_COMPLETE"), "{shell}: {text}");
    }
}
