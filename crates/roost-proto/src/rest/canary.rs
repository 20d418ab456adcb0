//! How a new release is tried out beside the one that serves, and what was seen of both.

use crate::release_traffic::ReleaseTraffic;
use roost_model::canary::{Canary, Rules, Seen, Verdict};
use roost_model::id::NodeId;
use roost_model::name::RegionCode;
use roost_model::split::{HeaderMatch, Split};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Most requests that a canary may be asked to have had.
const REQUESTS_MAX: u64 = 1_000_000;
/// Most times that a canary may be slower.
const SLOWER_MAX: f64 = 1_000.0;

/// How the first machine of a new release, the canary, is tried out before the others follow.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Its share of the app's requests, in percent; 10 by default.
    pub percent: Option<u8>,
    /// Whether that is a share of clients, so that each stays with one release.
    pub by_client: bool,
    /// A header, as `name: value`, whose requests it gets all.
    pub header: Option<String>,
    /// Regions of the edge whose requests it gets all.
    pub regions: Vec<String>,
    /// The longest time that it is watched, in seconds; 60 by default.
    pub wait: Option<u64>,
    /// It is judged as soon as it has had so many requests; 100 by default.
    pub requests: Option<u64>,
    /// How much larger its share of errors may be than that of the release that serves, 0 to 1;
    /// 0.05 by default.
    pub more_errors: Option<f64>,
    /// How many times as slow it may be, by the latency that 95 % of answers do not exceed; 2 by
    /// default.
    pub times_slower: Option<f64>,
}

impl CanaryConfig {
    /// The canary with its defaults, or what is wrong.
    pub fn to_canary(&self) -> Result<Canary, String> {
        let header = self.header.as_deref().map(HeaderMatch::parse).transpose();
        let regions = self.regions.iter().map(|code| RegionCode::parse(code));
        let split = Split {
            percent: self.percent.unwrap_or(Canary::PERCENT_DEFAULT),
            by_client: self.by_client,
            regions: regions
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
            header: header.map_err(|error| error.to_string())?,
        };
        let rules = Rules {
            requests: self.requests.unwrap_or(Rules::DEFAULT.requests),
            more_errors: self.more_errors.unwrap_or(Rules::DEFAULT.more_errors),
            times_slower: self.times_slower.unwrap_or(Rules::DEFAULT.times_slower),
        };
        let wait = self.wait.map_or(Canary::WAIT_DEFAULT, Duration::from_secs);
        if wait.is_zero() || wait > Canary::WAIT_MAX {
            let max = Canary::WAIT_MAX.as_secs();
            return Err(format!("wait must be from 1 to {max} seconds"));
        }
        if !(1..=REQUESTS_MAX).contains(&rules.requests) {
            return Err(format!("requests must be from 1 to {REQUESTS_MAX}"));
        }
        if !(0.0..=1.0).contains(&rules.more_errors) {
            return Err("more_errors must be from 0 to 1".to_owned());
        }
        if !(1.0..=SLOWER_MAX).contains(&rules.times_slower) {
            return Err(format!("times_slower must be from 1 to {SLOWER_MAX}"));
        }
        Ok(Canary {
            split: split.checked().map_err(|error| error.to_string())?,
            wait,
            rules,
        })
    }
}

impl From<&Canary> for CanaryConfig {
    fn from(canary: &Canary) -> Self {
        let Canary { split, wait, rules } = canary;
        Self {
            percent: Some(split.percent),
            by_client: split.by_client,
            header: split.header.as_ref().map(ToString::to_string),
            regions: split.regions.iter().map(ToString::to_string).collect(),
            wait: Some(wait.as_secs()),
            requests: Some(rules.requests),
            more_errors: Some(rules.more_errors),
            times_slower: Some(rules.times_slower),
        }
    }
}

/// The canary of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentCanary {
    /// How it is tried out, with all defaults.
    pub config: CanaryConfig,
    /// What became of it, once it was judged.
    #[serde(default)]
    pub judgement: Option<CanaryJudgement>,
}

/// What became of a canary, and what that was decided by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CanaryJudgement {
    /// Whether the deployment went on.
    pub passed: bool,
    /// Why, for people.
    pub reason: String,
    /// How long it was watched.
    pub watched_ms: u64,
    /// The release that served.
    pub old: ReleaseSeen,
    /// The release that was tried out.
    pub new: ReleaseSeen,
    /// Nodes with machines of the app whose edges did not tell of their requests when it was judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
}

/// What was seen of a release while a canary was watched, by the edges of all nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseSeen {
    /// Its number.
    pub release: u64,
    /// Requests to its machines.
    pub requests: u64,
    /// Those that were answered with a 5xx, or not at all.
    pub errors: u64,
    /// Milliseconds that half of its answers did not exceed, from the request sent to the header.
    #[serde(default)]
    pub p50_ms: Option<f64>,
    /// The same of 95 in 100 answers.
    #[serde(default)]
    pub p95_ms: Option<f64>,
}

