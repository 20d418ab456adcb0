//! The REST API, as commands call it.

use crate::error::{CliError, Exit};
use crate::limits;
use crate::settings::Target;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use roost_proto::rest::{ErrorBody, IDEMPOTENCY_KEY, REQUEST_ID};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// A connection to one platform.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: Target,
    is_read_only: bool,
}

/// What every HTTP client for this address begins with.
///
/// One for plain HTTP trusts nobody, and so does not look for CA certificates:
/// a minimal host has none, and reading them takes longer than most commands.
pub(crate) fn builder_for(url: &str) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder();
    if url.starts_with("https:") {
        builder
    } else {
        builder.tls_certs_only([])
    }
}

/// No body.
pub(crate) const NOTHING: Option<&()> = None;

impl Client {
    /// A client of a platform.
    pub(crate) fn new(target: Target) -> Result<Self, CliError> {
        let http = builder_for(&target.api_url)
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                let why = roost_model::error::chain(&error);
                CliError::failed("client", format!("set up the HTTP client: {why}")).hint(
                    "HTTPS needs CA certificates: Debian has them in the package ca-certificates",
                )
            })?;
        Ok(Self {
            http,
            target,
            is_read_only: false,
        })
    }

    /// With `true`, a client that sends nothing but `GET`, for `--dry-run`.
    pub(crate) fn read_only(self, is_read_only: bool) -> Self {
        Self {
            is_read_only,
            ..self
        }
    }

    /// Where the API is.
    pub(crate) fn api_url(&self) -> &str {
        &self.target.api_url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.target.api_url));
        match &self.target.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let request = request.build().map_err(|error| self.transport(&error))?;
        // Commands end before they get here; one that forgets to must not change anything either.
        if self.is_read_only && request.method() != Method::GET {
            let (method, path) = (request.method(), request.url().path());
            let message = format!("--dry-run would have sent {method} {path}, and did not");
            return Err(CliError::failed("internal", message));
        }
        let sent = self.http.execute(request).await;
        let response = sent.map_err(|error| self.transport(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let request_id = response
            .headers()
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let text = response.text().await.unwrap_or_default();
        let mut body =
            serde_json::from_str(&text).unwrap_or_else(|_| unknown_answer(status, &text));
        if body.request_id.is_empty() {
            body.request_id = request_id;
        }
        Err(CliError::from_api(status.as_u16(), body))
    }

    fn transport(&self, error: &reqwest::Error) -> CliError {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            why = inner.to_string();
            source = inner.source();
        }
        if error.is_timeout() && !error.is_connect() {
            let message = format!("{} did not answer in time", self.target.api_url);
            return CliError::new(Exit::StillRunning, "api-timeout", message)
                .hint("the operation may go on: see `roost status`");
        }
        if !error.is_connect() {
            let message = format!("the connection to {} broke: {why}", self.target.api_url);
            return CliError::failed("api-connection-lost", message)
                .hint("did the platform stop? `roost doctor` looks");
        }
        CliError::failed(
            "api-unreachable",
            format!("no answer from the API at {}: {why}", self.target.api_url),
        )
        .hint("is the platform running? `roost up` starts one on this machine")
        .hint("--api-url or ROOST_API_URL names another one")
    }

    /// Sends a request with a JSON body and reads a JSON answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, CliError> {
        self.call_within(limits::REQUEST_TIMEOUT, method, path, body)
            .await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, CliError> {
        let mut request = self.request(method, path).timeout(timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.read(request, path).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        path: &str,
    ) -> Result<T, CliError> {
        let response = self.send(request).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.transport(&error))?;
        // Answers such as 204 have no body, which a caller reads as null.
        let bytes = if bytes.is_empty() {
            &b"null"[..]
        } else {
            &bytes[..]
        };
        serde_json::from_slice(bytes).map_err(|error| {
            CliError::failed(
                "bad-answer",
                format!("the API's answer to {path} is not what was expected: {error}"),
            )
            .hint("compare `roost version` of client and platform")
        })
    }

    /// `GET`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::GET, path, NOTHING).await
    }

    /// `POST`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, CliError> {
        self.call(Method::POST, path, body).await
    }

    /// `POST` of something that may take longer than other requests.
    pub(crate) async fn post_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, CliError> {
        self.call_within(timeout, Method::POST, path, body).await
    }

    /// `POST` of something new. When the connection breaks or the answer is late the request is
    /// repeated with the same idempotency key, by which the platform knows it again.
    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, CliError> {
        let key = ulid::Ulid::generate().to_string();
        let mut repeats = Repeats::default();
        loop {
            let mut request = self
                .request(Method::POST, path)
                .timeout(limits::REQUEST_TIMEOUT)
                .header(IDEMPOTENCY_KEY, &key);
            if let Some(body) = body {
                request = request.json(body);
            }
            let error = match self.read(request, path).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !repeats.allow(&error) {
                return Err(error);
            }
            tokio::time::sleep(limits::RETRY_PAUSE).await;
        }
    }

    /// `DELETE`; the answer's content does not matter.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send(
            self.request(Method::DELETE, path)
                .timeout(limits::REQUEST_TIMEOUT),
        )
        .await
        .map(drop)
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(
        &self,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<Lines, CliError> {
        let mut request = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Ok(Lines::new(self.send(request).await?))
    }

    /// `POST` that is answered line by line, for as long as it takes.
    pub(crate) async fn lines(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Lines, CliError> {
        let request = self.request(Method::POST, path).json(body);
        Ok(Lines::new(self.send(request).await?))
    }

    /// Sends a long body and gives the lines of the answer.
    pub(crate) async fn upload(&self, path: &str, body: reqwest::Body) -> Result<Lines, CliError> {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/x-tar")
            .body(body);
        Ok(Lines::new(self.send(request).await?))
    }

    /// How far the platform's clock is from this one, as far as a `Date` of whole seconds tells.
    pub(crate) async fn clock_skew(&self) -> Option<Duration> {
        let request = self
            .http
            .get(format!("{}/healthz", self.target.api_url))
            .timeout(limits::CONNECT_TIMEOUT);
        let response = request.send().await.ok()?;
        let date = response.headers().get("date")?.to_str().ok()?;
        let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
        let ours = jiff::Timestamp::now();
        Some(ours.duration_since(theirs).unsigned_abs())
    }

    /// Whether the API answers at all.
    pub(crate) async fn is_healthy(&self) -> bool {
        let request = self
            .http
            .get(format!("{}/healthz", self.target.api_url))
            .timeout(limits::CONNECT_TIMEOUT);
        matches!(request.send().await, Ok(response) if response.status().is_success())
    }
}

/// Decides whether a request is worth being repeated after it broke.
#[derive(Debug)]
pub(crate) struct Repeats {
    since: Instant,
    lost_at: Option<Instant>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            lost_at: None,
        }
    }
}

