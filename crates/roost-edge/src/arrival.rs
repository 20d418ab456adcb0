//! What an app is told of a request besides the request: who asks, where, when, and under
//! which id. What is the same for all requests of a connection is made once for it.

use crate::headers::{
    CLIENT_IP, FORWARDED_PORT, REGION, REQUEST_ID, TRACEPARENT, TRACESTATE, X_FORWARDED_FOR,
    X_FORWARDED_PORT, X_FORWARDED_PROTO, X_FORWARDED_SSL, X_REQUEST_START, via,
};
use crate::http1::response::write_line;
use crate::relay::wire::Leg;
use bytes::Bytes;
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use roost_http2::hpack::Block;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

static HTTP: HeaderValue = HeaderValue::from_static("http");
static HTTPS: HeaderValue = HeaderValue::from_static("https");
static ON: HeaderValue = HeaderValue::from_static("on");
static OFF: HeaderValue = HeaderValue::from_static("off");

/// The most lines that [`Arrival::tell`] adds.
pub(crate) const LINES: usize = 16;

/// What all requests of a connection have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The client's address, and the one that it has come to.
    pub(crate) ends: (IpAddr, SocketAddr),
    client: HeaderValue,
    /// The client, and the address that it has come to.
    way: HeaderValue,
    port: HeaderValue,
    pub(crate) is_tls: bool,
    /// That of the edge that the client has come to.
    pub(crate) region: HeaderValue,
    /// [`Self::lines`] as HTTP/1 has them, from the first request on that goes so.
    lines_of_http1: OnceLock<Vec<u8>>,
}

impl Origin {
    /// A client that came to this address of an edge in this region.
    pub(crate) fn new(
        client: IpAddr,
        local: SocketAddr,
        is_tls: bool,
        region: HeaderValue,
    ) -> Arc<Self> {
        let ends = (client.to_canonical(), local);
        let client = ends.0.to_string();
        let way = format!("{client}, {}", local.ip().to_canonical());
        let value = |text: &str| HeaderValue::from_str(text);
        Arc::new(Self {
            ends,
            client: value(&client).expect("an address is a valid header value"),
            way: value(&way).expect("two addresses are a valid header value"),
            port: HeaderValue::from(local.port()),
            is_tls,
            region,
            lines_of_http1: OnceLock::new(),
        })
    }

    /// What apps are told with each request of the connection.
    fn lines(&self) -> [(&HeaderName, &HeaderValue); 9] {
        let (proto, ssl) = if self.is_tls {
            (&HTTPS, &ON)
        } else {
            (&HTTP, &OFF)
        };
        [
            (&CLIENT_IP.stock, &self.client),
            (&CLIENT_IP.neutral, &self.client),
            (&X_FORWARDED_PROTO, proto),
            (&X_FORWARDED_SSL, ssl),
            (&X_FORWARDED_PORT, &self.port),
            (&FORWARDED_PORT.stock, &self.port),
            (&FORWARDED_PORT.neutral, &self.port),
            (&REGION.stock, &self.region),
            (&REGION.neutral, &self.region),
        ]
    }

    fn lines_of_http1(&self) -> &[u8] {
        self.lines_of_http1.get_or_init(|| {
            let mut bytes = Vec::new();
            for (name, value) in self.lines() {
                write_line(name.as_str(), value.as_bytes(), &mut bytes);
            }
            bytes
        })
    }
}

/// What the edge knows of a request besides the request.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) origin: Arc<Origin>,
    pub(crate) version: Version,
    request_id: IdText,
    pub(crate) id: ulid::Ulid,
    pub(crate) arrived_us: u64,
    /// What another edge hears of it besides.
    pub(crate) leg: Leg,
}

impl Arrival {
    /// A request of this id that came now.
    pub(crate) fn new(
        origin: Arc<Origin>,
        version: Version,
        id: ulid::Ulid,
        arrived_us: u64,
    ) -> Self {
        Self {
            version,
            request_id: IdText::new(id, origin.region.as_bytes()),
            origin,
            id,
            arrived_us,
            leg: Leg::default(),
        }
    }

