//! From what a config says about a check to the check, or everything that is wrong with it.

use super::{Check, CheckKind, CheckPurpose, CheckTls, GrpcCheck, HttpCheck, StatusRanges};
use crate::limits;
use std::collections::BTreeMap;
use std::time::Duration;

/// A check as a config writes it; what is absent has its default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckDraft {
    /// `type`: tcp, http, grpc or exec.
    pub kind: String,
    /// `port`.
    pub port: Option<u16>,
    /// `interval`.
    pub interval: Option<Duration>,
    /// `timeout`.
    pub timeout: Option<Duration>,
    /// `grace_period`.
    pub grace_period: Option<Duration>,
    /// `kind`: informational or readiness.
    pub purpose: Option<String>,
    /// `success_threshold`.
    pub success_threshold: Option<u32>,
    /// `failure_threshold`.
    pub failure_threshold: Option<u32>,
    /// `unhealthy`: stop.
    pub unhealthy: Option<String>,
    /// `method`.
    pub method: Option<String>,
    /// `path`.
    pub path: Option<String>,
    /// `protocol`: http or https.
    pub protocol: Option<String>,
    /// `headers`.
    pub headers: BTreeMap<String, String>,
    /// `tls_server_name`.
    pub tls_server_name: Option<String>,
    /// `tls_skip_verify`.
    pub tls_skip_verify: bool,
    /// `expected_statuses`.
    pub expected_statuses: Option<Vec<String>>,
    /// `grpc_service`.
    pub grpc_service: Option<String>,
    /// `command`.
    pub command: Option<Vec<String>>,
}

/// Where a config has a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckPlace {
    /// In a service, whose port it asks unless it names another.
    Service {
        /// The service's port.
        port: u16,
    },
    /// In the machine.
    Machine,
}

/// One thing that is wrong with a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong, without a full stop.
    pub problem: String,
}

#[derive(Default)]
struct Faults(Vec<CheckFault>);

impl Faults {
    fn add(&mut self, key: &'static str, problem: impl Into<String>) {
        let problem = problem.into();
        self.0.push(CheckFault { key, problem });
    }

    fn add_unless(&mut self, fits: bool, key: &'static str, problem: impl Into<String>) {
        if !fits {
            self.add(key, problem);
        }
    }
}

impl CheckDraft {
    /// The check, or all that is wrong with it. Whether users may ask for its
    /// interval is for [`CheckPlace::interval_min`].
    pub fn build(&self, place: CheckPlace) -> Result<Check, Vec<CheckFault>> {
        let mut faults = Faults::default();
        let kind = self.to_kind(place, &mut faults);
        let stops_unhealthy = match self.unhealthy.as_deref() {
            None => false,
            Some("stop") => true,
            Some(_) => {
                faults.add("unhealthy", "must be \"stop\", or left out");
                false
            }
        };
        let check = Check {
            purpose: self.to_purpose(place, &mut faults),
            interval: self.interval.unwrap_or(Check::INTERVAL_DEFAULT),
            timeout: self.timeout.unwrap_or(Check::TIMEOUT_DEFAULT),
            grace_period: self.grace_period.unwrap_or(Check::GRACE_PERIOD_DEFAULT),
            success_threshold: self.success_threshold.unwrap_or(1),
            failure_threshold: self.failure_threshold.unwrap_or(if stops_unhealthy {
                Check::STOP_THRESHOLD_DEFAULT
            } else {
                1
            }),
            stops_unhealthy,
            // Left in place when there are faults, and then thrown away.
            kind: kind.unwrap_or(CheckKind::Tcp { port: 0 }),
        };
        check_bounds(&check, &mut faults);
        if faults.0.is_empty() {
            Ok(check)
        } else {
            Err(faults.0)
        }
    }

