//! When a machine is started by itself: each hour, day, week or month, or by a cron line.
//!
//! All times are in UTC. Periods are counted from an anchor, the creation of the
//! machine; a cron line says minutes of the calendar.

mod calendar;
mod cron;

#[cfg(test)]
mod tests;

use crate::limits;
use crate::nearest::nearest;
use crate::time::Timestamp;
use calendar::Date;
use cron::Cron;
use std::fmt;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// When a machine is started by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Rule);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Every(Period),
    Cron(Box<Cron>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Hour,
    Day,
    Week,
    Month,
}

impl Period {
    const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
        }
    }

    /// The first time after `after` that is whole periods from the anchor, before
    /// it as well: clocks are set back.
    fn next_after(self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        let length = match self {
            Self::Hour => HOUR,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => return next_month_after(anchor, after),
        };
        let length = u64::try_from(length.as_millis()).ok()?;
        let period = after.as_ms() - after.as_ms() % length;
        let in_period = period.checked_add(anchor.as_ms() % length)?;
        let is_over = in_period <= after.as_ms();
        let next = in_period.checked_add(if is_over { length } else { 0 })?;
        Some(Timestamp::from_ms(next))
    }
}

/// The anchor's day of the month and time of day, or the last day of a month
/// that has no such day.
fn next_month_after(anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
    let (first, now) = (Date::of(anchor)?, Date::of(after)?);
    [now, now.next_month()]
        .map(|month| month.with_day(first.day).at_time_of(anchor))
        .into_iter()
        .find(|at| *at > after)
}

impl Schedule {
    /// Words for periods, for messages and completion.
    pub const WORDS: [&'static str; 4] = ["hourly", "daily", "weekly", "monthly"];

    /// Reads a word for a period, or the five fields of a cron line.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > limits::SCHEDULE_BYTES_MAX {
            return Err(ScheduleError::TooLong(text.len()));
        }
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        if let [word] = fields[..] {
            let period = Period::ALL.into_iter().find(|each| each.as_str() == word);
            let unknown = || ScheduleError::UnknownWord {
                word: word.escape_debug().to_string(),
                nearest: nearest(word, Self::WORDS),
            };
            return Ok(Self(Rule::Every(period.ok_or_else(unknown)?)));
        }
        Cron::parse(&fields).map(|cron| Self(Rule::Cron(Box::new(cron))))
    }

    /// The first time after `after`. None at the end of the calendar, the year 9999.
    pub fn next_after(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        let next = match &self.0 {
            Rule::Every(period) => period.next_after(anchor, after),
            Rule::Cron(cron) => cron.next_after(after),
        };
        next.filter(|at| Date::of(*at).is_some())
    }

    /// When it is due, if `recorded` is what was found at the last look: a time
    /// that is over is due at once, however many have gone by since.
    ///
    /// A clock that went back by less than a period brings no time twice. When it
    /// went back by more, what is recorded is far ahead, and times are as the
    /// clock has them now.
    pub fn due(
        &self,
        anchor: Timestamp,
        recorded: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let next = self.next_after(anchor, now);
        let last_believed = next.and_then(|next| self.next_after(anchor, next));
        match (recorded, last_believed) {
            (Some(recorded), Some(last)) if recorded > last => next,
            (Some(recorded), _) => Some(recorded),
            (None, _) => next,
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Every(period) => f.write_str(period.as_str()),
            Rule::Cron(cron) => cron.fmt(f),
        }
    }
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is too long.
    #[error("has {0} bytes, and {max} are the most", max = limits::SCHEDULE_BYTES_MAX)]
    TooLong(usize),
    /// One word that is none of those known.
    #[error(
        "`{word}` is not one of {}, nor the five fields of a cron line{}",
        Schedule::WORDS.join(", "),
        nearest.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default()
    )]
    UnknownWord {
        /// The word.
        word: String,
        /// What it may have been meant to be.
        nearest: Option<&'static str>,
    },
    /// Not five fields.
    #[error(
        "a cron line has five fields (minute, hour, day of month, month, day of week), this has {0}"
    )]
    FieldCount(usize),
    /// A field is wrong.
    #[error("{field}: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Days that do not exist, such as 31 February.
    #[error("day of month: none of its months has such a day, so that it would never be due")]
    Never,
}
