//! What every error at a service boundary can answer.
//!
//! Three questions: whose fault is it, may the caller try again, and which
//! page explains it. HTTP status mapping is one function, in `roost-api`.

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The request is wrong: no repetition of it can succeed.
    Caller(CallerFault),
    /// Something that roost depends on failed: a registry, a disk, a kernel.
    Environment,
    /// roost itself is broken.
    Internal,
}

/// How a request is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerFault {
    /// A value does not have the form it needs.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing exists in a state that forbids the request, or somebody else holds it.
    Conflict,
    /// No valid credentials.
    Unauthenticated,
    /// Valid credentials that do not allow this.
    Forbidden,
    /// A limit was passed.
    TooLarge,
}

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again.
    Never,
    /// It may succeed later, at the same place.
    Backoff,
    /// It may succeed now, at another node.
    ElsewhereNow,
}

/// A stable code for an error, in lower case with dashes: `image-not-found`.
///
/// Each code has a page `docs/errors/<code>.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub &'static str);

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// What each service-boundary error implements.
pub trait Classify: std::error::Error {
    /// Whose fault it is.
    fn blame(&self) -> Blame;
    /// Whether to try again.
    fn retry(&self) -> Retry;
    /// The page that explains it.
    fn code(&self) -> ErrorCode;
    /// What to do next, in one sentence, if there is something.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The error and its causes in one line, outermost first, joined by `: `.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
