//! Images of others: pushed with stock tools, deployed, replaced under load, undone.

use roost_testkit::images::{ImageBuilder, busybox, nginx, redis};
use roost_testkit::platform::Platform;
use roost_testkit::program::run;
use roost_testkit::skip_unless_possible;
use roost_testkit::wait::wait_until;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The user that a process runs as, in the host's ids.
fn host_uid(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().next()?.parse().ok())
        .expect("Linux says who")
}

/// One keep-alive client that asks until told to stop.
pub(crate) struct Client {
    port: u16,
    stream: Option<TcpStream>,
}

impl Client {
    /// A client of the edge at this port.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// One request; the body, or what went wrong.
    pub(crate) fn get(&mut self) -> Result<String, String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))
                    .map_err(|error| format!("connect: {error}"))?;
                stream
                    .set_read_timeout(Some(Duration::from_secs(30)))
                    .unwrap();
                self.stream.insert(stream)
            }
        };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: web.localhost:{}\r\n\r\n",
            self.port
        );
        stream
            .write_all(request.as_bytes())
            .map_err(|error| format!("send: {error}"))?;
        let (head, body) = read_response(stream)?;
        if head.to_ascii_lowercase().contains("connection: close") {
            self.stream = None;
        }
        if head.starts_with("HTTP/1.1 200") {
            Ok(body)
        } else {
            Err(head)
        }
    }
}

fn read_response(stream: &mut TcpStream) -> Result<(String, String), String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            });
            let length: usize = length.ok_or_else(|| format!("no content-length: {head}"))?;
            if body.len() >= length {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Err("connection closed in the middle".into()),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(error) => return Err(format!("read: {error}")),
        }
    }
}

#[test]
fn not_one_of_200_clients_sees_a_failure_while_a_second_release_rolls_out() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("first release"), "web:1");
    platform.push(&nginx("second release"), "web:2");
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "web:1",
        "--internal-port",
        "80",
        "--yes",
    ]);
    assert_eq!(platform.get("web", "/"), (200, "first release".into()));

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let second = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let (stop, answered, second) = (stop.clone(), answered.clone(), second.clone());
            let mut client = Client::new(platform.http_port);
            std::thread::spawn(move || -> Result<(), String> {
                while !stop.load(Ordering::Relaxed) {
                    let body = client.get()?;
                    match body.as_str() {
                        "first release" => {}
                        "second release" => drop(second.fetch_add(1, Ordering::Relaxed)),
                        other => return Err(format!("odd page: {other}")),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    // Bounded load: 200 clients, each at most 20 requests a second.
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            })
        })
        .collect();
    wait_until("clients to get going", Duration::from_secs(30), || {
        let n = answered.load(Ordering::Relaxed);
        if n > 1_000 { Ok(()) } else { Err(n) }
    });
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "web:2",
        "--internal-port",
        "80",
        "--yes",
    ]);
    wait_until(
        "clients to see the second release",
        Duration::from_secs(30),
        || {
            let n = second.load(Ordering::Relaxed);
            if n > 1_000 { Ok(()) } else { Err(n) }
        },
    );
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients
        .into_iter()
        .filter_map(|client| client.join().unwrap().err())
        .collect();
    assert_eq!(
        failures,
        Vec::<String>::new(),
        "of {} answers",
        answered.load(Ordering::Relaxed)
    );
    assert_eq!(
        platform.machine_pids("web").len(),
        1,
        "the old machine is gone"
    );
}

