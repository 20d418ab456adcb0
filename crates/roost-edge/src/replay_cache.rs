//! Replays that an app lets the edge repeat by itself, without asking the app again.
//!
//! An app says so with each replay (below a path), or its config says so (for all
//! requests with the same cookie or header). What is kept is a short cut and no
//! promise: when nobody is there whom it names, the app is asked as before.
//!
//! Each app has its own; it lives as long as the app has a route.

use crate::headers::HeaderPair;
use crate::replay::ReplayFault;
use crate::wants::Wants;
use crate::{headers, limits};
use http::HeaderMap;
use parking_lot::Mutex;
use roost_model::limits::{
    REPLAY_CACHE_PREFIX_BYTES_MAX, REPLAY_CACHE_TTL_MAX, REPLAY_CACHE_TTL_MIN,
};
use roost_model::machine::{ReplayCacheRule, SessionKey};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static KEEP: HeaderPair = HeaderPair::new("fly-replay-cache", "roost-replay-cache");
static TTL: HeaderPair =
    HeaderPair::new("fly-replay-cache-ttl-secs", "roost-replay-cache-ttl-secs");
static ALLOW_BYPASS: HeaderPair = HeaderPair::new(
    "fly-replay-cache-allow-bypass",
    "roost-replay-cache-allow-bypass",
);
/// With the value `skip` a client asks not to be served by what is kept.
static CONTROL: HeaderPair =
    HeaderPair::new("fly-replay-cache-control", "roost-replay-cache-control");
/// Tells the machine that gets a replay whether it was kept.
pub(crate) static STATUS: HeaderPair =
    HeaderPair::new("fly-replay-cache-status", "roost-replay-cache-status");

/// What an app says of keeping a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// For requests below this path.
    Below(Below),
    /// What brought the request here is not to be kept any more.
    Invalidate,
}

/// Which requests a kept replay is for, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Below {
    /// The host name, if it names one, and the path without its last slash.
    host: Option<String>,
    path: String,
    ttl: Duration,
    may_bypass: bool,
}

impl Keeping {
    /// What the headers of a replay say.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, ReplayFault> {
        let Some(pattern) = KEEP.get(headers) else {
            return Ok(None);
        };
        if pattern == "invalidate" {
            return Ok(Some(Self::Invalidate));
        }
        let text = TTL.get(headers).unwrap_or_default();
        let ttl = text.parse().map_err(|_| fault("cache ttl", text))?;
        let may_bypass = matches!(ALLOW_BYPASS.get(headers), Some("yes" | "true"));
        Below::read(pattern, ttl, may_bypass).map(|below| Some(Self::Below(below)))
    }
}

impl Below {
    /// Reads a pattern such as `example.com/path/*` or `/path/*`, and seconds.
    pub(crate) fn read(pattern: &str, ttl: u64, may_bypass: bool) -> Result<Self, ReplayFault> {
        let parts = pattern
            .strip_suffix("/*")
            .filter(|rest| !rest.contains('*') && rest.len() <= REPLAY_CACHE_PREFIX_BYTES_MAX);
        let (host, path) = match parts {
            None => return Err(fault("cache prefix", pattern)),
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        };
        let ttl = Duration::from_secs(ttl);
        if ttl < REPLAY_CACHE_TTL_MIN {
            return Err(fault("cache ttl", &ttl.as_secs().to_string()));
        }
        Ok(Self {
            host: (!host.is_empty()).then(|| host.to_ascii_lowercase()),
            path: path.to_owned(),
            ttl: ttl.min(REPLAY_CACHE_TTL_MAX),
            may_bypass,
        })
    }

    fn fits(&self, host: &str, path: &str) -> bool {
        self.host.as_deref().is_none_or(|own| own == host) && is_below(path, &self.path)
    }
}

fn fault(field: &'static str, value: &str) -> ReplayFault {
    let value = value.chars().take(100).collect();
    ReplayFault::BadValue { field, value }
}

/// Whether a path is this one or below it.
fn is_below(path: &str, above: &str) -> bool {
    let above = above.trim_end_matches('/');
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where a request goes that is served from here.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Another app, if the replay named one.
    pub(crate) app: Option<String>,
    pub(crate) wants: Wants,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    until: Instant,
    may_bypass: bool,
}

/// A request, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    /// The first external port of the service that it has come to: each keeps its own.
    pub(crate) service: u16,
    /// In lower case, without a port.
    pub(crate) host: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// What the config of the app says.
    pub(crate) rules: &'a [ReplayCacheRule],
}

/// What is known for a request.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing: the app is asked.
    Nothing,
    /// Something that the client does not want.
    Bypassed,
    /// Where it goes, and under which key that is kept.
    Hit(String, Kept),
}

