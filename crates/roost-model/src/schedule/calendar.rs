//! Days of the Gregorian calendar in UTC, from the epoch to the year 9999.

use crate::time::Timestamp;

pub(super) const DAY_MS: u64 = 24 * 3_600 * 1_000;
const YEAR_MAX: u64 = 9_999;
/// Days from 1 March of the year 0 to the epoch.
const EPOCH_DAY: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: u64 = 146_097;

/// A day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: u64,
    /// From 1.
    pub(super) month: u8,
    /// From 1.
    pub(super) day: u8,
}

impl Date {
    /// The day of a point in time; none beyond the calendar.
    pub(super) fn of(at: Timestamp) -> Option<Self> {
        let date = Self::of_day(at.as_ms() / DAY_MS);
        (date.year <= YEAR_MAX).then_some(date)
    }

    /// The day so many days after the epoch. Years begin in March here, so that
    /// the leap day is the last, and months have 153 days in five.
    pub(super) fn of_day(day: u64) -> Self {
        let day = day + EPOCH_DAY;
        let (era, day_of_era) = (day / ERA_DAYS, day % ERA_DAYS);
        let n_leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
        // Leap days so far are taken out: every fourth, but one in a hundred, but one in four.
        let year_of_era = (day_of_era - n_leap_days) / 365;
        let day_of_year = day_of_era - days_before_year(year_of_era);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let (month, is_next_year) = match month_from_march {
            0..=9 => (month_from_march + 3, 0),
            _ => (month_from_march - 9, 1),
        };
        let small = |number| u8::try_from(number).expect("months and days are below 32");
        Self {
            year: era * 400 + year_of_era + is_next_year,
            month: small(month),
            day: small(day_of_month),
        }
    }

    /// Days from the epoch to here.
    pub(super) fn day_number(self) -> u64 {
        let (month, day) = (u64::from(self.month), u64::from(self.day));
        let (year, month_from_march) = match month {
            3.. => (self.year, month - 3),
            _ => (self.year - 1, month + 9),
        };
        let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
        let (era, year_of_era) = (year / 400, year % 400);
        era * ERA_DAYS + days_before_year(year_of_era) + day_of_year - EPOCH_DAY
    }

    /// From 0, which is Sunday.
    pub(super) fn weekday(self) -> u8 {
        // The epoch was a Thursday.
        let weekday = (self.day_number() + 4) % 7;
        u8::try_from(weekday).expect("below 7")
    }

    /// The first day of the next month.
    pub(super) fn next_month(self) -> Self {
        let (year, month) = match self.month {
            12 => (self.year + 1, 1),
            month => (self.year, month + 1),
        };
        Self {
            year,
            month,
            day: 1,
        }
    }

    /// Another day of the same month, the last one if it has no such day.
    pub(super) fn with_day(self, day: u8) -> Self {
        let day = day.min(days_of_month(self.year, self.month));
        Self { day, ..self }
    }

    /// This day at the time of day of another point in time.
    pub(super) fn at_time_of(self, other: Timestamp) -> Timestamp {
        let time_of_day = other.as_ms() % DAY_MS;
        Timestamp::from_ms(self.day_number() * DAY_MS + time_of_day)
    }
}

/// Days of an era before the year of it.
fn days_before_year(year_of_era: u64) -> u64 {
    year_of_era * 365 + year_of_era / 4 - year_of_era / 100
}

fn days_of_month(year: u64, month: u8) -> u8 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
