//! `roost up` and `roost down`: a one-node platform on this machine.

use crate::args::{DeployArgs, DownArgs, Global, UpArgs};
use crate::client::Client;
use crate::deploy::{self, Unchanged};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::Output;
use crate::ports;
use crate::roostd;
use crate::settings::{Target, write_private};
use crate::up_options::Options;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

/// Lines of `roostd`'s log that are shown when it does not start.
const LOG_TAIL_LINES: usize = 15;

/// Runs `up`.
pub(crate) async fn run(global: &Global, args: &UpArgs, output: Output) -> Result<(), CliError> {
    let data_dir = std::path::absolute(&args.data_dir)
        .map_err(|error| CliError::io("look at the data directory", &error))?;
    if let Some(folder) = &args.deploy {
        deploy::check_folder(folder)?;
    }
    let remembered = Options::read(&data_dir)?;
    let options = Options::choose(args, remembered.as_ref());
    options.check()?;
    // Also one that does not answer.
    let is_restart = args.restart && data_dir.join("roostd.pid").is_file();
    let is_new = match running(&data_dir).await {
        _ if is_restart => {
            check_host(&data_dir, &options, output).await?;
            if global.dry_run {
                return plan(&options, args, &data_dir, output);
            }
            start(&options, &data_dir, output, &["--take-over"]).await?;
            true
        }
        Some(_) => {
            output.say(&format!(
                "roostd runs already with its data in {}: nothing to do",
                data_dir.display()
            ));
            warn_of_changes(&options, remembered.as_ref(), &data_dir, output);
            false
        }
        None if global.dry_run => {
            prepare(&options, &data_dir, output).await?;
            return plan(&options, args, &data_dir, output);
        }
        None => {
            prepare(&options, &data_dir, output).await?;
            start(&options, &data_dir, output, &[]).await?;
            true
        }
    };
    let token = read_token(&data_dir)?;
    // A platform that ran before may have been started with other ports than this command has now.
    let api_url = running(&data_dir)
        .await
        .unwrap_or_else(|| options.api_url());
    let client = Client::new(Target {
        api_url: api_url.clone(),
        token: Some(token),
    })?
    .read_only(global.dry_run);
    let mut url = None;
    if let Some(folder) = &args.deploy {
        output.say(&format!("deploy {}", folder.display()));
        let deploy_args = DeployArgs {
            folder: folder.clone(),
            ..DeployArgs::default()
        };
        let global = Global {
            config: None,
            app: None,
            ..global.clone()
        };
        url = deploy::run(&client, &global, &deploy_args, output, Unchanged::Leave).await?;
    }
    if global.dry_run {
        return Ok(());
    }
    let env_file = data_dir.join("env.sh");
    let value = serde_json::json!({
        "type": "up", "started": is_new, "app_url": url, "api_url": api_url, "data_dir": data_dir, "env_file": env_file,
    });
    output.result(&value, || summary(url.as_deref(), &api_url, &data_dir));
    Ok(())
}

/// The API's URL, if the platform of this data directory answers.
async fn running(data_dir: &Path) -> Option<String> {
    if !data_dir.join("roostd.pid").is_file() {
        return None;
    }
    let text = std::fs::read_to_string(data_dir.join("env.sh")).ok()?;
    let url = text
        .lines()
        .find_map(|line| line.strip_prefix("export ROOST_API_URL="))?
        .trim_matches('\'')
        .to_owned();
    let client = Client::new(Target {
        api_url: url.clone(),
        token: None,
    })
    .ok()?;
    client.is_healthy().await.then_some(url)
}

async fn check_host(data_dir: &Path, options: &Options, output: Output) -> Result<(), CliError> {
    let since = Instant::now();
    output.say("host check");
    let checks = roostd::doctor(data_dir, Some(options), output).await?;
    output.say(&roostd::render(&checks));
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.status == "fail")
        .collect();
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|check| check.name.as_str()).collect();
        let mut error = CliError::failed(
            "host-not-ready",
            format!("this host cannot run roost yet: {}", names.join(", ")),
        );
        error.hints = failed
            .iter()
            .filter_map(|check| check.fix.clone())
            .collect();
        return Err(error);
    }
    output.step("host checked", since);
    Ok(())
}

/// A platform that runs keeps its options, and nobody should believe otherwise.
fn warn_of_changes(asked: &Options, has: Option<&Options>, data_dir: &Path, output: Output) {
    let changes = has.map(|has| asked.changes(has)).unwrap_or_default();
    if !changes.is_empty() {
        let dir = data_dir.display();
        output.warn(&format!(
            "it keeps the options it was started with; these need a restart: {}. Run this again \
             with `--restart --data-dir {dir}`",
            changes.join(", ")
        ));
    }
}