/// The replays of one app that are kept.
#[derive(Debug, Default)]
pub(crate) struct ReplayCache {
    /// So that a request of an app without any takes no lock.
    n: AtomicUsize,
    entries: Mutex<HashMap<String, Entry>>,
}

impl ReplayCache {
    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.n.load(Ordering::Acquire) == 0
    }

    /// What is kept for a request: for its session first, then below the longest path.
    pub(crate) fn find(&self, asker: Asker<'_>, now: Instant) -> Found {
        let base = asker.base();
        let whole = format!("{base}{}", asker.path);
        let session = asker.session().map(|(_, key)| key);
        let keys = session.as_deref().into_iter();
        let skips = CONTROL.get(asker.headers) == Some("skip");
        let mut entries = self.entries.lock();
        for key in keys.chain(prefixes(&whole, base.len())) {
            let Some(entry) = entries.get(key) else {
                continue;
            };
            if entry.until <= now {
                entries.remove(key);
                self.n.store(entries.len(), Ordering::Release);
                continue;
            }
            if skips && entry.may_bypass {
                return Found::Bypassed;
            }
            return Found::Hit(key.to_owned(), entry.kept.clone());
        }
        Found::Nothing
    }

    /// Keeps a replay for requests below a path; the keys are for [`Self::forget`].
    pub(crate) fn keep_below(
        &self,
        below: &Below,
        asker: Asker<'_>,
        kept: Kept,
        now: Instant,
    ) -> Result<String, ReplayFault> {
        if !below.fits(asker.host, asker.path) {
            return Err(fault("cache prefix", &format!("{}/*", below.path)));
        }
        let key = asker.base() + &below.path;
        let entry = Entry {
            kept,
            until: now + below.ttl,
            may_bypass: below.may_bypass,
        };
        self.put(key.clone(), entry);
        Ok(key)
    }

    /// Keeps a replay for the session of a request, if a rule says what that is.
    pub(crate) fn keep_session(
        &self,
        asker: Asker<'_>,
        kept: Kept,
        now: Instant,
    ) -> Option<String> {
        let (rule, key) = asker.session()?;
        let entry = Entry {
            kept,
            until: now + rule.ttl,
            may_bypass: rule.allow_bypass,
        };
        self.put(key.clone(), entry);
        Some(key)
    }

    /// Keeps it no more.
    pub(crate) fn forget(&self, key: &str) {
        let mut entries = self.entries.lock();
        entries.remove(key);
        self.n.store(entries.len(), Ordering::Release);
    }

    fn put(&self, key: String, entry: Entry) {
        let mut entries = self.entries.lock();
        if entries.len() >= limits::REPLAYS_KEPT_MAX && !entries.contains_key(&key) {
            // Any one makes room: the app is asked about it again.
            let gone = entries.keys().next().cloned();
            gone.and_then(|gone| entries.remove(&gone));
        }
        entries.insert(key, entry);
        self.n.store(entries.len(), Ordering::Release);
    }
}

impl<'a> Asker<'a> {
    /// What the keys of its service and host begin with.
    fn base(&self) -> String {
        format!("{}:{}", self.service, self.host)
    }

    /// The rule with the longest path for this request, and the key of its session. A session key
    /// begins with a line feed, which no other does.
    fn session(&self) -> Option<(&'a ReplayCacheRule, String)> {
        let fits = |rule: &&ReplayCacheRule| {
            let host = rule.host.as_deref();
            host.is_none_or(|own| own == self.host) && is_below(self.path, &rule.path)
        };
        let rule = self
            .rules
            .iter()
            .filter(fits)
            .max_by_key(|rule| rule.path.len())?;
        let (kind, name, value) = match &rule.key {
            SessionKey::Cookie(name) => ("cookie", name, headers::cookie(self.headers, name)?),
            SessionKey::Header(name) => {
                let value = self.headers.get(name.as_str())?.to_str().ok()?;
                ("header", name, value)
            }
        };
        let is_short = (1..=limits::REPLAY_SESSION_BYTES_MAX).contains(&value.len());
        let key = format!("\n{}\n{}\n{kind}\n{name}\n{value}", self.base(), rule.path);
        is_short.then_some((rule, key))
    }
}

/// A host with its path, and then with less and less of it, down to the host alone.
fn prefixes(whole: &str, host: usize) -> impl Iterator<Item = &str> {
    let most = host + REPLAY_CACHE_PREFIX_BYTES_MAX;
    let slashes = whole.match_indices('/').map(|(at, _)| at);
    let ends: Vec<usize> = slashes
        .chain([whole.len()])
        .take_while(|end| *end <= most)
        .collect();
    ends.into_iter().rev().map(|end| &whole[..end])
}

#[cfg(test)]
mod tests {
    use super::{Asker, Below, Found, Kept, ReplayCache};
    use crate::limits;
    use crate::wants::Wants;
    use http::header::COOKIE;
    use http::{HeaderMap, HeaderValue};
    use roost_model::machine::{ReplayCacheRule, SessionKey};
    use std::time::{Duration, Instant};

