//! Replays: an app answers that another machine, app or region is to have the
//! request, and the client never sees that answer.
//!
//! The instruction is a header (`fly-replay: region=fra;state=x`, or
//! `roost-replay`) or a JSON body of the type `application/vnd.fly.replay+json`.
//! Fields that are not known are refused: an instruction that is half understood
//! sends a request to the wrong place.

use crate::headers::HeaderPair;
use crate::limits;
use crate::replay_cache::{Below, Keeping};
use crate::wants::Wants;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use serde::Deserialize;
use std::time::Duration;

pub(crate) static REPLAY: HeaderPair = HeaderPair::new("fly-replay", "roost-replay");
/// Tells the machine that gets a replay who sent it.
pub(crate) static SOURCE: HeaderPair = HeaderPair::new("fly-replay-src", "roost-replay-src");
/// Tells the machine that gets a fallback what failed.
pub(crate) static FAILED: HeaderPair = HeaderPair::new("fly-replay-failed", "roost-replay-failed");
const JSON_TYPE: &str = "application/vnd.fly.replay+json";

/// Why an instruction is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayFault {
    /// The header is no list of pairs.
    #[error("`{0}` is not of the form key=value")]
    NoPair(String),
    /// The body is no such JSON.
    #[error("{0}")]
    Json(String),
    /// Nobody knows this field.
    #[error("the field `{0}` is not known")]
    UnknownField(String),
    /// A value has another form.
    #[error("`{field}` cannot be `{value}`")]
    BadValue {
        /// The field.
        field: &'static str,
        /// What it was.
        value: String,
    },
    /// It is to be kept, and is for one request only.
    #[error("a replay with a state, a transform, a timeout or a fallback cannot be kept")]
    NotKept,
    /// It names nothing.
    #[error("it names no machine, app or region")]
    Empty,
}

/// What is done when a replay comes to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The machine that replayed gets the request, or nobody.
    ForceSelf,
    /// That machine, or another of its app.
    PreferSelf,
}

/// Where a request goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Replay {
    pub(crate) app: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) transform: Transform,
    /// Whether it is to be kept for other requests.
    pub(crate) keeping: Option<Keeping>,
    regions: Vec<String>,
    instance: Option<String>,
    prefer_instance: Option<String>,
    elsewhere: bool,
}

/// Changes to the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Transform {
    pub(crate) path: Option<PathAndQuery>,
    delete_headers: Vec<HeaderName>,
    set_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Transform {
    /// Applies what it says of headers.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.delete_headers {
            headers.remove(name);
        }
        for (name, value) in &self.set_headers {
            headers.insert(name, value.clone());
        }
    }
}

/// The fields as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    region: Option<String>,
    instance: Option<String>,
    prefer_instance: Option<String>,
    app: Option<String>,
    state: Option<String>,
    #[serde(default)]
    elsewhere: bool,
    timeout: Option<String>,
    fallback: Option<String>,
    #[serde(default)]
    transform: DraftTransform,
    cache: Option<DraftCache>,
    #[serde(default)]
    allow_bypass: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftCache {
    prefix: Option<String>,
    ttl: Option<u64>,
    #[serde(default)]
    invalidate: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftTransform {
    path: Option<String>,
    #[serde(default)]
    delete_headers: Vec<String>,
    #[serde(default)]
    set_headers: Vec<DraftHeader>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftHeader {
    name: String,
    value: String,
}

/// Whether an answer is a replay by its body.
pub(crate) fn has_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        let media_type = text.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(JSON_TYPE)
    })
}

impl Replay {
    /// Reads the value of a header, and what others say beside it.
    pub(crate) fn from_headers(text: &str, headers: &HeaderMap) -> Result<Self, ReplayFault> {
        let keeping = Keeping::of(headers)?;
        Self::from_header(text)?.kept(keeping)
    }

