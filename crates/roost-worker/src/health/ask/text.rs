//! What machines answer, as it may be kept and shown.

use crate::limits::CHECK_OUTPUT_BYTES_MAX;
use std::time::Duration;

/// As much of a machine's answer as is kept, on one line and without what
/// would steer a terminal or turn the direction of text.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    // More than is kept, since what is left out may be at the beginning.
    let start = &bytes[..bytes.len().min(2 * CHECK_OUTPUT_BYTES_MAX)];
    let text = String::from_utf8_lossy(start);
    let mut kept = String::new();
    for word in text.split(|c: char| c.is_whitespace()) {
        let word: String = word.chars().filter(|c| is_printable(*c)).collect();
        if !word.is_empty() && !kept.is_empty() {
            kept.push(' ');
        }
        kept.push_str(&word);
    }
    kept.truncate(kept.floor_char_boundary(CHECK_OUTPUT_BYTES_MAX));
    kept
}

fn is_printable(c: char) -> bool {
    let turns_direction = matches!(
        c,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !c.is_control() && !turns_direction && c != '\u{feff}'
}

/// A time-out for people.
pub(super) fn duration(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::excerpt;
    use crate::limits::CHECK_OUTPUT_BYTES_MAX;
    use proptest::prelude::*;

    #[test]
    fn an_excerpt_is_one_line_of_printable_text() {
        assert_eq!(
            excerpt(b"\x1b[31mred\r\n\r\n  two\twords\x00\xff "),
            "[31mred two words\u{fffd}"
        );
        assert_eq!(excerpt("a\u{202e}b".as_bytes()), "ab");
        assert_eq!(excerpt(&[b'\n'; 10_000]), "");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_long_or_steer_a_terminal(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let text = excerpt(&bytes);
            prop_assert!(text.len() <= CHECK_OUTPUT_BYTES_MAX);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