    /// For a request that comes without a trace context: a trace that is not sampled, whose id
    /// is the request's (W3C Trace Context 3.2).
    fn trace(&self) -> [u8; TRACE_BYTES] {
        let number = u128::from(self.id);
        let mut text = *b"00-________________________________-________________-00";
        write_hex(number, &mut text[3..35]);
        write_hex(number, &mut text[36..52]);
        text
    }

    fn start(&self) -> StartText {
        StartText::new(self.arrived_us)
    }

    /// The request's id and the region of the edge, as Fly.io has it.
    pub(crate) fn request_id(&self) -> HeaderValue {
        value(self.request_id)
    }

    /// The same as text.
    pub(crate) fn request_id_text(&self) -> &str {
        std::str::from_utf8(self.request_id.as_ref()).unwrap_or_default()
    }

    /// When it came, in milliseconds since the epoch.
    pub(crate) fn arrived_ms(&self) -> u64 {
        self.arrived_us / 1000
    }

    /// A number that is different for each request.
    pub(crate) fn random(&self) -> u64 {
        // The last 64 bits of an id are random.
        u64::try_from(u128::from(self.id) & u128::from(u64::MAX)).unwrap_or(u64::MAX)
    }

    /// The trace that the request is part of: this one of the client, or its own.
    pub(crate) fn trace_id(&self, of_client: Option<&HeaderValue>) -> String {
        let of_client = of_client.and_then(|value| value.to_str().ok()?.split('-').nth(1));
        let own = || format!("{:032x}", u128::from(self.id));
        of_client.map_or_else(own, str::to_owned)
    }

    /// Adds it to the headers of a request, from which [`crate::headers::towards_app`] has
    /// taken what only the platform may say.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let way = forwarded_for(headers, &self.origin.way);
        headers.insert(&X_FORWARDED_FOR, way);
        for (name, value) in self.origin.lines() {
            headers.insert(name.clone(), value.clone());
        }
        REQUEST_ID.set(headers, self.request_id());
        headers.insert(&X_REQUEST_START, value(self.start()));
        headers.append(VIA, via(self.version));
        if trace(headers).is_none() {
            headers.insert(&TRACEPARENT, value(self.trace()));
            headers.remove(&TRACESTATE);
        }
    }

    /// Writes the headers of a request as fields of HTTP/2, with the same added; those that are
    /// not `kept` are left out.
    pub(crate) fn write_http2(
        &self,
        headers: &HeaderMap,
        block: &mut Block<'_>,
        is_kept: impl Fn(&HeaderName, &[u8]) -> bool,
    ) {
        self.write_of_request(headers, |comes, name, value| match comes {
            Comes::Again if is_kept(name, value) => block.field(name.as_str(), value),
            Comes::Again => {}
            Comes::Once => block.once(name.as_str(), value),
        });
        block.run(self.origin.lines_of_http1(), |block| {
            for (name, value) in self.origin.lines() {
                block.field(name.as_str(), value.as_bytes());
            }
        });
    }

    /// The same as lines of HTTP/1.
    pub(crate) fn write_http1(&self, headers: &HeaderMap, bytes: &mut Vec<u8>) {
        self.write_of_request(headers, |_, name, value| {
            write_line(name.as_str(), value, bytes);
        });
        bytes.extend_from_slice(self.origin.lines_of_http1());
    }

    /// Those that are not the same for all requests of the connection.
    fn write_of_request(
        &self,
        headers: &HeaderMap,
        mut line: impl FnMut(Comes, &HeaderName, &[u8]),
    ) {
        let has_trace = trace(headers).is_some();
        for (name, value) in headers {
            let is_replaced = *name == X_FORWARDED_FOR
                || (!has_trace && (*name == TRACEPARENT || *name == TRACESTATE));
            if !is_replaced {
                line(Comes::Again, name, value.as_bytes());
            }
        }
        if headers.contains_key(&X_FORWARDED_FOR) {
            let way = forwarded_for(headers, &self.origin.way);
            line(Comes::Again, &X_FORWARDED_FOR, way.as_bytes());
        } else {
            line(Comes::Again, &X_FORWARDED_FOR, self.origin.way.as_bytes());
        }
        for name in [&REQUEST_ID.stock, &REQUEST_ID.neutral] {
            line(Comes::Once, name, self.request_id.as_ref());
        }
        line(Comes::Once, &X_REQUEST_START, self.start().as_ref());
        line(Comes::Again, &VIA, via(self.version).as_bytes());
        if !has_trace {
            line(Comes::Once, &TRACEPARENT, &self.trace());
        }
    }
}

