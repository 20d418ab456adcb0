//! What single lines say: of requests, of answers, between edges; and the first bytes of TLS.

use crate::affinity::Affinity;
use crate::compress::Accepts;
use crate::headers;
use crate::limits;
use crate::pages::Form;
use crate::relay::beside::Beside;
use crate::relay::wire::{Block, OfFile, RELAY, Verdict};
use crate::replay::Replay;
use crate::replay_cache::Keeping;
use crate::route;
use crate::table::app_of_host;
use crate::tls;
use crate::wants::Wants;
use http::header::{HOST, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use roost_model::client_header::ends_here;
use roost_model::id::NodeId;
use roost_model::machine::SessionKey;
use roost_model::web::range::{self, Range};
use roost_model::web::{names_tag, path};
use roost_proto::traffic::{AppTraffic, PeerNode, TrafficTable};
use roost_proto::{peer_loads, peer_table, peer_tallies};
use rustls::server::Acceptor;
use std::sync::Arc;

/// The lines of a request's header, the first one its path: what a client asks for by them, and what
/// an app says by the same ones.
///
/// # Panics
/// When something that was accepted breaks its own bounds.
pub fn request_headers(text: &str) {
    let (target, lines) = text.split_once('\n').unwrap_or((text, ""));
    let mut headers = HeaderMap::new();
    for line in lines.lines().take(limits::HEADER_LINES_MAX) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.trim().as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    host(target, &headers);
    file(target, &headers);
    wishes(&headers);
    for (name, value) in &headers {
        if let Ok(value) = value.to_str() {
            // Both are refused, or read; neither breaks anything.
            drop(Replay::from_headers(value, &headers));
            Wants::preferring(name.as_str()).regions(value);
        }
    }
    headers::strip_hop_by_hop(&mut headers);
    assert!(!headers.keys().any(|name| ends_here(name.as_str())));
}

fn host(target: &str, headers: &HeaderMap) {
    let request = Request::builder().uri(target).body(());
    let Ok(mut request) = request else { return };
    *request.headers_mut() = headers.clone();
    let parts = request.into_parts().0;
    let Ok(authority) = route::admit(&parts, false, false) else {
        return;
    };
    let host = authority.host;
    assert!(!host.is_empty() && host.len() < limits::HOST_BYTES_MAX);
    assert!(HeaderValue::from_str(&authority.raw).is_ok());
    assert!(
        !host
            .bytes()
            .any(|b| b.is_ascii_uppercase() || b"/@ %\\".contains(&b))
    );
    assert_eq!(parts.headers.get_all(HOST).iter().count().max(1), 1);
    let domains = ["localhost".to_owned(), "example.com".to_owned()];
    if let Some(app) = app_of_host(&host, &domains) {
        assert!(!app.is_empty() && !app.contains('.'));
    }
}

fn file(target: &str, headers: &HeaderMap) {
    for part in path::parts(target).into_iter().flatten() {
        let is_safe =
            !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']);
        assert!(is_safe, "{part:?}");
    }
    let values = || headers.values().filter_map(|value| value.to_str().ok());
    let _ = names_tag(values(), "\"a\"");
    let asked = headers.get(RANGE).and_then(|value| value.to_str().ok());
    for size in [0, 1, 1000, u64::MAX] {
        if let Range::Part(slice) = range::parse(asked, size) {
            let end = slice.start.checked_add(slice.length);
            assert!(slice.length > 0 && end.is_some_and(|end| end <= size));
        }
    }
}

fn wishes(headers: &HeaderMap) {
    let wants = Wants::of(headers);
    assert!(!wants.is_anything() || wants == Wants::default());
    let _ = (Accepts::of(headers), Form::of(headers), Beside::of(headers));
    let _ = (headers::hops(headers), headers::wants_trailers(headers));
    let _ = (headers::is_for_shared_caches(headers), Keeping::of(headers));
    let mut headers = headers.clone();
    let others: Vec<Vec<u8>> = cookies_but(&headers, b"s=");
    let key = SessionKey::Cookie("s".to_owned());
    let affinity = Affinity::take(&key, &mut headers);
    assert!(matches!(affinity, Some(Affinity::Cookie { .. })));
    assert_eq!(headers::cookie(&headers, "s"), None);
    assert_eq!(cookies_but(&headers, b"s="), others, "of other names");
    let _ = Affinity::take(&SessionKey::Header("x".to_owned()), &mut headers);
}

fn cookies_but(headers: &HeaderMap, start: &[u8]) -> Vec<Vec<u8>> {
    let lines = headers.get_all(http::header::COOKIE).into_iter();
    let cookies = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let cookies = cookies.map(<[u8]>::trim_ascii);
    let others = cookies.filter(|cookie| !cookie.is_empty() && !cookie.starts_with(start));
    others.map(<[u8]>::to_vec).collect()
}

/// What one edge tells another: the header line of a request or an answer, or a line of a stream.
///
/// # Panics
/// When what was read is not told again as it was.
pub fn relay_lines(text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(RELAY, value)]);
        if let Ok(block) = Block::of(&headers) {
            assert_eq!(Block::of(&told(block.value())), Ok(block));
        }
        if let Ok(verdict) = Verdict::of(&headers) {
            // A reason in words may come shorter, never longer.
            let again = Verdict::of(&told(verdict.value())).expect("a verdict is told");
            assert_eq!(Verdict::of(&told(again.value())), Ok(again));
        }
        let _ = (OfFile::of(&headers), Beside::of(&headers));
    }
    if let Ok(loads) = peer_loads::from_line(text, limits::RELAY_LOADS_MAX) {
        let line = peer_loads::to_line(loads.clone(), limits::RELAY_LOADS_MAX);
        assert_eq!(
            peer_loads::from_line(&line, limits::RELAY_LOADS_MAX),
            Ok(loads)
        );
    }
    if let Ok(tallies) = peer_tallies::from_line(text, limits::RELAY_TALLIES_MAX) {
        let line = peer_tallies::to_line(tallies.clone(), limits::RELAY_TALLIES_MAX);
        let again = peer_tallies::from_line(&line, limits::RELAY_TALLIES_MAX);
        assert_eq!(again, Ok(tallies));
    }
    table(text);
}

