//! From the bytes of a line to a record: cutting, UTF-8, JSON lines.

use crate::limits;
use roost_model::time::Timestamp;
use roost_proto::logs::{LogRecord, LogStream};
use serde_json::{Map, Value};

/// Whose lines these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogIdentity {
    /// The app.
    pub app: String,
    /// The machine id.
    pub machine: String,
    /// The region of the machine.
    pub region: String,
}

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSource {
    /// Where it was written to.
    pub stream: LogStream,
    /// Which of the machine's programs wrote it, counted from 1, where several run.
    pub program: Option<u8>,
}

impl From<LogStream> for LogSource {
    fn from(stream: LogStream) -> Self {
        Self {
            stream,
            program: None,
        }
    }
}

const PRINTER: jiff::fmt::temporal::DateTimePrinter =
    jiff::fmt::temporal::DateTimePrinter::new().precision(Some(3));

/// RFC 3339 with milliseconds, UTC. Of fixed width, so that text order is time order.
pub(crate) fn time_text(at: Timestamp) -> String {
    let ms = i64::try_from(at.as_ms()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    PRINTER.timestamp_to_string(&time)
}

/// Makes the record of one line, without its line feed.
pub(crate) fn record_of(
    identity: &LogIdentity,
    at: Timestamp,
    source: LogSource,
    line: &[u8],
    line_bytes_max: usize,
) -> LogRecord {
    let (line, truncated) = cut(line, line_bytes_max);
    let parsed = if truncated {
        None
    } else {
        parse_json_line(line)
    };
    let parsed = parsed.unwrap_or_else(|| ParsedLine {
        level: None,
        message: String::from_utf8_lossy(line).into_owned(),
        fields: None,
    });
    LogRecord {
        time: time_text(at),
        app: identity.app.clone(),
        machine: identity.machine.clone(),
        region: identity.region.clone(),
        stream: source.stream,
        program: source.program,
        level: parsed.level,
        message: parsed.message,
        fields: parsed.fields,
        truncated,
    }
}

/// Cuts at the limit, but not within a UTF-8 character.
fn cut(line: &[u8], bytes_max: usize) -> (&[u8], bool) {
    if line.len() <= bytes_max {
        return (line, false);
    }
    // A character has at most three continuation bytes (10xxxxxx).
    let is_inside = |at: usize| line[at] & 0b1100_0000 == 0b1000_0000;
    let lowest = bytes_max.saturating_sub(3);
    let end = (lowest..=bytes_max)
        .rev()
        .find(|at| !is_inside(*at))
        .unwrap_or(bytes_max);
    (&line[..end], true)
}

struct ParsedLine {
    level: Option<String>,
    message: String,
    fields: Option<Map<String, Value>>,
}

/// The parts of a line that is a JSON object within the limits; any other stays text.
fn parse_json_line(line: &[u8]) -> Option<ParsedLine> {
    if !line.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let mut fields: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut members_left = limits::FIELDS_MEMBERS_MAX;
    if !fields
        .values()
        .all(|value| is_within(value, limits::FIELDS_DEPTH_MAX - 1, &mut members_left))
    {
        return None;
    }
    let level = take_level(&mut fields);
    let message = take_message(&mut fields).unwrap_or_else(|| text.to_owned());
    Some(ParsedLine {
        level,
        message,
        fields: (!fields.is_empty()).then_some(fields),
    })
}

fn is_within(value: &Value, depth_left: usize, members_left: &mut usize) -> bool {
    let Some(left) = members_left.checked_sub(1) else {
        return false;
    };
    *members_left = left;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(values) => {
            depth_left > 0
                && values
                    .iter()
                    .all(|value| is_within(value, depth_left - 1, members_left))
        }
        Value::Object(values) => {
            depth_left > 0
                && values
                    .values()
                    .all(|value| is_within(value, depth_left - 1, members_left))
        }
    }
}

fn take_message(fields: &mut Map<String, Value>) -> Option<String> {
    let name = ["message", "msg"]
        .into_iter()
        .find(|name| fields.get(*name).is_some_and(Value::is_string))?;
    match fields.remove(name) {
        Some(Value::String(message)) => Some(message),
        _ => None,
    }
}

fn take_level(fields: &mut Map<String, Value>) -> Option<String> {
    let (name, level) = ["level", "severity", "lvl"].into_iter().find_map(|name| {
        fields
            .get(name)
            .and_then(level_of)
            .map(|level| (name, level))
    })?;
    fields.remove(name);
    Some(level)
}

fn level_of(value: &Value) -> Option<String> {
    match value {
        Value::String(level) if !level.is_empty() && level.len() <= limits::LEVEL_BYTES_MAX => {
            Some(level.to_lowercase())
        }
        // The numbers of the bunyan family of loggers (pino too).
        Value::Number(number) => match number.as_u64()? {
            10 => Some("trace".to_owned()),
            20 => Some("debug".to_owned()),
            30 => Some("info".to_owned()),
            40 => Some("warn".to_owned()),
            50 => Some("error".to_owned()),
            60 => Some("fatal".to_owned()),
            _ => None,
        },
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LogIdentity, record_of, time_text};
    use proptest::prelude::*;
    use roost_model::time::Timestamp;
    use roost_proto::logs::{LogRecord, LogStream};

    fn record(line: &[u8]) -> LogRecord {
        let identity = LogIdentity {
            app: "a".into(),
            machine: "m".into(),
            region: "r".into(),
        };
        record_of(
            &identity,
            Timestamp::from_ms(0),
            LogStream::Stdout.into(),
            line,
            1_000,
        )
    }

    #[test]
    fn text_order_of_times_is_time_order() {
        assert_eq!(time_text(Timestamp::from_ms(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(Timestamp::from_ms(1_790_000_000_120)).len(), 24);
        assert!(time_text(Timestamp::from_ms(999)) < time_text(Timestamp::from_ms(1_000)));
    }

    #[test]
    fn a_json_line_gives_level_message_and_the_other_members() {
        let record = record(br#"{"level":"WARN","msg":"slow","took_ms":12,"at":{"x":[1]}}"#);
        assert_eq!(record.level.as_deref(), Some("warn"));
        assert_eq!(record.message, "slow");
        let fields = record.fields.unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["at", "took_ms"]);
        assert_eq!(
            super::level_of(&serde_json::json!(50)).as_deref(),
            Some("error")
        );
    }

    #[test]
    fn a_json_line_that_is_too_deep_or_too_wide_or_no_object_stays_text() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(60), "]".repeat(60));
        let wide = format!("{{\"a\":[{}]}}", vec!["1"; 400].join(","));
        for line in [
            deep.as_str(),
            wide.as_str(),
            "[1]",
            "{\"a\":",
            "{} x",
            "\"x\"",
        ] {
            let record = record(line.as_bytes());
            assert_eq!((record.message.as_str(), record.fields), (line, None));
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_says_so() {
        let line = "ä".repeat(10_000);
        let record = record(line.as_bytes());
        assert!(record.truncated);
        assert_eq!(record.message, "ä".repeat(500));
        assert!(super::cut(&[0x80; 20], 10).1);
    }

    proptest! {
        #[test]
        fn no_byte_of_a_line_is_lost_but_for_replacement(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let record = record(&line);
            if record.fields.is_none() && record.level.is_none() {
                prop_assert_eq!(&record.message, &String::from_utf8_lossy(&line));
            }
            let json = serde_json::to_string(&record).unwrap();
            prop_assert!(!json.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<LogRecord>(&json).unwrap(), record);
        }
    }
}