/// Whether a header line will come again.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Again,
    Once,
}

const TRACE_BYTES: usize = 55;

/// Id and region of a request.
#[derive(Debug, Clone, Copy)]
struct IdText {
    text: [u8; 64],
    length: usize,
}

impl IdText {
    fn new(id: ulid::Ulid, region: &[u8]) -> Self {
        let mut text = [0; 64];
        let (start, rest) = text.split_at_mut(ulid::ULID_LEN);
        let mut array = [0; ulid::ULID_LEN];
        start.copy_from_slice(id.array_to_str(&mut array).as_bytes());
        // A region's code is short.
        let region = &region[..region.len().min(rest.len() - 1)];
        rest[0] = b'-';
        rest[1..=region.len()].copy_from_slice(region);
        let length = start.len() + 1 + region.len();
        Self { text, length }
    }
}

impl AsRef<[u8]> for IdText {
    fn as_ref(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// `t=` and a number in decimal digits.
struct StartText {
    text: [u8; 22],
    /// Where it begins.
    from: usize,
}

impl StartText {
    fn new(mut number: u64) -> Self {
        let mut text = [0; 22];
        let mut from = text.len();
        loop {
            from -= 1;
            text[from] = b"0123456789"[usize::try_from(number % 10).unwrap_or(0)];
            number /= 10;
            if number == 0 {
                break;
            }
        }
        from -= 2;
        text[from..from + 2].copy_from_slice(b"t=");
        Self { text, from }
    }
}

impl AsRef<[u8]> for StartText {
    fn as_ref(&self) -> &[u8] {
        &self.text[self.from..]
    }
}

/// Writes the last digits of a number, as many as there is room for.
fn write_hex(mut number: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::try_from(number & 15).unwrap_or(0)];
        number >>= 4;
    }
}

/// The bytes are digits, letters and `=-`.
fn value(bytes: impl AsRef<[u8]> + Send + 'static) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))
        .expect("numbers and ids are valid header values")
}

/// The trace context of a request that comes with one (W3C Trace Context 3.2), which goes on as it is.
pub(crate) fn trace(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => is_trace_parent(value.as_bytes()).then_some(value),
        _ => None,
    }
}

/// Version, trace, parent, flags: `00-<32 hex>-<16 hex>-<2 hex>`; ids are not all zeros.
fn is_trace_parent(value: &[u8]) -> bool {
    let mut fields = value.split(|byte| *byte == b'-');
    let mut next = || fields.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    let is_hex = |field: &[u8], length: usize| {
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        field.len() == length && field.iter().all(is_digit)
    };
    let is_id = |field: &[u8], length| is_hex(field, length) && field.iter().any(|b| *b != b'0');
    version != b"ff"
        && is_hex(version, 2)
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && (version != b"00" || fields.next().is_none())
}

/// What the client sent, and the way behind it.
fn forwarded_for(headers: &HeaderMap, way: &HeaderValue) -> HeaderValue {
    if !headers.contains_key(&X_FORWARDED_FOR) {
        return way.clone();
    }
    // One line, whatever the client sent: apps differ in how they read several.
    let mut list = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(way.as_bytes());
    HeaderValue::from_bytes(&list).unwrap_or_else(|_| way.clone())
}

