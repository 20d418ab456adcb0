//! A whole platform, started by the real `roost up` and ended by `roost down`.

use crate::images::{ImageBuilder, layout_dir};
use crate::program::{built, run};
use crate::wait::wait_until;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A one-node platform in a temporary folder. Dropping it takes it down.
#[derive(Debug)]
pub struct Platform {
    temp: tempfile::TempDir,
    /// The API's port.
    pub api_port: u16,
    /// The edge's HTTP port.
    pub http_port: u16,
    /// The edge's HTTPS port.
    pub https_port: u16,
}

/// A port that nothing listens on now, outside the range of outgoing connections.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let pid = u16::try_from(std::process::id() % 1_000).unwrap_or(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 18_000 + (pid * 11 + step) % 12_000;
        let is_free = ["127.0.0.1", "::1"]
            .iter()
            .all(|host| std::net::TcpListener::bind((*host, port)).is_ok());
        if is_free {
            return port;
        }
    }
}

impl Platform {
    /// Starts a platform and waits until it is ready.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// Starts a platform with more flags of `roost up`.
    pub fn up_with(flags: &[&str]) -> Self {
        let platform = Self::prepare();
        run(platform.up_command().args(flags));
        platform
    }

    /// Chooses folder and ports without starting anything.
    pub fn prepare() -> Self {
        let temp = tempfile::Builder::new()
            .prefix("roost-e2e-")
            .tempdir()
            .unwrap();
        Self {
            temp,
            api_port: free_port(),
            http_port: free_port(),
            https_port: free_port(),
        }
    }

    /// `roost up` with this platform's folder and ports.
    pub fn up_command(&self) -> Command {
        let mut command = self.bare_cli();
        command
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--api-port", &self.api_port.to_string()])
            .args(["--http-port", &self.http_port.to_string()])
            .args(["--https-port", &self.https_port.to_string()]);
        command
    }

    /// `roost down`, without asking.
    pub fn down(&self) -> Output {
        self.bare_cli()
            .args(["down", "--yes", "--data-dir"])
            .arg(self.data_dir())
            .output()
            .unwrap()
    }

    /// The platform's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    /// The folder of the platform's sockets.
    pub fn run_dir(&self) -> PathBuf {
        let facts = fs::read(self.data_dir().join("roostd.json")).expect("roostd wrote its facts");
        let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
        let tag = facts["tag"].as_str().expect("a tag");
        PathBuf::from(format!("/run/roost-{tag}"))
    }

    /// A folder for whatever the test needs; removed with the platform.
    pub fn scratch(&self) -> PathBuf {
        let path = self.temp.path().join("scratch");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// What `env.sh` exports.
    pub fn env(&self) -> BTreeMap<String, String> {
        let text =
            fs::read_to_string(self.data_dir().join("env.sh")).expect("roost up wrote env.sh");
        text.lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
            .collect()
    }

    /// The admin token.
    pub fn token(&self) -> String {
        self.env()["ROOST_TOKEN"].clone()
    }

    /// The `roost` command with nothing of the caller's surroundings.
    fn bare_cli(&self) -> Command {
        let mut command = Command::new(built("roost"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.temp.path())
            .current_dir(self.temp.path())
            .stdin(Stdio::null());
        command
    }

    /// The `roost` command, logged in.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = self.bare_cli();
        command.envs(self.env()).args(args);
        command
    }

    /// Runs the `roost` command; panics when it fails.
    pub fn roost(&self, args: &[&str]) -> String {
        let output = run(&mut self.cli(args));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the `roost` command with `--json` and reads the answer.
    pub fn roost_json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.roost(&args);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{args:?} printed no JSON ({error}): {text}"))
    }

    /// Pushes an image to the built-in registry with stock `skopeo`.
    pub fn push(&self, image: &ImageBuilder, name: &str) {
        let layout = layout_dir(self.temp.path(), &name.replace([':', '/'], "-"));
        image.write_layout(&layout);
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("--dest-creds=roost:{}", self.token()))
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.api_port)));
    }

    /// The process id of `roostd`.
    pub fn roostd_pid(&self) -> i32 {
        let text = fs::read_to_string(self.data_dir().join("roostd.pid"))
            .expect("roostd wrote its process id");
        text.trim().parse().unwrap()
    }

    /// Kills `roostd` as a crash would and waits until it is gone.
    pub fn kill_roostd(&self) {
        let pid = nix::unistd::Pid::from_raw(self.roostd_pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("roostd runs");
        wait_until("roostd to be gone", Duration::from_secs(10), || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A zombie waits for whoever started it; it does nothing any more, once
            // its other threads are gone: until then its files are open.
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            let n_threads = threads.map_or(0, Iterator::count);
            if state.is_empty() || (state.contains(") Z ") && n_threads <= 1) {
                Ok(())
            } else {
                Err(state)
            }
        });
    }

    /// The URL of an app at the edge, by address; send the app's name as `Host`.
    pub fn edge_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    /// One GET of an app through the edge: status and body.
    pub fn get(&self, app: &str, path: &str) -> (u16, String) {
        let host = format!("{app}.localhost:{}", self.http_port);
        let output = run(Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "60",
                "-w",
                "\n%{http_code}",
                "-H",
                &format!("Host: {host}"),
            ])
            .arg(self.edge_url(path)));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("curl wrote the status");
        (status.parse().unwrap(), body.to_owned())
    }

    /// The process ids of an app's machines that run, by machine id.
    pub fn machine_pids(&self, app: &str) -> BTreeMap<String, u64> {
        let machines = self.roost_json(&["machines", "list", "-a", app]);
        let list = machines
            .as_array()
            .cloned()
            .or_else(|| machines["machines"].as_array().cloned());
        list.expect("a list of machines")
            .iter()
            .filter_map(|machine| {
                Some((machine["id"].as_str()?.to_owned(), machine["pid"].as_u64()?))
            })
            .collect()
    }

    /// The end of `roostd`'s log, for messages.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.data_dir().join("roostd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(60).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of roostd.log ---\n{}", self.log_tail());
        }
        if self.data_dir().exists() {
            let output = self.down();
            if !output.status.success() && !std::thread::panicking() {
                panic!(
                    "roost down failed: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
}

/// Whether anything on the host still carries the marks of this data folder.
pub fn leftovers(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let marker = data_dir.display().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&marker) {
            found.push(format!(
                "process {name}: {}",
                String::from_utf8_lossy(&command).replace('\0', " ")
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&marker))
            .map(|line| format!("mount {line}")),
    );
    found
}
