//! Header rules: what is taken away and what is put in, on both ways.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Version};
use std::net::{IpAddr, SocketAddr};

/// Request id, under the stock name and the neutral one.
pub(crate) const FLY_REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
/// Request id, neutral name.
pub(crate) const ROOST_REQUEST_ID: HeaderName = HeaderName::from_static("roost-request-id");
const FLY_CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_FORWARDED_PORT: HeaderName = HeaderName::from_static("fly-forwarded-port");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Names that only the platform may set. A client that sends one is not believed.
///
/// `-` and `_` are the same here: many app servers fold both into one variable.
fn is_reserved(name: &str) -> bool {
    const REQUEST: &[&str] = &[
        "fly-client-ip",
        "fly-forwarded-port",
        "fly-region",
        "fly-request-id",
        "fly-preferred-instance-unavailable",
        "fly-replay-src",
        "fly-replay-failed",
        "fly-replay-cache-status",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-ssl",
        "x-request-start",
    ];
    let same = |a: &str| {
        a.len() == name.len()
            && a.bytes()
                .zip(name.bytes())
                .all(|(a, b)| a == b || (a == b'-' && b == b'_'))
    };
    match name.as_bytes().first() {
        Some(b'f' | b'x') => {
            REQUEST.iter().any(|reserved| same(reserved))
                // Another spelling of the list that roost appends to.
                || (name != "x-forwarded-for" && same("x-forwarded-for"))
        }
        Some(b'r') => name.starts_with("roost-") || name.starts_with("roost_"),
        _ => false,
    }
}

/// What the edge knows of a request besides the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) client: IpAddr,
    pub(crate) local: SocketAddr,
    pub(crate) is_tls: bool,
    pub(crate) version: Version,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) region: &'a HeaderValue,
    pub(crate) arrived_us: u64,
}

/// Takes away what ends at this hop: the fixed names and those that `Connection` lists.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
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
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
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

/// Rewrites the headers of a request for the app.
pub(crate) fn towards_app(headers: &mut HeaderMap, arrival: &Arrival<'_>) {
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(TE);
    // The edge answers 100-continue itself, when the app's connection begins to take the body.
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
    let client = address_value(arrival.client);
    append_forwarded_for(headers, arrival.client);
    headers.insert(FLY_CLIENT_IP, client);
    let (proto, ssl) = if arrival.is_tls {
        ("https", "on")
    } else {
        ("http", "off")
    };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(X_FORWARDED_SSL, HeaderValue::from_static(ssl));
    let port = HeaderValue::from(arrival.local.port());
    headers.insert(X_FORWARDED_PORT, port.clone());
    headers.insert(FLY_FORWARDED_PORT, port);
    headers.insert(FLY_REGION, arrival.region.clone());
    headers.insert(FLY_REQUEST_ID, arrival.request_id.clone());
    headers.insert(ROOST_REQUEST_ID, arrival.request_id.clone());
    headers.insert(
        X_REQUEST_START,
        text_value(&format!("t={}", arrival.arrived_us)),
    );
    headers.append(VIA, via(arrival.version));
}

/// Rewrites the headers of an app's response for the client.
pub(crate) fn towards_client(headers: &mut HeaderMap, version: Version, request_id: &HeaderValue) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // The transfer coding wins (RFC 9112 6.3); a length beside it is a lie or an attack.
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    headers.append(VIA, via(version));
    headers.insert(FLY_REQUEST_ID, request_id.clone());
    headers.insert(ROOST_REQUEST_ID, request_id.clone());
}

fn append_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    if !headers.contains_key(X_FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, address_value(client));
        return;
    }
    // One line, whatever the client sent: apps differ in how they read several.
    let mut list = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(client.to_string().as_bytes());
    let value = HeaderValue::from_bytes(&list).unwrap_or_else(|_| address_value(client));
    headers.insert(X_FORWARDED_FOR, value);
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 roost",
        Version::HTTP_10 => "1.0 roost",
        _ => "1.1 roost",
    })
}

fn address_value(address: IpAddr) -> HeaderValue {
    text_value(&address.to_string())
}

fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("numbers and addresses are valid header values")
}

#[cfg(test)]
mod tests {
    use super::{Arrival, hops, is_reserved, strip_hop_by_hop, towards_app, towards_client};
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
    fn reserved_names_are_not_believed_in_any_spelling() {
        for name in [
            "fly-client-ip",
            "fly_client_ip",
            "x_forwarded_proto",
            "x_forwarded_for",
            "roost-anything",
            "roost_x",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in [
            "x-forwarded-for",
            "fly-prefer-region",
            "x-custom",
            "roosters",
        ] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn the_app_learns_who_asks_and_how() {
        let mut headers = map(&[
            ("x-forwarded-for", "9.9.9.9"),
            ("fly-client-ip", "8.8.8.8"),
            ("te", "gzip, trailers"),
        ]);
        let (request_id, region) = (
            HeaderValue::from_static("req"),
            HeaderValue::from_static("local"),
        );
        let arrival = Arrival {
            client: "192.0.2.7".parse().unwrap(),
            local: "192.0.2.1:8443".parse().unwrap(),
            is_tls: true,
            version: Version::HTTP_2,
            request_id: &request_id,
            region: &region,
            arrived_us: 5,
        };
        towards_app(&mut headers, &arrival);
        let expected = map(&[
            ("x-forwarded-for", "9.9.9.9, 192.0.2.7"),
            ("fly-client-ip", "192.0.2.7"),
            ("te", "trailers"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-ssl", "on"),
            ("x-forwarded-port", "8443"),
            ("fly-forwarded-port", "8443"),
            ("fly-region", "local"),
            ("fly-request-id", "req"),
            ("roost-request-id", "req"),
            ("x-request-start", "t=5"),
            ("via", "2 roost"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_length_beside_a_transfer_coding_does_not_reach_the_client() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        towards_client(
            &mut headers,
            Version::HTTP_11,
            &HeaderValue::from_static("req"),
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
