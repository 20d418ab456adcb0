//! "Did you mean": the known word nearest to one that was typed.

/// The entry of `known` that `typed` most likely meant, if any is near enough.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two edits for short words, a third of the length for long ones.
    let distance_max = (typed.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_corrected_and_a_different_word_is_not() {
        let known = ["internal_port", "force_https", "processes"];
        assert_eq!(nearest("internl_port", known), Some("internal_port"));
        assert_eq!(nearest("forcehttps", known), Some("force_https"));
        assert_eq!(nearest("zebra", known), None);
    }
}
