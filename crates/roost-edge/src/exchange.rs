//! One request and its response, through the phases
//! accept → tls → route → pick → connect → forward → settle.

use crate::accept::Ends;
use crate::access::PendingRecord;
use crate::activity::Serving;
use crate::affinity::Affinity;
use crate::arrival::{self, Arrival, Origin};
use crate::body::{BodySlot, ResponseBody};
use crate::client_body::ClientBody;
use crate::compress::{self, Accepts};
use crate::forward::{Answer, Head};
use crate::headers;
use crate::pages::{Form, Page};
use crate::pick::Picked;
use crate::rates::Open;
use crate::relay::wire::OfFile;
use crate::settle::Settlement;
use crate::shared::Shared;
use crate::statics::{Answered, FileAnswer};
use crate::table::{AppRoute, Target};
use crate::timings::Timings;
use crate::trail::Trail;
use crate::{limits, route, upgrade};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, SET_COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

mod attempt;
pub(crate) mod relayed;

/// One request on its way.
pub(crate) struct Exchange {
    pub(crate) shared: Arc<Shared>,
    ends: Ends,
    open: Option<Open>,
    serving: Option<Serving>,
    trail: Trail,
    method: Method,
    version: Version,
    form: Form,
    accepts: Accepts,
    path: PathAndQuery,
    arrival: Arrival,
    pub(crate) host: String,
    /// The app that has it.
    pub(crate) app: Option<Arc<AppRoute>>,
    attempts: usize,
    picked: Option<Picked>,
    /// What keeps it with other requests.
    pub(crate) affinity: Option<Arc<Affinity>>,
    timings: Timings,
    /// Whether the response, and the record with it, is on its way.
    is_settled: bool,
}

/// Answers one request.
///
/// All of its state is in one piece on the heap: a connection between two requests holds none of it.
pub(crate) fn handle(
    shared: Arc<Shared>,
    ends: Ends,
    origin: Arc<Origin>,
    serving: Serving,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send {
    let (parts, body) = request.into_parts();
    let body = Some(ClientBody::Hyper(body));
    Box::pin(answered(shared, ends, origin, serving, parts, body).map(Ok))
}

/// Not an `async fn`: its arguments would have a place in its state of their own.
pub(crate) fn answered(
    shared: Arc<Shared>,
    ends: Ends,
    origin: Arc<Origin>,
    serving: Serving,
    mut parts: Parts,
    body: Option<ClientBody>,
) -> impl Future<Output = Response<ResponseBody>> + Send {
    // In a piece of its own: what is written once is not moved again with the rest.
    let mut exchange = Box::new(Exchange::new(shared, ends, origin, serving, &parts));
    async move {
        let response = exchange.run(&mut parts, body).await;
        let mut response = response.unwrap_or_else(|page| exchange.answer(&page));
        exchange.timings.write(response.headers_mut());
        let is_http1 = exchange.version < Version::HTTP_2;
        let is_last = exchange.shared.retired.is_cancelled() && is_http1;
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // The client's next connection is the other edge's.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if !is_http1 && !response.headers().contains_key(DATE) {
            response.headers_mut().insert(DATE, headers::date());
        }
        response
    }
}

impl Exchange {
    fn new(
        shared: Arc<Shared>,
        ends: Ends,
        origin: Arc<Origin>,
        serving: Serving,
        request: &Parts,
    ) -> Self {
        let version = request.version;
        let arrived_ms = roost_runtime::clock::now().as_ms();
        let arrived_us = arrived_ms.saturating_mul(1000);
        let id = ulid::Ulid::from_datetime(UNIX_EPOCH + Duration::from_millis(arrived_ms));
        let started = Instant::now();
        Self {
            ends,
            open: None,
            serving: Some(serving),
            trail: Trail::new(started, shared.recent.follows(started)),
            method: request.method.clone(),
            version,
            form: Form::of(&request.headers),
            accepts: Accepts::of(&request.headers),
            path: request
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
            arrival: Arrival::new(origin, version, id, arrived_us),
            host: String::new(),
            app: None,
            attempts: 0,
            picked: None,
            affinity: None,
            timings: Timings::of(&request.headers),
            is_settled: false,
            shared,
        }
    }

