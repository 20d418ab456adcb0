//! One request and its response, through the phases
//! accept → tls → route → pick → connect → forward → settle.

use crate::accept::Ends;
use crate::access::{self, AccessRecord};
use crate::activity::Serving;
use crate::body::{BodySlot, ResponseBody};
use crate::config::EdgeConfig;
use crate::forward::{Head, SendFailure};
use crate::headers::{self, Arrival};
use crate::pages::{Form, Page};
use crate::pick::{Picked, Tried};
use crate::retry::RetryBudget;
use crate::settle::{PendingRecord, Settlement};
use crate::table::Router;
use crate::{connect, forward, limits, pick, route, upgrade};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all exchanges of an edge share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    /// The configured domains in lower case.
    pub(crate) domains: Vec<String>,
    pub(crate) region: HeaderValue,
    pub(crate) https_port: Option<u16>,
    pub(crate) router: Arc<Router>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) waiters: Semaphore,
    pub(crate) budget: RetryBudget,
    /// Client connections, their streams and tunnels.
    pub(crate) clients: TaskTracker,
    /// Connections to machines.
    pub(crate) backends: TaskTracker,
    /// Fires when no new work should be taken.
    pub(crate) graceful: CancellationToken,
    /// Fires when the time for that is over.
    pub(crate) kill: CancellationToken,
}

/// One request on its way.
struct Exchange {
    shared: Arc<Shared>,
    ends: Ends,
    serving: Option<Serving>,
    started: Instant,
    method: Method,
    version: Version,
    form: Form,
    path: PathAndQuery,
    request_id: HeaderValue,
    host: String,
    app: Option<String>,
    attempts: usize,
    picked: Option<Picked>,
}

/// Answers one request.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    ends: Ends,
    serving: Serving,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    shared.budget.request();
    let id = ulid::Ulid::generate().to_string();
    let mut exchange = Exchange {
        ends,
        serving: Some(serving),
        started: Instant::now(),
        method: request.method().clone(),
        version: request.version(),
        form: Form::of(request.headers()),
        path: request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")),
        request_id: HeaderValue::from_str(&id).expect("a ULID is a valid header value"),
        host: String::new(),
        app: None,
        attempts: 0,
        picked: None,
        shared,
    };
    // On the heap: the state of the phases is large, and a connection holds its request's.
    match Box::pin(exchange.run(request)).await {
        Ok(response) => response,
        Err(page) => exchange.answer(&page),
    }
}

impl Exchange {
    async fn run(&mut self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Page> {
        let (mut parts, body) = request.into_parts();
        let authority = route::admit(&parts, upgrade::is_websocket_over_http2(&parts))?;
        self.host.clone_from(&authority.host);
        let app = route::find(&self.shared, &authority.host)?;
        self.app = Some(app.name.as_str().to_owned());
        if app.traffic.force_https && !self.ends.is_tls {
            route::force_https(&self.shared, &parts, &authority.host)?;
        }
        let wish = upgrade::take_wish(&mut parts);
        // The body of an extended CONNECT is the tunnel itself.
        let slot = (wish.is_none() && !body.is_end_stream()).then(|| BodySlot::new(body));
        let mut headers = parts.headers;
        headers::towards_app(&mut headers, &self.arrival());
        if let Some(wish) = &wish {
            wish.towards_app(&mut headers);
        }
        let head = Head {
            method: parts.method,
            path: self.path.clone(),
            host: authority.raw,
            headers,
        };
        let (response, sender) = self
            .attempt(app.name.as_str(), &head, slot.as_ref(), wish.is_some())
            .await?;
        drop(app);
        self.respond(response, sender, slot, wish)
    }

    fn arrival(&self) -> Arrival<'_> {
        Arrival {
            client: self.ends.client.ip().to_canonical(),
            local: self.ends.local,
            is_tls: self.ends.is_tls,
            version: self.version,
            request_id: &self.request_id,
            region: &self.shared.region,
            arrived_us: roost_runtime::clock::now().as_ms().saturating_mul(1000),
        }
    }

