//! What a config says of HTTP at a port.

use super::{Faults, PortDraft, is_token};
use crate::limits;
use crate::machine::service::{HttpOptions, PortHandler, ReplayCacheRule, SessionKey};
use std::collections::BTreeMap;

impl PortDraft {
    pub(super) fn http_options(
        &self,
        handler: Option<PortHandler>,
        path: &str,
        faults: &mut Faults,
    ) -> HttpOptions {
        let Some(http) = &self.http else {
            return HttpOptions::default();
        };
        let path = format!("{path}.http_options");
        if handler.is_some_and(|handler| !handler.is_http()) {
            faults.add(path, "is for ports with the http handler");
            return HttpOptions::default();
        }
        let (least, most) = (
            limits::SERVICE_IDLE_TIMEOUT_MIN,
            limits::SERVICE_IDLE_TIMEOUT_MAX,
        );
        if http
            .idle_timeout
            .is_some_and(|timeout| !(least..=most).contains(&timeout))
        {
            let problem = format!("must be {} to {} s", least.as_secs(), most.as_secs());
            faults.add(format!("{path}.idle_timeout"), problem);
        }
        let response_headers = response_headers(&http.response_headers, &path, faults);
        if self.replay_cache.len() > limits::REPLAY_CACHE_RULES_MAX {
            let problem = format!("more than {} rules", limits::REPLAY_CACHE_RULES_MAX);
            faults.add(format!("{path}.replay_cache"), problem);
        }
        let rules = self.replay_cache.iter().enumerate();
        let rules = rules.take(limits::REPLAY_CACHE_RULES_MAX);
        let replay_cache: Vec<ReplayCacheRule> = rules
            .filter_map(|(idx, rule)| rule.build(&format!("{path}.replay_cache[{idx}]"), faults))
            .collect();
        let path = format!("{path}.session_affinity");
        let affinity = self.session_affinity.as_ref();
        let session_affinity = affinity.and_then(|it| it.build(&path, faults));
        let is_cookie = matches!(session_affinity, Some(SessionKey::Cookie(_)));
        let mut keys = replay_cache.iter().map(|rule| &rule.key);
        if is_cookie && keys.any(|key| Some(key) == session_affinity.as_ref()) {
            let problem = "is a cookie of replay_cache, which the app sets; use another name";
            faults.add(format!("{path}.name"), problem);
        }
        if is_cookie && http.pristine {
            let problem = "by cookie needs the edge to set one, and response.pristine is for \
                           answers without anything of the edge";
            faults.add(path, problem);
        }
        HttpOptions {
            response_headers,
            replay_cache: replay_cache.into(),
            session_affinity: session_affinity.map(Box::new),
            ..http.clone()
        }
    }
}

/// The headers with names in lower case. Those that say where a message ends
/// or what a connection is for are not the app's to set.
fn response_headers(
    headers: &BTreeMap<String, Vec<String>>,
    path: &str,
    faults: &mut Faults,
) -> BTreeMap<String, Vec<String>> {
    const FRAMING: [&str; 7] = [
        "connection",
        "content-length",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let path = format!("{path}.response.headers");
    let is_text = |b: u8| b == b'\t' || (b' '..=b'~').contains(&b);
    let bytes = |(name, values): (&String, &Vec<String>)| {
        name.len() + values.iter().map(String::len).sum::<usize>()
    };
    let n_values: usize = headers.values().map(|values| values.len().max(1)).sum();
    if n_values > limits::RESPONSE_HEADERS_MAX
        || headers.iter().map(bytes).sum::<usize>() > limits::RESPONSE_HEADER_BYTES_MAX
    {
        let (most, bytes) = (
            limits::RESPONSE_HEADERS_MAX,
            limits::RESPONSE_HEADER_BYTES_MAX,
        );
        faults.add(path, format!("more than {most} headers or {bytes} bytes"));
        return BTreeMap::new();
    }
    for (name, values) in headers {
        let shown = format!("{path}.{}", name.escape_debug());
        if name.is_empty() || !name.bytes().all(is_token) {
            faults.add(shown, "is not the name of a header");
        } else if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
            faults.add(shown, "is the edge's to say: it frames the response");
        } else if !values.iter().all(|value| value.bytes().all(is_text)) {
            faults.add(shown, "has a value with other than printable ASCII");
        }
    }
    let lower = |(name, values): (&String, &Vec<String>)| {
        let name = name.to_ascii_lowercase();
        (name, values.clone())
    };
    headers.iter().map(lower).collect()
}
