//! Header rules: what is taken away and what is put in, on both ways.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue,
    SERVER, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Version};
use roost_model::client_header::{ends_here, is_reserved};
use roost_model::machine::HttpOptions;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// Request id.
pub(crate) static REQUEST_ID: HeaderPair = HeaderPair::new("fly-request-id", "roost-request-id");
/// Address of the client.
pub(crate) static CLIENT_IP: HeaderPair = HeaderPair::new("fly-client-ip", "roost-client-ip");
/// Port that the client has come to.
pub(crate) static FORWARDED_PORT: HeaderPair =
    HeaderPair::new("fly-forwarded-port", "roost-forwarded-port");
/// Region of the edge.
pub(crate) static REGION: HeaderPair = HeaderPair::new("fly-region", "roost-region");
static PREFERENCE_UNAVAILABLE: HeaderPair = HeaderPair::new(
    "fly-preferred-instance-unavailable",
    "roost-preferred-instance-unavailable",
);
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(crate) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) static X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
pub(crate) static X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
/// What answers say of who served them, unless the app says something.
pub(crate) const OWN_NAME: HeaderValue = HeaderValue::from_static("roost");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Whether an app may not change this header of a request that it hands on.
pub(crate) fn is_fixed(name: &HeaderName) -> bool {
    let frames = [
        HOST,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        CONNECTION,
        UPGRADE,
        TE,
        EXPECT,
        VIA,
    ];
    frames.contains(name)
        || *name == KEEP_ALIVE
        || name == X_FORWARDED_FOR
        || is_reserved(name.as_str())
}

/// A header under its stock name and the neutral one.
#[derive(Debug)]
pub(crate) struct HeaderPair {
    pub(crate) stock: HeaderName,
    pub(crate) neutral: HeaderName,
}

impl HeaderPair {
    /// Both names in lower case.
    pub(crate) const fn new(stock: &'static str, neutral: &'static str) -> Self {
        Self {
            stock: HeaderName::from_static(stock),
            neutral: HeaderName::from_static(neutral),
        }
    }

    /// Whether it is one of the two.
    pub(crate) fn is(&self, name: &HeaderName) -> bool {
        *name == self.stock || *name == self.neutral
    }

    /// Its text; the neutral name counts first.
    pub(crate) fn get<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let value = headers
            .get(&self.neutral)
            .or_else(|| headers.get(&self.stock))?;
        value.to_str().ok().map(str::trim)
    }

    /// Sets both.
    pub(crate) fn set(&self, headers: &mut HeaderMap, value: HeaderValue) {
        headers.insert(self.stock.clone(), value.clone());
        headers.insert(self.neutral.clone(), value);
    }

    /// Takes both away.
    pub(crate) fn remove(&self, headers: &mut HeaderMap) {
        headers.remove(&self.stock);
        headers.remove(&self.neutral);
    }
}

/// Takes away what ends at this hop: the fixed names and those that `Connection` lists.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them: one look at each name is less than one for each.
    if !headers.keys().any(|name| ends_here(name.as_str())) {
        return;
    }
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    while let Some(name) = headers
        .keys()
        .find(|name| ends_here(name.as_str()))
        .cloned()
    {
        headers.remove(name);
    }
}

/// Whether a message has a transfer coding that the edge does not take off.
pub(crate) fn has_other_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some()
}

/// Whether the client takes trailers (`TE: trailers`).
pub(crate) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// How many roost edges a message has passed.
pub(crate) fn hops(headers: &HeaderMap) -> usize {
    headers
        .get_all(VIA)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|hop| hop.trim().split(' ').nth(1) == Some("roost"))
        .count()
}

/// Takes away from a request what the app must not see, or only the platform may say.
pub(crate) fn towards_app(headers: &mut HeaderMap) {
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(TE);
    // Over HTTP/1 the edge answers 100-continue itself, when the body begins to be taken; over
    // HTTP/2 clients send their bodies without it.
    headers.remove(EXPECT);
    if headers.keys().any(|name| is_reserved(name.as_str())) {
        let reserved: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_reserved(name.as_str()))
            .cloned()
            .collect();
        for name in reserved {
            headers.remove(name);
        }
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The value of the first cookie of this name.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &'a str) -> Option<&'a str> {
    std::str::from_utf8(cookies(headers, name).next()?).ok()
}

/// The values of all cookies of this name.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| value_of(pair, name))
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii();
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Takes all cookies of this name out of a request, and leaves the others as they are.
pub(crate) fn take_cookie(headers: &mut HeaderMap, name: &str) {
    let has_it = |line: &HeaderValue| {
        let mut pairs = line.as_bytes().split(|b| *b == b';');
        pairs.any(|pair| value_of(pair, name).is_some())
    };
    if !headers.get_all(COOKIE).iter().any(has_it) {
        return;
    }
    let mut lines = Vec::new();
    for line in headers.get_all(COOKIE) {
        if !has_it(line) {
            lines.push(line.clone());
            continue;
        }
        let pairs = line.as_bytes().split(|b| *b == b';');
        let others = pairs.filter(|pair| value_of(pair, name).is_none());
        let others = others.map(<[u8]>::trim_ascii);
        // What is left of `s=x;` is nothing.
        let others: Vec<&[u8]> = others.filter(|pair| !pair.is_empty()).collect();
        if !others.is_empty() {
            lines.extend(HeaderValue::from_bytes(&others.join(&b"; "[..])));
        }
    }
    headers.remove(COOKIE);
    for line in lines {
        headers.append(COOKIE, line);
    }
}

/// Whether an answer says that caches may give it to others (RFC 9111 5.2.2).
pub(crate) fn is_for_shared_caches(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    directives.any(|directive| {
        let mut parts = directive.split(|b| *b == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"public") || name.eq_ignore_ascii_case(b"s-maxage")
    })
}

/// Says which machine was preferred and could not be used, if there is one.
pub(crate) fn note_preference(headers: &mut HeaderMap, unavailable: Option<HeaderValue>) {
    match unavailable {
        Some(id) => PREFERENCE_UNAVAILABLE.set(headers, id),
        // Both were set together.
        None if headers.contains_key(&PREFERENCE_UNAVAILABLE.stock) => {
            PREFERENCE_UNAVAILABLE.remove(headers);
        }
        None => {}
    }
}

/// Rewrites the headers of an app's response for the client, as its service wants them.
pub(crate) fn towards_client(
    headers: &mut HeaderMap,
    version: Version,
    request_id: HeaderValue,
    options: Option<&HttpOptions>,
) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // The transfer coding wins (RFC 9112 6.3); a length beside it is a lie or an attack.
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    if options.is_none_or(|options| !options.pristine) {
        if !headers.contains_key(SERVER) {
            headers.insert(SERVER, OWN_NAME);
        }
        headers.append(VIA, via(version));
        REQUEST_ID.set(headers, request_id);
    }
    if let Some(options) = options.filter(|options| !options.response_headers.is_empty()) {
        replace(headers, &options.response_headers);
    }
}

