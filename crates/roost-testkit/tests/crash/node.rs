//! One platform whose `roostd` is a child of the test, so that its end is seen.

use roost_host::instance::InstanceTag;
use roost_testkit::images::busybox;
use roost_testkit::platform::Platform;
use roost_testkit::wait::wait_until;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The app of all machines.
pub(crate) const APP: &str = "web";
/// How long `roostd` may take to come up on a loaded host.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A platform and its `roostd`.
pub(crate) struct Node {
    // Before the platform, so that it is dead and reaped when that is taken down.
    roostd: Child,
    pub(crate) platform: Platform,
    pub(crate) tag: InstanceTag,
    args: Vec<String>,
    token: String,
}

impl Node {
    /// A platform with an image and an app.
    pub(crate) fn new() -> Self {
        let platform = Platform::up();
        // As its first process, this server does not hear a gentler signal.
        let image = busybox()
            .files(&[("srv/index.html", 0o644, b"hello")])
            .config(
                "Cmd",
                json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/srv"]),
            )
            .config("StopSignal", json!("SIGKILL"));
        platform.push(&image, "box:1");
        platform.push(&image.config("Env", json!(["PATH=/bin", "N=2"])), "box:2");
        platform.roost(&["apps", "create", APP]);
        let command = fs::read(format!("/proc/{}/cmdline", platform.roostd_pid())).unwrap();
        let command = String::from_utf8(command).unwrap();
        let args: Vec<String> = command.split_terminator('\0').map(str::to_owned).collect();
        platform.kill_roostd();
        let crash_dir = platform.scratch();
        let mut node = Self {
            roostd: spawn(&args, &crash_dir, &platform),
            tag: InstanceTag::of_data_dir(&platform.data_dir()),
            token: platform.token(),
            platform,
            args,
        };
        assert!(node.is_ready(), "roostd ended at once");
        node
    }

    /// What the death at a point is planned in, and what was passed.
    fn crash_file(&self, name: &str) -> PathBuf {
        self.platform.scratch().join(name)
    }

    /// From now on points are recorded, and `point` kills.
    pub(crate) fn plan(&self, point: &str) {
        self.forget_plan();
        // In one step: roostd may read at any time.
        let new = self.crash_file("plan.new");
        fs::write(&new, point).unwrap();
        fs::rename(new, self.crash_file("plan")).unwrap();
    }

    /// From now on points are passed by.
    pub(crate) fn forget_plan(&self) {
        for name in ["plan", "passed"] {
            drop(fs::remove_file(self.crash_file(name)));
        }
    }

    /// The points that were passed since the plan was made.
    pub(crate) fn passed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.crash_file("passed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether `roostd` was killed.
    pub(crate) fn was_killed(&mut self) -> bool {
        match self.roostd.try_wait().unwrap() {
            None => false,
            Some(status) if status.signal() == Some(9) => true,
            Some(status) => panic!(
                "roostd ended by itself: {status}\n{}",
                self.platform.log_tail()
            ),
        }
    }

    /// Kills `roostd` from outside.
    pub(crate) fn kill(&mut self) {
        self.roostd.kill().unwrap();
        self.roostd.wait().unwrap();
    }

    /// Starts `roostd`, which is dead; `false` when it is killed before it is ready.
    pub(crate) fn start(&mut self) -> bool {
        self.roostd = spawn(&self.args, &self.platform.scratch(), &self.platform);
        self.is_ready()
    }

    fn is_ready(&mut self) -> bool {
        wait_until("roostd to be ready", START_LIMIT, || {
            if self.was_killed() {
                return Ok(false);
            }
            match self.call("GET", "/healthz", None, &Value::Null) {
                Some((200, _)) => Ok(true),
                other => Err(other),
            }
        })
    }

    /// One request; `None` when there is no whole answer.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Option<(u16, Value)> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{key}\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let (head, body) = exchange(self.platform.api_port, &request)?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    /// The status of an answer of the app at the edge.
    pub(crate) fn edge_status(&self) -> Option<String> {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {APP}.localhost\r\nConnection: close\r\n\r\n");
        let (head, _) = exchange(self.platform.http_port, &request)?;
        head.split(' ').nth(1).map(str::to_owned)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already.
        drop(self.roostd.kill());
        drop(self.roostd.wait());
    }
}

fn spawn(args: &[String], crash_dir: &std::path::Path, platform: &Platform) -> Child {
    let log = platform.data_dir().join("roostd.log");
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    Command::new(&args[0])
        .args(&args[1..])
        .env("ROOST_CRASH_DIR", crash_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Head and body of one answer on a connection of its own.
fn exchange(port: u16, request: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(START_LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
