//! Schedules against another calendar (jiff) and against a slow search.

use super::{Schedule, ScheduleError};
use crate::time::Timestamp;
use jiff::Span;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// The last instant of the year 9999.
const CALENDAR_END: u64 = 253_402_300_799_999;

fn at(text: &str) -> Timestamp {
    let datetime: DateTime = text.parse().unwrap();
    let zoned = datetime.to_zoned(TimeZone::UTC).unwrap();
    Timestamp::from_ms(u64::try_from(zoned.timestamp().as_millisecond()).unwrap())
}

fn civil(at: Timestamp) -> DateTime {
    let ms = i64::try_from(at.as_ms()).unwrap();
    let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap();
    timestamp.to_zoned(TimeZone::UTC).datetime()
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The next three times.
fn times(text: &str, anchor: &str, after: &str) -> Vec<String> {
    let (schedule, anchor) = (schedule(text), at(anchor));
    let mut from = at(after);
    let next = std::iter::from_fn(|| {
        from = schedule.next_after(anchor, from)?;
        Some(civil(from).to_string())
    });
    next.take(3).collect()
}

#[test]
fn periods_are_counted_from_the_anchor() {
    let anchor = "2026-01-31T10:20:30";
    assert_eq!(
        times("hourly", anchor, anchor),
        [
            "2026-01-31T11:20:30",
            "2026-01-31T12:20:30",
            "2026-01-31T13:20:30"
        ]
    );
    assert_eq!(
        times("weekly", anchor, "2026-02-07T10:20:29"),
        [
            "2026-02-07T10:20:30",
            "2026-02-14T10:20:30",
            "2026-02-21T10:20:30"
        ]
    );
    // The last day of a month that has no such day.
    assert_eq!(
        times("monthly", anchor, anchor),
        [
            "2026-02-28T10:20:30",
            "2026-03-31T10:20:30",
            "2026-04-30T10:20:30"
        ]
    );
    // A clock that was set back since the machine was created.
    assert_eq!(
        times("daily", anchor, "2020-01-01T00:00:00")[0],
        "2020-01-01T10:20:30"
    );
}

#[test]
fn cron_lines_mean_what_crontab_says() {
    let next = |line, after| times(line, after, after)[0].clone();
    let sunday = "2026-11-22T14:30:00";
    for (line, expected) in [
        ("* * * * *", "2026-11-22T14:31:00"),
        ("*/20 * * * *", "2026-11-22T14:40:00"),
        ("0 0 * * *", "2026-11-23T00:00:00"),
        ("15,45 9-17/2 * * *", "2026-11-22T15:15:00"),
        ("30 14 22 11 *", "2027-11-22T14:30:00"),
        ("0 4 * * MON", "2026-11-23T04:00:00"),
        ("0 4 * * 7", "2026-11-29T04:00:00"),
        ("0 4 * jan-mar fri-sun", "2027-01-01T04:00:00"),
        ("0 0 29 feb *", "2028-02-29T00:00:00"),
        // Either day is enough.
        ("0 0 1 * wed", "2026-11-25T00:00:00"),
        // A field that begins with a star asks for both.
        ("0 0 */2 * wed", "2026-11-25T00:00:00"),
        ("0 0 */2 * thu", "2026-12-03T00:00:00"),
    ] {
        assert_eq!(next(line, sunday), expected, "{line}");
    }
    assert_eq!(
        next("0 0 29 2 *", "2096-02-29T00:00:00"),
        "2104-02-29T00:00:00"
    );
    assert_eq!(
        next("0 0 29 2 */7", "2072-02-29T00:00:00"),
        "2088-02-29T00:00:00"
    );
}

#[test]
fn what_is_wrong_is_said_of_the_field_that_it_is_in() {
    for (text, expected) in [
        ("dayly", "did you mean `daily`?"),
        ("@daily", "did you mean `daily`?"),
        ("", "this has 0"),
        ("* * * *", "this has 4"),
        ("0 0 * * * *", "this has 6"),
        ("60 * * * *", "minute: `60` is not a number from 0 to 59"),
        ("* 24 * * *", "hour: `24` is not a number from 0 to 23"),
        (
            "* * 0 * *",
            "day of month: `0` is not a number from 1 to 31",
        ),
        (
            "* * * 13 *",
            "month: `13` is not a number from 1 to 12, or jan to dec",
        ),
        (
            "* * * * 8",
            "day of week: `8` is not a number from 0 to 7, or sun to sat",
        ),
        ("* * L * *", "day of month: `L` is not a number"),
        ("* * ? * *", "day of month: `?` is not a number"),
        ("-5 * * * *", "minute: `` is not a number"),
        ("+5 * * * *", "minute: `+5` is not a number"),
        (", * * * *", "minute: `` is not a number"),
        ("5/15 * * * *", "write `5-59/15`"),
        ("*/0 * * * *", "the step `0` is not a number from 1 to 59"),
        ("*/999 * * * *", "the step `999` is not"),
        ("30-10 * * * *", "`30-10` ends before it begins"),
        ("0 0 31 2,4 *", "day of month: none of its months"),
        ("\u{1b}[2J * * * *", r"minute: `\u{1b}[2J` is not a number"),
    ] {
        let error = Schedule::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let long = format!("{} * * * *", "0,".repeat(200));
    assert!(matches!(
        Schedule::parse(&long),
        Err(ScheduleError::TooLong(_))
    ));
}

#[test]
fn the_end_of_the_calendar_ends_every_schedule() {
    let end = Timestamp::from_ms(CALENDAR_END);
    let last = Timestamp::from_ms(u64::MAX);
    for text in ["hourly", "daily", "weekly", "monthly", "* * * * *"] {
        for after in [end, last] {
            for anchor in [Timestamp::from_ms(0), end, last] {
                assert_eq!(schedule(text).next_after(anchor, after), None, "{text}");
                assert_eq!(schedule(text).due(anchor, None, after), None, "{text}");
            }
        }
    }
}

#[test]
fn a_time_that_was_missed_is_due_once_and_then_the_next_one() {
    let (hourly, start) = (schedule("hourly"), at("2026-01-01T00:00:00"));
    let first = hourly.due(start, None, start).unwrap();
    assert_eq!(first, start.after(HOUR));
    // Three days later.
    let now = start.after(3 * DAY + MINUTE);
    assert_eq!(hourly.due(start, Some(first), now), Some(first));
    let next = hourly.next_after(start, now).unwrap();
    assert_eq!(next, start.after(3 * DAY + HOUR));
    assert_eq!(hourly.due(start, Some(next), now), Some(next));
}

#[test]
fn a_clock_set_back_brings_no_time_twice_and_does_not_stop_the_schedule() {
    let (hourly, start) = (schedule("hourly"), at("2026-01-01T00:00:00"));
    let now = start.after(10 * DAY);
    let next = hourly.next_after(start, now).unwrap();
    // A little: the time that has just been is not due again.
    let back = Timestamp::from_ms(now.as_ms() - 500);
    assert_eq!(hourly.due(start, Some(next), back), Some(next));
    // By days: what was recorded is days ahead.
    let back = start.after(3 * DAY + MINUTE);
    assert_eq!(
        hourly.due(start, Some(next), back),
        Some(start.after(3 * DAY + HOUR))
    );
}

/// A part of a cron line, and the numbers that it means.
fn field(least: u8, most: u8) -> impl Strategy<Value = (String, Vec<u8>)> {
    let range = (least..=most, least..=most).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let step = 1..=most.max(1);
    prop_oneof![
        Just(("*".to_owned(), (least..=most).collect())),
        (least..=most).prop_map(|number| (number.to_string(), vec![number])),
        step.clone().prop_map(move |step| {
            let numbers = (least..=most).step_by(step.into()).collect();
            (format!("*/{step}"), numbers)
        }),
        (range, step).prop_map(|((first, last), step)| {
            let numbers = (first..=last).step_by(step.into()).collect();
            (format!("{first}-{last}/{step}"), numbers)
        }),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_reads_back(text in "[ -~]{0,40}|[0-9*,/\\- a-z]{0,40}") {
        if let Ok(schedule) = Schedule::parse(&text) {
            prop_assert_eq!(Schedule::parse(&schedule.to_string()), Ok(schedule));
        }
    }

    #[test]
    fn a_period_goes_on_from_its_anchor_for_ever(
        which in 0..4_usize, anchor in 0..CALENDAR_END / 2, later in 0..CALENDAR_END / 4,
    ) {
        let schedule = schedule(Schedule::WORDS[which]);
        let (anchor, after) = (Timestamp::from_ms(anchor), Timestamp::from_ms(anchor + later));
        let next = schedule.next_after(anchor, after).unwrap();
        prop_assert!(next > after);
        prop_assert!(next.since(after) <= 31 * DAY);
        let unit = [Span::new().hours(1), Span::new().days(1), Span::new().weeks(1)];
        match unit.get(which) {
            Some(_) => {
                let length = [HOUR, DAY, 7 * DAY][which];
                prop_assert!(next.since(after) <= length);
                prop_assert_eq!(next.since(anchor).as_millis() % length.as_millis(), 0);
            }
            None => {
                let (first, next) = (civil(anchor), civil(next));
                let months = i64::from(next.year() - first.year()) * 12
                    + i64::from(next.month() - first.month());
                prop_assert_eq!(first.checked_add(Span::new().months(months)).unwrap(), next);
            }
        }
    }

    #[test]
    fn a_cron_line_is_due_at_the_first_minute_that_fits(
        (minute, minutes) in field(0, 59),
        (hour, hours) in field(0, 23),
        (day, days) in field(1, 31),
        (month, months) in field(1, 12),
        (weekday, weekdays) in field(0, 6),
        after in 0..4_000_000_000_000_u64,
    ) {
        let line = format!("{minute} {hour} {day} {month} {weekday}");
        let both = day.starts_with('*') || weekday.starts_with('*');
        let fits_day = |date: jiff::civil::Date| {
            let number = |number: i8| u8::try_from(number).unwrap();
            let day = days.contains(&number(date.day()));
            let of_week = number(date.weekday().to_sunday_zero_offset());
            let weekday = weekdays.contains(&of_week);
            months.contains(&number(date.month())) && if both { day && weekday } else { day || weekday }
        };
        let after = Timestamp::from_ms(after);
        let Ok(schedule) = Schedule::parse(&line) else {
            // Only days that do not exist are refused.
            let mut date = jiff::civil::date(1972, 1, 1);
            while date.year() < 1976 {
                prop_assert!(!fits_day(date), "{} on {}", line, date);
                date = date.tomorrow().unwrap();
            }
            return Ok(());
        };
        let next = schedule.next_after(after, after).unwrap();
        prop_assert!(next > after);
        let found = civil(next);
        prop_assert_eq!((found.second(), found.subsec_nanosecond()), (0, 0));
        // A search by days, and within the days by minutes.
        let mut date = civil(after).date();
        let expected = loop {
            let fitting = (0..24 * 60_i16).map(|minute| date.at(
                i8::try_from(minute / 60).unwrap(), i8::try_from(minute % 60).unwrap(), 0, 0,
            ));
            let first = fits_day(date).then(|| fitting.into_iter().find(|datetime| {
                *datetime > civil(after)
                    && minutes.contains(&u8::try_from(datetime.minute()).unwrap())
                    && hours.contains(&u8::try_from(datetime.hour()).unwrap())
            })).flatten();
            match first {
                Some(datetime) => break datetime,
                None => date = date.tomorrow().unwrap(),
            }
        };
        prop_assert_eq!(found, expected, "{}", line);
    }

    #[test]
    fn whatever_the_clock_does_the_next_start_is_at_most_two_periods_away(
        which in 0..4_usize, anchor in 0..CALENDAR_END,
        clock in prop::collection::vec(0..CALENDAR_END / 2, 1..20),
    ) {
        let schedule = schedule(Schedule::WORDS[which]);
        let anchor = Timestamp::from_ms(anchor);
        let mut recorded = None;
        for now in clock.into_iter().map(Timestamp::from_ms) {
            let due = schedule.due(anchor, recorded, now).unwrap();
            let next = schedule.next_after(anchor, now).unwrap();
            prop_assert!(due <= schedule.next_after(anchor, next).unwrap());
            prop_assert!(due.since(now) <= 62 * DAY);
            // At most one start for each look at the clock.
            recorded = Some(if due <= now { next } else { due });
        }
    }
}
