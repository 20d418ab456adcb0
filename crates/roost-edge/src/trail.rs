//! What has happened to a request so far, noted as it happens and told only
//! when somebody wants its record: on the way nothing is formatted.

use crate::forward::SendFailure;
use crate::limits;
use crate::looked::Looked;
use crate::table::Target;
use http::{HeaderValue, StatusCode};
use roost_proto::rest::{RequestAttempt, RequestSpan};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The way of one request. Times are since its header had come.
#[derive(Debug)]
pub(crate) struct Trail {
    pub(crate) started: Instant,
    /// Whether its record is wanted whatever becomes of it.
    pub(crate) is_followed: bool,
    /// The table that the last machine was picked from.
    pub(crate) table_version: u64,
    /// Until the app was found.
    routed: Option<Duration>,
    /// The trace that the client has begun.
    pub(crate) trace: Option<HeaderValue>,
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    began: Duration,
    /// Until there was a machine, or a refusal.
    picked: Option<Duration>,
    connected: Option<Duration>,
    ended: Option<Duration>,
    target: Option<Arc<Target>>,
    looked: Looked,
    end: End,
}

#[derive(Debug)]
enum End {
    /// Nothing has come of it yet.
    Open,
    Answered(StatusCode),
    Failed(String),
}

impl Trail {
    /// A request that begins.
    pub(crate) fn new(started: Instant, is_followed: bool) -> Self {
        Self {
            started,
            is_followed,
            table_version: 0,
            routed: None,
            trace: None,
            attempts: Vec::new(),
        }
    }

    /// Its app is known.
    pub(crate) fn routed(&mut self) {
        self.routed = Some(self.started.elapsed());
    }

    /// A machine is looked for.
    pub(crate) fn begin_attempt(&mut self) {
        if self.attempts.len() >= limits::ATTEMPTS_NOTED_MAX {
            self.attempts.pop();
        }
        // Nearly always there is one.
        self.attempts.reserve_exact(1);
        // To look at the clock costs something: the first begins when the app is known.
        let first = self.routed.filter(|_| self.attempts.is_empty());
        self.attempts.push(Attempt {
            began: first.unwrap_or_else(|| self.started.elapsed()),
            picked: None,
            connected: None,
            ended: None,
            target: None,
            looked: Looked::default(),
            end: End::Open,
        });
    }

