//! Queries whose members may be repeated, or have names of the caller's choice.

use crate::app::machines::{MachineFilter, Wait};
use crate::error::ApiError;
use roost_model::id::InstanceId;
use roost_model::machine::MachineState;
use roost_model::name::RegionCode;
use std::time::Duration;

/// A query as it was written.
pub(crate) type Pairs = Vec<(String, String)>;

/// What to wait for.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is the description of what `wait` reads")]
pub(crate) struct WaitParams {
    /// The state, or several, joined by commas or as several members; `started` by default.
    /// `settled` stands for every state that stays as it is.
    state: Option<String>,
    /// Of this version only; `version` is the same.
    instance_id: Option<String>,
    /// Reached by an event after this one of the machine's history (its `seq`), even if the
    /// machine has moved on since.
    from_event_id: Option<u64>,
    /// Seconds; 60 by default and at most.
    timeout: Option<u64>,
}

/// Which machines.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it is the description of what `list_filter` reads"
)]
pub(crate) struct ListParams {
    /// In this state, or one of several, joined by commas or as several members.
    state: Option<String>,
    /// In this region.
    region: Option<String>,
    /// Whether those that are destroyed are listed as well, for an hour or so; of nodes that answer.
    include_deleted: Option<bool>,
    /// With this value of the entry KEY of its metadata; may be repeated for several keys.
    #[param(rename = "metadata.KEY")]
    metadata: Option<String>,
}

/// Reads [`WaitParams`].
pub(super) fn wait(pairs: Pairs) -> Result<Wait, ApiError> {
    let mut wait = Wait::default();
    for (name, value) in pairs {
        match name.as_str() {
            "state" => wait.states.extend(states(&value)?),
            "instance_id" | "version" => wait.instance_id = Some(InstanceId::parse(&value)?),
            "from_event_id" => wait.after_event = Some(number(&name, &value)?),
            "timeout" => wait.timeout = Some(Duration::from_secs(number(&name, &value)?)),
            _ => return Err(unknown(&name)),
        }
    }
    Ok(wait)
}

/// Reads [`ListParams`].
pub(super) fn list_filter(pairs: Pairs) -> Result<MachineFilter, ApiError> {
    let mut filter = MachineFilter::default();
    for (name, value) in pairs {
        match (name.as_str(), name.strip_prefix("metadata.")) {
            ("state", _) => filter.states.extend(states(&value)?),
            ("region", _) => filter.region = Some(RegionCode::parse(&value)?),
            ("include_deleted", _) => filter.include_deleted = truth(&name, &value)?,
            (_, Some(key)) => filter.metadata.push((key.to_owned(), value)),
            (_, None) => return Err(unknown(&name)),
        }
    }
    Ok(filter)
}

fn states(text: &str) -> Result<Vec<MachineState>, ApiError> {
    let of_word = |word: &str| match (word, MachineState::parse(word)) {
        (_, Some(state)) => Ok(vec![state]),
        ("settled", None) => {
            let all = MachineState::ALL.into_iter();
            Ok(all.filter(|state| state.is_settled()).collect())
        }
        (_, None) => {
            let known = MachineState::ALL.map(MachineState::as_str).join(", ");
            let shown = shown(word);
            Err(ApiError::invalid(format!(
                "state `{shown}` is not one of {known}, settled"
            )))
        }
    };
    let states: Result<Vec<_>, _> = text.split(',').map(of_word).collect();
    Ok(states?.concat())
}

fn truth(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ApiError::malformed(format!(
            "query: `{name}` is not true or false"
        ))),
    }
}

fn number(name: &str, value: &str) -> Result<u64, ApiError> {
    let parsed = value.parse();
    parsed.map_err(|_| ApiError::malformed(format!("query: `{name}` is not a whole number")))
}

fn unknown(name: &str) -> ApiError {
    ApiError::malformed(format!("query: unknown field `{}`", shown(name)))
}

/// As much of what somebody wrote as fits an error.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::{list_filter, wait};
    use roost_model::machine::MachineState;

    fn pairs(pairs: &[(&str, &str)]) -> super::Pairs {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn states_are_repeated_or_joined_and_settled_stands_for_all_that_stay() {
        let read = wait(pairs(&[("state", "started,failed"), ("state", "stopped")])).unwrap();
        let wanted = [
            MachineState::Started,
            MachineState::Failed,
            MachineState::Stopped,
        ];
        assert_eq!(read.states, wanted);
        let settled = wait(pairs(&[("state", "settled")])).unwrap().states;
        assert!(settled.contains(&MachineState::Suspended));
        assert!(!settled.contains(&MachineState::Stopping));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for bad in [("state", "running"), ("timeout", "-1"), ("stat", "started")] {
            wait(pairs(&[bad])).unwrap_err();
        }
        for bad in [
            ("metadata", "x"),
            ("region", "No Where"),
            ("state", ""),
            ("include_deleted", "perhaps"),
        ] {
            list_filter(pairs(&[bad])).unwrap_err();
        }
    }

    #[test]
    fn each_metadata_member_is_one_condition() {
        let filter = list_filter(pairs(&[("metadata.a.b", "1"), ("metadata.c", "")])).unwrap();
        assert_eq!(filter.metadata, pairs(&[("a.b", "1"), ("c", "")]));
    }
}