#[test]
fn a_broken_release_leaves_the_old_one_serving_and_says_why() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("good"), "web:good");
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "web:good",
        "--internal-port",
        "80",
        "--yes",
    ]);
    let before = platform.machine_pids("web");

    // A program that ends at once.
    let broken = nginx("broken").config("Cmd", json!(["/usr/sbin/nginx", "-c", "/no/such/file"]));
    platform.push(&broken, "web:broken");
    let output = platform
        .cli(&[
            "deploy",
            "-a",
            "web",
            "--image",
            "web:broken",
            "--internal-port",
            "80",
            "--yes",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/no/such/file"),
        "the last log lines are shown: {text}"
    );
    assert!(text.lines().count() < 60, "one screen: {text}");

    // A program on another port than the one that was named.
    let output = platform
        .cli(&[
            "deploy",
            "-a",
            "web",
            "--image",
            "web:good",
            "--internal-port",
            "8080",
            "--yes",
            "--wait-timeout",
            "5s",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(":80") && text.contains("8080"),
        "it says what listens where: {text}"
    );

    assert_eq!(platform.get("web", "/"), (200, "good".into()));
    assert_eq!(
        platform.machine_pids("web"),
        before,
        "the same machine serves"
    );
}

#[test]
fn a_release_can_be_rolled_back_and_its_secrets_reach_the_machine() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("one"), "web:1");
    platform.push(&nginx("two"), "web:2");
    platform.roost(&["apps", "create", "web"]);
    platform.roost(&["secrets", "set", "-a", "web", "GREETING=salve munde"]);
    for image in ["web:1", "web:2"] {
        platform.roost(&[
            "deploy",
            "-a",
            "web",
            "--image",
            image,
            "--internal-port",
            "80",
            "--yes",
        ]);
    }
    assert_eq!(platform.get("web", "/").1, "two");
    platform.roost(&["rollback", "-a", "web", "--yes"]);
    assert_eq!(platform.get("web", "/").1, "one");

    let secrets = platform.roost(&["secrets", "list", "-a", "web", "--json"]);
    assert!(
        secrets.contains("GREETING") && !secrets.contains("salve"),
        "write-only: {secrets}"
    );
    let shell = busybox().config("Cmd", json!(["/bin/httpd", "-f", "-p", "80", "-h", "/tmp"]));
    platform.push(&shell, "web:shell");
    platform.roost(&[
        "deploy",
        "-a",
        "web",
        "--image",
        "web:shell",
        "--internal-port",
        "80",
        "--yes",
    ]);
    let environment = platform.roost(&["exec", "-a", "web", "--", "/bin/cat", "/proc/1/environ"]);
    assert!(
        environment.contains("GREETING=salve munde"),
        "{environment}"
    );
}

#[test]
fn an_app_destroyed_while_it_runs_and_logs_makes_room_for_one_of_the_same_name_at_once() {
    const LIVES: [&str; 3] = ["first", "second", "third"];
    skip_unless_possible!();
    let platform = Platform::up();
    // It writes as fast as it may, and ignores all but a kill.
    let script =
        "trap '' TERM INT; (while true; do echo life $LIFE; done) & exec httpd -f -p 80 -h /tmp";
    let image = busybox().config("Cmd", json!(["/bin/sh", "-c", script]));
    platform.push(&image, "web:1");
    for life in LIVES {
        platform.roost(&["apps", "create", "web"]);
        platform.roost(&["secrets", "set", "-a", "web", &format!("LIFE={life}")]);
        platform.roost(&[
            "deploy",
            "-a",
            "web",
            "--image",
            "web:1",
            "--internal-port",
            "80",
            "--yes",
        ]);
        let logs = platform.roost(&["logs", "-a", "web", "--no-tail", "--limit", "10000"]);
        assert!(logs.contains(&format!("life {life}")), "its own: {logs}");
        let n_lives = LIVES.iter().filter(|other| logs.contains(*other)).count();
        assert_eq!(n_lives, 1, "and nobody else's: {logs}");
        platform.roost(&["apps", "destroy", "web", "--yes"]);
        assert!(!platform.data_dir().join("logs/web").exists());
    }
}

#[test]
fn redis_from_debian_runs_as_its_own_user() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&redis(), "cache:1");
    platform.roost(&["apps", "create", "cache"]);
    platform.roost(&[
        "deploy",
        "-a",
        "cache",
        "--image",
        "cache:1",
        "--internal-port",
        "6379",
        "--yes",
    ]);
    let pong = platform.roost(&["exec", "-a", "cache", "--", "/usr/bin/redis-cli", "ping"]);
    assert_eq!(pong.trim(), "PONG");
    let pid = platform.machine_pids("cache").into_values().next().unwrap();
    // User `redis` is 100 in the image; machines have 65,536 ids each, from 1,000,000.
    let above = host_uid(pid)
        .checked_sub(1_000_000)
        .expect("not a user of the host");
    assert_eq!(above % 65_536, 100);
}

#[test]
fn stock_tools_pull_what_was_pushed() {
    skip_unless_possible!();
    let platform = Platform::up();
    let image = ImageBuilder::new()
        .files(&[("hello.txt", 0o644, b"hi")])
        .config("Cmd", json!(["/hello"]));
    platform.push(&image, "team/tool:v1");
    let target = platform.scratch().join("pulled");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false"])
        .arg(format!("--src-creds=roost:{}", platform.token()))
        .arg(format!(
            "docker://127.0.0.1:{}/team/tool:v1",
            platform.api_port
        ))
        .arg(format!("oci:{}:latest", target.display())));
    assert!(target.join("index.json").exists());
    let refused = Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--src-creds=roost:wrong",
        ])
        .arg(format!(
            "docker://127.0.0.1:{}/team/tool:v1",
            platform.api_port
        ))
        .arg(format!("oci:{}:again", target.display()))
        .output()
        .unwrap();
    assert!(!refused.status.success());
}

