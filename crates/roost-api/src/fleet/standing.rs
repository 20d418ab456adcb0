//! What the silence of a node means. Pure.

use crate::limits;
use std::time::Duration;

/// How far a node is to be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It answered a moment ago.
    Answers,
    /// It gets no new machines; what it has is left alone.
    Suspect,
    /// What has to run is started elsewhere.
    Lost,
}

/// The standing of a node that has owed an answer for so long.
pub(crate) fn standing(silent_for: Duration) -> Standing {
    if silent_for >= limits::LOST_AFTER {
        Standing::Lost
    } else if silent_for >= limits::SUSPECT_AFTER {
        Standing::Suspect
    } else {
        Standing::Answers
    }
}

#[cfg(test)]
mod tests {
    use super::{Standing, standing};
    use crate::limits;
    use std::time::Duration;

    #[test]
    fn a_node_is_suspect_before_it_is_lost_and_one_missed_answer_is_nothing() {
        assert_eq!(standing(Duration::ZERO), Standing::Answers);
        assert_eq!(standing(limits::ASK_TIMEOUT), Standing::Answers);
        assert_eq!(standing(limits::SUSPECT_AFTER), Standing::Suspect);
        assert_eq!(standing(limits::LOST_AFTER), Standing::Lost);
        // A creation that was on its way when the node fell silent has ended by then.
        assert!(limits::LATE_CALL_MAX <= limits::LOST_AFTER);
    }
}
