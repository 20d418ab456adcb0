//! A split: which requests of an app go to a release that is tried out beside another one.
//!
//! It is a label of the machines of that release, so that it goes where they go: to the edge by
//! the worker's table, to other edges, through a restart, and away with them.

use crate::client_header::says_something;
use crate::name::RegionCode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most regions of a split.
pub const REGIONS_MAX: usize = 32;
/// Longest name, and longest value, of its header.
pub const HEADER_BYTES_MAX: usize = 256;

/// What machines with this label get of the app's new requests; the others get the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Split {
    /// This share of all, in percent.
    pub percent: u8,
    /// Whether the share is one of clients: all requests of a client go the same way.
    #[serde(default)]
    pub by_client: bool,
    /// All requests that come to the edge in these regions.
    #[serde(default)]
    pub regions: Vec<RegionCode>,
    /// All requests with this header.
    #[serde(default)]
    pub header: Option<HeaderMatch>,
}

/// A header with a certain value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Its name, in lower case.
    pub name: String,
    /// Its value, to the letter.
    pub value: String,
}

/// Why something is no split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SplitError(String);

impl HeaderMatch {
    /// Reads `name: value`.
    pub fn parse(text: &str) -> Result<Self, SplitError> {
        let error = |problem: &str| Err(SplitError(format!("header {problem}")));
        let Some((name, value)) = text.split_once(':') else {
            return error("is not of the form `name: value`");
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return error("has no valid name before the colon");
        }
        if value.is_empty() || !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
            return error("has no value of printable ASCII after the colon");
        }
        if name.len().max(value.len()) > HEADER_BYTES_MAX {
            return error("is longer than 256 characters");
        }
        if !says_something(&name) {
            return error(&format!(
                "`{name}` is one that the edge takes off or sets itself, so that no client's is \
                 looked at; use another name"
            ));
        }
        Ok(Self {
            name,
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

impl Split {
    /// Fails unless some requests may go to the release.
    pub fn checked(self) -> Result<Self, SplitError> {
        let error = |problem: String| Err(SplitError(problem));
        if self.percent > 100 {
            return error(format!("percent is {}, and 100 is the most", self.percent));
        }
        if self.percent == 0 && self.regions.is_empty() && self.header.is_none() {
            return error("percent is 0, and there is no header or region either".to_owned());
        }
        if self.regions.len() > REGIONS_MAX {
            let n = self.regions.len();
            return error(format!(
                "there are {n} regions, and {REGIONS_MAX} is the most"
            ));
        }
        Ok(self)
    }

    /// Whether the release gets a request that has come to an edge in this region. `draw` is a
    /// number by chance: of the request, or, with `by_client`, of its client.
    pub fn takes(
        &self,
        region: &RegionCode,
        has: impl FnOnce(&HeaderMatch) -> bool,
        draw: impl FnOnce() -> u64,
    ) -> bool {
        self.header.as_ref().is_some_and(has)
            || self.regions.contains(region)
            || draw() % 100 < u64::from(self.percent)
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Self, SplitError> {
        let mut split = Self::default();
        let mut rest = Some(text);
        while let Some(text) = rest {
            let unknown = || SplitError(format!("`{text}` is no part of a split"));
            // A header is the last part: its value may hold anything.
            if let Some(header) = text.strip_prefix("header=") {
                split.header = Some(HeaderMatch::parse(header)?);
                break;
            }
            let (part, after) = text
                .split_once(';')
                .map_or((text, None), |(part, after)| (part, Some(after)));
            match part.split_once('=').ok_or_else(unknown)? {
                ("percent", number) => split.percent = number.parse().map_err(|_| unknown())?,
                ("by", "client") => split.by_client = true,
                ("regions", list) => {
                    let regions = list.split(',').map(RegionCode::parse);
                    split.regions = regions.collect::<Result<_, _>>().map_err(|_| unknown())?;
                }
                _ => return Err(unknown()),
            }
            rest = after;
        }
        split.checked()
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "percent={}", self.percent)?;
        if self.by_client {
            f.write_str(";by=client")?;
        }
        if !self.regions.is_empty() {
            let regions: Vec<&str> = self.regions.iter().map(RegionCode::as_str).collect();
            write!(f, ";regions={}", regions.join(","))?;
        }
        match &self.header {
            Some(header) => write!(f, ";header={header}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderMatch, Split};
    use crate::name::RegionCode;
    use proptest::prelude::*;

    fn region(code: &str) -> RegionCode {
        RegionCode::parse(code).unwrap()
    }

    #[test]
    fn header_and_region_decide_before_chance_does() {
        let split = Split {
            percent: 10,
            regions: vec![region("fra")],
            header: Some(HeaderMatch::parse("X-Canary : 1; a=b").unwrap()),
            ..Split::default()
        };
        let (ams, fra) = (region("ams"), region("fra"));
        assert!(split.takes(&ams, |header| header.value == "1; a=b", || 99));
        assert!(split.takes(&fra, |_| false, || 99));
        let n_taken = (0..1000).filter(|n| split.takes(&ams, |_| false, || *n));
        assert_eq!(n_taken.count(), 100);
    }

    #[test]
    fn what_gives_the_release_nothing_or_is_none_is_refused() {
        for bad in [
            "",
            "percent=0",
            "percent=101",
            "percent=-1",
            "percent=5;by=moon",
            "percent=5;regions=Not OK",
            "percent=5;header=x",
            "percent=5;header=x y: 1",
            "percent=5;header=x:",
            "percent=5;header=TE: trailers",
            "percent=5;header=expect: 100-continue",
            "percent=5;header=Fly-Client-IP: 1",
            "percent=5;header=roost-x: 1",
            "percent=5;header=X-Forwarded-For: 1",
            "percent=5;header=connection: x",
            "percent=5;else",
        ] {
            assert!(Split::parse(bad).is_err(), "{bad}");
        }
        assert!(Split::parse("percent=0;header=x: 1").is_ok());
    }

    proptest! {
        #[test]
        fn a_split_is_read_as_it_was_written(
            percent in 1_u8..=100,
            by_client in any::<bool>(),
            regions in prop::collection::vec("[a-z]{3}", 0..4),
            header in prop::option::of(("x-[a-z-]{0,8}", "[!-~]([ -~]{0,9}[!-~])?")),
        ) {
            let split = Split {
                percent,
                by_client,
                regions: regions.iter().map(|code| region(code)).collect(),
                header: header.map(|(name, value)| HeaderMatch { name, value }),
            };
            prop_assert_eq!(Split::parse(&split.to_string()), Ok(split));
        }
    }
}
