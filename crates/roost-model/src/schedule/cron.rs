//! Cron lines of five fields, as in crontab(5), in UTC.
//!
//! A field is a list of numbers, ranges and steps (`0,30`, `9-17`, `*/5`, `10-50/20`);
//! months and days of the week have names as well. Where neither day field begins
//! with `*`, a day that fits one of them is enough.

use super::ScheduleError;
use super::calendar::{DAY_MS, Date};
use crate::time::Timestamp;
use std::fmt;
use std::ops::RangeInclusive;

const MINUTE_MS: u64 = 60_000;
const MINUTES_PER_DAY: u64 = 24 * 60;
/// No line waits longer: 29 February on one weekday comes again after 40 years at most.
const DAYS_MAX: u64 = 41 * 366;

/// A cron line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cron {
    /// As it was written, with one space between fields.
    text: String,
    minutes: Numbers,
    hours: Numbers,
    days: Numbers,
    months: Numbers,
    /// From 0, which is Sunday.
    weekdays: Numbers,
    /// Whether a day has to fit both day fields.
    both_days: bool,
}

/// Numbers below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Numbers(u64);

impl Numbers {
    fn contains(self, number: u8) -> bool {
        self.0 & (1 << number) != 0
    }

    fn first_from(self, least: u8) -> Option<u8> {
        let rest = self.0 >> least;
        let gap = u8::try_from(rest.trailing_zeros()).ok()?;
        (rest != 0).then(|| least + gap)
    }
}

/// What a field may say.
struct Field {
    name: &'static str,
    range: RangeInclusive<u8>,
    /// Names of the numbers from the first on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field {
    name: "minute",
    range: 0..=59,
    names: &[],
};
const HOUR: Field = Field {
    name: "hour",
    range: 0..=23,
    names: &[],
};
const DAY: Field = Field {
    name: "day of month",
    range: 1..=31,
    names: &[],
};
const MONTH: Field = Field {
    name: "month",
    range: 1..=12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of week",
    range: 0..=7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"],
};

impl Cron {
    /// Reads the fields of a line.
    pub(super) fn parse(fields: &[&str]) -> Result<Self, ScheduleError> {
        let [minute, hour, day, month, weekday] = fields else {
            return Err(ScheduleError::FieldCount(fields.len()));
        };
        let weekdays = WEEKDAY.parse(weekday)?.0;
        let cron = Self {
            text: fields.join(" "),
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays: Numbers((weekdays | weekdays >> 7) & 0x7f),
            both_days: day.starts_with('*') || weekday.starts_with('*'),
        };
        match cron.next_after(Timestamp::from_ms(0)) {
            Some(_) => Ok(cron),
            None => Err(ScheduleError::Never),
        }
    }

    /// The first minute that it says after `after`.
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.as_ms() / MINUTE_MS + 1;
        let (mut day, mut minute) = (start / MINUTES_PER_DAY, start % MINUTES_PER_DAY);
        let last = day + DAYS_MAX;
        while day <= last {
            let date = Date::of(Timestamp::from_ms(day.checked_mul(DAY_MS)?))?;
            if !self.months.contains(date.month) {
                (day, minute) = (date.next_month().day_number(), 0);
                continue;
            }
            if self.fits_day(date)
                && let Some(minute) = self.minute_from(minute)
            {
                let minutes = day * MINUTES_PER_DAY + minute;
                return Some(Timestamp::from_ms(minutes * MINUTE_MS));
            }
            (day, minute) = (day + 1, 0);
        }
        None
    }

    fn fits_day(&self, date: Date) -> bool {
        let day = self.days.contains(date.day);
        let weekday = self.weekdays.contains(date.weekday());
        if self.both_days {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// The first minute of a day from `minute` on, counted from midnight.
    fn minute_from(&self, minute: u64) -> Option<u64> {
        let hour = u8::try_from(minute / 60).ok()?;
        let minute = u8::try_from(minute % 60).ok()?;
        let at = |hour: u8, minute: u8| u64::from(hour) * 60 + u64::from(minute);
        if self.hours.contains(hour)
            && let Some(minute) = self.minutes.first_from(minute)
        {
            return Some(at(hour, minute));
        }
        let hour = self.hours.first_from(hour + 1)?;
        Some(at(hour, self.minutes.first_from(0)?))
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Field {
    fn parse(&self, text: &str) -> Result<Numbers, ScheduleError> {
        let mut numbers = Numbers::default();
        for item in text.split(',') {
            let (range, step) = self.parse_item(item)?;
            for number in range.step_by(step) {
                numbers.0 |= 1 << number;
            }
        }
        Ok(numbers)
    }

    /// `*`, `5`, `1-5`, each but the second also with `/STEP`.
    fn parse_item(&self, item: &str) -> Result<(RangeInclusive<u8>, usize), ScheduleError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let is_number = range != "*" && !range.contains('-');
        let range = match range.split_once('-') {
            _ if range == "*" => self.range.clone(),
            Some((first, last)) => self.parse_range(first, last)?,
            None => {
                let number = self.parse_number(range)?;
                number..=number
            }
        };
        let Some(step) = step else {
            return Ok((range, 1));
        };
        if is_number {
            let last = self.range.end();
            return Err(self.fault(format!(
                "`{item}` has a step without a range: write `{}-{last}/{step}`",
                range.start(),
                item = item.escape_debug(),
                step = step.escape_debug()
            )));
        }
        let steps = 1..=usize::from(*self.range.end());
        match digits(step).map(usize::from) {
            Some(step) if steps.contains(&step) => Ok((range, step)),
            Some(_) | None => Err(self.fault(format!(
                "the step `{}` is not a number from 1 to {}",
                step.escape_debug(),
                steps.end()
            ))),
        }
    }

    fn parse_range(&self, first: &str, last: &str) -> Result<RangeInclusive<u8>, ScheduleError> {
        let (low, mut high) = (self.parse_number(first)?, self.parse_number(last)?);
        // A week that ends on Sunday.
        if self.range == WEEKDAY.range && high == 0 && low > 0 {
            high = 7;
        }
        if low > high {
            let range = format!("{first}-{last}");
            return Err(self.fault(format!(
                "the range `{range}` ends before it begins: write it as two, with a comma"
            )));
        }
        Ok(low..=high)
    }

    fn parse_number(&self, text: &str) -> Result<u8, ScheduleError> {
        let by_name = || {
            let lower = text.to_ascii_lowercase();
            let position = self.names.iter().position(|name| *name == lower)?;
            Some(self.range.start() + u8::try_from(position).ok()?)
        };
        let number = digits(text).or_else(by_name);
        number
            .filter(|number| self.range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (self.range.start(), self.range.end());
                let names = match self.names {
                    [first, .., last] if *first != *last => format!(", or {first} to {last}"),
                    [first, .., last, _] => format!(", or {first} to {last}"),
                    _ => String::new(),
                };
                self.fault(format!(
                    "`{}` is not a number from {least} to {most}{names}",
                    text.escape_debug()
                ))
            })
    }

    fn fault(&self, problem: String) -> ScheduleError {
        ScheduleError::Field {
            field: self.name,
            problem,
        }
    }
}

/// A number without a sign; as long as it likes, if it is small.
fn digits(text: &str) -> Option<u8> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok())?
}
