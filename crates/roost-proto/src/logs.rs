//! One line of log, as it is stored, queried and streamed.

use serde::{Deserialize, Serialize};

/// Where a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// roost itself, about this machine: started, exited with code 1, …
    System,
}

/// One line of log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogRecord {
    /// When the line was read, RFC 3339 with milliseconds, UTC.
    pub time: String,
    /// The app.
    pub app: String,
    /// The machine id.
    pub machine: String,
    /// The region of the machine.
    pub region: String,
    /// Where it came from.
    pub stream: LogStream,
    /// Which of the machine's programs wrote it, counted from 1 as in `processes`;
    /// absent where one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<u8>,
    /// The level, when the line is a JSON object that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The line, or its `message`/`msg` member when the line is a JSON object that has one.
    pub message: String,
    /// The other members of a JSON line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub fields: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether the line was longer than the limit and was cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}
