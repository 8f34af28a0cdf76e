//! What a request for a log asks for (`PodLogOptions`).

use cumulo_node::LogOptions;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::proxy::flag;

/// Reads the query of a log request.
///
/// # Errors
/// A sentence about the parameter that cannot be read.
pub fn log_options(pairs: &[(String, String)], now: Timestamp) -> Result<LogOptions, String> {
    let text = |name: &str| {
        pairs
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    let number = |name: &str| -> Result<Option<u64>, String> {
        text(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| format!("{name} must be a whole number, not {value:?}"))
            })
            .transpose()
    };
    let since = match (number("sinceSeconds")?, text("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err("at most one of sinceTime or sinceSeconds may be given".to_owned());
        }
        (Some(seconds), None) => {
            let seconds =
                i64::try_from(seconds).map_err(|_| "sinceSeconds is too large".to_owned())?;
            now.checked_sub(SignedDuration::from_secs(seconds)).ok()
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| {
            format!("sinceTime must be a time such as 2026-01-31T12:00:00Z, not {time:?}")
        })?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: flag(pairs, "follow"),
        previous: flag(pairs, "previous"),
        timestamps: flag(pairs, "timestamps"),
        since,
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<LogOptions, String> {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        log_options(&super::super::proxy::pairs(Some(query)), now)
    }

    #[test]
    fn log_options_are_read() {
        let options = read("follow=true&tailLines=5&sinceSeconds=60").unwrap();
        assert!(options.follow && !options.previous);
        assert_eq!(options.tail_lines, Some(5));
        assert_eq!(options.since, Some("2026-01-31T11:59:00Z".parse().unwrap()));
        insta::assert_snapshot!(read("tailLines=x").unwrap_err(), @r#"tailLines must be a whole number, not "x""#);
        assert!(read("sinceSeconds=1&sinceTime=2026-01-31T12:00:00Z").is_err());
    }
}
