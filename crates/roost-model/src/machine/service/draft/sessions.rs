//! What a config says of sessions: replays that are kept for them, and affinity.

use super::{Faults, is_token};
use crate::client_header::says_something;
use crate::limits;
use crate::machine::service::{ReplayCacheRule, SessionKey};
use std::time::Duration;

/// `replay_cache` of `http_options`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayCacheDraft {
    /// `path_prefix`: `/path` or `host/path`.
    pub path_prefix: Option<String>,
    /// `ttl_seconds`.
    pub ttl_seconds: Option<u64>,
    /// `type`: cookie or header.
    pub kind: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `allow_bypass`.
    pub allow_bypass: bool,
}

/// `session_affinity` of `http_options`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AffinityDraft {
    /// `type`: cookie or header.
    pub kind: Option<String>,
    /// `name`; a cookie has one by default.
    pub name: Option<String>,
}

/// The cookie of the edge's own, unless a config names it.
const AFFINITY_COOKIE: &str = "roost-session";

impl ReplayCacheDraft {
    pub(super) fn build(&self, path: &str, faults: &mut Faults) -> Option<ReplayCacheRule> {
        let before = faults.0.len();
        let prefix = self.path_prefix.as_deref().unwrap_or_default();
        let (host, below) = prefix.split_at(prefix.find('/').unwrap_or(prefix.len()));
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"*?#".contains(&b);
        let is_whole = !below.is_empty() && prefix.len() <= limits::REPLAY_CACHE_PREFIX_BYTES_MAX;
        if !is_whole || !prefix.bytes().all(is_plain) || host.contains(':') {
            let problem = "must be /path or host/path, without scheme, port, query or `*`; all \
                           below it is meant too";
            faults.add(format!("{path}.path_prefix"), problem);
        }
        let (least, most) = (
            limits::REPLAY_CACHE_TTL_MIN.as_secs(),
            limits::REPLAY_CACHE_TTL_MAX.as_secs(),
        );
        let ttl_seconds = self.ttl_seconds.unwrap_or(0);
        if !(least..=most).contains(&ttl_seconds) {
            let problem = format!("must be {least} to {most}");
            faults.add(format!("{path}.ttl_seconds"), problem);
        }
        let name = self.name.as_deref().unwrap_or_default();
        let key = session_key(self.kind.as_deref(), name, path, faults);
        let rule = ReplayCacheRule {
            host: (!host.is_empty()).then(|| host.to_ascii_lowercase()),
            path: below.trim_end_matches('/').to_owned(),
            ttl: Duration::from_secs(ttl_seconds),
            key: key?,
            allow_bypass: self.allow_bypass,
        };
        (faults.0.len() == before).then_some(rule)
    }
}

impl AffinityDraft {
    pub(super) fn build(&self, path: &str, faults: &mut Faults) -> Option<SessionKey> {
        let kind = self.kind.as_deref();
        let own = (kind == Some("cookie")).then_some(AFFINITY_COOKIE);
        let name = self.name.as_deref().or(own).unwrap_or_default();
        let key = session_key(kind, name, path, faults)?;
        if matches!(&key, SessionKey::Header(name) if !says_something(name)) {
            let problem = "is a header that the edge takes off or sets itself, so that no \
                           client's is looked at; use another name";
            faults.add(format!("{path}.name"), problem);
        }
        Some(key)
    }
}

fn session_key(
    kind: Option<&str>,
    name: &str,
    path: &str,
    faults: &mut Faults,
) -> Option<SessionKey> {
    let is_short = (1..=limits::REPLAY_CACHE_NAME_BYTES_MAX).contains(&name.len());
    if !is_short || !name.bytes().all(is_token) {
        faults.add(format!("{path}.name"), "must name a cookie or a header");
    }
    match kind {
        Some("cookie") => Some(SessionKey::Cookie(name.to_owned())),
        Some("header") => Some(SessionKey::Header(name.to_ascii_lowercase())),
        _ => {
            let problem = "must be \"cookie\" or \"header\"";
            faults.add(format!("{path}.type"), problem);
            None
        }
    }
}
