//! Phase 3, route: is the request well-formed, and which app is it for?

use crate::accept::Ends;
use crate::headers;
use crate::limits;
use crate::pages::Page;
use crate::rates::TooManyOpen;
use crate::shared::Shared;
use crate::table::{AppRoute, app_of_host};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use roost_model::machine::Service;
use roost_model::name::AppName;
use std::net::IpAddr;
use std::sync::Arc;

/// The name that a request is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authority {
    /// As the client wrote it: what the app sees as `Host`.
    pub(crate) raw: String,
    /// Lower case, no port, no final dot.
    pub(crate) host: String,
}

/// Refuses what exceeds a rate.
pub(crate) fn too_fast(code: &'static str, title: &str) -> Page {
    Page::new(StatusCode::TOO_MANY_REQUESTS, code, title).retry_after(1)
}

/// Refuses what is beyond the bound of an app or a client.
pub(crate) fn too_many_open(who: TooManyOpen) -> Page {
    match who {
        TooManyOpen::App => {
            let title = "this app has as much under way at this edge as it may";
            Page::new(StatusCode::SERVICE_UNAVAILABLE, "app-open", title).retry_after(1)
        }
        TooManyOpen::Client => too_fast(
            "client-open",
            "this client has as much under way at this edge as it may",
        ),
    }
}

/// Refuses what would make the edge late for all.
pub(crate) fn overloaded() -> Page {
    let title = "this edge has more to do than it can";
    Page::refused(StatusCode::SERVICE_UNAVAILABLE, "edge-overloaded", title).retry_after(1)
}

fn bad(code: &'static str, title: &str) -> Page {
    Page::refused(StatusCode::BAD_REQUEST, code, title)
}

/// Refuses what is ambiguous or too large; finds the host name.
///
/// `has_two_lengths`: the header has a length and a coding, whatever is left of them in `parts`.
pub(crate) fn admit(
    parts: &Parts,
    websocket_over_http2: bool,
    has_two_lengths: bool,
) -> Result<Authority, Page> {
    check_size(parts)?;
    if (parts.method == Method::CONNECT && !websocket_over_http2) || parts.method == Method::TRACE {
        let title = format!("the method {} is not allowed here", parts.method);
        return Err(Page::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            title,
        ));
    }
    // RFC 9112 3.2.4; over HTTP/2 other addresses without a slash are malformed.
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(bad("bad-target", "the address `*` is for OPTIONS only"));
    }
    check_framing(parts, has_two_lengths)?;
    if headers::hops(&parts.headers) > limits::VIA_HOPS_MAX {
        let title = "this request has gone round in a circle";
        return Err(Page::refused(
            StatusCode::LOOP_DETECTED,
            "routing-loop",
            title,
        ));
    }
    let raw = authority(parts)?;
    let host =
        normalise(&raw).ok_or_else(|| bad("bad-host", "the Host header is not a host name"))?;
    Ok(Authority { raw, host })
}

fn check_size(parts: &Parts) -> Result<(), Page> {
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if target > limits::URI_BYTES_MAX {
        let title = format!(
            "the address of the request has more than {} bytes",
            limits::URI_BYTES_MAX
        );
        return Err(Page::refused(
            StatusCode::URI_TOO_LONG,
            "uri-too-long",
            title,
        ));
    }
    // Four bytes for the colon, the space and the end of line.
    let bytes: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes > limits::HEADER_BYTES_MAX || parts.headers.len() > limits::HEADER_LINES_MAX {
        let title = format!(
            "the header of the request has more than {} bytes or {} lines",
            limits::HEADER_BYTES_MAX,
            limits::HEADER_LINES_MAX
        );
        return Err(Page::refused(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "header-too-large",
            title,
        ));
    }
    Ok(())
}

/// The rules of RFC 9112 6 that the codec leaves to us.
fn check_framing(parts: &Parts, has_two_lengths: bool) -> Result<(), Page> {
    if !parts.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    // hyper reads the chunks and takes the length away, as RFC 9112 6.3 allows, so that it
    // does not show here. Most proxies refuse the pair, and so do we: nobody sends it by chance.
    if has_two_lengths || parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(bad(
            "ambiguous-length",
            "the request has both Content-Length and Transfer-Encoding",
        ));
    }
    if headers::has_other_coding(&parts.headers) {
        let title = "the only transfer coding is chunked";
        return Err(Page::refused(
            StatusCode::NOT_IMPLEMENTED,
            "transfer-coding",
            title,
        ));
    }
    Ok(())
}

fn authority(parts: &Parts) -> Result<String, Page> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(bad(
            "two-hosts",
            "the request has more than one Host header",
        ));
    }
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let line = match line {
        Some(value) => {
            Some(text(value).ok_or_else(|| bad("bad-host", "the Host header is not a host name"))?)
        }
        None => None,
    };
    match (parts.uri.authority(), line) {
        (None, Some(line)) => Ok(line),
        (None, None) => Err(bad("no-host", "the request has no Host header")),
        (Some(_), None) if parts.version < Version::HTTP_2 && parts.version > Version::HTTP_10 => {
            Err(bad("no-host", "the request has no Host header"))
        }
        (Some(authority), None) => without_user(authority.as_str()),
        (Some(authority), Some(line)) if authority.as_str().eq_ignore_ascii_case(&line) => {
            without_user(&line)
        }
        (Some(_), Some(_)) => Err(bad(
            "two-hosts",
            "the Host header and the address of the request differ",
        )),
    }
}

