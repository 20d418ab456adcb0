//! Static files of an app, which the edge serves by itself.

use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use std::process::Command;

/// The whole answer to a request for this path.
fn ask(platform: &Platform, path: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--path-as-is", "--max-time", "120"]);
    curl.args(["-H", "Host: web.localhost"]);
    let output = run(curl.arg(platform.edge_url(path)));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn static_files_of_a_machine_are_served_by_the_edge() {
    skip_unless_possible!();
    let platform = Platform::up();
    // An app that has no pages at all.
    let image = busybox().files(&[
        ("srv/public/app.css", 0o644, b"body {}"),
        ("srv/secret", 0o644, b"secret"),
    ]);
    let server = serde_json::json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"]);
    platform.push(&image.config("Cmd", server), "web:1");
    let folder = platform.scratch();
    let config = "app = 'web'\n[build]\nimage = 'web:1'\n[http_service]\ninternal_port = 8080\n\
                  [[statics]]\nguest_path = '/srv/public'\nurl_prefix = '/static/'\n";
    std::fs::write(folder.join("roost.toml"), config).unwrap();
    platform.roost(&["deploy", folder.to_str().unwrap(), "--yes"]);
    let answer = ask(&platform, "/static/app.css");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: text/css"), "{answer}");
    assert!(answer.ends_with("body {}"), "{answer}");

    // What the machine writes is served, and no link of it followed.
    let machines = platform.roost_json(&["machines", "list", "-a", "web"]);
    let machine = machines[0]["id"].as_str().unwrap();
    let exec = |command: &str| {
        platform.roost(&["machines", "exec", machine, "--", "/bin/sh", "-c", command]);
    };
    exec("echo new > /srv/public/new.txt");
    exec("/bin/busybox ln -s /srv/secret /srv/public/link");
    exec("/bin/busybox ln -s /srv /srv/public/up");
    assert!(ask(&platform, "/static/new.txt").ends_with("new\n"));
    for path in [
        "/static/none.css",
        "/static/link",
        "/static/up/secret",
        "/static/../secret",
        "/static/%2e%2e/secret",
        "/static",
    ] {
        let answer = ask(&platform, path);
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(!answer.ends_with("secret"), "{path}: {answer}");
    }

    // It takes a machine that runs.
    platform.roost(&["machines", "stop", machine]);
    platform.roost(&["machines", "wait", machine, "--state", "stopped"]);
    let answer = ask(&platform, "/static/app.css");
    assert!(answer.ends_with("body {}"), "{answer}");
    let status = platform.roost_json(&["machines", "status", machine]);
    assert_eq!(status["state"], "started", "{status}");
}
