//! Checks that run a command in the machine.

use super::text::excerpt;
use super::{Answer, Target};
use roost_model::error::chain;
use roost_proto::worker::{ExecCommand, ExecOutcome};
use std::time::Duration;

/// Runs it once. The driver kills it when its time is up, or when the future
/// is dropped, and cuts its output.
pub(super) async fn run(target: &Target, command: &[String], timeout: Duration) -> Answer {
    let driver = target.driver.as_ref().map_err(|error| chain(error))?;
    let command = ExecCommand {
        command: command.to_vec(),
        stdin: vec![],
        timeout,
    };
    let outcome = driver.exec(&target.id, command).await;
    verdict(&outcome.map_err(|error| format!("cannot run: {}", chain(&error)))?)
}

fn verdict(outcome: &ExecOutcome) -> Answer {
    // What a command that fails says is rather on its standard error.
    let (first, second) = match outcome.exit_code {
        0 => (&outcome.stdout, &outcome.stderr),
        _ => (&outcome.stderr, &outcome.stdout),
    };
    let output = [excerpt(first), excerpt(second)];
    let output = output.iter().find(|text| !text.is_empty());
    let text = match output {
        Some(output) => format!("exit code {}: {output}", outcome.exit_code),
        None => format!("exit code {}", outcome.exit_code),
    };
    match outcome.exit_code {
        0 => Ok(text),
        _ => Err(text),
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use roost_proto::worker::ExecOutcome;

    #[test]
    fn the_exit_code_decides_and_the_output_is_shown() {
        let outcome = |exit_code, stdout: &str, stderr: &str| ExecOutcome {
            exit_code,
            stdout: stdout.into(),
            stderr: stderr.into(),
            truncated: false,
        };
        assert_eq!(
            verdict(&outcome(0, "PONG\n", "x")),
            Ok("exit code 0: PONG".into())
        );
        assert_eq!(
            verdict(&outcome(1, "out", "bad\n")),
            Err("exit code 1: bad".into())
        );
        assert_eq!(verdict(&outcome(2, "", "")), Err("exit code 2".into()));
    }
}
