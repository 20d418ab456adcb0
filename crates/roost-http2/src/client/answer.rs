//! What the fields of an answer say (RFC 9113 8.1 and 8.3.2).

use super::state::{Answer, Stream};
use crate::fields::{Fields, content_length};
use crate::frame::Code;
use http::{Response, StatusCode, Version};

/// Answers that are not the last word.
const INTERIM_MAX: u8 = 32;

/// What is wrong with a stream.
#[derive(Debug)]
pub(super) struct Fault(pub(super) Code, pub(super) &'static str);

/// The header of an answer (RFC 9113 8.3.2).
pub(super) fn take_head<B>(
    stream: &mut Stream<B>,
    fields: Box<Fields>,
    n_interim: u8,
    is_last: bool,
) -> Result<(), Fault> {
    let bad = |why| Fault(Code::PROTOCOL_ERROR, why);
    if let Some(fault) = fields.fault {
        return Err(bad(fault.0));
    }
    let is_of_request = fields.method.is_some()
        || fields.path.is_some()
        || fields.scheme.is_some()
        || fields.authority.is_some()
        || fields.protocol.is_some();
    if is_of_request {
        return Err(bad("an answer has a field of requests"));
    }
    let status = fields.status.ok_or(bad("an answer has no status"))?;
    let status = StatusCode::from_bytes(&status).map_err(|_| bad("a status is none"))?;
    if status.is_informational() {
        if is_last || status == StatusCode::SWITCHING_PROTOCOLS || n_interim >= INTERIM_MAX {
            return Err(bad("an answer has no last word"));
        }
        stream.answer = Answer::Awaited(n_interim + 1);
        return Ok(());
    }
    let length = content_length(&fields.headers).map_err(|fault| bad(fault.0))?;
    let is_bare =
        stream.is_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let left = match length {
        _ if is_bare => Some(0),
        None if is_last => Some(0),
        length => length,
    };
    stream.answer = Answer::Body(left);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = fields.headers;
    let mut inbox = stream.inbox.lock();
    inbox.head = Some(response);
    inbox.left = left;
    Ok(())
}

pub(super) fn take_trailers<B>(
    stream: &Stream<B>,
    fields: Box<Fields>,
    is_last: bool,
) -> Result<(), Fault> {
    let bad = |why| Fault(Code::PROTOCOL_ERROR, why);
    if let Some(fault) = fields.fault {
        return Err(bad(fault.0));
    }
    if !is_last || fields.has_pseudo() {
        return Err(bad("trailers are none"));
    }
    if !fields.headers.is_empty() {
        stream.inbox.lock().trailers = Some(fields.headers);
    }
    Ok(())
}
