//! `secrets`: values go in and never come out.

use crate::args::{Global, SecretsCommand, ThenDeploy};
use crate::client::{Client, NOTHING};
use crate::commands::ops;
use crate::deploy;
use crate::error::CliError;
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_model::name::SecretName;
use roost_proto::rest::{App, Deployment, SecretList, SetSecretsRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

/// Most bytes that are read from standard input.
const STDIN_BYTES_MAX: u64 = 1024 * 1024;

/// Runs `secrets …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: SecretsCommand,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    let path = format!("/v1/apps/{name}/secrets");
    let (values, then) = match command {
        SecretsCommand::List => {
            let list: SecretList = client.get(&path).await?;
            output.result(&list, || {
                let row = |secret: &roost_proto::rest::Secret| {
                    vec![
                        secret.name.clone(),
                        secret.digest.clone(),
                        date(secret.updated_at),
                    ]
                };
                table(
                    &["name", "digest", "changed"],
                    list.secrets.iter().map(row).collect(),
                )
            });
            return Ok(());
        }
        SecretsCommand::Set { pairs, then } => (from_pairs(&pairs)?, then),
        SecretsCommand::Unset { names, then } => (removals(&names)?, then),
        SecretsCommand::Import { then } => (from_lines(&read_stdin()?)?, then),
    };
    let before: SecretList = client.get(&path).await?;
    if global.dry_run {
        if then.deploy {
            ops::check_none_under_way(client, &name).await?;
        }
        plan(&name, &before, &values, then, output);
        return Ok(());
    }
    let request = SetSecretsRequest { values };
    let after: SecretList = client.post(&path, Some(&request)).await?;
    for name in request.values.iter().filter(|(_, value)| value.is_none()) {
        if !before.secrets.iter().any(|secret| secret.name == *name.0) {
            output.warn(&format!("{} was not set", name.0));
        }
    }
    let n_changed = count_changes(&before, &after);
    output.result(&after, || changed_text(n_changed));
    if then.deploy {
        return redeploy(client, global, &name, then, output).await;
    }
    if n_changed > 0 {
        output.say(&format!(
            "machines of {name} that run get this at its next deploy; --deploy with this command does one at once"
        ));
    }
    Ok(())
}

/// Says which names would be set or removed. Whether a value is new only the platform knows.
fn plan(
    app: &str,
    before: &SecretList,
    values: &BTreeMap<String, Option<String>>,
    then: ThenDeploy,
    output: Output,
) {
    let has = |name: &str| before.secrets.iter().any(|secret| secret.name == name);
    let (mut set, mut unset) = (Vec::new(), Vec::new());
    let mut lines = Vec::new();
    for (name, value) in values {
        match (value, has(name)) {
            (Some(_), true) => lines.push(format!("set {name}, which exists")),
            (Some(_), false) => lines.push(format!("set {name}, which is new")),
            (None, true) => lines.push(format!("remove {name}")),
            (None, false) => output.warn(&format!("{name} was not set")),
        }
        let list = if value.is_some() {
            &mut set
        } else {
            &mut unset
        };
        list.push(name);
    }
    if then.deploy {
        lines.push(format!("deploy the current release of {app} again"));
    }
    let details =
        serde_json::json!({"app": app, "set": set, "unset": unset, "deploy": then.deploy});
    let text = if lines.is_empty() {
        "change nothing".to_owned()
    } else {
        lines.join("\nwould ")
    };
    output.plan("secrets", details, &text);
}

fn removals(names: &[String]) -> Result<BTreeMap<String, Option<String>>, CliError> {
    names
        .iter()
        .map(|name| checked(name).map(|name| (name, None)))
        .collect()
}

/// Secrets that are new, gone or of another value.
fn count_changes(before: &SecretList, after: &SecretList) -> usize {
    let find = |list: &SecretList, name: &str| {
        let secret = list.secrets.iter().find(|secret| secret.name == name);
        secret.map(|secret| secret.digest.clone())
    };
    let names: BTreeSet<&str> = [before, after]
        .iter()
        .flat_map(|list| list.secrets.iter())
        .map(|secret| secret.name.as_str())
        .collect();
    names
        .iter()
        .filter(|name| find(before, name) != find(after, name))
        .count()
}

fn changed_text(n_changed: usize) -> String {
    match n_changed {
        0 => "no secret changed".into(),
        1 => "1 secret changed".into(),
        n => format!("{n} secrets changed"),
    }
}

/// Gives the machines of the current release the secrets as they are now.
async fn redeploy(
    client: &Client,
    global: &Global,
    name: &str,
    then: ThenDeploy,
    output: Output,
) -> Result<(), CliError> {
    let app: App = client.get(&format!("/v1/apps/{name}")).await?;
    if app.current_release.is_none() {
        output.say(&format!(
            "{name} was never deployed: its first machines will have them"
        ));
        return Ok(());
    }
    let deployment: Deployment = client
        .create(&format!("/v1/apps/{name}/redeploy"), NOTHING)
        .await?;
    output.say(&format!(
        "release {} of {name}, for its secrets",
        deployment.release
    ));
    deploy::leave_or_see_through(client, global, deployment, &app, then.detach, output).await
}

fn checked(name: &str) -> Result<String, CliError> {
    SecretName::parse(name)
        .map(String::from)
        .map_err(|error| CliError::usage(error.to_string()))
}

fn read_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    let n_bytes = std::io::stdin()
        .take(STDIN_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| CliError::io("read standard input", &error))?;
    if n_bytes as u64 > STDIN_BYTES_MAX {
        return Err(CliError::usage(format!(
            "standard input has more than {STDIN_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

fn from_pairs(pairs: &[String]) -> Result<BTreeMap<String, Option<String>>, CliError> {
    let mut values = BTreeMap::new();
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=') else {
            // The text itself may be a secret: do not print it.
            return Err(CliError::usage(
                "a secret is given as NAME=VALUE, and one has no `=`",
            ));
        };
        let value = if value == "-" {
            read_stdin()?
        } else {
            value.to_owned()
        };
        values.insert(checked(name)?, Some(value));
    }
    Ok(values)
}

/// Reads `.env` lines: comments, `export`, quotes around values.
fn from_lines(text: &str) -> Result<BTreeMap<String, Option<String>>, CliError> {
    let mut values = BTreeMap::new();
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            return Err(CliError::usage(format!(
                "line {} of standard input is not NAME=VALUE",
                idx + 1
            )));
        };
        let value = value.trim();
        let unquoted = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        values.insert(
            checked(name.trim())?,
            Some(unquoted.unwrap_or(value).to_owned()),
        );
    }
    if values.is_empty() {
        return Err(CliError::usage("standard input has no NAME=VALUE lines"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::{from_lines, from_pairs};

    #[test]
    fn env_files_are_read_and_faults_do_not_print_values() {
        let values = from_lines("# c\nexport A=1\nB=\"x y\"\n\nC='='\n").unwrap();
        assert_eq!(values["A"].as_deref(), Some("1"));
        assert_eq!(values["B"].as_deref(), Some("x y"));
        assert_eq!(values["C"].as_deref(), Some("="));
        assert!(from_lines("").is_err());
        let error = from_pairs(&["hunter2".into()]).unwrap_err();
        assert!(!error.render().contains("hunter2"));
        assert!(
            !from_lines("hunter2")
                .unwrap_err()
                .render()
                .contains("hunter2")
        );
        assert!(from_pairs(&["FLY_X=1".into()]).is_err());
    }
}
