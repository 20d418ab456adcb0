//! What an edge tells those of other nodes of the requests to its machines, of
//! apps of which a release is tried out: a line of JSON on the stream of the
//! [tables](crate::peer_table), beside those of the [loads](crate::peer_loads).
//!
//! ```text
//! {"tallies":[{"app":"web","id":7,"release":2,"answers":[0,9,0,0,1],"unanswered":0,"latencies":[[131,9]]}]}
//! ```
//!
//! A line has all tallies, and each all that it has counted: who misses one learns the same by
//! the next.

use crate::release_traffic::Tally;
use roost_model::name::AppName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// No count is higher than this: a thousand million requests a second for half an hour.
const COUNT_MAX: u64 = 1 << 41;

/// The tally of a release of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTally {
    /// The app.
    pub app: AppName,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Members that are not known are passed over, so that a later version may add some.
#[derive(Serialize, Deserialize)]
struct Line {
    tallies: Vec<AppTally>,
}

/// Whether this is a line about tallies, and neither a table nor loads.
pub fn is_one(line: &str) -> bool {
    line.starts_with("{\"tallies\"")
}

/// The line of these tallies. Of more than `most` it has the first ones.
pub fn to_line(mut tallies: Vec<AppTally>, most: usize) -> String {
    tallies.truncate(most);
    let mut line = serde_json::to_string(&Line { tallies }).expect("rows have text keys only");
    line.push('\n');
    line
}

/// The tallies of such a line, which has `most` of them at most.
pub fn from_line(line: &str, most: usize) -> Result<Vec<AppTally>, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let n_tallies = line.tallies.len();
    if n_tallies > most {
        return Err(format!("{n_tallies} tallies are more than {most}"));
    }
    let mut named = BTreeSet::new();
    for AppTally { app, tally } in &line.tallies {
        if !named.insert((app.as_str(), tally.release)) {
            return Err("a release of an app is there twice".to_owned());
        }
        let traffic = &tally.traffic;
        let mut counts = traffic.answers.into_iter().chain([traffic.unanswered]);
        if counts.any(|n| n > COUNT_MAX) || traffic.latencies.counts().any(|n| n > COUNT_MAX) {
            return Err(format!("a count of {app} is higher than {COUNT_MAX}"));
        }
    }
    Ok(line.tallies)
}

#[cfg(test)]
mod tests {
    use super::{AppTally, COUNT_MAX, from_line, is_one, to_line};
    use crate::latencies::Latencies;
    use crate::release_traffic::{ReleaseTraffic, Tally};
    use crate::{peer_loads, peer_table};
    use roost_model::name::AppName;

    fn tally(id: u64) -> AppTally {
        AppTally {
            app: AppName::parse("web").unwrap(),
            tally: Tally {
                id,
                release: 2,
                traffic: ReleaseTraffic {
                    answers: [0, 9, 0, 0, 1],
                    unanswered: 3,
                    latencies: Latencies::of([(7, 8), (131, 1)]),
                },
            },
        }
    }

    #[test]
    fn tallies_arrive_as_they_were_and_are_neither_loads_nor_tables() {
        let mut other = tally(u64::MAX);
        other.tally.release = 3;
        let tallies = vec![tally(1), other];
        let line = to_line(tallies.clone(), 2);
        assert!(is_one(&line) && line.matches('\n').count() == 1 && line.ends_with("}\n"));
        assert_eq!(from_line(&line, 2), Ok(tallies));
        assert_eq!(from_line(&to_line(vec![], 2), 2), Ok(vec![]));
        assert!(!is_one(&peer_loads::to_line(vec![], 2)));
        assert!(!is_one(&peer_table::to_line(&Default::default())));
    }

    #[test]
    fn what_a_newer_edge_adds_is_passed_over_and_what_is_malformed_refused() {
        let row = |answers: &str, latencies: &str| {
            format!(
                "{{\"tallies\":[{{\"app\":\"web\",\"id\":1,\"release\":2,\"answers\":{answers},\
                 \"unanswered\":3,\"latencies\":{latencies},\"new\":[1]}}],\"more\":{{}}}}"
            )
        };
        let good = row("[0,9,0,0,1]", "[[7,8],[131,1]]");
        assert_eq!(from_line(&good, 9), Ok(vec![tally(1)]));
        assert!(from_line(&good, 0).unwrap_err().contains("more than 0"));
        let twice = to_line(vec![tally(1), tally(2)], 2);
        assert!(from_line(&twice, 2).unwrap_err().contains("twice"));
        let too_high = format!("[0,{},0,0,0]", COUNT_MAX + 1);
        let error = from_line(&row(&too_high, "[]"), 9).unwrap_err();
        assert!(error.contains("a count of web is higher"), "{error}");
        let too_high = format!("[[1,{}]]", u64::MAX);
        for bad in [
            row("[0,9,0,0]", "[]"),
            row("[0,-9,0,0,1]", "[]"),
            row("[0,9,0,0,1]", "[[70000,1]]"),
            row("[0,9,0,0,1]", "[[1]]"),
            row("[0,9,0,0,1]", &too_high),
            "{}".to_owned(),
            "{\"tallies\":[{}]}".to_owned(),
        ] {
            assert!(from_line(&bad, 9).is_err(), "{bad}");
        }
        // A bucket that there is not counts as the last one.
        let beyond = from_line(&row("[0,9,0,0,1]", "[[65535,1]]"), 9).unwrap();
        let found = beyond[0]
            .tally
            .traffic
            .latencies
            .quantile_bounds(0.5)
            .unwrap();
        assert_eq!(found.at_most, None);
    }
}