/// Says what a platform would be started with.
fn plan(options: &Options, args: &UpArgs, data_dir: &Path, output: Output) -> Result<(), CliError> {
    let command = options.of_roostd(data_dir);
    let details =
        serde_json::json!({"data_dir": data_dir, "roostd": command, "deploy": args.deploy});
    let mut text = format!("run roostd {}", command.join(" "));
    if let Some(folder) = &args.deploy {
        text.push_str(&format!("\nwould deploy {}", folder.display()));
    }
    output.plan("up", details, &text);
    Ok(())
}

/// Checks all that a start needs, and says what it makes.
async fn prepare(args: &Options, data_dir: &Path, output: Output) -> Result<(), CliError> {
    check_host(data_dir, args, output).await?;
    let listen = args.listen.clone().unwrap_or_else(|| {
        if args.public_ip.is_some() {
            "0.0.0.0"
        } else {
            "127.0.0.1"
        }
        .into()
    });
    for (flag, port) in [
        ("--api-port", args.api_port),
        ("--http-port", args.http_port),
        ("--https-port", args.https_port),
    ] {
        ports::check_free(&listen, port, flag)?;
    }
    output.say(&format!(
        "what this makes\n  {}  databases, images, logs, keys\n  roostd in the background: API {}, HTTP {listen}:{}, HTTPS {listen}:{}\n  \
         one nftables table, one cgroup, and a network device per machine, all removed by `roost down`",
        data_dir.display(),
        args.api_url(),
        args.http_port,
        args.https_port
    ));
    Ok(())
}

/// Starts `roostd`, and waits until it is this one that answers.
async fn start(
    args: &Options,
    data_dir: &Path,
    output: Output,
    flags: &[&str],
) -> Result<(), CliError> {
    let since = Instant::now();
    std::fs::create_dir_all(data_dir)
        .map_err(|error| CliError::io(format!("create {}", data_dir.display()), &error))?;
    let log = data_dir.join("roostd.log");
    let mut command = args.of_roostd(data_dir);
    command.extend(flags.iter().map(|&flag| flag.to_owned()));
    let mut child = roostd::start(&command, &log)?;
    let api_url = args.api_url();
    let client = Client::new(Target {
        api_url: api_url.clone(),
        token: None,
    })?;
    let answer = wait_for_answer(&client, &mut child, data_dir, &log);
    output.wait("roostd to answer", answer).await?;
    output.step(&format!("roostd answers at {api_url}"), since);
    args.write(data_dir)?;
    write_env(args, data_dir, &api_url)
}

async fn wait_for_answer(
    client: &Client,
    child: &mut Child,
    data_dir: &Path,
    log: &Path,
) -> Result<(), CliError> {
    let since = Instant::now();
    while !(is_announced(child, data_dir) && client.is_healthy().await) {
        let ended = child
            .try_wait()
            .map_err(|error| CliError::io("look after roostd", &error))?;
        if ended.is_some() || since.elapsed() > limits::START_TIMEOUT {
            let what = ended.map_or_else(
                || "does not answer".to_owned(),
                |status| format!("ended at once ({status})"),
            );
            let mut error = CliError::failed(
                "roostd-not-started",
                format!("roostd {what}; its log is {}", log.display()),
            );
            error.details = tail(log);
            return Err(
                error.hint("`roost doctor` checks this host; `roost down` removes what is there")
            );
        }
        tokio::time::sleep(limits::RETRY_PAUSE).await;
    }
    Ok(())
}

/// Whether the platform's `roostd` is this process; before, the one that it replaces answers.
fn is_announced(child: &Child, data_dir: &Path) -> bool {
    std::fs::read_to_string(data_dir.join("roostd.pid"))
        .is_ok_and(|pid| pid.trim() == child.id().to_string())
}

