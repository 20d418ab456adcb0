//! Phase 7, settle: what happens when the last byte of an exchange has gone.
//!
//! The machine's count goes down, the connection goes back to its pool (if the
//! response went to its end and the request was sent to its end), the request's
//! record is published. All of it happens on drop, so no way out can miss it.

use crate::access::PendingRecord;
use crate::activity::Serving;
use crate::body::BodySlot;
use crate::gauge::InFlight;
use crate::pool::{Http1Sender, Pool};
use crate::rates::Open;
use std::sync::Arc;

/// What is left to do for one exchange.
#[derive(Default)]
pub(crate) struct Settlement {
    /// Counts the machine as busy.
    pub(crate) in_flight: Option<InFlight>,
    /// Counts as one of its app.
    pub(crate) open: Option<Open>,
    /// Tells the client's connection that it is busy.
    pub(crate) serving: Option<Serving>,
    /// The connection, its pool, and the request body that it may still be sending.
    pub(crate) connection: Option<(Http1Sender, Arc<Pool>, Option<Arc<BodySlot>>)>,
    /// The record of the request.
    pub(crate) record: Option<Box<PendingRecord>>,
}

impl std::fmt::Debug for Settlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settlement")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Settlement {
    /// Counts bytes of the response body.
    pub(crate) fn add_bytes(&mut self, bytes: usize) {
        if let Some(pending) = &mut self.record {
            pending.response_bytes += bytes as u64;
        }
    }

    /// The response went to its end: the connection may serve somebody else.
    pub(crate) fn body_ended(&mut self) {
        if let Some((sender, pool, request)) = self.connection.take()
            && request.is_none_or(|slot| slot.finished())
        {
            pool.put_http1(sender);
        }
        self.in_flight = None;
        self.open = None;
        self.serving = None;
        if let Some(pending) = &mut self.record {
            pending.complete = true;
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(pending) = self.record.take() {
            pending.publish();
        }
    }
}
