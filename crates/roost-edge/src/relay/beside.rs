//! What goes on a stream of tables beside them: loads and tallies, each for those
//! edges that ask for it.

use crate::limits;
use crate::relay::wire::Fields;
use crate::shared::Shared;
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;
use tokio::time::Instant;

/// What a stream of tables brings beside them. An edge that does not know of a kind has not asked
/// for it, and is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beside {
    /// The loads of machines.
    loads: bool,
    /// The tallies of releases.
    tallies: bool,
}

impl Beside {
    /// Asks for all.
    pub(crate) fn all() -> HeaderValue {
        HeaderValue::from_static("1;with=loads;tallies=1")
    }

    /// Whether there is something to bring.
    pub(crate) fn is_anything(self) -> bool {
        self.loads || self.tallies
    }

    /// What another edge asks for.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let fields = Fields::of(headers);
        let has = |name, value| {
            let fields = fields.as_ref();
            fields.is_ok_and(|fields| fields.text(name) == Ok(value))
        };
        Self {
            loads: has("with", "loads"),
            tallies: has("tallies", "1"),
        }
    }
}

/// What the other edge knows beside the tables.
pub(crate) struct ToldBeside {
    wanted: Beside,
    /// The loads, since the last table, and since when.
    loads: Option<(Arc<str>, Instant)>,
    tallies: Option<Arc<str>>,
}

impl ToldBeside {
    /// Nothing yet, of what is wanted.
    pub(crate) fn new(wanted: Beside) -> Self {
        Self {
            wanted,
            loads: None,
            tallies: None,
        }
    }

    /// It has got a table, and hears of the loads anew.
    pub(crate) fn loads_again(&mut self) {
        self.loads = None;
    }

    /// The lines that it is to be told now.
    pub(crate) fn next(&mut self, shared: &Shared) -> Vec<Arc<str>> {
        let mut lines = Vec::new();
        if self.wanted.loads {
            let line = shared.loads.line(&shared.router);
            let knows = |(told, at): &(Arc<str>, Instant)| {
                Arc::ptr_eq(told, &line) && at.elapsed() < limits::RELAY_LOADS_REPEAT
            };
            if !self.loads.as_ref().is_some_and(knows) {
                self.loads = Some((line.clone(), Instant::now()));
                lines.push(line);
            }
        }
        if self.wanted.tallies {
            let line = shared.own_tallies.line(&shared.router);
            let knows = |told: &Arc<str>| Arc::ptr_eq(told, &line);
            if !self.tallies.as_ref().is_some_and(knows) {
                self.tallies = Some(line.clone());
                lines.push(line);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::Beside;
    use crate::relay::wire::RELAY;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn loads_and_tallies_are_for_those_that_ask_for_them() {
        let of = |value| Beside::of(&HeaderMap::from_iter([(RELAY, value)]));
        let nothing = Beside {
            loads: false,
            tallies: false,
        };
        let all = of(Beside::all());
        assert!(all.loads && all.tallies);
        // An edge of a version before asks for those only.
        let of_text = |text| of(HeaderValue::from_static(text));
        let loads = Beside {
            loads: true,
            ..nothing
        };
        assert_eq!(of_text("1;with=loads"), loads);
        assert_eq!(Beside::of(&HeaderMap::new()), nothing);
        for other in [
            "1;with=",
            "1;with=colours",
            "2;with=loads;tallies=1",
            "loads",
        ] {
            assert_eq!(of_text(other), nothing, "{other}");
        }
        assert!(!nothing.is_anything());
    }
}
