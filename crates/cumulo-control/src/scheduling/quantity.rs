//! Kubernetes quantities as whole numbers, and numbers as a person reads them.

/// Billionths in one unit.
pub(crate) const UNIT: i128 = 1_000_000_000;

/// A quantity's value in billionths of its unit; `None` when it is not one.
/// Exact: what is finer than a billionth is rounded up, as Kubernetes does.
pub(crate) fn nano(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    // The digits as one number, and how many tens it must be divided by.
    let mut digits: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    let mut tens = 9 - i32::try_from(fraction.len()).ok()?;
    let mut binary = 0u32;
    match suffix {
        "" => {}
        "n" => tens -= 9,
        "u" => tens -= 6,
        "m" => tens -= 3,
        "k" => tens += 3,
        "M" => tens += 6,
        "G" => tens += 9,
        "T" => tens += 12,
        "P" => tens += 15,
        "E" => tens += 18,
        "Ki" => binary = 1,
        "Mi" => binary = 2,
        "Gi" => binary = 3,
        "Ti" => binary = 4,
        "Pi" => binary = 5,
        "Ei" => binary = 6,
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            tens = tens.checked_add(exponent)?;
        }
    }
    let mut value = digits.checked_mul(1024i128.checked_pow(binary)?)?;
    if tens >= 0 {
        let factor = 10i128.checked_pow(u32::try_from(tens).ok()?);
        value = if value == 0 {
            0
        } else {
            value.checked_mul(factor?)?
        };
    } else {
        value = match 10i128.checked_pow(tens.unsigned_abs()) {
            Some(factor) => value / factor + i128::from(value % factor != 0),
            None => i128::from(value != 0),
        };
    }
    Some(if negative { -value } else { value })
}

/// Billionths in parts of `parts` to the unit, rounded up; negative amounts,
/// which no resource has, are none.
fn parts_up(text: &str, parts: i128) -> Option<u64> {
    let value = nano(text)?;
    let size = UNIT / parts;
    u64::try_from(value / size + i128::from(value % size > 0)).ok()
}

/// Whether a resource is counted in thousandths.
fn divided(resource: &str) -> bool {
    resource == "cpu" || resource == super::dra::gpu::DRIVER
}

/// What a container asks of a resource: thousandths of a core for `cpu`, whole
/// units otherwise, rounded up.
pub(crate) fn asked(resource: &str, text: &str) -> Option<u64> {
    parts_up(text, if divided(resource) { 1000 } else { 1 })
}

/// What a node has of a resource, in the units of [`asked`], rounded down.
pub(crate) fn offered(resource: &str, text: &str) -> Option<u64> {
    let size = if divided(resource) { UNIT / 1000 } else { UNIT };
    u64::try_from(nano(text)? / size).ok()
}

/// An amount in billionths as Kubernetes spells it, binary where that is exact.
pub(crate) fn canonical(nano: i128) -> String {
    if nano % UNIT != 0 {
        return if nano % (UNIT / 1000) == 0 {
            format!("{}m", nano / (UNIT / 1000))
        } else {
            format!("{nano}n")
        };
    }
    let mut amount = nano / UNIT;
    for suffix in ["", "Ki", "Mi", "Gi", "Ti", "Pi"] {
        if amount == 0 || amount % 1024 != 0 || suffix == "Pi" {
            return format!("{amount}{suffix}");
        }
        amount /= 1024;
    }
    amount.to_string()
}

/// An amount of a resource as a person reads it.
pub(crate) fn show(resource: &str, amount: u64) -> String {
    match resource {
        "cpu" if amount.is_multiple_of(1000) => format!("{} cpu", amount / 1000),
        "cpu" => format!(
            "{}.{} cpu",
            amount / 1000,
            format!("{:03}", amount % 1000).trim_end_matches('0')
        ),
        "memory" | "ephemeral-storage" if amount >= 1 << 30 => {
            format!("{:.1} GiB {resource}", amount as f64 / 1024f64.powi(3))
        }
        "memory" | "ephemeral-storage" => {
            format!("{:.0} MiB {resource}", amount as f64 / 1024f64.powi(2))
        }
        _ if divided(resource) => format!("{} {resource}", amount as f64 / 1000.0),
        _ => format!("{amount} {resource}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_exact() {
        for (text, value) in [
            ("1", UNIT),
            ("500m", UNIT / 2),
            ("1.5", 3 * UNIT / 2),
            (".5", UNIT / 2),
            ("1Ki", 1024 * UNIT),
            ("1.5Gi", (1536 << 20) * UNIT),
            ("1e3", 1000 * UNIT),
            ("12E", 12_000_000_000_000_000_000 * UNIT),
            ("1n", 1),
            ("0.1n", 1),
            ("-2", -2 * UNIT),
            ("0", 0),
        ] {
            assert_eq!(nano(text), Some(value), "{text}");
        }
        for bad in ["", "x", "1Zi", "1 Gi", "1..2", ".", "1e", "9e99", "--1"] {
            assert_eq!(nano(bad), None, "{bad}");
        }
        assert_eq!(asked("cpu", "100u"), Some(1));
        assert_eq!(asked("memory", "1500m"), Some(2));
        assert_eq!(offered("memory", "1500m"), Some(1));
        assert_eq!(asked("cpu", "-1"), None);
        assert_eq!(canonical(nano("80Gi").unwrap()), "80Gi");
        assert_eq!(canonical(nano("0.25").unwrap()), "250m");
    }

    proptest! {
        #[test]
        fn what_is_spelled_is_read_again(amount in 0i128..i128::from(u64::MAX) * 1000) {
            prop_assert_eq!(nano(&canonical(amount)), Some(amount));
        }
    }
}
