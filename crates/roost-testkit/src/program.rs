//! Finding and running the real programs.

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output};

/// The folder with the programs of this build: `target/debug`.
pub fn build_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    // target/debug/deps/e2e-0123 and target/release/examples/bench → target/<profile>
    program
        .ancestors()
        .nth(2)
        .expect("tests and examples lie one folder below the programs")
        .to_owned()
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_dir
        .ancestors()
        .nth(2)
        .expect("crates/roost-testkit lies in the checkout")
        .to_owned()
}

/// A program of this build; panics with the remedy when it was not built.
pub fn built(name: &str) -> PathBuf {
    let path = build_dir().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make test`, or `make guest` and `cargo build`",
        path.display()
    );
    path
}

/// Why end-to-end tests cannot run here; `None` when they can.
pub fn why_not() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root: machines need namespaces, mounts and cgroups".into());
    }
    ["nft", "skopeo", "mmdebstrap"]
        .into_iter()
        .find(|name| find_in_path(name).is_none())
        .map(|name| format!("`{name}` is not installed: run `scripts/setup --tests`"))
}

/// Looks a program up as a shell would.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.exists())
}

/// Runs a command to its end; panics with its output when it fails.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A program in the background. Dropping it kills it, so that a test that fails leaves nothing behind.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it; panics when it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self(child)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("process ids are positive")
    }

    /// Its standard input, once, if it was started with a pipe.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Kills it and waits until it is gone.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns from the test with a printed reason when it cannot run here.
#[macro_export]
macro_rules! skip_unless_possible {
    () => {
        if let Some(reason) = $crate::program::why_not() {
            println!("skipped: {reason}");
            return;
        }
    };
}
