//! Durations on the wire: Go-style text (`1m30s`, `500ms`) or integer nanoseconds.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// A duration of the Machines API. Written as text; read as text or integer nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, example = "15s")]
pub struct WireDuration(pub Duration);

pub use roost_model::duration::parse_go_duration;

/// The shortest Go-style text: `1m30s`, `500ms`, `0s`.
pub fn format_go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if duration.is_zero() {
        return "0s".into();
    }
    if ms == 0 {
        return format!("{}ns", duration.as_nanos());
    }
    if !ms.is_multiple_of(1000) {
        return format!("{ms}ms");
    }
    let seconds = ms / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    for (number, unit) in [(hours, 'h'), (minutes, 'm'), (seconds, 's')] {
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    text
}

impl Serialize for WireDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_go_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for WireDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Nanoseconds(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Nanoseconds(ns) => Ok(Self(Duration::from_nanos(ns))),
            Raw::Text(text) => parse_go_duration(&text).map(Self).ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "`{text}` is not a duration such as 10s, 1m30s or 500ms"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{format_go_duration, parse_go_duration};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn go_durations_are_read() {
        assert_eq!(parse_go_duration("1m21s"), Some(Duration::from_secs(81)));
        assert_eq!(parse_go_duration("1.5s"), Some(Duration::from_millis(1500)));
        for bad in [
            "",
            "10",
            "s",
            "1x",
            "-1s",
            "1e400s",
            "99999999999999999999h",
        ] {
            assert_eq!(parse_go_duration(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0_u64..1_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_go_duration(&format_go_duration(duration)), Some(duration));
        }
    }
}
