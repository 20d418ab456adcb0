//! The answer to a header that did not arrive in time: 408, then the end.

use crate::limits;
use crate::pages::{Form, Page};
use http::StatusCode;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Answers and closes. Past the HTTP codec, which has no request to answer to.
pub(crate) async fn answer(mut stream: impl AsyncWrite + Unpin) {
    let page = Page::refused(
        StatusCode::REQUEST_TIMEOUT,
        "header-timeout",
        "the header of the request did not arrive in time",
    );
    let id = ulid::Ulid::generate().to_string();
    let (content_type, content) = page.render(Form::Text, &id);
    let mut bytes = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: {}\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nroost-request-id: {id}\r\nconnection: close\r\n\r\n",
        content_type.to_str().unwrap_or("text/plain"),
        content.len(),
    )
    .into_bytes();
    bytes.extend_from_slice(&content);
    let write = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    };
    // A client that does not take it is cut off all the same.
    let _ = timeout(limits::LATE_ANSWER_TIMEOUT, write).await;
}
