//! The fields of one block, and the rules that do not depend on whose message it is
//! (RFC 9113 8.2 and 8.3).

use crate::hpack::{Decoder, Field, HpackError, Pseudo, Size};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Lines for which there is room at once, at most.
const LINES_MAX: usize = 16;
/// Of these, lines that a proxy adds.
const LINES_ADDED: usize = 4;

/// Why a message is malformed (RFC 9113 8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// The fields of a block.
#[derive(Debug, Default)]
pub struct Fields {
    /// `:authority`
    pub authority: Option<Bytes>,
    /// `:method`
    pub method: Option<Bytes>,
    /// `:path`
    pub path: Option<Bytes>,
    /// `:protocol`
    pub protocol: Option<Bytes>,
    /// `:scheme`
    pub scheme: Option<Bytes>,
    /// `:status`
    pub status: Option<Bytes>,
    /// All others.
    pub headers: HeaderMap,
    /// What is wrong with it, if something is; the first fault.
    pub fault: Option<Malformed>,
    /// Whether it is larger than it may be: then some are missing.
    pub is_too_large: bool,
}

impl Fields {
    /// Decodes a block of no more than `most` bytes, as RFC 9113 6.5.2 counts them, and no more
    /// than `lines_max` header lines.
    pub fn decode(
        decoder: &mut Decoder,
        block: &[u8],
        most: usize,
        lines_max: usize,
    ) -> Result<Box<Self>, HpackError> {
        // On the heap: it is large and handed on.
        let mut fields = Box::<Self>::default();
        // Messages of a connection have about as many lines as those before. Each takes a byte at least.
        let likely = (decoder.lines_before + LINES_ADDED).min(LINES_MAX);
        fields.headers = HeaderMap::with_capacity(block.len().min(likely));
        let mut n_lines = 0;
        let size = decoder.decode(block, most, |field| match field {
            Field::Pseudo(pseudo, value) => fields.pseudo(pseudo, value),
            Field::Header(name, value) if n_lines < lines_max => {
                n_lines += 1;
                fields.header(name, value);
            }
            Field::Header(..) => fields.is_too_large = true,
            Field::Malformed => fields.is_bad("a name or a value is none"),
        })?;
        // Trailers, which are few, come in between.
        decoder.lines_before = n_lines.max(decoder.lines_before.saturating_sub(1));
        fields.is_too_large |= size == Size::TooLarge;
        Ok(fields)
    }

    /// Whether it has fields of HTTP/2's own; trailers must not (RFC 9113 8.1).
    pub fn has_pseudo(&self) -> bool {
        let pseudo = [
            &self.authority,
            &self.method,
            &self.path,
            &self.protocol,
            &self.scheme,
            &self.status,
        ];
        pseudo.into_iter().any(Option::is_some)
    }

    fn is_bad(&mut self, why: &'static str) {
        self.fault.get_or_insert(Malformed(why));
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: Bytes) {
        if !self.headers.is_empty() {
            self.is_bad("a field of HTTP/2's own comes behind others");
        }
        let place = match pseudo {
            Pseudo::Authority => &mut self.authority,
            Pseudo::Method => &mut self.method,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Status => &mut self.status,
        };
        if place.replace(value).is_some() {
            self.is_bad("a field of HTTP/2's own comes twice");
        }
    }

    fn header(&mut self, name: HeaderName, value: HeaderValue) {
        if is_of_connection(&name) {
            self.is_bad("a line is about an HTTP/1 connection");
        }
        if name == TE && value != "trailers" {
            self.is_bad("it asks for more than trailers");
        }
        // The map has room for more names than a message may have lines.
        if self.headers.try_append(name, value).is_err() {
            self.is_too_large = true;
        }
    }
}

/// Whether a line is about a connection of HTTP/1, and so has no place in HTTP/2
/// (RFC 9113 8.2.2).
pub fn is_of_connection(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == "keep-alive"
        || *name == "proxy-connection"
}

/// The length that a message says it has (RFC 9110 8.6).
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    const BAD: Malformed = Malformed("its lengths are no number, or not the same");
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let text = text.trim_ascii();
            if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
                return Err(BAD);
            }
            let length = std::str::from_utf8(text).map_err(|_| BAD)?;
            let length = length.parse::<u64>().map_err(|_| BAD)?;
            if found.is_some_and(|found| found != length) {
                return Err(BAD);
            }
            found = Some(length);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Fields, Malformed, content_length};
    use crate::hpack::{Decoder, Encoder};
    use http::HeaderMap;

    fn decoded(lines: &[(&str, &str)], most: usize, lines_max: usize) -> Box<Fields> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new();
        let mut block = encoder.block(&mut bytes);
        for (name, value) in lines {
            block.field(name, value.as_bytes());
        }
        Fields::decode(&mut Decoder::new(), &bytes, most, lines_max).unwrap()
    }

    #[test]
    fn what_makes_a_block_malformed() {
        for (lines, expected) in [
            (&[(":method", "GET"), ("te", "trailers")][..], None),
            (&[("a", ""), ("a", "b")], None),
            (&[("a", "b"), (":path", "/")], Some("comes behind others")),
            (&[(":path", "/"), (":path", "/")], Some("comes twice")),
            (&[(":unknown", "/")], Some("a name or a value is none")),
            (&[("Name", "a")], Some("a name or a value is none")),
            (&[("", "a")], Some("a name or a value is none")),
            (&[("a b", "a")], Some("a name or a value is none")),
            (&[("a", "b\r\nc: d")], Some("a name or a value is none")),
            (&[("a", "b\0")], Some("a name or a value is none")),
            (&[("a", " b")], Some("a name or a value is none")),
            (&[("a", "b\t")], Some("a name or a value is none")),
            (&[("connection", "close")], Some("HTTP/1 connection")),
            (&[("keep-alive", "a")], Some("HTTP/1 connection")),
            (&[("proxy-connection", "a")], Some("HTTP/1 connection")),
            (
                &[("transfer-encoding", "chunked")],
                Some("HTTP/1 connection"),
            ),
            (&[("upgrade", "a")], Some("HTTP/1 connection")),
            (&[("te", "trailers, gzip")], Some("more than trailers")),
        ] {
            let fault = decoded(lines, 1000, 10).fault;
            let fits = match (&fault, expected) {
                (None, None) => true,
                (Some(Malformed(why)), Some(part)) => why.contains(part),
                (None, Some(_)) | (Some(_), None) => false,
            };
            assert!(fits, "{lines:?}: {fault:?}");
        }
    }

    #[test]
    fn a_block_is_no_larger_than_it_may_be() {
        let lines = [(":path", "/"), ("a", "b"), ("c", "d")];
        // 38 and 2 · 34 bytes.
        assert!(!decoded(&lines, 106, 2).is_too_large);
        assert!(decoded(&lines, 105, 2).is_too_large);
        assert!(decoded(&lines, 106, 1).is_too_large);
        assert!(decoded(&lines, 106, 2).has_pseudo());
        assert!(!decoded(&lines[1..], 106, 2).has_pseudo());
    }

    #[test]
    fn a_length_is_a_number_and_always_the_same() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5, 5"], Ok(Some(5))),
            (&["5", "6"], Err(())),
            (&["+5"], Err(())),
            (&[""], Err(())),
            (&["5,"], Err(())),
            (&["99999999999999999999"], Err(())),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-length", value.parse().unwrap());
            }
            assert_eq!(
                content_length(&headers).map_err(|_| ()),
                expected,
                "{values:?}"
            );
        }
    }
}
