//! JSON lines on standard output, which roost keeps as log records.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// What is logged about one request.
#[derive(Debug)]
pub(crate) struct RequestRecord<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// The path as it came, without the query: queries may hold secrets.
    pub(crate) path: &'a str,
    /// The status of the answer.
    pub(crate) status: u16,
    /// Length of the answer's body by its head.
    pub(crate) bytes: u64,
    /// Time until the answer's head was ready.
    pub(crate) took: Duration,
}

/// Logs one request.
pub(crate) fn request(record: &RequestRecord<'_>) {
    let line = format!(
        r#"{{"level":"info","message":{},"method":{},"path":{},"status":{},"bytes":{},"ms":{:.3}}}"#,
        quoted(&format!(
            "{} {} {}",
            record.method, record.path, record.status
        )),
        quoted(record.method),
        quoted(record.path),
        record.status,
        record.bytes,
        record.took.as_secs_f64() * 1_000.0,
    );
    emit(&line);
}

/// Logs that the server answers.
pub(crate) fn started(root: &Path, port: u16) {
    let message = quoted(&format!("serving {} on port {port}", root.display()));
    emit(&format!(
        r#"{{"level":"info","message":{message},"port":{port}}}"#
    ));
}

/// Logs that the server ends, and why.
pub(crate) fn stopped(reason: &str) {
    emit(&format!(
        r#"{{"level":"info","message":{}}}"#,
        quoted(reason)
    ));
}

/// Logs why the server could not do its work.
pub(crate) fn failure(problem: &str) {
    emit(&format!(
        r#"{{"level":"error","message":{}}}"#,
        quoted(problem)
    ));
}

fn emit(line: &str) {
    // A closed standard output must not end the server.
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// The text as a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hostile_path_stays_one_json_string() {
        assert_eq!(super::quoted("a\"b\\c\n\u{1}"), r#""a\"b\\c\n\u0001""#);
    }
}