fn told(value: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(RELAY, value)])
}

fn table(text: &str) {
    let node = Arc::new(PeerNode {
        id: NodeId::from_ulid(ulid::Ulid::from(2_u128)),
        edge: ([192, 0, 2, 1], 4282).into(),
    });
    let Ok((table, _)) = peer_table::from_line(text, &node) else {
        return;
    };
    let own = table.iter().map(|(app, traffic)| {
        let mut traffic = AppTraffic::clone(traffic);
        for endpoint in &mut traffic.endpoints {
            endpoint.node = None;
        }
        (app.clone(), traffic)
    });
    let own: TrafficTable = own.collect();
    let again = peer_table::from_line(&peer_table::to_line(&own), &node);
    assert_eq!(again, Ok((table, None)));
}

/// The first bytes of a client that begins with TLS; if the first one is odd, only the extensions of
/// an otherwise good greeting follow it.
///
/// # Panics
/// When a name is found that no client may ask for.
pub fn sni(bytes: &[u8]) {
    let (how, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let greeting = if how & 1 == 1 {
        greeting(bytes)
    } else {
        bytes.to_vec()
    };
    let mut acceptor = Acceptor::default();
    let mut rest = &greeting[..];
    loop {
        let read = acceptor.read_tls(&mut rest);
        if !matches!(read, Ok(n) if n > 0) {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let _ = tls::is_asked_to_validate(&hello);
                if let Some(name) = tls::server_name(&hello) {
                    assert!(
                        !name
                            .bytes()
                            .any(|b| b.is_ascii_uppercase() || b <= b' ' || b == b'/')
                    );
                    assert!(!name.is_empty() && !name.ends_with('.'), "{name:?}");
                    let _ = app_of_host(&name, &["localhost".to_owned()]);
                }
                return;
            }
            Err(_) => return,
        }
    }
}

/// A greeting of TLS 1.2 and 1.3 with these extensions (RFC 8446 4.1.2), in a record of its own.
fn greeting(extensions: &[u8]) -> Vec<u8> {
    let extensions = &extensions[..extensions.len().min(16_000)];
    let sized = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; two suites; no compression.
    hello.extend([0, 0, 4, 0x13, 0x01, 0xc0, 0x2b, 1, 0]);
    hello.extend(sized(extensions.len()));
    hello.extend_from_slice(extensions);
    let mut record = vec![22, 3, 1];
    record.extend(sized(hello.len() + 4));
    record.extend([1, 0]);
    record.extend(sized(hello.len()));
    record.extend(hello);
    record
}