    /// Reads the value of a header.
    fn from_header(text: &str) -> Result<Self, ReplayFault> {
        let mut draft = Draft::default();
        for pair in text
            .split(';')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| ReplayFault::NoPair(pair.into()))?;
            let value = value.trim().trim_matches('"').to_owned();
            match key.trim() {
                "region" => draft.region = Some(value),
                "instance" => draft.instance = Some(value),
                "prefer_instance" => draft.prefer_instance = Some(value),
                "app" => draft.app = Some(value),
                "state" => draft.state = Some(value),
                "timeout" => draft.timeout = Some(value),
                "fallback" => draft.fallback = Some(value),
                "elsewhere" => {
                    draft.elsewhere = value.parse().map_err(|_| fault("elsewhere", &value))?;
                }
                other => return Err(ReplayFault::UnknownField(other.into())),
            }
        }
        draft.check()
    }

    /// Reads a body.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, ReplayFault> {
        let draft: Draft =
            serde_json::from_slice(bytes).map_err(|error| ReplayFault::Json(error.to_string()))?;
        draft.check()
    }

    /// This replay, kept so.
    fn kept(self, keeping: Option<Keeping>) -> Result<Self, ReplayFault> {
        if matches!(keeping, Some(Keeping::Below(_))) && !self.may_be_kept() {
            return Err(ReplayFault::NotKept);
        }
        Ok(Self { keeping, ..self })
    }

    /// Whether it means the same for other requests.
    pub(crate) fn may_be_kept(&self) -> bool {
        self.state.is_none()
            && self.timeout.is_none()
            && self.fallback.is_none()
            && self.transform == Transform::default()
    }

    /// The machine that it names.
    pub(crate) fn instance(&self) -> Option<&str> {
        self.instance.as_deref().or(self.prefer_instance.as_deref())
    }

    /// The regions that it names, with commas.
    pub(crate) fn regions(&self) -> String {
        self.regions.join(",")
    }

    /// Which machines get the request, when this one replays it.
    pub(crate) fn wants(&self, source: &str) -> Wants {
        let mut wants = match (&self.instance, &self.prefer_instance) {
            (Some(id), _) => Wants::only(id),
            (None, Some(id)) => Wants::preferring(id),
            (None, None) => Wants::default(),
        };
        if self.instance.is_none() {
            wants.regions(&self.regions());
            if self.regions.is_empty() {
                wants.then_any();
            }
        }
        if self.elsewhere {
            wants.but_not(source);
        }
        wants
    }
}

fn fault(field: &'static str, value: &str) -> ReplayFault {
    let value = value.chars().take(100).collect();
    ReplayFault::BadValue { field, value }
}

impl Draft {
    fn check(self) -> Result<Replay, ReplayFault> {
        let regions = self
            .region
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        let regions: Vec<String> = regions
            .filter(|r| !r.is_empty())
            .map(str::to_owned)
            .collect();
        let names_one = self.app.is_some()
            || self.instance.is_some()
            || self.prefer_instance.is_some()
            || !regions.is_empty()
            || self.elsewhere;
        if !names_one {
            return Err(ReplayFault::Empty);
        }
        let fallback = match self.fallback.as_deref() {
            None => None,
            Some("force_self") => Some(Fallback::ForceSelf),
            Some("prefer_self") => Some(Fallback::PreferSelf),
            Some(other) => return Err(fault("fallback", other)),
        };
        // It goes into a header.
        if let Some(state) = &self.state
            && HeaderValue::from_str(state).is_err()
        {
            return Err(fault("state", state));
        }
        let timeout = self.timeout.as_deref().map(duration).transpose()?;
        let keeping = self.cache.map(|cache| cache.check(self.allow_bypass));
        let replay = Replay {
            app: self.app,
            state: self.state,
            timeout,
            fallback,
            transform: self.transform.check()?,
            keeping: None,
            regions,
            instance: self.instance,
            prefer_instance: self.prefer_instance,
            elsewhere: self.elsewhere,
        };
        replay.kept(keeping.transpose()?)
    }
}

impl DraftCache {
    fn check(self, may_bypass: bool) -> Result<Keeping, ReplayFault> {
        if self.invalidate {
            return Ok(Keeping::Invalidate);
        }
        let prefix = self.prefix.unwrap_or_default();
        Below::read(&prefix, self.ttl.unwrap_or(0), may_bypass).map(Keeping::Below)
    }
}