    fn to_kind(&self, place: CheckPlace, faults: &mut Faults) -> Option<CheckKind> {
        self.refuse_keys_of_others(faults);
        if self.kind == "exec" {
            return Some(CheckKind::Exec {
                command: self.to_command(faults),
            });
        }
        let default = match place {
            CheckPlace::Service { port } => Some(port),
            CheckPlace::Machine => None,
        };
        let port = self.port.or(default).filter(|port| *port > 0);
        match self.kind.as_str() {
            "tcp" | "http" | "grpc" if port.is_none() => {
                faults.add("port", "is missing");
            }
            _ => {}
        }
        let port = port.unwrap_or_default();
        match self.kind.as_str() {
            "tcp" => Some(CheckKind::Tcp { port }),
            "http" => Some(CheckKind::Http(self.to_http(port, faults))),
            "grpc" => Some(CheckKind::Grpc(GrpcCheck {
                port,
                service: self.to_grpc_service(faults),
                tls: self.to_tls(faults),
            })),
            _ => {
                faults.add("type", "must be one of tcp, http, grpc, exec");
                None
            }
        }
    }

    /// Keys that the type of the check has no use for.
    fn refuse_keys_of_others(&self, faults: &mut Faults) {
        let over_http = ["http", "grpc"].as_slice();
        for (key, is_given, types) in [
            (
                "port",
                self.port.is_some(),
                ["tcp", "http", "grpc"].as_slice(),
            ),
            ("method", self.method.is_some(), &["http"]),
            ("path", self.path.is_some(), &["http"]),
            ("headers", !self.headers.is_empty(), &["http"]),
            (
                "expected_statuses",
                self.expected_statuses.is_some(),
                &["http"],
            ),
            ("protocol", self.protocol.is_some(), over_http),
            ("tls_server_name", self.tls_server_name.is_some(), over_http),
            ("tls_skip_verify", self.tls_skip_verify, over_http),
            ("grpc_service", self.grpc_service.is_some(), &["grpc"]),
            ("command", self.command.is_some(), &["exec"]),
        ] {
            let is_known = ["tcp", "http", "grpc", "exec"].contains(&self.kind.as_str());
            if is_given && is_known && !types.contains(&self.kind.as_str()) {
                let problem = format!(
                    "has no meaning in a check of type {}, only of {}",
                    self.kind,
                    types.join(", ")
                );
                faults.add(key, problem);
            }
        }
    }

    fn to_purpose(&self, place: CheckPlace, faults: &mut Faults) -> CheckPurpose {
        match (self.purpose.as_deref(), place) {
            (None | Some("readiness"), CheckPlace::Service { .. })
            | (Some("readiness"), CheckPlace::Machine) => CheckPurpose::Readiness,
            (None | Some("informational"), CheckPlace::Machine) => CheckPurpose::Informational,
            (Some("informational"), CheckPlace::Service { .. }) => {
                let problem = "must be readiness: the checks of a service decide about its traffic; put it under `checks` of the machine";
                faults.add("kind", problem);
                CheckPurpose::Readiness
            }
            (Some("liveness"), _) => {
                let problem = "must be informational or readiness; `unhealthy = \"stop\"` has a machine that fails stopped and started again";
                faults.add("kind", problem);
                CheckPurpose::Readiness
            }
            (Some(_), _) => {
                faults.add("kind", "must be informational or readiness");
                CheckPurpose::Readiness
            }
        }
    }

    fn to_http(&self, port: u16, faults: &mut Faults) -> HttpCheck {
        let method = self.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let is_method = is_token(&method) && method.len() <= 32 && method != "CONNECT";
        faults.add_unless(is_method, "method", "is not an HTTP method for a check");
        let path = self.path.clone().unwrap_or_else(|| "/".into());
        let is_path = path.starts_with('/')
            && path.len() <= limits::CHECK_TEXT_BYTES_MAX
            && path.bytes().all(|byte| byte.is_ascii_graphic());
        faults.add_unless(
            is_path,
            "path",
            "must start with a slash and have no spaces, control or non-ASCII characters",
        );
        self.check_headers(faults);
        let statuses = match &self.expected_statuses {
            None => StatusRanges::default(),
            Some(texts) => StatusRanges::parse(texts).unwrap_or_else(|problem| {
                faults.add("expected_statuses", problem);
                StatusRanges::default()
            }),
        };
        HttpCheck {
            port,
            method,
            path,
            headers: self.headers.clone(),
            tls: self.to_tls(faults),
            statuses,
        }
    }