    async fn run(
        &mut self,
        parts: &mut Parts,
        mut body: Option<ClientBody>,
    ) -> Result<Response<ResponseBody>, Page> {
        if self.shared.is_overloaded() {
            return Err(route::overloaded());
        }
        if self.serving.as_ref().is_some_and(|one| !one.may_ask()) {
            return Err(route::too_fast("client-rate", "this client asks too often"));
        }
        let has_two_lengths = self.serving.as_ref().is_some_and(Serving::has_two_lengths);
        // One whose stream has ended is no tunnel.
        let is_websocket = body.is_some() && upgrade::is_websocket_over_http2(parts);
        let authority = route::admit(parts, is_websocket, has_two_lengths)?;
        self.host = authority.host;
        let names = &self.shared.names;
        if let Some(answer) = names.key_authorization(&self.host, self.path.path()) {
            let content_type = HeaderValue::from_static("application/octet-stream");
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
            return Ok(self.own(StatusCode::OK, None, headers, answer.into()));
        }
        let app = route::find(&self.shared, &self.host, self.ends)?;
        self.app = Some(app.clone());
        self.trail.routed();
        if !app
            .rates
            .requests
            .take(self.shared.config.rates.app_requests)
        {
            return Err(route::too_fast("app-rate", "this app is asked too often"));
        }
        self.count_open(&app)?;
        if route::wants_https(&self.shared, &app, self.ends) {
            route::force_https(&self.shared, parts, &self.host, self.ends)?;
        }
        let wish = upgrade::take_wish(parts, &mut body);
        // The body of an extended CONNECT is the tunnel itself.
        let body = body.filter(|body| wish.is_none() && !body.is_end_stream());
        let slot = body.map(|body| BodySlot::new(body, &self.shared.kept, self.trail.started));
        let mut headers = std::mem::take(&mut parts.headers);
        headers::towards_app(&mut headers);
        self.trail.trace = arrival::trace(&headers).cloned();
        if let Some(wish) = &wish {
            wish.towards_app(&mut headers);
        }
        let mut head = Head {
            method: parts.method.clone(),
            path: self.path.clone(),
            host: authority.raw,
            headers,
            arrival: self.arrival.clone(),
        };
        app.budget.request();
        let answered = self
            .rounds(app, &mut head, slot.as_ref(), wish.is_some())
            .await?;
        if let Some(slot) = &slot {
            slot.forget();
        }
        match answered {
            Answered::App(answer) => self.respond(answer, slot, wish),
            Answered::File(file) => Ok(self.respond_with_file(*file)),
        }
    }

    /// Counts the request as one of this app's, and of the one that had it before no longer.
    pub(crate) fn count_open(&mut self, app: &AppRoute) -> Result<(), Page> {
        let most = self.shared.config.rates.app_open;
        let counted = if let Some(open) = &mut self.open {
            open.go_to(&app.rates, most)
        } else {
            let visit = self.serving.as_ref().and_then(Serving::visit);
            Open::new(visit, &app.rates, most).map(|open| self.open = Some(open))
        };
        counted.map_err(route::too_many_open)
    }

    /// The external port that the client has come to.
    pub(crate) fn external(&self) -> u16 {
        self.ends.external
    }

    /// Counts a machine that has the request and is waited for no longer. A client that leaves
    /// soon says nothing about it.
    pub(crate) fn note_silence(&self) {
        let waited = self.trail.waits_for_answer();
        // The edge of its node counts that as well.
        if let Some(target) = self.target().filter(|it| it.endpoint.node.is_none())
            && waited.is_some_and(|waited| waited >= limits::SLOW)
        {
            target.unanswered();
        }
    }

    /// The machine that has the request.
    pub(crate) fn target(&self) -> Option<Arc<Target>> {
        self.picked.as_ref().map(|picked| picked.target.clone())
    }

