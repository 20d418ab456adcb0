//! The one error of the API and its mapping to HTTP.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use roost_auth::policy::Denied;
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, chain};
use roost_model::id::ParseIdError;
use roost_model::name::ParseNameError;
use roost_proto::machine_config::ConfigFault;
use roost_proto::rest::{ErrorBody, PlacementRefusal};
use roost_proto::worker::WorkerError;
use roost_store::StoreError;

/// Every code that this crate makes itself. Each has a page in `docs/errors/`.
#[cfg(test)]
pub(crate) const CODES: &[&str] = &[
    "address-not-found",
    "already-exists",
    "app-deleting",
    "app-has-machines",
    "app-not-found",
    "archive-image-unclear",
    "archive-invalid",
    "body-too-large",
    "build-failed",
    "certificate-invalid",
    "deploy-cancelled",
    "deploy-in-progress",
    "disk-full",
    "forbidden",
    "host-name-not-found",
    "host-name-taken",
    "idempotency-mismatch",
    "upload-failed",
    "logs-unreadable",
    "registry-unavailable",
    "image-unusable",
    "image-store-failed",
    "image-not-found",
    "image-denied",
    "internal",
    "invalid-request",
    "machine-conflict",
    "machine-exited",
    "machine-invalid",
    "machine-not-found",
    "machine-start-failed",
    "machine-unhealthy",
    "malformed-request",
    "method-not-allowed",
    "name-taken",
    "never-deployed",
    "no-capacity",
    "no-certificate-authority",
    "no-free-address",
    "no-placement",
    "overloaded",
    "not-found",
    "request-in-progress",
    "route-not-found",
    "too-late-to-cancel",
    "too-many",
    "unauthenticated",
    "wait-timeout",
    "wildcard-not-issued",
    "wrong-port",
];

/// Why a request was not done.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) blame: Blame,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) faults: Vec<ConfigFault>,
    pub(crate) refusals: Vec<PlacementRefusal>,
}

impl ApiError {
    pub(crate) fn new(blame: Blame, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            blame,
            code,
            message: message.into(),
            hint: None,
            faults: vec![],
            refusals: vec![],
        }
    }

    /// A request whose parts have the right form but values that cannot be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(
            Blame::Caller(CallerFault::Invalid),
            "invalid-request",
            message,
        )
    }

    /// A request that cannot be read at all.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(
            Blame::Caller(CallerFault::Invalid),
            "malformed-request",
            message,
        )
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Blame::Caller(CallerFault::Conflict), code, message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Blame::Caller(CallerFault::NotFound), code, message)
    }

    pub(crate) fn malformed_method() -> Self {
        let blame = Blame::Caller(CallerFault::Invalid);
        Self::new(
            blame,
            "method-not-allowed",
            "this path exists, but not with this method",
        )
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Blame::Internal, "internal", message)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Everything that is wrong with a body, in one answer.
    pub(crate) fn faults(faults: Vec<ConfigFault>) -> Self {
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Self {
            faults,
            ..Self::invalid(text.join("; "))
        }
    }

    pub(crate) fn of(error: &(impl Classify + 'static)) -> Self {
        let ErrorCode(code) = error.code();
        Self {
            hint: error.hint(),
            ..Self::new(error.blame(), code, chain(error))
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match (self.code, self.blame) {
            ("wait-timeout", _) => StatusCode::REQUEST_TIMEOUT,
            ("malformed-request", _) => StatusCode::BAD_REQUEST,
            ("method-not-allowed", _) => StatusCode::METHOD_NOT_ALLOWED,
            ("name-taken", _) => StatusCode::UNPROCESSABLE_ENTITY,
            ("disk-full", _) => StatusCode::INSUFFICIENT_STORAGE,
            (_, Blame::Caller(CallerFault::Invalid)) => StatusCode::UNPROCESSABLE_ENTITY,
            (_, Blame::Caller(CallerFault::NotFound)) => StatusCode::NOT_FOUND,
            (_, Blame::Caller(CallerFault::Conflict)) => StatusCode::CONFLICT,
            (_, Blame::Caller(CallerFault::Unauthenticated)) => StatusCode::UNAUTHORIZED,
            (_, Blame::Caller(CallerFault::Forbidden)) => StatusCode::FORBIDDEN,
            (_, Blame::Caller(CallerFault::TooLarge)) => StatusCode::PAYLOAD_TOO_LARGE,
            (_, Blame::Environment) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Blame::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body; the request id is filled in on the way out.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: self.message.clone(),
            code: self.code.to_owned(),
            hint: self.hint.clone(),
            faults: self.faults.clone(),
            refusals: self.refusals.clone(),
            request_id: String::new(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.blame == Blame::Internal {
            tracing::error!(error = self.message, "request failed");
        }
        let mut response = self.status().into_response();
        // The body is written by the layer that knows the request id.
        response.extensions_mut().insert(self.body());
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::of(&error)
    }
}

impl From<WorkerError> for ApiError {
    fn from(error: WorkerError) -> Self {
        Self::of(&error)
    }
}

impl From<ParseNameError> for ApiError {
    fn from(error: ParseNameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ParseIdError> for ApiError {
    fn from(error: ParseIdError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Self::new(
                Blame::Caller(CallerFault::Unauthenticated),
                "unauthenticated",
                denied.to_string(),
            )
            .with_hint("send `Authorization: Bearer TOKEN` with a token of this platform"),
            Denied::Forbidden => Self::new(
                Blame::Caller(CallerFault::Forbidden),
                "forbidden",
                denied.to_string(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn every_error_code_has_a_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors");
        for code in CODES {
            let page = std::fs::read_to_string(format!("{pages}/{code}.md"))
                .unwrap_or_else(|_| panic!("docs/errors/{code}.md is missing"));
            assert!(
                page.starts_with(&format!("# {code}\n")),
                "{code}.md begins with its name"
            );
            assert!(page.contains("## What to do"), "{code}.md says what to do");
        }
    }
}
