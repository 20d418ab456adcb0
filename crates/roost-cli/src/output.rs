//! The one place that prints.
//!
//! Results go to stdout; steps, warnings and errors to stderr. With `--json`
//! a result is one object on stdout, a stream one object per line, and an
//! error one object on stderr; steps are left out. Of what apps, builds and the
//! platform say nothing reaches the terminal that would steer it, but the output
//! of `exec` is passed on as it is.

use crate::error::{CliError, Exit};
use crate::limits;
use comfy_table::{ColumnConstraint, ContentArrangement};
use serde::Serialize;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Instant;

/// The least room that is worth folding text into.
const COLUMN_WIDTH_MIN: usize = 18;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
    /// Results and errors only.
    pub(crate) quiet: bool,
    /// More.
    pub(crate) verbose: bool,
    /// Answer yes to every question.
    pub(crate) yes: bool,
}

impl Output {
    /// Prints a result: the object with `--json`, else the text.
    pub(crate) fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            self.object(value);
        } else {
            let text = text();
            if !text.is_empty() {
                self.line(&printable_lines(&text));
            }
        }
    }

    /// Prints what `--dry-run` found: what `action` would do, which `text` says after "would".
    pub(crate) fn plan(self, action: &str, mut details: serde_json::Value, text: &str) {
        if let Some(members) = details.as_object_mut() {
            members.insert("type".into(), "dry-run".into());
            members.insert("action".into(), action.into());
        }
        self.result(&details, || format!("would {text}"));
    }

    /// Prints one JSON object as a line.
    pub(crate) fn object(self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(&text),
            Err(error) => self.warn(&format!("this could not be written as JSON: {error}")),
        }
    }

    /// Prints a line of a result. A reader that has gone away ends the printing, not the command.
    pub(crate) fn line(self, text: &str) {
        let _ = writeln!(anstream::stdout(), "{text}");
    }

    /// Passes bytes through as they are.
    pub(crate) fn raw(self, stdout: &str, stderr: &str) {
        let _ = std::io::stdout().write_all(stdout.as_bytes());
        let _ = std::io::stderr().write_all(stderr.as_bytes());
        let _ = std::io::stdout().flush();
    }

    /// Says what is being done.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(anstream::stderr(), "{}", printable_lines(text));
        }
    }

    /// Says more, with `--verbose`.
    pub(crate) fn detail(self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    /// Says that a step is done and how long it took.
    pub(crate) fn step(self, text: &str, since: Instant) {
        self.say(&format!("  {text} ({})", seconds(since)));
    }

    /// Waits for `work`; when there is no news for a while, says what is being waited for.
    pub(crate) async fn wait<T>(self, what: &str, work: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(limits::NEWS_INTERVAL, &mut work).await {
                Ok(value) => return value,
                Err(_) => self.say(&format!("  still waiting ({}): {what}", seconds(since))),
            }
        }
    }

    /// Whether progress may be drawn: the steps go to a terminal.
    pub(crate) fn draws(self) -> bool {
        !self.quiet && !self.json && std::io::stderr().is_terminal()
    }

    /// Says that something is odd but not wrong.
    pub(crate) fn warn(self, text: &str) {
        if self.json {
            let _ = writeln!(
                std::io::stderr(),
                "{}",
                serde_json::json!({"warning": text})
            );
        } else {
            let text = printable_lines(text);
            let _ = writeln!(anstream::stderr(), "warning: {text}");
        }
    }

    /// Prints an error.
    pub(crate) fn error(self, error: &CliError) {
        let text = if self.json {
            error.to_json().to_string()
        } else {
            printable_lines(&error.render())
        };
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Asks the user to type `word` before doing `what`, such as "destroy web".
    pub(crate) fn confirm(self, what: &str, word: &str) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        if self.json || !std::io::stdin().is_terminal() {
            return Err(CliError::usage(format!(
                "this would {what}: it needs a yes, and there is no terminal to ask on"
            ))
            .hint("add --yes"));
        }
        let _ = write!(
            std::io::stderr(),
            "this will {what}\ntype {word} to go on: "
        );
        let mut answer = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|error| CliError::io("read the answer", &error))?;
        if answer.trim() == word {
            Ok(())
        } else {
            Err(CliError::new(
                Exit::Interrupted,
                "not-confirmed",
                "nothing was changed",
            ))
        }
    }
}

/// A number of things: `1 machine`, `2 machines`.
pub(crate) fn count(n_things: u64, one: &str) -> String {
    let end = if n_things == 1 { "" } else { "s" };
    format!("{n_things} {one}{end}")
}

/// Elapsed time for people.
pub(crate) fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// Text that an app wrote, without what would steer the terminal: of the control characters only
/// tabs and sequences that set colours are kept.
pub(crate) fn printable(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = rest.strip_prefix("\u{1b}[").and_then(|after| {
            let n_parameters = after.find(|c: char| !matches!(c, '0'..='9' | ';' | ':'))?;
            after[n_parameters..]
                .starts_with('m')
                .then_some(n_parameters + 3)
        });
        let n_bytes = colour.unwrap_or(c.len_utf8());
        if colour.is_some() || c == '\t' || !c.is_control() {
            kept.push_str(&rest[..n_bytes]);
        }
        rest = &rest[n_bytes..];
    }
    kept
}

/// Text of several lines, each of them [`printable`].
fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// A table: plain columns, no frames, so that it can be cut and searched. On a terminal it fits into the
/// width, if that can be.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(
        header
            .iter()
            .map(|name| name.to_uppercase())
            .collect::<Vec<_>>(),
    );
    for row in rows {
        table.add_row(row);
    }
    fit(&mut table);
    let text = table.to_string();
    text.lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

/// On a terminal that is too narrow, folds the last column. Names and ids before it stay in one
/// piece, so that they can be copied; without room the terminal may break the lines itself.
fn fit(table: &mut comfy_table::Table) {
    let mut contents = table.column_max_content_widths();
    let last = contents.pop().map_or(0, usize::from);
    // Each column has a space on either side.
    let before: usize = contents.iter().map(|width| usize::from(*width) + 2).sum();
    let width = match table.width() {
        Some(width) if std::io::stdout().is_terminal() => usize::from(width),
        _ => return,
    };
    if before + last + 2 > width && before + COLUMN_WIDTH_MIN <= width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        for column in table.column_iter_mut().take(contents.len()) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// Milliseconds since the epoch, as a date for people.
pub(crate) fn date(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || "?".into(),
            |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::{printable, printable_lines};

    #[test]
    fn an_app_may_colour_its_text_but_not_steer_the_terminal() {
        let red = "\u{1b}[1;31mred\u{1b}[0m";
        assert_eq!(printable(red), red);
        assert_eq!(printable("a\tb\u{7}\r\n"), "a\tb");
        // Writes the clipboard, moves the cursor, clears the screen, ends half-way.
        assert_eq!(printable("\u{1b}]52;c;eA==\u{7}"), "]52;c;eA==");
        assert_eq!(printable("\u{1b}[2J\u{1b}[3A\u{9b}2Jx"), "[2J[3A2Jx");
        assert_eq!(printable("é\u{1b}["), "é[");
        let lines = "a\u{9b}2J\n\n  b\u{1b}]0;c\u{7}\n";
        assert_eq!(printable_lines(lines), "a2J\n\n  b]0;c\n");
    }
}
