//! Times as PostgreSQL's settings are written.

use std::time::Duration;

/// A time in PostgreSQL's units, and milliseconds without one (manual, "Parameter Names and Values"); none
/// when it makes no sense, or is zero.
pub fn duration(value: &str) -> Option<Duration> {
    let digits = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let seconds = match unit.trim() {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let time = number.parse::<f64>().ok()? * seconds;
    let time = Duration::try_from_secs_f64(time).ok()?;
    (!time.is_zero()).then_some(time)
}

/// Whether two values of a setting that is a time come to the same, however each is written.
pub fn same(one: &str, other: &str) -> bool {
    one == other || duration(one).is_some_and(|one| duration(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_in_any_unit() {
        for (one, other, expected) in [
            ("90s", "90000", true),
            ("1min", "60s", true),
            ("0", "0", true),
            ("0", "1ms", false),
            ("1ms", "1s", false),
            ("nonsense", "neither", false),
        ] {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
    }
}