#[cfg(test)]
mod tests {
    use super::{Arrival, LINES, Origin};
    use crate::headers::towards_app;
    use http::{HeaderMap, HeaderName, HeaderValue, Version};
    use roost_http2::hpack::{Decoder, Encoder, Field, Size};

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
    fn the_app_learns_who_asks_and_how() {
        let mut headers = map(&[
            ("x-forwarded-for", "9.9.9.9"),
            ("fly-client-ip", "8.8.8.8"),
            ("te", "gzip, trailers"),
        ]);
        let (client, local) = (
            "::ffff:192.0.2.7".parse().unwrap(),
            "192.0.2.1:8443".parse().unwrap(),
        );
        let origin = Origin::new(client, local, true, HeaderValue::from_static("local"));
        let id = ulid::Ulid::from(1_u128 << 64 | 2);
        towards_app(&mut headers);
        let (before, client) = (headers.len(), headers.clone());
        let arrival = Arrival::new(origin, Version::HTTP_2, id, 5);
        arrival.tell(&mut headers);
        assert!(headers.len() <= before + LINES);
        let expected = map(&[
            ("x-forwarded-for", "9.9.9.9, 192.0.2.7, 192.0.2.1"),
            ("fly-client-ip", "192.0.2.7"),
            ("roost-client-ip", "192.0.2.7"),
            ("te", "trailers"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-ssl", "on"),
            ("x-forwarded-port", "8443"),
            ("fly-forwarded-port", "8443"),
            ("roost-forwarded-port", "8443"),
            ("fly-region", "local"),
            ("roost-region", "local"),
            ("fly-request-id", "0000000000000G000000000002-local"),
            ("roost-request-id", "0000000000000G000000000002-local"),
            ("x-request-start", "t=5"),
            ("via", "2 roost"),
            (
                "traceparent",
                "00-00000000000000010000000000000002-0000000000000002-00",
            ),
        ]);
        assert_eq!(headers, expected);
        // The same in the two other forms, also for the second request of a connection.
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for _ in 0..3 {
            let mut block = Vec::new();
            arrival.write_http2(&client, &mut encoder.block(&mut block), |_, _| true);
            let mut lines = HeaderMap::new();
            let size = decoder.decode(&block, 1 << 16, |field| {
                let Field::Header(name, value) = field else {
                    panic!("{field:?}")
                };
                lines.append(name, value);
            });
            assert_eq!((size, lines), (Ok(Size::Good), expected.clone()));
        }
        for _ in 0..2 {
            let mut bytes = Vec::new();
            arrival.write_http1(&client, &mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            let pairs = text.lines().map(|line| line.split_once(": ").unwrap());
            let pairs = pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let lines: Vec<(HeaderName, HeaderValue)> = pairs.collect();
            assert_eq!(lines.len(), expected.len());
            assert_eq!(HeaderMap::from_iter(lines), expected);
        }
    }

    #[test]
    fn a_trace_is_continued_when_it_is_one() {
        let local = "192.0.2.1:80".parse().unwrap();
        let region = HeaderValue::from_static("local");
        let origin = Origin::new("192.0.2.7".parse().unwrap(), local, false, region);
        let arrival = Arrival::new(origin, Version::HTTP_11, ulid::Ulid::from(5_u128), 5);
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (value, is_kept) in [
            (trace, true),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
                true,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
                false,
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                false,
            ),
            ("", false),
        ] {
            let mut headers = map(&[("traceparent", value), ("tracestate", "a=b")]);
            arrival.tell(&mut headers);
            assert_eq!(headers["traceparent"] == value, is_kept, "{value}");
            assert_eq!(headers.contains_key("tracestate"), is_kept, "{value}");
        }
    }
}
