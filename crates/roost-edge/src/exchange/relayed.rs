//! A request that another edge hands over, for a machine of this node.
//!
//! It goes to that machine or to none: what the first edge could do as well, try
//! another machine, apply a replay, write a page, is left to it. So each
//! answer says what it is ([`Verdict`]), and "elsewhere" is said only while no
//! byte has reached the app.

use super::{Exchange, Shared};
use crate::activity::Serving;
use crate::arrival::{Arrival, Origin};
use crate::body::{BodySlot, ResponseBody, Slot};
use crate::client_body::ClientBody;
use crate::connect::ConnectError;
use crate::eject::Outcome;
use crate::forward::{Answer, Head, SendFailure};
use crate::pages::Page;
use crate::pick::{Asked, Tried};
use crate::relay::client::PeerStream;
use crate::relay::peers::Place;
use crate::relay::wire::{Block, Failed, Kind, Leg, OfFile, RELAY, Reason, Verdict};
use crate::settle::Settlement;
use crate::statics::Answered;
use crate::table::{AppRoute, PortRoute, Target};
use crate::upgrade::Wish;
use crate::wants::Wants;
use crate::{connect, headers, limits, pick};
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use roost_model::id::MachineId;
use roost_proto::traffic::EndpointHealth;
use std::sync::Arc;

/// Answers a request of another edge.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    block: Block,
    serving: Serving,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let ends = block.ends();
    let region = HeaderValue::from_str(&block.region);
    let region = region.unwrap_or(HeaderValue::from_static("unknown"));
    let origin = Origin::new(block.client.ip(), block.local, block.is_tls, region);
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::new(shared, ends, origin.clone(), serving, &parts);
    exchange.arrival = Arrival::new(origin, block.version, block.id, block.at_us);
    exchange.arrival.leg = block.leg;
    let answered = exchange.relay_to_machine(&block, &mut parts, body).await;
    answered.unwrap_or_else(|verdict| exchange.refuse(&verdict))
}

impl Exchange {
    /// Notes what an attempt by another edge takes, and what that edge hears of it.
    pub(super) fn take_leg(
        &mut self,
        head: &mut Head,
        tried: &Tried,
        stream: &PeerStream,
    ) -> Arc<Place> {
        let attempt = u8::try_from(self.attempts + 1).unwrap_or(u8::MAX);
        head.arrival.leg = Leg {
            hop: self.arrival.leg.hop,
            attempt,
            wait: tried.patience(&self.shared),
        };
        if let Some(picked) = &mut self.picked {
            picked.in_flight.takes(stream.place());
        }
        stream.place()
    }

    /// Notes a machine that could not be reached, and says why.
    pub(super) fn unreached(
        &mut self,
        asked: Asked<'_>,
        target: &Target,
        error: &ConnectError,
    ) -> String {
        let why = error.to_string();
        self.trail.unreached(&why);
        if error.blames_machine() {
            target.unanswered();
            pick::note(&self.shared, asked, target, Outcome::NoAnswer);
        }
        why
    }

    async fn relay_to_machine(
        &mut self,
        block: &Block,
        parts: &mut Parts,
        body: Incoming,
    ) -> Result<Response<ResponseBody>, Verdict> {
        if self.shared.is_overloaded() {
            return Err(elsewhere(Reason::Overloaded));
        }
        let app = self.shared.router.routes().app(block.app.as_str()).cloned();
        let app = app.ok_or_else(|| elsewhere(Reason::Gone))?;
        self.app = Some(app.clone());
        self.trail.routed();
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        let wish = match (block.kind, upgrade) {
            (Kind::WebSocket, Some(upgrade)) => Some(Wish::relayed(upgrade)),
            (Kind::WebSocket, None) => return Err(elsewhere(Reason::Version)),
            (Kind::Http | Kind::Raw | Kind::Datagrams | Kind::Wake, _) => None,
        };
        if wish.is_some() {
            self.method = Method::GET;
        }
        let slot = (wish.is_none() && !body.is_end_stream()).then(|| {
            BodySlot::new(
                ClientBody::Hyper(body),
                &self.shared.kept,
                self.trail.started,
            )
        });
        let mut headers = std::mem::take(&mut parts.headers);
        headers.remove(RELAY);
        headers::strip_hop_by_hop(&mut headers);
        self.trail.trace = crate::arrival::trace(&headers).cloned();
        if let Some(wish) = &wish {
            wish.towards_app(&mut headers);
        }
        let host = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = host.unwrap_or_default().to_owned();
        self.host.clone_from(&host);
        let head = Head {
            method: self.method.clone(),
            path: self.path.clone(),
            host,
            headers,
            arrival: self.arrival.clone(),
        };
        let answered = self.ask_machine(&app, block, head, slot.as_ref(), wish.is_some());
        let answered = answered.await?;
        if let Some(slot) = &slot {
            slot.forget();
        }
        match answered {
            Answered::App(answer) => self.pass_back(answer, slot, wish),
            Answered::File(mut file) => {
                file.headers.insert(RELAY, OfFile::value());
                Ok(self.send_file(*file))
            }
        }
    }