    fn check_headers(&self, faults: &mut Faults) {
        let n_bytes: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if self.headers.len() > limits::CHECK_HEADERS_MAX || n_bytes > limits::CHECK_TEXT_BYTES_MAX
        {
            let problem = format!(
                "has more than {} headers, or {} bytes",
                limits::CHECK_HEADERS_MAX,
                limits::CHECK_TEXT_BYTES_MAX
            );
            faults.add("headers", problem);
        }
        // These say where a request ends, which is not for a config to say.
        let of_framing = [
            "connection",
            "content-length",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        for (name, value) in &self.headers {
            let shown = name.escape_debug();
            if !is_token(name) {
                faults.add("headers", format!("`{shown}` is not the name of a header"));
            } else if of_framing.contains(&name.to_ascii_lowercase().as_str()) {
                faults.add("headers", format!("`{shown}` cannot be set by a check"));
            } else if value.chars().any(|c| c.is_control() && c != '\t') {
                faults.add(
                    "headers",
                    format!("`{shown}` has a control character in its value"),
                );
            }
        }
    }

    fn to_tls(&self, faults: &mut Faults) -> Option<CheckTls> {
        match self.protocol.as_deref() {
            Some("https") => {
                if let Some(name) = &self.tls_server_name {
                    faults.add_unless(is_host(name), "tls_server_name", "is not a host name");
                }
                Some(CheckTls {
                    server_name: self.tls_server_name.clone(),
                    skip_verify: self.tls_skip_verify,
                })
            }
            None | Some("http") => {
                let problem = "needs `protocol = \"https\"`";
                faults.add_unless(self.tls_server_name.is_none(), "tls_server_name", problem);
                faults.add_unless(!self.tls_skip_verify, "tls_skip_verify", problem);
                None
            }
            Some(_) => {
                faults.add("protocol", "must be \"http\" or \"https\"");
                None
            }
        }
    }

    fn to_grpc_service(&self, faults: &mut Faults) -> String {
        let service = self.grpc_service.clone().unwrap_or_default();
        let fits = service.len() <= limits::CHECK_TEXT_BYTES_MAX
            && service.bytes().all(|byte| byte.is_ascii_graphic());
        faults.add_unless(fits, "grpc_service", "is not the name of a gRPC service");
        service
    }

    fn to_command(&self, faults: &mut Faults) -> Vec<String> {
        let command = self.command.clone().unwrap_or_default();
        let n_bytes: usize = command.iter().map(String::len).sum();
        if command.first().is_none_or(String::is_empty) {
            faults.add(
                "command",
                "is missing: a program and its arguments, as a list",
            );
        } else if command.len() > limits::CHECK_COMMAND_WORDS_MAX
            || n_bytes > limits::CHECK_TEXT_BYTES_MAX
        {
            let problem = format!(
                "has more than {} words, or {} bytes",
                limits::CHECK_COMMAND_WORDS_MAX,
                limits::CHECK_TEXT_BYTES_MAX
            );
            faults.add("command", problem);
        } else if command.iter().any(|word| word.contains('\0')) {
            faults.add("command", "has a NUL byte in it");
        }
        command
    }
}

impl CheckPlace {
    /// The shortest interval that users may ask for.
    pub fn interval_min(self) -> Duration {
        match self {
            Self::Service { .. } => limits::CHECK_INTERVAL_MIN_OF_SERVICES,
            Self::Machine => limits::CHECK_INTERVAL_MIN,
        }
    }
}

fn check_bounds(check: &Check, faults: &mut Faults) {
    let longest = limits::CHECK_INTERVAL_MAX;
    let is_within = |time: Duration| !time.is_zero() && time <= longest;
    faults.add_unless(
        is_within(check.interval),
        "interval",
        "must be more than 0 and at most 24 hours",
    );
    faults.add_unless(
        check.grace_period <= longest,
        "grace_period",
        "must be at most 24 hours",
    );
    let timeout_fits = !check.timeout.is_zero() && check.timeout <= limits::CHECK_TIMEOUT_MAX;
    faults.add_unless(
        timeout_fits,
        "timeout",
        "must be more than 0 and at most 60 s",
    );
    for (key, threshold) in [
        ("success_threshold", check.success_threshold),
        ("failure_threshold", check.failure_threshold),
    ] {
        let fits = (1..=limits::CHECK_THRESHOLD_MAX).contains(&threshold);
        faults.add_unless(
            fits,
            key,
            format!("must be 1 to {}", limits::CHECK_THRESHOLD_MAX),
        );
    }
}

/// A token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

/// A DNS name or an IP address, as certificates have them.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}
