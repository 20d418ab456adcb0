//! `secrets`: values go in and never come out.

use crate::args::{Global, SecretsCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_model::name::SecretName;
use roost_proto::rest::{SecretList, SetSecretsRequest};
use std::collections::BTreeMap;
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
    let path = format!("/v1/apps/{}/secrets", app_name(global)?);
    let values = match command {
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
        SecretsCommand::Set { pairs } => from_pairs(&pairs)?,
        SecretsCommand::Unset { names } => names
            .iter()
            .map(|name| checked(name).map(|name| (name, None)))
            .collect::<Result<_, _>>()?,
        SecretsCommand::Import => from_lines(&read_stdin()?)?,
    };
    let n_values = values.len();
    let answer: serde_json::Value = client
        .post(&path, Some(&SetSecretsRequest { values }))
        .await?;
    output.result(&answer, || {
        format!(
            "{n_values} secret{} changed; machines get them at the next deploy",
            if n_values == 1 { "" } else { "s" }
        )
    });
    Ok(())
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
