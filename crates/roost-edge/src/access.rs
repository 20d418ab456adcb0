//! Records of finished requests, and who gets them.
//!
//! A record goes to the requests of late ([`crate::recent`]), to the access log
//! and, at debug level, to the log under the target `roost_edge::access`.
//! Nothing is logged per request at higher levels.

use crate::accept::Ends;
use crate::arrival::Arrival;
use crate::limits;
use crate::shared::Shared;
use crate::table::{AppRoute, Target};
use crate::trail::{Trail, micros};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};
use roost_proto::rest::RequestRecord;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes access records. Called on the request path: it must not block.
pub trait AccessLog: Send + Sync + 'static {
    /// Whether it wants the record of a request; `random` is different for each.
    fn wants(&self, is_failure: bool, random: u64) -> bool;

    /// One request has ended.
    fn record(&self, record: &Arc<RequestRecord>);

    /// Records that it could not keep so far.
    fn n_dropped(&self) -> u64;
}

/// A request whose response is under way, or that got none.
pub(crate) struct PendingRecord {
    pub(crate) shared: Arc<Shared>,
    pub(crate) trail: Trail,
    pub(crate) arrival: Arrival,
    pub(crate) ends: Ends,
    pub(crate) version: Version,
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) path: PathAndQuery,
    pub(crate) app: Option<Arc<AppRoute>>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) status: StatusCode,
    pub(crate) error: Option<&'static str>,
    pub(crate) first_byte: Duration,
    pub(crate) response_bytes: u64,
    pub(crate) complete: bool,
}

impl PendingRecord {
    /// The response has ended: hands the record to those that want it, if there are any.
    pub(crate) fn publish(self: Box<Self>) {
        let is_failure = self.status.is_server_error() || !self.complete;
        let is_notable = is_failure || self.first_byte >= limits::SLOW;
        let is_kept = is_notable || self.trail.is_followed;
        let random = self.arrival.random();
        let sink = self.shared.config.access_log.as_ref();
        let sink = sink.filter(|sink| sink.wants(is_failure, random)).cloned();
        let is_debugged = tracing::enabled!(target: "roost_edge::access", tracing::Level::DEBUG);
        // Nearly all end here.
        if !is_kept && sink.is_none() && !is_debugged {
            return;
        }
        let (now, recent) = (Instant::now(), self.shared.recent.clone());
        let record = Arc::new(self.finish(now));
        if is_debugged {
            debug(&record);
        }
        if let Some(sink) = sink {
            sink.record(&record);
        }
        if is_kept {
            recent.keep(now, record, is_notable);
        }
    }

    fn finish(self: Box<Self>, now: Instant) -> RequestRecord {
        let config = &self.shared.config;
        let total = now.saturating_duration_since(self.trail.started);
        let handshake = self.ends.is_tls.then_some(self.ends.handshake);
        let spans = self.trail.spans(handshake, self.first_byte, total);
        RequestRecord {
            request_id: self.arrival.request_id_text().to_owned(),
            trace_id: self.arrival.trace_id(self.trail.trace.as_ref()),
            at: self.arrival.arrived_ms(),
            edge: config.node.clone(),
            region: config.region.to_string(),
            table_version: self.trail.table_version,
            client: self.ends.client.ip().to_canonical().to_string(),
            protocol: format!("{:?}", self.version),
            tls: self.ends.is_tls,
            method: beginning(self.method.as_str(), limits::RECORD_METHOD_BYTES_MAX).to_owned(),
            host: self.host,
            path: beginning(self.path.path(), limits::RECORD_PATH_BYTES_MAX).to_owned(),
            app: self.app.map(|it| it.name.to_string()),
            machine: self.target.map(|it| it.endpoint.machine_id.to_string()),
            status: self.status.as_u16(),
            error: self.error.map(str::to_owned),
            response_bytes: self.response_bytes,
            complete: self.complete,
            first_byte_us: micros(self.first_byte),
            total_us: micros(total),
            attempts: self.trail.attempts(),
            spans,
        }
    }
}

/// A text of the client or of a machine as a record has it.
pub(crate) fn beginning(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn debug(record: &RequestRecord) {
    tracing::debug!(
        target: "roost_edge::access",
        request_id = record.request_id,
        client = record.client,
        method = record.method,
        host = record.host,
        path = record.path,
        app = record.app,
        machine = record.machine,
        status = record.status,
        error = record.error,
        response_bytes = record.response_bytes,
        attempts = record.attempts.len(),
        first_byte_us = record.first_byte_us,
        total_us = record.total_us,
        complete = record.complete,
        "request"
    );
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(beginning("/a", 2), "/a");
        assert_eq!(beginning("/aüb", 3), "/a");
        assert_eq!(beginning("/aüb", 4), "/aü");
    }
}
