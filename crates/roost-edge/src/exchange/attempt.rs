//! The attempts of an exchange: pick a machine, connect, ask, and another one when that is safe.

use super::Exchange;
use super::relayed::FULL;
use crate::body::Slot;
use crate::connect::{Carries, Connection};
use crate::forward::{Answer, Head, SendFailure};
use crate::pages::Page;
use crate::pick::{Asked, Tried};
use crate::statics::Answered;
use crate::table::{AppRoute, Target};
use crate::{connect, forward, headers, limits, pick, statics};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

impl Exchange {
    /// Begins an attempt: picks its machine.
    pub(super) async fn pick(
        &mut self,
        app: &AppRoute,
        asked: Asked<'_>,
        tried: &mut Tried,
    ) -> Result<Arc<Target>, Page> {
        self.picked = None;
        self.trail.begin_attempt();
        let picked = pick::pick(&self.shared, Some(app), asked, tried).await;
        self.timings.picked(tried);
        let target = picked.as_ref().ok().map(|picked| &picked.target);
        let version = self.shared.router.version();
        self.trail
            .picked(target, tried.has_waited(), tried.looked.take(), version);
        let picked = picked?;
        let target = picked.target.clone();
        self.picked = Some(picked);
        Ok(target)
    }

    /// Asks the machine, and notes how it did.
    pub(super) async fn ask(
        &mut self,
        connection: Connection,
        head: &Head,
        slot: Slot<'_>,
        asked: Asked<'_>,
        target: &Target,
    ) -> Result<Answer, SendFailure> {
        let now = self.trail.connected();
        self.attempts += 1;
        self.timings.ended("connect");
        let idle = target.idle_timeout(asked.external);
        let timeouts = &self.shared.config.timeouts;
        let sent = forward::send(connection, head, slot, target, timeouts, idle, now.into()).await;
        self.timings.ended("app");
        if let Some(outcome) = forward::judge(&sent) {
            pick::note(&self.shared, asked, target, outcome);
        }
        match &sent {
            Ok(answer) => {
                let status = answer.0.status();
                let latency = self.trail.answered(status);
                // The edge of another node counts its own.
                if target.endpoint.node.is_none() {
                    target.answered(status, latency);
                }
            }
            Err(failure) => self.trail.failed(failure),
        }
        sent
    }

    /// Sends the request to one machine after another until one answers or no more attempt is safe.
    pub(crate) async fn attempt(
        &mut self,
        app: &AppRoute,
        asked: Asked<'_>,
        head: &mut Head,
        slot: Slot<'_>,
        alone: bool,
    ) -> Result<Answered, Page> {
        let mut tried = Tried::new(self.trail.is_followed);
        loop {
            let target = self.pick(app, asked, &mut tried).await?;
            if let Some(file) = self.find_file(&target, head, alone).await? {
                return Ok(file);
            }
            headers::note_preference(&mut head.headers, asked.wants.unavailable(&target));
            let kept_max = self.kept_max();
            let carries = Carries::of(slot, alone);
            let connection =
                match connect::connect(&self.shared, &target, asked.external, carries, kept_max)
                    .await
                {
                    Ok(connection) => connection,
                    Err(error) => {
                        self.unreached(asked, &target, &error);
                        tried.unreached(&self.shared, &target.endpoint, &error);
                        continue;
                    }
                };
            let place = match &connection {
                Connection::Peer(stream) => Some(self.take_leg(head, &tried, stream)),
                _ => None,
            };
            let failure = match self.ask(connection, head, slot, asked, &target).await {
                Ok(answer) => return Ok(Answered::App(answer)),
                Err(failure) => failure,
            };
            if let SendFailure::Elsewhere(elsewhere) = &failure {
                self.attempts -= 1;
                let goes_on = tried.elsewhere(&self.shared, &target, elsewhere);
                if goes_on && slot.is_none_or(|slot| slot.take_back().is_ok()) {
                    continue;
                }
            }
            let is_silence = matches!(
                failure,
                SendFailure::Broken(_) | SendFailure::TooLate | SendFailure::TooLarge
            );
            if is_silence && !place.is_some_and(|place| place.is_counted()) {
                target.unanswered();
            }
            if !self.may_repeat(app, &failure, slot) {
                return Err(broken(asked.app, &target, failure));
            }
        }
    }