impl Repeats {
    /// The platform was heard.
    pub(crate) fn answered(&mut self) {
        self.lost_at = None;
    }

    /// Whether to try again after this error.
    pub(crate) fn allow(&mut self, error: &CliError) -> bool {
        let is_again = match error.code.as_str() {
            // The first attempt is still being worked on.
            "api-timeout" | "request-in-progress" => {
                self.answered();
                true
            }
            "api-connection-lost" => {
                let lost_at = self.lost_at.get_or_insert_with(Instant::now);
                lost_at.elapsed() < limits::RECONNECT_TIMEOUT
            }
            // Nothing has been asked yet if this is the first answer: it is told at once.
            "api-unreachable" => self
                .lost_at
                .is_some_and(|lost_at| lost_at.elapsed() < limits::RECONNECT_TIMEOUT),
            _ => false,
        };
        is_again && self.since.elapsed() <= limits::CREATE_TIMEOUT
    }
}

fn unknown_answer(status: StatusCode, text: &str) -> ErrorBody {
    let start: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    ErrorBody {
        error: format!("the server answered {status}: {start}"),
        code: format!("http-{}", status.as_u16()),
        hint: None,
        faults: Vec::new(),
        refusals: Vec::new(),
        request_id: String::new(),
    }
}

/// One query or path value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The lines of a streaming answer.
pub(crate) struct Lines {
    response: Response,
    buffer: Vec<u8>,
    read_up_to: usize,
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its id.
    pub(crate) id: Option<String>,
    /// Its data.
    pub(crate) data: String,
}

impl Lines {
    fn new(response: Response) -> Self {
        Self {
            response,
            buffer: Vec::new(),
            read_up_to: 0,
        }
    }

    /// The next line; `None` at the end. An error means that the connection broke.
    pub(crate) async fn next_line(&mut self) -> Result<Option<String>, CliError> {
        loop {
            let unread = &self.buffer[self.read_up_to..];
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&unread[..end])
                    .trim_end_matches('\r')
                    .to_owned();
                self.read_up_to += end + 1;
                return Ok(Some(line));
            }
            if unread.len() > limits::STREAM_LINE_BYTES_MAX {
                return Err(CliError::failed(
                    "bad-answer",
                    "the API sent a line that is too long",
                ));
            }
            self.buffer.drain(..self.read_up_to);
            self.read_up_to = 0;
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => {
                    return Ok(Some(
                        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned(),
                    ));
                }
                Err(error) => {
                    let message = format!("the connection to the API broke: {error}");
                    return Err(CliError::failed("api-connection-lost", message));
                }
            }
        }
    }

    /// The next server-sent event that has data.
    pub(crate) async fn next_event(&mut self) -> Result<Option<Event>, CliError> {
        let mut event = Event::default();
        while let Some(line) = self.next_line().await? {
            if line.is_empty() {
                if !event.data.is_empty() {
                    return Ok(Some(event));
                }
                event = Event::default();
            } else if let Some(data) = line.strip_prefix("data:") {
                if !event.data.is_empty() {
                    event.data.push('\n');
                }
                event.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            } else if let Some(id) = line.strip_prefix("id:") {
                event.id = Some(id.trim().to_owned());
            }
        }
        Ok(None)
    }
}