#[test]
fn a_saved_image_is_deployed_from_a_folder_and_from_each_kind_of_archive() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.roost(&["apps", "create", "web"]);
    let path = |name: &str| platform.scratch().join(name).display().to_string();
    let copy = |from: String, to: String| {
        run(Command::new("skopeo").args(["copy", "--quiet", &from, &to]));
    };
    let deploy = |flags: &[&str]| {
        let port = ["--internal-port", "80", "--yes"];
        let mut command = platform.cli(&["deploy", "-a", "web"]);
        command.args(flags).args(port);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let assert_serves = |flags: &[&str], page: &str| {
        let (code, text) = deploy(flags);
        assert_eq!(code, Some(0), "{flags:?}: {text}");
        assert_eq!(platform.get("web", "/"), (200, page.into()), "{flags:?}");
    };
    for (folder, page) in [("one", "the first"), ("two", "the second")] {
        nginx(page).write_layout(&platform.scratch().join(folder));
    }
    let (one, two) = (path("one"), path("two"));
    assert_serves(&["--archive", &one], "the first");
    copy(
        format!("oci:{two}:latest"),
        format!("docker-archive:{}:web:2", path("saved.tar")),
    );
    assert_serves(&["--archive", &path("saved.tar")], "the second");
    copy(
        format!("oci:{one}:latest"),
        format!("oci-archive:{}", path("oci.tar")),
    );
    assert_serves(&["--archive", &path("oci.tar")], "the first");

    // Two images in one layout: it must be said which one.
    copy(format!("oci:{two}:latest"), format!("oci:{one}:second"));
    let (code, text) = deploy(&["--archive", &one]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("latest, second") && text.contains("--archive-image"),
        "{text}"
    );
    let before = platform.machine_pids("web");
    let odd = busybox().architecture("s390x");
    odd.write_layout(&platform.scratch().join("odd"));
    std::fs::write(path("text"), "no archive").unwrap();
    for (name, word, expected) in [
        ("odd", "linux/s390x", 1),
        ("text", "not a whole archive", 1),
        ("none", "is not there", 2),
    ] {
        let (code, text) = deploy(&["--archive", &path(name)]);
        assert_eq!(code, Some(expected), "{name}: {text}");
        assert!(text.contains(word), "{name}: {text}");
    }
    assert_eq!(platform.machine_pids("web"), before, "nothing was changed");
    let second = ["--archive", &one, "--archive-image", "second"];
    assert_serves(&second, "the second");
}

#[test]
fn a_deploy_tells_of_the_pull_and_the_release_shows_the_name_that_was_given() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&nginx("page"), "team/web:1");
    let image = format!("localhost:{}/team/web:1", platform.api_port);
    let output = run(platform
        .cli(&["deploy", "-a", "web", "--image", &image])
        .args(["--internal-port", "80", "--yes"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = format!("the platform has the image {image}, ");
    assert!(text.contains(&told), "{text}");
    let releases = platform.roost_json(&["releases", "-a", "web"]);
    assert_eq!(releases[0]["image"], json!(image));
    let digest = releases[0]["image_digest"].as_str().unwrap();
    let pinned = format!("{image}@{digest}");
    assert_eq!(releases[0]["config"]["image"], json!(pinned));

    let mut nowhere = platform.cli(&["deploy", "-a", "web", "--image", "localhost:1/none"]);
    let output = nowhere.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("code: registry-unavailable"), "{text}");
}

#[test]
fn a_dockerfile_builds_on_an_image_of_the_built_in_registry() {
    skip_unless_possible!();
    let platform = Platform::up();
    platform.push(&busybox(), "base/busybox:1");
    let folder = platform.scratch().join("web");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("page.html"), "from a build").unwrap();
    let dockerfile = format!(
        "FROM localhost:{}/base/busybox:1\nCOPY page.html /www/page.html\n\
         RUN /bin/busybox cp /www/page.html /www/index.html\n\
         CMD [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n",
        platform.api_port
    );
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    let folder = folder.display().to_string();
    let deploy = ["deploy", &folder, "-a", "web", "--internal-port", "80"];
    platform.roost(&deploy);
    assert_eq!(platform.get("web", "/"), (200, "from a build".into()));

    let dockerfile = format!("FROM localhost:{}/base/none:1\n", platform.api_port);
    std::fs::write(Path::new(&folder).join("Dockerfile"), dockerfile).unwrap();
    let output = platform.cli(&deploy).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("base/none"), "{text}");
    assert_eq!(platform.get("web", "/"), (200, "from a build".into()));
}