    /// Sends the request to one machine after another until one answers or no more attempt is safe.
    async fn attempt(
        &mut self,
        app: &str,
        head: &Head,
        slot: Option<&Arc<BodySlot>>,
        alone: bool,
    ) -> Result<forward::Answer, Page> {
        let shared = self.shared.clone();
        let timeouts = &shared.config.timeouts;
        let mut tried = Tried::default();
        loop {
            self.picked = None;
            let picked = pick::pick(&shared, app, &mut tried).await?;
            let target = picked.target.clone();
            self.picked = Some(picked);
            let connection = match connect::connect(&shared, &target, alone, self.kept_max()).await
            {
                Ok(connection) => connection,
                Err(error) => {
                    tried.refused(&shared, target.endpoint.address, error.to_string());
                    continue;
                }
            };
            self.attempts += 1;
            let sent = forward::send(
                connection,
                head,
                slot,
                timeouts.body_idle,
                timeouts.response_header,
            )
            .await;
            let failure = match sent {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if !self.may_repeat(&failure, slot) {
                return Err(broken(app, &target, failure));
            }
        }
    }

    /// Whether the request can be sent again: it either reached nobody or does
    /// no harm twice (RFC 9110 9.2.2), and nothing of its body is gone.
    fn may_repeat(&self, failure: &SendFailure, slot: Option<&Arc<BodySlot>>) -> bool {
        let safe = match failure {
            SendFailure::Unsent(_) => true,
            SendFailure::Broken(_) => self.method.is_idempotent(),
            SendFailure::TooLate | SendFailure::ClientBody => false,
        };
        safe && self.attempts < limits::ATTEMPTS_MAX
            && slot.is_none_or(|slot| slot.take_back())
            && self.shared.budget.take()
    }

    /// How long a kept connection may have been idle. A request that must not
    /// be sent twice takes none that the app may be about to close.
    fn kept_max(&self) -> Duration {
        let limit = self.shared.config.timeouts.pool_idle;
        if self.method.is_idempotent() {
            limit
        } else {
            limit.min(limits::KEPT_FOR_ONCE_MAX)
        }
    }

    fn respond(
        &mut self,
        response: Response<Incoming>,
        sender: Option<crate::pool::Http1Sender>,
        slot: Option<Arc<BodySlot>>,
        wish: Option<upgrade::Wish>,
    ) -> Result<Response<ResponseBody>, Page> {
        let (mut parts, body) = response.into_parts();
        headers::towards_client(&mut parts.headers, self.version, &self.request_id);
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
            wish.tunnel(&self.shared, app_upgrade, settlement);
            let body = ResponseBody::Page {
                content: None,
                settlement: Box::default(),
            };
            return Ok(Response::from_parts(parts, body));
        }
        let picked = self
            .picked
            .as_ref()
            .map(|picked| picked.target.pool.clone());
        let mut settlement = self.settlement(parts.status, None);
        // A connection that was made for an upgrade is not kept.
        if wish.is_none() {
            settlement.connection = sender
                .zip(picked)
                .map(|(sender, pool)| (sender, pool, slot));
        }
        let body = ResponseBody::streamed(body, self.shared.config.timeouts.body_idle, settlement);
        Ok(Response::from_parts(parts, body))
    }

    /// What is left to do at the end; takes the machine's count along.
    fn settlement(&mut self, status: StatusCode, error: Option<&'static str>) -> Settlement {
        let machine = self
            .picked
            .as_ref()
            .map(|picked| picked.target.endpoint.machine_id.clone());
        let sink = self.shared.config.access_log.clone();
        let record = access::wanted(sink.as_deref()).then(|| {
            let record = AccessRecord {
                request_id: self.request_id.to_str().unwrap_or_default().to_owned(),
                client: self.ends.client.ip().to_canonical(),
                method: self.method.clone(),
                host: self.host.clone(),
                path: self.path.path().to_owned(),
                app: self.app.clone(),
                machine,
                status: status.as_u16(),
                error,
                response_bytes: 0,
                attempts: self.attempts,
                first_byte: self.started.elapsed(),
                total: self.started.elapsed(),
                complete: false,
            };
            Box::new(PendingRecord {
                record,
                started: self.started,
                sink,
            })
        });
        let in_flight = self.picked.take().map(|picked| picked.in_flight);
        Settlement {
            in_flight,
            serving: self.serving.take(),
            connection: None,
            record,
        }
    }

    /// Answers with a page of the edge's own.
    fn answer(&mut self, page: &Page) -> Response<ResponseBody> {
        let request_id = self.request_id.to_str().unwrap_or_default().to_owned();
        let (content_type, content) = page.render(self.form, &request_id);
        let mut headers = HeaderMap::new();
        for (name, value) in &page.headers {
            headers.insert(name, value.clone());
        }
        if self.version == Version::HTTP_2 {
            headers.remove(http::header::CONNECTION);
        }
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CONTENT_LENGTH, content.len().into());
        headers.insert(
            http::header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        );
        headers.insert(headers::FLY_REQUEST_ID, self.request_id.clone());
        headers.insert(headers::ROOST_REQUEST_ID, self.request_id.clone());
        let mut settlement = self.settlement(page.status, Some(page.code));
        // The machine, if one was picked, has nothing to do with this page.
        settlement.in_flight = None;
        let content = (self.method != Method::HEAD).then_some(content);
        if content.is_none() {
            settlement.body_ended();
        }
        let mut response = Response::new(ResponseBody::Page {
            content,
            settlement: Box::new(settlement),
        });
        *response.status_mut() = page.status;
        *response.headers_mut() = headers;
        response
    }
}

fn broken(app: &str, target: &crate::table::Target, failure: SendFailure) -> Page {
    let machine = &target.endpoint.machine_id;
    let page = match failure {
        SendFailure::Unsent(why) | SendFailure::Broken(why) => {
            let title = "the app closed the connection without an answer";
            Page::new(StatusCode::BAD_GATEWAY, "no-answer", title)
                .detail(format!("machine {machine}: {why}"))
        }
        SendFailure::TooLate => Page::new(
            StatusCode::GATEWAY_TIMEOUT,
            "answer-timeout",
            "the app did not answer in time",
        )
        .detail(format!("machine {machine}")),
        SendFailure::ClientBody => {
            let title = "the body of the request broke off or stood still";
            return Page::refused(StatusCode::BAD_REQUEST, "request-body", title);
        }
    };
    page.next(format!("`roost logs -a {app}` shows what the app said"))
}
