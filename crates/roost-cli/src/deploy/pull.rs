//! Having the platform pull the image of a deploy, and showing how far it is.

use crate::client::{Client, Repeats};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::Output;
use indicatif::{HumanBytes, ProgressBar, ProgressFinish, ProgressStyle};
use roost_proto::rest::{PullEvent, PullImageRequest, PullProgress};
use std::time::Instant;

/// Has the platform get an image ready, and gives its reference with the digest.
///
/// When the connection breaks the pull is asked for again, and goes on where it was.
pub(super) async fn pull(
    client: &Client,
    app: &str,
    image: &str,
    output: Output,
) -> Result<String, CliError> {
    let mut repeats = Repeats::default();
    let mut report = Report::new(image, output);
    loop {
        let error = match pull_once(client, app, image, &mut repeats, &mut report).await {
            Ok(pinned) => return Ok(pinned),
            Err(error) => error,
        };
        report.break_off();
        // A platform from before this route pulls when the deployment begins.
        if error.exit == Exit::NotFound && error.code != "app-not-found" {
            return Ok(image.to_owned());
        }
        if !repeats.allow(&error) {
            return Err(error);
        }
        if error.code == "api-connection-lost" {
            output.say("  the API does not answer; waiting for it to come back");
        }
        tokio::time::sleep(limits::RETRY_PAUSE).await;
    }
}

async fn pull_once(
    client: &Client,
    app: &str,
    image: &str,
    repeats: &mut Repeats,
    report: &mut Report,
) -> Result<String, CliError> {
    let output = report.output;
    let path = format!("/v1/apps/{app}/images");
    let request = PullImageRequest {
        image: image.to_owned(),
    };
    let waits_for = format!("the platform to find the image {image}");
    let lines = output.wait(&waits_for, client.lines(&path, &request));
    let mut lines = lines.await?;
    let waits_for = format!("more of the image {image}");
    while let Some(line) = output.wait(&waits_for, lines.next_line()).await? {
        repeats.answered();
        let event: PullEvent = serde_json::from_str(&line).map_err(|error| {
            let problem = format!("a line of the pull is not what was expected: {error}");
            CliError::failed("bad-answer", problem)
        })?;
        if output.json {
            output.object(&serde_json::json!({"type": "image", "event": event}));
        }
        match event {
            PullEvent::Progress(progress) => report.show(progress),
            PullEvent::Done { image, size_bytes } => {
                report.finish(size_bytes);
                return Ok(image);
            }
            PullEvent::Failed { error } => return Err(CliError::from_api(500, error)),
        }
    }
    let problem = "the platform stopped telling of the image";
    Err(CliError::failed("api-connection-lost", problem))
}

/// What is shown of a pull: a bar on a terminal, else a line for each layer or each long while.
struct Report {
    image: String,
    output: Output,
    since: Instant,
    bar: Option<ProgressBar>,
    last: Option<(PullProgress, Instant)>,
}

impl Report {
    fn new(image: &str, output: Output) -> Self {
        Self {
            image: image.to_owned(),
            output,
            since: Instant::now(),
            bar: None,
            last: None,
        }
    }

    fn show(&mut self, now: PullProgress) {
        let PullProgress {
            layers_done,
            layers_total,
            bytes_done,
            bytes_total,
        } = now;
        if self.output.draws() {
            let bar = self.bar.get_or_insert_with(|| bar(bytes_total));
            bar.set_position(bytes_done);
            bar.set_message(format!("{layers_done} of {layers_total} layers"));
            return;
        }
        let is_news = self.last.is_none_or(|(last, at)| {
            last.layers_done != layers_done || at.elapsed() >= limits::NEWS_INTERVAL
        });
        if is_news {
            self.last = Some((now, Instant::now()));
            self.output.say(&format!(
                "  pulling {}: {} of {}, {layers_done} of {layers_total} layers",
                self.image,
                HumanBytes(bytes_done),
                HumanBytes(bytes_total),
            ));
        }
    }

    /// Takes the bar away, so that an error stands alone.
    fn break_off(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn finish(&mut self, size_bytes: u64) {
        self.break_off();
        let size = HumanBytes(size_bytes);
        let text = format!("the platform has the image {}, {size}", self.image);
        self.output.step(&text, self.since);
    }
}

fn bar(bytes_total: u64) -> ProgressBar {
    let template = "  pulling {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {msg}";
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    // Also when the time is over.
    let finish = ProgressFinish::AndClear;
    ProgressBar::new(bytes_total)
        .with_style(style)
        .with_finish(finish)
}
