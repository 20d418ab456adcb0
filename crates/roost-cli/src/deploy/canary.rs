//! How a deploy tries its release out, by configuration and flags.

use crate::args::{CanaryArgs, Strategy};
use crate::error::CliError;
use roost_model::app_config::{CanarySection, DeploySection};
use roost_proto::rest::CanaryConfig;

/// The canary that is asked for, if one is.
pub(super) fn wanted(
    section: &DeploySection,
    args: &CanaryArgs,
) -> Result<Option<CanaryConfig>, CliError> {
    let is_canary = match args.strategy {
        Some(strategy) => strategy == Strategy::Canary,
        None => section.is_canary,
    };
    let has_flags = args.canary_by_client
        || args.canary_percent.is_some()
        || args.canary_header.is_some()
        || !args.canary_region.is_empty()
        || args.canary_wait.is_some()
        || args.canary_requests.is_some();
    if !is_canary {
        if has_flags {
            let problem = "flags that begin with --canary are for the strategy `canary`";
            return Err(CliError::usage(problem).hint("add --strategy canary"));
        }
        let is_set = section.canary != CanarySection::default();
        if is_set && args.strategy.is_none() {
            let problem = "`[deploy.canary]` is for the strategy `canary`, which is not asked for";
            return Err(CliError::usage(problem)
                .hint("set `strategy = \"canary\"` in `[deploy]`, or add --strategy"));
        }
        return Ok(None);
    }
    let set = &section.canary;
    let regions = if args.canary_region.is_empty() {
        &set.regions
    } else {
        &args.canary_region
    };
    let header = args.canary_header.as_ref().map(ToString::to_string);
    let wait = args.canary_wait.or(set.wait);
    let config = CanaryConfig {
        percent: args.canary_percent.or(set.percent),
        by_client: args.canary_by_client || set.by_client,
        header: header.or_else(|| set.header.clone()),
        regions: regions.clone(),
        wait: wait.map(|wait| wait.as_secs().max(1)),
        requests: args.canary_requests.or(set.requests),
        more_errors: set.more_errors,
        times_slower: set.times_slower,
    };
    let checked = config.to_canary();
    checked.map_err(|error| CliError::usage(format!("the canary: {error}")))?;
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::wanted;
    use crate::args::{CanaryArgs, Strategy};
    use roost_model::app_config::{CanarySection, DeploySection};

    #[test]
    fn flags_go_before_the_configuration_and_need_the_strategy() {
        let section = DeploySection {
            is_canary: true,
            canary: CanarySection {
                percent: Some(5),
                requests: Some(7),
                ..CanarySection::default()
            },
            ..DeploySection::default()
        };
        let args = CanaryArgs {
            canary_percent: Some(20),
            ..CanaryArgs::default()
        };
        let canary = wanted(&section, &args).unwrap().unwrap();
        assert_eq!((canary.percent, canary.requests), (Some(20), Some(7)));
        let rolling = CanaryArgs {
            strategy: Some(Strategy::Rolling),
            ..CanaryArgs::default()
        };
        assert_eq!(wanted(&section, &rolling).unwrap(), None);
        assert_eq!(wanted(&DeploySection::default(), &rolling).unwrap(), None);
        assert!(wanted(&DeploySection::default(), &args).is_err());
        let forgotten = DeploySection {
            is_canary: false,
            ..section.clone()
        };
        let no_flags = CanaryArgs::default();
        assert!(
            wanted(&forgotten, &no_flags).is_err(),
            "it would be ignored"
        );
        assert_eq!(wanted(&forgotten, &rolling).unwrap(), None);
        let nothing = CanaryArgs {
            strategy: Some(Strategy::Canary),
            canary_percent: Some(0),
            ..CanaryArgs::default()
        };
        assert!(wanted(&section, &nothing).is_err());
    }
}
