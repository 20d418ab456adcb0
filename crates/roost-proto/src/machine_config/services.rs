//! The services of a machine config, both ways.

use super::to_spec::Faults;
use super::{CheckConfig, MachineConfig};
use roost_model::limits;
use roost_model::machine::{
    AffinityDraft, Autostop, CheckPlace, Concurrency, ConcurrencyDraft, HttpOptions, PortDraft,
    ProxyVersion, ReplayCacheDraft, ReplayCacheRule, Service, ServiceDraft, ServicePort,
    SessionKey, StaticFolder, TlsOptions, service_conflicts, statics_conflict,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

/// A folder of the machine whose files the edge serves by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticConfig {
    /// Absolute path of the folder in the machine.
    pub guest_path: String,
    /// What the paths of requests for its files begin with.
    pub url_prefix: String,
    /// The file for paths that end with a slash; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_document: Option<String>,
}

impl From<&StaticFolder> for StaticConfig {
    fn from(folder: &StaticFolder) -> Self {
        Self {
            guest_path: folder.guest_path().to_owned(),
            url_prefix: folder.url_prefix().to_owned(),
            index_document: folder.index_document().map(str::to_owned),
        }
    }
}

impl MachineConfig {
    pub(super) fn to_statics(&self, faults: &mut Faults) -> Vec<StaticFolder> {
        let mut folders = Vec::new();
        for (idx, config) in self.statics.iter().enumerate() {
            let index = config.index_document.as_deref();
            match StaticFolder::new(&config.guest_path, &config.url_prefix, index) {
                Ok(folder) => folders.push(folder),
                Err(fault) => faults.add(format!("statics[{idx}].{}", fault.key), fault.problem),
            }
        }
        if folders.len() == self.statics.len()
            && let Some((idx, problem)) = statics_conflict(&folders)
        {
            faults.add(format!("statics[{idx}]"), problem);
        }
        folders
    }
}

/// A service: a port of the machine that takes traffic through the edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// `tcp` or `udp`.
    #[serde(default = "default_protocol")]
    pub protocol: String,
    /// The port the app listens on.
    pub internal_port: u16,
    /// The public ports; 80 and 443 with their usual handlers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
    /// How much of it one machine takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyConfig>,
    /// Whether traffic starts the machine when it rests; no by default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub autostart: bool,
    /// What becomes of machines that traffic has no need of: `off` (the default), `stop`,
    /// `suspend`; false and true stand for the first two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostop: Option<AutostopConfig>,
    /// So many machines in the app's first region are not stopped for want of traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_machines_running: Option<u32>,
    /// Checks that take the machine out of routing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckConfig>,
}

fn default_protocol() -> String {
    "tcp".into()
}

/// How much of a service one machine takes at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Concurrency)]
pub struct ConcurrencyConfig {
    /// What is counted: `connections` (the default) or `requests`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// From here on other machines are preferred; 20 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u32>,
    /// From here on it gets nothing new; no limit by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u32>,
}

/// A word, or one of the booleans of old.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Autostop)]
pub enum AutostopConfig {
    /// False is `off`, true is `stop`.
    Flag(bool),
    /// `off`, `stop` or `suspend`.
    Word(String),
}

/// A public port of a service, or several next to each other.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PortConfig {
    /// The one port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_port: Option<u16>,
    /// The last of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// What the edge takes off the stream: `http`, `tls`, both, `pg_tls`, or nothing; and
    /// `proxy_proto`, which tells the app who the client is.
    pub handlers: Vec<String>,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force_https: bool,
    /// Options of the `http` handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_options: Option<HttpOptionsConfig>,
    /// Options of the `tls` and `pg_tls` handlers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_options: Option<TlsOptionsConfig>,
    /// Options of the `proxy_proto` handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_proto_options: Option<ProxyProtoOptions>,
}

/// Options of the `http` handler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = HttpOptions)]
pub struct HttpOptionsConfig {
    /// Speak HTTP/2 with prior knowledge to the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub h2_backend: bool,
    /// How many seconds an exchange may stand still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,
    /// Compress answers that are text, for clients that take it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compress: bool,
    /// What is done to the headers of responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseOptions>,
    /// Sessions for which the edge keeps the replays of the app.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replay_cache: Vec<ReplayCacheConfig>,
    /// What is the same in requests that go to one machine, while it takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinityConfig>,
}

/// What is the same in requests that go to one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SessionAffinity)]
pub struct SessionAffinityConfig {
    /// `cookie`, which the edge sets, or `header`, which the client sends.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the cookie or header; a cookie has one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Which requests belong together, so that the edge sends them where the app replayed the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayCache)]
pub struct ReplayCacheConfig {
    /// `/path` or `host/path`, with all below it.
    pub path_prefix: String,
    /// How long a replay is kept; 10 at least.
    pub ttl_seconds: u64,
    /// What stands for a session: `cookie` or `header`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the cookie or header.
    pub name: String,
    /// Whether clients may ask not to be served by what is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_bypass: bool,
}

/// What is done to the headers of responses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResponseOptions {
    /// Whether the edge adds no headers of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pristine: bool,
    /// Headers that replace the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderChange>,
}

