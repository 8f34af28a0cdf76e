//! Times: ISO 8601 in, parts of the UTC calendar out.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::TimePart;

/// Reads an instant from text, in microseconds since 1970. Without an offset it
/// is taken as UTC. `None` when it is no date or time.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.timestamp_micros());
    }
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f%:z",
        "%Y-%m-%d %H:%M:%S%.f%:z",
        "%Y-%m-%d %H:%M:%S%.f%#z",
    ] {
        if let Ok(instant) = DateTime::parse_from_str(text, format) {
            return Some(instant.timestamp_micros());
        }
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    for format in [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_micros());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A part of an instant in UTC.
pub(crate) fn part(micros: i64, part: TimePart) -> f64 {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let minutes = micros.rem_euclid(MICROS_PER_DAY) / 60_000_000;
    match part {
        TimePart::Year => civil(days).0 as f64,
        TimePart::Month => civil(days).1 as f64,
        TimePart::Day => civil(days).2 as f64,
        // 1970-01-01 was a Thursday.
        TimePart::Weekday => (days + 3).rem_euclid(7) as f64,
        TimePart::Hour => (minutes / 60) as f64,
        TimePart::Minute => (minutes % 60) as f64,
    }
}

/// Year, month and day of a day since 1970 in the Gregorian calendar
/// (`civil_from_days`, H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