impl ReleaseSeen {
    fn of(release: u64, traffic: &ReleaseTraffic) -> Self {
        let quantile = |share| {
            let latency = traffic.latencies.quantile(share)?;
            Some((latency.as_secs_f64() * 1e6).round() / 1e3)
        };
        Self {
            release,
            requests: traffic.requests(),
            errors: traffic.errors(),
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
        }
    }
}

impl CanaryJudgement {
    /// A verdict, with the releases and their traffic that it is about.
    pub fn of(
        verdict: Verdict,
        watched: Duration,
        old: (u64, &ReleaseTraffic),
        new: (u64, &ReleaseTraffic),
        silent: &[NodeId],
    ) -> Self {
        let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        let mut reason = verdict.reason;
        if !silent.is_empty() {
            reason += "; not all is known: when it was judged, no word of its requests came from \
                       the edge of ";
            reason += &silent.join(", ");
        }
        Self {
            passed: verdict.has_passed,
            reason,
            watched_ms: u64::try_from(watched.as_millis()).unwrap_or(u64::MAX),
            old: ReleaseSeen::of(old.0, old.1),
            new: ReleaseSeen::of(new.0, new.1),
            silent,
        }
    }
}

impl From<&ReleaseTraffic> for Seen {
    fn from(traffic: &ReleaseTraffic) -> Self {
        Self {
            requests: traffic.requests(),
            errors: traffic.errors(),
            p95: traffic.latencies.quantile_bounds(0.95),
        }
    }
}

impl std::fmt::Display for ReleaseSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (release, requests, errors) = (self.release, self.requests, self.errors);
        write!(f, "v{release}: {requests} requests, {errors} failed")?;
        match self.p95_ms {
            Some(p95) => write!(f, ", 95 % within {p95:.0} ms"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CanaryConfig;
    use crate::latencies::Latencies;
    use crate::release_traffic::ReleaseTraffic;
    use roost_model::canary::{Canary, Rules, Verdict, judge};

    /// What is judged of two releases all of whose answers take so long, in milliseconds.
    fn judged(old_ms: u64, new_ms: u64) -> Verdict {
        let seen = |n, ms| {
            let mut traffic = ReleaseTraffic::default();
            traffic.answers[1] = n;
            traffic.latencies = Latencies::of([(Latencies::bucket(ms * 1000), n)]);
            (&traffic).into()
        };
        judge(&Rules::DEFAULT, &seen(900, old_ms), &seen(100, new_ms))
    }

    #[test]
    fn a_canary_is_slower_only_when_the_buckets_leave_no_doubt() {
        for (old_ms, new_ms, has_passed) in [
            (100, 101, true),
            // As slow as it may be, or a little more: nobody knows.
            (100, 200, true),
            (100, 204, true),
            // These are slower, wherever in their buckets the two lie.
            (100, 230, false),
            (199, 451, false),
            (3_000, 6_800, false),
            (30_000, 70_000, false),
            // Too little to matter.
            (10, 55, true),
            (10, 67, false),
            // Slower than all buckets: nothing is known of how much.
            (140_000, 600_000, true),
        ] {
            let verdict = judged(old_ms, new_ms);
            assert_eq!(
                verdict.has_passed, has_passed,
                "{old_ms} {new_ms} {verdict:?}"
            );
        }
        let reason = judged(199, 600).reason;
        assert!(
            reason.contains("longer than 589 ms") && reason.contains("within 204 ms"),
            "{reason}"
        );
    }

    #[test]
    fn a_canary_has_defaults_and_comes_back_as_it_was() {
        let canary = CanaryConfig::default().to_canary().unwrap();
        assert_eq!(canary.split.percent, 10);
        assert_eq!(canary.wait, Canary::WAIT_DEFAULT);
        let config = CanaryConfig {
            percent: Some(0),
            header: Some("X-Canary: 1".into()),
            regions: vec!["fra".into()],
            wait: Some(5),
            requests: Some(7),
            more_errors: Some(0.0),
            times_slower: Some(1.5),
            by_client: true,
        };
        let canary = config.to_canary().unwrap();
        assert_eq!(CanaryConfig::from(&canary).to_canary(), Ok(canary));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let bad = |change: fn(&mut CanaryConfig)| {
            let mut config = CanaryConfig::default();
            change(&mut config);
            config.to_canary().unwrap_err()
        };
        for (text, part) in [
            (bad(|it| it.percent = Some(101)), "percent is 101"),
            (bad(|it| it.percent = Some(0)), "percent is 0"),
            (bad(|it| it.header = Some("x".into())), "header"),
            (bad(|it| it.regions = vec!["No".into()]), "region code"),
            (bad(|it| it.wait = Some(0)), "wait"),
            (bad(|it| it.wait = Some(3601)), "wait"),
            (bad(|it| it.requests = Some(0)), "requests"),
            (bad(|it| it.more_errors = Some(1.1)), "more_errors"),
            (bad(|it| it.more_errors = Some(f64::NAN)), "more_errors"),
            (bad(|it| it.times_slower = Some(0.5)), "times_slower"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
