//! Why a request has no answer, or not all of it.

use crate::frame::Code;
use std::io;
use std::sync::Arc;

/// Why a request has no answer, or not all of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct Error {
    is_unsent: bool,
    why: Why,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Why {
    #[error("it closed the connection before its answer was complete")]
    Closed,
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    #[error("it takes no more requests on this connection (code {})", .0.0)]
    GoAway(Code),
    #[error("it reset the stream (code {})", .0.0)]
    Reset(Code),
    #[error("it does not hold to HTTP/2: {0}")]
    Protocol(&'static str),
    #[error("its answer has too long a header")]
    TooLarge,
    #[error("the connection has had all the requests that it can have")]
    UsedUp,
    #[error("the body of the request broke off")]
    RequestBody,
    #[error("no answer in time")]
    Late,
}

impl Error {
    /// The other side has done nothing with the request, so it may be sent again, whatever it is
    /// (RFC 9113 8.7).
    pub(super) fn unsent(why: Why) -> Self {
        let is_unsent = true;
        Self { is_unsent, why }
    }

    pub(super) fn broken(why: Why) -> Self {
        let is_unsent = false;
        Self { is_unsent, why }
    }

    pub(super) fn why(&self) -> &Why {
        &self.why
    }

    /// Whether the other side has done nothing with the request.
    pub fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// Whether the header of the answer is beyond what is taken: it would be so again.
    pub fn is_too_large(&self) -> bool {
        matches!(self.why, Why::TooLarge)
    }

    /// Whether it was waited for as long as it might be.
    pub fn is_late(&self) -> bool {
        matches!(self.why, Why::Late)
    }

    /// Whether the request's own body is to blame.
    pub fn is_of_request_body(&self) -> bool {
        matches!(self.why, Why::RequestBody)
    }
}
