//! Following a deployment to its end, and telling how it ended.

use super::deadline::Deadline;
use crate::args::Global;
use crate::client::{Client, Lines, NOTHING};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::{Output, printable, seconds};
use crate::prove;
use roost_proto::rest::{App, Deployment, DeploymentStep};
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What it means when the URL of a finished release does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The app takes no traffic: there is nothing to ask.
    None,
    /// A warning: the machines are healthy, but the app may not speak HTTP, or this client may be elsewhere.
    Wanted,
    /// A failure.
    Required,
}

/// Whether nothing more will happen to a deployment.
pub(crate) fn is_over(deployment: &Deployment) -> bool {
    matches!(deployment.status.as_str(), "succeeded" | "failed")
}

/// Says that a deployment has begun, and leaves it to the platform.
pub(super) fn leave(deployment: &Deployment, output: Output) {
    let Deployment { id, app, .. } = deployment;
    output.result(deployment, || {
        format!("deploy {id} has begun; `roost ops watch -a {app} {id}` follows it")
    });
}

/// Follows a deployment, proves its URL, and says how it ended.
pub(crate) async fn see_through(
    client: &Client,
    deadline: Deadline,
    deployment: Deployment,
    before: &App,
    proof: Proof,
    output: Output,
) -> Result<Option<String>, CliError> {
    let finished = follow(client, deployment, deadline, output).await?;
    finish(finished, before, proof, output).await
}

/// What a command does with a deployment it began beside its own work: leaves
/// it with `is_detached`, else follows it. The URL of the app is asked for, too.
pub(crate) async fn leave_or_see_through(
    client: &Client,
    global: &Global,
    deployment: Deployment,
    before: &App,
    is_detached: bool,
    output: Output,
) -> Result<(), CliError> {
    if is_detached {
        leave(&deployment, output);
        return Ok(());
    }
    let deadline = Deadline::of(global);
    see_through(client, deadline, deployment, before, Proof::Wanted, output)
        .await
        .map(drop)
}

/// Prints steps as they happen until the deployment is over, the time is, or the user has enough.
async fn follow(
    client: &Client,
    deployment: Deployment,
    deadline: Deadline,
    output: Output,
) -> Result<Deployment, CliError> {
    let (app, id) = (deployment.app.clone(), deployment.id.clone());
    let carries_on = |what: &str| {
        let message = format!("{what}; the platform carries on with the deploy");
        CliError::new(Exit::StillRunning, "detached", message)
            .hint(format!("go on watching: `roost ops watch -a {app} {id}`"))
            .hint(format!("undo it: `roost ops cancel -a {app} {id}`"))
    };
    // Listens before the first step is told: from then on users press it.
    let presses = interrupts()?;
    let end = follow_to_end(client, deployment, 0, output);
    tokio::select! {
        result = deadline.wait(end, |gave_up| carries_on(&gave_up)) => result,
        interrupt = interrupt(presses, output) => match interrupt {
            Interrupt::Once => Err(carries_on("detached")),
            Interrupt::Twice => {
                let ended = cancel(client, &app, &id, deadline.anew(), output).await?;
                let message = format!("release {} of {app} was cancelled and undone", ended.release);
                Err(CliError::new(Exit::Interrupted, "deploy-cancelled", message)
                    .hint(format!("`roost status -a {app}` shows what serves")))
            }
        },
    }
}

/// Listens for Ctrl-C from now on.
fn interrupts() -> Result<Signal, CliError> {
    signal(SignalKind::interrupt()).map_err(|error| CliError::io("listen for Ctrl-C", &error))
}

/// How often the user pressed Ctrl-C.
enum Interrupt {
    Once,
    Twice,
}

/// Waits for Ctrl-C, then a moment for a second one.
async fn interrupt(mut presses: Signal, output: Output) -> Interrupt {
    presses.recv().await;
    output.say("  detaching; press Ctrl-C again to cancel the deploy instead");
    match tokio::time::timeout(limits::SECOND_INTERRUPT_TIMEOUT, presses.recv()).await {
        Ok(_) => Interrupt::Twice,
        Err(_) => Interrupt::Once,
    }
}

