//! The commands that ask the API one thing and print it.

pub(crate) mod apps;
pub(crate) mod certs;
pub(crate) mod ips;
pub(crate) mod local;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod ops;
pub(crate) mod releases;
pub(crate) mod secrets;
pub(crate) mod why;

use crate::error::CliError;
use serde::de::DeserializeOwned;

/// A list that comes by itself or as the member `key` of an object.
pub(crate) fn list_of<T: DeserializeOwned>(
    mut value: serde_json::Value,
    key: &str,
) -> Result<Vec<T>, CliError> {
    if let Some(inner) = value.get_mut(key) {
        value = inner.take();
    }
    serde_json::from_value(value).map_err(|error| {
        CliError::failed(
            "bad-answer",
            format!("the API's {key} are not what was expected: {error}"),
        )
    })
}