impl DraftTransform {
    fn check(self) -> Result<Transform, ReplayFault> {
        let path = |text: String| {
            let path = text
                .parse::<Uri>()
                .ok()
                .filter(|uri| uri.authority().is_none());
            let path = path.and_then(|uri| uri.path_and_query().cloned());
            path.filter(|path| {
                text.starts_with('/') && path.as_str().len() <= limits::URI_BYTES_MAX
            })
            .ok_or_else(|| fault("transform.path", &text))
        };
        let name = |text: &str| {
            let name = HeaderName::from_bytes(text.as_bytes()).ok();
            // What frames a message and what only the platform says is not the app's to change.
            let name = name.filter(|name| !crate::headers::is_fixed(name));
            name.ok_or_else(|| fault("transform header", text))
        };
        let set = |header: &DraftHeader| {
            let value = HeaderValue::from_str(&header.value);
            let value = value.map_err(|_| fault("transform header", &header.value))?;
            Ok((name(&header.name)?, value))
        };
        if self.set_headers.len() > limits::HEADER_LINES_MAX {
            return Err(fault("transform.set_headers", "so many"));
        }
        Ok(Transform {
            path: self.path.map(path).transpose()?,
            delete_headers: self
                .delete_headers
                .iter()
                .map(|n| name(n))
                .collect::<Result<_, _>>()?,
            set_headers: self.set_headers.iter().map(set).collect::<Result<_, _>>()?,
        })
    }
}

/// `10s` or `800ms`.
fn duration(text: &str) -> Result<Duration, ReplayFault> {
    let parse = |number: &str, unit: fn(u64) -> Duration| number.parse().ok().map(unit);
    let parsed = match text.strip_suffix("ms") {
        Some(number) => parse(number, Duration::from_millis),
        None => text
            .strip_suffix('s')
            .and_then(|number| parse(number, Duration::from_secs)),
    };
    let in_bounds = parsed
        .filter(|limit| (Duration::from_millis(1)..=limits::REPLAY_TIMEOUT_MAX).contains(limit));
    in_bounds.ok_or_else(|| fault("timeout", text))
}

/// Reads a text as a header and as a body: the parsers, for the fuzzer and its seeds.
pub fn parse(text: &str) -> [Result<(), ReplayFault>; 2] {
    [
        Replay::from_header(text),
        Replay::from_json(text.as_bytes()),
    ]
    .map(|read| read.map(drop))
}

#[cfg(test)]
mod tests {
    use super::{Fallback, Replay, ReplayFault};
    use std::time::Duration;

    #[test]
    fn header_and_body_say_the_same() {
        let header = "region=\"fra, ams\"; app=other;state=a=b;elsewhere=true;timeout=800ms;fallback=prefer_self";
        let body = br#"{"region": "fra,ams", "app": "other", "state": "a=b", "elsewhere": true,
            "timeout": "800ms", "fallback": "prefer_self"}"#;
        let replay = Replay::from_header(header).unwrap();
        assert_eq!(replay, Replay::from_json(body).unwrap());
        assert_eq!(replay.regions, ["fra", "ams"]);
        assert_eq!(replay.state.as_deref(), Some("a=b"));
        assert_eq!(replay.timeout, Some(Duration::from_millis(800)));
        assert_eq!(replay.fallback, Some(Fallback::PreferSelf));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for header in [
            "",
            "region",
            "region=",
            "colour=red",
            "instance=a;elsewhere=perhaps",
            "app=a;timeout=1h",
            "app=a;timeout=0ms",
            "app=a;fallback=other",
        ] {
            assert!(Replay::from_header(header).is_err(), "{header}");
        }
        for body in [
            "",
            "[]",
            r#"{"app": 1}"#,
            r#"{"app": "a", "colour": "red"}"#,
            r#"{"app": "a", "transform": {"path": "http://x/"}}"#,
            r#"{"app": "a", "transform": {"path": "x"}}"#,
            r#"{"app": "a", "transform": {"set_headers": [{"name": "a b", "value": "1"}]}}"#,
            r#"{"app": "a", "transform": {"set_headers": [{"name": "content-length", "value": "1"}]}}"#,
            r#"{"app": "a", "transform": {"set_headers": [{"name": "fly-client-ip", "value": "1"}]}}"#,
            r#"{"app": "a", "state": "a\nb"}"#,
        ] {
            assert!(Replay::from_json(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(Replay::from_header("state=x"), Err(ReplayFault::Empty));
    }

    #[test]
    fn the_seeds_of_the_fuzzer_are_read() {
        let seeds = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fuzz/corpus-seeds/replay"
        );
        for seed in std::fs::read_dir(seeds).unwrap() {
            let text = std::fs::read_to_string(seed.unwrap().path()).unwrap();
            assert!(super::parse(&text).iter().any(Result::is_ok), "{text}");
        }
    }
}