    /// Asks the one machine, and waits for it only as long as the other edge says.
    async fn ask_machine(
        &mut self,
        app: &Arc<AppRoute>,
        block: &Block,
        mut head: Head,
        slot: Slot<'_>,
        alone: bool,
    ) -> Result<Answered, Verdict> {
        let shared = self.shared.clone();
        let wants = Wants::only(block.machine.as_str());
        let asked = block.asked(&wants);
        loop {
            let mut tried = Tried::waits_at_most(block.leg.wait);
            let target = self.pick(app, asked, &mut tried).await;
            let target = target.map_err(|page| refusal(&page, app, block))?;
            if target.endpoint.node.is_some() && block.leg.hop + 1 >= limits::RELAY_EDGES_MAX {
                return Err(elsewhere(Reason::Loop));
            }
            let unread = |page: Page| Verdict::Failed(Failed::Broken, page.details.join("; "));
            let found = self.find_file(&target, &head, alone).await;
            if let Some(file) = found.map_err(unread)? {
                return Ok(file);
            }
            let kept_max = self.kept_max();
            let carries = connect::Carries::of(slot, alone);
            let connected = connect::connect(&shared, &target, block.port, carries, kept_max).await;
            let connection = connected.map_err(|error| {
                let why = self.unreached(asked, &target, &error);
                Verdict::Elsewhere(Reason::Unreachable, why)
            })?;
            let mut place = None;
            if let connect::Connection::Peer(stream) = &connection {
                place = Some(self.take_leg(&mut head, &tried, stream));
                head.arrival.leg.wait = block.leg.wait;
            }
            let failure = match self.ask(connection, &head, slot, asked, &target).await {
                Ok(answer) => return Ok(Answered::App(answer)),
                Err(failure) => failure,
            };
            // A kept connection that the app has closed meanwhile.
            let is_unsent = matches!(failure, SendFailure::Unsent(_));
            let may_repeat = is_unsent && self.attempts < limits::ATTEMPTS_MAX;
            if !may_repeat || slot.is_some_and(|slot| slot.take_back().is_err()) {
                let verdict = verdict_of(failure);
                let is_counted = place.is_some_and(|place| place.is_counted());
                let is_silence = matches!(
                    verdict,
                    Verdict::Failed(Failed::Broken | Failed::Late | Failed::Header, _)
                );
                if is_silence && !is_counted {
                    target.unanswered();
                }
                return Err(verdict);
            }
        }
    }

