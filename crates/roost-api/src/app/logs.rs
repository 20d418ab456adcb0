//! Logs: query and follow.

use super::find_app;
use crate::ctx::RequestCtx;
use crate::error::ApiError;
use crate::limits;
use crate::ports::LogSelection;
use crate::state::ApiState;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use roost_auth::policy::Action;
use roost_model::id::MachineId;
use roost_model::name::{AppName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::logs::LogRecord;
use serde::Deserialize;

/// The query of a log request.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// Of this machine only.
    pub(crate) machine: Option<String>,
    /// Of machines in this region only.
    pub(crate) region: Option<String>,
    /// Not before: RFC 3339, or milliseconds since the epoch.
    pub(crate) since: Option<String>,
    /// Not after: RFC 3339, or milliseconds since the epoch.
    pub(crate) until: Option<String>,
    /// The newest this many; 100 by default, at most 10 000.
    pub(crate) limit: Option<usize>,
    /// Whose message contains this text.
    pub(crate) contains: Option<String>,
    /// Whether to go on with new records, as server-sent events.
    pub(crate) follow: bool,
}

impl LogParams {
    fn to_selection(&self, app: &AppName) -> Result<LogSelection, ApiError> {
        Ok(LogSelection {
            app: app.clone(),
            machine: self.machine.as_deref().map(MachineId::parse).transpose()?,
            region: self.region.as_deref().map(RegionCode::parse).transpose()?,
            since: self
                .since
                .as_deref()
                .map(|text| parse_time("since", text))
                .transpose()?,
            until: self
                .until
                .as_deref()
                .map(|text| parse_time("until", text))
                .transpose()?,
            limit: self
                .limit
                .unwrap_or(limits::LOG_RECORDS_DEFAULT)
                .min(limits::LOG_RECORDS_MAX),
            contains: self.contains.clone(),
        })
    }
}

fn parse_time(name: &str, text: &str) -> Result<Timestamp, ApiError> {
    if let Ok(ms) = text.parse::<u64>() {
        return Ok(Timestamp::from_ms(ms));
    }
    let wrong = || {
        let shown: String = text.chars().take(80).collect();
        ApiError::invalid(format!(
            "`{name}` is `{shown}`, which is neither RFC 3339 nor milliseconds"
        ))
    };
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_millisecond())
        .map(Timestamp::from_ms)
        .map_err(|_| wrong())
}

/// The newest records that match, oldest first.
pub(crate) async fn query(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    params: &LogParams,
) -> Result<Vec<LogRecord>, ApiError> {
    ctx.allow(Action::ReadLogs, Some(name))?;
    find_app(state, name).await?;
    Ok(state.logs.query(params.to_selection(name)?).await?)
}

/// Records that match, and new ones as they come, until the node stops.
pub(crate) async fn follow(
    ctx: &RequestCtx,
    state: &ApiState,
    name: &AppName,
    params: &LogParams,
) -> Result<BoxStream<'static, LogRecord>, ApiError> {
    ctx.allow(Action::ReadLogs, Some(name))?;
    find_app(state, name).await?;
    let records = state.logs.follow(params.to_selection(name)?);
    Ok(records
        .take_until(state.tasks.stopping().cancelled_owned())
        .boxed())
}