    /// A machine was found, or not; `waited`: not at once.
    pub(crate) fn picked(
        &mut self,
        target: Option<&Arc<Target>>,
        waited: bool,
        looked: Looked,
        version: u64,
    ) {
        self.table_version = version;
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.picked = Some(if waited {
                self.started.elapsed()
            } else {
                attempt.began
            });
            attempt.target = target.cloned();
            attempt.looked = looked;
        }
    }

    /// There is a connection to it.
    pub(crate) fn connected(&mut self) {
        let now = self.started.elapsed();
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.connected = Some(now);
        }
    }

    /// It could not be reached.
    pub(crate) fn unreached(&mut self, why: &str) {
        self.end(End::Failed(why.to_owned()));
    }

    /// It has answered; how long after there was a connection to it.
    pub(crate) fn answered(&mut self, status: StatusCode) -> Duration {
        self.end(End::Answered(status));
        let last = self.attempts.last();
        let times = last.and_then(|attempt| attempt.ended.zip(attempt.connected));
        times.map_or(Duration::ZERO, |(ended, connected)| {
            ended.saturating_sub(connected)
        })
    }

    /// When the answer came, if that was the last.
    pub(crate) fn answered_at(&self) -> Option<Duration> {
        let last = self.attempts.last()?;
        last.ended.filter(|_| matches!(last.end, End::Answered(_)))
    }

    /// It has not answered.
    pub(crate) fn failed(&mut self, failure: &SendFailure) {
        self.end(End::Failed(match failure {
            SendFailure::Unsent(why) => format!("the connection did not take the request: {why}"),
            SendFailure::Broken(why) => format!("the connection broke before an answer: {why}"),
            SendFailure::Full => "it took no more requests at once on its connection".to_owned(),
            SendFailure::TooLarge => "its answer has too long a header".to_owned(),
            SendFailure::TooLate => "no answer in time".to_owned(),
            SendFailure::Elsewhere(elsewhere) => elsewhere.to_string(),
            SendFailure::ClientBody => "the client's body broke off or stood still".to_owned(),
        }));
    }

    fn end(&mut self, end: End) {
        let now = self.started.elapsed();
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended = Some(now);
            attempt.end = end;
        }
    }

    /// How long a machine that has the request has not answered it.
    pub(crate) fn waits_for_answer(&self) -> Option<Duration> {
        let last = self.attempts.last()?;
        let is_open = last.ended.is_none();
        let connected = last.connected.filter(|_| is_open)?;
        Some(self.started.elapsed().saturating_sub(connected))
    }

    /// The attempts, for a record. Only the first and the last tell of the machines that did not
    /// get it: a record is to stay small.
    pub(crate) fn attempts(&self) -> Vec<RequestAttempt> {
        let n = self.attempts.len();
        let attempts = self.attempts.iter().enumerate();
        attempts
            .map(|(idx, attempt)| attempt.for_record(idx == 0 || idx + 1 == n))
            .collect()
    }

    /// What the time went to, for a record of a request that took this long.
    pub(crate) fn spans(
        &self,
        handshake: Option<Duration>,
        first_byte: Duration,
        total: Duration,
    ) -> Vec<RequestSpan> {
        let mut spans = Vec::new();
        let mut add = |name: &str, attempt: Option<usize>, from: Duration, to: Duration| {
            spans.push(RequestSpan {
                name: name.to_owned(),
                attempt: attempt.map(|number| number as u64),
                start_us: micros(from),
                duration_us: micros(to.saturating_sub(from)),
            });
        };
        if let Some(handshake) = handshake {
            add("tls", None, Duration::ZERO, handshake);
        }
        if let Some(routed) = self.routed {
            add("route", None, Duration::ZERO, routed);
        }
        for (idx, attempt) in self.attempts.iter().enumerate() {
            let number = Some(idx + 1);
            let ended = attempt.ended.unwrap_or(first_byte);
            let picked = attempt.picked.unwrap_or(ended);
            add("queue", number, attempt.began, picked);
            if attempt.target.is_none() {
                continue;
            }
            add(
                "connect",
                number,
                picked,
                attempt.connected.unwrap_or(ended),
            );
            if let Some(connected) = attempt.connected {
                add("first_byte", number, connected, ended);
            }
        }
        add("body", None, first_byte, total);
        spans
    }
}

impl Attempt {
    fn for_record(&self, tells_skipped: bool) -> RequestAttempt {
        let endpoint = self.target.as_ref().map(|target| &target.endpoint);
        let (status, error) = match &self.end {
            End::Open if self.target.is_none() => {
                (None, Some("no machine took the request".to_owned()))
            }
            End::Open => (None, Some("it came to no end".to_owned())),
            End::Answered(status) => (Some(status.as_u16()), None),
            End::Failed(why) => (None, Some(why.clone())),
        };
        let (skipped, skipped_more) = if tells_skipped {
            self.looked.for_record()
        } else {
            Default::default()
        };
        RequestAttempt {
            machine: endpoint.map(|endpoint| endpoint.machine_id.to_string()),
            region: endpoint.map(|endpoint| endpoint.region.to_string()),
            node: endpoint
                .and_then(|endpoint| endpoint.node.as_ref())
                .map(|node| node.id.to_string()),
            round_trip_us: self
                .target
                .as_ref()
                .and_then(|it| self.looked.round_trip_us(it)),
            status,
            error,
            followed: tells_skipped && self.looked.is_noted(),
            skipped,
            skipped_more,
        }
    }
}

/// Whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