fn without_user(authority: &str) -> Result<String, Page> {
    if authority.contains('@') {
        return Err(bad(
            "bad-host",
            "the address of the request has a user name in it",
        ));
    }
    Ok(authority.to_owned())
}

/// Lower case, without port and final dot; `None` when it cannot be a host name.
fn normalise(authority: &str) -> Option<String> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5;
            is_port.then_some(host)?
        }
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_name = !host.contains(':') || host.starts_with('[');
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let has_label = !host.is_empty() && !host.starts_with('.');
    let valid =
        has_label && is_name && host.len() < limits::HOST_BYTES_MAX && host.bytes().all(allowed);
    valid.then(|| host.to_ascii_lowercase())
}

/// The app of a host name.
pub(crate) fn app(shared: &Shared, host: &str) -> Option<Arc<AppRoute>> {
    let own = app_of_host(host, &shared.domains);
    let custom = match own {
        Some(_) => None,
        None => shared.names.app(host),
    };
    let name = own.or(custom.as_ref().map(AppName::as_str))?;
    shared.router.routes().app(name).cloned()
}

/// The app whose alone an address is.
pub(crate) fn app_at(shared: &Shared, address: IpAddr) -> Option<Arc<AppRoute>> {
    let name = shared.names.app_at(address)?;
    shared.router.routes().app(name.as_str()).cloned()
}

/// The app that answers to HTTP where the client has come to: that of the address if it is
/// dedicated, else the one of this host.
pub(crate) fn find(shared: &Shared, host: &str, ends: Ends) -> Result<Arc<AppRoute>, Page> {
    let not_found = |code, title| Page::new(StatusCode::NOT_FOUND, code, title);
    let external = ends.external;
    let (app, asked) = match ends.own {
        Some(address) => (app_at(shared, address), address.to_string()),
        None => (app(shared, host), String::new()),
    };
    let Some(app) = app else {
        let asked = if asked.is_empty() { host } else { &asked };
        return Err(not_found("no-such-app", "no app answers to this name")
            .detail(format!("the name is {asked}"))
            .next("`roost deploy` in an app's folder, or `roost deploy --image IMAGE`, makes one")
            .next("`roost apps list` shows the apps that there are, and their names"));
    };
    if takes_http(&app, external) {
        return Ok(app);
    }
    Err(
        not_found("no-http-here", "this app takes no HTTP at this port")
            .detail(format!("the port is {external}"))
            .next("its services say at which ports it takes HTTP"),
    )
}

/// Whether an app takes HTTP at an external port.
pub(crate) fn takes_http(app: &AppRoute, external: u16) -> bool {
    let port = app.port(external);
    port.is_some_and(|port| port.rule.handler.is_http())
}

/// Whether the app sends this client to HTTPS: not the machines of the node, as nobody has a
/// certificate for the names by which they call it.
pub(crate) fn wants_https(shared: &Shared, app: &AppRoute, ends: Ends) -> bool {
    let port = app.port(ends.external);
    let is_private = ends.own.is_some_and(|own| shared.config.is_private(own));
    !ends.is_tls && !is_private && port.is_some_and(|port| port.rule.force_https)
}

/// Sends plain HTTP to HTTPS when the app asks for it and there is an HTTPS port.
pub(crate) fn force_https(
    shared: &Shared,
    parts: &Parts,
    host: &str,
    ends: Ends,
) -> Result<(), Page> {
    let own = ends.own.map(|_| Service::HTTPS_PORT);
    let Some(port) = own.or(shared.https_port) else {
        return Ok(());
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let port = if port == Service::HTTPS_PORT {
        String::new()
    } else {
        format!(":{port}")
    };
    let Ok(location) = HeaderValue::from_str(&format!("https://{host}{port}{path}")) else {
        return Err(bad(
            "bad-target",
            "the address of the request cannot be repeated",
        ));
    };
    // 301 is what clients expect of old; 308 keeps method and body.
    let safe = parts.method == Method::GET || parts.method == Method::HEAD;
    let status = if safe {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::PERMANENT_REDIRECT
    };
    Err(
        Page::new(status, "https-only", "this app answers over HTTPS only")
            .header(LOCATION, location),
    )
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn a_host_is_lower_case_without_port_and_dot() {
        for (text, host) in [
            ("Hello.LOCALHOST:8080", Some("hello.localhost")),
            ("hello.localhost.", Some("hello.localhost")),
            ("hello.localhost.:80", Some("hello.localhost")),
            ("[::1]:80", Some("[::1]")),
            ("a b", None),
            ("a/b", None),
            ("a:b", None),
            ("a:1:2", None),
            ("", None),
            (".localhost", None),
        ] {
            assert_eq!(normalise(text).as_deref(), host, "{text}");
        }
        assert_eq!(normalise(&"x".repeat(300)), None);
    }
}
