//! How long each stage of a request took, for clients that ask.
//!
//! The request says `roost-debug: timings`; the answer then has a line of
//! `server-timing` ([W3C Server Timing](https://www.w3.org/TR/server-timing/)), in milliseconds.

use crate::pick::Tried;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

static ASK: HeaderName = HeaderName::from_static("roost-debug");
static ANSWER: HeaderName = HeaderName::from_static("server-timing");

/// The stages of one request, if the client asks for them.
#[derive(Debug, Default)]
pub(crate) struct Timings(Option<Box<Stages>>);

#[derive(Debug, Default)]
struct Stages {
    line: String,
    last: Option<Instant>,
}

impl Timings {
    /// Begins to note them if these headers ask for it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let asks = headers.get(&ASK).is_some_and(|value| value == "timings");
        Self(asks.then(|| {
            Box::new(Stages {
                line: String::new(),
                last: Some(Instant::now()),
            })
        }))
    }

    /// Notes the stage that ends now; it began where the last one ended.
    pub(crate) fn ended(&mut self, stage: &str) {
        if let Some(stages) = &mut self.0 {
            let now = Instant::now();
            let last = stages.last.replace(now).unwrap_or(now);
            stages.add(stage, now - last);
        }
    }

    /// Notes the choice of a machine, and the wake that it waited for.
    pub(crate) fn picked(&mut self, tried: &Tried) {
        self.ended("pick");
        if let (Some(stages), Some(woken)) = (&mut self.0, tried.woken) {
            let parts = [
                ("wake-ask", woken.asked),
                ("wake-start", woken.started),
                ("wake-ready", woken.ready),
            ];
            for (stage, took) in parts {
                if let Some(took) = took {
                    stages.add(stage, took);
                }
            }
        }
    }

    /// Writes them into the headers of the answer, after what the app has to say of its own.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Some(stages) = &self.0
            && let Ok(value) = HeaderValue::from_str(&stages.line)
            && !value.is_empty()
        {
            headers.append(ANSWER.clone(), value);
        }
    }
}

impl Stages {
    fn add(&mut self, stage: &str, took: Duration) {
        let comma = if self.line.is_empty() { "" } else { ", " };
        let ms = took.as_secs_f64() * 1000.0;
        // Writing to a string cannot fail.
        let _ = write!(self.line, "{comma}{stage};dur={ms:.1}");
    }
}
