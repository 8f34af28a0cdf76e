//! Quantities of resources, `500m`, `1Gi`, as exact numbers.

use std::cmp::Ordering;
use std::fmt;

/// How a quantity was written, which is how its sum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    /// `k`, `M`, `m`.
    Decimal,
    /// `Ki`, `Mi`.
    Binary,
}

/// A quantity: a number of billionths, as fine as Kubernetes' are.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

const NANOS: i128 = 1_000_000_000;
/// Longest text that is read.
const LONGEST: usize = 64;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        notation: Notation::Decimal,
    };

    /// Reads a quantity; none where it is no such text. Fractions below a
    /// billionth are rounded up.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (factor, divisor, notation) = factor(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let above = digits.checked_mul(NANOS)?.checked_mul(factor)?;
        let below = scale.checked_mul(divisor)?;
        let nanos = above / below + i128::from(above % below != 0);
        Some(Self {
            nanos: if negative { -nanos } else { nanos },
            notation,
        })
    }

    /// The sum, in this one's notation; the largest there is where it is larger.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            notation: if self.nanos == 0 {
                other.notation
            } else {
                self.notation
            },
        }
    }

    /// The difference, in this one's notation.
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            notation: self.notation,
        }
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i64 {
        self.nanos.signum() as i64
    }

    /// The value, when it is a whole number that fits.
    pub fn integer(&self) -> Option<i64> {
        (self.nanos % NANOS == 0)
            .then(|| i64::try_from(self.nanos / NANOS).ok())
            .flatten()
    }

    /// The value, about.
    pub fn float(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }
}

/// What a suffix multiplies with, and divides by.
fn factor(suffix: &str) -> Option<(i128, i128, Notation)> {
    use Notation::{Binary, Decimal};
    let power = |base: i128, exponent: u32| base.pow(exponent);
    Some(match suffix {
        "" => (1, 1, Decimal),
        "n" => (1, power(1000, 3), Decimal),
        "u" => (1, power(1000, 2), Decimal),
        "m" => (1, 1000, Decimal),
        "k" => (1000, 1, Decimal),
        "M" => (power(1000, 2), 1, Decimal),
        "G" => (power(1000, 3), 1, Decimal),
        "T" => (power(1000, 4), 1, Decimal),
        "P" => (power(1000, 5), 1, Decimal),
        "E" => (power(1000, 6), 1, Decimal),
        "Ki" => (1024, 1, Binary),
        "Mi" => (power(1024, 2), 1, Binary),
        "Gi" => (power(1024, 3), 1, Binary),
        "Ti" => (power(1024, 4), 1, Binary),
        "Pi" => (power(1024, 5), 1, Binary),
        "Ei" => (power(1024, 6), 1, Binary),
        exponent => {
            let number: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(number.unsigned_abs())?;
            if number < 0 {
                (1, power, Decimal)
            } else {
                (power, 1, Decimal)
            }
        }
    })
}

impl From<i64> for Quantity {
    fn from(number: i64) -> Self {
        Self {
            nanos: i128::from(number) * NANOS,
            notation: Notation::Decimal,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Kubernetes' canonical form: the largest suffix without a fraction.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANOS;
        if self.notation == Notation::Binary && self.nanos % NANOS == 0 && whole.abs() >= 1024 {
            let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let mut number = whole;
            let mut at = 0;
            while number % 1024 == 0 && at + 1 < suffixes.len() {
                number /= 1024;
                at += 1;
            }
            return write!(f, "{number}{}", suffixes[at]);
        }
        let suffixes = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut number = self.nanos;
        let mut at = 0;
        while number % 1000 == 0 && at + 1 < suffixes.len() {
            number /= 1000;
            at += 1;
        }
        write!(f, "{number}{}", suffixes[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(texts: &[&str]) -> String {
        texts
            .iter()
            .map(|text| Quantity::parse(text).expect("a quantity"))
            .fold(Quantity::ZERO, |total, next| total.plus(&next))
            .to_string()
    }

    #[test]
    fn quantities_add_up_as_in_kubernetes() {
        assert_eq!(sum(&["500m", "1"]), "1500m");
        assert_eq!(sum(&["252Mi", "4Mi"]), "256Mi");
        assert_eq!(sum(&["512Mi", "512Mi"]), "1Gi");
        assert_eq!(sum(&["1Gi", "1"]), "1073741825");
        assert_eq!(sum(&["0.5", "0.5"]), "1");
        assert_eq!(sum(&["1e3", "2k"]), "3k");
        assert_eq!(sum(&["100Ki", "-100Ki"]), "0");
        assert_eq!(sum(&["1", "1", "1"]), "3");
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in [
            "", "x", "1x", "1.1.1", ".", "1 ", "--1", "1e", "1KiB", "9e99",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
        assert_eq!(Quantity::parse("1024Ki"), Quantity::parse("1Mi"));
        assert!(Quantity::parse("999m") < Quantity::parse("1"));
    }
}
