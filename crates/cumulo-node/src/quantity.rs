//! Kubernetes quantities (`500m`, `1.5Gi`, `2e3`) as numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths of its unit, rounded up; `None` when it is not a
/// quantity or does not fit.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    parse(&quantity.0)
}

/// A quantity in whole units, rounded up: bytes for memory.
pub fn whole(quantity: &Quantity) -> Option<u64> {
    u64::try_from(ceiling_division(milli(quantity)?, 1000)).ok()
}

fn ceiling_division(value: i128, divisor: i128) -> i128 {
    let quotient = value.div_euclid(divisor);
    quotient + i128::from(value.rem_euclid(divisor) != 0)
}

fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text
        .find(|character: char| !matches!(character, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    // Numerator and denominator of the suffix, in thousandths.
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (10i128.pow(9), 1),
        "G" => (10i128.pow(12), 1),
        "T" => (10i128.pow(15), 1),
        "P" => (10i128.pow(18), 1),
        "E" => (10i128.pow(21), 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => (1000 * 10i128.pow(exponent.unsigned_abs()), 1),
                -18..=-1 => (1000, 10i128.pow(exponent.unsigned_abs())),
                _ => return None,
            }
        }
    };
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 18 || (integer.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: i128 = format!("{integer}{fraction}").parse().ok()?;
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(ceiling_division(
        digits.checked_mul(numerator)?,
        denominator.checked_mul(scale)?,
    ))
}

/// Bytes as a person reads them: `512Mi`, `1.5Gi`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    for (suffix, unit) in UNITS {
        if bytes >= unit {
            let tenths = bytes.saturating_mul(10).saturating_add(unit / 2) / unit;
            return if tenths.is_multiple_of(10) {
                format!("{}{suffix}", tenths / 10)
            } else {
                format!("{}.{}{suffix}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("2e3", Some(2_000_000)),
            ("1E", Some(10i128.pow(21))),
            ("5e-3", Some(5)),
            ("1n", Some(1)),
            (".5", Some(500)),
            ("", None),
            ("Gi", None),
            ("1Xi", None),
            ("1e99", None),
        ] {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_shown_short() {
        assert_eq!(show_bytes(512 << 20), "512Mi");
        assert_eq!(show_bytes(3 << 29), "1.5Gi");
        assert_eq!(show_bytes(100), "100 bytes");
    }
}
