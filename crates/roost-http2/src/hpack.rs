//! Header compression (RFC 7541).
//!
//! Both ends of a connection have a [`Decoder`] of what they receive and an [`Encoder`] of what
//! they send. Each block changes their tables, so every block that comes has to be decoded, also
//! one that nobody wants, in the order in which they came.

mod decode;
mod encode;
mod huffman;
mod integer;
mod statics;

pub use decode::{Decoder, Size};
pub use encode::{Block, Encoder};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// Bytes of a dynamic table unless something else was agreed on (RFC 9113 6.5.2).
pub const TABLE_BYTES: usize = 4096;

/// What a field costs beyond its name and its value (RFC 7541 4.1, RFC 9113 6.5.2).
pub const FIELD_COST: usize = 32;

/// A block that cannot be decoded. The tables of both ends differ from then on, so the connection
/// ends with `COMPRESSION_ERROR` (RFC 9113 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// A block ends within a field.
    #[error("a header block ends too early")]
    Truncated,
    /// A number that is larger than any that has a meaning.
    #[error("a number in a header block is too large")]
    Number,
    /// There is nothing in the tables at this place.
    #[error("a header block refers to no field")]
    Index,
    /// Text that no encoder makes.
    #[error("text in a header block is not Huffman-coded")]
    Huffman,
    /// A change of the size of the table that is too large, or not where it belongs.
    #[error("a header block changes its table as it may not")]
    TableSize,
}

/// The fields of HTTP/2's own (RFC 9113 8.3, RFC 8441 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
}

/// A field of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// One of HTTP/2's own.
    Pseudo(Pseudo, Bytes),
    /// A header line.
    Header(HeaderName, HeaderValue),
    /// One that makes its message malformed (RFC 9113 8.2.1).
    Malformed,
}

/// The name of a field.
#[derive(Debug, Clone)]
enum Name {
    Pseudo(Pseudo),
    Header(HeaderName),
    Malformed,
}

impl Name {
    /// Names are in lower case (RFC 9113 8.2.1).
    fn new(name: &[u8]) -> Self {
        if name.first() == Some(&b':') {
            return match name {
                b":authority" => Self::Pseudo(Pseudo::Authority),
                b":method" => Self::Pseudo(Pseudo::Method),
                b":path" => Self::Pseudo(Pseudo::Path),
                b":protocol" => Self::Pseudo(Pseudo::Protocol),
                b":scheme" => Self::Pseudo(Pseudo::Scheme),
                b":status" => Self::Pseudo(Pseudo::Status),
                _ => Self::Malformed,
            };
        }
        HeaderName::from_lowercase(name).map_or(Self::Malformed, Self::Header)
    }

    /// A field of this name. Blanks at the ends of its value are taken away or a fault.
    fn with(self, value: Bytes, trims: bool) -> Field {
        match self {
            Self::Pseudo(pseudo) => Field::Pseudo(pseudo, value),
            Self::Header(name) => {
                let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
                let begin = value.iter().position(is_text).unwrap_or(0);
                let end = value.iter().rposition(is_text).map_or(0, |last| last + 1);
                if !trims && end - begin != value.len() {
                    return Field::Malformed;
                }
                let value = HeaderValue::from_maybe_shared(value.slice(begin..end));
                value.map_or(Field::Malformed, |value| Field::Header(name, value))
            }
            Self::Malformed => Field::Malformed,
        }
    }
}

#[cfg(test)]
mod tests;
