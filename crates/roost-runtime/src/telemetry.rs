//! Log set-up of a process.

use crate::points;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends logs of this process to standard error, and points to a hook.
///
/// `filter` is a `tracing` filter such as `info` or `roost_edge=debug,info`;
/// one that cannot be read becomes `info`. Called once, by `main`.
pub fn init(filter: &str, format: LogFormat, on_point: Option<points::Hook>) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(on_point.map(points::layer));
    let result = match format {
        LogFormat::Text => registry
            .with(logs.with_ansi(false).with_filter(filter))
            .try_init(),
        LogFormat::Json => registry.with(logs.json().with_filter(filter)).try_init(),
    };
    // A second call is harmless: the first one's settings stay.
    drop(result);
}
