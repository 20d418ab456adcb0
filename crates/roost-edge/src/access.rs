//! The access log: one record per request, when its last byte has gone.
//!
//! Records go to a sink of their own and, at debug level, to the log under the
//! target `roost_edge::access`. Nothing is logged per request at higher levels.

use roost_model::id::MachineId;
use std::net::IpAddr;
use std::time::Duration;

/// One finished request.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// Its id, as told to the app and the client.
    pub request_id: String,
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: http::Method,
    /// The host name that was asked for, in lower case.
    pub host: String,
    /// The path, without the query.
    pub path: String,
    /// The app, when the host names one.
    pub app: Option<String>,
    /// The machine that answered, when one did.
    pub machine: Option<MachineId>,
    /// The status sent to the client.
    pub status: u16,
    /// Why the edge itself answered, as a stable code.
    pub error: Option<&'static str>,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// Times the request was sent towards a machine.
    pub attempts: usize,
    /// From the header of the request to the header of the response.
    pub first_byte: Duration,
    /// From the header of the request to the end of the response.
    pub total: Duration,
    /// Whether the response went to its end.
    pub complete: bool,
}

/// Takes access records. Called on the request path: it must not block.
pub trait AccessLog: Send + Sync + 'static {
    /// One request has ended.
    fn record(&self, record: &AccessRecord);
}

/// Whether anybody listens, so that records are not made for nobody.
pub(crate) fn wanted(sink: Option<&dyn AccessLog>) -> bool {
    sink.is_some() || tracing::enabled!(target: "roost_edge::access", tracing::Level::DEBUG)
}

/// Hands a record to whoever listens.
pub(crate) fn publish(sink: Option<&dyn AccessLog>, record: &AccessRecord) {
    tracing::debug!(
        target: "roost_edge::access",
        request_id = record.request_id,
        client = %record.client,
        method = %record.method,
        host = record.host,
        path = record.path,
        app = record.app,
        machine = record.machine.as_ref().map(MachineId::as_str),
        status = record.status,
        error = record.error,
        response_bytes = record.response_bytes,
        attempts = record.attempts,
        first_byte_us = micros(record.first_byte),
        total_us = micros(record.total),
        complete = record.complete,
        "request"
    );
    if let Some(sink) = sink {
        sink.record(record);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
