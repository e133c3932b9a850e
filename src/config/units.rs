//! Quantities with their units: `100ms`, `16MB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const MICROSECONDS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

// PostgreSQL's own units: powers of two under decimal names.
const BYTES: [(&str, u64); 5] = [
    ("B", 1),
    ("kB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("TB", 1 << 40),
];

pub(super) const fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

pub(super) const HOUR: Duration = minutes(60);
pub(super) const DAY: Duration = minutes(24 * 60);
pub(super) const WEEK: Duration = minutes(7 * 24 * 60);

/// A length of time as it is written in the configuration: `0.5ms`, `100ms`, `2s`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes as it is written in the configuration: `512kB`, `16MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The text is not a number with a known unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not a length of time.
    #[error("must be a number with one of the units us, ms, s, m, h, d, such as 100ms")]
    Span,
    /// Not a number of bytes.
    #[error("must be a number with one of the units B, kB, MB, GB, TB, such as 16MB")]
    Bytes,
}

impl FromStr for Span {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let micros = quantity(text, &MICROSECONDS).ok_or(InvalidQuantity::Span)?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        quantity(text, &BYTES)
            .map(Self)
            .ok_or(InvalidQuantity::Bytes)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        write_quantity(f, micros, &MICROSECONDS)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0, &BYTES)
    }
}

/// The number of smallest units; `0` needs no unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return (number == "0").then_some(0);
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let parts = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = u128::from(fraction.parse::<u64>().ok()?) * u128::from(*scale);
    if fraction % u128::from(parts) != 0 {
        return None;
    }
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(*scale)?
        .checked_add(u64::try_from(fraction / u128::from(parts)).ok()?)
}

/// In the largest unit that needs no fraction.
fn write_quantity(f: &mut fmt::Formatter<'_>, count: u64, units: &[(&str, u64)]) -> fmt::Result {
    match units
        .iter()
        .rev()
        .find(|(_, scale)| count > 0 && count.is_multiple_of(*scale))
    {
        Some((name, scale)) => write!(f, "{}{name}", count / scale),
        None => f.write_str("0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        for (text, micros, shown) in [
            ("100us", 100, "100us"),
            ("0.5ms", 500, "500us"),
            ("100 ms", 100_000, "100ms"),
            ("2s", 2_000_000, "2s"),
            ("1.5s", 1_500_000, "1500ms"),
            ("60s", 60_000_000, "1m"),
            ("1d", 86_400_000_000, "1d"),
            ("0", 0, "0"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span(Duration::from_micros(micros)), "{text}");
            assert_eq!(span.to_string(), shown);
        }
        assert_eq!("16MB".parse(), Ok(Bytes(16 << 20)));
        assert_eq!("0.5kB".parse(), Ok(Bytes(512)));
        assert_eq!(Bytes(16 << 20).to_string(), "16MB");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "5",
            "ms",
            ".5s",
            "5.s",
            "-1s",
            "1e3s",
            "1.1.1s",
            "5 minutes",
            "0.5us",
            "1M",
            "99999999999999999999s",
            "999999999999999d",
            "1.0000000001s",
            "٣s",
        ] {
            assert_eq!(text.parse::<Span>(), Err(InvalidQuantity::Span), "{text}");
        }
        for text in ["16", "16mb", "0.3B", "16777216TB"] {
            assert_eq!(text.parse::<Bytes>(), Err(InvalidQuantity::Bytes), "{text}");
        }
    }
}
