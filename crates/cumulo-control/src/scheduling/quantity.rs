//! Kubernetes quantities as numbers.

/// A quantity's value in thousandths of its unit; `None` when it is not one.
/// Negative amounts, which no resource has, count as none.
pub(crate) fn milli(text: &str) -> Option<u128> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(index, c)| !(c.is_ascii_digit() || *c == '.' || (*index == 0 && *c == '+')))
        .map_or(text.len(), |(index, _)| index);
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            10f64.powi(exponent.parse().ok()?)
        }
    };
    let value = number * factor * 1000.0;
    // Rounded up, as Kubernetes does with what is finer than it keeps.
    (value.is_finite() && value >= 0.0).then(|| (value - 1e-6).ceil().max(0.0) as u128)
}

/// Thousandths of cores as a person reads them.
pub(crate) fn show_cpu(milli: u128) -> String {
    if milli.is_multiple_of(1000) {
        format!("{} cpu", milli / 1000)
    } else {
        format!(
            "{}.{} cpu",
            milli / 1000,
            format!("{:03}", milli % 1000).trim_end_matches('0')
        )
    }
}

/// Thousandths of bytes as a person reads them.
pub(crate) fn show_bytes(milli: u128) -> String {
    let mebibytes = milli as f64 / 1000.0 / 1024f64.powi(2);
    if mebibytes >= 1024.0 {
        format!("{:.1} GiB memory", mebibytes / 1024.0)
    } else {
        format!("{mebibytes:.0} MiB memory")
    }
}