/// Cancels a deployment, and follows until it is undone, the time is over, or the user has enough.
pub(crate) async fn cancel(
    client: &Client,
    app: &str,
    id: &str,
    deadline: Deadline,
    output: Output,
) -> Result<Deployment, CliError> {
    let mut presses = interrupts()?;
    output.say(&format!("  cancelling deployment {id} of {app}"));
    let path = format!("/v1/apps/{app}/deployments/{id}/cancel");
    let undone = async {
        let deployment: Deployment = client.post(&path, NOTHING).await?;
        // What was done before is known; what is undone is news.
        let seen = deployment.steps.last().map_or(0, |step| step.seq);
        follow_to_end(client, deployment, seen, output).await
    };
    let carries_on = |exit, code: &str, what: &str| {
        let message = format!("{what}; once the platform heard of it, it carries on undoing");
        CliError::new(exit, code, message)
            .hint(format!("`roost ops watch -a {app} {id}` shows how it goes"))
    };
    let late = |gave_up: String| carries_on(Exit::StillRunning, "detached", &gave_up);
    let ended = tokio::select! {
        ended = deadline.wait(undone, late) => ended?,
        _ = presses.recv() => {
            return Err(carries_on(Exit::Interrupted, "interrupted", "interrupted"));
        }
    };
    if ended.status == "succeeded" {
        let message = format!("release {} of {app} serves already", ended.release);
        return Err(
            CliError::new(Exit::Conflict, "too-late-to-cancel", message).hint(format!(
                "`roost rollback -a {app}` goes back to the release before"
            )),
        );
    }
    Ok(ended)
}

