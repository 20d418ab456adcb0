//! What those that serve files over HTTP agree on.

pub mod content_type;
pub mod date;
pub mod path;
pub mod range;

/// Whether one of the tags of an `If-None-Match` is this one, or stands for all (RFC 9110, 13.1.2).
pub fn names_tag<'a>(values: impl IntoIterator<Item = &'a str>, tag: &str) -> bool {
    let mut items = values.into_iter().flat_map(|value| value.split(','));
    items.any(|item| {
        let item = item.trim();
        item == "*" || item.strip_prefix("W/").unwrap_or(item) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::names_tag;

    #[test]
    fn a_tag_is_found_among_others_and_weak_ones_count() {
        assert!(names_tag(["\"a\", W/\"b\""], "\"b\""));
        assert!(names_tag(["\"a\"", "*"], "\"b\""));
        assert!(!names_tag(["\"a\", b"], "\"b\""));
        assert!(!names_tag([], "\"b\""));
    }
}
