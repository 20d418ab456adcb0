//! Values of flags, as they are read.

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use roost_model::machine::Isolation;
use std::path::PathBuf;
use std::time::Duration;

/// A path that may be empty.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

pub(super) fn isolation() -> impl TypedValueParser<Value = Isolation> {
    PossibleValuesParser::new(Isolation::WORDS).try_map(|word| Isolation::parse(&word))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    roost_model::duration::parse_go_duration(text)
        .ok_or_else(|| "not a duration such as 90s, 5m or 1m30s".to_owned())
}

pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("not NAME=VALUE".into()),
    }
}

/// Whole seconds, at least one.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => duration(text)?.as_secs(),
    };
    if seconds == 0 {
        return Err("less than a second".into());
    }
    Ok(seconds)
}
