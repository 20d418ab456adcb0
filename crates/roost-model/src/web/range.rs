//! The `Range` header, one range at most (RFC 9110, 14.2).

/// A part of a file; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Range {
    /// All: no range, or one that may be ignored (several, another unit, malformed).
    Whole,
    /// A part.
    Part(Slice),
    /// A part that the file does not have.
    Unsatisfiable,
}

/// Reads the header's value for a file of `size` bytes.
pub fn parse(value: Option<&str>, size: u64) -> Range {
    let Some(spec) = value.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Range::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Range::Whole;
    };
    let (first, last) = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => return Range::Unsatisfiable,
            Some(length) => (size.saturating_sub(length), size.saturating_sub(1)),
            None => return Range::Whole,
        },
        (first, last) => {
            let last_or_end = if last.is_empty() {
                Some(u64::MAX)
            } else {
                number(last)
            };
            match (number(first), last_or_end) {
                (Some(first), Some(last)) if first <= last => (first, last),
                _ => return Range::Whole,
            }
        }
    };
    if first >= size {
        return Range::Unsatisfiable;
    }
    Range::Part(Slice {
        start: first,
        length: last.min(size - 1) - first + 1,
    })
}

/// Digits only: `parse` alone would take a plus sign. Numbers beyond all files are the largest.
fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Range, Slice, parse};

    #[test]
    fn the_three_forms_of_a_range_are_read() {
        let part = |start, length| Range::Part(Slice { start, length });
        assert_eq!(parse(Some("bytes=0-0"), 10), part(0, 1));
        assert_eq!(parse(Some("bytes=4-"), 10), part(4, 6));
        assert_eq!(parse(Some("bytes=-3"), 10), part(7, 3));
        assert_eq!(parse(Some("bytes=-300"), 10), part(0, 10));
        assert_eq!(
            parse(Some("bytes=2-99999999999999999999999"), 10),
            part(2, 8)
        );
    }

    #[test]
    fn what_cannot_be_met_is_refused_and_what_cannot_be_read_is_ignored() {
        for value in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(parse(Some(value), 10), Range::Unsatisfiable, "{value}");
        }
        assert_eq!(parse(Some("bytes=-5"), 0), Range::Unsatisfiable);
        for value in [
            "bytes=5-2",
            "bytes=a-b",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes",
        ] {
            assert_eq!(parse(Some(value), 10), Range::Whole, "{value}");
        }
    }
}