/// Puts the values of a service in the place of the app's and the edge's.
fn replace(headers: &mut HeaderMap, with: &BTreeMap<String, Vec<String>>) {
    for (name, values) in with {
        // Both were checked when the service was configured.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        headers.remove(&name);
        for value in values {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(&name, value);
            }
        }
    }
}

/// The time (RFC 9110 6.6.1). Its text is made once a second.
pub(crate) fn date() -> HeaderValue {
    thread_local! {
        static DATE: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let seconds = roost_runtime::clock::now().as_ms() / 1000;
    DATE.with_borrow_mut(|(made, date)| {
        if *made != seconds || date.is_empty() {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            *date = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
            *made = seconds;
        }
        date.clone()
    })
}

/// How this hop is named in `Via`.
pub(crate) fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 roost",
        Version::HTTP_10 => "1.0 roost",
        _ => "1.1 roost",
    })
}

#[cfg(test)]
mod tests {
    use super::{
        cookie, hops, is_for_shared_caches, strip_hop_by_hop, take_cookie, towards_client,
    };
    use http::{HeaderMap, HeaderName, HeaderValue, Version};

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn what_connection_names_goes_with_it() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("a", "b"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("a", "b")]));
    }

    #[test]
    fn one_cookie_is_taken_out_and_no_other_one_is_lost() {
        let mut headers = map(&[
            ("cookie", "a=1; s=x;b=s=2; as=3"),
            ("cookie", "s=y"),
            ("cookie", "c; sa=4; s=z"),
        ]);
        let line = HeaderValue::from_bytes(b"s=1; u=\xc3\xa4").unwrap();
        headers.append("cookie", line);
        assert_eq!(cookie(&headers, "s"), Some("x"));
        assert_eq!(cookie(&headers, "sa"), Some("4"));
        take_cookie(&mut headers, "s");
        assert_eq!(cookie(&headers, "s"), None);
        let left: Vec<&[u8]> = headers
            .get_all("cookie")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let expected = ["a=1; b=s=2; as=3", "c; sa=4", "u=ä"].map(str::as_bytes);
        assert_eq!(left, expected);
    }

    #[test]
    fn a_line_without_the_cookie_stays_as_it_is_and_an_empty_one_goes() {
        let cases: [(&[&'static str], &[&str]); 6] = [
            (&["s=x;"], &[]),
            (&["s=x; ;"], &[]),
            (&["; s=x;; a=1;"], &["a=1"]),
            (&["a=1;b=2", "s=x", " c=3;"], &["a=1;b=2", " c=3;"]),
            (&["a=1;b=2;"], &["a=1;b=2;"]),
            (&[], &[]),
        ];
        for (before, after) in cases {
            let lines: Vec<_> = before.iter().map(|line| ("cookie", *line)).collect();
            let mut headers = map(&lines);
            take_cookie(&mut headers, "s");
            let left = headers.get_all("cookie").iter();
            let left: Vec<&str> = left.map(|line| line.to_str().unwrap()).collect();
            assert_eq!(left, after, "{before:?}");
        }
    }

    #[test]
    fn an_answer_for_shared_caches_says_so() {
        for (line, expected) in [
            ("public", true),
            ("max-age=60, Public", true),
            ("max-age=60 ,S-MaxAge=5", true),
            ("s-maxage=0", true),
            ("private, max-age=60", false),
            ("no-store", false),
            ("republic, x=public", false),
            ("", false),
        ] {
            let headers = map(&[("cache-control", line)]);
            assert_eq!(is_for_shared_caches(&headers), expected, "{line}");
        }
        let two = map(&[("cache-control", "max-age=60"), ("cache-control", "public")]);
        assert!(is_for_shared_caches(&two) && !is_for_shared_caches(&map(&[])));
    }

    #[test]
    fn a_length_beside_a_transfer_coding_does_not_reach_the_client() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        towards_client(
            &mut headers,
            Version::HTTP_11,
            HeaderValue::from_static("req"),
            None,
        );
        assert!(
            !headers.contains_key("content-length") && !headers.contains_key("transfer-encoding")
        );
    }

    #[test]
    fn hops_counts_only_roost() {
        assert_eq!(
            hops(&map(&[("via", "1.1 roost, 2 other"), ("via", "2 roost")])),
            2
        );
    }
}
