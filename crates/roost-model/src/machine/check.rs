//! Health checks: what one asks, how often, and what its results lead to.
//!
//! A config is read into a [`CheckDraft`], whether it is TOML or JSON, and
//! [`CheckDraft::build`] is the only place that knows defaults and bounds.

mod draft;
mod statuses;

#[cfg(test)]
mod tests;

pub use draft::{CheckDraft, CheckFault, CheckPlace};
pub use statuses::StatusRanges;

use crate::limits;
use std::collections::BTreeMap;
use std::time::Duration;

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// What its results decide.
    pub purpose: CheckPurpose,
    /// Time between two checks.
    pub interval: Duration,
    /// Time that one check may take.
    pub timeout: Duration,
    /// Time after start in which failures do not count.
    pub grace_period: Duration,
    /// So many in a row have to pass before a check that does not pass does.
    pub success_threshold: u32,
    /// So many in a row have to fail before a check that does not fail does.
    pub failure_threshold: u32,
    /// Whether a machine whose check fails is stopped, for its restart policy to go on from there.
    pub stops_unhealthy: bool,
}

impl Check {
    /// Time between two checks unless a config says otherwise.
    pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
    /// Time for one check unless a config says otherwise.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
    /// Time without failures unless a config says otherwise.
    pub const GRACE_PERIOD_DEFAULT: Duration = Duration::from_secs(5);
    /// Failures in a row before a machine is stopped, unless a config says otherwise.
    pub const STOP_THRESHOLD_DEFAULT: u32 = 3;

    /// What the names of the checks of services begin with.
    pub const SERVICE_PREFIX: &str = "servicecheck-";

    /// What is wrong with the name of a check of a machine, if anything.
    pub fn name_problem(name: &str) -> Option<String> {
        if name.is_empty() || name.len() > limits::CHECK_NAME_BYTES_MAX {
            let most = limits::CHECK_NAME_BYTES_MAX;
            return Some(format!("must have a name of 1 to {most} bytes"));
        }
        if name.chars().any(char::is_control) {
            return Some("has a control character in its name".into());
        }
        let prefix = Self::SERVICE_PREFIX;
        name.starts_with(prefix)
            .then(|| format!("has a name like those of the checks of services, `{prefix}…`"))
    }

    /// A check with the usual times that tells whether its machine is ready.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            purpose: CheckPurpose::Readiness,
            interval: Self::INTERVAL_DEFAULT,
            timeout: Self::TIMEOUT_DEFAULT,
            grace_period: Self::GRACE_PERIOD_DEFAULT,
            success_threshold: 1,
            failure_threshold: 1,
            stops_unhealthy: false,
        }
    }
}

/// What the results of a check decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckPurpose {
    /// Deploys wait for it; traffic does not.
    Informational,
    /// While it does not pass no traffic goes to its service, or, if it belongs
    /// to none, to its machine.
    Readiness,
}

impl CheckPurpose {
    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Readiness => "readiness",
        }
    }
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp {
        /// The port asked.
        port: u16,
    },
    /// A request is answered with an expected status.
    Http(HttpCheck),
    /// `grpc.health.v1.Health/Check` says that a service is serving.
    Grpc(GrpcCheck),
    /// A command in the machine exits with code 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

impl CheckKind {
    /// The word in configs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
            Self::Exec { .. } => "exec",
        }
    }

    /// The port asked, if one is.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port } => Some(*port),
            Self::Http(http) => Some(http.port),
            Self::Grpc(grpc) => Some(grpc.port),
            Self::Exec { .. } => None,
        }
    }
}

/// What an HTTP check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The port asked.
    pub port: u16,
    /// The request method.
    pub method: String,
    /// The request path, starting with a slash.
    pub path: String,
    /// Request headers.
    pub headers: BTreeMap<String, String>,
    /// How to speak TLS; `None` for plain HTTP.
    pub tls: Option<CheckTls>,
    /// The statuses that pass.
    pub statuses: StatusRanges,
}

impl HttpCheck {
    /// `GET` by plain HTTP, which passes with 2xx.
    pub fn get(port: u16, path: &str) -> Self {
        Self {
            port,
            method: "GET".into(),
            path: path.into(),
            headers: BTreeMap::new(),
            tls: None,
            statuses: StatusRanges::default(),
        }
    }
}

/// What a gRPC check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The port asked.
    pub port: u16,
    /// The name of the service; empty for the server as a whole.
    pub service: String,
    /// How to speak TLS; `None` for HTTP/2 with prior knowledge.
    pub tls: Option<CheckTls>,
}

/// How a check speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckTls {
    /// The name that the certificate has to be for; the machine's address when absent.
    pub server_name: Option<String>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}
