//! Times and durations as kubectl writes them.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A duration in at most two units: `45s`, `3m20s`, `5d3h`. The steps are those
/// of `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    let two = |large: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    if seconds < -1 {
        "<invalid>".into()
    } else if seconds < 0 {
        "0s".into()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        two(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

pub(super) fn age(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    human_duration((now - time).num_seconds())
}

pub(super) fn parse(value: Option<&Value>) -> Option<DateTime<Utc>> {
    let text = value?.as_str()?;
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.with_timezone(&Utc))
}

/// The age of a time in an object; `<unknown>` when it is not there.
pub(super) fn age_of(value: Option<&Value>, now: DateTime<Utc>) -> String {
    parse(value).map_or_else(|| "<unknown>".into(), |time| age(time, now))
}