    fn respond(
        &mut self,
        answer: Answer,
        slot: Option<Arc<BodySlot>>,
        wish: Option<upgrade::Wish>,
    ) -> Result<Response<ResponseBody>, Page> {
        let (response, sender) = *answer;
        let (mut parts, body) = response.into_parts();
        if headers::has_other_coding(&parts.headers) {
            let title = "the app's answer has a transfer coding besides chunked";
            return Err(Page::new(StatusCode::BAD_GATEWAY, "answer-coding", title));
        }
        let target = self.picked.as_ref().map(|picked| &*picked.target);
        let options = target.and_then(|target| target.http(self.ends.external));
        let request_id = self.arrival.request_id();
        headers::towards_client(&mut parts.headers, self.version, request_id, options);
        if let Some(affinity) = &self.affinity
            && let Some(target) = target
            && options.is_none_or(|options| !options.pristine)
            && parts.extensions.get::<OfFile>().is_none()
            && !headers::is_for_shared_caches(&parts.headers)
        {
            let cookie = affinity.cookie_for(target, self.ends.is_tls);
            parts
                .headers
                .extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
        }
        let idle = options.and_then(|http| http.idle_timeout);
        let compresses = options.is_some_and(|http| http.compress);
        parts.version = Version::default();
        let app_upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        parts.extensions.clear();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(wish), Some(app_upgrade)) = (wish, app_upgrade) else {
                let title = "the app changed the protocol without having been asked";
                return Err(Page::new(StatusCode::BAD_GATEWAY, "unasked-upgrade", title));
            };
            parts.status = wish.towards_client(&mut parts.headers);
            let settlement = self.settlement(parts.status, None);
            let idle = idle.unwrap_or(self.shared.config.timeouts.tunnel_idle);
            let body = wish.tunnel(&self.shared, app_upgrade, settlement, idle);
            return Ok(Response::from_parts(parts, body));
        }
        // A connection that was made for an upgrade is not kept.
        let kept = sender.filter(|_| wish.is_none()).zip(target);
        let kept = kept.map(|(sender, target)| (sender, target.pool.clone(), slot));
        let mut settlement = self.settlement(parts.status, None);
        settlement.connection = kept;
        let idle = idle.unwrap_or(self.shared.config.timeouts.body_idle);
        let body = ResponseBody::streamed(body, idle, settlement);
        let response = Response::from_parts(parts, body);
        Ok(self.compressed(response, compresses))
    }

    /// Answers with a file of the machine.
    fn respond_with_file(&mut self, mut file: FileAnswer) -> Response<ResponseBody> {
        let target = self.target();
        let options = target
            .as_deref()
            .and_then(|target| target.http(self.ends.external));
        let request_id = self.arrival.request_id();
        headers::towards_client(&mut file.headers, self.version, request_id, options);
        let compresses = options.is_some_and(|http| http.compress);
        let response = self.send_file(file);
        self.compressed(response, compresses)
    }

    /// The answer as its service wants it: compressed, or as it is. HTTP/1.0 knows no end but that
    /// of the connection for what has no length.
    fn compressed(&self, response: Response<ResponseBody>, wanted: bool) -> Response<ResponseBody> {
        if !wanted || self.version < Version::HTTP_11 {
            return response;
        }
        compress::answer(&self.shared, self.accepts, &self.method, response)
    }

    fn send_file(&mut self, file: FileAnswer) -> Response<ResponseBody> {
        let settlement = self.settlement(file.status, None);
        let content = file.content.filter(|_| self.method != Method::HEAD);
        let mut response = Response::new(ResponseBody::of_file(content, settlement));
        *response.status_mut() = file.status;
        *response.headers_mut() = file.headers;
        response
    }

    /// Counts an answer of the edge itself.
    fn count_own(&self, status: StatusCode, latency: Duration) {
        match &self.app {
            Some(app) => {
                let series = app.meter.series(&self.shared.config.region);
                series.responded(status, latency);
            }
            None => self.shared.nobody.responded(status, latency),
        }
    }

    /// What is left to do at the end; takes the machine's count along.
    fn settlement(&mut self, status: StatusCode, error: Option<&'static str>) -> Settlement {
        self.is_settled = true;
        let picked = self.picked.take();
        let (target, in_flight) = picked
            .map(|picked| (picked.target, picked.in_flight))
            .unzip();
        // Of an answer of the edge itself the attempts say which machine was asked.
        let target = target.filter(|_| error.is_none());
        let started = self.trail.started;
        let answered = self.trail.answered_at().filter(|_| error.is_none());
        let first_byte = answered.unwrap_or_else(|| started.elapsed());
        match &target {
            // Counted where the client is.
            _ if self.arrival.leg.hop > 0 => {}
            Some(target) => target.series.responded(status, first_byte),
            None => self.count_own(status, first_byte),
        }
        let record = Box::new(PendingRecord {
            shared: self.shared.clone(),
            trail: std::mem::replace(&mut self.trail, Trail::new(started, false)),
            arrival: self.arrival.clone(),
            ends: self.ends,
            version: self.version,
            method: self.method.clone(),
            host: std::mem::take(&mut self.host),
            // Nobody asks for it any more.
            path: std::mem::replace(&mut self.path, PathAndQuery::from_static("/")),
            app: self.app.take(),
            target,
            status,
            error,
            first_byte,
            response_bytes: 0,
            complete: false,
        });
        Settlement {
            in_flight,
            open: self.open.take(),
            serving: self.serving.take(),
            connection: None,
            record: Some(record),
        }
    }

    /// Answers with a page of the edge's own.
    fn answer(&mut self, page: &Page) -> Response<ResponseBody> {
        let request_id = self.arrival.request_id_text().to_owned();
        let (content_type, content) = page.render(self.form, &request_id);
        let mut headers = HeaderMap::new();
        for (name, value) in &page.headers {
            headers.insert(name, value.clone());
        }
        if self.version == Version::HTTP_2 {
            headers.remove(http::header::CONNECTION);
        }
        headers.insert(CONTENT_TYPE, content_type);
        self.own(page.status, Some(page.code), headers, content)
    }

    /// Answers without the app. `error` is the code of a page.
    fn own(
        &mut self,
        status: StatusCode,
        error: Option<&'static str>,
        mut headers: HeaderMap,
        content: Bytes,
    ) -> Response<ResponseBody> {
        headers.insert(CONTENT_LENGTH, content.len().into());
        headers.insert(
            http::header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        );
        headers.insert(http::header::SERVER, headers::OWN_NAME);
        headers::REQUEST_ID.set(&mut headers, self.arrival.request_id());
        let mut settlement = self.settlement(status, error);
        // The machine, if one was picked, has nothing to do with this answer.
        settlement.in_flight = None;
        let content = (self.method != Method::HEAD).then_some(content);
        if content.is_none() {
            settlement.body_ended();
        }
        let mut response = Response::new(ResponseBody::Page {
            content,
            settlement: Box::new(settlement),
        });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

impl Drop for Exchange {
    /// A client that leaves before its answer: there is a record of that as well.
    fn drop(&mut self) {
        if !self.is_settled {
            self.note_silence();
            let status = StatusCode::from_u16(limits::STATUS_CLIENT_GONE).unwrap_or_default();
            drop(self.settlement(status, Some("client-gone")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientBody, Ends, Origin, Serving, Shared, answered};
    use http::request::Parts;
    use std::sync::Arc;

    type Handler<F> = fn(Arc<Shared>, Ends, Arc<Origin>, Serving, Parts, Option<ClientBody>) -> F;

    fn size_of_state<F>(_of: Handler<F>) -> usize {
        size_of::<F>()
    }

    /// Each request allots it, and each that waits for its app holds it.
    #[test]
    fn the_state_of_a_request_is_small() {
        let bytes = size_of_state(answered);
        assert!(bytes <= 4096, "{bytes} bytes");
    }
}
