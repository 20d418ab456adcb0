//! What went wrong, as the user sees it: exit code, code, text, next steps.

use crate::help;
use roost_proto::rest::ErrorBody;

/// Exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line or a file is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// Not logged in, or not allowed.
    NotAllowed = 4,
    /// The state of things forbids it.
    Conflict = 5,
    /// There is no room.
    NoCapacity = 6,
    /// This command gave up waiting; the operation goes on.
    StillRunning = 7,
    /// The program that `exec` was to run is not there; shells use the same code.
    ProgramMissing = 127,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// An error with everything that is printed about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// A stable code.
    pub(crate) code: String,
    /// What happened and why.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hints: Vec<String>,
    /// More lines, printed under the message: faults, log lines.
    pub(crate) details: Vec<String>,
    /// The request at the server.
    pub(crate) request_id: Option<Box<str>>,
}

impl CliError {
    /// An error without hints.
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            hints: Vec::new(),
            details: Vec::new(),
            request_id: None,
        }
    }

    /// It did not work.
    pub(crate) fn failed(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, message)
    }

    /// The command line or a file is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// A file operation failed.
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::failed("io", format!("{what}: {error}"))
    }

    /// Adds a next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What the API answered instead of a result.
    pub(crate) fn from_api(status: u16, body: ErrorBody) -> Self {
        let exit = match status {
            401 | 403 => Exit::NotAllowed,
            404 => Exit::NotFound,
            409 | 412 | 423 => Exit::Conflict,
            422 if body.code == "name-taken" => Exit::Conflict,
            408 if body.code == "wait-timeout" => Exit::StillRunning,
            503 if matches!(&*body.code, "no-capacity" | "no-placement") => Exit::NoCapacity,
            507 => Exit::NoCapacity,
            400 | 413 | 415 | 422 => Exit::Usage,
            _ => Exit::Failed,
        };
        let mut error = Self::new(exit, &body.code, body.error);
        error.hints.extend(body.hint);
        if status == 401 {
            // The API's hint is for people who write HTTP requests.
            error.hints.clear();
            error.hints.push("run `roost login`, or set ROOST_TOKEN (on the platform's machine: `. DATA_DIR/env.sh`)".into());
        }
        error.details = body.faults.iter().map(ToString::to_string).collect();
        error.request_id = (!body.request_id.is_empty()).then(|| body.request_id.into_boxed_str());
        error
    }

    /// The hints, or where to read on when there are none.
    fn next_steps(&self) -> Vec<String> {
        if self.hints.is_empty() && help::codes().any(|code| code == self.code) {
            return vec![format!("`roost help errors {}` explains it", self.code)];
        }
        self.hints.clone()
    }

    /// The lines for people.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for detail in &self.details {
            text.push_str("\n  ");
            text.push_str(detail);
        }
        for hint in self.next_steps() {
            text.push_str("\nhint: ");
            text.push_str(&hint);
        }
        text.push_str(&format!("\ncode: {}", self.code));
        if let Some(id) = &self.request_id {
            text.push_str(&format!(" · request {id}"));
        }
        text
    }

    /// The object for programs.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": self.message,
            "code": self.code,
            "exit_code": self.exit as i32,
            "hints": self.next_steps(),
            "details": self.details,
            "request_id": self.request_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{CliError, Exit};
    use roost_proto::rest::ErrorBody;

    fn body(code: &str) -> ErrorBody {
        ErrorBody {
            error: "it broke".into(),
            code: code.into(),
            hint: Some("mend it".into()),
            faults: Vec::new(),
            refusals: Vec::new(),
            request_id: "r1".into(),
        }
    }

    #[test]
    fn an_error_says_what_why_next_and_which_request() {
        let text = CliError::from_api(500, body("internal")).render();
        assert_eq!(
            text,
            "error: it broke\nhint: mend it\ncode: internal · request r1"
        );
    }

    #[test]
    fn statuses_become_the_exit_codes_of_the_contract() {
        let exit = |status, code| CliError::from_api(status, body(code)).exit as i32;
        assert_eq!(exit(500, "internal"), 1);
        assert_eq!(exit(422, "invalid-request"), 2);
        assert_eq!(exit(404, "app-not-found"), 3);
        assert_eq!(exit(401, "unauthorized"), 4);
        assert_eq!(exit(409, "conflict"), 5);
        assert_eq!(exit(503, "no-capacity"), 6);
        assert_eq!(exit(408, "wait-timeout"), 7);
        assert_eq!(Exit::Interrupted as i32, 130);
    }
}