/// What becomes of a response header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum HeaderChange {
    /// It has this value.
    One(String),
    /// It is there several times.
    Many(Vec<String>),
    /// `false`: it is taken away.
    Flag(bool),
}

/// Options of the `tls` and `pg_tls` handlers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = TlsOptions)]
pub struct TlsOptionsConfig {
    /// The protocols that clients may choose from, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Vec<String>>,
    /// `TLSv1.2`, `TLSv1.3`, or both, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Vec<String>>,
}

/// Options of the `proxy_proto` handler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyProtoOptions {
    /// `v1` (the default) or `v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl MachineConfig {
    pub(super) fn to_services(&self, faults: &mut Faults) -> Vec<Service> {
        let most = limits::SERVICES_MAX;
        if self.services.len() > most {
            faults.add("services", format!("more than {most} services"));
            return vec![];
        }
        let before = faults.len();
        let services: Vec<Service> = self
            .services
            .iter()
            .enumerate()
            .filter_map(|(idx, service)| service.to_service(&format!("services[{idx}]"), faults))
            .collect();
        // Ports that are wrong by themselves are not compared.
        if faults.len() == before && !faults.of_record {
            for (idx, fault) in service_conflicts(&services) {
                faults.add(format!("services[{idx}].{}", fault.key), fault.problem);
            }
        }
        services
    }
}

impl ServiceConfig {
    /// The service of a config that was accepted once.
    pub(crate) fn of_record(&self) -> Result<Service, String> {
        let mut faults = Faults::of_record();
        let service = self.to_service("service", &mut faults);
        service.ok_or_else(|| "its service is none".to_owned())
    }

    fn to_service(&self, path: &str, faults: &mut Faults) -> Option<Service> {
        let place = CheckPlace::Service {
            port: self.internal_port,
        };
        let checks = self.checks.iter().enumerate();
        let checks = checks
            .filter_map(|(idx, check)| {
                check.to_check(&format!("{path}.checks[{idx}]"), place, faults)
            })
            .collect();
        let concurrency = self.concurrency.clone().unwrap_or_default();
        let draft = ServiceDraft {
            protocol: Some(self.protocol.clone()),
            internal_port: self.internal_port,
            ports: self.ports.iter().map(PortConfig::to_draft).collect(),
            concurrency: ConcurrencyDraft {
                kind: concurrency.kind,
                soft_limit: concurrency.soft_limit,
                hard_limit: concurrency.hard_limit,
            },
            autostart: self.autostart,
            autostop: self.autostop.as_ref().map(|autostop| match autostop {
                AutostopConfig::Flag(false) => Autostop::Off.as_str().to_owned(),
                AutostopConfig::Flag(true) => Autostop::Stop.as_str().to_owned(),
                AutostopConfig::Word(word) => word.clone(),
            }),
            min_machines_running: self.min_machines_running.unwrap_or(0),
            checks,
        };
        draft
            .build()
            .map_err(|found| {
                for fault in found {
                    faults.add(format!("{path}.{}", fault.key), fault.problem);
                }
            })
            .ok()
    }
}

impl PortConfig {
    fn to_draft(&self) -> PortDraft {
        let tls = self.tls_options.clone().unwrap_or_default();
        let proxy_proto = self.proxy_proto_options.clone();
        PortDraft {
            port: self.port,
            start_port: self.start_port,
            end_port: self.end_port,
            handlers: self.handlers.clone(),
            force_https: self.force_https,
            http: self.http_options.as_ref().map(HttpOptions::from),
            replay_cache: self
                .http_options
                .iter()
                .flat_map(|options| &options.replay_cache)
                .map(ReplayCacheDraft::from)
                .collect(),
            session_affinity: self
                .http_options
                .as_ref()
                .and_then(|options| options.session_affinity.as_ref())
                .map(|affinity| AffinityDraft {
                    kind: Some(affinity.kind.clone()),
                    name: affinity.name.clone(),
                }),
            alpn: tls.alpn,
            versions: tls.versions,
            proxy_proto_version: proxy_proto.and_then(|options| options.version),
        }
    }
}

impl From<&HttpOptionsConfig> for HttpOptions {
    fn from(options: &HttpOptionsConfig) -> Self {
        let response = options.response.clone().unwrap_or_default();
        let values = |change| match change {
            HeaderChange::One(value) => vec![value],
            HeaderChange::Many(values) => values,
            HeaderChange::Flag(_) => vec![],
        };
        let headers = response.headers.into_iter();
        Self {
            h2_backend: options.h2_backend,
            idle_timeout: options
                .idle_timeout
                .map(|seconds| Duration::from_secs(seconds.into())),
            compress: options.compress,
            pristine: response.pristine,
            response_headers: headers
                .map(|(name, change)| (name, values(change)))
                .collect(),
            replay_cache: [].into(),
            session_affinity: None,
        }
    }
}

