//! How far the edges of other nodes are: round-trip times in coarse classes.
//!
//! A round trip is a small request on the connection of the tables and its
//! answer; the shortest of the last few counts, since what delays one now and
//! then is no distance. Routes are derived anew when a node comes into another
//! class, and requests pay nothing. A class is left only when its bound is
//! passed by a quarter, so that a time at a bound does not go to and fro.

use crate::limits;
use std::collections::VecDeque;
use std::time::Duration;

/// A class of round-trip times: 0 is as near as the edge's own node.
pub(crate) type Distance = u8;

/// The class of times beyond all bounds ([`limits::RELAY_DISTANCES`]).
#[expect(clippy::cast_possible_truncation, reason = "there are a few bounds")]
pub(crate) const FARTHEST: Distance = limits::RELAY_DISTANCES.len() as Distance;

/// Round trips to one edge.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    last: VecDeque<Duration>,
    distance: Option<Distance>,
}

impl RoundTrips {
    /// Notes one. The class, if that is another one from now on.
    pub(crate) fn note(&mut self, time: Duration) -> Option<Distance> {
        self.last.truncate(limits::RELAY_ROUND_TRIPS - 1);
        self.last.push_front(time);
        let shortest = self.shortest()?;
        let distance = Some(class(shortest, self.distance));
        if distance == self.distance {
            return None;
        }
        self.distance = distance;
        distance
    }

    /// The shortest of the last few, as soon as there are some.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        let are_enough = self.last.len() >= limits::RELAY_ROUND_TRIPS_MIN;
        self.last.iter().min().copied().filter(|_| are_enough)
    }
}

/// The class of a time; the present one as long as its bounds are not passed clearly.
fn class(time: Duration, present: Option<Distance>) -> Distance {
    let passed = |quarters: u32| {
        let bounds = limits::RELAY_DISTANCES.iter();
        let n_passed = bounds.filter(|bound| time >= **bound / 4 * quarters);
        u8::try_from(n_passed.count()).unwrap_or(u8::MAX)
    };
    let (surely, exactly, perhaps) = (passed(5), passed(4), passed(3));
    present.map_or(exactly, |present| present.clamp(surely, perhaps))
}

#[cfg(test)]
mod tests {
    use super::{FARTHEST, RoundTrips, class};
    use crate::limits;
    use proptest::prelude::*;
    use std::time::Duration;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_time_is_in_the_class_between_its_bounds() {
        let times = [0, 4, 5, 24, 70, 199, 200, 9_999];
        let classes = times.map(|it| class(ms(it), None));
        assert_eq!(classes, [0, 0, 1, 2, 4, 5, 6, 6]);
        assert_eq!(class(Duration::MAX, None), FARTHEST);
    }

    #[test]
    fn the_shortest_of_the_last_few_counts_once_there_are_some() {
        let mut trips = RoundTrips::default();
        assert_eq!((trips.note(ms(1)), trips.note(ms(300))), (None, None));
        assert_eq!(
            (trips.note(ms(300)), trips.shortest()),
            (Some(0), Some(ms(1)))
        );
        // It counts until as many others have come, and then the longer way does.
        let later = (0..limits::RELAY_ROUND_TRIPS).map(|_| trips.note(ms(300)));
        let later: Vec<_> = later.flatten().collect();
        assert_eq!(later, [6]);
        // A shorter way is one at once.
        assert_eq!(trips.note(ms(30)), Some(3));
    }

    proptest! {
        #[test]
        fn a_class_is_near_the_exact_one_and_stays_while_the_time_varies_a_little(
            base in 0.5_f64..400.0,
            noise in proptest::collection::vec(0.85_f64..1.15, 1..50),
        ) {
            let mut classes = Vec::new();
            let mut present = None;
            for factor in noise {
                let time = Duration::from_secs_f64(base * factor / 1000.0);
                let now = class(time, present);
                let exact = class(time, None);
                prop_assert!(now.abs_diff(exact) <= 1);
                if present != Some(now) {
                    classes.push(now);
                }
                present = Some(now);
            }
            // It may have begun on the wrong side of a bound, but does not go to and fro.
            prop_assert!(classes.len() <= 2, "{classes:?}");
        }
    }
}
