//! The static table (RFC 7541 appendix A).

use super::{FIELD_COST, Field, Name};
use bytes::Bytes;
use std::sync::LazyLock;

/// The fields; the first one has index 1.
const FIELDS: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// How many there are.
pub(super) const COUNT: usize = FIELDS.len();

/// A field as a decoder gives it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) name_length: usize,
    pub(super) field: Field,
    /// As RFC 7541 4.1 counts.
    pub(super) size: usize,
}

/// The field with this index, which begins at 1.
pub(super) fn get(index: usize) -> Option<&'static Entry> {
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let entry = |(name, value): (&'static str, &'static str)| {
            let length = name.len();
            let size = length + value.len() + FIELD_COST;
            let name = Name::new(name.as_bytes());
            let field = name
                .clone()
                .with(Bytes::from_static(value.as_bytes()), false);
            Entry {
                name,
                name_length: length,
                field,
                size,
            }
        };
        FIELDS.into_iter().map(entry).collect()
    });
    ENTRIES.get(index.checked_sub(1)?)
}

/// Where the table has a field, or only its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Field(usize),
    Name(usize),
    Nothing,
}

const PLACES: usize = 256;

/// For each hash the index of the first field of a name, those of the same hash one after
/// the other; zero after the last.
static BY_NAME: [u8; PLACES] = by_name();

const fn place(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let n = name.len();
    let middle = name[n / 2] as usize;
    (n * 37 + middle * 11 + name[0] as usize * 5 + name[n - 1] as usize * 3) % PLACES
}

#[expect(clippy::cast_possible_truncation, reason = "there are 61 fields")]
const fn by_name() -> [u8; PLACES] {
    let mut table = [0; PLACES];
    let mut index = 1;
    while index <= COUNT {
        let name = FIELDS[index - 1].0;
        let is_first = index == 1 || !is_same(FIELDS[index - 2].0, name);
        if is_first {
            let mut at = place(name.as_bytes());
            while table[at] != 0 {
                at = (at + 1) % PLACES;
            }
            table[at] = index as u8;
        }
        index += 1;
    }
    table
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Looks a field up.
pub(super) fn find(name: &str, value: &[u8]) -> Found {
    let mut at = place(name.as_bytes());
    // There are more places than names, so one of them is empty.
    loop {
        let index = usize::from(BY_NAME[at]);
        let Some(first) = index.checked_sub(1) else {
            return Found::Nothing;
        };
        if FIELDS[first].0 == name {
            let same = FIELDS[first..].iter().take_while(|(one, _)| *one == name);
            let exact = same
                .enumerate()
                .find(|(_, field)| field.1.as_bytes() == value);
            return exact.map_or(Found::Name(index), |(n, _)| Found::Field(index + n));
        }
        at = (at + 1) % PLACES;
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNT, FIELDS, Found, find, get};
    use crate::hpack::Field;

    #[test]
    fn each_field_is_found_by_name_and_value() {
        for (n, (name, value)) in FIELDS.into_iter().enumerate() {
            assert_eq!(find(name, value.as_bytes()), Found::Field(n + 1), "{name}");
            assert!(matches!(find(name, b"other"), Found::Name(first) if first <= n + 1));
            assert_ne!(get(n + 1).unwrap().field, Field::Malformed, "{name}");
        }
        assert_eq!(find(":status", b"206"), Found::Field(10));
        assert_eq!(find(":status", b"302"), Found::Name(8));
        assert_eq!(find("x-request-id", b""), Found::Nothing);
        assert_eq!(find("", b""), Found::Nothing);
        assert!(get(0).is_none() && get(COUNT + 1).is_none());
    }
}
