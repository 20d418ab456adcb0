//! The `roostd` program of this host, as `up`, `down` and `doctor` call it.

use crate::error::CliError;
use crate::output::{Output, table};
use crate::up_options::Options;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where `roostd` is: beside this program, else in PATH.
pub(crate) fn find() -> Result<PathBuf, CliError> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("roostd")));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&in_path).map(|folder| folder.join("roostd")))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            CliError::failed(
                "roostd-not-found",
                "the program roostd is neither beside roost nor in PATH",
            )
            .hint("install both from the same archive")
        })
}

/// Runs `roostd` with a subcommand that prints JSON; the exit code does not matter when it does.
pub(crate) async fn json(args: &[&str]) -> Result<serde_json::Value, CliError> {
    let program = find()?;
    let output = tokio::process::Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| CliError::io(format!("run {}", program.display()), &error))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let mut error = CliError::failed(
            "roostd-failed",
            format!("`roostd {}` failed ({})", args.join(" "), output.status),
        );
        error.details = String::from_utf8_lossy(&output.stderr)
            .lines()
            .map(str::to_owned)
            .collect();
        error
    })
}

/// Starts `roostd` in a session of its own, so that it outlives this command and its terminal.
pub(crate) fn start(args: &[String], log: &Path) -> Result<Child, CliError> {
    let program = find()?;
    let open = || {
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
    };
    let on_log = |error| CliError::io(format!("open {}", log.display()), &error);
    let (stdout, stderr) = (open().map_err(on_log)?, open().map_err(on_log)?);
    Command::new("setsid")
        .arg(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|error| CliError::io(format!("start setsid {}", program.display()), &error))
}

/// One line of the host check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: String,
    /// `pass`, `warn` or `fail`.
    pub(crate) status: String,
    /// What was found.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) fix: Option<String>,
}

/// The checks in an answer of `roostd doctor --json`.
pub(crate) fn checks(value: &serde_json::Value) -> Vec<Check> {
    let text = |item: &serde_json::Value, names: &[&str]| {
        names
            .iter()
            .find_map(|name| item.get(name)?.as_str())
            .map(str::to_owned)
    };
    let list = value
        .get("checks")
        .unwrap_or(value)
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .map(|item| Check {
            name: text(item, &["name", "id"]).unwrap_or_default(),
            status: text(item, &["status", "result"])
                .unwrap_or_default()
                .to_lowercase(),
            detail: text(item, &["detail", "message", "found", "output"]).unwrap_or_default(),
            fix: text(item, &["fix", "hint"]),
        })
        .collect()
}

/// Prints checks as a table with the fixes under it.
pub(crate) fn render(checks: &[Check]) -> String {
    let rows = checks
        .iter()
        .map(|check| {
            vec![
                check.status.clone(),
                check.name.clone(),
                check.detail.clone(),
            ]
        })
        .collect();
    let mut text = table(&["", "check", "found"], rows);
    for check in checks.iter().filter(|check| check.status != "pass") {
        if let Some(fix) = &check.fix {
            text.push_str(&format!("\nfix {}: {fix}", check.name));
        }
    }
    text
}

/// Has `roostd` check this host for a platform with these options.
pub(crate) async fn doctor(
    data_dir: &Path,
    options: Option<&Options>,
    output: Output,
) -> Result<Vec<Check>, CliError> {
    let mut args = vec!["doctor".to_owned(), "--json".to_owned()];
    args.extend(["--data-dir".to_owned(), data_dir.display().to_string()]);
    args.extend(options.map(Options::of_doctor).unwrap_or_default());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let value = output.wait("the check of this host", json(&args)).await?;
    Ok(checks(&value))
}