fn tail(log: &Path) -> Vec<String> {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

fn read_token(data_dir: &Path) -> Result<String, CliError> {
    let path = data_dir.join("admin-token");
    let token = std::fs::read_to_string(&path).map_err(|error| {
        let error = CliError::io(format!("read the admin token {}", path.display()), &error);
        CliError {
            exit: Exit::NotAllowed,
            ..error
        }
        .hint("run it as the user who started the platform")
    })?;
    Ok(token.trim().to_owned())
}

fn write_env(args: &Options, data_dir: &Path, api_url: &str) -> Result<(), CliError> {
    let token = read_token(data_dir)?;
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let text = format!(
        "export ROOST_API_URL={}\nexport ROOST_TOKEN={}\nexport ROOST_HTTP_PORT={}\nexport ROOST_HTTPS_PORT={}\nexport ROOST_DATA_DIR={}\n",
        quote(api_url),
        quote(&token),
        args.http_port,
        args.https_port,
        quote(&data_dir.to_string_lossy())
    );
    write_private(&data_dir.join("env.sh"), &text)
}

fn summary(url: Option<&str>, api_url: &str, data_dir: &Path) -> String {
    let dir = data_dir.display();
    let mut lines = Vec::new();
    if let Some(url) = url {
        lines.push(format!("app     {url}"));
    }
    lines.push(format!("API     {api_url}"));
    lines.push(format!(
        "token   in {dir}/admin-token; for this shell: . {dir}/env.sh"
    ));
    lines.push(
        "add     `roost launch` in the folder of an app, or `roost launch --image NAME`".into(),
    );
    lines.push(format!(
        "undo    roost down --data-dir {dir}   removes everything"
    ));
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let rule = "─".repeat(width + 2);
    let body: Vec<String> = lines
        .iter()
        .map(|line| format!("│ {line:<width$} │"))
        .collect();
    format!("┌{rule}┐\n{}\n└{rule}┘", body.join("\n"))
}

/// Runs `down`.
pub(crate) async fn down(global: &Global, args: &DownArgs, output: Output) -> Result<(), CliError> {
    let data_dir = std::path::absolute(&args.data_dir)
        .map_err(|error| CliError::io("look at the data directory", &error))?;
    if !data_dir.exists() {
        output.result(&serde_json::json!({"removed": []}), || {
            format!("{} does not exist: nothing to do", data_dir.display())
        });
        return Ok(());
    }
    // A folder that is not roost's is never emptied, whatever was typed.
    let marks: [PathBuf; 3] =
        ["roostd.pid", "admin-token", "env.sh"].map(|name| data_dir.join(name));
    let is_empty = std::fs::read_dir(&data_dir).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty && !marks.iter().any(|mark| mark.exists()) && !data_dir.join("roostd.log").exists()
    {
        return Err(CliError::usage(format!(
            "{} does not look like a data directory of roost",
            data_dir.display()
        )));
    }
    let what = if args.keep_data {
        "machines, devices and rules"
    } else {
        "machines, devices, rules and all data"
    };
    let text = format!("remove the platform in {}: {what}", data_dir.display());
    if global.dry_run {
        let details = serde_json::json!({"data_dir": data_dir, "keep_data": args.keep_data});
        output.plan("down", details, &text);
        return Ok(());
    }
    output.confirm(&text, "down")?;
    let since = Instant::now();
    let folder = data_dir.to_string_lossy().into_owned();
    let mut command = vec!["teardown", "--json", "--data-dir", &folder];
    if args.keep_data {
        command.push("--keep-data");
    }
    let removal = roostd::json(&command);
    let value = output
        .wait("roostd to remove what is there", removal)
        .await?;
    output.result(&value, || removed(&value));
    if let Some(faults) = value
        .get("errors")
        .or_else(|| value.get("left"))
        .and_then(serde_json::Value::as_array)
        && !faults.is_empty()
    {
        let mut error = CliError::failed("teardown-incomplete", "not everything could be removed");
        error.details = faults.iter().map(plain).collect();
        return Err(error);
    }
    output.step("removed", since);
    Ok(())
}

fn plain(value: &serde_json::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn removed(value: &serde_json::Value) -> String {
    let list = value.get("removed").unwrap_or(value);
    match (list.as_array(), list.as_object()) {
        (Some(items), _) => items
            .iter()
            .map(|item| format!("removed {}", plain(item)))
            .collect::<Vec<_>>()
            .join("\n"),
        (_, Some(members)) => members
            .iter()
            .map(|(name, count)| format!("{name}: {}", plain(count)))
            .collect::<Vec<_>>()
            .join("\n"),
        _ => plain(list),
    }
}

#[cfg(test)]
mod tests {
    use super::{down, summary};
    use crate::args::{Cli, Command};
    use crate::output::Output;
    use clap::Parser as _;
    use std::path::Path;

    #[test]
    fn the_box_names_url_api_token_and_undo() {
        let text = summary(
            Some("http://hello.localhost:8080"),
            "http://127.0.0.1:4280",
            Path::new("/d"),
        );
        for part in [
            "http://hello.localhost:8080",
            "http://127.0.0.1:4280",
            ". /d/env.sh",
            "roost launch",
            "roost down --data-dir /d",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[tokio::test]
    async fn down_does_not_touch_a_folder_that_is_not_roosts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let output = Output {
            json: false,
            quiet: true,
            verbose: false,
            yes: true,
        };
        let folder = dir.path().to_str().unwrap();
        let cli = Cli::parse_from(["roost", "down", "--data-dir", folder]);
        let Command::Down(args) = cli.command else {
            panic!("down")
        };
        let error = down(&cli.global, &args, output).await.unwrap_err();
        assert_eq!(error.exit as i32, 2);
        assert!(dir.path().join("thesis.txt").exists());
    }
}