/// Prints the steps after the one with the number `seen`.
async fn follow_to_end(
    client: &Client,
    deployment: Deployment,
    seen: u64,
    output: Output,
) -> Result<Deployment, CliError> {
    let path = format!("/v1/apps/{}/deployments/{}", deployment.app, deployment.id);
    let mut steps = Steps {
        seen,
        since: Instant::now(),
        waits_for: "the deploy to begin".into(),
        output,
    };
    let mut is_lost = false;
    loop {
        let last = (steps.seen > 0).then(|| steps.seen.to_string());
        if let Ok(lines) = client
            .events(&format!("{path}/events"), last.as_deref())
            .await
        {
            if std::mem::take(&mut is_lost) {
                output.say("  the API answers again");
            }
            steps.follow(lines).await;
        }
        match client.get::<Deployment>(&path).await {
            Ok(deployment) => {
                for step in &deployment.steps {
                    steps.print(step);
                }
                if is_over(&deployment) {
                    return Ok(deployment);
                }
            }
            // The platform restarts and resumes the deploy; the time limit of the caller ends this.
            Err(error) if error.code.starts_with("api-") => {
                if !is_lost {
                    output.say("  the API does not answer; waiting for it to come back");
                }
                is_lost = true;
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(limits::RETRY_PAUSE).await;
    }
}

/// The steps that were printed, and what comes next.
struct Steps {
    seen: u64,
    since: Instant,
    waits_for: String,
    output: Output,
}

impl Steps {
    /// Reads events until the stream ends, breaks or says that the deployment is over.
    async fn follow(&mut self, mut lines: Lines) {
        let output = self.output;
        while let Ok(Some(event)) = output.wait(&self.waits_for, lines.next_event()).await {
            if let Ok(step) = serde_json::from_str::<DeploymentStep>(&event.data) {
                self.print(&step);
            } else if serde_json::from_str::<Deployment>(&event.data)
                .is_ok_and(|deployment| is_over(&deployment))
            {
                return;
            }
        }
    }

    fn print(&mut self, step: &DeploymentStep) {
        if step.seq <= self.seen {
            return;
        }
        self.seen = step.seq;
        self.waits_for = match (step.name.as_str(), step.status.as_str()) {
            ("canary", "started") => "the canary to be judged".to_owned(),
            ("healthy" | "listening", "started") => {
                let machine = step.machine.as_deref().unwrap_or("the machine");
                format!("{machine} to be healthy")
            }
            (_, "started") => printable(&step.message),
            _ => format!("what comes after `{}`", printable(&step.message)),
        };
        let output = self.output;
        if output.json {
            output.object(&serde_json::json!({"type": "step", "step": step}));
        } else if is_shown(step) || output.verbose {
            let machine = step
                .machine
                .as_ref()
                .map(|machine| format!(" {machine}"))
                .unwrap_or_default();
            output.say(&format!(
                "  {:>7}  {}{machine}: {}",
                seconds(self.since),
                step.name,
                printable(&step.message)
            ));
        }
    }
}

/// A beginning is left out, since its end comes soon; a notice has no end, a canary's is far.
fn is_shown(step: &DeploymentStep) -> bool {
    step.status != "started" || matches!(step.name.as_str(), "listening" | "canary")
}

/// Turns the end of a deployment into a proven URL or an error on one screen.
pub(super) async fn finish(
    deployment: Deployment,
    before: &App,
    proof: Proof,
    output: Output,
) -> Result<Option<String>, CliError> {
    if deployment.status == "failed" {
        return Err(failure(&deployment, before.current_release));
    }
    let app = &deployment.app;
    let url = prove_for(&deployment.urls, proof, output).await?;
    let value = serde_json::json!({"type": "deployment", "deployment": deployment, "url": url});
    output.result(&value, || {
        let url = url.as_deref().unwrap_or(match proof {
            Proof::None => "it takes no traffic from outside",
            Proof::Wanted | Proof::Required => "no URL of it has answered a request from here",
        });
        let verb = if proof == Proof::None {
            "runs"
        } else {
            "serves"
        };
        format!("release {} of {app} {verb}\n  {url}", deployment.release)
    });
    output.say(&format!(
        "next: roost status -a {app} · roost logs -f -a {app} · roost open -a {app}"
    ));
    Ok(url)
}

/// Asks the app's URLs until one answers; gives that one.
pub(super) async fn prove_for(
    urls: &[String],
    proof: Proof,
    output: Output,
) -> Result<Option<String>, CliError> {
    if urls.is_empty() || proof == Proof::None {
        return Ok(None);
    }
    // Whoever listened for Ctrl-C once must go on listening.
    let proven = tokio::select! {
        proven = prove::any(urls, output) => proven,
        _ = tokio::signal::ctrl_c() => {
            let message = "interrupted; the deploy succeeded, and no URL has answered yet";
            return Err(CliError::new(Exit::Interrupted, "interrupted", message));
        }
    };
    match proven {
        Ok(url) => Ok(Some(url)),
        Err(error) if proof == Proof::Required => Err(error),
        Err(error) => {
            output.warn(&unproven(&error));
            Ok(None)
        }
    }
}

fn unproven(error: &CliError) -> String {
    format!(
        "the deploy succeeded and its machines are healthy, but {error}; that is fine for an app \
         that does not speak HTTP, or when this computer cannot reach that address"
    )
}

fn failure(deployment: &Deployment, serving: Option<u64>) -> CliError {
    let app = &deployment.app;
    let Some(cause) = &deployment.error else {
        return CliError::failed(
            "deploy-failed",
            format!(
                "release {} of {app} failed and was undone",
                deployment.release
            ),
        );
    };
    let mut error = CliError::failed(
        &cause.code,
        format!(
            "release {} of {app} failed: {}",
            deployment.release, cause.message
        ),
    );
    if let Some(machine) = &cause.machine {
        error.details.push(format!("machine: {machine}"));
    }
    if let Some(judgement) = deployment
        .canary
        .as_ref()
        .and_then(|it| it.judgement.as_ref())
    {
        let sides = [&judgement.old, &judgement.new].map(|side| side.to_string());
        error.details.extend(sides);
    }
    if !cause.listening.is_empty() {
        error
            .details
            .push(format!("it listens on: {}", cause.listening.join(", ")));
    }
    if !cause.log_tail.is_empty() {
        error.details.push("last log lines:".into());
        error.details.extend(
            cause
                .log_tail
                .iter()
                .map(|line| format!("  {}", printable(line))),
        );
    }
    error.details.push(match serving {
        Some(release) => format!("the deploy was undone: release {release} still serves"),
        None => "the deploy was undone: no release serves yet".into(),
    });
    error.hints.extend(cause.hint.clone());
    error
}

#[cfg(test)]
mod tests {
    use super::failure;
    use roost_proto::rest::{Deployment, DeploymentError};

    #[test]
    fn a_failed_deploy_says_cause_machine_sockets_logs_and_what_serves() {
        let deployment = Deployment {
            id: "d1".into(),
            app: "web".into(),
            release: 2,
            status: "failed".into(),
            error: Some(DeploymentError {
                code: "unhealthy".into(),
                message: "nothing answers on port 8080".into(),
                hint: Some("set internal_port = 3000".into()),
                machine: Some("m1".into()),
                log_tail: vec!["listening on 3000".into()],
                listening: vec!["127.0.0.1:3000".into()],
            }),
            canary: None,
            steps: Vec::new(),
            urls: Vec::new(),
            created_at: 0,
            finished_at: Some(1),
        };
        let text = failure(&deployment, Some(1)).render();
        for part in [
            "error: release 2 of web failed: nothing answers on port 8080",
            "machine: m1",
            "it listens on: 127.0.0.1:3000",
            "    listening on 3000",
            "release 1 still serves",
            "hint: set internal_port = 3000",
            "code: unhealthy",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.lines().count() < 24, "one screen");
    }
}