    fn asker<'a>(path: &'a str, headers: &'a HeaderMap) -> Asker<'a> {
        Asker {
            service: 80,
            host: "a.example",
            path,
            headers,
            rules: &[],
        }
    }

    fn kept(app: &str) -> Kept {
        Kept {
            app: Some(app.to_owned()),
            wants: Wants::default(),
        }
    }

    fn app_of(found: &Found) -> Option<&str> {
        match found {
            Found::Hit(_, kept) => kept.app.as_deref(),
            Found::Nothing | Found::Bypassed => None,
        }
    }

    #[test]
    fn the_longest_path_wins_until_its_time_is_over() {
        let (cache, headers, now) = (ReplayCache::default(), HeaderMap::new(), Instant::now());
        for (pattern, ttl, app) in [("/*", 60, "root"), ("a.example/x/y/*", 20, "deep")] {
            let below = Below::read(pattern, ttl, false).unwrap();
            let at = asker("/x/y/z", &headers);
            cache.keep_below(&below, at, kept(app), now).unwrap();
        }
        let find = |path: &str, after: u64| {
            let found = cache.find(asker(path, &headers), now + Duration::from_secs(after));
            app_of(&found).map(str::to_owned)
        };
        assert_eq!(find("/x/y", 0).as_deref(), Some("deep"));
        assert_eq!(find("/x/y/z/", 19).as_deref(), Some("deep"));
        assert_eq!(find("/x/yz", 0).as_deref(), Some("root"));
        assert_eq!(find("/x/y/z", 20).as_deref(), Some("root"));
        assert_eq!(find("/x/y/z", 60), None);
    }

    #[test]
    fn a_pattern_has_a_star_at_its_end_and_fits_the_request() {
        for pattern in ["", "*", "/path", "/a/*/b/*", "/pa*", "example.com"] {
            assert!(Below::read(pattern, 60, false).is_err(), "{pattern}");
        }
        assert!(Below::read("/a/*", 9, false).is_err(), "too short");
        let headers = HeaderMap::new();
        for pattern in ["/other/*", "b.example/path/*"] {
            let below = Below::read(pattern, 60, false).unwrap();
            let at = asker("/path/1", &headers);
            let cache = ReplayCache::default();
            assert!(
                cache
                    .keep_below(&below, at, kept("x"), Instant::now())
                    .is_err()
            );
        }
    }

    #[test]
    fn a_session_is_the_value_of_a_cookie_below_a_path() {
        let rules = [ReplayCacheRule {
            host: None,
            path: "/shop".into(),
            ttl: Duration::from_secs(10),
            key: SessionKey::Cookie("sid".into()),
            allow_bypass: false,
        }];
        let (cache, now) = (ReplayCache::default(), Instant::now());
        let with = |cookies: &'static str| {
            HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(cookies))])
        };
        let (one, other, none) = (with("a=b; sid=1"), with("sid=2"), with("xsid=1"));
        fn at<'a>(
            path: &'a str,
            headers: &'a HeaderMap,
            rules: &'a [ReplayCacheRule],
        ) -> Asker<'a> {
            let mut asker = asker(path, headers);
            asker.rules = rules;
            asker
        }
        assert!(
            cache
                .keep_session(at("/shop", &one, &rules), kept("x"), now)
                .is_some()
        );
        for headers in [&none, &with("sid=")] {
            let kept = cache.keep_session(at("/shop", headers, &rules), kept("x"), now);
            assert_eq!(kept, None);
        }
        let found = cache.find(at("/shop/cart", &one, &rules), now);
        assert_eq!(app_of(&found), Some("x"));
        let elsewhere = Asker {
            service: 8443,
            ..at("/shop", &one, &rules)
        };
        assert!(matches!(cache.find(elsewhere, now), Found::Nothing));
        for (path, headers) in [("/shop", &other), ("/shop", &none), ("/shopping", &one)] {
            let found = cache.find(at(path, headers, &rules), now);
            assert!(matches!(found, Found::Nothing), "{path} {headers:?}");
        }
    }

    #[test]
    fn there_is_a_bound_and_what_comes_finds_room() {
        let (cache, headers, now) = (ReplayCache::default(), HeaderMap::new(), Instant::now());
        let put = |n: usize, now: Instant| {
            let path = format!("/{n}");
            let below = Below::read(&format!("{path}/*"), 10, false).unwrap();
            let at = asker(&path, &headers);
            cache.keep_below(&below, at, kept("x"), now).unwrap();
            app_of(&cache.find(at, now)).is_some()
        };
        assert!((0..limits::REPLAYS_KEPT_MAX + 10).all(|n| put(n, now)));
        assert_eq!(cache.entries.lock().len(), limits::REPLAYS_KEPT_MAX);
    }
}
