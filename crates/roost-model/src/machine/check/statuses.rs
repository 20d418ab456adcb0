//! Which HTTP statuses a check expects.

use crate::limits;
use std::ops::RangeInclusive;

/// Statuses, as ranges; 2xx by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(Vec<RangeInclusive<u16>>);

impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl StatusRanges {
    /// Reads `200`, `200-299` and the like.
    pub fn parse(texts: &[impl AsRef<str>]) -> Result<Self, String> {
        if texts.is_empty() || texts.len() > limits::CHECK_STATUSES_MAX {
            let most = limits::CHECK_STATUSES_MAX;
            return Err(format!("needs 1 to {most} statuses"));
        }
        let ranges = texts.iter().map(|text| {
            let text = text.as_ref().trim();
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = number(first).zip(number(last));
            range
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| first..=last)
                .ok_or_else(|| format!("`{}` is not a status such as 204, or a range such as 200-299, within 100 to 599", text.escape_debug()))
        });
        ranges.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the status is among them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }

    /// As they are written in a config.
    pub fn to_texts(&self) -> Vec<String> {
        let text = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        self.0.iter().map(text).collect()
    }
}

/// A final status, or an informational one, which no check can see: it does no harm.
fn number(text: &str) -> Option<u16> {
    let is_plain = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u16 = is_plain.then(|| text.parse().ok())??;
    (100..=599).contains(&number).then_some(number)
}
