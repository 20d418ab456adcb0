//! Where settings come from, and what the terminal is told, with the real program.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn roost(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roost"))
        .args(args)
        .env_clear()
        .env("HOME", folder.join("home"))
        .envs(variables.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A folder with a project and a user file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let user = dir.path().join("home/.config/roost");
    std::fs::create_dir_all(&user).unwrap();
    std::fs::write(user.join("config.toml"), "api_url = 'http://127.0.0.1:3'\n").unwrap();
    std::fs::write(
        dir.path().join("roost.toml"),
        "app = 'of-project'\n[build]\nimage = 'x'\n",
    )
    .unwrap();
    dir
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_files() {
    let dir = folder();
    let api_url = |args: &[&str], variables: &[(&str, &str)]| {
        let output = roost(
            dir.path(),
            &[&["version", "--json"], args].concat(),
            variables,
        );
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["api_url"].as_str().unwrap().to_owned()
    };
    let variable = [("ROOST_API_URL", "http://127.0.0.1:2")];
    assert_eq!(
        api_url(&["--api-url", "http://127.0.0.1:1"], &variable),
        "http://127.0.0.1:1"
    );
    assert_eq!(api_url(&[], &variable), "http://127.0.0.1:2");
    assert_eq!(api_url(&[], &[]), "http://127.0.0.1:3");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("roost")).unwrap();
    let file = elsewhere.join("roost/config.toml");
    std::fs::write(file, "api_url = 'http://127.0.0.1:4'\n").unwrap();
    let xdg = [("XDG_CONFIG_HOME", elsewhere.to_str().unwrap())];
    assert_eq!(api_url(&[], &xdg), "http://127.0.0.1:4");
    assert_eq!(
        api_url(&[], &[("HOME", "/nonexistent")]),
        "http://127.0.0.1:4280"
    );

    let app = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["deploy", "--dry-run", "--json"], args].concat();
        let output = roost(dir.path(), &args, variables);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        value["app"].as_str().unwrap().to_owned()
    };
    let variable = [("ROOST_APP", "of-variable")];
    assert_eq!(app(&["-a", "of-flag"], &variable), "of-flag");
    assert_eq!(app(&[], &variable), "of-variable");
    assert_eq!(app(&[], &[]), "of-project");
}

#[test]
fn what_is_wrong_with_a_command_line_is_told_in_the_same_form_as_other_errors() {
    let dir = folder();
    for (args, hint) in [
        (
            &["depoly"][..],
            "hint: a similar subcommand exists: 'deploy'",
        ),
        (
            &["status", "--jsn"],
            "hint: a similar argument exists: '--json'",
        ),
        (
            &["machines", "stop"],
            "hint: the usage is: roost machines stop",
        ),
        (
            &["apps", "destroy"],
            "hint: the usage is: roost apps destroy",
        ),
        (&["down", "--data-dir", "home/.config"], "error: "),
        (&["launch", "home"], "error: "),
    ] {
        let output = roost(dir.path(), args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.starts_with("error: ") && text.contains(hint),
            "{args:?}: {text}"
        );
        assert!(text.ends_with("\ncode: usage\n"), "{args:?}: {text}");
    }
}

#[test]
fn a_command_that_is_missing_is_an_object_wherever_json_was_asked_for() {
    let dir = folder();
    for args in [&["--json", "machines"], &["machines", "--json"]] {
        let output = roost(dir.path(), args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["code"], "usage", "{args:?}");
        assert_eq!(
            error["hints"][0], "the usage is: roost machines [OPTIONS] <COMMAND>",
            "{args:?}"
        );
    }
}
