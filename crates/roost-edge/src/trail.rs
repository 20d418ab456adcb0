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

/// The way of one request.
#[derive(Debug)]
pub(crate) struct Trail {
    pub(crate) started: Instant,
    /// Whether its record is wanted whatever becomes of it.
    pub(crate) is_followed: bool,
    /// The table that the last machine was picked from.
    pub(crate) table_version: u64,
    /// When the app was found.
    routed: Option<Instant>,
    /// The trace that the client has begun.
    pub(crate) trace: Option<HeaderValue>,
    /// The last attempt; nearly always it is the only one.
    last: Option<Attempt>,
    earlier: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    began: Instant,
    /// When there was a machine, or a refusal.
    picked: Option<Instant>,
    connected: Option<Instant>,
    ended: Option<Instant>,
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
            last: None,
            earlier: Vec::new(),
        }
    }

    /// Its app is known.
    pub(crate) fn routed(&mut self) {
        self.routed = Some(Instant::now());
    }

    /// A machine is looked for.
    pub(crate) fn begin_attempt(&mut self) {
        // To look at the clock costs something: the first begins when the app is known.
        let first = self.routed.filter(|_| self.last.is_none());
        let before = self.last.replace(Attempt {
            began: first.unwrap_or_else(Instant::now),
            picked: None,
            connected: None,
            ended: None,
            target: None,
            looked: Looked::default(),
            end: End::Open,
        });
        if self.earlier.len() + 1 < limits::ATTEMPTS_NOTED_MAX {
            self.earlier.extend(before);
        }
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
        if let Some(attempt) = &mut self.last {
            attempt.picked = Some(if waited {
                Instant::now()
            } else {
                attempt.began
            });
            attempt.target = target.cloned();
            attempt.looked = looked;
        }
    }

    /// There is a connection to it, now.
    pub(crate) fn connected(&mut self) -> Instant {
        let now = Instant::now();
        if let Some(attempt) = &mut self.last {
            attempt.connected = Some(now);
        }
        now
    }

    /// It could not be reached.
    pub(crate) fn unreached(&mut self, why: &str) {
        self.end(End::Failed(why.to_owned()));
    }

    /// It has answered; how long after there was a connection to it.
    pub(crate) fn answered(&mut self, status: StatusCode) -> Duration {
        self.end(End::Answered(status));
        let last = self.last.as_ref();
        let times = last.and_then(|attempt| attempt.ended.zip(attempt.connected));
        times.map_or(Duration::ZERO, |(ended, connected)| {
            ended.saturating_duration_since(connected)
        })
    }

    /// How long after the beginning the answer came, if that was the last.
    pub(crate) fn answered_at(&self) -> Option<Duration> {
        let last = self.last.as_ref()?;
        let ended = last.ended.filter(|_| matches!(last.end, End::Answered(_)));
        ended.map(|ended| self.at(ended))
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
        if let Some(attempt) = &mut self.last {
            attempt.ended = Some(Instant::now());
            attempt.end = end;
        }
    }

    /// How long a machine that has the request has not answered it.
    pub(crate) fn waits_for_answer(&self) -> Option<Duration> {
        let last = self.last.as_ref()?;
        let is_open = last.ended.is_none();
        last.connected
            .filter(|_| is_open)
            .map(|connected| connected.elapsed())
    }

    /// The attempts, for a record. Only the first and the last tell of the machines that did not
    /// get it: a record is to stay small.
    pub(crate) fn attempts(&self) -> Vec<RequestAttempt> {
        let last = self.earlier.len();
        let attempts = self.all().enumerate();
        attempts
            .map(|(idx, attempt)| attempt.for_record(idx == 0 || idx == last))
            .collect()
    }

    fn all(&self) -> impl Iterator<Item = &Attempt> {
        self.earlier.iter().chain(&self.last)
    }

    /// How long after the beginning that was.
    fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
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
            add("route", None, Duration::ZERO, self.at(routed));
        }
        for (idx, attempt) in self.all().enumerate() {
            let number = Some(idx + 1);
            let at = |moment: Option<Instant>| moment.map(|moment| self.at(moment));
            let ended = at(attempt.ended).unwrap_or(first_byte);
            let picked = at(attempt.picked).unwrap_or(ended);
            add("queue", number, self.at(attempt.began), picked);
            if attempt.target.is_none() {
                continue;
            }
            let connected = at(attempt.connected);
            add("connect", number, picked, connected.unwrap_or(ended));
            if let Some(connected) = connected {
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
