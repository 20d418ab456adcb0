//! Answers that go on for a while: one JSON object per line.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use serde::Serialize;

/// Sends each event as a line as soon as it happens.
pub(super) fn lines<T: Serialize>(events: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = events.map(|event| {
        serde_json::to_string(&event)
            .map(|line| line + "\n")
            .map_err(std::io::Error::other)
    });
    let content_type = [(CONTENT_TYPE, "application/x-ndjson")];
    (content_type, Body::from_stream(lines)).into_response()
}