    /// The static file of this machine that the request is for, if there is one.
    pub(super) async fn find_file(
        &mut self,
        target: &Target,
        head: &Head,
        alone: bool,
    ) -> Result<Option<Answered>, Page> {
        let endpoint = &target.endpoint;
        // What another node has, its edge looks for.
        if alone || endpoint.node.is_some() || endpoint.statics.is_empty() {
            return Ok(None);
        }
        // On the heap: few machines have static files.
        let found = Box::pin(statics::find(&self.shared, target, head)).await?;
        Ok(found.map(|file| {
            self.trail.connected();
            self.trail.answered(file.status);
            Answered::File(Box::new(file))
        }))
    }

    /// Whether the request can be sent again: it either reached nobody or does
    /// no harm twice (RFC 9110 9.2.2), and nothing of its body is gone.
    fn may_repeat(&self, app: &AppRoute, failure: &SendFailure, slot: Slot<'_>) -> bool {
        let safe = match failure {
            SendFailure::Unsent(_) | SendFailure::Full => true,
            SendFailure::Broken(_) => self.method.is_idempotent(),
            SendFailure::TooLate
            | SendFailure::TooLarge
            | SendFailure::ClientBody
            | SendFailure::Elsewhere(_) => false,
        };
        safe && self.attempts < limits::ATTEMPTS_MAX
            && slot.is_none_or(|slot| slot.take_back().is_ok())
            && app.budget.take()
    }

    /// How long a kept connection may have been idle. A request that must not
    /// be sent twice takes none that the app may be about to close.
    pub(super) fn kept_max(&self) -> Duration {
        let limit = self.shared.config.timeouts.pool_idle;
        if self.method.is_idempotent() {
            limit
        } else {
            limit.min(limits::KEPT_FOR_ONCE_MAX)
        }
    }
}

fn broken(app: &str, target: &Target, failure: SendFailure) -> Page {
    let machine = &target.endpoint.machine_id;
    let page = match failure {
        SendFailure::Unsent(why) | SendFailure::Broken(why) => {
            let title = "the app closed the connection without an answer";
            Page::new(StatusCode::BAD_GATEWAY, "no-answer", title)
                .detail(format!("machine {machine}: {why}"))
        }
        SendFailure::Full => {
            let title = "the app takes no more requests at once";
            let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, "hard-limit", title)
                .detail(format!("machine {machine}: {FULL}"));
            // The app has not seen the request, so its logs say nothing.
            return page.retry_after(1).next(
                "more machines, or a higher limit of concurrent streams in the app, make room",
            );
        }
        SendFailure::TooLarge => {
            let title = "the header of the app's answer is too large";
            Page::new(StatusCode::BAD_GATEWAY, "answer-header", title)
                .detail(format!("machine {machine}"))
                .detail(format!(
                    "over HTTP/1 the most is {} lines and {} bytes, over HTTP/2 {} and {}",
                    limits::HEADER_LINES_MAX,
                    limits::BACKEND_BUFFER_BYTES_MAX,
                    limits::HTTP2_MACHINE.header_lines_max,
                    limits::HTTP2_MACHINE.header_bytes_max,
                ))
        }
        SendFailure::TooLate => Page::new(
            StatusCode::GATEWAY_TIMEOUT,
            "answer-timeout",
            "the app did not answer in time",
        )
        .detail(format!("machine {machine}")),
        SendFailure::Elsewhere(elsewhere) => {
            let title =
                "the node of the machine did not take the request, and it cannot be sent again";
            Page::refused(StatusCode::SERVICE_UNAVAILABLE, "elsewhere", title)
                .detail(format!("machine {machine}: {elsewhere}"))
                .retry_after(1)
        }
        SendFailure::ClientBody => {
            let title = "the body of the request broke off or stood still";
            return Page::refused(StatusCode::BAD_REQUEST, "request-body", title);
        }
    };
    page.next(format!("`roost logs -a {app}` shows what the app said"))
}