    /// The app's answer for the other edge, which makes of it what clients get.
    fn pass_back(
        &mut self,
        answer: Answer,
        slot: Option<Arc<BodySlot>>,
        wish: Option<Wish>,
    ) -> Result<Response<ResponseBody>, Verdict> {
        let (response, sender) = *answer;
        let (mut parts, body) = response.into_parts();
        if headers::has_other_coding(&parts.headers) {
            let why = "the app's answer has a transfer coding besides chunked";
            return Err(Verdict::Failed(Failed::Broken, why.to_owned()));
        }
        if parts.headers.contains_key(TRANSFER_ENCODING) {
            parts.headers.remove(CONTENT_LENGTH);
        }
        headers::strip_hop_by_hop(&mut parts.headers);
        let is_file = parts.extensions.get::<OfFile>().is_some();
        let said = if is_file {
            OfFile::value()
        } else {
            Verdict::Answer.value()
        };
        parts.headers.insert(RELAY, said);
        parts.version = http::Version::default();
        let app_upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        parts.extensions.clear();
        let target = self.target();
        let options = target.as_deref().and_then(|it| it.http(self.ends.external));
        let idle = options.and_then(|http| http.idle_timeout);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(wish), Some(app_upgrade)) = (wish, app_upgrade) else {
                let why = "the app changed the protocol without having been asked";
                return Err(Verdict::Failed(Failed::Broken, why.to_owned()));
            };
            parts.headers.remove(CONTENT_LENGTH);
            parts.status = wish.towards_client(&mut parts.headers);
            let settlement = self.settlement(parts.status, None);
            let idle = idle.unwrap_or(self.shared.config.timeouts.tunnel_idle);
            let body = wish.tunnel(&self.shared, app_upgrade, settlement, idle);
            return Ok(Response::from_parts(parts, body));
        }
        let mut settlement = self.settlement(parts.status, None);
        if wish.is_some() {
            // An answer of success would open the tunnel (RFC 9113 8.5).
            let verdict = Verdict::Enclosed(parts.status);
            parts.headers.insert(RELAY, verdict.value());
            parts.status = StatusCode::FORBIDDEN;
        } else {
            settlement.connection = sender
                .zip(target)
                .map(|(sender, target)| (sender, target.pool.clone(), slot));
        }
        let idle = idle.unwrap_or(self.shared.config.timeouts.body_idle);
        let body = ResponseBody::streamed(body, idle, settlement);
        Ok(Response::from_parts(parts, body))
    }

    fn refuse(&mut self, verdict: &Verdict) -> Response<ResponseBody> {
        let (status, code) = match verdict {
            Verdict::Elsewhere(reason, _) => (StatusCode::SERVICE_UNAVAILABLE, reason.as_str()),
            Verdict::Failed(Failed::Late, _) => (StatusCode::GATEWAY_TIMEOUT, "answer-timeout"),
            Verdict::Failed(Failed::Header, _) => (StatusCode::BAD_GATEWAY, "answer-header"),
            Verdict::Failed(Failed::Body, _) => (StatusCode::BAD_REQUEST, "request-body"),
            Verdict::Failed(Failed::Broken, _) | Verdict::Answer | Verdict::Enclosed(_) => {
                (StatusCode::BAD_GATEWAY, "no-answer")
            }
        };
        let mut settlement = self.settlement(status, Some(code));
        // The machine, if one was picked, has nothing to do with this answer.
        settlement.in_flight = None;
        settlement.body_ended();
        with_verdict(verdict, settlement)
    }
}

/// An answer without a body that says this.
pub(crate) fn with_verdict(verdict: &Verdict, settlement: Settlement) -> Response<ResponseBody> {
    let mut response = Response::new(nothing(settlement));
    if *verdict != Verdict::Answer {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(RELAY, verdict.value());
    response
}

fn nothing(settlement: Settlement) -> ResponseBody {
    ResponseBody::Page {
        content: None,
        settlement: Box::new(settlement),
    }
}

/// What is said of a connection of HTTP/2 that has had no room for a request.
pub(super) const FULL: &str = "it takes no more requests at once on this connection";

/// What the other edge hears of a failure.
fn verdict_of(failure: SendFailure) -> Verdict {
    match failure {
        SendFailure::Unsent(why) => Verdict::Elsewhere(Reason::Unreachable, why),
        SendFailure::Full => Verdict::Elsewhere(Reason::HardLimit, FULL.to_owned()),
        SendFailure::Elsewhere(it) => Verdict::Elsewhere(it.reason, it.why),
        SendFailure::Broken(why) => Verdict::Failed(Failed::Broken, why),
        SendFailure::TooLate => Verdict::Failed(Failed::Late, String::new()),
        SendFailure::TooLarge => Verdict::Failed(Failed::Header, String::new()),
        SendFailure::ClientBody => Verdict::Failed(Failed::Body, String::new()),
    }
}

fn elsewhere(reason: Reason) -> Verdict {
    Verdict::Elsewhere(reason, String::new())
}

/// Why the machine was not picked.
pub(crate) fn refusal(page: &Page, app: &AppRoute, block: &Block) -> Verdict {
    let port = app.port_of(block.kind.protocol(), block.port);
    let reason = match page.code {
        "hard-limit" => Reason::HardLimit,
        "queue-full" => Reason::QueueFull,
        "wake-timeout" => Reason::Waking,
        "wake-failed" => Reason::WakeFailed,
        "machine-unreachable" => Reason::Unreachable,
        _ => port.map_or(Reason::Gone, |port| of_health(port, &block.machine)),
    };
    let why = page.details.first().cloned().unwrap_or_default();
    Verdict::Elsewhere(reason, why)
}

fn of_health(port: &PortRoute, machine: &MachineId) -> Reason {
    let mut targets = port.targets.iter();
    let target = targets.find(|target| target.endpoint.machine_id == *machine);
    match target.map(|target| &target.endpoint.health) {
        None => Reason::Gone,
        Some(EndpointHealth::Draining) => Reason::Draining,
        Some(EndpointHealth::Asleep(_)) => Reason::Waking,
        Some(EndpointHealth::Passing | EndpointHealth::Failing(_) | EndpointHealth::Down(_)) => {
            Reason::Unhealthy
        }
    }
}