impl From<&ReplayCacheConfig> for ReplayCacheDraft {
    fn from(config: &ReplayCacheConfig) -> Self {
        Self {
            path_prefix: Some(config.path_prefix.clone()),
            ttl_seconds: Some(config.ttl_seconds),
            kind: Some(config.kind.clone()),
            name: Some(config.name.clone()),
            allow_bypass: config.allow_bypass,
        }
    }
}

/// Its `type` and its `name`.
fn words_of(key: &SessionKey) -> (&'static str, &str) {
    match key {
        SessionKey::Cookie(name) => ("cookie", name),
        SessionKey::Header(name) => ("header", name),
    }
}

impl From<&ReplayCacheRule> for ReplayCacheConfig {
    fn from(rule: &ReplayCacheRule) -> Self {
        let host = rule.host.as_deref().unwrap_or_default();
        let path = if rule.path.is_empty() {
            "/"
        } else {
            &rule.path
        };
        let (kind, name) = words_of(&rule.key);
        Self {
            path_prefix: format!("{host}{path}"),
            ttl_seconds: rule.ttl.as_secs(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            allow_bypass: rule.allow_bypass,
        }
    }
}

impl From<&Service> for ServiceConfig {
    fn from(service: &Service) -> Self {
        Self {
            protocol: service.protocol.as_str().to_owned(),
            internal_port: service.internal_port,
            ports: service.ports.iter().map(PortConfig::from).collect(),
            concurrency: Some(ConcurrencyConfig::from(&service.concurrency)),
            autostart: service.autostart,
            autostop: Some(match service.autostop {
                Autostop::Off => AutostopConfig::Flag(false),
                Autostop::Stop => AutostopConfig::Flag(true),
                Autostop::Suspend => AutostopConfig::Word(service.autostop.as_str().to_owned()),
            }),
            min_machines_running: Some(service.min_machines_running),
            checks: service.checks.iter().map(CheckConfig::from).collect(),
        }
    }
}

impl From<&Concurrency> for ConcurrencyConfig {
    fn from(concurrency: &Concurrency) -> Self {
        Self {
            kind: Some(concurrency.kind.as_str().to_owned()),
            soft_limit: Some(concurrency.soft_limit),
            hard_limit: concurrency.hard_limit,
        }
    }
}

impl From<&ServicePort> for PortConfig {
    fn from(port: &ServicePort) -> Self {
        let range = port.ports;
        let single = range.first == range.last;
        let words = port.handler.words().iter().copied();
        let proxy_proto = port.proxy_proto.map(|_| "proxy_proto");
        let version = port.proxy_proto.map(|version| match version {
            ProxyVersion::V1 => "v1",
            ProxyVersion::V2 => "v2",
        });
        Self {
            port: single.then_some(range.first),
            start_port: (!single).then_some(range.first),
            end_port: (!single).then_some(range.last),
            handlers: words.chain(proxy_proto).map(str::to_owned).collect(),
            force_https: port.force_https,
            http_options: (port.http != HttpOptions::default())
                .then(|| HttpOptionsConfig::from(&port.http)),
            tls_options: (port.tls != TlsOptions::default())
                .then(|| TlsOptionsConfig::from(&port.tls)),
            proxy_proto_options: version.map(|version| ProxyProtoOptions {
                version: Some(version.to_owned()),
            }),
        }
    }
}

impl From<&HttpOptions> for HttpOptionsConfig {
    fn from(options: &HttpOptions) -> Self {
        let change = |values: &Vec<String>| match &values[..] {
            [] => HeaderChange::Flag(false),
            [value] => HeaderChange::One(value.clone()),
            values => HeaderChange::Many(values.to_vec()),
        };
        let headers = options.response_headers.iter();
        let response = ResponseOptions {
            pristine: options.pristine,
            headers: headers
                .map(|(name, values)| (name.clone(), change(values)))
                .collect(),
        };
        Self {
            h2_backend: options.h2_backend,
            idle_timeout: options
                .idle_timeout
                .map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)),
            compress: options.compress,
            response: (response != ResponseOptions::default()).then_some(response),
            replay_cache: options
                .replay_cache
                .iter()
                .map(ReplayCacheConfig::from)
                .collect(),
            session_affinity: options.session_affinity.as_ref().map(|key| {
                let (kind, name) = words_of(key);
                SessionAffinityConfig {
                    kind: kind.to_owned(),
                    name: Some(name.to_owned()),
                }
            }),
        }
    }
}

impl From<&TlsOptions> for TlsOptionsConfig {
    fn from(options: &TlsOptions) -> Self {
        Self {
            alpn: (!options.alpn.is_empty()).then(|| options.alpn.clone()),
            versions: options.only.map(|only| vec![only.as_str().to_owned()]),
        }
    }
}
