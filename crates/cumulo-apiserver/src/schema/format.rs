//! Formats and patterns of strings.

use serde_json::{Value, json};
use serde_json_path::JsonPath;

/// A compiled `pattern`.
///
/// The JSONPath library's `search` function is what is at hand for regular
/// expressions (RFC 9535, section 2.4.7); it finds the pattern anywhere in the
/// text, as a schema's `pattern` is meant to.
#[derive(Debug)]
pub(crate) struct Pattern {
    source: Box<str>,
    search: JsonPath,
}

impl Pattern {
    /// Compiles a pattern.
    pub(super) fn new(source: &str) -> Result<Self, String> {
        let compile = |pattern: &str| {
            let literal = Value::String(pattern.into()).to_string();
            JsonPath::parse(&format!("$[?search(@, {literal})]")).map_err(|e| e.to_string())
        };
        let pattern = Self {
            source: source.into(),
            search: compile(source)?,
        };
        // `search` takes a broken expression for one that matches nothing. One
        // that may also be empty matches everything, unless it is broken.
        let lenient = Self {
            source: source.into(),
            search: compile(&format!("{source}|"))?,
        };
        if lenient.matches("") {
            Ok(pattern)
        } else {
            Err("must be a valid regular expression".into())
        }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        !self.search.query(&json!([text])).is_empty()
    }
}

/// Whether `text` has the format. Formats that are not known hold, as in
/// Kubernetes.
pub(super) fn holds(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        "date" => chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "uri" => url::Url::parse(text).is_ok() || text.starts_with('/'),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "duration" => is_duration(text),
        "mac" => is_mac(text),
        _ => true,
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && is_hostname(host))
}

fn is_hostname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || c == b'-')
        })
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8)
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// A Go duration (`1h30m`, `250ms`) or a plain number with a long unit
/// (`3 weeks`), which is what Kubernetes takes for `format: duration`.
pub(super) fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim();
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    const UNITS: &[&str] = &[
        "ns",
        "us",
        "µs",
        "μs",
        "ms",
        "s",
        "m",
        "h",
        "d",
        "w",
        "nanosecond",
        "microsecond",
        "millisecond",
        "second",
        "sec",
        "minute",
        "min",
        "hour",
        "hr",
        "day",
        "week",
        "wk",
        "nano",
        "nanos",
        "nanoseconds",
        "micro",
        "micros",
        "microseconds",
        "milli",
        "millis",
        "milliseconds",
        "secs",
        "seconds",
        "mins",
        "minutes",
        "hours",
        "days",
        "weeks",
    ];
    while !rest.is_empty() {
        let number = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        if number == 0 || rest[..number].parse::<f64>().is_err() {
            return false;
        }
        rest = rest[number..].trim_start();
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace())
            .unwrap_or(rest.len());
        if !UNITS.contains(&&rest[..unit]) {
            return false;
        }
        rest = rest[unit..].trim_start();
    }
    true
}

/// Whether `text` is a Kubernetes quantity: a decimal number with a binary or
/// decimal suffix or a decimal exponent.
pub(super) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let dots = number.matches('.').count();
    if number.len() == dots || dots > 1 {
        return false;
    }
    const SUFFIXES: &[&str] = &[
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    SUFFIXES.contains(&suffix)
        || suffix
            .strip_prefix(['e', 'E'])
            .is_some_and(|exponent| exponent.parse::<i8>().is_ok())
}
