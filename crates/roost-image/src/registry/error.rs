//! Errors in the form that the distribution specification asks for.

use crate::no_space::is_no_space;
use crate::store::{CommitBlobError, PutManifestError, StoreError};
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

/// The codes of the specification, and three that registries add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegistryCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    RangeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    TooLarge,
    TimedOut,
    NoSpace,
    Internal,
}

impl RegistryCode {
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::BlobUploadInvalid => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::BlobUploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestBlobUnknown => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::SizeInvalid => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::RangeInvalid => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Self::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID"),
            Self::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "UNAVAILABLE"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }
}

/// A request to the registry failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct RegistryError {
    code: RegistryCode,
    message: String,
    #[source]
    source: Option<Box<StoreError>>,
    headers: Vec<(&'static str, String)>,
}

impl RegistryError {
    pub(super) fn new(code: RegistryCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
            headers: Vec::new(),
        }
    }

    /// Adds a header to the answer.
    pub(super) fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn method() -> Self {
        Self::new(RegistryCode::Unsupported, "this method does not work here")
    }

    pub(super) fn too_large(size: u64, bytes_max: u64) -> Self {
        let message = format!("the body has {size} bytes, and {bytes_max} is the most here");
        Self::new(RegistryCode::TooLarge, message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.code.parts().0
    }
}

impl From<StoreError> for RegistryError {
    fn from(source: StoreError) -> Self {
        // Paths of the node are not for clients: the log has the cause.
        let (code, message) = match is_no_space(&source) {
            true => (RegistryCode::NoSpace, "the registry's disk is full"),
            false => (RegistryCode::Internal, "the registry's store failed"),
        };
        Self {
            code,
            message: message.to_owned(),
            source: Some(Box::new(source)),
            headers: Vec::new(),
        }
    }
}

impl From<CommitBlobError> for RegistryError {
    fn from(error: CommitBlobError) -> Self {
        match error {
            CommitBlobError::Store(error) => error.into(),
            mismatch @ CommitBlobError::Mismatch { .. } => {
                Self::new(RegistryCode::DigestInvalid, mismatch.to_string())
            }
        }
    }
}

impl From<PutManifestError> for RegistryError {
    fn from(error: PutManifestError) -> Self {
        let code = match error {
            PutManifestError::Store(error) => return error.into(),
            PutManifestError::Missing { .. } => RegistryCode::ManifestBlobUnknown,
            PutManifestError::Invalid(_) | PutManifestError::MediaType { .. } => {
                RegistryCode::ManifestInvalid
            }
        };
        Self::new(code, roost_model::error::chain(&error))
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response<Body> {
        let (status, code) = self.code.parts();
        let body = serde_json::json!({ "errors": [{ "code": code, "message": self.message }] });
        let mut response = super::json(status, body.to_string());
        let headers = response.headers_mut();
        if self.code == RegistryCode::Unauthorized {
            let challenge = HeaderValue::from_static("Basic realm=\"roost\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}
